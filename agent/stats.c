// Sums that stop at the largest number instead of wrapping round.

#include "agent/stats.h"

uint64_t stats_sum(uint64_t a, uint64_t b)
{
    uint64_t sum;

    return __builtin_add_overflow(a, b, &sum) || sum > INT64_MAX ? INT64_MAX : sum;
}

void stats_add_reasons(struct stats *stats, enum wire_reason reason, uint64_t count)
{
    if (reason != WIRE_REASON_NONE)
        stats->reasons[reason] = stats_sum(stats->reasons[reason], count);
}
