// Sending: into the ring, as long as the other end reads; what the kernel would say, where it does not; or by TCP again.

#include "preload/xfer_parts.h"

#include <signal.h>
#include <sys/socket.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/leave.h"
#include "preload/real.h"
#include "preload/session.h"
#include "preload/tcp.h"

// A program that never waits has the agent looked for all the same.
#define CALLS_BETWEEN_LOOKS 1024

static ssize_t send_by_kernel(struct sock *sock, int fd, struct spans *from, int flags)
{
    fd = sock_fd(sock, fd);
    int route = session_tx_enter(sock, fd);
    if (route != SESSION_KERNEL)
        return xfer_entry_result(route);
    struct iovec part[XFER_PART];
    struct msghdr message = xfer_part_of(from, part);
    ssize_t n = real.sendmsg(fd, &message, flags);
    int error = errno;
    session_tx_leave(sock, n);
    if (n > 0)
        spans_skip(from, (size_t)n);
    return n < 0 ? -error : n;
}

// An end that came without being announced is that of a process that was killed: nobody reads any more. Unless the end
// was our own doing, or the other side had ended its direction before it sent through the ring.
static bool peer_was_killed(const struct sock *sock, uint32_t seen)
{
    const struct session *session = &sock->session;
    return (seen & SEEN_END) && !tcp_end_announced(sock) && !session_is_far(sock) &&
           !atomic_load_explicit(&session->end->rx_shut, memory_order_relaxed) &&
           atomic_load_explicit(&session->rx.shared->switch_at, memory_order_acquire) != SWITCH_NOT_YET;
}

// What the kernel would say, where it cannot yet: its own shutdown follows what is in the ring.
static ssize_t broken_pipe(int flags)
{
    if (!(flags & MSG_NOSIGNAL))
        sys_call(SYS_tgkill, sys_call(SYS_getpid), sys_call(SYS_gettid), SIGPIPE);
    return -EPIPE;
}

// The other end is closed for good: what is sent now meets the kernel's fate of such data.
// Otherwise only the errors are asked for: sending no bytes says EPIPE, ECONNRESET, raises SIGPIPE.
static ssize_t ask_kernel(struct sock *sock, int fd, const struct spans *from, int flags)
{
    fd = sock_fd(sock, fd);
    bool nobody_reads = atomic_load_explicit(&sock->session.tx.shared->rx_closed, memory_order_acquire) ||
                        peer_was_killed(sock, tcp_seen(sock, fd));
    bool shut = atomic_load(&sock->session.end->tx_shut);
    size_t size = nobody_reads && !shut ? from->iov->iov_len - from->offset : 0;
    long n = sys_call(SYS_sendto, fd, (char *)from->iov->iov_base + from->offset, size,
                      (flags & (MSG_NOSIGNAL | MSG_DONTWAIT)) | (size ? 0 : MSG_DONTWAIT), NULL, 0);
    return n == 0 && shut ? broken_pipe(flags) : n;
}

static bool kernel_must_say(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    uint32_t seen = tcp_seen(sock, fd);
    if (seen && ((seen & SEEN_ERROR) || peer_was_killed(sock, seen)))
        return true;
    return atomic_load_explicit(&session->end->tx_shut, memory_order_relaxed) ||
           atomic_load_explicit(&session->tx.shared->rx_closed, memory_order_relaxed);
}

static void wake_consumer(struct sock *sock)
{
    uint32_t arm;
    if (ring_tx_wants_bell(&sock->session.tx, &arm)) {
        xfer_ring_peer_bell(sock);
        ring_tx_rang(&sock->session.tx, arm);
    }
}

// Threads and processes that share this end take turns; a lone one need not.
static bool enter_producing(struct sock *sock, bool *locked)
{
    *locked = !share_alone(sock->share) || (sock->flags & SOCK_INHERITED) || atomic_load(&sock->share->passed);
    if (*locked && !session_lock(sock->session.end->tx_lock))
        *locked = false; // a signal handler above the holder: see ring.h
    return *locked;
}

static void leave_producing(struct sock *sock, bool locked)
{
    if (locked)
        session_unlock(sock->session.end->tx_lock);
}

static ssize_t put_failed(struct sock *sock, int fd, ssize_t error)
{
    if (error == CHANGED_WAY) {
        // If only to go along with the holder who did it.
        return leave_tx(sock, fd) ? CHANGED_WAY : NOTHING_YET;
    }
    session_broken(sock);
    return -ECONNRESET;
}

// Puts in what fits, or says CHANGED_WAY.
static ssize_t put(struct sock *sock, int fd, struct spans *from)
{
    bool locked;
    ssize_t n, sent = 0;
    enter_producing(sock, &locked);
    atomic_store_explicit(&sock->session.tx.shared->cpu, proc_cpu(), memory_order_relaxed);
    while (from->count && (n = ring_put(&sock->session.tx, from)) != 0) {
        if (n < 0) {
            leave_producing(sock, locked);
            return sent ? sent : put_failed(sock, fd, n);
        }
        sent += n;
        wake_consumer(sock);
    }
    leave_producing(sock, locked);
    return sent;
}

