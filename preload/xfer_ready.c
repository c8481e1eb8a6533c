// Readiness: what poll and ioctl say of a connection in a ring.

#include "preload/xfer_parts.h"

#include <poll.h>
#include <sys/ioctl.h>

#include "core/sys.h"
#include "preload/leave.h"
#include "preload/session.h"
#include "preload/tcp.h"

#define READ_EVENTS  (POLLIN | POLLRDNORM)
#define WRITE_EVENTS (POLLOUT | POLLWRNORM)

// An early end is nothing to be read.
static bool readable_in_tcp(struct sock *sock, int fd)
{
    int queued = 0;
    short events = tcp_events(fd, POLLIN | POLLRDHUP);
    if (!(events & POLLRDHUP) || (events & POLLERR) || !tcp_end_is_early(sock, SEEN_END))
        return events != 0;
    tcp_note(sock, SEEN_END);
    return sys_ioctl(fd, FIONREAD, &queued) == 0 && queued > 0;
}

static bool readable_while_watching(struct sock *sock, int fd)
{
    if (!session_trylock(sock->session.end->rx_lock))
        return readable_in_tcp(sock, fd); // a receive is at it; it will find out
    int64_t left = session_rx_settle(sock, fd);
    session_unlock(sock->session.end->rx_lock);
    return left < 0 || (left == 0 ? ring_ready_fresh(&sock->session.rx) > 0 : readable_in_tcp(sock, fd));
}

static bool readable_while_repeated(struct sock *sock, int fd)
{
    if (!session_trylock(sock->session.end->rx_lock))
        return tcp_events(fd, POLLIN) != 0;
    int64_t rest = leave_rx_rest(sock, fd);
    session_unlock(sock->session.end->rx_lock);
    return rest == -ECONNRESET || (rest != -EAGAIN && tcp_events(fd, POLLIN) != 0);
}

static bool readable(struct sock *sock, int fd)
{
    if (__builtin_expect(leave_rx_under_way(sock), 0))
        return readable_while_repeated(sock, fd);
    if (atomic_load_explicit(&sock->rx_way, memory_order_acquire) == WAY_WATCH && readable_while_watching(sock, fd))
        return true;
    if (atomic_load_explicit(&sock->rx_way, memory_order_acquire) != WAY_RING)
        return false;
    int64_t low = atomic_load_explicit(&sock->share->receive_low, memory_order_relaxed);
    low = low > (int64_t)sock->session.rx.size / 2 ? (int64_t)sock->session.rx.size / 2 : low;
    int64_t ready = low > 1 ? ring_ready_fresh(&sock->session.rx) : ring_ready(&sock->session.rx);
    return ready < 0 || ready >= low;
}

static bool writable(struct sock *sock)
{
    int64_t room = ring_room(&sock->session.tx);
    if (room == -ESTALE)
        return false; // it is being left
    return room < 0 || room >= (int64_t)ring_room_wanted(&sock->session.tx) ||
           atomic_load_explicit(&sock->session.end->tx_shut, memory_order_relaxed) ||
           atomic_load_explicit(&sock->session.tx.shared->rx_closed, memory_order_relaxed);
}

short xfer_events(struct sock *sock, int fd, short wanted)
{
    if (__builtin_expect(leave_due(sock, fd), 0))
        leave_mind(sock, fd);
    bool rx_tcp = xfer_receives_by_tcp(sock), tx_tcp = xfer_sends_by_tcp(sock);
    short events = 0;
    if (rx_tcp && tx_tcp)
        return tcp_events(fd, wanted);
    if (xfer_broken(sock))
        return (short)((wanted & (READ_EVENTS | WRITE_EVENTS)) | POLLERR);
    if (!rx_tcp && (wanted & READ_EVENTS) && readable(sock, fd))
        events |= wanted & READ_EVENTS;
    if (!tx_tcp && (wanted & WRITE_EVENTS) && writable(sock))
        events |= wanted & WRITE_EVENTS;
    uint32_t seen = tcp_seen(sock, fd);
    if (seen || rx_tcp || tx_tcp) {
        short from_tcp = (short)(POLLERR | POLLHUP | POLLRDHUP | POLLPRI | POLLNVAL);
        from_tcp |= rx_tcp || seen ? READ_EVENTS : 0;
        from_tcp |= tx_tcp ? WRITE_EVENTS : 0;
        events |= (short)(tcp_events(fd, wanted) & from_tcp);
    }
    return events;
}

int64_t xfer_readable(struct sock *sock, int fd)
{
    int64_t left = 0;
    if (atomic_load(&sock->rx_way) == WAY_WATCH) {
        if (!session_lock(sock->session.end->rx_lock))
            return -EINTR;
        left = session_rx_settle(sock, fd);
        session_unlock(sock->session.end->rx_lock);
    }
    if (left < 0)
        return left;
    bool in_ring = left == 0 && !xfer_receives_by_tcp(sock);
    int64_t ready = in_ring ? ring_ready_fresh(&sock->session.rx) : 0;
    if (in_ring && ready != -ESTALE && (ready || !leave_when_empty(sock, fd)))
        return ready;
    int queued = 0;
    int result = sys_ioctl(fd, FIONREAD, &queued);
    return result < 0 ? result : queued;
}

int64_t xfer_unread(struct sock *sock)
{
    const struct ring_tx *ring = &sock->session.tx;
    uint64_t used = (atomic_load_explicit(ring->tail, memory_order_relaxed) & ~RING_FROZEN) -
                    atomic_load_explicit(&ring->shared->head, memory_order_acquire);
    // The consumer tells an eighth of the ring at a time, and between hosts the agents a quarter.
    uint64_t untold = session_is_far(sock) ? ring->size * 3 / 8 : ring->size / 8;
    return used > ring->size || used < untold ? 0 : (int64_t)used;
}
