// The way back: a direction leaves its ring, and its bytes go by TCP again.
//
// The mirror image of attaching (session.h), and like it a matter of each direction by itself. The producer freezes its
// cursor, says in left_at where the ring ends, and from then on sends by the kernel, at once. The consumer reads the ring
// up to there, and then TCP. Nobody waits for anybody, and the ring stays readable whoever is killed in between.
//
// The producer leaves when it is asked to (leave_wish in the ring that it produces), by the other end or the agent; an end
// that leaves asks the other end to do the same. It may leave only when the consumer has settled in the ring: before that
// the consumer could not tell what TCP carried before the ring from what it carries after it.
//
// Where the other end cannot reach the ring any more, the sender sends again what may not have been read: see resend.h.
// Sessions between hosts always go that way.
//
// When both directions are back, the session is over at this end. Its memory is let go of when no call of this process
// can be inside: `attached` is taken back first, and then the references to the socket are counted. A call takes its
// reference before it looks at `attached` (both seq_cst), so either it is counted, or it sees that there is no session.
// What looks at sessions without a reference (epset.c) is told by epset_sock_changed, and asked (epset_sock_needs_ring).
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "preload/session.h"
#include "preload/sock.h"

// Asked to leave the ring in the sending direction, and free to do something about it now?
bool leave_tx_wished(const struct sock *sock, int fd);

static inline bool leave_tx_due(const struct sock *sock, int fd)
{
    const struct ring_shared *ring = session_ring_out(&sock->session);
    return __builtin_expect(atomic_load_explicit(&ring->leave_wish, memory_order_seq_cst) != LEAVE_NOT, 0) &&
           leave_tx_wished(sock, fd);
}

// Does the ring have what this end sent last, or is that being sent again? As all holders see it: one that does not send
// may not have noticed (sock->tx_way).
static inline bool leave_tx_in_ring(const struct sock *sock)
{
    uint32_t way = atomic_load(&sock->session.end->tx_way);
    return way == WAY_RING || way == WAY_BACK;
}

// Is what was in the ring being sent again, and not yet all on its way?
static inline bool leave_tx_under_way(const struct sock *sock)
{
    return atomic_load_explicit(&sock->session.end->tx_way, memory_order_acquire) == WAY_BACK;
}

// Is what was in the ring being received again?
static inline bool leave_rx_under_way(const struct sock *sock)
{
    return atomic_load_explicit(&sock->session.end->rx_way, memory_order_acquire) == WAY_BACK;
}

// Has the other end left, and is everything read?
static inline bool leave_rx_due(const struct sock *sock)
{
    const struct ring_shared *ring = sock->session.rx.shared;
    if (__builtin_expect(atomic_load_explicit(&ring->left_at, memory_order_seq_cst) == SWITCH_NOT_YET, 1))
        return false;
    uint8_t way = atomic_load_explicit(&sock->rx_way, memory_order_acquire);
    return way == WAY_RING    ? ring_rx_left(&sock->session.rx) != 0
           : way == WAY_WATCH ? atomic_load_explicit(&ring->switch_at, memory_order_acquire) == SWITCH_NOT_YET
                              : false;
}

static inline bool leave_due(const struct sock *sock, int fd)
{
    return leave_rx_due(sock) || leave_tx_due(sock, fd);
}

// Takes the sending direction back to TCP. False if that is not possible now, or takes longer: do something else first.
bool leave_tx(struct sock *sock, int fd);

// Takes the receiving direction back to TCP, if leave_rx_due says so, and not if the other end broke the protocol.
bool leave_rx(struct sock *sock);

// Both, each if it is due.
void leave_mind(struct sock *sock, int fd);

// Both, while nothing is in the ring to be received. True if the receiving direction is no longer in the ring.
static inline bool leave_when_empty(struct sock *sock, int fd)
{
    if (leave_tx_due(sock, fd))
        leave_tx(sock, fd);
    return leave_rx_due(sock) && atomic_load(&sock->rx_way) == WAY_RING && leave_rx(sock);
}

// What a ring cannot express is about to be used: the socket stays TCP from now on. Sends go by TCP when this returns, if
// that can be had within a second; receives follow when the other end has left, too.
void leave_for_good(struct sock *sock, int fd);

// Keeps a socket on TCP, or takes it there, as above. True if it had a session.
bool leave_or_pin(struct sock *sock, int fd, const char *why);

// The connection of a session was taken apart. What was sent can still be read by the other end, and nothing here. The
// socket may become another connection, with another session.
void leave_dissolved(struct sock *sock, int fd);

// The sessions of all sockets of this process, also of those that nothing is done with now.
void leave_mind_all(void);

// Before the process ends: what is being sent again is sent to its end, as before a last close.
void leave_finish_all(void);

// In the ring, with nothing in it, and TCP has something to read: takes notice if that is the ring's contents, once
// more. True if the direction is no longer in the ring.
bool leave_rx_repeated(struct sock *sock, int fd);

// The same for who has seen the end of the TCP stream, and would read it: others of this end may be looking just now, and
// are waited for. 1 if the direction is no longer in the ring, 0 if it is, or -EINTR in a signal handler above one of them.
int leave_rx_ended(struct sock *sock, int fd);

// Before the last close: what TCP has for us alone is read, and does not count as something that nobody has read.
void leave_rx_finish(struct sock *sock, int fd);

// In WAY_BACK: as session_rx_settle. Returns how many bytes may be read from TCP now, 0 once the direction is TCP's,
// -EAGAIN if there are none now, or -ECONNRESET. The caller holds end_shared.rx_lock.
int64_t leave_rx_rest(struct sock *sock, int fd);

// A receiving direction that has never come to the ring, and never will, or of which nothing is read from the ring any
// more: under rx_lock.
void leave_rx_now(struct sock *sock);

// Wants both directions back: asks this end and the other (LEAVE_*). The way back begins at this end's next call.
void leave_ask(struct sock *sock, uint32_t wish);

// Before a shutdown for sending: true if something is being sent again, and the shutdown will follow it.
bool leave_delays_shutdown(struct sock *sock, int fd);

// Before the last close: what is being sent again is sent to its end, as far as the connection bears it.
void leave_finish(struct sock *sock, int fd);

// Lets go of the session of a socket if it is over; the caller has one reference. True if the socket has none (any more).
bool leave_forget(struct sock *sock);

// Lets go of what is over. `held` is a socket to which the caller has a reference of its own, besides those of callers
// up the stack, or null. One load if there is nothing to do.
extern _Atomic uint32_t leave_untidy;
void leave_tidy_slow(const struct sock *held);

static inline void leave_tidy(const struct sock *held)
{
    if (__builtin_expect(atomic_load_explicit(&leave_untidy, memory_order_relaxed), 0))
        leave_tidy_slow(held);
}
