// One link and its connections.

#include "agent/link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/data_thread.h"
#include "agent/link_parts.h"
#include "agent/links.h"
#include "agent/secret.h"
#include "core/log.h"

#define WHY              256
#define GREETING_MS      5000
#define PING_MS          1000
#define PINGS_UNANSWERED 3
#define BACKOFF_FIRST_MS 200
#define BACKOFF_MOST_MS  10000
#define WANTED_MS        60000 // how long attempts are made after the last time that somebody wanted the link

// Reading a link.

enum link_state link_state(const struct link *link)
{
    if (link->up)
        return LINK_STATE_UP;
    list_for_each (node, &link->links->connections) {
        const struct connection *connection = container_of(node, struct connection, node);
        if (connection->link == link && connection->data)
            return LINK_STATE_GREETING;
    }
    return link->ours ? LINK_STATE_CONNECTING : LINK_STATE_DOWN;
}

const char *link_state_name(enum link_state state)
{
    static const char *const names[] = {
        [LINK_STATE_DOWN] = "down",
        [LINK_STATE_CONNECTING] = "connecting",
        [LINK_STATE_GREETING] = "greeting",
        [LINK_STATE_UP] = "up",
    };

    return names[state];
}

bool link_is_major(const struct link *link)
{
    return link->major;
}

const struct peer *link_peer(const struct link *link)
{
    return &link->peer;
}

struct fabric_conn *link_conn(const struct link *link)
{
    return link->up ? link->up->conn : NULL;
}

struct data_link *link_data(const struct link *link)
{
    return link->up ? link->up->data : NULL;
}

struct agent *link_agent(const struct link *link)
{
    return link->links->agent;
}

void link_set_user(struct link *link, void *user)
{
    link->user = user;
}

void *link_user(const struct link *link)
{
    return link->user;
}

void link_count_session(struct link *link, int difference)
{
    link->sessions += (uint64_t)(int64_t)difference;
}

void link_read_figures(const struct link *link, struct link_figures *figures)
{
    uint64_t tx = 0, rx = 0;

    if (link->up && link->up->data)
        data_link_read_bytes(link->up->data, &tx, &rx);
    *figures = (struct link_figures){
        .state = link_state(link),
        .since_ms = link->since_ms,
        .times_up = link->times_up,
        .failures = link->failures,
        .rtt_us = link->rtt_us,
        .tx_bytes = link->past_tx_bytes + tx,
        .rx_bytes = link->past_rx_bytes + rx,
        .sessions = link->sessions,
    };
    if (link->up)
        snprintf(figures->device, sizeof(figures->device), "%s", fabric_device_name(link->up->conn));
    memcpy(figures->error, link->error, sizeof(figures->error));
}

// Sending.

static void say(const struct connection *connection, const struct link_message *message)
{
    data_thread_send(connection->links->thread, connection->data, message);
}

void link_send(struct link *link, const struct link_message *message)
{
    if (link->up && !link->going_down)
        say(link->up, message);
}

// Failing. What happens again and again is said once.

static void note_error(struct link *link, const char *what, const char *why)
{
    char error[LINK_ERROR];
    bool repeated;

    snprintf(error, sizeof(error), "%s: %s", what, why);
    repeated = strcmp(error, link->error) == 0;
    memcpy(link->error, error, sizeof(link->error));
    log_at(repeated ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING, "peer %s: %s", link->peer.name, error);
}

// Half as long or one and a half times as long: two hosts that lost each other shall not meet in the middle for ever.
static uint64_t jittered(uint64_t ms)
{
    uint8_t random[SECRET_NONCE];

    secret_nonce(random);
    return ms / 2 + ms * random[0] / 256;
}

static void back_off(struct link *link)
{
    if (link->backoff_ms == 0)
        link->backoff_ms = BACKOFF_FIRST_MS;
    else if (link->backoff_ms < BACKOFF_MOST_MS / 2)
        link->backoff_ms *= 2;
    else
        link->backoff_ms = BACKOFF_MOST_MS;
    link->next_try_ms = links_now_ms(link->links) + jittered(link->backoff_ms);
}

// Connections.

static struct connection *connection_new(struct links *links, struct link *link)
{
    struct connection *connection = calloc(1, sizeof(*connection));

    if (!connection)
        return NULL;
    *connection = (struct connection){
        .links = links,
        .link = link,
        .began_ms = links_now_ms(links),
        .deadline_ms = links_now_ms(links) + GREETING_MS,
    };
    greeting_init(&connection->greeting, link != NULL, links->host);
    list_append(&links->connections, &connection->node);
    return connection;
}

