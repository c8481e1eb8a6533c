// Reports for `rdmactl`. Their keys are a promise.

#include "agent/rpc_report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/links.h"
#include "agent/peer.h"
#include "agent/ringpool.h"
#include "agent/rpc.h"

// list

static double age_s(const struct agent *agent, uint64_t since_ms)
{
    return (double)(agent_now_ms(agent) - since_ms) / 1000;
}

static const char *way_name(uint32_t way)
{
    switch (way) {
    case WAY_RING:
        return "ring";
    case WAY_WATCH:
        return "watch";
    case WAY_LEFT:
        return "left";
    default:
        return "tcp";
    }
}

static const char *state_name(const struct session_end *end, const struct session_figures *figures)
{
    const struct session_end *peer = &end->session->end[1 - end->side];

    if (end->closed || peer->closed || end->declined || peer->declined || end->left || peer->left)
        return "closing";
    return figures->tx_way == WAY_RING || figures->rx_way == WAY_RING ? "ring" : "attaching";
}

struct row {
    uint64_t id;
    const char *transport;
    const char *state;
    const struct identity *identity;
    const struct user *user;
    pid_t pid;
    const char *command;
    uint64_t ring_bytes;
    double age_s;
    struct session_figures figures;
};

static json_t *row_to_json(const struct row *row)
{
    const struct session_figures *figures = &row->figures;
    char local[ADDRESS_TEXT], remote[ADDRESS_TEXT];

    return json_pack("{s:I, s:s, s:s, s:i, s:s, s:I, s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:f, s:I, s:I, s:I, s:I, "
                     "s:I}",
                     "id", (json_int_t)row->id, "transport", row->transport, "state", row->state, "pid", row->pid,
                     "command", row->command, "uid", (json_int_t)row->user->uid, "user", row->user->name, "local",
                     address_format(&row->identity->local, local), "remote",
                     address_format(&row->identity->remote, remote), "tx_bytes", (json_int_t)figures->tx_bytes,
                     "rx_bytes", (json_int_t)figures->rx_bytes, "tx_way", way_name(figures->tx_way), "rx_way",
                     way_name(figures->rx_way), "ring_bytes", (json_int_t)row->ring_bytes, "age_s", row->age_s,
                     "tx_calls", (json_int_t)figures->tx_calls, "rx_calls", (json_int_t)figures->rx_calls, "sleeps",
                     (json_int_t)figures->sleeps, "bells", (json_int_t)figures->bells, "tx_full",
                     (json_int_t)figures->tx_full);
}

static json_t *end_to_json(const struct session_end *end, const struct session_figures *figures)
{
    const struct session *session = end->session;
    const struct row row = {
        .id = session->id,
        .transport = session->transport == TRANSPORT_RDMA ? "rdma" : "shm",
        .state = state_name(end, figures),
        .identity = &end->identity,
        .user = end->user,
        .pid = end->pid,
        .command = end->command,
        .ring_bytes = session->ring->ring_bytes,
        .age_s = age_s(session->agent, session->since_ms),
        .figures = *figures,
    };

    return row_to_json(&row);
}

static json_t *offer_to_json(const struct agent *agent, const struct offer *offer)
{
    const struct row row = {
        .transport = "tcp",
        .state = "waiting",
        .identity = &offer->identity,
        .user = offer->client->user,
        .pid = offer->client->pid,
        .command = offer->client->command,
        .age_s = age_s(agent, offer->since_ms),
    };

    return row_to_json(&row);
}

static bool may_see(const struct rpc_caller *caller, uid_t uid)
{
    return caller->trusted || caller->uid == uid;
}

static int append_session(json_t *rows, const struct rpc_caller *caller, const struct session *session)
{
    struct session_figures figures[2];
    int result = 0;

    session_read_figures(session, figures);
    for (int side = 0; side < 2 && result == 0; side++) {
        const struct session_end *end = &session->end[side];
        if (session_end_is_here(end) && may_see(caller, end->user->uid))
            result = json_array_append_new(rows, end_to_json(end, &figures[side]));
    }
    return result;
}

