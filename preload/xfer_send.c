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

// A send that is under way.
struct sending {
    struct spans from;
    ssize_t sent;
    struct waiting waiting;
    int flags;
};

static int wait_for_room(struct sock *sock, int fd, struct sending *call)
{
    atomic_fetch_add_explicit(&sock->tx_blocked, 1, memory_order_seq_cst);
    xfer_count(&sock->session.end->tx_full);
    if (xfer_nonblocking(sock, call->flags))
        return -EAGAIN;
    return xfer_wait(sock, fd, WAIT_WRITE, 0, &call->waiting, call->sent != 0);
}

// Each of the steps of a send returns 0, to go on if there is more to send, or the -errno that ends the call.

static int send_step_by_tcp(struct sock *sock, int fd, struct sending *call)
{
    int interrupted = xfer_wait_over(sock, WAIT_WRITE, &call->waiting, call->sent != 0);
    if (interrupted)
        return interrupted;
    ssize_t n = send_by_kernel(sock, fd, &call->from, call->flags);
    call->sent += n > 0 ? n : 0;
    return n >= 0 || n == CHANGED_WAY ? 0 : (int)n;
}

static int put_and_wait(struct sock *sock, int fd, struct sending *call)
{
    ssize_t n = put(sock, fd, &call->from);
    call->sent += n > 0 ? n : 0;
    if (n < 0 && n != NOTHING_YET)
        return n == CHANGED_WAY ? 0 : (int)n;
    return call->from.count ? wait_for_room(sock, fd, call) : 0;
}

// ... or this one, if the kernel has nothing to say.
#define NOTHING_SAID 1

static int hear_kernel(struct sock *sock, int fd, struct sending *call)
{
    if (call->sent)
        return -EPIPE; // the next call shall hear it
    int interrupted = xfer_wait_over(sock, WAIT_WRITE, &call->waiting, false);
    if (interrupted)
        return interrupted;
    struct iovec none = {NULL, 0};
    struct spans nothing = spans_of(&none, 1);
    ssize_t n = ask_kernel(sock, fd, call->from.count ? &call->from : &nothing, call->flags);
    if (n < 0)
        return (int)n;
    spans_skip(&call->from, (size_t)n);
    call->sent += n;
    return n || !call->from.count ? 0 : NOTHING_SAID;
}

static int send_step_by_ring(struct sock *sock, int fd, struct sending *call)
{
    if (xfer_broken(sock))
        return -ECONNRESET;
    if (__builtin_expect(leave_tx_due(sock, fd), 0) && leave_tx(sock, fd))
        return 0;
    if (__builtin_expect(leave_tx_under_way(sock), 0)) {
        tcp_seen(sock, fd); // or its news would be found at every look
        return atomic_load(&sock->session.end->tx_shut) ? (int)broken_pipe(call->flags) : wait_for_room(sock, fd, call);
    }
    if (__builtin_expect(kernel_must_say(sock, fd), 0)) {
        int said = hear_kernel(sock, fd, call);
        if (said != NOTHING_SAID)
            return said;
    }
    return put_and_wait(sock, fd, call);
}

ssize_t xfer_send(struct sock *sock, int fd, struct spans from, int flags)
{
    if (flags & MSG_OOB)
        return xfer_fail(EOPNOTSUPP);
    spans_skip_empty(&from);
    struct sending call = {.from = from, .flags = flags};
    if (!xfer_sends_by_tcp(sock) && xfer_count(&sock->session.end->tx_calls) % CALLS_BETWEEN_LOOKS == 0)
        agent_link_look();
    agent_link_pace(sock, spans_left(&from));
    int result;
    do {
        result = __builtin_expect(xfer_sends_by_tcp(sock), 0) ? send_step_by_tcp(sock, fd, &call)
                                                              : send_step_by_ring(sock, fd, &call);
    } while (call.from.count && result == 0);
    wait_done(&call.waiting);
    return call.sent || result == 0 ? call.sent : xfer_fail(-result);
}

// Returns what there was to fill: bytes, 0 if the ring is full, or -errno of the ring's. What came of it is in *filled.
static ssize_t fill_place(struct sock *sock, size_t most, ssize_t (*fill)(void *source, void *place, size_t size),
                          void *source, ssize_t *filled)
{
    bool locked;
    uint64_t tail;
    void *place;
    enter_producing(sock, &locked);
    ssize_t n = ring_reserve(&sock->session.tx, &tail, &place);
    *filled = n > 0 ? fill(source, place, (size_t)n < most ? (size_t)n : most) : 0;
    if (*filled > 0 && !ring_commit(&sock->session.tx, tail, (size_t)*filled))
        *filled = -EAGAIN;
    leave_producing(sock, locked);
    return n;
}

static ssize_t fill_ring(struct sock *sock, int fd, struct sending *call, size_t most,
                         ssize_t (*fill)(void *source, void *place, size_t size), void *source)
{
    for (;;) {
        if (xfer_sends_by_tcp(sock))
            return XFER_BY_TCP;
        if (xfer_broken(sock))
            return xfer_fail(ECONNRESET);
        if (leave_tx_due(sock, fd) && leave_tx(sock, fd))
            return XFER_BY_TCP;
        if (!leave_tx_under_way(sock)) {
            if (kernel_must_say(sock, fd))
                return atomic_load(&sock->session.end->tx_shut) ? xfer_fail((int)-broken_pipe(call->flags))
                                                                : XFER_ASK_KERNEL;
            // The source may have to be waited for, too.
            int interrupted = xfer_wait_over(sock, WAIT_WRITE, &call->waiting, false);
            if (interrupted)
                return xfer_fail(-interrupted);
            ssize_t filled, n = fill_place(sock, most, fill, source, &filled);
            if (n > 0) {
                wake_consumer(sock);
                return filled < 0 ? xfer_fail((int)-filled) : filled;
            }
            ssize_t failed = n < 0 ? put_failed(sock, fd, n) : 0;
            if (failed == NOTHING_YET)
                continue;
            if (failed)
                return failed == CHANGED_WAY ? XFER_BY_TCP : xfer_fail(ECONNRESET);
        } else {
            tcp_seen(sock, fd);
        }
        int result = wait_for_room(sock, fd, call);
        if (result < 0)
            return xfer_fail(-result);
    }
}

ssize_t xfer_fill(struct sock *sock, int fd, int flags, size_t most,
                  ssize_t (*fill)(void *source, void *place, size_t size), void *source)
{
    struct sending call = {.flags = flags};
    ssize_t filled = fill_ring(sock, fd, &call, most, fill, source);
    int saved = errno;
    wait_done(&call.waiting);
    errno = saved;
    return filled;
}
