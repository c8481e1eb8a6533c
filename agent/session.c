// Making sessions, handing out their ends, and clearing up after them.

#include "agent/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "agent/agent.h"
#include "agent/descriptors.h"
#include "agent/fd.h"
#include "agent/ringpool.h"
#include "agent/session_parts.h"
#include "core/end.h"
#include "core/log.h"
#include "core/memfd.h"
#include "core/ring.h"
#include "core/session.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

enum wire_reason session_reason_of(int result)
{
    return result == -EMFILE || result == -ENFILE ? WIRE_REASON_NO_DESCRIPTORS : WIRE_REASON_NO_MEMORY;
}

// The memory of an end.

static int init_memory(int fd, const struct session *session, uint32_t side)
{
    struct end_shared *end;
    void *address;
    int result = memfd_map(fd, END_BYTES, 1, &address);

    if (result < 0)
        return result;
    end = address;
    result = end_init(end, session->id, session->agent->board.shared->instance, side);
    memcpy(end->mark, session->mark, sizeof(end->mark));
    memfd_unmap(address, END_BYTES);
    return result;
}

static int make_memory(const struct session *session, uint32_t side)
{
    _cleanup_fd_ int fd = memfd_make("rdma-end", END_BYTES);
    int result;

    if (fd < 0)
        return fd;
    // Nor may a holder add seals of its own, which would keep others from mapping it.
    result = fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) < 0 ? -errno : init_memory(fd, session, side);
    return result < 0 ? result : fd_steal(&fd);
}

// Ends.

static void end_prepare(struct session_end *end, struct session *session, uint32_t side)
{
    end->session = session;
    end->side = side;
    end->memory = end->lifeline = end->lifeline_given = -1;
    bell_init(&end->bell);
    end->watch.fd = -1;
    end->kept.fd = -1;
    list_init(&end->drift);
    list_init(&end->holders);
}

static void end_deinit(struct session_end *end)
{
    watch_stop(&end->session->agent->watches, &end->watch);
    list_remove(&end->drift);
    session_keep_drop(end);
    fd_close(&end->memory);
    bell_deinit(&end->bell);
    fd_close(&end->lifeline);
    fd_close(&end->lifeline_given);
}

static void on_lifeline(struct watch *watch, uint32_t events);

static int make_lifeline(struct session_end *end)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    end->lifeline = fds[0];
    end->lifeline_given = fds[1];
    // No events: what a client writes into it is of no interest, only that it is closed.
    return watch_start(&end->session->agent->watches, &end->watch, end->lifeline, 0, on_lifeline);
}

int session_end_make(struct session_end *end)
{
    int result;

    end->memory = make_memory(end->session, end->side);
    if (end->memory < 0)
        return end->memory;
    result = bell_make(&end->bell);
    return result < 0 ? result : make_lifeline(end);
}

void session_end_introduce(struct session_end *end, const struct session_half *half)
{
    end->identity = *half->identity;
    end->user = half->client->user;
    end->pid = half->client->pid;
    memcpy(end->command, half->client->command, sizeof(end->command));
}

// Holders.

static struct session_holder *find_holder(const struct session_end *end, const struct client *client)
{
    list_for_each (link, &end->holders) {
        struct session_holder *holder = container_of(link, struct session_holder, in_end);
        if (holder->client == client)
            return holder;
    }
    return NULL;
}

static int add_holder(struct session_end *end, struct client *client, uint64_t token)
{
    struct session_holder *holder = find_holder(end, client);

    if (holder)
        return 0;
    holder = calloc(1, sizeof(*holder));
    if (!holder)
        return -ENOMEM;
    holder->client = client;
    holder->end = end;
    holder->token = token;
    list_append(&end->holders, &holder->in_end);
    list_append(&client->holders, &holder->in_client);
    return 0;
}

// The end goes by the name of its eldest holder, and keeps the last one's.
static void name_after_eldest(struct session_end *end)
{
    const struct client *client;

    if (list_empty(&end->holders))
        return;
    client = container_of(end->holders.next, struct session_holder, in_end)->client;
    end->pid = client->pid;
    memcpy(end->command, client->command, sizeof(end->command));
}

