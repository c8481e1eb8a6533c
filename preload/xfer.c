#include "preload/xfer_parts.h"

#include "core/sys.h"
#include "preload/session.h"

ssize_t xfer_entry_result(int route)
{
    return route == SESSION_RING ? CHANGED_WAY : -errno;
}

struct msghdr xfer_part_of(const struct spans *spans, struct iovec part[static XFER_PART])
{
    size_t count = spans->count < XFER_PART ? spans->count : XFER_PART;
    for (size_t i = 0; i < count; i++) {
        size_t offset = i ? 0 : spans->offset;
        part[i] = (struct iovec){(char *)spans->iov[i].iov_base + offset, spans->iov[i].iov_len - offset};
    }
    return (struct msghdr){.msg_iov = part, .msg_iovlen = count};
}

int xfer_wait(struct sock *sock, int fd, enum wait_for what, uint64_t least, uint64_t *deadline, bool part)
{
    uint64_t timeout = atomic_load_explicit(
        what == WAIT_READ ? &sock->share->receive_timeout : &sock->share->send_timeout, memory_order_relaxed);
    if (timeout && !*deadline)
        *deadline = nest_now() + timeout;
    return wait_ring(sock, fd, what, least, *deadline, timeout != 0 || part);
}

void xfer_ring_peer_bell(struct sock *sock)
{
    uint64_t one = 1;
    sys_write(sock->session.peer_bell, &one, sizeof one);
    xfer_count(&sock->session.end->bells);
}
