#include "preload/xfer.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/leave.h"
#include "preload/real.h"
#include "preload/session.h"
#include "preload/wait.h"

static uint64_t count(_Atomic uint64_t *counter)
{
    uint64_t counted = atomic_load_explicit(counter, memory_order_relaxed) + 1;
    atomic_store_explicit(counter, counted, memory_order_relaxed);
    return counted;
}

// A program that never waits has the agent looked for all the same.
#define CALLS_BETWEEN_LOOKS 1024

static ssize_t fail(int error)
{
    errno = error;
    return -1;
}

static bool nonblocking(const struct sock *sock, int flags)
{
    return (flags & MSG_DONTWAIT) || atomic_load_explicit(&sock->share->nonblocking, memory_order_relaxed);
}

static uint64_t deadline_after(uint64_t timeout)
{
    return timeout ? nest_now() + timeout : 0;
}

// With a timeout, or a part of the bytes moved, any signal handler ends the call, as in the kernel.
static int wait_for(struct sock *sock, int fd, enum wait_for what, uint64_t least, uint64_t *deadline, bool part)
{
    uint64_t timeout = atomic_load_explicit(
        what == WAIT_READ ? &sock->share->receive_timeout : &sock->share->send_timeout, memory_order_relaxed);
    if (timeout && !*deadline)
        *deadline = deadline_after(timeout);
    return wait_ring(sock, fd, what, least, *deadline, timeout != 0 || part);
}

static void ring_peer_bell(struct sock *sock)
{
    uint64_t one = 1;
    sys_write(sock->session.peer_bell, &one, sizeof one);
    count(&sock->session.end->bells);
}

static bool broken(const struct sock *sock)
{
    return atomic_load_explicit(&sock->session.end->broken, memory_order_relaxed);
}

static bool receives_by_tcp(const struct sock *sock)
{
    return atomic_load_explicit(&sock->rx_way, memory_order_acquire) == WAY_TCP;
}

static bool sends_by_tcp(const struct sock *sock)
{
    return atomic_load_explicit(&sock->tx_way, memory_order_acquire) == WAY_TCP;
}

// --- by the kernel, where a direction went back to TCP in the middle of a call ---

// As many buffers as go into one call.
#define PART 64

static struct msghdr part_of(const struct spans *spans, struct iovec part[static PART])
{
    size_t count = spans->count < PART ? spans->count : PART;
    for (size_t i = 0; i < count; i++) {
        size_t offset = i ? 0 : spans->offset;
        part[i] = (struct iovec){(char *)spans->iov[i].iov_base + offset, spans->iov[i].iov_len - offset};
    }
    return (struct msghdr){.msg_iov = part, .msg_iovlen = count};
}

// Outcomes of one step besides a number of bytes: 0 is end of stream.
#define NOTHING_YET (-EAGAIN)
#define CHANGED_WAY (-ESTALE) // the direction went over to TCP, or to a ring: begin the step again

static ssize_t entry_result(int route)
{
    return route == SESSION_RING ? CHANGED_WAY : -errno;
}

static ssize_t recv_by_kernel(struct sock *sock, int fd, struct spans *to, int flags)
{
    fd = sock_fd(sock, fd);
    int route = session_rx_enter(sock, fd);
    if (route != SESSION_KERNEL)
        return entry_result(route);
    struct iovec part[PART];
    struct msghdr message = part_of(to, part);
    ssize_t n = real.recvmsg(fd, &message, flags);
    int error = errno;
    session_rx_leave(sock, n);
    if (n > 0)
        spans_skip(to, (size_t)n);
    return n < 0 ? -error : n;
}

static ssize_t send_by_kernel(struct sock *sock, int fd, struct spans *from, int flags)
{
    fd = sock_fd(sock, fd);
    int route = session_tx_enter(sock, fd);
    if (route != SESSION_KERNEL)
        return entry_result(route);
    struct iovec part[PART];
    struct msghdr message = part_of(from, part);
    ssize_t n = real.sendmsg(fd, &message, flags);
    int error = errno;
    session_tx_leave(sock, n);
    if (n > 0)
        spans_skip(from, (size_t)n);
    return n < 0 ? -error : n;
}

// --- what the TCP connection says ---

#define SEEN_END   1u // the other side's FIN
#define SEEN_ERROR 2u // an error, or both directions closed
#define SEEN_RESET 4u // an error