static int append_rows(json_t *rows, const struct agent *agent, const struct rpc_caller *caller)
{
    int result = 0;

    list_for_each (link, &agent->sessions.all) {
        result = append_session(rows, caller, container_of(link, struct session, link));
        if (result < 0)
            return result;
    }
    list_for_each (offer_link, &agent->rendezvous.waiting) {
        const struct offer *offer = container_of(offer_link, struct offer, link);
        if (may_see(caller, offer->client->uid))
            result = json_array_append_new(rows, offer_to_json(agent, offer));
        if (result < 0)
            return result;
    }
    return 0;
}

json_t *rpc_report_list(const struct agent *agent, const struct rpc_caller *caller)
{
    json_t *rows = json_array();

    if (rows && append_rows(rows, agent, caller) < 0) {
        json_decref(rows);
        rows = NULL;
    }
    return rows ? json_pack("{s:o}", "sessions", rows) : NULL;
}

// stats

static json_t *report_agent(const struct agent *agent)
{
    char instance[17];

    snprintf(instance, sizeof(instance), "%016" PRIx64, agent->board.shared->instance);
    return json_pack("{s:s, s:i, s:f, s:s, s:s?, s:s}", "version", RDMA_VERSION, "pid", (int)getpid(), "uptime_s",
                     age_s(agent, agent->started_ms), "runtime_dir", agent->options.runtime_dir, "config",
                     agent->config_path, "instance", instance);
}

static json_t *report_offers(const struct agent *agent)
{
    const struct stats *stats = &agent->stats;

    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "total", (json_int_t)stats->offers, "waiting",
                     (json_int_t)agent->rendezvous.count, "refused", (json_int_t)stats->offers_refused, "withdrawn",
                     (json_int_t)stats->offers_withdrawn, "replaced", (json_int_t)stats->offers_replaced);
}

static json_t *report_sessions(const struct agent *agent)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "shm", (json_int_t)agent->sessions.shm, "rdma",
                     (json_int_t)agent->sessions.rdma, "total", (json_int_t)agent->stats.sessions, "declined",
                     (json_int_t)agent->stats.sessions_declined, "recalled", (json_int_t)agent->stats.sessions_recalled,
                     "ends_left", (json_int_t)agent->stats.ends_left);
}

static json_t *report_ring_memory(const struct agent *agent)
{
    return json_pack("{s:I, s:I, s:I}", "bytes", (json_int_t)agent->users.ring_bytes, "pooled_bytes",
                     (json_int_t)agent->pool.bytes, "limit_bytes", (json_int_t)agent->config.limits.ring_memory);
}

static json_t *report_bytes(const struct agent *agent)
{
    uint64_t tx = agent->stats.bytes_tx, rx = agent->stats.bytes_rx;

    list_for_each (link, &agent->sessions.all) {
        struct session_figures figures[2];
        session_read_figures(container_of(link, struct session, link), figures);
        for (int side = 0; side < 2; side++) {
            if (!session_end_is_here(&container_of(link, struct session, link)->end[side]))
                continue;
            tx = stats_sum(tx, figures[side].tx_bytes);
            rx = stats_sum(rx, figures[side].rx_bytes);
        }
    }
    return json_pack("{s:I, s:I}", "tx", (json_int_t)tx, "rx", (json_int_t)rx);
}

static json_t *report_reasons(const struct agent *agent)
{
    json_t *reasons = json_object();

    for (unsigned reason = WIRE_REASON_NONE + 1; reason < WIRE_REASON_COUNT; reason++)
        json_object_set_new(reasons, wire_reason_name(reason), json_integer((json_int_t)agent->stats.reasons[reason]));
    return reasons;
}

static json_t *report_users(const struct agent *agent, const struct rpc_caller *caller)
{
    json_t *users = json_array();

    for (size_t i = 0; i < agent->users.table.size; i++) {
        for (const struct table_node *node = agent->users.table.buckets[i]; node; node = node->next) {
            const struct user *user = container_of(node, struct user, node);
            if (may_see(caller, user->uid))
                json_array_append_new(users, json_pack("{s:I, s:s, s:I, s:I}", "uid", (json_int_t)user->uid, "user",
                                                       user->name, "sessions", (json_int_t)user->sessions, "ring_bytes",
                                                       (json_int_t)user->ring_bytes));
        }
    }
    return users;
}

