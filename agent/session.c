// Making sessions, finding them, and clearing up after them.

#include "agent/session_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "agent/agent.h"
#include "agent/descriptors.h"
#include "agent/fd.h"
#include "agent/ringpool.h"
#include "core/log.h"
#include "core/ring.h"
#include "core/session.h"

enum wire_reason session_reason_of(int result)
{
    return result == -EMFILE || result == -ENFILE ? WIRE_REASON_NO_DESCRIPTORS : WIRE_REASON_NO_MEMORY;
}

static void session_dispose(struct session *session)
{
    for (int side = 0; side < 2; side++) {
        session_holders_drop(&session->end[side]);
        session_end_deinit(&session->end[side]);
    }
    free(session);
}

// Of the end that is surely here, and of the other one if that is, too; else the same again.
static struct user *user_of(const struct session *session, int side)
{
    const struct session_end *end = &session->end[side];

    return session_end_is_here(end) ? end->user : session->end[1].user;
}

static uint64_t *count_of(struct session *session)
{
    struct sessions *sessions = &session->agent->sessions;

    return session->transport == TRANSPORT_RDMA ? &sessions->rdma : &sessions->shm;
}

struct session *session_make(struct agent *agent, uint32_t transport)
{
    struct session *session = calloc(1, sizeof(*session));

    if (!session || getrandom(session->mark, sizeof(session->mark), 0) != sizeof(session->mark)) {
        free(session);
        return NULL;
    }
    session->agent = agent;
    session->id = ++agent->sessions.last_id;
    session->transport = transport;
    session->since_ms = session->active_ms = agent_now_ms(agent);
    for (uint32_t side = 0; side < 2; side++)
        session_end_prepare(&session->end[side], session, side);
    return session;
}

static int session_fit_out(struct session *session, uint64_t owner)
{
    int result = ringpool_take(&session->agent->pool, owner, &session->ring);

    for (int side = 0; side < 2 && result == 0; side++)
        result = session_end_make(&session->end[side]);
    if (result == 0 && descriptors_scarce(session->end[1].lifeline_given, RESERVE_FOR_SESSIONS))
        result = -EMFILE;
    return result;
}

void session_abandon(struct session *session)
{
    if (session->ring)
        ringpool_give(&session->agent->pool, session->ring);
    session_dispose(session);
}

void session_enter(struct session *session)
{
    struct agent *agent = session->agent;

    for (int side = 0; side < 2; side++) {
        struct session_end *end = &session->end[side];
        if (session_end_is_here(end))
            table_add(&agent->sessions.ends, &end->by_cookie,
                      table_hash(&end->identity.cookie, sizeof(end->identity.cookie)));
    }
    list_append(&agent->sessions.all, &session->link);
    (*count_of(session))++;
    agent->stats.sessions++;
    users_count_session(&agent->users, user_of(session, 0), user_of(session, 1),
                        session_bytes(session->ring->ring_bytes));
    if (session->ring->owner != RINGPOOL_SHARED)
        agent_want_rings(agent, user_of(session, 0));
    agent_tend_pool(agent);
}

static void log_opened(const struct session *session)
{
    char local[ADDRESS_TEXT], remote[ADDRESS_TEXT];

    if (!log_enabled(LOG_LEVEL_DEBUG))
        return;
    log_debug("session %llu: process %d and %d, %s and %s", (unsigned long long)session->id, session->end[0].pid,
              session->end[1].pid, address_format(&session->end[0].identity.local, local),
              address_format(&session->end[0].identity.remote, remote));
}

// A client that cannot be reached loses its end: the lifeline closes with the copy that it did not get.
static void session_attach(struct session *session, const struct session_half halves[static 2])
{
    for (int side = 0; side < 2; side++) {
        struct session_end *end = &session->end[side];
        session_end_attach(end, halves[side].client, halves[side].token, end->lifeline_given);
        fd_close(&end->lifeline_given);
    }
}

enum wire_reason session_open(struct agent *agent, const struct session_half halves[static 2])
{
    const struct user *a = halves[0].client->user, *b = halves[1].client->user;
    uint64_t owner = a == b ? a->uid : RINGPOOL_SHARED;
    enum wire_reason reason =
        limits_check_session(&agent->config.limits, &agent->users, a, b, session_bytes(agent->pool.ring_bytes));
    struct session *session;
    int result;

    if (reason == WIRE_REASON_LIMIT_MEMORY)
        session_make_room(agent, a, b, session_bytes(agent->pool.ring_bytes));
    if (reason != WIRE_REASON_NONE)
        return reason;
    session = session_make(agent, TRANSPORT_SHM);
    if (!session)
        return WIRE_REASON_NO_MEMORY;
    result = session_fit_out(session, owner);
    if (result < 0) {
        session_abandon(session);
        return session_reason_of(result);
    }
    session_init(session->ring->header, session->id, session->transport, session->ring->ring_bytes);
    for (int side = 0; side < 2; side++)
        session_end_introduce(&session->end[side], &halves[side]);
    session_enter(session);
    session_attach(session, halves);
    log_opened(session);
    return WIRE_REASON_NONE;
}

