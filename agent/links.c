// All links: the fabric, the listening, connections from outside, time.

#include "agent/links.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/data_thread.h"
#include "agent/fabric.h"
#include "agent/link_parts.h"
#include "core/log.h"

#define LISTEN_AGAIN_MS 10000

uint64_t links_now_ms(const struct links *links)
{
    return agent_now_ms(links->agent);
}

// Time: one timer, for whatever is due next.

static uint64_t tend_links(struct links *links, uint64_t now)
{
    uint64_t next = UINT64_MAX;

    list_for_each (node, &links->all) {
        uint64_t due = link_tend(container_of(node, struct link, node), now);
        if (due < next)
            next = due;
    }
    return next;
}

static bool is_up(const struct connection *connection)
{
    return connection->link && connection->link->up == connection;
}

// One that is to be failed now, or null, with the time when the next one will be.
static struct connection *find_overdue(const struct links *links, uint64_t now, uint64_t *next)
{
    list_for_each (node, &links->connections) {
        struct connection *connection = container_of(node, struct connection, node);
        if (is_up(connection))
            continue;
        if (connection->deadline_ms <= now)
            return connection;
        if (connection->deadline_ms < *next)
            *next = connection->deadline_ms;
    }
    return NULL;
}

static void on_timer(uv_timer_t *timer)
{
    struct links *links = timer->data;
    uint64_t now = links_now_ms(links), next = UINT64_MAX, due;
    struct connection *overdue;

    if (!links->fabric)
        return;
    while ((overdue = find_overdue(links, now, &next)))
        connection_fail(overdue, "it did not prove itself within 5 s");
    due = tend_links(links, now);
    find_overdue(links, now, &next); // with the attempts just made
    if (due < next)
        next = due;
    if (next != UINT64_MAX)
        uv_timer_start(timer, on_timer, next > now ? next - now : 1, 0);
}

void links_reschedule(struct links *links)
{
    if (links->fabric)
        uv_timer_start(&links->timer, on_timer, 0, 0);
}

// Connections from outside.

static bool is_expected(const struct links *links, const struct address *remote)
{
    list_for_each (node, &links->all) {
        if (peer_may_come_from(&container_of(node, struct link, node)->peer, remote))
            return true;
    }
    return false;
}

