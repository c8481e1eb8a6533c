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

static uint64_t timeout_for(const struct sock *sock, enum wait_for what)
{
    return atomic_load_explicit(what == WAIT_READ ? &sock->share->receive_timeout : &sock->share->send_timeout,
                                memory_order_relaxed);
}

int xfer_wait(struct sock *sock, int fd, enum wait_for what, uint64_t least, struct waiting *waiting, bool part)
{
    uint64_t timeout = timeout_for(sock, what);
    if (timeout && !waiting->deadline)
        waiting->deadline = nest_now() + timeout;
    return wait_ring(sock, fd, what, least, waiting, timeout != 0 || part);
}

int xfer_wait_over(struct sock *sock, enum wait_for what, struct waiting *waiting, bool part)
{
    return wait_over(waiting, timeout_for(sock, what) != 0 || part);
}

void xfer_ring_peer_bell(struct sock *sock)
{
    uint64_t one = 1;
    sys_write(sock->session.peer_bell, &one, sizeof one);
    xfer_count(&sock->session.end->bells);
}
