// What all holders of a TCP socket within one family of forked processes must agree on before it has a session: who is
// inside the kernel with it, and whether it has been upgraded.
//
// The memory is shared with forked children, a page of places at a time. A page that has seen a fork is never used for
// new sockets, so that a place means one socket in every process that has it; each process unmaps the page when it has
// closed the last of its sockets there. Thus nobody counts holders, and a killed process leaves nothing behind.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "preload/proc.h"

// A gate counts the kernel calls of one direction that are under way, and is closed while a session has that direction.
// It says which session (its tag), so that a process that knows only an older one cannot take the one for the other. A
// process killed inside such a call leaves its count, and the direction stays TCP.
#define GATE_CLOSED    (1ull << 63)
#define GATE_TAG_SHIFT 32
#define GATE_TAG_MASK  0x7fffffffu
#define GATE_COUNT     0xffffffffu

struct share {
    _Atomic uint64_t rx_gate;
    _Atomic uint64_t tx_gate;
    _Atomic uint32_t nonblocking;      // O_NONBLOCK of the open file, as last set in sight
    _Atomic uint32_t pinned;           // stays TCP for good
    _Atomic uint32_t passed;           // how often it may have come to processes without this page: by exec, or sent
    _Atomic uint32_t receive_low;      // SO_RCVLOWAT
    _Atomic uint64_t receive_timeout;  // SO_RCVTIMEO in ns, 0 = none
    _Atomic uint64_t send_timeout;     // SO_SNDTIMEO in ns, 0 = none
    _Atomic uint32_t keepalive_hidden; // SO_KEEPALIVE is on, for the ring's sake; the program has not asked for it
    _Atomic uint32_t keepalive_idle;   // TCP_KEEPIDLE (s) as the program has it, meanwhile
    _Atomic uint32_t pinning_option;   // pinned for an option that accepted sockets get from their listener
    uint32_t zero;
};

// A place, all zero, for a new socket; null if there is no memory.
struct share *share_new(void);
void share_free(struct share *share);

// Have other processes had this place since it was made?
bool share_forked(const struct share *share);

// Marks the pages in use as shared with a child. In the parent, before each fork.
void share_before_fork(void);

// In the child: the lock may have been held by a thread that is not here.
void share_after_fork(void);

static inline bool share_alone(const struct share *share)
{
    return proc_single_threaded() && !share_forked(share);
}

// Before a kernel call; false if the gate is closed, and then the call must not be made.
static inline bool gate_enter(const struct share *share, _Atomic uint64_t *gate)
{
    uint64_t seen = atomic_load_explicit(gate, memory_order_acquire);
    if (seen & GATE_CLOSED)
        return false;
    if (share_alone(share)) {
        atomic_store_explicit(gate, seen + 1, memory_order_relaxed);
        return true;
    }
    if (!(atomic_fetch_add_explicit(gate, 1, memory_order_acq_rel) & GATE_CLOSED))
        return true;
    atomic_fetch_sub_explicit(gate, 1, memory_order_release);
    return false;
}

static inline void gate_leave(const struct share *share, _Atomic uint64_t *gate)
{
    if (share_alone(share))
        atomic_store_explicit(gate, atomic_load_explicit(gate, memory_order_relaxed) - 1, memory_order_release);
    else
        atomic_fetch_sub_explicit(gate, 1, memory_order_release);
}

static inline uint64_t gate_closed_by(uint32_t tag)
{
    return GATE_CLOSED | (uint64_t)(tag & GATE_TAG_MASK) << GATE_TAG_SHIFT;
}

// Is it closed for the session of this tag?
static inline bool gate_is_closed_by(uint64_t seen, uint32_t tag)
{
    return (seen & ~(uint64_t)GATE_COUNT) == gate_closed_by(tag);
}

// Closes the gate if nobody is inside. True if it is closed now for that session, by us or before.
static inline bool gate_close(_Atomic uint64_t *gate, uint32_t tag)
{
    uint64_t nobody = 0;
    return atomic_compare_exchange_strong_explicit(gate, &nobody, gate_closed_by(tag), memory_order_acq_rel,
                                                   memory_order_acquire) ||
           gate_is_closed_by(nobody, tag);
}

// Opens a gate that was closed for that session; does nothing to one that is open, or closed for another. What is counted
// are those who are just finding it closed, and will take themselves out.
static inline void gate_open(_Atomic uint64_t *gate, uint32_t tag)
{
    uint64_t seen = atomic_load_explicit(gate, memory_order_acquire);
    while (gate_is_closed_by(seen, tag) &&
           !atomic_compare_exchange_weak_explicit(gate, &seen, seen & GATE_COUNT, memory_order_acq_rel,
                                                  memory_order_acquire))
        ;
}
