// What agent/fabric.h promises, tried between two sides in one process and a peer in another.
//
//   fabric ADDRESS           with a device that has this address
//   fabric --without-device  on a host that has none
//   fabric --peer ADDRESS PORT   what is killed in one of the cases
//
// With FABRIC_REMOVE and FABRIC_ADD, commands that take the device away and bring it back, that is tried, too.

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fabric/rig.h"

#define ROUNDS     2000
#define RECONNECTS 1000

static const char *program, *host_name;

// Connecting.

static void connects_and_says_who(void **state)
{
    struct pair pair;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    assert_true(strlen(fabric_device_name(pair.a.conn)) > 0);
    side_expect_no_event(&pair.a);
    side_expect_no_event(&pair.b);
    pair_close(&pair);
}

static void connects_from_an_address(void **state)
{
    struct pair pair;
    struct fabric_conn *conn;
    struct fabric_event event;
    struct address from, remote;

    pair_open(&pair, NULL);
    from = pair.at;
    assert_int_equal(fabric_connect(pair.a.fabric, &from, &pair.at, NULL, 0, NULL, &conn), 0);
    event = side_event(&pair.b, FABRIC_INCOMING);
    remote = event.remote;
    remote.port = from.port;
    assert_memory_equal(&remote, &from, sizeof(from));
    assert_int_equal(event.private_size, 0);
    fabric_reject(event.conn);
    fabric_close(conn);
    pair_close(&pair);
}

static void refuses(void **state)
{
    struct pair pair;
    struct fabric_conn *conn;
    struct fabric_event event;

    pair_open(&pair, NULL);
    assert_int_equal(fabric_connect(pair.a.fabric, NULL, &pair.at, NULL, 0, &pair, &conn), 0);
    event = side_event(&pair.b, FABRIC_INCOMING);
    fabric_reject(event.conn);
    event = side_event(&pair.a, FABRIC_REFUSED);
    assert_ptr_equal(event.conn, conn);
    assert_ptr_equal(event.data, &pair);
    assert_true(event.error < 0);
    fabric_close(conn);
    side_expect_no_event(&pair.b);
    pair_close(&pair);
}

static void finds_nobody(void **state)
{
    struct pair pair;
    struct fabric_conn *conn;
    struct address nobody;

    pair_open(&pair, NULL);
    nobody = rig_address();
    assert_int_equal(fabric_connect(pair.a.fabric, NULL, &nobody, NULL, 0, NULL, &conn), 0);
    assert_true(side_event(&pair.a, FABRIC_REFUSED).error < 0);
    fabric_close(conn);
    pair_close(&pair);
}

static void listens_once_at_an_address(void **state)
{
    struct pair pair;

    pair_open(&pair, NULL);
    assert_int_equal(fabric_listen(pair.a.fabric, &pair.at), -EADDRINUSE);
    pair_close(&pair);
}

static void tells_the_other_side_of_closing(void **state)
{
    struct pair pair;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    assert_int_equal(fabric_post_message(pair.a.conn, "bye", 3), 0);
    side_completion(&pair.b, FABRIC_MESSAGE);
    side_close(&pair.a);
    assert_true(side_event(&pair.b, FABRIC_GONE).error < 0);
    side_completion(&pair.b, FABRIC_FAILED);
    assert_int_equal(fabric_post_message(pair.b.conn, "?", 1), -EPIPE);
    side_expect_no_event(&pair.b);
    pair_close(&pair);
}

static void wakes_for_a_closed_connection(void **state)
{
    struct pair pair;
    struct pollfd readable;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    fabric_arm(pair.b.fabric);
    side_close(&pair.a);
    side_event(&pair.b, FABRIC_GONE);
    readable = (struct pollfd){.fd = fabric_completion_fd(pair.b.fabric), .events = POLLIN};
    assert_int_equal(poll(&readable, 1, 5000), 1);
    side_completion(&pair.b, FABRIC_FAILED);
    pair_close(&pair);
}

// Writing.

static void check_written(const struct pair *pair, size_t offset, size_t size)
{
    assert_memory_equal(pair->b.buffer + offset, pair->a.source_buffer + offset, size);
}

