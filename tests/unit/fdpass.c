// Packets with descriptors: they arrive whole, close-on-exec, and never leave one behind.

#include <stdarg.h>
#include <setjmp.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/fdpass.h"
#include "core/layout.h"

static unsigned open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

struct fixture {
    int pair[2];
    int fds[WIRE_FDS_MAX]; // one file each, to be sent
    unsigned before;       // descriptors open at the start of the test
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));

    assert_non_null(fixture);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fixture->pair), 0);
    for (int i = 0; i < WIRE_FDS_MAX; i++)
        assert_true((fixture->fds[i] = eventfd((unsigned)i, 0)) >= 0);
    fixture->before = open_descriptors();
    *state = fixture;
    return 0;
}

// Each test must leave as many descriptors open as it found, its own socket pair aside.
static int teardown(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(open_descriptors(), fixture->before);
    close(fixture->pair[0]);
    close(fixture->pair[1]);
    for (int i = 0; i < WIRE_FDS_MAX; i++)
        close(fixture->fds[i]);
    free(fixture);
    return 0;
}

static void make_attach(union wire_message *message)
{
    wire_begin(message, WIRE_ATTACH);
    message->attach.token = 0x0123456789abcdefULL;
    message->attach.session = 7;
    message->attach.ring_bytes = RING_BYTES_MIN;
    message->attach.transport = TRANSPORT_SHM;
}

static void close_fds(const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(close(fds[i]), 0);
}

// Sends a packet as it stands, without the care that fdpass_send takes.
static void send_raw(int sock, const void *packet, size_t size, const int *fds, unsigned count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * 64)];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)packet, .iov_len = size};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};

    if (count > 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&header);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * count);
    }
    assert_int_equal(sendmsg(sock, &header, 0), size);
}

static int receive(struct fixture *fixture)
{
    union wire_message message;
    int fds[WIRE_FDS_MAX + 1];
    unsigned count = 99;

    fds[WIRE_FDS_MAX] = -42; // one past the end: must stay as it is
    int result = fdpass_recv(fixture->pair[1], &message, fds, &count);
    assert_int_equal(fds[WIRE_FDS_MAX], -42);
    if (result == 1)
        close_fds(fds, count);
    else
        assert_int_equal(count, 0);
    return result;
}

