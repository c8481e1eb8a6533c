// Whether giving the CPU away between two looks is cheap here.
//
// Yielding to programs that look, too, is; yielding to one that computes costs a time slice of milliseconds. One yield
// that took long is a disturbance; several in a short time are somebody who computes, and then yields are to be avoided
// for a while, twice as long each time, unless they were cheap for a good while in between.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

// Zeroed, nothing is known. May be used by several threads at once; what one of them notes may then be lost.
struct yields {
    _Atomic uint64_t dear_at;     // when one last took long
    _Atomic uint64_t avoid_until; // ns of CLOCK_MONOTONIC
    _Atomic uint64_t avoid_ns;    // how long the next time; 0: the least
};

// Are they to be avoided at this time?
static inline bool yields_avoided(const struct yields *yields, uint64_t now)
{
    return now < atomic_load_explicit(&yields->avoid_until, memory_order_relaxed);
}

// A yield was over at `now`, and took so long (ns).
void yields_note(struct yields *yields, uint64_t now, uint64_t took);
