// Is a connection still held by some process?
//
// A lifeline says that nobody holds a session end any more who knows of it. The socket itself may be on its way to
// another process (SCM_RIGHTS), or in one that has just become another program: then it will ask for its session.
// The kernel knows, by its socket diagnosis (sock_diag(7)).
#pragma once

#include <stdbool.h>

#include <stdint.h>

#include "agent/identity.h"

struct alive {
    int sock;          // netlink; -1: the kernel cannot be asked
    uint64_t netns;    // whose connections it can be asked about
    uint32_t sequence; // of the last question
};

// Never fails: if the kernel cannot be asked, the answer is always no.
void alive_init(struct alive *alive);

void alive_deinit(struct alive *alive);

// True if the kernel says that this very socket exists, is no longer being connected or taken down, and has an owner.
// False if not, or if the kernel cannot be asked (another namespace than the agent's, no inet_diag).
bool alive_is_held(struct alive *alive, const struct identity *identity);
