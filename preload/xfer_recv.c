// Receiving: from TCP up to the switch, then from the ring, then the end of the stream; or by TCP again.

#include "preload/xfer_parts.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/leave.h"
#include "preload/real.h"
#include "preload/session.h"
#include "preload/tcp.h"

static ssize_t recv_by_kernel(struct sock *sock, int fd, struct spans *to, int flags)
{
    fd = sock_fd(sock, fd);
    int route = session_rx_enter(sock, fd);
    if (route != SESSION_KERNEL)
        return xfer_entry_result(route);
    struct iovec part[XFER_PART];
    struct msghdr message = xfer_part_of(to, part);
    ssize_t n = real.recvmsg(fd, &message, flags);
    int error = errno;
    session_rx_leave(sock, n);
    if (n > 0)
        spans_skip(to, (size_t)n);
    return n < 0 ? -error : n;
}

static ssize_t discard(struct sock *sock, struct spans *to)
{
    for (;;) {
        uint64_t head;
        const void *place;
        ssize_t n = ring_look(&sock->session.rx, &head, &place);
        if (n <= 0)
            return n;
        size_t left = spans_left(to);
        size_t step = (size_t)n < left ? (size_t)n : left;
        if (ring_consume(&sock->session.rx, head, step)) {
            spans_skip(to, step);
            return (ssize_t)step;
        }
    }
}

static void wake_producer(struct sock *sock)
{
    uint32_t arm;
    if (ring_rx_wants_bell(&sock->session.rx, &arm)) {
        xfer_ring_peer_bell(sock);
        ring_rx_rang(&sock->session.rx, arm);
    }
}

static ssize_t take_from_ring(struct sock *sock, struct spans *to, uint64_t skip, int flags)
{
    ssize_t n = (flags & MSG_TRUNC) && !(flags & MSG_PEEK)
                    ? discard(sock, to)
                    : ring_get(&sock->session.rx, to, skip, (flags & MSG_PEEK) != 0);
    if (n > 0 && !(flags & MSG_PEEK))
        wake_producer(sock);
    if (n < 0 && n != CHANGED_WAY) {
        session_broken(sock);
        return -ECONNRESET;
    }
    return n ? n : NOTHING_YET;
}

// The ring was found empty behind the end of TCP: does the stream go on all the same? Either what was in the ring comes by
// TCP, or more has come into it meanwhile, and TCP was not looked at for want of an empty ring (repeat_due, which is clear
// whenever the ring is found empty, see tcp_seen). Returns CHANGED_WAY then, 0 if it is the end, or -EINTR.
static int goes_on(struct sock *sock, int fd)
{
    int left = leave_rx_ended(sock, fd);
    if (left < 0)
        return left;
    return left || atomic_load(&sock->repeat_due) ? CHANGED_WAY : 0;
}

// The ring is empty and the kernel has reported an end. Bytes that were produced before it are seen by now: producing
// them came before the FIN. When they are gone too, it is the kernel's answer that counts.
static ssize_t take_end(struct sock *sock, int fd, struct spans *to, uint64_t skip, int flags)
{
    fd = sock_fd(sock, fd);
    if (ring_ready_fresh(&sock->session.rx) > (int64_t)skip)
        return take_from_ring(sock, to, skip, flags);
    // What TCP carries after the ring comes after the ring. And the ring may come by TCP, once more.
    if (ring_rx_left(&sock->session.rx))
        return NOTHING_YET;
    int on = goes_on(sock, fd);
    if (on)
        return on;
    char stray;
    long n = sys_call(SYS_recvfrom, fd, &stray, 1, MSG_DONTWAIT, NULL, NULL);
    // The other end had something in the ring, and did not live to send it again, or could not behind its own FIN.
    if (n == 0 && session_is_far(sock) && !tcp_end_announced(sock)) {
        session_broken(sock);
        return -ECONNRESET;
    }
    if (n <= 0)
        return n;
    // In ring mode nobody sends on the TCP connection; somebody without this library did.
    session_broken(sock);
    return -ECONNRESET;
}

