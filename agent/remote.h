// Rendezvous over links: where the two halves of a connection between two hosts meet.
//
// Of the two agents of a link, the minor forwards its offers, and the major matches them with its own (link_wire.h). What
// a peer offers counts only if the configuration lets that peer speak for the address, and if its other half is a socket
// that was offered here: nothing that a peer says is believed beyond that.
//
// Offers that wait are kept by rendezvous.h; here is what peers have offered, and the sessions of each link by number.
#pragma once

#include <stdint.h>

#include "agent/links.h"
#include "agent/table.h"

struct agent;
struct offer;

// Of each peer; what it offers beyond that is not kept, and stays TCP.
#define REMOTE_OFFERS_MOST 65536

struct remote {
    struct table forwarded; // of struct offer, by number
    struct table kept;      // of struct peer_offer, by addresses as seen here
    struct table kept_by_number;
    uint64_t last_number;
};

// Returns 0 or -ENOMEM.
int remote_init(struct remote *remote);

// All links must be down.
void remote_deinit(struct remote *remote);

// What links have to say.
extern const struct links_events remote_events;

// An offer waits whose other half is not on this host. May be called again, when there are other peers.
void remote_seek(struct agent *agent, struct offer *offer);

// Its client's queue has room again.
void remote_retry(struct agent *agent, struct offer *offer);

// It does not wait any more.
void remote_forget(struct agent *agent, struct offer *offer);