struct connection *connection_accepted(struct links *links, struct fabric_conn *conn, const struct address *remote)
{
    struct connection *connection = connection_new(links, NULL);

    if (connection) {
        connection->conn = conn;
        connection->remote = *remote;
        links_reschedule(links);
    }
    return connection;
}

// The data thread lets go of it.
static void release(struct connection *connection)
{
    if (connection->data)
        data_thread_remove_link(connection->links->thread, connection->data);
    connection->data = NULL;
}

void connection_close(struct connection *connection)
{
    struct link *link = connection->link;

    if (link && link->ours == connection)
        link->ours = NULL;
    release(connection);
    if (connection->conn)
        fabric_close(connection->conn);
    list_remove(&connection->node);
    secret_wipe(&connection->greeting, sizeof(connection->greeting));
    free(connection);
}

static struct connection *find_held(const struct link *link)
{
    list_for_each (node, &link->links->connections) {
        struct connection *connection = container_of(node, struct connection, node);
        if (connection->link == link && connection->held)
            return connection;
    }
    return NULL;
}

// Closes all connections of a link but one.
static void close_others(struct link *link, const struct connection *but)
{
    list_for_each (node, &link->links->connections) {
        struct connection *connection = container_of(node, struct connection, node);
        if (connection->link == link && connection != but)
            connection_close(connection);
    }
}

// Up and down.

// The link is up no more. Its connection is still to be closed.
static void leave_up(struct link *link)
{
    struct connection *connection = link->up;
    uint64_t tx, rx;

    link->going_down = true;
    data_link_read_bytes(connection->data, &tx, &rx);
    link->past_tx_bytes += tx;
    link->past_rx_bytes += rx;
    release(connection);
    if (link->links->events.down)
        link->links->events.down(link);
    link->up = NULL;
    link->going_down = false;
    link->since_ms = links_now_ms(link->links);
    connection_close(connection);
}

static void enter_up(struct connection *connection)
{
    struct link *link = connection->link;
    char address[ADDRESS_TEXT];

    if (link->up)
        leave_up(link);
    if (link->ours == connection)
        link->ours = NULL;
    close_others(link, connection);
    link->up = connection;
    link->major = greeting_is_major(&connection->greeting);
    link->since_ms = links_now_ms(link->links);
    link->times_up++;
    link->backoff_ms = 0;
    link->pings_unanswered = 0;
    link->ping_due_ms = link->since_ms;
    *link->error = '\0';
    log_info("peer %s: the link is up, with %s by %s (%s)", link->peer.name,
             address_format(&connection->remote, address), fabric_device_name(connection->conn),
             link->major ? "major" : "minor");
    links_reschedule(link->links);
    if (link->links->events.up)
        link->links->events.up(link);
}

void link_shut(struct link *link, const char *why)
{
    if (link->up) {
        note_error(link, "the link went down", why);
        leave_up(link);
    }
    close_others(link, NULL);
}

void link_fail(struct link *link, const char *why)
{
    if (!link->up || link->going_down)
        return;
    link->failures++;
    note_error(link, "the link failed", why);
    leave_up(link);
    // It was in use a moment ago.
    link->wanted_until_ms = links_now_ms(link->links) + WANTED_MS;
    back_off(link);
    links_reschedule(link->links);
}

// Our own attempt came to an end without success.
static void fail_attempt(struct connection *connection, const char *why)
{
    struct link *link = connection->link;
    struct connection *held;

    connection_close(connection);
    held = find_held(link);
    if (held) { // the other one's attempt has come as far as it can
        struct link_message proof;
        greeting_prove(&held->greeting, link->peer.key, &proof);
        held->held = false;
        say(held, &proof);
        enter_up(held);
        return;
    }
    link->failures++;
    note_error(link, "cannot connect", why);
    back_off(link);
    links_reschedule(link->links);
}

static void refuse(struct connection *connection, const char *why)
{
    char address[ADDRESS_TEXT];

    connection->links->refused++;
    if (connection->link)
        note_error(connection->link, "a connection from it is refused", why);
    else
        log_seldom(LOG_LEVEL_WARNING, "a connection from %s is refused: %s",
                   address_format(&connection->remote, address), why);
    connection_close(connection);
}

void connection_fail(struct connection *connection, const char *why)
{
    struct link *link = connection->link;

    if (link && link->up == connection)
        link_fail(link, why);
    else if (link && link->ours == connection)
        fail_attempt(connection, why);
    else
        refuse(connection, why);
}

// Fabric events.