static void try_write(struct pair *pair, size_t offset, size_t size, size_t split)
{
    static uint64_t cursor = 0x123456789a;
    struct fabric_write write = rig_write(&pair->a, &pair->b, offset, size, split, ++cursor);

    memset(pair->b.buffer, 0, BUFFER_SIZE);
    side_post(&pair->a, &write);
    assert_int_equal(side_completion(&pair->b, FABRIC_WRITTEN).immediate, (uint32_t)cursor);
    assert_int_equal(side_cursor(&pair->b), cursor);
    check_written(pair, offset, size);
    if (offset)
        assert_int_equal(pair->b.buffer[offset - 1], 0);
    assert_int_equal(pair->b.buffer[offset + size], 0);
}

static void writes_data_and_cursor(void **state)
{
    static const size_t sizes[] = {0, 1, 8, 64, 191, 192, 193, 1024, 4096, 4097, 65000};
    struct pair pair;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        try_write(&pair, 0, sizes[i], 0);
        try_write(&pair, 3, sizes[i], sizes[i] / 2);
    }
    pair_close(&pair);
}

static void writes_without_inline_data(void **state)
{
    struct fabric_options options = {.inline_most = 1};
    struct pair pair;

    pair_open(&pair, &options);
    pair_connect(&pair);
    for (size_t i = 0; i < 200; i++)
        try_write(&pair, i, i + 1, i / 3);
    pair_close(&pair);
}

static void keeps_messages_behind_writes(void **state)
{
    struct pair pair;
    struct fabric_completion completion;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        struct fabric_write write = rig_write(&pair.a, &pair.b, i % 1000, i % 3000, i % 3000 / 5, i);

        memset(pair.b.buffer, 0, 5000);
        side_post(&pair.a, &write);
        while (fabric_post_message(pair.a.conn, &i, sizeof(i)) == -EAGAIN)
            side_completion(&pair.a, FABRIC_ROOM);
        assert_int_equal(side_completion(&pair.b, FABRIC_WRITTEN).immediate, i);
        completion = side_completion(&pair.b, FABRIC_MESSAGE);
        assert_int_equal(completion.size, sizeof(i));
        assert_memory_equal(completion.message, &i, sizeof(i));
        check_written(&pair, i % 1000, i % 3000);
    }
    pair_close(&pair);
}

static void carries_messages_of_any_size(void **state)
{
    unsigned char message[FABRIC_MESSAGE_MAX];
    struct pair pair;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    for (size_t size = 1; size <= FABRIC_MESSAGE_MAX; size += size < 300 ? 7 : 53) {
        struct fabric_completion completion;

        memset(message, (int)size, sizeof(message));
        while (fabric_post_message(pair.b.conn, message, size) == -EAGAIN)
            side_completion(&pair.b, FABRIC_ROOM);
        completion = side_completion(&pair.a, FABRIC_MESSAGE);
        assert_int_equal(completion.size, size);
        assert_memory_equal(completion.message, message, size);
    }
    pair_close(&pair);
}

static void keeps_what_comes_before_the_start(void **state)
{
    struct pair pair;

    pair_open(&pair, NULL);
    pair_connect_another(&pair, &pair.a.conn, &pair.b.conn);
    fabric_start(pair.a.conn, &pair.a);
    for (int i = 0; i < 10; i++)
        assert_int_equal(fabric_post_message(pair.a.conn, &i, sizeof(i)), 0);
    usleep(20000);
    fabric_start(pair.b.conn, &pair.b);
    for (int i = 0; i < 10; i++)
        assert_memory_equal(side_completion(&pair.b, FABRIC_MESSAGE).message, &i, sizeof(i));
    pair_close(&pair);
}

// Room.

static void says_when_there_is_room(void **state)
{
    struct fabric_options options = {.queue_depth = 8};
    struct pair pair;
    struct fabric_completion completion;
    uint64_t posted = 0, seen = 0;

    pair_open(&pair, &options);
    pair_connect(&pair);
    for (int round = 0; round < 100; round++) {
        int result;

        // Only the refused post itself is sure to be refused: by the next one there may be room again.
        do {
            struct fabric_write write = rig_write(&pair.a, &pair.b, 0, 4096, 0, posted + 1);
            result = fabric_post_write(pair.a.conn, &write);
            if (result == 0)
                posted++;
        } while (result == 0);
        assert_int_equal(result, -EAGAIN);
        side_completion(&pair.a, FABRIC_ROOM);
        while (side_has_completion(&pair.b, &completion))
            assert_int_equal(completion.immediate, ++seen);
    }
    assert_true(posted >= 100);
    while (seen < posted)
        assert_int_equal(side_completion(&pair.b, FABRIC_WRITTEN).immediate, ++seen);
    pair_close(&pair);
}