static void test_message_arrives_with_its_descriptors_in_order(void **state)
{
    struct fixture *fixture = *state;
    union wire_message sent, received;
    int fds[WIRE_FDS_MAX];
    unsigned count;

    make_attach(&sent);
    assert_int_equal(fdpass_send(fixture->pair[0], &sent, fixture->fds, WIRE_ATTACH_FDS), 0);
    assert_int_equal(fdpass_recv(fixture->pair[1], &received, fds, &count), 1);
    assert_int_equal(count, WIRE_ATTACH_FDS);
    assert_memory_equal(&sent.attach, &received.attach, sizeof(sent.attach));
    for (unsigned i = 0; i < count; i++) {
        uint64_t value;

        assert_int_equal(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
        assert_int_equal(fcntl(fds[i], F_SETFL, O_NONBLOCK), 0);
        // eventfd number 0 holds 0, which reads as "nothing yet".
        if (i == 0)
            assert_int_equal(read(fds[i], &value, sizeof(value)), -1);
        else
            assert_int_equal(read(fds[i], &value, sizeof(value)) == sizeof(value) ? value : 0, i);
    }
    close_fds(fds, count);
}

static void test_message_without_descriptors(void **state)
{
    struct fixture *fixture = *state;
    union wire_message message;

    wire_begin(&message, WIRE_HELLO);
    assert_int_equal(fdpass_send(fixture->pair[0], &message, NULL, 0), 0);
    assert_int_equal(receive(fixture), 1);
}

static void test_messages_keep_their_bounds(void **state)
{
    struct fixture *fixture = *state;
    union wire_message message;
    int fds[WIRE_FDS_MAX];
    unsigned count;

    wire_begin(&message, WIRE_HELLO);
    assert_int_equal(fdpass_send(fixture->pair[0], &message, NULL, 0), 0);
    wire_begin(&message, WIRE_OFFER);
    assert_int_equal(fdpass_send(fixture->pair[0], &message, fixture->fds, 1), 0);
    assert_int_equal(fdpass_recv(fixture->pair[1], &message, fds, &count), 1);
    assert_int_equal(message.head.type, WIRE_HELLO);
    assert_int_equal(count, 0);
    assert_int_equal(fdpass_recv(fixture->pair[1], &message, fds, &count), 1);
    assert_int_equal(message.head.type, WIRE_OFFER);
    assert_int_equal(count, 1);
    close_fds(fds, count);
}

static void test_nothing_yet(void **state)
{
    assert_int_equal(receive(*state), 0);
}

static void test_end_of_stream(void **state)
{
    struct fixture *fixture = *state;
    union wire_message message;

    assert_int_equal(shutdown(fixture->pair[0], SHUT_WR), 0);
    assert_int_equal(receive(fixture), -EPIPE);
    assert_int_equal(shutdown(fixture->pair[1], SHUT_RD), 0);
    wire_begin(&message, WIRE_HELLO);
    assert_int_equal(fdpass_send(fixture->pair[0], &message, NULL, 0), -EPIPE);
}

static void test_full_queue(void **state)
{
    struct fixture *fixture = *state;
    union wire_message message;
    unsigned sent = 0;
    int result;

    wire_begin(&message, WIRE_COUNT);
    while ((result = fdpass_send(fixture->pair[0], &message, NULL, 0)) == 0)
        sent++;
    assert_int_equal(result, -EAGAIN);
    for (unsigned i = 0; i < sent; i++)
        assert_int_equal(receive(fixture), 1);
    assert_int_equal(receive(fixture), 0);
    assert_int_equal(fdpass_send(fixture->pair[0], &message, NULL, 0), 0);
    assert_int_equal(receive(fixture), 1);
}

static void test_not_a_socket(void **state)
{
    struct fixture *fixture = *state;
    union wire_message message;
    int fds[WIRE_FDS_MAX];
    unsigned count;

    wire_begin(&message, WIRE_HELLO);
    assert_int_equal(fdpass_send(fixture->fds[0], &message, NULL, 0), -ENOTSOCK);
    assert_int_equal(fdpass_recv(fixture->fds[0], &message, fds, &count), -ENOTSOCK);
    assert_int_equal(fdpass_recv(-1, &message, fds, &count), -EBADF);
}

static void test_too_many_to_send(void **state)
{
    struct fixture *fixture = *state;
    union wire_message message;
    int fds[WIRE_FDS_MAX + 1] = {0};

    make_attach(&message);
    assert_int_equal(fdpass_send(fixture->pair[0], &message, fds, WIRE_FDS_MAX + 1), -EINVAL);
    assert_int_equal(receive(fixture), 0);
}

static void test_wrong_number_of_descriptors(void **state)
{
    struct fixture *fixture = *state;
    union wire_message message;
    int many[64];

    for (int i = 0; i < 64; i++)
        many[i] = fixture->fds[i % WIRE_FDS_MAX];
    make_attach(&message);
    for (unsigned count = 0; count <= 64; count++) {
        send_raw(fixture->pair[0], &message, message.head.size, many, count);
        assert_int_equal(receive(fixture), count == WIRE_ATTACH_FDS ? 1 : -EPROTO);
        assert_int_equal(open_descriptors(), fixture->before);
    }
}

static void test_wrong_size(void **state)
{
    struct fixture *fixture = *state;
    char packet[sizeof(union wire_message) + 64] = {0};
    union wire_message message;

    wire_begin(&message, WIRE_OFFER);
    memcpy(packet, &message, sizeof(message));
    for (size_t size = 1; size <= sizeof(packet); size++) {
        send_raw(fixture->pair[0], packet, size, fixture->fds, 1);
        assert_int_equal(receive(fixture), size == sizeof(struct wire_offer) ? 1 : -EPROTO);
        assert_int_equal(open_descriptors(), fixture->before);
    }
}

// The largest message with a tail: the receiver sees a packet of the right size, and must notice that it was cut.
static void test_longer_than_any_message(void **state)
{
    struct fixture *fixture = *state;
    char packet[sizeof(union wire_message) + 1] = {0};
    union wire_message message;

    wire_begin(&message, WIRE_COUNT);
    assert_int_equal(message.head.size, sizeof(message));
    memcpy(packet, &message, sizeof(message));
    send_raw(fixture->pair[0], packet, sizeof(packet), NULL, 0);
    assert_int_equal(receive(fixture), -EPROTO);
}

// An empty packet looks like the end of the stream, unless it carries something.
static void test_empty_packet_with_a_descriptor(void **state)
{
    struct fixture *fixture = *state;

    send_raw(fixture->pair[0], "", 0, fixture->fds, 1);
    assert_int_equal(receive(fixture), -EPROTO);
}

static void test_credentials_are_not_expected(void **state)
{
    struct fixture *fixture = *state;
    union wire_message message;
    int on = 1;

    wire_begin(&message, WIRE_HELLO);
    assert_int_equal(setsockopt(fixture->pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
    assert_int_equal(fdpass_send(fixture->pair[0], &message, NULL, 0), 0);
    assert_int_equal(receive(fixture), -EPROTO);
}

static void test_no_descriptors_to_spare(void **state)
{
    struct fixture *fixture = *state;
    struct rlimit limit, low;
    union wire_message message;
    int highest = fixture->fds[WIRE_FDS_MAX - 1];

    make_attach(&message);
    assert_int_equal(fdpass_send(fixture->pair[0], &message, fixture->fds, WIRE_ATTACH_FDS), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = (rlim_t)highest + 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    int result = receive(fixture);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(result, -EMFILE);
    assert_int_equal(open_descriptors(), fixture->before);

    // The connection is of use as before.
    assert_int_equal(fdpass_send(fixture->pair[0], &message, fixture->fds, WIRE_ATTACH_FDS), 0);
    assert_int_equal(receive(fixture), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_message_arrives_with_its_descriptors_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_message_without_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_messages_keep_their_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_yet, setup, teardown),
        cmocka_unit_test_setup_teardown(test_end_of_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_queue, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_a_socket, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_to_send, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_number_of_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_size, setup, teardown),
        cmocka_unit_test_setup_teardown(test_longer_than_any_message, setup, teardown),
        cmocka_unit_test_setup_teardown(test_empty_packet_with_a_descriptor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_credentials_are_not_expected, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_descriptors_to_spare, setup, teardown),
    };
    return cmocka_run_group_tests_name("fdpass", tests, NULL, NULL);
}