void connection_ready(struct connection *connection)
{
    struct links *links = connection->links;

    if (data_thread_add_link(links->thread, connection->conn, connection, &connection->data) < 0) {
        connection->data = NULL;
        connection_fail(connection, "no memory");
        return;
    }
    if (connection->greeting.ours)
        say(connection, greeting_hello(&connection->greeting));
}

void connection_refused(struct connection *connection, int error)
{
    char why[WHY];

    snprintf(why, sizeof(why), "%s (is the agent there running, and does its configuration name this host?)",
             strerror(-error));
    connection_fail(connection, why);
}

// Why a connection ends that has not come up.
static const char *explain_gone(const struct connection *connection)
{
    if (!connection->data)
        return "the connection was lost before it was ready";
    if (connection->answered)
        return "the peer closed the connection instead of proving itself: are the keys the same, and the names?";
    return "the peer closed the connection during the greeting; its log says more";
}

void connection_gone(struct connection *connection, int error)
{
    bool ours = connection->greeting.ours;

    if (connection->link && connection->link->up == connection) {
        link_fail(connection->link, error ? strerror(-error) : "the peer closed the connection");
    } else if (ours) {
        fail_attempt(connection, explain_gone(connection));
    } else {
        // A host that lost its nerve, or its link came up another way.
        connection_close(connection);
    }
}

void connection_failed(void *owner, const char *why)
{
    struct connection *connection = owner;

    if (connection->link && connection->link->up == connection)
        link_fail(connection->link, why);
    else if (connection->greeting.ours)
        fail_attempt(connection, explain_gone(connection));
    else
        connection_close(connection);
}

// The greeting.

// Finds out whom a connection from outside is of. Returns whether it is an allowed peer.
static bool recognise(struct connection *connection)
{
    const char *name = greeting_other(&connection->greeting)->hello.host;
    struct link *link = links_find_named(connection->links, name);
    char why[WHY];

    if (link && peer_may_come_from(&link->peer, &connection->remote)) {
        connection->link = link;
        return true;
    }
    snprintf(why, sizeof(why), "it calls itself \"%s\", and there is no peer of that name with this address", name);
    refuse(connection, why);
    return false;
}

// Whether whom we connected to is whom we meant.
static bool is_meant(struct connection *connection)
{
    const char *name = greeting_other(&connection->greeting)->hello.host;
    char why[WHY];

    if (strcmp(name, connection->link->peer.name) == 0)
        return true;
    snprintf(why, sizeof(why),
             "it calls itself \"%s\": expected \"%s\" (change \"name\" of the peer here, or of "
             "\"rdma\" there)",
             name, connection->link->peer.name);
    connection_fail(connection, why);
    return false;
}

static void hear_hello(struct connection *connection, const struct link_message *message)
{
    char why[GREETING_ERROR];
    struct link_message proof;

    if (greeting_hear(&connection->greeting, message, why) < 0) {
        connection_fail(connection, why);
    } else if (!connection->greeting.ours) {
        if (recognise(connection))
            say(connection, greeting_hello(&connection->greeting));
    } else if (is_meant(connection)) {
        greeting_prove(&connection->greeting, connection->link->peer.key, &proof);
        connection->answered = true;
        say(connection, &proof);
    }
}

// Whether a connection that proved itself must wait for our own attempt: see link.h.
static bool must_wait(const struct connection *connection)
{
    const struct link *link = connection->link;

    return link->ours && strcmp(connection->links->host, link->peer.name) > 0;
}

// One that was begun before another came up is of no use; one that was begun after that shows that the peer has lost
// the one that we have.
static bool is_late(const struct connection *connection)
{
    const struct link *link = connection->link;

    return link->up && connection->began_ms <= link->since_ms;
}

static void accept_proof(struct connection *connection)
{
    struct link_message proof;

    if (is_late(connection)) {
        connection_close(connection);
    } else if (must_wait(connection)) {
        connection->held = true;
    } else {
        greeting_prove(&connection->greeting, connection->link->peer.key, &proof);
        say(connection, &proof);
        enter_up(connection);
    }
}

static void hear_proof(struct connection *connection, const struct link_message *message)
{
    const struct greeting *greeting = &connection->greeting;

    if (!connection->link || !greeting->heard || connection->held) {
        connection_fail(connection, "it sent a proof out of turn");
    } else if (!greeting_verify(greeting, connection->link->peer.key, message)) {
        connection_fail(connection, "its proof is wrong: are the keys the same on both hosts?");
    } else if (greeting->ours) {
        enter_up(connection);
    } else {
        accept_proof(connection);
    }
}