static void remove_holder(struct session_holder *holder)
{
    list_remove(&holder->in_client);
    list_remove(&holder->in_end);
    name_after_eldest(holder->end);
    free(holder);
}

// The end of a session.

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

static void session_dispose(struct session *session)
{
    for (int side = 0; side < 2; side++) {
        struct session_end *end = &session->end[side];
        list_for_each (link, &end->holders)
            remove_holder(container_of(link, struct session_holder, in_end));
        end_deinit(end);
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

// What the other end is told.

// Pairs with the loads before which the other end declares itself asleep.
static bool set_mark(_Atomic uint32_t *mark, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong(mark, &from, to);
}

static void tell_closed(struct session_end *end)
{
    struct ring_shared *ring = end->session->ring->header->ring;

    if (end->session->transport == TRANSPORT_RDMA) {
        session_far_finish(end->session);
        return;
    }
    end->told_tx |= set_mark(&ring[end->side].tx_closed, CLOSED_NOT, CLOSED_ORDERLY);
    end->told_rx |= set_mark(&ring[1 - end->side].rx_closed, CLOSED_NOT, CLOSED_ORDERLY);
    bell_ring(&session_peer(end)->bell);
}

static void take_back_closed(struct session_end *end)
{
    struct ring_shared *ring = end->session->ring->header->ring;

    if (end->told_tx)
        set_mark(&ring[end->side].tx_closed, CLOSED_ORDERLY, CLOSED_NOT);
    if (end->told_rx)
        set_mark(&ring[1 - end->side].rx_closed, CLOSED_ORDERLY, CLOSED_NOT);
    end->told_tx = end->told_rx = false;
    bell_ring(&session_peer(end)->bell);
}

void session_end_closed(struct session_end *end)
{
    watch_stop(&end->session->agent->watches, &end->watch);
    list_remove(&end->drift);
    end->closed = true;
    if (session_peer(end)->closed)
        session_over(end->session);
    else if (!end->left || end->session->far)
        tell_closed(end);
}

// Nobody who knows of the session holds this end, but somebody holds its socket: it is on its way to another process,
// or its process became another program. Whoever has it will ask for the session, or close it: look again in a while.

#define DRIFT_LOOK_MS     20
#define DRIFT_LOOK_MAX_MS 1000

bool session_end_drifts(const struct session_end *end)
{
    return !list_empty(&end->drift);
}

// What is kept here is a holder, too. It is waited for, unless nothing can arrive any more.
static bool is_held(struct session_end *end)
{
    if (end->kept.fd >= 0 && ((end->kept.flags & WIRE_KEEP_SOLE) || session_peer(end)->closed))
        return false;
    return alive_is_held(&end->session->agent->sessions.alive, &end->identity);
}

static void on_drift_timer(uv_timer_t *timer);

static void look_at_drifting_in(struct sessions *sessions, uint64_t ms)
{
    sessions->drift_ms = ms;
    uv_timer_start(&sessions->drift_timer, on_drift_timer, ms, 0);
}

static void end_drifts(struct session_end *end)
{
    struct sessions *sessions = &end->session->agent->sessions;

    watch_stop(&end->session->agent->watches, &end->watch);
    list_append(&sessions->drifting, &end->drift);
    // A look that is due soon is not put off, or a stream of these could put it off for ever.
    if (!uv_is_active((uv_handle_t *)&sessions->drift_timer) || sessions->drift_ms > DRIFT_LOOK_MS)
        look_at_drifting_in(sessions, DRIFT_LOOK_MS);
}

static void on_drift_timer(uv_timer_t *timer)
{
    struct sessions *sessions = container_of(timer, struct sessions, drift_timer);
    struct list now;

    // Closing one end may end its session, and take the other end out of the list, so it is emptied from the front.
    list_init(&now);
    while (!list_empty(&sessions->drifting)) {
        struct session_end *end = container_of(sessions->drifting.next, struct session_end, drift);
        list_remove(&end->drift);
        if (is_held(end))
            list_append(&now, &end->drift);
        else
            session_end_closed(end);
    }
    while (!list_empty(&now)) {
        struct list *link = now.next;
        list_remove(link);
        list_append(&sessions->drifting, link);
    }
    if (!list_empty(&sessions->drifting))
        look_at_drifting_in(sessions, least(sessions->drift_ms * 2, DRIFT_LOOK_MAX_MS));
}

// A session that one end declined carries nothing for the other to come back for.
static bool is_in_use(const struct session_end *end)
{
    const struct session *session = end->session;

    return session->end[0].declined == WIRE_REASON_NONE && session->end[1].declined == WIRE_REASON_NONE;
}

// Going back to TCP.

static void read_end(const struct session_end *end, struct end_shared *copy)
{
    if (pread(end->memory, copy, sizeof(*copy), 0) != sizeof(*copy))
        memset(copy, 0, sizeof(*copy));
}

uint32_t session_end_tx_way(const struct session_end *end)
{
    struct end_shared copy;

    read_end(end, &copy);
    return copy.tx_way;
}

// An end says in its memory that it has left its session, in both directions. Only then can its socket be offered again.
static bool look_for_left(struct session_end *end)
{
    struct end_shared copy;

    if (end->left)
        return true;
    read_end(end, &copy);
    if (copy.tx_way != WAY_LEFT || copy.rx_way != WAY_LEFT)
        return false;
    end->left = true;
    end->session->agent->stats.ends_left++;
    table_remove(&end->session->agent->sessions.ends, &end->by_cookie);
    log_debug("session %llu: process %d went back to TCP", (unsigned long long)end->session->id, end->pid);
    return true;
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

static void on_lifeline(struct watch *watch, uint32_t events)
{
    struct session_end *end = container_of(watch, struct session_end, watch);
    struct pollfd now = {.fd = end->lifeline};

    // The event may be older than a join that was handled in the same turn.
    if (poll(&now, 1, 0) <= 0 || !(now.revents & POLLHUP))
        return;
    if (look_for_left(end))
        session_end_closed(end);
    else if (is_in_use(end) && is_held(end))
        end_drifts(end);
    else
        session_end_closed(end);
}

// Handing an end to a client.

// One more copy of the lifeline's far end, of which the agent keeps none: a pipe can be opened by its own name.
static int reopen_lifeline(const struct session_end *end)
{
    char name[32];
    int fd;

    snprintf(name, sizeof(name), "/proc/self/fd/%d", end->lifeline);
    fd = open(name, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

static int send_attach(const struct session_end *end, struct client *client, uint64_t token, int lifeline)
{
    const struct session *session = end->session;
    union wire_message message;
    int fds[WIRE_ATTACH_FDS];

    fds[WIRE_FD_SESSION] = session->ring->fd;
    fds[WIRE_FD_END] = end->memory;
    fds[WIRE_FD_BELL] = end->bell.sleep;
    fds[WIRE_FD_PEER_BELL] = session_peer(end)->bell.rope;
    fds[WIRE_FD_LIFELINE] = lifeline;
    wire_begin(&message, WIRE_ATTACH);
    message.attach.token = token;
    message.attach.session = session->id;
    message.attach.ring_bytes = session->ring->ring_bytes;
    message.attach.side = end->side;
    message.attach.transport = session->transport;
    return client_send(client, &message, fds, WIRE_ATTACH_FDS);
}

int session_end_attach(struct session_end *end, struct client *client, uint64_t token, int lifeline)
{
    int result = add_holder(end, client, token);

    if (result == 0)
        result = send_attach(end, client, token, lifeline);
    if (result < 0)
        log_seldom(LOG_LEVEL_WARNING, "cannot hand session %llu to process %d: %s",
                   (unsigned long long)end->session->id, client->pid, strerror(-result));
    return result;
}

static int end_reopen(struct session_end *end)
{
    int result = watch_start(&end->session->agent->watches, &end->watch, end->lifeline, 0, on_lifeline);

    if (result < 0)
        return result;
    list_remove(&end->drift);
    end->closed = false;
    take_back_closed(end);
    return 0;
}

// Whether one of its holders has mapped it: 1 or 0, and then none will any more; or -errno. Pairs with take_end in the
// library.
static int take_back(const struct session_end *end)
{
    struct end_shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, end->memory, 0);
    uint32_t taken = END_OPEN;

    if (shared == MAP_FAILED)
        return -errno;
    atomic_compare_exchange_strong(&shared->taken, &taken, END_REFUSED);
    munmap(shared, sizeof(*shared));
    return taken == END_TAKEN;
}

// Whoever was given the end may decline it, for having passed the socket on, and would use TCP beside this one's ring.
static enum wire_reason admit_stranger(struct session_end *end)
{
    int result = list_empty(&end->holders) ? 1 : take_back(end);

    if (result < 0)
        return session_reason_of(result);
    end->declined = result ? WIRE_REASON_NONE : WIRE_REASON_SHARED;
    return end->declined;
}

enum wire_reason session_join(struct session_end *end, struct client *client, uint64_t token, bool passed)
{
    enum wire_reason reason = end->declined;
    _cleanup_fd_ int lifeline = -1;
    int result = 0;

    if (reason == WIRE_REASON_NONE && passed)
        reason = admit_stranger(end);
    if (reason != WIRE_REASON_NONE)
        return reason;
    // The other host has been told, and has let go.
    if (end->closed && end->session->transport == TRANSPORT_RDMA)
        return WIRE_REASON_AGENT_LOST;
    lifeline = reopen_lifeline(end);
    if (lifeline < 0)
        return session_reason_of(lifeline);
    // The socket outlived the last holder that the agent knew of: it was passed on, or its process became another.
    if (end->closed || !list_empty(&end->drift))
        result = end_reopen(end);
    // Another user now, who may keep the memory mapped for ever: it is not to be used again.
    if (client->uid != end->session->ring->owner)
        end->session->ring->owner = RINGPOOL_SHARED;
    if (result == 0)
        result = session_end_attach(end, client, token, lifeline);
    return result < 0 ? session_reason_of(result) : WIRE_REASON_NONE;
}

// A new session.

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
        end_prepare(&session->end[side], session, side);
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

// Room for new sessions: ring memory is a cache over connections. When it is short, those that have carried nothing for a
// while go back to TCP, and come again when they are busy.

#define LOOK_MS     1000 // between two looks at all sessions
#define IDLE_MS     2000 // a session that carried anything within is not recalled
#define RECALL_MOST 128  // at one look

static void look_at_activity(struct session *session, uint64_t now)
{
    struct session_figures figures[2];
    uint64_t bytes;

    session_read_figures(session, figures);
    bytes = stats_sum(stats_sum(figures[0].rx_bytes, figures[1].rx_bytes), figures[1].tx_bytes);
    if (bytes == session->seen_bytes)
        return;
    session->seen_bytes = bytes;
    session->active_ms = now;
}

static struct session *least_active(const struct sessions *sessions, const struct user *user, uint64_t before_ms)
{
    struct session *found = NULL;

    list_for_each (link, &sessions->all) {
        struct session *session = container_of(link, struct session, link);
        bool counts = !user || session->end[0].user == user || session->end[1].user == user;
        if (counts && !session->recalled && session->active_ms < before_ms &&
            (!found || session->active_ms < found->active_ms))
            found = session;
    }
    return found;
}

// Those of this user, or of any (null).
static void make_room(struct agent *agent, const struct user *user)
{
    struct sessions *sessions = &agent->sessions;
    uint64_t now = agent_now_ms(agent);
    struct session *idle;

    if (now - sessions->looked_ms < LOOK_MS)
        return;
    sessions->looked_ms = now;
    list_for_each (link, &sessions->all)
        look_at_activity(container_of(link, struct session, link), now);
    for (int i = 0; i < RECALL_MOST && now > IDLE_MS && (idle = least_active(sessions, user, now - IDLE_MS)); i++)
        session_recall(idle, LEAVE_DRAIN);
}

static void make_room_for(struct agent *agent, const struct user *a, const struct user *b, uint64_t bytes)
{
    const struct limits *limits = &agent->config.limits;
    bool all_short = agent->users.ring_bytes + bytes > limits->ring_memory;

    make_room(agent, all_short ? NULL : a->ring_bytes + bytes > limits->ring_memory_per_user ? a : b);
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
        make_room_for(agent, a, b, session_bytes(agent->pool.ring_bytes));
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

// What clients and reports ask.

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

    return end && !look_for_left(end) ? end : NULL;
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

// Others may still use what this client could not.
static void end_declined(struct session_end *end, enum wire_reason reason)
{
    if (!list_empty(&end->holders))
        return;
    end->declined = reason != WIRE_REASON_NONE ? reason : WIRE_REASON_NO_MEMORY;
    if (!end->closed)
        tell_closed(end);
    // The other end, if it is here, can be offered again once it has left.
    if (end->session->transport == TRANSPORT_SHM)
        session_recall(end->session, LEAVE_RESEND);
}

static struct session_holder *holder_of_session(struct client *client, uint64_t id)
{
    list_for_each (link, &client->holders) {
        struct session_holder *holder = container_of(link, struct session_holder, in_client);
        if (holder->end->session->id == id)
            return holder;
    }
    return NULL;
}

bool session_decline(struct client *client, uint64_t id, enum wire_reason reason)
{
    struct session_holder *holder = holder_of_session(client, id);
    struct session_end *end;

    if (!holder)
        return false;
    end = holder->end;
    remove_holder(holder);
    end_declined(end, reason);
    return true;
}

static bool is_unused(const struct session_end *end)
{
    struct end_shared copy;

    read_end(end, &copy);
    return copy.tx_way == WAY_TCP && copy.rx_way == WAY_TCP;
}

void session_withdraw(struct client *client, uint64_t token)
{
    list_for_each (link, &client->holders) {
        struct session_holder *holder = container_of(link, struct session_holder, in_client);
        struct session_end *end = holder->end;
        if (holder->token != token || end->session->transport != TRANSPORT_RDMA || !is_unused(end))
            continue;
        remove_holder(holder);
        end_declined(end, WIRE_REASON_NONE);
        return;
    }
}

void session_left(struct client *client, uint64_t id)
{
    struct session_holder *holder = holder_of_session(client, id);

    if (holder && look_for_left(holder->end))
        remove_holder(holder);
}

void session_forget(struct client *client)
{
    list_for_each (link, &client->holders)
        remove_holder(container_of(link, struct session_holder, in_client));
}

// What it has published here. It may write there what it likes.
static void read_far_end(const struct session *session, struct end_shared *copy)
{
    const struct ring_shared *ring = session->ring->header->ring;

    memset((void *)copy, 0, sizeof(*copy));
    copy->tx_tail = atomic_load_explicit(&ring[0].tail, memory_order_relaxed);
    copy->rx_head = atomic_load_explicit(&ring[1].head, memory_order_relaxed);
}

static void set_figures(struct session_figures *figures, struct end_shared *own, struct end_shared *peer,
                        uint64_t ring_bytes)
{
    // Nobody can have sent more than the other one took and the ring holds, nor taken more than the other one sent.
    *figures = (struct session_figures){
        .tx_bytes = least(own->tx_tail & ~RING_FROZEN, stats_sum(peer->rx_head & ~RING_FROZEN, ring_bytes)),
        .rx_bytes = least(own->rx_head & ~RING_FROZEN, stats_sum(peer->tx_tail & ~RING_FROZEN, 0)),
        .tx_way = own->tx_way,
        .rx_way = own->rx_way,
        .tx_calls = stats_sum(own->tx_calls, 0),
        .rx_calls = stats_sum(own->rx_calls, 0),
        .sleeps = stats_sum(own->sleeps, 0),
        .bells = stats_sum(own->bells, 0),
        .tx_full = stats_sum(own->tx_full, 0),
    };
}

void session_read_figures(const struct session *session, struct session_figures figures[static 2])
{
    struct end_shared copy[2];

    for (int side = 0; side < 2; side++) {
        if (session_end_is_here(&session->end[side]))
            read_end(&session->end[side], &copy[side]);
        else
            read_far_end(session, &copy[side]);
    }
    for (int side = 0; side < 2; side++)
        set_figures(&figures[side], &copy[side], &copy[1 - side], session->ring->ring_bytes);
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