static ssize_t kernel_receive(int fd, struct spans *to, int64_t most, int flags)
{
    struct iovec one = {(char *)to->iov->iov_base + to->offset, to->iov->iov_len - to->offset};
    if (most < (int64_t)one.iov_len)
        one.iov_len = (size_t)most;
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1};
    long n = sys_recvmsg(fd, &message, (flags & (MSG_PEEK | MSG_TRUNC)) | MSG_DONTWAIT);
    if (n > 0)
        spans_skip(to, (size_t)n);
    return n;
}

// Receives what surely was sent before a switch: no switch is known of after it is seen to be there. What the sender sends
// again after a switch must not be taken for it. CHANGED_WAY if there may be something else.
static ssize_t receive_before_switch(struct sock *sock, int fd, struct spans *to, int flags)
{
    int queued = 0;
    char first;
    sys_ioctl(fd, FIONREAD, &queued);
    if (atomic_load_explicit(&sock->session.rx.shared->switch_at, memory_order_seq_cst) != SWITCH_NOT_YET)
        return CHANGED_WAY;
    if (queued > 0)
        return kernel_receive(fd, to, queued, flags);
    long n = sys_call(SYS_recvfrom, fd, &first, 1, MSG_PEEK | MSG_DONTWAIT, NULL, NULL);
    return n > 0 ? CHANGED_WAY : n;
}

// The sender may not have switched yet: what it sent before lies in TCP, and comes first.
static ssize_t take_watching(struct sock *sock, int fd, struct spans *to, int flags, bool *in_ring)
{
    fd = sock_fd(sock, fd);
    *in_ring = false;
    for (;;) {
        int64_t left = session_rx_settle(sock, fd);
        if (left < 0)
            return (ssize_t)left;
        if (left == 0) {
            *in_ring = true;
            return 0;
        }
        atomic_store_explicit(&sock->tcp_event, 0, memory_order_relaxed);
        ssize_t n =
            left == SESSION_TCP_ALL ? receive_before_switch(sock, fd, to, flags) : kernel_receive(fd, to, left, flags);
        if (n == CHANGED_WAY)
            continue;
        if (n > 0)
            atomic_store_explicit(&sock->tcp_event, 1, memory_order_relaxed);
        // Nothing more in TCP, but meanwhile the sender has switched: then there may be something in the ring.
        // From another host that news may come behind the FIN, but comes before the end is announced.
        bool early = n == 0 && spans_left(to) && tcp_end_is_early(sock, SEEN_END);
        if (early)
            tcp_note(sock, SEEN_END);
        bool switched =
            atomic_load_explicit(&sock->session.rx.shared->switch_at, memory_order_acquire) != SWITCH_NOT_YET;
        if (n > 0 || left != SESSION_TCP_ALL || !switched)
            return early ? NOTHING_YET : n;
    }
}

// What was in the ring comes by TCP, once more.
static ssize_t take_repeated(struct sock *sock, int fd, struct spans *to, int flags)
{
    if (!session_lock(sock->session.end->rx_lock))
        return -EINTR;
    atomic_store_explicit(&sock->tcp_event, 0, memory_order_relaxed);
    int64_t rest = leave_rx_rest(sock, fd);
    ssize_t n = rest > 0 ? kernel_receive(sock_fd(sock, fd), to, rest, flags) : rest;
    if (n > 0)
        atomic_store_explicit(&sock->tcp_event, 1, memory_order_relaxed);
    session_unlock(sock->session.end->rx_lock);
    // What is to be left is not waited with (`there` in wait.c): it would be seen at every look.
    if (n == NOTHING_YET && leave_tx_due(sock, fd))
        leave_tx(sock, fd);
    if (rest > 0 && n == 0) {
        session_broken(sock); // the stream has ended in the midst of it
        return -ECONNRESET;
    }
    return rest ? n : CHANGED_WAY;
}

