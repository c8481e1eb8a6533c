// How long a thread that has nothing to do looks for something before it sleeps.
//
// Falling asleep and being woken cost some 25 us, in a virtual machine some hundred, and keep the other side waiting;
// looking costs CPU that somebody else may need. A round trip between hosts wakes two applications at least, so the most
// that is looked is some times as long as a wake-up takes: as long as messages come faster, this thread is awake. So an
// idle time begins with PAUSEs, goes on with sched_yield between looks for as long as that has lately paid, and then it
// is time to sleep. With one CPU it is so at once: whatever is waited for needs that CPU. And it is so for a while after
// yields that took long: those went to somebody who computes.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "core/yields.h"

struct spin {
    uint64_t began;       // of this idle time; 0: not idle
    uint64_t looks;       // in this idle time
    uint32_t most_ns;     // the most that the budget may be
    uint32_t budget_ns;   // how long to look
    uint32_t misses;      // idle times in a row that looking was not enough for
    struct yields yields; // no looking while they are to be avoided
    bool alone;           // there is one CPU
};

// For the calling thread, by the CPUs on which it may run. `wake_ns`: what a thread here takes to wake up.
void spin_init(struct spin *spin, uint32_t wake_ns);

// There was nothing to do. Gives others some time, and returns true to look again; false if it is time to sleep.
bool spin_idle(struct spin *spin);

// There was something to do, after sleeping or not: the idle time, if there was one, is over.
void spin_busy_slow(struct spin *spin, bool slept);

static inline void spin_busy(struct spin *spin, bool slept)
{
    if (spin->began)
        spin_busy_slow(spin, slept);
}
