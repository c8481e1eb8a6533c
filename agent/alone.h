// Offers of sockets that may be in other hands: each waits until one process holds its socket, and then seeks its other
// half as any other offer does.
//
// All of them are looked at together, soon at first, then less often, and never so that the agent is kept from its work:
// see holders.h.
#pragma once

#include <stdint.h>
#include <uv.h>

#include "agent/list.h"

struct agent;
struct offer;

struct alone {
    struct list waiting; // offers
    uv_timer_t timer;
    uint64_t interval_ms;
    uint64_t not_before_ms; // of the next look
};

void alone_init(struct alone *alone);

// Before the loop runs, and before it is closed.
void alone_start(struct agent *agent);
void alone_stop(struct alone *alone);

// The offer waits from now on; rendezvous_seek is called when it is over.
void alone_wait(struct agent *agent, struct offer *offer);

// It waits no more. Harmless if it does not.
void alone_forget(struct offer *offer);