// The receiver does not come by: everything waits, nothing fails.
static void bears_a_slow_receiver(void **state)
{
    struct fabric_options options = {.queue_depth = 16};
    struct pair pair;
    int posted = 0, result;

    pair_open(&pair, &options);
    pair_connect(&pair);
    for (int i = 0; i < 300; i++) {
        struct fabric_completion completion;

        result = fabric_post_message(pair.a.conn, &posted, sizeof(posted));
        if (result == 0)
            posted++;
        else
            assert_int_equal(result, -EAGAIN);
        if (side_has_completion(&pair.a, &completion))
            assert_int_equal(completion.type, FABRIC_ROOM);
        usleep(100);
    }
    assert_true(posted >= 16);
    for (int i = 0; i < posted; i++)
        assert_memory_equal(side_completion(&pair.b, FABRIC_MESSAGE).message, &i, sizeof(i));
    pair_close(&pair);
}

// Sleeping.

static bool is_readable(const struct side *side, int ms)
{
    struct pollfd readable = {.fd = fabric_completion_fd(side->fabric), .events = POLLIN};

    return poll(&readable, 1, ms) == 1;
}

static void wakes_sleepers(void **state)
{
    struct pair pair;
    struct fabric_completion completion;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    for (uint64_t i = 1; i <= 100; i++) {
        struct fabric_write write = rig_write(&pair.a, &pair.b, 0, 10, 0, i);

        fabric_arm(pair.b.fabric);
        assert_false(side_has_completion(&pair.b, &completion));
        assert_false(is_readable(&pair.b, 0));
        side_post(&pair.a, &write);
        assert_true(is_readable(&pair.b, 5000));
        assert_int_equal(side_completion(&pair.b, FABRIC_WRITTEN).immediate, i);
    }
    pair_close(&pair);
}

// What comes between looking and arming is seen by looking once more.
static void loses_no_wakeup(void **state)
{
    struct pair pair;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    for (uint64_t i = 1; i <= 100; i++) {
        struct fabric_write write = rig_write(&pair.a, &pair.b, 0, 10, 0, i);
        struct fabric_completion completion;
        bool found;

        side_post(&pair.a, &write);
        fabric_arm(pair.b.fabric);
        found = side_has_completion(&pair.b, &completion);
        if (!found) {
            assert_true(is_readable(&pair.b, 5000));
            completion = side_completion(&pair.b, FABRIC_WRITTEN);
        }
        assert_int_equal(completion.immediate, i);
    }
    pair_close(&pair);
}

// Keys.

static void expect_refused_write(struct pair *pair, const struct fabric_write *write)
{
    assert_int_equal(fabric_post_write(pair->a.conn, write), 0);
    side_completion(&pair->a, FABRIC_FAILED);
    assert_true(side_event(&pair->a, FABRIC_GONE).error < 0);
    assert_int_equal(fabric_post_write(pair->a.conn, write), -EPIPE);
    for (size_t i = 0; i < BUFFER_SIZE; i++)
        assert_int_equal(pair->b.buffer[i], 0);
}

static void refuses_a_wrong_key(void **state)
{
    struct pair pair;
    struct fabric_write write;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    write = rig_write(&pair.a, &pair.b, 0, 64, 0, 1);
    write.remote_key ^= 0x5a5a00;
    expect_refused_write(&pair, &write);
    pair_close(&pair);
}

static void takes_no_more_than_it_says(void **state)
{
    static const unsigned char message[FABRIC_MESSAGE_MAX + 1];
    struct fabric_write write;
    struct pair pair;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    for (unsigned span = 0; span < 2; span++) {
        write = rig_write(&pair.a, &pair.b, 0, 16, 8, 1);
        write.span[span].size = FABRIC_SPAN_MOST + 1;
        assert_int_equal(fabric_post_write(pair.a.conn, &write), -EINVAL);
    }
    write.spans = 3;
    assert_int_equal(fabric_post_write(pair.a.conn, &write), -EINVAL);
    assert_int_equal(fabric_post_message(pair.a.conn, message, 0), -EINVAL);
    assert_int_equal(fabric_post_message(pair.a.conn, message, sizeof(message)), -EINVAL);
    try_write(&pair, 0, 64, 0);
    pair_close(&pair);
}

