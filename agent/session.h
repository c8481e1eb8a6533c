// Sessions: pairs of ends that share rings.
//
// The agent gives the ends their memory, bells and lifelines and is then not on the data path. An end is over when the
// last copy of its lifeline is closed and nobody holds its socket any more, however that came about; then the other end
// is told, through the shared header and its bell. The session is over when both are.
//
// Both ends of a shm session are on this host. All that is done for one end (make, attach, join, close) is done for
// that end alone and does not ask where the other one is; only session_open knows that there are two.
//
// Of an rdma session, end 1 is here, and end 0 stands for the one on the other host: it has no holders and no memory, its
// bell is the one that wakes the data thread, and it is closed when nothing is under way to or from the other host any
// more. What there is to do with that host is in session_far.c.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/alive.h"
#include "agent/bell.h"
#include "agent/client.h"
#include "agent/identity.h"
#include "agent/link_wire.h"
#include "agent/list.h"
#include "agent/session_keep.h"
#include "agent/table.h"
#include "agent/watch.h"
#include "core/layout.h"
#include "core/wire.h"

struct agent;
struct far_end;
struct link;
struct ring;
struct session;
struct user;

// One client that was attached to one end.
struct session_holder {
    struct list in_client;
    struct list in_end;
    struct client *client;
    struct session_end *end;
    uint64_t token; // of the offer by which it became one
};

struct session_end {
    struct table_node by_cookie; // in sessions.ends
    struct session *session;
    uint32_t side;
    struct identity identity;
    struct user *user;
    pid_t pid; // of the client that offered it, or of another holder when that is gone
    char command[CLIENT_COMMAND];
    struct list holders; // of struct session_holder, the eldest first
    int memory;          // the memfd of struct end_shared
    struct bell bell;
    int lifeline;       // to be watched
    int lifeline_given; // the other end of it, until the first client gets it
    struct watch watch;
    struct kept kept;
    struct list drift;         // in sessions.drifting: no holder that we know of, but the socket is still held
    bool closed;               // nobody holds it
    bool left;                 // it went back to TCP: its socket may get another session, and is not found here
    enum wire_reason declined; // why the client could not use it, or WIRE_REASON_NONE
    bool told_tx, told_rx;     // the marks in the header were set by the agent, not by the end itself
};

struct session {
    struct list link; // in sessions.all
    struct agent *agent;
    uint64_t id;
    uint32_t transport;  // TRANSPORT_*
    uint8_t mark[16];    // see end_shared.mark
    uint64_t seen_bytes; // through it, when it was last looked at
    uint64_t active_ms;  // when it was last seen to have carried any since the look before
    bool recalled;       // ordered back to TCP
    uint64_t since_ms;
    struct ring *ring;
    struct session_end end[2];
    struct far_end *far; // what is under way to another host, or null
    bool opening;        // nobody is attached yet
    bool agreed;         // by the other host
};

struct sessions {
    struct list all;
    struct table ends;
    struct alive alive;
    struct list drifting;   // of struct session_end
    uv_timer_t drift_timer; // runs only while there are some
    uint64_t drift_ms;
    uv_timer_t beat_timer;   // runs only while there are sessions with other hosts
    struct list lingering;   // of struct lingering
    uv_timer_t linger_timer; // runs only while there are some
    uint64_t last_id;
    uint64_t looked_ms; // when all were last looked at, for room
    uint64_t shm;       // that exist
    uint64_t rdma;
    uint64_t registered_bytes; // for RDMA, of all sessions
};

// What is known of an end that gets a session.
struct session_half {
    struct client *client;
    uint64_t token;
    const struct identity *identity;
};

// What an end's memory says, made plausible: it is written by the user's processes.
struct session_figures {
    uint64_t tx_bytes, rx_bytes;
    uint32_t tx_way, rx_way; // WAY_*
    uint64_t tx_calls, rx_calls, sleeps, bells, tx_full;
};

// Returns 0 or -ENOMEM.
int sessions_init(struct sessions *sessions);

// Gives up all sessions without telling anybody: they go on by themselves.
void sessions_deinit(struct sessions *sessions);

// Between these the loop may run.
void sessions_start(struct sessions *sessions, uv_loop_t *loop);
void sessions_stop(struct sessions *sessions);

// Makes a session of two halves and attaches both. Returns WIRE_REASON_NONE, or why it was not possible.
enum wire_reason session_open(struct agent *agent, const struct session_half halves[static 2]);

// What is known of the other host's part in a session.
struct session_far {
    struct link *link; // is up
    uint32_t number;   // by which the other host is to name the session; free on this link
    uint64_t ring_bytes;
    const uint8_t *mark; // end_shared.mark, as the other host gave it; null: one of our own
};

// Makes an rdma session for a half whose other half is on another host; nobody is attached yet. Returns
// WIRE_REASON_NONE and *session, or why it was not possible.
enum wire_reason session_open_far(struct agent *agent, const struct session_half *half, const struct session_far *far,
                                  struct session **session);

// Where the other host may write.
void session_far_place(const struct session *session, struct link_place *place);

// The other host has its half, there, under that number.
void session_far_connect(struct session *session, const struct link_place *place, uint32_t remote);

// Attaches the half, which may be offered by another client by now.
void session_far_attach(struct session *session, struct client *client, uint64_t token);

// Nobody is attached, and nobody will be.
void session_far_drop(struct session *session);

// All that the end here has sent has arrived at the other host, and its end.
void session_far_arrived(struct session *session);

// Nothing is under way to the other host or from it any more, since both are done. May end the session.
void session_far_over(struct session *session);

// The same, but because the link is gone: what was under way is lost. May end the session.
void session_far_lost(struct session *session);

// The number of a session with another host, as given in session_open_far. Until it is over or lost.
uint32_t session_far_number(const struct session *session);
struct link *session_far_link(const struct session *session);

// The session of this id, or null.
struct session *session_find(const struct sessions *sessions, uint64_t id);

// The end that this socket has, or null. A socket that is not connected any more still has the one it had.
struct session_end *session_find_end(struct sessions *sessions, const struct identity *identity);

// Hands an end that exists to one more client, one to which the socket was `passed`, or a child by fork. Returns
// WIRE_REASON_NONE, or why that was not possible.
enum wire_reason session_join(struct session_end *end, struct client *client, uint64_t token, bool passed);

// A client could not use its ATTACH. Without effect unless it was attached to that session. Returns whether it was.
bool session_decline(struct client *client, uint64_t id, enum wire_reason reason);

// A client took back an offer that had been answered: it has not read the answer, and will not use it. Without effect on
// sessions of one host, where nobody waits for what it might say.
void session_withdraw(struct client *client, uint64_t token);

// A client says that its end of a session went back to TCP. Without effect unless the end's own memory says so too.
void session_left(struct client *client, uint64_t id);

// Orders the ends back to TCP: LEAVE_DRAIN or LEAVE_RESEND. They go at their next calls, and their memory comes back then.
void session_recall(struct session *session, uint32_t wish);

// The client disconnected: it is no holder of anything any more, as far as its name goes.
void session_forget(struct client *client);

// Reads the figures of both ends.
void session_read_figures(const struct session *session, struct session_figures figures[static 2]);

// Whether an end is on this host.
static inline bool session_end_is_here(const struct session_end *end)
{
    return end->session->transport != TRANSPORT_RDMA || end->side == 1;
}

static inline struct session_end *session_peer(const struct session_end *end)
{
    return &end->session->end[1 - end->side];
}
