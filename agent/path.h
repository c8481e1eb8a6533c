// A path: one end of a session with another host, as the data thread serves it.
//
// The application's end is side 1 of the session: it produces into ring 1 and consumes ring 0. The agent is side 0 of
// the memory here, and carries for the other host: what the application produces goes by RDMA writes from the data of
// ring 1 straight into ring 0 of the other end, at the same offset, and the cursor behind it; what the application has
// consumed of ring 0 goes back as a cursor, the credit. What else there is to know (watching, switch_at, ends) goes by
// messages, and is stored into the other end's header by its agent.
//
//   memory of one end      written by
//   header, ring 0 data    the application, this agent, and by RDMA the other agent (who may write no more than that)
//   ring 1 data            the application
//
// Nothing in that memory is trusted: each value is loaded once, and checked. A session that breaks the rules is broken
// up: its application gets ECONNRESET, the other side is told, and nothing else is disturbed.
//
// Ends. An application announces its end before its FIN goes out, and the other side hears of it behind the last byte. An
// end that never came to know of its session announces nothing: the other side, when it has seen the FIN, asks for it. An
// end whose FIN is out cannot switch to the ring any more, so its stream was all in TCP.
//
// A FIN that overtook what is in the ring would leave nothing to send it again by, should the link fail. So it waits until
// the other side has answered FINISHED by ARRIVED (agent/session_keep.h).
//
// Going back to TCP is the applications' own affair (preload/resend.h); the agents pass the wish on (LEAVE), and tell an
// application that switched when it is known at the other end (SETTLED). Once a wish is there, nothing is called settled:
// the application may have gone by what it saw before.
//
// Letting go. Whoever is done says OVER, behind all that it posted, and posts nothing to the session any more. Who has
// heard it says OVER too (if it had not), and then a second one: "yours has come, and all before it". When both have been
// heard and said, nothing is under way to this memory, nor from it, and it may be used for something else. An end that
// wants TCP says LEAVE before it says OVER: what the other one has sent it may not have read, and is sent again.
//
// A path is passive: all of it but path_init is called by the data thread, which alone touches it meanwhile.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/fabric.h"
#include "agent/link_wire.h"
#include "agent/list.h"
#include "core/layout.h"
#include "core/ring.h"

struct fabric_conn;
struct fabric_memory;
struct data_link;

// Most bytes of one post. A path posts once in a turn, so that all have theirs.
#define PATH_POST_MOST FABRIC_SPAN_MOST

enum path_events {
    PATH_OVER = 1,    // both sides have let go: the memory is free
    PATH_ARRIVED = 4, // all that the end has sent is at the other host, and its end
    PATH_BROKEN = 2,  // one of the two ends broke the rules; PATH_OVER follows, unless the link fails first
};

enum path_said {
    SAID_WATCHING = 1,
    SAID_SWITCHED = 2,
    SAID_FINISHED = 4,
    SAID_UNREAD = 8,
    SAID_STARVED = 16,
    SAID_ENDED = 32,
    SAID_SETTLED = 64,
    SAID_LEAVE = 128,
    SAID_ARRIVED = 256
};

// Looks at a cursor that cannot be before it counts as a breach of the protocol: some ten milliseconds.
#define PATH_DOUBTS_MOST 50000u

struct path {
    // The owner's to fill in, before path_init.
    struct session_shared *memory; // the whole session memory, session_bytes(ring_bytes) of it
    struct end_shared *end;
    uint64_t ring_bytes;
    const struct fabric_memory *source; // the data of ring 1
    int bell;                           // eventfd: wakes the application
    int agent_bell;                     // becomes readable, edge-triggered, when the application rings
    uint32_t number;                    // of the session, for the other side to name it; unique on the link
    void *owner;

    // The data thread's.
    struct fabric_conn *conn;
    struct link_place place; // of the other end's memory
    uint32_t remote;         // its number of the session
    bool connected;          // the two above are known
    bool finishing;          // nobody holds the end any more: what was produced is posted, then the path is over
    bool broken;
    bool failed;  // the connection is gone
    bool starved; // the other side waits for credit
    uint8_t over_said, over_heard;
    uint32_t said, heard;        // enum path_said
    struct ring_tx in;           // ring 0, of which the agent is the producer. Only for the bells
    struct ring_rx out;          // ring 1, of which it is the consumer
    uint64_t posted;             // bytes of ring 1
    uint64_t final;              // while finishing: bytes there are to post
    uint64_t credited;           // bytes of ring 0 that the other side knows to be consumed
    uint64_t arrived;            // bytes of ring 0 that were counted
    uint32_t doubts;             // looks in a row at a cursor of the other side's that cannot be
    uint64_t paid_until;         // when all that was posted so far may have been, by the rate limit
    uint64_t tx_bytes, rx_bytes; // since they were last asked for

    struct data_link *link; // null while the data thread does not have it
    struct list turn;       // in data_thread.hot, or by itself
    struct list in_link;
    unsigned idle;   // turns without anything to do
    uint32_t events; // enum path_events that were not passed on yet

    // Between the threads, under data_thread.lock.
    uint32_t told; // enum path_events that the owner has not heard yet
    struct list in_events;
    uint32_t wishes; // enum path_wishes that the data thread has not granted yet
    struct list in_wishes;
    struct link_place wish_place;
    uint32_t wish_remote;
    bool gone; // the data thread has let go of it
};

// How fast a session may send, and what time it is (ns). Without a limit `now` need not be known.
struct path_pace {
    uint64_t rate; // bytes per second, 0 = unlimited
    uint64_t now;
};

// Fills in the rest of a fresh path.
void path_init(struct path *path);

// The other end is there. From now on there is something to do.
void path_connect(struct path *path, const struct link_place *place, uint32_t remote);

// Nobody holds the end any more.
void path_finish(struct path *path);

// Does the next thing there is to do: posts at most once. Returns 1 if it did, 0 if there was nothing, -EAGAIN if the
// connection takes nothing now, -EPIPE if it never will again.
int path_push(struct path *path, const struct path_pace *pace);

// While it is in debt by the rate limit: the time at which it may go on, or 0.
uint64_t path_paced_until(const struct path *path, const struct path_pace *pace);

// Asks the application to ring from now on when there is something to do. False if there is something already: then it
// is to be pushed. With `paced`, bytes that wait for the rate limit do not count.
bool path_cool(struct path *path, bool paced);

// The other side wrote into the memory.
void path_arrived(struct path *path);

// A message of the other side's about this session. Returns 0, or -EPROTO if it could not have come now: that is the
// link's end.
int path_hear(struct path *path, const struct link_message *message);

bool path_is_over(const struct path *path);