// Remembers it for all holders of this end. The agent asks the other host about an end that was not announced.
static uint32_t note_seen(struct sock *sock, uint32_t seen)
{
    if (!seen)
        return atomic_load_explicit(&sock->session.end->fin_seen, memory_order_relaxed);
    uint32_t before = atomic_fetch_or(&sock->session.end->fin_seen, seen);
    if (!before)
        session_tell_agent(sock);
    return before | seen;
}

// Asks the kernel without taking anything out of its hands, and remembers the answer for all holders of this end.
static uint32_t examine_tcp(struct sock *sock, int fd)
{
    fd = sock_fd(sock, fd);
    atomic_store_explicit(&sock->tcp_event, 0, memory_order_relaxed);
    struct pollfd polls[2] = {{.fd = fd, .events = POLLIN | POLLRDHUP},
                              {.fd = session_is_far(sock) ? sock->session.lifeline : -1}};
    struct timespec none = {0, 0};
    uint32_t seen = 0;
    if (sys_ppoll(polls, 2, &none) > 0) {
        if (polls[1].revents & POLLERR)
            leave_ask(sock, LEAVE_RESEND); // its agent is gone
        if ((polls[0].revents & POLLIN) && atomic_load(&sock->rx_way) == WAY_RING)
            leave_rx_repeated(sock, fd);
        seen |= polls[0].revents & (POLLRDHUP | POLLHUP) ? SEEN_END : 0;
        seen |= polls[0].revents & (POLLERR | POLLHUP | POLLNVAL) ? SEEN_END | SEEN_ERROR : 0;
        seen |= polls[0].revents & POLLERR ? SEEN_RESET : 0;
    }
    return note_seen(sock, seen);
}

// The other end says in the header when it is about to end its direction: then the FIN is there, or on its way.
static bool end_announced(const struct sock *sock)
{
    return atomic_load_explicit(&sock->session.rx.shared->tx_closed, memory_order_acquire) != CLOSED_NOT;
}

// Nothing will come from another host but by TCP.
static bool link_is_lost(const struct sock *sock)
{
    return ring_leave_wish(sock->session.rx.shared) == LEAVE_RESEND;
}

// From another host the FIN overtakes bytes that are still on their way to the ring. The agent announces the end behind
// the last of them: also that of a process that was killed.
static bool end_is_early(const struct sock *sock, uint32_t seen)
{
    return session_is_far(sock) && !link_is_lost(sock) && seen && !(seen & SEEN_RESET) && !end_announced(sock);
}

static uint32_t tcp_seen(struct sock *sock, int fd)
{
    if (__builtin_expect(atomic_load_explicit(&sock->repeat_due, memory_order_relaxed), 0) &&
        ring_ready_fresh(&sock->session.rx) <= 0) {
        atomic_store(&sock->repeat_due, 0);
        atomic_store(&sock->tcp_event, 1);
    }
    uint32_t seen = atomic_load_explicit(&sock->session.end->fin_seen, memory_order_acquire);
    if (atomic_load_explicit(&sock->tcp_event, memory_order_acquire) || (!(seen & SEEN_END) && end_announced(sock)))
        seen = examine_tcp(sock, fd);
    return __builtin_expect(seen && end_is_early(sock, seen), 0) ? 0 : seen;
}

// --- receiving ---

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
        ring_peer_bell(sock);
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
    if (leave_rx_repeated(sock, fd))
        return CHANGED_WAY;
    char stray;
    long n = sys_call(SYS_recvfrom, fd, &stray, 1, MSG_DONTWAIT, NULL, NULL);
    // The other end had something in the ring, and did not live to send it again, or could not behind its own FIN.
    if (n == 0 && session_is_far(sock) && !end_announced(sock)) {
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
        bool early = n == 0 && spans_left(to) && end_is_early(sock, SEEN_END);
        if (early)
            note_seen(sock, SEEN_END);
        bool switched =
            atomic_load_explicit(&sock->session.rx.shared->switch_at, memory_order_acquire) != SWITCH_NOT_YET;
        if (n > 0 || left != SESSION_TCP_ALL || !switched)
            return early ? NOTHING_YET : n;
    }
}

