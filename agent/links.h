// All links of this host, the fabric and the data thread that carry them, and the door at which other hosts knock.
//
// Without peers in the configuration there is neither fabric nor thread, and nothing listens.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "agent/address.h"
#include "agent/data_thread.h"
#include "agent/link.h"
#include "agent/list.h"

struct agent;
struct fabric;
struct path;

// Connections that have not proved themselves, at the most: of all hosts, and of one address.
#define LINKS_GREETINGS_MOST   64
#define LINKS_GREETINGS_OF_ONE 8
#define LINKS_STRANGERS_KNOWN  64
#define LINKS_LISTENERS_MOST   16

// Whom links speak to. Any may be null.
struct links_events {
    void (*up)(struct link *link);
    // Nothing is sent or received any more, and the data thread has let go of everything; the connection, and what is
    // registered with it, are there until this returns.
    void (*down)(struct link *link);
    // A message of rendezvous. The link may be failed from here.
    void (*received)(struct link *link, const struct link_message *message);
    // See data_thread_events.
    void (*path)(void *owner, struct path *path, int what);
};

struct links {
    struct list all;         // of struct link
    struct list connections; // of struct connection, on their way to be a link, or up
    struct agent *agent;
    struct links_events events;
    struct fabric *fabric; // null: no peers, or no memory for it
    struct data_thread *thread;
    struct data_thread_events thread_events;
    uint64_t refused; // connections from hosts that are not allowed, or that failed to prove themselves

    uv_loop_t *loop;
    uv_poll_t *poll; // of the fabric's events
    uv_timer_t timer;
    uv_timer_t listen_timer; // while an address cannot be listened at
    char host[LINK_HOST];
    uint16_t port;
    struct address listen[LINKS_LISTENERS_MOST]; // one that is all zero stands for any
    bool listening[LINKS_LISTENERS_MOST];
    unsigned listen_count;

    struct address stranger[LINKS_STRANGERS_KNOWN]; // that were logged
    unsigned strangers;
};

void links_init(struct links *links, struct agent *agent, const struct links_events *events);

// Between these the loop may run.
void links_start(struct links *links, uv_loop_t *loop);

// The loop must run once more.
void links_stop(struct links *links);

// After the configuration was read: links of peers that are no longer there go down and away; those of changed ones go
// down, to come up anew. Opens the fabric, if there are peers.
void links_configure(struct links *links);

// The link of the peer that may speak for this address, or null. Of several, that which says so most narrowly.
struct link *links_find(const struct links *links, const struct address *remote);

// One after the other, beginning with that after null; null at the end.
struct link *links_next(const struct links *links, const struct link *link);

// Null if there is no peer of that name.
struct link *links_find_named(const struct links *links, const char *name);