// With `have`, something was received in this call already, and an error of the kernel's is left for the next.
static ssize_t take(struct sock *sock, int fd, struct spans *to, uint64_t skip, int flags, bool have)
{
    if (__builtin_expect(atomic_load_explicit(&sock->rx_way, memory_order_acquire) == WAY_WATCH, 0)) {
        bool in_ring = true;
        if (!session_lock(sock->session.end->rx_lock))
            return -EINTR;
        ssize_t n = take_watching(sock, fd, to, flags, &in_ring);
        session_unlock(sock->session.end->rx_lock);
        if (!in_ring)
            return n;
        if (xfer_receives_by_tcp(sock))
            return CHANGED_WAY;
    }
    ssize_t n = take_from_ring(sock, to, skip, flags);
    if (__builtin_expect(n == CHANGED_WAY, 0))
        return take_repeated(sock, fd, to, flags);
    if (n != NOTHING_YET) {
        atomic_store_explicit(&sock->empty_reads, 0, memory_order_relaxed);
        return n;
    }
    if (__builtin_expect(leave_when_empty(sock, fd), 0))
        return CHANGED_WAY;
    uint32_t seen = tcp_seen(sock, fd);
    if (__builtin_expect(leave_rx_under_way(sock), 0))
        return CHANGED_WAY;
    if (!seen)
        return NOTHING_YET;
    if (have && ring_ready_fresh(&sock->session.rx) <= (int64_t)skip) {
        // What was peeked at lies in the ring, which is not empty then.
        int on = skip ? leave_rx_ended(sock, fd) : goes_on(sock, fd);
        return on > 0 || on == CHANGED_WAY ? CHANGED_WAY : 0;
    }
    return take_end(sock, fd, to, skip, flags);
}

// A program that reads without blocking, and without ever asking poll, would not learn of an end, nor that its agent is
// gone, or hangs: look now and then.
static void look_at_tcp_sometimes(struct sock *sock)
{
    uint8_t empty = (uint8_t)(atomic_load_explicit(&sock->empty_reads, memory_order_relaxed) + 1);
    atomic_store_explicit(&sock->empty_reads, empty, memory_order_relaxed);
    if (empty % 16)
        return;
    atomic_store_explicit(&sock->tcp_event, 1, memory_order_relaxed);
    agent_link_look();
}

static size_t least_wanted(const struct sock *sock, size_t want, int flags)
{
    size_t low = atomic_load_explicit(&sock->share->receive_low, memory_order_relaxed);
    return (flags & MSG_WAITALL) || low > want ? want : low;
}

// recv of no bytes waits until there would be some, or the end. Returns as xfer_recv, but -errno.
static ssize_t recv_nothing(struct sock *sock, int fd, int flags, struct waiting *waiting)
{
    int result = 0;
    while (result == 0 && !(xfer_events(sock, fd, POLLIN) & (POLLIN | POLLERR | POLLHUP))) {
        if (xfer_receives_by_tcp(sock)) {
            struct iovec none = {NULL, 0};
            struct spans nothing = spans_of(&none, 1);
            result = xfer_wait_over(sock, WAIT_READ, waiting, false);
            ssize_t n = result ? result : recv_by_kernel(sock, fd, &nothing, flags);
            if (n != CHANGED_WAY)
                return n;
        } else {
            result = xfer_nonblocking(sock, flags) ? -EAGAIN : xfer_wait(sock, fd, WAIT_READ, 1, waiting, false);
        }
    }
    return result;
}

static ssize_t recv_beside_stream(int fd, int flags)
{
    char none;
    long n = sys_call(SYS_recvfrom, fd, &none, 1, flags | MSG_DONTWAIT, NULL, NULL);
    return n < 0 ? xfer_fail((int)-n) : n;
}

// A receive that is under way.
struct receiving {
    struct spans to;
    size_t want, least, got;
    struct waiting waiting;
    int flags;
};

// What was peeked at in the ring is not peeked at again in TCP.
static bool is_enough(const struct sock *sock, const struct receiving *call, bool by_tcp)
{
    return (by_tcp && call->got >= call->least) ||
           (call->got && (call->flags & MSG_PEEK) && (by_tcp || leave_rx_under_way(sock)));
}

