// A TCP socket as this process knows it: one object for each open file, however many descriptors it has here.
//
// The objects are never given back to the system, so a pointer to one may be stale but is never wild: a reader of the
// descriptor table takes a reference, and then looks whether the table still says the same.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/layout.h"
#include "core/ring.h"
#include "core/wire.h"
#include "preload/fdtab.h"
#include "preload/proc.h"
#include "preload/share.h"

struct reg;

// How long waits have been lately, and so how long it pays to look before sleeping. See wait.h.
struct patience {
    _Atomic uint32_t budget_ns;
    _Atomic uint32_t misses;
    _Atomic uint32_t far_ns; // 0, or the most that the budget may be between hosts
};

// The ring of a connection, as mapped by this process. Valid while sock.attached, and afterwards for calls that were
// begun before.
struct session {
    uint64_t id;
    uint32_t side;
    uint32_t transport;
    uint32_t tag;      // of gates closed for this session
    uint32_t in_nests; // a number that no other session of this process had; see nest.c
    uint64_t ring_bytes;
    struct session_shared *shared;
    struct end_shared *end;
    struct ring_tx tx;
    struct ring_rx rx;
    _Atomic int bell;      // wakes this end
    _Atomic int peer_bell; // wakes the other
    _Atomic int lifeline;  // tells the agent that this end is still held
};

enum offer_state { OFFER_NONE, OFFER_MADE, OFFER_REFUSED };

enum sock_flags {
    SOCK_INHERITED = 1, // came through exec or from another process: somebody may have upgraded it before
    SOCK_GIVEN = 2,     // posix_spawn may give it to a child under another number
};

struct sock {
    _Atomic uint32_t refs;  // descriptors of it, and calls under way; 0: free
    _Atomic uint32_t fds;   // descriptors of it in the table
    _Atomic uint32_t flags; // enum sock_flags
    struct share *share;

    // How far this process has gone along with the upgrade (WAY_*). end_shared has the truth for all holders; these
    // may lag behind it and are brought up when a gate is found closed.
    _Atomic uint8_t rx_way;
    _Atomic uint8_t tx_way;
    _Atomic uint8_t attached;  // the session below is valid
    _Atomic uint8_t mapped;    // so is its memory: it outlasts the session until no call can be inside
    _Atomic uint8_t tcp_event; // the kernel has something to say on the TCP connection: look before believing the ring
    _Atomic uint8_t empty_reads; // non-blocking reads in a row that found nothing
    _Atomic uint32_t tx_blocked; // raised whenever a sender found no room; for edge-triggered EPOLLOUT

    // A descriptor of our own, + 1, once the program has closed its last while calls are under way: as in the kernel,
    // those go on with the socket, and the program's number may be something else by then.
    _Atomic int stand_in;

    struct session session;
    struct patience rx_patience;
    struct patience tx_patience;
    _Atomic(struct reg *) regs; // registrations in epoll sets; see epset_reg.h
    struct sock *left_next;     // in epset.c's list of those that it could not deal with at once
    _Atomic uint32_t left;      // stands in that list, with a reference

    // The way to a session; see agent_link.c.
    _Atomic uint64_t calls;
    _Atomic uint64_t bytes;
    _Atomic uint64_t token;          // of the offer that is out
    _Atomic uint32_t offer;          // enum offer_state
    uint32_t offered_passed;         // share.passed before the last offer
    _Atomic uint32_t offer_link;     // the connection to the agent by which it was made
    _Atomic uint32_t refused_policy; // the policy generation that refused it
    _Atomic uint64_t not_before;     // ns, coarse: after a session was left, the next offer is not made earlier
    uint64_t attached_at;            // ns, coarse
    uint32_t held_off;               // how often it was left soon after

    // See leave.c. Kept when the place is taken by another socket.
    _Atomic uint32_t tidy_next;
    _Atomic uint8_t tidy_queued;
    _Atomic uint8_t tidying;

    _Atomic uint64_t tx_calls_seen; // see let_stream_gather in wait.c
    _Atomic uint8_t waited_briefly;
    _Atomic uint8_t gather;
    _Atomic uint64_t paid_until; // see agent_link_pace

    uint64_t record_seen;       // see resend.c
    _Atomic uint8_t repeat_due; // TCP has something that is to be looked at when the ring is empty

    uint64_t cookie; // SO_COOKIE, if it came from elsewhere; else 0

    uint32_t index; // place in the slab; with `generation` it names this socket
    _Atomic uint32_t generation;
    uint32_t next_free;
};

