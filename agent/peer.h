// Other hosts that this one has links with, as the configuration names them.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/address.h"
#include "agent/link_wire.h"
#include "agent/policy.h"
#include "agent/secret.h"

#define PEER_ERROR 512

struct peer {
    char name[LINK_HOST];        // that it has for itself, too
    struct address address;      // where its agent listens
    struct policy_list networks; // of struct network: the addresses of its connections
    char *key_file;
    uint8_t key[SECRET_KEY];
};

// Frees what it holds, and forgets its key.
void peer_clear(struct peer *peer);

// Returns 0 or -ENOMEM. `copy` is the caller's to clear.
int peer_copy(struct peer *copy, const struct peer *peer);

bool peer_equal(const struct peer *a, const struct peer *b);

// Reads the key file. It must be a regular file of the agent's user or root, for its owner alone. On failure returns
// -errno and says what was expected and how to get it.
int peer_read_key(struct peer *peer, char error[static PEER_ERROR]);

// Whether connections with this address are the peer's, and how narrowly that is said: the bits that its networks have
// in common with the address; -1 if it may not speak for it.
int peer_speaks_for(const struct peer *peer, const struct address *address);

// Whether its agent may connect from there.
bool peer_may_come_from(const struct peer *peer, const struct address *address);