static void greet(struct connection *connection, const struct link_message *message)
{
    char why[GREETING_ERROR];

    switch (message->type) {
    case LINK_HELLO:
        hear_hello(connection, message);
        return;
    case LINK_PROOF_MESSAGE:
        hear_proof(connection, message);
        return;
    default:
        snprintf(why, sizeof(why), "it sent %s before it had proved itself", link_message_name(message->type));
        connection_fail(connection, why);
    }
}

// Messages on a link that is up.

static void send_pong(struct link *link, const struct link_message *ping)
{
    const struct link_message pong = {.type = LINK_PONG, .ping.sequence = ping->ping.sequence};

    link_send(link, &pong);
}

static void hear_pong(struct link *link, const struct link_message *pong)
{
    // One that comes late tells that the peer lives, and nothing of the time it took.
    link->pings_unanswered = 0;
    if (pong->ping.sequence == link->ping_sequence)
        link->rtt_us = (uint32_t)((uv_hrtime() - link->ping_sent_ns) / 1000) + 1;
}

static void hear(struct link *link, const struct link_message *message)
{
    switch (message->type) {
    case LINK_PING:
        send_pong(link, message);
        return;
    case LINK_PONG:
        hear_pong(link, message);
        return;
    case LINK_HELLO:
    case LINK_PROOF_MESSAGE:
        link_fail(link, "it greeted again");
        return;
    default:
        if (link->links->events.received)
            link->links->events.received(link, message);
    }
}

void connection_received(void *owner, const struct link_message *message)
{
    struct connection *connection = owner;

    if (connection->link && connection->link->up == connection)
        hear(connection->link, message);
    else
        greet(connection, message);
}

// Time.

static const struct address *source_address(const struct links *links, const struct address *to)
{
    for (unsigned i = 0; i < links->listen_count; i++) {
        const struct address *at = &links->listen[i];
        static const struct address any;
        if (memcmp(at->ip, any.ip, sizeof(any.ip)) != 0 && address_is_ipv4(at) == address_is_ipv4(to))
            return at;
    }
    return NULL;
}

static void attempt(struct link *link)
{
    const struct address *to = &link->peer.address;
    struct connection *connection = connection_new(link->links, link);
    int result;

    if (!connection) {
        back_off(link);
        return;
    }
    connection->remote = *to;
    link->ours = connection;
    result = fabric_connect(link->links->fabric, source_address(link->links, to), to, LINK_INTENT, sizeof(LINK_INTENT),
                            connection, &connection->conn);
    if (result < 0) {
        connection->conn = NULL;
        fail_attempt(connection, result == -ENODEV ? "there is no RDMA device here" : strerror(-result));
    }
}

static uint64_t tend_up(struct link *link, uint64_t now)
{
    struct link_message ping = {.type = LINK_PING};

    if (now < link->ping_due_ms)
        return link->ping_due_ms;
    if (link->pings_unanswered == PINGS_UNANSWERED) {
        link_fail(link, "no answer for 3 s");
        return now;
    }
    ping.ping.sequence = ++link->ping_sequence;
    link->ping_sent_ns = uv_hrtime();
    link->pings_unanswered++;
    link_send(link, &ping);
    link->ping_due_ms = now + PING_MS;
    return link->ping_due_ms;
}

uint64_t link_tend(struct link *link, uint64_t now)
{
    if (link->up)
        return tend_up(link, now);
    if (link->ours || now >= link->wanted_until_ms)
        return UINT64_MAX;
    if (now < link->next_try_ms)
        return link->next_try_ms;
    attempt(link);
    return link->ours || link->up ? UINT64_MAX : link->next_try_ms;
}

void link_want(struct link *link)
{
    link->wanted_until_ms = links_now_ms(link->links) + WANTED_MS;
    if (!link->up && !link->ours)
        links_reschedule(link->links);
}

// Links.

struct link *link_new(struct links *links, const struct peer *peer)
{
    struct link *link = calloc(1, sizeof(*link));

    if (!link)
        return NULL;
    link->links = links;
    link->since_ms = links_now_ms(links);
    if (peer_copy(&link->peer, peer) < 0) {
        free(link);
        return NULL;
    }
    list_append(&links->all, &link->node);
    return link;
}

void link_free(struct link *link)
{
    link_shut(link, "it is no longer in the configuration");
    list_remove(&link->node);
    peer_clear(&link->peer);
    free(link);
}

int link_change(struct link *link, const struct peer *peer)
{
    struct peer copy;
    bool was_up = link->up != NULL;

    link_shut(link, "its configuration changed");
    if (peer_copy(&copy, peer) < 0)
        return -ENOMEM;
    peer_clear(&link->peer);
    link->peer = copy;
    link->backoff_ms = link->next_try_ms = 0;
    if (was_up)
        link_want(link);
    return 0;
}
