// A link: the authenticated connection to the agent of one peer, made when somebody wants it, kept alive, and made
// again with back-off.
//
//   DOWN -> CONNECTING -> GREETING (greeting.h) -> UP -> DOWN
//
// Both sides may connect at once. The host with the greater name then does not answer the other's proof until its own
// attempt has come to an end, so that only one connection ever comes up. A peer that connects while the link is up has
// lost it, or was started again: the new connection takes the place of the old one.
//
// All of this is the control thread's. A connection that is ready is handed to the data thread (data_thread.h), which
// posts and polls; messages that are not the data thread's own come back from it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/link_wire.h"

struct agent;
struct data_link;
struct fabric_conn;
struct link;
struct peer;

enum link_state { LINK_STATE_DOWN, LINK_STATE_CONNECTING, LINK_STATE_GREETING, LINK_STATE_UP };

#define LINK_ERROR 400

// Shown by `rdmactl peers`.
struct link_figures {
    enum link_state state;
    uint64_t since_ms; // of being up or not, by the loop's clock
    uint64_t times_up;
    uint64_t failures;
    uint32_t rtt_us;             // of the last PING; 0: none yet
    uint64_t tx_bytes, rx_bytes; // of sessions, since the link was configured
    uint64_t sessions;
    char device[64];
    char error[LINK_ERROR]; // the last one, or ""
};

// Asks for the link to be up; links_events.up tells when it is. Does nothing if it is, or is being made, or waits.
void link_want(struct link *link);

enum link_state link_state(const struct link *link);

const char *link_state_name(enum link_state state);

// Of the two sides, the one that matches offers. Only while the link is up.
bool link_is_major(const struct link *link);

const struct peer *link_peer(const struct link *link);

// Null unless the link is up, or just going down (links_events.down).
struct fabric_conn *link_conn(const struct link *link);
struct data_link *link_data(const struct link *link);

struct agent *link_agent(const struct link *link);

// What remote.h keeps for this link.
void link_set_user(struct link *link, void *user);
void *link_user(const struct link *link);

// Sessions that begin and end, to be counted.
void link_count_session(struct link *link, int difference);

void link_read_figures(const struct link *link, struct link_figures *figures);

// Sends a message of the control thread's, in order with all others. Without effect unless the link is up.
void link_send(struct link *link, const struct link_message *message);

// The peer broke the protocol, or something else makes the link unusable: it goes down, and is counted.
void link_fail(struct link *link, const char *why);
