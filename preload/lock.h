// A lock between the threads of this process that knows its owner.
//
// A signal handler may make any call of ours while the thread that it interrupted holds a lock. With this lock it finds
// that out (lock_enter says false) instead of waiting for itself; there is no moment at which a taken lock has no owner.
// lock_guard goes further: it holds signals back, so that no handler runs, or jumps out, while the lock is held. It
// costs two system calls, and is for what is done once in a connection's life.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "preload/proc.h"

struct lock {
    _Atomic uint32_t word; // the owner's thread id; LOCK_WAITED: somebody sleeps until it is free
};

#define LOCK_WAITED 0x80000000u

// This thread's id, once it was asked for.
extern __thread uint32_t lock_self_known __attribute__((tls_model("initial-exec")));
uint32_t lock_ask_self(void);

void lock_wait(struct lock *lock, uint32_t self);
void lock_wake(struct lock *lock);

static inline uint32_t lock_self(void)
{
    uint32_t self = lock_self_known;
    return __builtin_expect(self != 0, 1) ? self : lock_ask_self();
}

// True once the lock is ours; false if this thread holds it already, further down its stack. While there is one thread,
// only a handler can come in between: it finds the lock free, and leaves it so.
static inline bool lock_enter(struct lock *lock)
{
    uint32_t self = lock_self(), seen = 0;
    if (proc_single_threaded()) {
        if (atomic_load_explicit(&lock->word, memory_order_relaxed))
            return false;
        atomic_store_explicit(&lock->word, self, memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst);
        return true;
    }
    if (__builtin_expect(atomic_compare_exchange_strong_explicit(&lock->word, &seen, self, memory_order_seq_cst,
                                                                 memory_order_relaxed),
                         1))
        return true;
    if ((seen & ~LOCK_WAITED) == self)
        return false;
    lock_wait(lock, self);
    return true;
}

// True if it was free, and is ours now.
static inline bool lock_try(struct lock *lock)
{
    uint32_t nobody = 0;
    return atomic_compare_exchange_strong(&lock->word, &nobody, lock_self());
}

static inline void lock_leave(struct lock *lock)
{
    if (proc_single_threaded()) {
        atomic_signal_fence(memory_order_seq_cst);
        atomic_store_explicit(&lock->word, 0, memory_order_release);
        atomic_signal_fence(memory_order_seq_cst);
        return;
    }
    if (__builtin_expect(atomic_exchange(&lock->word, 0) & LOCK_WAITED, 0))
        lock_wake(lock);
}

// As lock_enter, with signals held back from before until lock_unguard, which is called in both cases.
struct lock_guarded {
    uint64_t signals; // that were blocked before
    bool taken;       // false: as with lock_enter
};
struct lock_guarded lock_guard(struct lock *lock);
void lock_unguard(struct lock *lock, const struct lock_guarded *guarded);

// In a forked child: this thread has another id. The locks themselves are their owners' to reset.
void lock_forked(void);