static void refuses_what_lies_outside(void **state)
{
    struct pair pair;
    struct fabric_write write;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    write = rig_write(&pair.a, &pair.b, 0, 0, 0, 1);
    write.cursor_to = fabric_memory_address(pair.b.target) + BUFFER_SIZE - 4;
    expect_refused_write(&pair, &write);
    pair_close(&pair);
}

static void refuses_to_write_to_a_source(void **state)
{
    struct pair pair;
    struct fabric_write write;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    write = rig_write(&pair.a, &pair.b, 0, 0, 0, 1);
    write.remote_key = fabric_memory_key(pair.b.source);
    write.cursor_to = fabric_memory_address(pair.b.source);
    expect_refused_write(&pair, &write);
    pair_close(&pair);
}

static void refuses_a_key_that_was_given_back(void **state)
{
    struct pair pair;
    struct fabric_write write;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    write = rig_write(&pair.a, &pair.b, 0, 64, 0, 1);
    fabric_unregister(pair.b.target);
    pair.b.target = NULL;
    expect_refused_write(&pair, &write);
    pair_close(&pair);
}

static void refuses_the_key_of_another_connection(void **state)
{
    struct pair pair;
    struct fabric_conn *a, *b;
    struct fabric_memory *other;
    struct fabric_write write;

    pair_open(&pair, NULL);
    pair_connect(&pair);
    pair_connect_another(&pair, &a, &b);
    assert_int_equal(fabric_register(b, pair.b.buffer, BUFFER_SIZE, true, &other), 0);
    write = rig_write(&pair.a, &pair.b, 0, 64, 0, 1);
    write.remote_key = fabric_memory_key(other);
    expect_refused_write(&pair, &write);
    fabric_close(a);
    fabric_close(b);
    fabric_unregister(other);
    pair_close(&pair);
}

// Ends, in every order.

static void closes_while_connecting(void **state)
{
    struct pair pair;
    struct fabric_conn *conn;
    struct fabric_event event;

    pair_open(&pair, NULL);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(fabric_connect(pair.a.fabric, NULL, &pair.at, NULL, 0, NULL, &conn), 0);
        for (int j = 0; j < i; j++) {
            if (side_has_event(&pair.a, &event))
                assert_int_equal(event.type, FABRIC_REFUSED);
            usleep(300);
        }
        fabric_close(conn);
    }
    // What has come through meanwhile.
    usleep(50000);
    while (side_has_event(&pair.b, &event)) {
        if (event.type == FABRIC_INCOMING)
            fabric_close(event.conn);
    }
    pair_close(&pair);
}

static void closes_what_is_not_ready(void **state)
{
    struct pair pair;
    struct fabric_conn *conn;
    struct fabric_event event;

    pair_open(&pair, NULL);
    assert_int_equal(fabric_connect(pair.a.fabric, NULL, &pair.at, NULL, 0, NULL, &conn), 0);
    event = side_event(&pair.b, FABRIC_INCOMING);
    assert_int_equal(fabric_accept(event.conn, NULL), 0);
    fabric_close(event.conn);
    while (side_has_event(&pair.a, &event))
        assert_in_range(event.type, FABRIC_READY, FABRIC_GONE);
    fabric_close(conn);
    pair_close(&pair);
}

static void closes_memory_and_connections_in_any_order(void **state)
{
    for (int order = 0; order < 8; order++) {
        struct pair pair;
        struct fabric_write write;

        pair_open(&pair, NULL);
        pair_connect(&pair);
        write = rig_write(&pair.a, &pair.b, 0, 60000, 0, 1);
        for (int i = 0; i < 20; i++)
            assert_int_equal(fabric_post_write(pair.a.conn, &write), 0);
        if (order & 1) {
            fabric_unregister(pair.b.target);
            pair.b.target = NULL;
        }
        if (order & 2) {
            fabric_unregister(pair.a.source);
            pair.a.source = NULL;
        }
        side_close(order & 4 ? &pair.a : &pair.b);
        pair_close(&pair);
    }
}

static unsigned count_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static unsigned long locked_and_resident_kb(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long value, sum = 0;

    assert_non_null(status);
    while (fgets(line, sizeof(line), status)) {
        if (sscanf(line, "VmRSS: %lu", &value) == 1 || sscanf(line, "VmPin: %lu", &value) == 1)
            sum += value;
    }
    fclose(status);
    return sum;
}

// What sanitizers remember of memory that was freed grows, too.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLACK_KB 65536
#else
#define SLACK_KB 1024
#endif

