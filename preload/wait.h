// Waiting for the other end: look for a while, give the CPU away in between, then sleep.
//
// Sleeping costs a wake-up, some 25 us on another CPU; looking costs CPU that somebody else may need. So a wait looks
// for half a microsecond with PAUSE, then yields the CPU between looks for as long as its patience lasts, then sleeps.
// Yielding to programs like us is cheap, and the best there is when they are more than the CPUs. Yielding to one that
// computes costs a time slice of milliseconds (and even a low-priority one gets its slice after some hundred yields):
// a yield that took so long is a lesson for the whole process, which for a while only pauses between looks. If then
// the CPU is taken from it while it pauses, there is no room for looking at all, and it sleeps at once.
// Patience follows what the last waits of this kind were like: about twice what they took, nothing for those that took
// long anyway, and a new try now and then.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "preload/nest.h"
#include "preload/sock.h"

enum wait_for { WAIT_READ, WAIT_WRITE };

// What one call knows of its waits; zeroed at its beginning. Once it has slept, signals are held back until it is over,
// also between two sleeps: a handler that ran there would not end the next one with EINTR, as it would in the kernel.
struct waiting {
    uint64_t deadline; // nest_now(), 0: never
    nest_mask before;  // the signals that the program has blocked itself, once they are held back
    bool held;
};

// Sleeps, if need be, until something may be read (at least `least` bytes) or written, or the connection has something
// to say. Returns 0 (look again), -EAGAIN at the deadline, -EINTR as nest_sleep.
int wait_ring(struct sock *sock, int fd, enum wait_for what, uint64_t least, struct waiting *waiting,
              bool interruptible);

// Lets signals through again, before the call goes on in the kernel: -EINTR as nest_sleep, or 0.
int wait_over(struct waiting *waiting, bool interruptible);

// The same when the call is over, whatever handlers then say.
void wait_done(struct waiting *waiting);

// The pieces, for poll and epoll, which wait for many.

// PAUSEs that take about half a microsecond: from 5 to 50 ns each, by processor. Measured at the first call.
int wait_pauses(void);

static inline void wait_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

// Between two looks of a longer wait: yields the CPU, or pauses for a fraction of a microsecond where yielding was found
// to be too dear. `now` is the time before; returns the time after (nest_now()).
// With `shares_cpu` only a yield makes sense.
uint64_t wait_between_looks(uint64_t now, bool shares_cpu);

// Does the other end of this socket's ring run on the CPU on which we do? Then looking without yielding is in vain.
static inline bool wait_shares_cpu(const struct sock *sock)
{
    uint32_t cpu = proc_cpu();
    return cpu && cpu == atomic_load_explicit(&sock->session.rx.shared->cpu, memory_order_relaxed);
}

// How long to look before sleeping, in ns, from `now` on; 0: not at all.
uint32_t patience_budget(struct patience *patience, uint64_t now);

// A ring with another host: a message passes three threads on its way, and each that sleeps makes the others wait for it
// by `wake_ns`. All of them must look for about as long as one of them needs to wake up, or none is ever awake in time.
void patience_far(struct patience *patience, uint32_t wake_ns);

// Teaches: the wait took `ns` from its beginning until there was something, and `slept` or not.
void patience_learn(struct patience *patience, uint64_t ns, bool slept);
