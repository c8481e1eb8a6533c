#include "core/yields.h"

// A yield that took longer than this went to somebody who computes ...
#define DEAR 1000000u

// ... if such yields take more than one part of so many of the time.
#define DEAR_RARE 50u

// For how long (ns) yields are avoided then: doubled each time up to the most.
#define AVOID_LEAST 100000000ull
#define AVOID_MOST  60000000000ull

// Yields that were cheap for so many times as long as they were avoided tell that it has become quiet.
#define AVOIDS_WELL 5u

static void avoid(struct yields *yields, uint64_t now)
{
    uint64_t ns = atomic_load_explicit(&yields->avoid_ns, memory_order_relaxed);
    if (ns == 0 || now > atomic_load_explicit(&yields->avoid_until, memory_order_relaxed) + AVOIDS_WELL * ns)
        ns = AVOID_LEAST;
    atomic_store_explicit(&yields->avoid_until, now + ns, memory_order_relaxed);
    atomic_store_explicit(&yields->avoid_ns, ns * 2 > AVOID_MOST ? AVOID_MOST : ns * 2, memory_order_relaxed);
}

void yields_note(struct yields *yields, uint64_t now, uint64_t took)
{
    if (took <= DEAR)
        return;
    if (now - atomic_exchange_explicit(&yields->dear_at, now, memory_order_relaxed) < DEAR_RARE * took)
        avoid(yields, now);
}
