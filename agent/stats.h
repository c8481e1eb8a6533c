// What the agent counts over its life, for `rdmactl stats`.
#pragma once

#include <stdint.h>

#include "core/wire.h"

struct stats {
    uint64_t offers; // received
    uint64_t offers_refused;
    uint64_t offers_withdrawn;
    uint64_t offers_replaced; // by a newer offer for the same end of the same connection
    uint64_t sessions;        // opened
    uint64_t sessions_declined;
    uint64_t sessions_recalled; // ordered back to TCP
    uint64_t ends_left;         // ends of sessions that went back to TCP
    uint64_t bytes_tx;          // through the rings of sessions that have ended
    uint64_t bytes_rx;
    uint64_t protocol_errors; // clients dropped for what they sent
    uint64_t clients_refused; // connections closed for a limit
    uint64_t reasons[WIRE_REASON_COUNT];
};

// Adds what a client reported, of which nothing is believed: the sum stays within what JSON can carry.
void stats_add_reasons(struct stats *stats, enum wire_reason reason, uint64_t count);

// a + b, at most INT64_MAX.
uint64_t stats_sum(uint64_t a, uint64_t b);
