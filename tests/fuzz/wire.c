// Messages between client and agent, as they come out of a socket: bytes, and descriptors that nobody asked for.
//
// The first byte of an input is the number of descriptors, the rest the packet. Whatever is refused leaves no descriptor
// open, and what is accepted is what its type promises.

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/fdpass.h"
#include "core/layout.h"
#include "core/wire.h"
#include "tests/fuzz/fuzz.h"

#define FDS_MOST 12

static int ends[2] = {-1, -1};
static int some_fd = -1;

static void open_once(void)
{
    if (some_fd >= 0)
        return;
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    some_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    MUST(some_fd >= 0);
}

// The lowest free number, by which a descriptor that was left open is noticed.
static int next_free(void)
{
    int fd = dup(some_fd);
    close(fd);
    return fd;
}

static bool send_packet(const uint8_t *data, size_t size, unsigned fds)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(FDS_MOST * sizeof(int))];
    } control = {.room = {0}};
    struct iovec bytes = {(void *)(uintptr_t)data, size};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (fds) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fds * sizeof(int));
        control.head = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(fds * sizeof(int))};
        for (unsigned i = 0; i < fds; i++)
            memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &some_fd, sizeof(int));
    }
    return sendmsg(ends[0], &message, MSG_DONTWAIT) == (ssize_t)size;
}

static void check_accepted(const union wire_message *message, size_t size, unsigned fds)
{
    MUST(message->head.size == size && size == wire_size(message->head.type));
    MUST(fds == wire_fds(message->head.type));
    if (message->head.type == WIRE_ATTACH) {
        uint64_t bytes = message->attach.ring_bytes;
        MUST(bytes >= RING_BYTES_MIN && bytes <= RING_BYTES_MAX && (bytes & (bytes - 1)) == 0);
        MUST(message->attach.side <= 1);
    }
    if (message->head.type == WIRE_WELCOME)
        MUST(message->welcome.slot < BOARD_SLOTS);
    if (message->head.type == WIRE_REFUSED)
        MUST(wire_reason_name(message->refused.reason));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    union wire_message message;
    int fds[WIRE_FDS_MAX];
    unsigned count = 0;

    open_once();
    if (size < 2 || !send_packet(data + 1, size - 1, data[0] % (FDS_MOST + 1)))
        return 0;
    int before = next_free();
    int result = fdpass_recv(ends[1], &message, fds, &count);
    if (result == 1) {
        check_accepted(&message, size - 1, count);
        for (unsigned i = 0; i < count; i++)
            close(fds[i]);
    }
    MUST(next_free() == before);
    MUST(fdpass_recv(ends[1], &message, fds, &count) != 1);
    return 0;
}