static bool same_host(const struct address *a, const struct address *b)
{
    return memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

static bool is_crowded(const struct links *links, const struct address *remote)
{
    unsigned all = 0, of_one = 0;

    list_for_each (node, &links->connections) {
        const struct connection *connection = container_of(node, struct connection, node);
        if (connection->greeting.ours || is_up(connection))
            continue;
        all++;
        of_one += same_host(&connection->remote, remote);
    }
    return all >= LINKS_GREETINGS_MOST || of_one >= LINKS_GREETINGS_OF_ONE;
}

static bool is_known_stranger(const struct links *links, const struct address *remote)
{
    for (unsigned i = 0; i < links->strangers && i < LINKS_STRANGERS_KNOWN; i++) {
        if (same_host(&links->stranger[i], remote))
            return true;
    }
    return false;
}

// Each address is named once, as long as there are not too many of them.
static void log_stranger(struct links *links, const struct address *remote)
{
    char text[ADDRESS_TEXT];

    if (is_known_stranger(links, remote))
        return;
    if (links->strangers < LINKS_STRANGERS_KNOWN) {
        links->stranger[links->strangers++] = *remote;
        log_warning(
            "a connection from %s is refused: it is no peer of this host's (others from there are counted only)",
            address_format(remote, text));
    } else {
        log_seldom(LOG_LEVEL_WARNING, "a connection from %s is refused: it is no peer of this host's",
                   address_format(remote, text));
    }
}

static bool may_enter(struct links *links, const struct fabric_event *event)
{
    char text[ADDRESS_TEXT];

    if (!is_expected(links, &event->remote)) {
        log_stranger(links, &event->remote);
        return false;
    }
    if (event->private_size < sizeof(LINK_INTENT) ||
        memcmp(event->private_data, LINK_INTENT, sizeof(LINK_INTENT)) != 0) {
        log_seldom(LOG_LEVEL_WARNING, "a connection from %s is refused: it is not an agent's",
                   address_format(&event->remote, text));
        return false;
    }
    if (is_crowded(links, &event->remote)) {
        log_seldom(LOG_LEVEL_WARNING, "a connection from %s is refused: too many have not proved themselves yet",
                   address_format(&event->remote, text));
        return false;
    }
    return true;
}

static void on_incoming(struct links *links, const struct fabric_event *event)
{
    struct connection *connection = NULL;

    if (may_enter(links, event))
        connection = connection_accepted(links, event->conn, &event->remote);
    if (!connection) {
        links->refused++;
        fabric_reject(event->conn);
    } else if (fabric_accept(event->conn, connection) < 0) {
        connection_close(connection);
    }
}

// Listening.

static void on_listen_timer(uv_timer_t *timer);

static void say_listening(const struct address *at, int result)
{
    char text[ADDRESS_TEXT];

    address_format(at, text);
    if (result == 0)
        log_info("listening for peers at %s", text);
    else if (result == -ENODEV)
        log_seldom(LOG_LEVEL_WARNING,
                   "there is no RDMA device to listen for peers at %s; connections with other hosts "
                   "stay TCP",
                   text);
    else
        log_seldom(LOG_LEVEL_WARNING, "cannot listen for peers at %s: %s; trying again every %d s", text,
                   strerror(-result), LISTEN_AGAIN_MS / 1000);
}

static void listen_at_all(struct links *links)
{
    bool again = false;

    for (unsigned i = 0; i < links->listen_count; i++) {
        int result;
        if (links->listening[i])
            continue;
        result = fabric_listen(links->fabric, &links->listen[i]);
        links->listening[i] = result == 0;
        again |= result < 0;
        say_listening(&links->listen[i], result);
    }
    if (again)
        uv_timer_start(&links->listen_timer, on_listen_timer, LISTEN_AGAIN_MS, 0);
}

static void on_deaf(struct links *links, const struct address *at)
{
    for (unsigned i = 0; i < links->listen_count; i++) {
        if (address_equal(&links->listen[i], at))
            links->listening[i] = false;
    }
    log_info("the device that listened for peers is gone");
    uv_timer_start(&links->listen_timer, on_listen_timer, LISTEN_AGAIN_MS, 0);
}

static void on_listen_timer(uv_timer_t *timer)
{
    struct links *links = timer->data;

    if (links->fabric)
        listen_at_all(links);
}

// Where the configuration says. Returns how many.
static unsigned wanted_addresses(const struct config_rdma *rdma, struct address at[static LINKS_LISTENERS_MOST])
{
    const struct address *listed = rdma->listen.items;
    unsigned count = 0;

    memset(at, 0, LINKS_LISTENERS_MOST * sizeof(*at));
    for (size_t i = 0; i < rdma->listen.count && count < LINKS_LISTENERS_MOST; i++)
        at[count++] = listed[i];
    if (count == 0)
        count = 1;
    for (unsigned i = 0; i < count; i++) {
        if (at[i].port == 0)
            at[i].port = (uint16_t)rdma->port;
    }
    return count;
}

// The fabric.

static void dispatch(struct links *links, const struct fabric_event *event)
{
    switch (event->type) {
    case FABRIC_INCOMING:
        on_incoming(links, event);
        return;
    case FABRIC_READY:
        connection_ready(event->data);
        return;
    case FABRIC_REFUSED:
        connection_refused(event->data, event->error);
        return;
    case FABRIC_GONE:
        connection_gone(event->data, event->error);
        return;
    case FABRIC_DEAF:
        on_deaf(links, &event->remote);
        return;
    case FABRIC_DEVICES:
        listen_at_all(links);
        return;
    case FABRIC_NOTHING:
        return;
    }
}

// Taken at one go, so that a crowd at the door does not keep the loop from those inside.
#define EVENTS_PER_TURN 32

static void on_events(uv_poll_t *poll, int status, int events)
{
    struct links *links = poll->data;
    struct fabric_event event;

    for (int i = 0; i < EVENTS_PER_TURN; i++) {
        fabric_next_event(links->fabric, &event);
        if (event.type == FABRIC_NOTHING)
            return;
        dispatch(links, &event);
    }
}

static int start_thread(struct links *links)
{
    links->thread_events = (struct data_thread_events){
        .received = connection_received,
        .failed = connection_failed,
        .path = links->events.path,
    };
    return data_thread_start(&links->thread, links->fabric, links->loop, links->agent->wake_ns, &links->thread_events);
}

static void free_handle(uv_handle_t *handle)
{
    free(handle);
}

static int watch_events(struct links *links)
{
    int result;

    links->poll = malloc(sizeof(*links->poll));
    if (!links->poll)
        return -ENOMEM;
    result = uv_poll_init(links->loop, links->poll, fabric_event_fd(links->fabric));
    if (result < 0) {
        free(links->poll);
        return result;
    }
    links->poll->data = links;
    uv_poll_start(links->poll, UV_READABLE, on_events);
    return 0;
}

static void open_fabric(struct links *links)
{
    int result = fabric_open(&links->fabric, NULL);

    if (result < 0)
        goto fail;
    result = start_thread(links);
    if (result < 0)
        goto free_fabric;
    result = watch_events(links);
    if (result < 0)
        goto stop_thread;
    return;
stop_thread:
    data_thread_stop(links->thread);
free_fabric:
    fabric_free(links->fabric);
fail:
    links->fabric = NULL;
    links->thread = NULL;
    log_error("cannot have links with other hosts: %s", strerror(-result));
}

static void close_fabric(struct links *links, const char *why)
{
    list_for_each (node, &links->all)
        link_shut(container_of(node, struct link, node), why);
    while (!list_empty(&links->connections)) // of nobody yet
        connection_close(container_of(links->connections.next, struct connection, node));
    uv_timer_stop(&links->timer);
    uv_timer_stop(&links->listen_timer);
    data_thread_stop(links->thread);
    uv_close((uv_handle_t *)links->poll, free_handle);
    fabric_free(links->fabric);
    memset(links->listening, 0, sizeof(links->listening));
    links->fabric = NULL;
    links->thread = NULL;
}

// The configuration.

static void configure_link(struct links *links, const struct peer *peer)
{
    struct link *link = links_find_named(links, peer->name);

    if (!link)
        link = link_new(links, peer);
    else if (!peer_equal(&link->peer, peer) && link_change(link, peer) < 0)
        link = NULL;
    if (link)
        link->kept = true;
    else
        log_error("no memory for a link with %s", peer->name);
}

static void configure_all(struct links *links, const struct policy_list *peers)
{
    const struct peer *peer = peers->items;

    list_for_each (node, &links->all)
        container_of(node, struct link, node)->kept = false;
    for (size_t i = 0; i < peers->count; i++)
        configure_link(links, &peer[i]);
    list_for_each (unkept, &links->all) {
        struct link *link = container_of(unkept, struct link, node);
        if (!link->kept)
            link_free(link);
    }
}

static bool is_among(const struct address *address, const struct address *at, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (address_equal(&at[i], address))
            return true;
    }
    return false;
}