static json_t *report_links(const struct agent *agent)
{
    json_int_t peers = 0, up = 0;

    for (struct link *link = links_next(&agent->links, NULL); link; link = links_next(&agent->links, link)) {
        peers++;
        up += link_state(link) == LINK_STATE_UP;
    }
    return json_pack("{s:I, s:I, s:I}", "peers", peers, "up", up, "refused", (json_int_t)agent->links.refused);
}

json_t *rpc_report_stats(const struct agent *agent, const struct rpc_caller *caller)
{
    return json_pack("{s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o}", "agent", report_agent(agent), "clients",
                     (json_int_t)agent->client_count, "clients_refused", (json_int_t)agent->stats.clients_refused,
                     "offers", report_offers(agent), "sessions", report_sessions(agent), "ring_memory",
                     report_ring_memory(agent), "bytes", report_bytes(agent), "reasons", report_reasons(agent),
                     "protocol_errors", (json_int_t)agent->stats.protocol_errors, "users", report_users(agent, caller),
                     "links", report_links(agent));
}

// peers

static json_t *report_networks(const struct peer *peer)
{
    json_t *networks = json_array();
    char text[ADDRESS_TEXT];

    for (size_t i = 0; i < peer->networks.count; i++)
        json_array_append_new(networks,
                              json_string(network_format((const struct network *)peer->networks.items + i, text)));
    return networks;
}

static json_t *report_link(const struct agent *agent, const struct link *link)
{
    const struct peer *peer = link_peer(link);
    struct link_figures figures;
    char address[ADDRESS_TEXT];

    link_read_figures(link, &figures);
    return json_pack("{s:s, s:s, s:o, s:s, s:s?, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:s?}", "name", peer->name,
                     "address", address_format(&peer->address, address), "networks", report_networks(peer), "state",
                     link_state_name(figures.state), "device", *figures.device ? figures.device : NULL, "rtt_us",
                     (json_int_t)figures.rtt_us, "since_s", age_s(agent, figures.since_ms), "times_up",
                     (json_int_t)figures.times_up, "failures", (json_int_t)figures.failures, "sessions",
                     (json_int_t)figures.sessions, "tx_bytes", (json_int_t)figures.tx_bytes, "rx_bytes",
                     (json_int_t)figures.rx_bytes, "error", *figures.error ? figures.error : NULL);
}

static json_t *report_listening(const struct links *links)
{
    json_t *addresses = json_array();
    char text[ADDRESS_TEXT];

    for (unsigned i = 0; links->fabric && i < links->listen_count; i++) {
        if (links->listening[i])
            json_array_append_new(addresses, json_string(address_format(&links->listen[i], text)));
    }
    return addresses;
}

json_t *rpc_report_peers(const struct agent *agent)
{
    json_t *peers = json_array();

    for (struct link *link = links_next(&agent->links, NULL); link; link = links_next(&agent->links, link))
        json_array_append_new(peers, report_link(agent, link));
    return json_pack("{s:s, s:o, s:I, s:o}", "host", agent->links.host, "listening", report_listening(&agent->links),
                     "refused", (json_int_t)agent->links.refused, "peers", peers);
}

// status

static json_t *report_namespaces(const struct agent *agent)
{
    const struct policy_list *list = &agent->config.namespaces;
    json_t *names = json_array();

    if (list->all)
        json_array_append_new(names, json_string(NETNS_SELF));
    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(names, json_string(((char *const *)list->items)[i]));
    return names;
}

json_t *rpc_report_status(const struct agent *agent)
{
    return json_pack("{s:s, s:i, s:s, s:s?, s:o, s:o}", "version", RDMA_VERSION, "pid", (int)getpid(), "runtime_dir",
                     agent->options.runtime_dir, "config", agent->config_path, "policy", config_to_json(&agent->config),
                     "namespaces", report_namespaces(agent));
}

json_t *rpc_report_limits(const struct agent *agent)
{
    const struct limits *limits = &agent->config.limits;

    return json_pack("{s:{s:I, s:I, s:I, s:I, s:I, s:I}}", "limits", "sessions_per_user",
                     (json_int_t)limits->sessions_per_user, "ring_memory_per_user",
                     (json_int_t)limits->ring_memory_per_user, "ring_memory", (json_int_t)limits->ring_memory,
                     "rate_per_session", (json_int_t)limits->rate_per_session, "clients_per_user",
                     (json_int_t)limits->clients_per_user, "offers_per_user", (json_int_t)limits->offers_per_user);
}
