// One packet, one message, all its descriptors: or nothing at all.

#include "core/fdpass.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "core/sys.h"

union control {
    struct cmsghdr header; // for its alignment
    char bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
};

static void close_all(const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        sys_close(fds[i]);
}

static void put_fds(struct msghdr *header, union control *control, const int *fds, unsigned count)
{
    memset(control, 0, sizeof(*control));
    header->msg_control = control->bytes;
    header->msg_controllen = CMSG_SPACE(sizeof(int) * count);

    struct cmsghdr *cmsg = CMSG_FIRSTHDR(header);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * count);
}

int fdpass_send(int sock, const union wire_message *message, const int *fds, unsigned count)
{
    struct iovec iov = {.iov_base = (void *)message, .iov_len = message->head.size};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
    union control control;
    long sent;

    if (count > WIRE_FDS_MAX)
        return -EINVAL;
    if (count > 0)
        put_fds(&header, &control, fds, count);
    do
        sent = sys_sendmsg(sock, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent == -EINTR);
    return sent < 0 ? (int)sent : 0;
}

// Takes the descriptors out of a received header. Returns how many there are; *foreign tells of anything else in it.
static unsigned take_fds(struct msghdr *header, int fds[static WIRE_FDS_MAX], bool *foreign)
{
    unsigned count = 0;

    *foreign = false;
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(header); cmsg; cmsg = CMSG_NXTHDR(header, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) {
            *foreign = true;
            continue;
        }
        // The control buffer has no room for more than WIRE_FDS_MAX, so this cannot overflow.
        unsigned found = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds + count, CMSG_DATA(cmsg), found * sizeof(int));
        count += found;
    }
    return count;
}

int fdpass_take(int sock, union wire_message *message, int fds[static WIRE_FDS_MAX], unsigned *count)
{
    union control control;
    struct iovec iov = {.iov_base = message, .iov_len = sizeof(*message)};
    // CMSG_LEN, not CMSG_SPACE: in the padding the kernel would find room for one more descriptor.
    struct msghdr header = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = CMSG_LEN(sizeof(int) * WIRE_FDS_MAX),
    };
    bool foreign;
    long size;

    *count = 0;
    do
        size = sys_recvmsg(sock, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (size == -EINTR);
    if (size == -EAGAIN)
        return 0;
    if (size < 0)
        return (int)size;

    *count = take_fds(&header, fds, &foreign);
    // Cut short although there was room: it is this process that could not take more descriptors, not the sender's
    // fault. The message is lost all the same.
    if ((header.msg_flags & MSG_CTRUNC) && *count < WIRE_FDS_MAX)
        return -EMFILE;
    if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || foreign)
        return -EPROTO;
    if (size == 0 && *count == 0)
        return -EPIPE;
    return wire_check(message, (size_t)size, *count) < 0 ? -EPROTO : 1;
}

int fdpass_recv(int sock, union wire_message *message, int fds[static WIRE_FDS_MAX], unsigned *count)
{
    int result = fdpass_take(sock, message, fds, count);

    if (result < 0) {
        close_all(fds, *count);
        *count = 0;
    }
    return result;
}
