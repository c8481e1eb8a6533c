// What links are made of: shared by link.c (one link and its connections) and links.c (all of them).
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/address.h"
#include "agent/fabric.h"
#include "agent/greeting.h"
#include "agent/link.h"
#include "agent/list.h"
#include "agent/peer.h"

struct links;

// A connection: attempt, greeting, or up.
struct connection {
    struct list node; // in links.connections
    struct links *links;
    struct link *link; // null for one that came from outside and has not said its name
    struct fabric_conn *conn;
    struct data_link *data; // null until it is ready
    struct greeting greeting;
    bool held;     // it has proved itself, but our own attempt goes first
    bool answered; // it is ours, and has sent its proof
    struct address remote;
    uint64_t began_ms;
    uint64_t deadline_ms; // for proving itself
};

struct link {
    struct list node; // in links.all
    struct links *links;
    struct peer peer; // a copy
    struct connection *up;
    struct connection *ours; // that we are making
    bool going_down;
    bool major;
    bool kept; // while links_configure looks for those that are not
    void *user;

    uint64_t wanted_until_ms; // attempts are made until then
    uint64_t next_try_ms;
    uint64_t backoff_ms; // 0: none since it was up

    uint64_t ping_sequence, ping_sent_ns, ping_due_ms;
    unsigned pings_unanswered;
    uint32_t rtt_us;

    uint64_t since_ms, times_up, failures, sessions;
    uint64_t past_tx_bytes, past_rx_bytes; // of connections before this one
    char error[LINK_ERROR];
};

// What a connection says in connecting, so that it is not taken for somebody else's. With its zero.
#define LINK_INTENT "rdma-agent link"

// Returns null without memory.
struct link *link_new(struct links *links, const struct peer *peer);

// Takes it down first.
void link_free(struct link *link);

// The peer's entry changed: down, and up again if it was. Returns 0 or -ENOMEM, the link being down then.
int link_change(struct link *link, const struct peer *peer);

// Ends all connections of a link. `why` is kept as its last error.
void link_shut(struct link *link, const char *why);

// Does what is due. Returns when to be called again; UINT64_MAX for never.
uint64_t link_tend(struct link *link, uint64_t now_ms);

// A connection from outside, accepted. Null without memory.
struct connection *connection_accepted(struct links *links, struct fabric_conn *conn, const struct address *remote);

// Ends and frees it, without telling the link.
void connection_close(struct connection *connection);

// The same, and the link, or the count of refused ones, hears of it.
void connection_fail(struct connection *connection, const char *why);

// Fabric events of a connection.
void connection_ready(struct connection *connection);
void connection_refused(struct connection *connection, int error);
void connection_gone(struct connection *connection, int error);

// Data thread events of a connection.
void connection_received(void *owner, const struct link_message *message);
void connection_failed(void *owner, const char *why);

// In links.c: something has a new deadline.
void links_reschedule(struct links *links);
uint64_t links_now_ms(const struct links *links);
