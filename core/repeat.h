// Sending a ring once more by TCP, when the other end may not be able to read it any more (preload/resend.h). Done by a
// program that holds the end, or by the agent for one that is gone.
//
// The state is all in the end's memory, and how much has gone out is told by the kernel's own position in the stream: so
// whoever comes next goes on where the last one stopped, however that was.
#pragma once

#include "core/layout.h"
#include "core/ring.h"

struct repeat {
    struct end_shared *end;
    struct ring_tx *ring; // that this end produces into
};

// One step, from WAY_RING or WAY_BACK on, with end_shared.tx_lock or nobody else there. Sends without waiting. Returns 1
// when all is out, or need not go, or the connection cannot send any more; 0 if there is more to be sent later; -EPROTO
// if a cursor cannot be.
int repeat_step(const struct repeat *repeat, int fd);
