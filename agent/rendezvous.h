// Where the two halves of a connection meet.
//
// An offer says: this client holds this end of this connection. When the other end has been offered too, both become a
// session. Until then it waits; it goes when it is withdrawn, its client disconnects, or a newer offer for the same end
// takes its place.
//
// One end can be offered by several processes that share the socket (the newest counts, and after a session exists they
// all get that session), and a socket can be gone without notice: then another socket with the same addresses and
// another cookie proves it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/alone.h"
#include "agent/identity.h"
#include "agent/list.h"
#include "agent/table.h"
#include "core/wire.h"

struct agent;
struct client;
struct link;
struct session;

struct offer {
    struct table_node by_tuple;
    struct table_node by_cookie;
    struct table_node by_token;
    struct list in_client; // client.offers or client.held
    struct list link;      // in rendezvous.waiting
    struct client *client;
    uint64_t token;
    struct identity identity;
    bool unproven;        // may be in other hands
    struct list in_alone; // while it is
    uint64_t since_ms;

    // Where the other half is on another host: see remote.h.
    struct table_node by_number;
    uint64_t number; // under which it was forwarded, 0: it was not
    struct link *forwarded_to;
    struct session *opening; // with the other half, if that is still there
};

// Has the offer wait until its client's queue has room for an answer, if it has none now. Returns whether it waits;
// then it is tried again when there is room.
bool rendezvous_hold_if_full(struct offer *offer);

struct rendezvous {
    struct table by_tuple;
    struct table by_cookie;
    struct table by_token;
    struct list waiting;
    uint64_t count;
    struct alone alone;
};

// Returns 0 or -ENOMEM.
int rendezvous_init(struct rendezvous *rendezvous);

// All offers must be gone.
void rendezvous_deinit(struct rendezvous *rendezvous);

// An OFFER came, with a descriptor that is rendezvous' to close, in any case. Returns 0, or -EPROTO if the client may
// not send this.
int rendezvous_offer(struct agent *agent, struct client *client, const struct wire_offer *message, int fd);

// A WITHDRAW came. An offer that is not there any more is none of the client's fault.
void rendezvous_withdraw(struct agent *agent, struct client *client, uint64_t token);

// Drops all offers of a client.
void rendezvous_forget(struct agent *agent, struct client *client);

// Tries once more what was held up by the client's full queue.
void rendezvous_retry(struct agent *agent, struct client *client);

// After a new configuration: refuses the waiting offers that it excludes, and seeks the others with its peers.
void rendezvous_recheck(struct agent *agent);

// Seeks the other half of an offer whose socket is in no other hands: here first, then on other hosts.
void rendezvous_seek(struct agent *agent, struct offer *offer);

// The offer that waits for this end of a connection, and has not met its other half; or null.
struct offer *rendezvous_find(const struct agent *agent, const struct address *local, const struct address *remote);

// The offer that waits for this socket, or null.
struct offer *rendezvous_find_socket(const struct agent *agent, uint64_t cookie);

// The offer came to its end.
void rendezvous_remove(struct agent *agent, struct offer *offer);

// The same, and its client is told why it has no session.
void rendezvous_refuse(struct agent *agent, struct offer *offer, enum wire_reason reason);