static bool listens_at(const struct links *links, const struct address *address)
{
    for (unsigned i = 0; i < links->listen_count; i++) {
        if (links->listening[i] && address_equal(&links->listen[i], address))
            return true;
    }
    return false;
}

// Links stay as they are, wherever they came in.
static void configure_listening(struct links *links, const struct config_rdma *rdma)
{
    struct address at[LINKS_LISTENERS_MOST];
    unsigned count = wanted_addresses(rdma, at);
    bool listening[LINKS_LISTENERS_MOST] = {false};

    for (unsigned i = 0; i < links->listen_count; i++) {
        if (links->listening[i] && !is_among(&links->listen[i], at, count))
            fabric_unlisten(links->fabric, &links->listen[i]);
    }
    for (unsigned i = 0; i < count; i++)
        listening[i] = links->fabric && listens_at(links, &at[i]);
    memcpy(links->listen, at, sizeof(at));
    memcpy(links->listening, listening, sizeof(listening));
    links->listen_count = count;
}

// The name by which this host greets. Returns whether it changed.
static bool configure_host(struct links *links, const struct config_rdma *rdma)
{
    char host[LINK_HOST];
    bool same;

    config_rdma_host(rdma, host);
    same = strcmp(host, links->host) == 0;
    memcpy(links->host, host, sizeof(links->host));
    return !same;
}

void links_configure(struct links *links)
{
    const struct config *config = &links->agent->config;
    bool renamed = configure_host(links, &config->rdma);

    if (links->fabric && (renamed || config->peers.count == 0))
        close_fabric(links, "the configuration of this host changed");
    configure_listening(links, &config->rdma);
    configure_all(links, &config->peers);
    links->strangers = 0;
    if (!links->fabric && config->peers.count > 0)
        open_fabric(links);
    if (links->fabric) {
        data_thread_set_rate(links->thread, config->limits.rate_per_session);
        listen_at_all(links);
        links_reschedule(links);
    }
}

// The whole.

void links_init(struct links *links, struct agent *agent, const struct links_events *events)
{
    list_init(&links->all);
    list_init(&links->connections);
    links->agent = agent;
    links->events = *events;
}

void links_start(struct links *links, uv_loop_t *loop)
{
    links->loop = loop;
    uv_timer_init(loop, &links->timer);
    uv_timer_init(loop, &links->listen_timer);
    links->timer.data = links->listen_timer.data = links;
}

void links_stop(struct links *links)
{
    if (links->fabric)
        close_fabric(links, "the agent stops");
    while (!list_empty(&links->all))
        link_free(container_of(links->all.next, struct link, node));
    uv_close((uv_handle_t *)&links->timer, NULL);
    uv_close((uv_handle_t *)&links->listen_timer, NULL);
}

struct link *links_find(const struct links *links, const struct address *remote)
{
    struct link *found = NULL;
    int most = -1;

    list_for_each (node, &links->all) {
        struct link *link = container_of(node, struct link, node);
        int narrow = peer_speaks_for(&link->peer, remote);
        if (narrow > most) {
            most = narrow;
            found = link;
        }
    }
    return found;
}

struct link *links_next(const struct links *links, const struct link *link)
{
    const struct list *node = link ? link->node.next : links->all.next;

    return node != &links->all ? container_of(node, struct link, node) : NULL;
}

struct link *links_find_named(const struct links *links, const char *name)
{
    list_for_each (node, &links->all) {
        struct link *link = container_of(node, struct link, node);
        if (strcmp(link->peer.name, name) == 0)
            return link;
    }
    return NULL;
}