static int wait_for_room(struct sock *sock, int fd, int flags, uint64_t *deadline, bool part)
{
    atomic_fetch_add_explicit(&sock->tx_blocked, 1, memory_order_seq_cst);
    xfer_count(&sock->session.end->tx_full);
    if (xfer_nonblocking(sock, flags))
        return -EAGAIN;
    return xfer_wait(sock, fd, WAIT_WRITE, 0, deadline, part);
}

ssize_t xfer_send(struct sock *sock, int fd, struct spans from, int flags)
{
    if (flags & MSG_OOB)
        return xfer_fail(EOPNOTSUPP);
    spans_skip_empty(&from);
    ssize_t sent = 0, result = 0;
    uint64_t deadline = 0;
    if (!xfer_sends_by_tcp(sock) && xfer_count(&sock->session.end->tx_calls) % CALLS_BETWEEN_LOOKS == 0)
        agent_link_look();
    agent_link_pace(sock, spans_left(&from));
    do {
        if (__builtin_expect(xfer_sends_by_tcp(sock), 0)) {
            result = send_by_kernel(sock, fd, &from, flags);
            sent += result > 0 ? result : 0;
            if (result == 0 || (result < 0 && result != CHANGED_WAY))
                break;
            result = 0;
            continue;
        }
        if (xfer_broken(sock)) {
            result = -ECONNRESET;
            break;
        }
        if (__builtin_expect(leave_tx_due(sock, fd), 0) && leave_tx(sock, fd))
            continue;
        if (__builtin_expect(leave_tx_under_way(sock), 0)) {
            result = atomic_load(&sock->session.end->tx_shut) ? broken_pipe(flags)
                                                              : wait_for_room(sock, fd, flags, &deadline, sent != 0);
            continue;
        }
        if (__builtin_expect(kernel_must_say(sock, fd), 0)) {
            if (sent)
                break; // the next call shall hear it
            struct iovec none = {NULL, 0};
            struct spans nothing = spans_of(&none, 1);
            result = ask_kernel(sock, fd, from.count ? &from : &nothing, flags);
            if (result < 0)
                break;
            spans_skip(&from, (size_t)result);
            sent += result;
            if (result || !from.count)
                continue;
        }
        result = put(sock, fd, &from);
        if (result == CHANGED_WAY) {
            result = 0;
            continue;
        }
        if (result < 0 && result != NOTHING_YET)
            break;
        sent += result > 0 ? result : 0;
        result = from.count ? wait_for_room(sock, fd, flags, &deadline, sent != 0) : 0;
    } while (from.count && result >= 0);
    return sent || result >= 0 ? sent : xfer_fail((int)-result);
}

ssize_t xfer_fill(struct sock *sock, int fd, int flags, size_t most,
                  ssize_t (*fill)(void *source, void *place, size_t size), void *source)
{
    uint64_t deadline = 0;
    for (;;) {
        if (xfer_sends_by_tcp(sock))
            return XFER_BY_TCP;
        if (xfer_broken(sock))
            return xfer_fail(ECONNRESET);
        if (leave_tx_due(sock, fd) && leave_tx(sock, fd))
            return XFER_BY_TCP;
        if (leave_tx_under_way(sock)) {
            int result = wait_for_room(sock, fd, flags, &deadline, false);
            if (result < 0)
                return xfer_fail(-result);
            continue;
        }
        if (kernel_must_say(sock, fd))
            return atomic_load(&sock->session.end->tx_shut) ? xfer_fail((int)-broken_pipe(flags)) : XFER_ASK_KERNEL;
        bool locked;
        enter_producing(sock, &locked);
        uint64_t tail;
        void *place;
        ssize_t n = ring_reserve(&sock->session.tx, &tail, &place);
        ssize_t filled = n > 0 ? fill(source, place, (size_t)n < most ? (size_t)n : most) : 0;
        bool committed = filled <= 0 || ring_commit(&sock->session.tx, tail, (size_t)filled);
        leave_producing(sock, locked);
        ssize_t failed = n < 0 ? put_failed(sock, fd, n) : 0;
        if (failed == CHANGED_WAY)
            return XFER_BY_TCP;
        if (failed == NOTHING_YET)
            continue;
        if (failed)
            return xfer_fail(ECONNRESET);
        if (n > 0) {
            wake_consumer(sock);
            return filled < 0 ? xfer_fail((int)-filled) : committed ? filled : xfer_fail(EAGAIN);
        }
        int result = wait_for_room(sock, fd, flags, &deadline, false);
        if (result < 0)
            return xfer_fail(-result);
    }
}