static void connects_and_closes_without_leak(void **state)
{
    const char *count = getenv("FABRIC_RECONNECTS");
    int rounds = count ? atoi(count) : RECONNECTS;
    struct pair pair;
    unsigned descriptors = 0;
    unsigned long memory = 0;

    pair_open(&pair, NULL);
    for (int i = 0; i < rounds; i++) {
        pair_connect(&pair);
        assert_int_equal(fabric_post_message(pair.a.conn, "one", 3), 0);
        side_completion(&pair.b, FABRIC_MESSAGE);
        side_close(i % 2 ? &pair.a : &pair.b);
        side_event(i % 2 ? &pair.b : &pair.a, FABRIC_GONE);
        side_close(i % 2 ? &pair.b : &pair.a);
        if (i == rounds / 10) {
            descriptors = count_descriptors();
            memory = locked_and_resident_kb();
        }
    }
    assert_int_equal(count_descriptors(), descriptors);
    assert_in_range(locked_and_resident_kb(), 0, memory + SLACK_KB);
    pair_close(&pair);
}

// Peers that die.

static void be_a_peer(const char *port)
{
    struct address at = rig_address();
    struct fabric *fabric;
    struct fabric_event event;

    at.port = (uint16_t)atoi(port);
    if (fabric_open(&fabric, NULL) < 0 || fabric_listen(fabric, &at) < 0)
        exit(1);
    if (write(STDOUT_FILENO, "\n", 1) != 1)
        exit(1);
    alarm(60);
    for (;;) {
        fabric_next_event(fabric, &event);
        if (event.type == FABRIC_INCOMING)
            fabric_accept(event.conn, NULL);
        else if (event.type == FABRIC_GONE)
            fabric_close(event.conn);
        usleep(1000);
    }
}

static pid_t start_peer(const struct address *at)
{
    char port[16], ready;
    int out[2];
    pid_t peer;

    snprintf(port, sizeof(port), "%u", at->port);
    assert_int_equal(pipe(out), 0);
    peer = fork();
    if (peer == 0) {
        dup2(out[1], STDOUT_FILENO);
        execl(program, program, "--peer", host_name, port, NULL);
        _exit(127);
    }
    close(out[1]);
    assert_int_equal(read(out[0], &ready, 1), 1);
    close(out[0]);
    return peer;
}

// Connects to a peer of its own.
static pid_t open_with_peer(struct pair *pair)
{
    pid_t peer;

    pair_open_deaf(pair, NULL);
    peer = start_peer(&pair->at);
    assert_int_equal(fabric_connect(pair->a.fabric, NULL, &pair->at, NULL, 0, NULL, &pair->a.conn), 0);
    side_event(&pair->a, FABRIC_READY);
    fabric_start(pair->a.conn, &pair->a);
    assert_int_equal(fabric_post_message(pair->a.conn, "hello", 5), 0);
    return peer;
}

static void end_peer(pid_t peer)
{
    kill(peer, SIGKILL);
    assert_int_equal(waitpid(peer, NULL, 0), peer);
}

static void notices_a_killed_peer(void **state)
{
    struct pair pair;
    pid_t peer = open_with_peer(&pair);

    end_peer(peer);
    assert_true(side_event(&pair.a, FABRIC_GONE).error < 0);
    side_completion(&pair.a, FABRIC_FAILED);
    pair_close(&pair);
}

// Devices.

static void lists_devices(void **state)
{
    struct fabric_device devices[8];
    struct fabric *fabric;
    int count;

    assert_int_equal(fabric_open(&fabric, NULL), 0);
    count = fabric_list_devices(fabric, devices, 8);
    assert_in_range(count, 1, 8);
    assert_string_equal(devices[0].state, "active");
    // The simulated device has none of its own.
    if (strcmp(devices[0].name, "sim0") != 0)
        assert_non_null(strstr(devices[0].addresses, host_name));
    assert_int_equal(fabric_list_devices(fabric, NULL, 0), count);
    fabric_free(fabric);
}

static pid_t begin_command(const char *command)
{
    pid_t child = fork();

    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    assert_true(child > 0);
    return child;
}

