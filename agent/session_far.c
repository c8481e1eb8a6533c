// Sessions whose other end is on another host: their memory, as the RDMA device and the data thread have it, and how it is
// let go of.
//
// The memory goes back to the pool with the session, so the session outlives whatever is under way to its memory: end 0,
// which stands for the other host, is closed only by session_far_over and session_far_lost.

#include "agent/session_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/data_thread.h"
#include "agent/descriptors.h"
#include "agent/fabric.h"
#include "agent/fd.h"
#include "agent/link.h"
#include "agent/path.h"
#include "agent/peer.h"
#include "agent/ringpool.h"
#include "core/log.h"
#include "core/memfd.h"
#include "core/ring.h"
#include "core/session.h"

struct far_end {
    struct path path;
    struct link *link;
    struct data_thread *thread;
    uint64_t bytes; // of the memory
    struct session_shared *memory;
    struct end_shared *end;
    struct fabric_memory *target; // the header and ring 0, which the other host may write
    struct fabric_memory *source; // the data of ring 1
};

// --- memory ---

static int map(struct far_end *far, const struct session *session)
{
    void *address;
    int result = memfd_map(session->ring->fd, far->bytes, 1, &address);

    if (result < 0)
        return result;
    far->memory = address;
    result = memfd_map(session->end[1].memory, END_BYTES, 1, &address);
    if (result < 0)
        return result;
    far->end = address;
    return 0;
}

// Two registrations: the key of the first is told to the other host, that of the second to nobody.
static int register_memory(struct far_end *far, uint64_t ring_bytes)
{
    unsigned char *begin = (unsigned char *)far->memory;
    struct fabric_conn *conn = link_conn(far->link);
    int result = fabric_register(conn, begin, SESSION_DATA + ring_bytes, true, &far->target);

    if (result < 0)
        return result;
    return fabric_register(conn, begin + SESSION_DATA + ring_bytes, ring_bytes, false, &far->source);
}

static void unmap(struct far_end *far)
{
    if (far->target)
        fabric_unregister(far->target);
    if (far->source)
        fabric_unregister(far->source);
    if (far->memory)
        memfd_unmap(far->memory, far->bytes);
    if (far->end)
        memfd_unmap(far->end, END_BYTES);
    free(far);
}

static void set_path(struct session *session, uint32_t number)
{
    struct far_end *far = session->far;

    far->path = (struct path){
        .memory = far->memory,
        .end = far->end,
        .ring_bytes = session->ring->ring_bytes,
        .source = far->source,
        .bell = session->end[1].bell.rope, // which no other end is given
        .agent_bell = session->end[0].bell.sleep,
        .number = number,
        .owner = session,
    };
}

// On failure session->far is left to be let go of.
static int far_make(struct session *session, const struct session_far *what)
{
    struct far_end *far = calloc(1, sizeof(*far));
    int result;

    if (!far)
        return -ENOMEM;
    session->far = far;
    far->link = what->link;
    far->thread = session->agent->links.thread;
    far->bytes = session_bytes(what->ring_bytes);
    result = map(far, session);
    if (result == 0)
        result = register_memory(far, what->ring_bytes);
    if (result < 0)
        return result;
    set_path(session, what->number);
    return data_thread_add_path(far->thread, link_data(what->link), &far->path);
}

// The data thread has let go of it, or never had it.
static void let_go(struct session *session)
{
    struct far_end *far = session->far;

    session->far = NULL;
    unmap(far);
}

void session_far_forget(struct session *session)
{
    if (session->far)
        let_go(session);
}

// --- the beat ---

// So that programs see when this agent hangs, which nobody else carries their bytes for.
#define BEAT_MS 250

static void on_beat(uv_timer_t *timer)
{
    struct agent *agent = timer->data;
    bool wanted = agent->sessions.rdma > 0;

    board_beat(&agent->board, wanted ? uv_hrtime() / 1000000 : 0);
    if (!wanted)
        uv_timer_stop(timer);
}

static void beat(struct agent *agent)
{
    uv_timer_t *timer = &agent->sessions.beat_timer;

    if (uv_is_active((uv_handle_t *)timer))
        return;
    timer->data = agent;
    on_beat(timer);
    uv_timer_start(timer, on_beat, BEAT_MS, BEAT_MS);
}

// --- opening ---

static enum wire_reason check_limits(const struct agent *agent, const struct user *user, uint64_t bytes)
{
    uint64_t most = agent->config.rdma.registered_memory, used = agent->sessions.registered_bytes;

    if (used > most || bytes > most - used)
        return WIRE_REASON_LIMIT_MEMORY;
    return limits_check_session(&agent->config.limits, &agent->users, user, user, bytes);
}