// Nothing is in the ring: then it may be time to leave it.
static bool leave_if_due(struct sock *sock, int fd)
{
    if (leave_tx_due(sock, fd))
        leave_tx(sock, fd);
    return leave_rx_due(sock) && atomic_load(&sock->rx_way) == WAY_RING && leave_rx(sock);
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
        if (receives_by_tcp(sock))
            return CHANGED_WAY;
    }
    ssize_t n = take_from_ring(sock, to, skip, flags);
    if (__builtin_expect(n == CHANGED_WAY, 0))
        return take_repeated(sock, fd, to, flags);
    if (n != NOTHING_YET) {
        atomic_store_explicit(&sock->empty_reads, 0, memory_order_relaxed);
        return n;
    }
    if (__builtin_expect(leave_if_due(sock, fd), 0))
        return CHANGED_WAY;
    uint32_t seen = tcp_seen(sock, fd);
    if (__builtin_expect(leave_rx_under_way(sock), 0))
        return CHANGED_WAY;
    if (!seen)
        return NOTHING_YET;
    if (have && ring_ready_fresh(&sock->session.rx) <= (int64_t)skip)
        return 0;
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

// recv of no bytes waits until there would be some, or the end.
static ssize_t recv_nothing(struct sock *sock, int fd, int flags)
{
    uint64_t deadline = 0;
    while (!(xfer_events(sock, fd, POLLIN) & (POLLIN | POLLERR | POLLHUP))) {
        if (receives_by_tcp(sock)) {
            struct iovec none = {NULL, 0};
            struct spans nothing = spans_of(&none, 1);
            ssize_t n = recv_by_kernel(sock, fd, &nothing, flags);
            if (n != CHANGED_WAY)
                return n < 0 ? fail((int)-n) : n;
            continue;
        }
        int result = nonblocking(sock, flags) ? -EAGAIN : wait_for(sock, fd, WAIT_READ, 1, &deadline, false);
        if (result)
            return fail(-result);
    }
    return 0;
}

static bool ring_ends(const struct sock *sock)
{
    return atomic_load_explicit(&sock->session.rx.shared->left_at, memory_order_acquire) != SWITCH_NOT_YET;
}

ssize_t xfer_recv(struct sock *sock, int fd, struct spans to, int flags)
{
    if (flags & (MSG_OOB | MSG_ERRQUEUE)) {
        char none;
        long n = sys_call(SYS_recvfrom, fd, &none, 1, flags | MSG_DONTWAIT, NULL, NULL);
        return n < 0 ? fail((int)-n) : n;
    }
    spans_skip_empty(&to);
    size_t want = spans_left(&to), got = 0;
    size_t least = least_wanted(sock, want, flags);
    if (!want)
        return recv_nothing(sock, fd, flags);
    uint64_t deadline = 0;
    ssize_t result = 0;
    if (!receives_by_tcp(sock))
        count(&sock->session.end->rx_calls);
    while (got < want) {
        bool by_tcp = receives_by_tcp(sock);
        // What was peeked at in the ring is not peeked at again in TCP.
        if ((by_tcp && got >= least) || (got && (flags & MSG_PEEK) && (by_tcp || leave_rx_under_way(sock))))
            break;
        if (!by_tcp && broken(sock)) {
            result = -ECONNRESET;
            break;
        }
        result = by_tcp ? recv_by_kernel(sock, fd, &to, flags)
                        : take(sock, fd, &to, flags & MSG_PEEK ? got : 0, flags, got != 0);
        if (result > 0) {
            got += (size_t)result;
            if ((flags & MSG_PEEK) && (by_tcp || atomic_load(&sock->rx_way) == WAY_WATCH))
                break;
            continue;
        }
        if (result == CHANGED_WAY)
            continue;
        if (by_tcp)
            break;
        if (result != NOTHING_YET || got >= least)
            break;
        if (nonblocking(sock, flags)) {
            look_at_tcp_sometimes(sock);
            break;
        }
        // What is peeked at stays, and more than fits, or than there will ever be in the ring, can never come.
        if ((flags & MSG_PEEK) && (got >= sock->session.rx.size / 2 || (got && ring_ends(sock))))
            break;
        result = wait_for(sock, fd, WAIT_READ, flags & MSG_PEEK ? least : least - got, &deadline, got != 0);
        if (result)
            break;
    }
    if (got || result == 0)
        return (ssize_t)got;
    return fail((int)-result);
}

// --- sending ---