static void end_command(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

// The kernel takes the device away only when nobody uses it any more.
static void bears_the_loss_of_the_device(void **state)
{
    const char *take = getenv("FABRIC_REMOVE"), *bring = getenv("FABRIC_ADD");
    struct pair pair;
    struct fabric_conn *conn;
    struct fabric_event event;
    pid_t command, peer;

    if (!take || !bring)
        skip();
    peer = open_with_peer(&pair);
    command = begin_command(take);
    event = side_event(&pair.a, FABRIC_GONE);
    assert_int_equal(event.error, -ENODEV);
    side_completion(&pair.a, FABRIC_FAILED);
    side_close(&pair.a);
    end_command(command);
    if (fabric_connect(pair.a.fabric, NULL, &pair.at, NULL, 0, NULL, &conn) == 0) {
        while (side_event_any(&pair.a).type != FABRIC_GONE)
            ;
        fabric_close(conn);
    }
    while (side_has_event(&pair.a, &event))
        assert_int_equal(event.type, FABRIC_DEVICES);
    end_command(begin_command(bring));
    side_event(&pair.a, FABRIC_DEVICES);
    end_peer(peer);
    pair_close(&pair);

    pair_open(&pair, NULL);
    pair_connect(&pair);
    pair_close(&pair);
}

static void does_without_a_device(void **state)
{
    struct address at = {.ip = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}, .port = 1};
    struct fabric *fabric;
    struct fabric_conn *conn;
    struct fabric_event event;
    struct fabric_completion completion;

    assert_int_equal(fabric_open(&fabric, NULL), 0);
    assert_int_equal(fabric_list_devices(fabric, NULL, 0), 0);
    assert_int_equal(fabric_listen(fabric, &at), -ENODEV);
    assert_int_equal(fabric_connect(fabric, NULL, &at, NULL, 0, NULL, &conn), -ENODEV);
    fabric_next_event(fabric, &event);
    assert_int_equal(event.type, FABRIC_NOTHING);
    assert_int_equal(fabric_arm(fabric), 0);
    assert_int_equal(fabric_poll(fabric, &completion, 1), 0);
    fabric_free(fabric);
}

static const struct CMUnitTest with_device[] = {
    cmocka_unit_test(connects_and_says_who),
    cmocka_unit_test(connects_from_an_address),
    cmocka_unit_test(refuses),
    cmocka_unit_test(finds_nobody),
    cmocka_unit_test(listens_once_at_an_address),
    cmocka_unit_test(tells_the_other_side_of_closing),
    cmocka_unit_test(wakes_for_a_closed_connection),
    cmocka_unit_test(writes_data_and_cursor),
    cmocka_unit_test(writes_without_inline_data),
    cmocka_unit_test(keeps_messages_behind_writes),
    cmocka_unit_test(carries_messages_of_any_size),
    cmocka_unit_test(keeps_what_comes_before_the_start),
    cmocka_unit_test(says_when_there_is_room),
    cmocka_unit_test(bears_a_slow_receiver),
    cmocka_unit_test(wakes_sleepers),
    cmocka_unit_test(loses_no_wakeup),
    cmocka_unit_test(takes_no_more_than_it_says),
    cmocka_unit_test(refuses_a_wrong_key),
    cmocka_unit_test(refuses_what_lies_outside),
    cmocka_unit_test(refuses_to_write_to_a_source),
    cmocka_unit_test(refuses_a_key_that_was_given_back),
    cmocka_unit_test(refuses_the_key_of_another_connection),
    cmocka_unit_test(closes_while_connecting),
    cmocka_unit_test(closes_what_is_not_ready),
    cmocka_unit_test(closes_memory_and_connections_in_any_order),
    cmocka_unit_test(connects_and_closes_without_leak),
    cmocka_unit_test(notices_a_killed_peer),
    cmocka_unit_test(lists_devices),
    cmocka_unit_test(bears_the_loss_of_the_device),
};

static const struct CMUnitTest without_device[] = {
    cmocka_unit_test(does_without_a_device),
};

int main(int argc, char **argv)
{
    program = argv[0];
    if (argc == 2 && strcmp(argv[1], "--without-device") == 0)
        return cmocka_run_group_tests(without_device, NULL, NULL);
    if (argc != 2 && !(argc == 4 && strcmp(argv[1], "--peer") == 0)) {
        fprintf(stderr, "usage: fabric ADDRESS | --without-device\n");
        return 2;
    }
    host_name = argv[argc == 2 ? 1 : 2];
    rig_set_host(host_name);
    if (argc == 4)
        be_a_peer(argv[3]);
    if (getenv("FABRIC_ONLY"))
        cmocka_set_test_filter(getenv("FABRIC_ONLY"));
    return cmocka_run_group_tests(with_device, NULL, NULL);
}