// A socket can be disconnected and connected again: then it is of another connection, under the same cookie.
static bool end_is_of(const struct session_end *end, const struct identity *identity)
{
    return end->identity.cookie == identity->cookie &&
           (!identity->connected || identity_is_same_end(&end->identity, identity));
}

static struct session_end *find_end(const struct sessions *sessions, const struct identity *identity)
{
    uint64_t hash = table_hash(&identity->cookie, sizeof(identity->cookie));

    for (struct table_node *node = table_first(&sessions->ends, hash); node; node = table_next(node)) {
        struct session_end *end = container_of(node, struct session_end, by_cookie);
        if (!end->session->opening && end_is_of(end, identity))
            return end;
    }
    return NULL;
}

struct session_end *session_find_end(struct sessions *sessions, const struct identity *identity)
{
    struct session_end *end = find_end(sessions, identity);

    return end && !session_end_has_left(end) ? end : NULL;
}

struct session *session_find(const struct sessions *sessions, uint64_t id)
{
    list_for_each (link, &sessions->all) {
        struct session *session = container_of(link, struct session, link);
        if (session->id == id)
            return session;
    }
    return NULL;
}

void session_recall(struct session *session, uint32_t how)
{
    session->agent->stats.sessions_recalled++;
    session->recalled = true;
    // A ring that ends on another host cannot be read to its end by both sides.
    if (session->transport == TRANSPORT_RDMA)
        how = LEAVE_RESEND;
    // Before the bells: pairs with the look at it of whoever they wake.
    for (int side = 0; side < 2; side++)
        ring_ask_to_leave(&session->ring->header->ring[side], how);
    for (int side = 0; side < 2; side++)
        bell_ring(&session->end[side].bell);
    // For those who do nothing with this connection now, and do not sleep for it.
    atomic_fetch_add(&session->agent->board.shared->recalls, 1);
}

static void account_bytes(struct session *session)
{
    struct stats *stats = &session->agent->stats;
    struct session_figures figures[2];

    session_read_figures(session, figures);
    for (int side = 0; side < 2; side++) {
        if (!session_end_is_here(&session->end[side]))
            continue;
        stats->bytes_tx = stats_sum(stats->bytes_tx, figures[side].tx_bytes);
        stats->bytes_rx = stats_sum(stats->bytes_rx, figures[side].rx_bytes);
    }
}

static void session_uncount(struct session *session)
{
    struct agent *agent = session->agent;
    struct user *a = user_of(session, 0), *b = user_of(session, 1);

    users_uncount_session(&agent->users, a, b, session_bytes(session->ring->ring_bytes));
    users_put(&agent->users, a);
    if (a != b)
        users_put(&agent->users, b);
}

static void session_leave(struct session *session)
{
    struct agent *agent = session->agent;

    account_bytes(session);
    for (int side = 0; side < 2; side++) {
        if (session_end_is_here(&session->end[side]) && !session->end[side].left)
            table_remove(&agent->sessions.ends, &session->end[side].by_cookie);
    }
    list_remove(&session->link);
    (*count_of(session))--;
    session_uncount(session);
}

void session_close(struct session *session)
{
    struct agent *agent = session->agent;

    log_debug("session %llu is over", (unsigned long long)session->id);
    session_leave(session);
    ringpool_give(&agent->pool, session->ring);
    agent_tend_pool(agent);
    session_dispose(session);
}

void session_over(struct session *session)
{
    if (session->transport != TRANSPORT_RDMA || !session_keep_lingers(&session->end[1]))
        session_close(session);
}

int sessions_init(struct sessions *sessions)
{
    list_init(&sessions->all);
    list_init(&sessions->drifting);
    list_init(&sessions->lingering);
    sessions->last_id = 0;
    sessions->shm = sessions->rdma = sessions->registered_bytes = 0;
    if (table_init(&sessions->ends) < 0)
        return -ENOMEM;
    alive_init(&sessions->alive);
    return 0;
}

void sessions_start(struct sessions *sessions, uv_loop_t *loop)
{
    uv_timer_init(loop, &sessions->drift_timer);
    uv_timer_init(loop, &sessions->linger_timer);
    uv_timer_init(loop, &sessions->beat_timer);
}

void sessions_stop(struct sessions *sessions)
{
    uv_close((uv_handle_t *)&sessions->drift_timer, NULL);
    uv_close((uv_handle_t *)&sessions->linger_timer, NULL);
    uv_close((uv_handle_t *)&sessions->beat_timer, NULL);
}

void sessions_deinit(struct sessions *sessions)
{
    list_for_each (link, &sessions->all) {
        struct session *session = container_of(link, struct session, link);
        session_leave(session);
        session_far_forget(session);
        // Still in use: not for the pool.
        ring_free(session->ring);
        session_dispose(session);
    }
    alive_deinit(&sessions->alive);
    table_deinit(&sessions->ends);
}
