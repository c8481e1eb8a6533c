// What the TCP connection beneath a ring says: that its stream has ended, or an error.
//
// The kernel is asked only when there is a reason to: somebody saw an event there (sock.tcp_event), or the other end has
// announced its end in the header. Its answers are kept in the end's memory (end_shared.fin_seen), for all holders of
// this end.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "preload/leave.h"
#include "preload/session.h"
#include "preload/sock.h"

#define SEEN_END   1u // the other side's FIN
#define SEEN_ERROR 2u // an error, or both directions closed
#define SEEN_RESET 4u // an error

// Remembers SEEN_* for all holders of this end, and returns all that were ever seen. The agent asks the other host about
// an end that was not announced.
uint32_t tcp_note(struct sock *sock, uint32_t seen);

// Asks the kernel without taking anything out of its hands, and remembers the answer. Returns SEEN_*.
uint32_t tcp_examine(struct sock *sock, int fd);

// What poll says of the descriptor now, of the events in `wanted` and of those that are always reported.
short tcp_events(int fd, short wanted);

// The other end says in the header when it is about to end its direction: then the FIN is there, or on its way.
static inline bool tcp_end_announced(const struct sock *sock)
{
    return atomic_load_explicit(&sock->session.rx.shared->tx_closed, memory_order_acquire) != CLOSED_NOT;
}

// The link is lost: nothing will come from the other host but by TCP.
static inline bool tcp_is_all_there_is(const struct sock *sock)
{
    return ring_leave_wish(sock->session.rx.shared) == LEAVE_RESEND;
}

// From another host the FIN overtakes bytes that are still on their way to the ring. The agent announces the end behind
// the last of them: also that of a process that was killed.
static inline bool tcp_end_is_early(const struct sock *sock, uint32_t seen)
{
    return session_is_far(sock) && !tcp_is_all_there_is(sock) && seen && !(seen & SEEN_RESET) &&
           !tcp_end_announced(sock);
}

// SEEN_*, as far as it counts by now: an early end does not.
static inline uint32_t tcp_seen(struct sock *sock, int fd)
{
    if (__builtin_expect(atomic_load_explicit(&sock->repeat_due, memory_order_relaxed), 0) &&
        ring_ready_fresh(&sock->session.rx) <= 0) {
        atomic_store(&sock->repeat_due, 0);
        atomic_store(&sock->tcp_event, 1);
    }
    uint32_t seen = atomic_load_explicit(&sock->session.end->fin_seen, memory_order_acquire);
    if (atomic_load_explicit(&sock->tcp_event, memory_order_acquire) || (!(seen & SEEN_END) && tcp_end_announced(sock)))
        seen = tcp_examine(sock, fd);
    return __builtin_expect(seen && tcp_end_is_early(sock, seen), 0) ? 0 : seen;
}