static int fit_out(struct session *session, uint64_t owner, const struct session_far *what)
{
    int result = ringpool_take_of(&session->agent->pool, owner, what->ring_bytes, &session->ring);

    if (result < 0)
        return result;
    result = session_end_make(&session->end[1]);
    if (result < 0)
        return result;
    result = bell_make(&session->end[0].bell);
    if (result < 0)
        return result;
    if (descriptors_scarce(session->end[0].bell.rope, RESERVE_FOR_SESSIONS))
        return -EMFILE;
    // Before the data thread looks into it.
    session_init(session->ring->header, session->id, TRANSPORT_RDMA, what->ring_bytes);
    return far_make(session, what);
}

enum wire_reason session_open_far(struct agent *agent, const struct session_half *half, const struct session_far *what,
                                  struct session **result_session)
{
    uint64_t bytes = session_bytes(what->ring_bytes);
    enum wire_reason reason = check_limits(agent, half->client->user, bytes);
    struct session *session;
    int result;

    if (reason != WIRE_REASON_NONE)
        return reason;
    session = session_make(agent, TRANSPORT_RDMA);
    if (!session)
        return WIRE_REASON_NO_MEMORY;
    if (what->mark)
        memcpy(session->mark, what->mark, sizeof(session->mark));
    result = fit_out(session, half->client->uid, what);
    if (result < 0) {
        log_seldom(LOG_LEVEL_WARNING, "no session with peer %s: %s", link_peer(what->link)->name, strerror(-result));
        session_far_forget(session);
        session_abandon(session);
        return session_reason_of(result);
    }
    session->opening = true;
    session_end_introduce(&session->end[1], half);
    session_enter(session);
    beat(agent);
    agent->sessions.registered_bytes += bytes;
    link_count_session(what->link, 1);
    *result_session = session;
    return WIRE_REASON_NONE;
}

void session_far_place(const struct session *session, struct link_place *place)
{
    *place = (struct link_place){
        .address = fabric_memory_address(session->far->target),
        .key = fabric_memory_key(session->far->target),
        .ring_bytes = session->ring->ring_bytes,
    };
}

void session_far_connect(struct session *session, const struct link_place *place, uint32_t remote)
{
    data_thread_connect_path(session->far->thread, &session->far->path, place, remote);
}

static void log_attached(const struct session *session)
{
    const struct session_end *end = &session->end[1];
    char local[ADDRESS_TEXT], remote[ADDRESS_TEXT];

    if (log_enabled(LOG_LEVEL_DEBUG))
        log_debug("session %llu: process %d, %s, with peer %s, %s", (unsigned long long)session->id, end->pid,
                  address_format(&end->identity.local, local), link_peer(session->far->link)->name,
                  address_format(&end->identity.remote, remote));
}

// A client that cannot be reached loses its end: the lifeline closes with the copy that it did not get.
void session_far_attach(struct session *session, struct client *client, uint64_t token)
{
    struct session_end *end = &session->end[1];

    session->opening = false;
    if (client->uid != session->ring->owner)
        session->ring->owner = RINGPOOL_SHARED;
    session_end_attach(end, client, token, end->lifeline_given);
    fd_close(&end->lifeline_given);
    log_attached(session);
}

void session_far_drop(struct session *session)
{
    session->opening = false;
    session_end_closed(&session->end[1]);
}

uint32_t session_far_number(const struct session *session)
{
    return session->far->path.number;
}

struct link *session_far_link(const struct session *session)
{
    return session->far->link;
}

// --- the end ---

void session_far_finish(struct session *session)
{
    if (session->far)
        data_thread_finish_path(session->far->thread, &session->far->path);
}

static void far_closed(struct session *session)
{
    session->agent->sessions.registered_bytes -= session->far->bytes;
    link_count_session(session->far->link, -1);
    let_go(session);
    session->end[0].closed = true;
    if (session->end[1].closed)
        session_over(session);
}

void session_far_arrived(struct session *session)
{
    session_keep_arrived(&session->end[1]);
}

// Where the other end went back to TCP, it may not have read the ring: then that is to be sent again, as after a lost link.
void session_far_over(struct session *session)
{
    if (ring_leave_wish(&session->ring->header->ring[1]) == LEAVE_NOT)
        session_keep_arrived(&session->end[1]);
    far_closed(session);
}

void session_far_lost(struct session *session)
{
    if (!session->end[1].closed)
        session_recall(session, LEAVE_RESEND);
    if (session->opening)
        session_far_drop(session);
    far_closed(session);
}