// An end that came without being announced is that of a process that was killed: nobody reads any more. Unless the end
// was our own doing, or the other side had ended its direction before it sent through the ring.
static bool peer_was_killed(const struct sock *sock, uint32_t seen)
{
    const struct session *session = &sock->session;
    return (seen & SEEN_END) && !end_announced(sock) && !session_is_far(sock) &&
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
        ring_peer_bell(sock);
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
    count(&sock->session.end->tx_full);
    if (nonblocking(sock, flags))
        return -EAGAIN;
    return wait_for(sock, fd, WAIT_WRITE, 0, deadline, part);
}

ssize_t xfer_send(struct sock *sock, int fd, struct spans from, int flags)
{
    if (flags & MSG_OOB)
        return fail(EOPNOTSUPP);
    spans_skip_empty(&from);
    ssize_t sent = 0, result = 0;
    uint64_t deadline = 0;
    if (!sends_by_tcp(sock) && count(&sock->session.end->tx_calls) % CALLS_BETWEEN_LOOKS == 0)
        agent_link_look();
    agent_link_pace(sock, spans_left(&from));
    do {
        if (__builtin_expect(sends_by_tcp(sock), 0)) {
            result = send_by_kernel(sock, fd, &from, flags);
            sent += result > 0 ? result : 0;
            if (result == 0 || (result < 0 && result != CHANGED_WAY))
                break;
            result = 0;
            continue;
        }
        if (broken(sock)) {
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
    return sent || result >= 0 ? sent : fail((int)-result);
}

// --- in place ---

ssize_t xfer_fill(struct sock *sock, int fd, int flags, size_t most,
                  ssize_t (*fill)(void *source, void *place, size_t size), void *source)
{
    uint64_t deadline = 0;
    for (;;) {
        if (sends_by_tcp(sock))
            return XFER_BY_TCP;
        if (broken(sock))
            return fail(ECONNRESET);
        if (leave_tx_due(sock, fd) && leave_tx(sock, fd))
            return XFER_BY_TCP;
        if (leave_tx_under_way(sock)) {
            int result = wait_for_room(sock, fd, flags, &deadline, false);
            if (result < 0)
                return fail(-result);
            continue;
        }
        if (kernel_must_say(sock, fd))
            return atomic_load(&sock->session.end->tx_shut) ? fail((int)-broken_pipe(flags)) : XFER_ASK_KERNEL;
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
            return fail(ECONNRESET);
        if (n > 0) {
            wake_consumer(sock);
            return filled < 0 ? fail((int)-filled) : committed ? filled : fail(EAGAIN);
        }
        int result = wait_for_room(sock, fd, flags, &deadline, false);
        if (result < 0)
            return fail(-result);
    }
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
            return fail((int)-drained);
        one.iov_len = (size_t)drained;
        return xfer_recv(sock, fd, spans_of(&one, 1), MSG_DONTWAIT | MSG_WAITALL);
    }
}

// --- readiness ---

static short kernel_events(int fd, short wanted)
{
    struct pollfd poll = {.fd = fd, .events = wanted};
    struct timespec none = {0, 0};
    return sys_ppoll(&poll, 1, &none) > 0 ? poll.revents : 0;
}

#define READ_EVENTS  (POLLIN | POLLRDNORM)
#define WRITE_EVENTS (POLLOUT | POLLWRNORM)

// An early end is nothing to be read.
static bool readable_in_tcp(struct sock *sock, int fd)
{
    int queued = 0;
    short events = kernel_events(fd, POLLIN | POLLRDHUP);
    if (!(events & POLLRDHUP) || (events & POLLERR) || !end_is_early(sock, SEEN_END))
        return events != 0;
    note_seen(sock, SEEN_END);
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
        return kernel_events(fd, POLLIN) != 0;
    int64_t rest = leave_rx_rest(sock, fd);
    session_unlock(sock->session.end->rx_lock);
    return rest == -ECONNRESET || (rest != -EAGAIN && kernel_events(fd, POLLIN) != 0);
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
    bool rx_tcp = receives_by_tcp(sock), tx_tcp = sends_by_tcp(sock);
    short events = 0;
    if (rx_tcp && tx_tcp)
        return kernel_events(fd, wanted);
    if (broken(sock))
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
        events |= (short)(kernel_events(fd, wanted) & from_tcp);
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
    int64_t ready = left == 0 ? ring_ready_fresh(&sock->session.rx) : 0;
    if (left == 0 && ready != -ESTALE && (ready || !leave_if_due(sock, fd)))
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