// TCP would show the same bytes again.
static bool peeks_once(struct sock *sock, const struct receiving *call, bool by_tcp)
{
    return (call->flags & MSG_PEEK) && (by_tcp || atomic_load(&sock->rx_way) == WAY_WATCH);
}

static ssize_t take_what_is_there(struct sock *sock, int fd, struct receiving *call, bool by_tcp)
{
    if (by_tcp) {
        int interrupted = xfer_wait_over(sock, WAIT_READ, &call->waiting, call->got != 0);
        return interrupted ? interrupted : recv_by_kernel(sock, fd, &call->to, call->flags);
    }
    if (xfer_broken(sock))
        return -ECONNRESET;
    return take(sock, fd, &call->to, call->flags & MSG_PEEK ? call->got : 0, call->flags, call->got != 0);
}

// What is peeked at stays, and more than fits, or than there will ever be in the ring, can never come.
static bool can_never_come(const struct sock *sock, const struct receiving *call)
{
    const struct ring_rx *ring = &sock->session.rx;
    return (call->flags & MSG_PEEK) &&
           (call->got >= ring->size / 2 ||
            (call->got && atomic_load_explicit(&ring->shared->left_at, memory_order_acquire) != SWITCH_NOT_YET));
}

static int wait_for_more(struct sock *sock, int fd, struct receiving *call)
{
    if (xfer_nonblocking(sock, call->flags)) {
        look_at_tcp_sometimes(sock);
        return -EAGAIN;
    }
    if (can_never_come(sock, call))
        return -EAGAIN;
    size_t least = call->flags & MSG_PEEK ? call->least : call->least - call->got;
    return xfer_wait(sock, fd, WAIT_READ, least, &call->waiting, call->got != 0);
}

ssize_t xfer_recv(struct sock *sock, int fd, struct spans to, int flags)
{
    if (flags & (MSG_OOB | MSG_ERRQUEUE))
        return recv_beside_stream(fd, flags);
    spans_skip_empty(&to);
    struct receiving call = {.to = to, .want = spans_left(&to), .flags = flags};
    call.least = least_wanted(sock, call.want, flags);
    if (!call.want) {
        ssize_t nothing = recv_nothing(sock, fd, flags, &call.waiting);
        wait_done(&call.waiting);
        return nothing < 0 ? xfer_fail((int)-nothing) : nothing;
    }
    if (!xfer_receives_by_tcp(sock))
        xfer_count(&sock->session.end->rx_calls);
    ssize_t result = 0;
    while (call.got < call.want) {
        bool by_tcp = xfer_receives_by_tcp(sock);
        if (is_enough(sock, &call, by_tcp))
            break;
        result = take_what_is_there(sock, fd, &call, by_tcp);
        if (result > 0) {
            call.got += (size_t)result;
            if (peeks_once(sock, &call, by_tcp))
                break;
        } else if (result != CHANGED_WAY) {
            if (by_tcp || result != NOTHING_YET || call.got >= call.least)
                break;
            result = wait_for_more(sock, fd, &call);
            if (result)
                break;
        }
    }
    wait_done(&call.waiting);
    return call.got || result == 0 ? (ssize_t)call.got : xfer_fail((int)-result);
}

ssize_t xfer_drain(struct sock *sock, int fd, int flags, size_t most,
                   ssize_t (*drain)(void *sink, const void *place, size_t size), void *sink)
{
    unsigned char copy[16384];
    // One copy more than needed, so that bytes are only taken that the sink has accepted.
    for (;;) {
        struct iovec one = {copy, most < sizeof copy ? most : sizeof copy};
        ssize_t n = xfer_recv(sock, fd, spans_of(&one, 1), (flags & ~MSG_WAITALL) | MSG_PEEK);
        if (n <= 0)
            return n;
        ssize_t drained = drain(sink, copy, (size_t)n);
        if (drained < 0)
            return xfer_fail((int)-drained);
        one.iov_len = (size_t)drained;
        return xfer_recv(sock, fd, spans_of(&one, 1), MSG_DONTWAIT | MSG_WAITALL);
    }
}