struct sock *sock_hold_slow(int fd, uintptr_t entry);
void sock_drop_last(struct sock *sock);

// The TCP socket behind `fd`, with a reference for the caller, or null: then it is nothing of ours. errno is kept.
static inline struct sock *sock_hold(int fd)
{
    proc_enter();
    uintptr_t entry = fdtab_get(fd);
    if (__builtin_expect(fdtab_kind(entry) != FD_SOCK, 1))
        return NULL;
    return sock_hold_slow(fd, entry);
}

// References are counted by single instructions, without other threads too: a signal handler may close what the thread
// that it interrupted is about to use.
static inline bool sock_count_if(_Atomic uint32_t *count, uint32_t *seen, uint32_t now)
{
#if defined(__x86_64__)
    if (proc_single_threaded()) {
        uint32_t before = *seen;
        __asm__ volatile("cmpxchgl %2, %1" : "+a"(before), "+m"(*count) : "r"(now) : "memory", "cc");
        bool done = before == *seen;
        *seen = before;
        return done;
    }
#endif
    return atomic_compare_exchange_weak(count, seen, now);
}

// Returns what it was before.
static inline uint32_t sock_count(_Atomic uint32_t *count, uint32_t change)
{
#if defined(__x86_64__)
    if (proc_single_threaded()) {
        __asm__ volatile("xaddl %0, %1" : "+r"(change), "+m"(*count) : : "memory", "cc");
        return change;
    }
#endif
    return atomic_fetch_add_explicit(count, change, memory_order_acq_rel);
}

// By one who has a reference.
static inline void sock_ref(struct sock *sock)
{
    sock_count(&sock->refs, 1);
}

// True if nobody in this process has yet asked whether it is in a ring: see session_resolve.
static inline bool sock_unresolved(const struct sock *sock)
{
    return atomic_load_explicit(&sock->flags, memory_order_relaxed) & SOCK_INHERITED;
}

// The descriptor to use for a call that was begun with `fd`.
static inline int sock_fd(const struct sock *sock, int fd)
{
    int own = atomic_load_explicit(&sock->stand_in, memory_order_acquire);
    return __builtin_expect(own, 0) ? own - 1 : fd;
}

// Gives the reference back. errno is kept.
static inline void sock_drop(struct sock *sock)
{
    uint32_t before = sock_count(&sock->refs, (uint32_t)-1);
    if (__builtin_expect(before == 1, 0))
        sock_drop_last(sock);
}

// A socket that was just made or accepted, and is TCP. `nonblocking` as it was made.
void sock_made(int fd, bool nonblocking);

// The same by `listener`, whose options it has got.
void sock_accepted(int listener, int fd, bool nonblocking);

// A descriptor of unknown kind has come into the process: looks whether it is a TCP socket.
void sock_found(int fd, enum sock_flags flags);

// The same for one that the process began with: there may be others of the same socket.
void sock_inherited(int fd);

// `to` is now another descriptor for what `from` is (a socket or an epoll set); `to` was nothing of ours before.
void sock_duplicated(int from, int to);

// Before the kernel closes `fd`, for whatever reason: forgets it. If it was the last in this process, and no other
// process has the socket, the other end is told. The caller itself holds `held` references. Does nothing in a vfork
// child.
void sock_closing(int fd, uint32_t held);

// Takes the socket out of the game for good: it stays TCP. Only before it has a session; false if it has one.
bool sock_pin(struct sock *sock, const char *why);
static inline bool sock_pinned(const struct sock *sock)
{
    return atomic_load_explicit(&sock->share->pinned, memory_order_relaxed);
}

// True once a direction has left TCP: polls and control calls must look at the ring too.
static inline bool sock_in_ring(const struct sock *sock)
{
    return (atomic_load_explicit(&sock->rx_way, memory_order_acquire) |
            atomic_load_explicit(&sock->tx_way, memory_order_acquire)) != WAY_TCP;
}

// A descriptor of the socket, by the table, or -1.
int sock_descriptor(const struct sock *sock);

// The object at a place of the slab that was in use at some time; and a reference to it, unless it is free.
struct sock *sock_at(uint32_t index);
bool sock_try_hold(struct sock *sock);

// The object at a place of the slab, if it still is of that generation, with a reference; else null.
struct sock *sock_find(uint32_t index, uint32_t generation);

bool sock_own_fd_moved(int from, int to);
void sock_forked(void);
