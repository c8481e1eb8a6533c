// How long a thread that sleeps takes to wake up on this host, from the call that wakes it: some 2 us on one CPU, 10 to 30
// on another one that halts meanwhile, hundreds in some virtual machines. How long it pays to look before sleeping
// depends on it.
#pragma once

#include <stdint.h>

// Measures it, one way, in ns: the median of some round trips between two threads. 0 if it cannot be measured. Takes
// about a millisecond, and some milliseconds at the most.
uint32_t wakeup_measure(void);
