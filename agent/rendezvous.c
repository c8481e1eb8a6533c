// Offers, found by their connection, their socket, or the name that their client gave them.

#include "agent/rendezvous.h"

#include <errno.h>
#include <stdlib.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/foreign.h"
#include "agent/policy.h"
#include "agent/remote.h"
#include "core/log.h"

// The hashed forms of what offers are looked up by.

static uint64_t hash_tuple(const struct address *local, const struct address *remote)
{
    const struct address both[2] = {*local, *remote};

    return table_hash(both, sizeof(both));
}

static uint64_t hash_token(const struct client *client, uint64_t token)
{
    const uint64_t both[2] = {(uintptr_t)client, token};

    return table_hash(both, sizeof(both));
}

static uint64_t hash_cookie(uint64_t cookie)
{
    return table_hash(&cookie, sizeof(cookie));
}

// Looking up.

static struct offer *find_by_token(const struct rendezvous *rendezvous, const struct client *client, uint64_t token)
{
    for (struct table_node *node = table_first(&rendezvous->by_token, hash_token(client, token)); node;
         node = table_next(node)) {
        struct offer *offer = container_of(node, struct offer, by_token);
        if (offer->client == client && offer->token == token)
            return offer;
    }
    return NULL;
}

static struct offer *find_by_cookie(const struct rendezvous *rendezvous, uint64_t cookie)
{
    for (struct table_node *node = table_first(&rendezvous->by_cookie, hash_cookie(cookie)); node;
         node = table_next(node)) {
        struct offer *offer = container_of(node, struct offer, by_cookie);
        if (offer->identity.cookie == cookie)
            return offer;
    }
    return NULL;
}

struct offer *rendezvous_find_socket(const struct agent *agent, uint64_t cookie)
{
    return find_by_cookie(&agent->rendezvous, cookie);
}

struct offer *rendezvous_find(const struct agent *agent, const struct address *local, const struct address *remote)
{
    for (struct table_node *node = table_first(&agent->rendezvous.by_tuple, hash_tuple(local, remote)); node;
         node = table_next(node)) {
        struct offer *offer = container_of(node, struct offer, by_tuple);
        if (!offer->opening && !offer->unproven && address_equal(&offer->identity.local, local) &&
            address_equal(&offer->identity.remote, remote))
            return offer;
    }
    return NULL;
}

// An offer for the same end by another socket, which must therefore be gone.
static struct offer *find_stale(const struct rendezvous *rendezvous, const struct identity *identity)
{
    for (struct table_node *node = table_first(&rendezvous->by_tuple, hash_tuple(&identity->local, &identity->remote));
         node; node = table_next(node)) {
        struct offer *offer = container_of(node, struct offer, by_tuple);
        if (identity_is_same_end(&offer->identity, identity))
            return offer;
    }
    return NULL;
}

// The offer of the other end: of the same namespace rather than of another, if it can be in another at all. A socket
// that is connected to itself has none: `own` does not count.
static struct offer *find_peer(const struct agent *agent, const struct identity *identity, const struct offer *own)
{
    uint64_t hash = hash_tuple(&identity->remote, &identity->local);
    struct offer *elsewhere = NULL;

    for (struct table_node *node = table_first(&agent->rendezvous.by_tuple, hash); node; node = table_next(node)) {
        struct offer *offer = container_of(node, struct offer, by_tuple);
        if (offer == own || offer->opening || offer->unproven || !identity_is_peer(&offer->identity, identity))
            continue;
        if (offer->identity.netns == identity->netns)
            return offer;
        if (identity_may_leave_netns(identity) &&
            netns_may_meet(&agent->namespaces, offer->identity.netns, identity->netns))
            elsewhere = offer;
    }
    return elsewhere;
}

// Waiting.

static struct offer *offer_add(struct agent *agent, struct client *client, uint64_t token,
                               const struct identity *identity)
{
    struct rendezvous *rendezvous = &agent->rendezvous;
    struct offer *offer = calloc(1, sizeof(*offer));

    if (!offer)
        return NULL;
    offer->client = client;
    offer->token = token;
    offer->identity = *identity;
    offer->since_ms = agent_now_ms(agent);
    list_init(&offer->in_alone);
    table_add(&rendezvous->by_tuple, &offer->by_tuple, hash_tuple(&identity->local, &identity->remote));
    table_add(&rendezvous->by_cookie, &offer->by_cookie, hash_cookie(identity->cookie));
    table_add(&rendezvous->by_token, &offer->by_token, hash_token(client, token));
    list_append(&rendezvous->waiting, &offer->link);
    list_append(&client->offers, &offer->in_client);
    rendezvous->count++;
    client->user->offers++;
    return offer;
}

void rendezvous_remove(struct agent *agent, struct offer *offer)
{
    struct rendezvous *rendezvous = &agent->rendezvous;

    remote_forget(agent, offer);
    table_remove(&rendezvous->by_tuple, &offer->by_tuple);
    table_remove(&rendezvous->by_cookie, &offer->by_cookie);
    table_remove(&rendezvous->by_token, &offer->by_token);
    list_remove(&offer->link);
    list_remove(&offer->in_client);
    alone_forget(offer);
    rendezvous->count--;
    // Its user stays: the client itself is counted too.
    offer->client->user->offers--;
    free(offer);
}

static void offer_replace(struct agent *agent, struct offer *offer)
{
    if (!offer)
        return;
    agent->stats.offers_replaced++;
    rendezvous_remove(agent, offer);
}

// Refusing.

static void refuse(struct agent *agent, struct client *client, uint64_t token, enum wire_reason reason)
{
    union wire_message message;

    agent->stats.offers_refused++;
    stats_add_reasons(&agent->stats, reason, 1);
    log_debug("refused an offer of process %d (%s): %s", client->pid, client->command, wire_reason_name(reason));
    wire_begin(&message, WIRE_REFUSED);
    message.refused.token = token;
    message.refused.reason = reason;
    client_send(client, &message, NULL, 0);
}

void rendezvous_refuse(struct agent *agent, struct offer *offer, enum wire_reason reason)
{
    struct client *client = offer->client;
    uint64_t token = offer->token;

    rendezvous_remove(agent, offer);
    refuse(agent, client, token, reason);
}

// Meeting.

bool rendezvous_hold_if_full(struct offer *offer)
{
    if (client_has_room(offer->client))
        return false;
    list_remove(&offer->in_client);
    list_append(&offer->client->held, &offer->in_client);
    return true;
}

static void meet(struct agent *agent, struct offer *first, struct offer *second)
{
    const struct session_half halves[2] = {
        {.client = first->client, .token = first->token, .identity = &first->identity},
        {.client = second->client, .token = second->token, .identity = &second->identity},
    };
    enum wire_reason reason;

    // Both are looked at, so that both are tried again when there is room.
    bool first_held = rendezvous_hold_if_full(first), second_held = rendezvous_hold_if_full(second);
    if (first_held || second_held)
        return;
    reason = session_open(agent, halves);
    if (reason != WIRE_REASON_NONE) {
        rendezvous_refuse(agent, first, reason);
        rendezvous_refuse(agent, second, reason);
    } else {
        rendezvous_remove(agent, first);
        rendezvous_remove(agent, second);
    }
}

static enum wire_reason check(const struct agent *agent, const struct client *client, const struct identity *identity)
{
    if (!identity->connected)
        return WIRE_REASON_NOT_TCP;
    if (!netns_is_served(&agent->namespaces, identity->netns))
        return WIRE_REASON_NAMESPACE;
    return policy_check(&agent->config.upgrade, client->uid, identity);
}

void rendezvous_seek(struct agent *agent, struct offer *offer)
{
    struct offer *peer = find_peer(agent, &offer->identity, offer);

    if (peer)
        meet(agent, peer, offer);
    else
        remote_seek(agent, offer);
}

// A connection that has no session yet. Its other half is sought here first, then on other hosts.
static enum wire_reason place(struct agent *agent, struct client *client, uint64_t token,
                              const struct identity *identity, bool shared)
{
    enum wire_reason reason = check(agent, client, identity);
    struct offer *offer;

    if (reason != WIRE_REASON_NONE)
        return reason;
    offer_replace(agent, find_by_cookie(&agent->rendezvous, identity->cookie));
    offer_replace(agent, find_stale(&agent->rendezvous, identity));
    if (client->user->offers >= agent->config.limits.offers_per_user && (shared || !find_peer(agent, identity, NULL)))
        return WIRE_REASON_TABLE_FULL;
    offer = offer_add(agent, client, token, identity);
    if (!offer)
        return WIRE_REASON_NO_MEMORY;
    if (shared)
        alone_wait(agent, offer);
    else
        rendezvous_seek(agent, offer);
    return WIRE_REASON_NONE;
}

int rendezvous_offer(struct agent *agent, struct client *client, const struct wire_offer *message, int fd)
{
    struct identity identity;
    int result = identity_read(fd, &identity);
    struct offer *waiting;
    struct session_end *end;
    enum wire_reason reason;

    // At once: a copy kept here would hold back the FIN when the application closes its own.
    foreign_close(fd, client->uid);
    waiting = find_by_token(&agent->rendezvous, client, message->token);
    if (waiting && !(message->flags & WIRE_OFFER_ADOPT))
        return -EPROTO;
    if (waiting)
        rendezvous_remove(agent, waiting);
    agent->stats.offers++;
    end = result == 0 ? session_find_end(&agent->sessions, &identity) : NULL;
    if (result < 0)
        reason = WIRE_REASON_NOT_TCP;
    else if (end)
        reason = session_join(end, client, message->token, message->flags & (WIRE_OFFER_SHARED | WIRE_OFFER_ADOPT));
    else if (message->flags & WIRE_OFFER_ADOPT)
        reason = WIRE_REASON_AGENT_LOST;
    else
        reason = place(agent, client, message->token, &identity, message->flags & WIRE_OFFER_SHARED);
    if (reason != WIRE_REASON_NONE)
        refuse(agent, client, message->token, reason);
    return 0;
}

void rendezvous_withdraw(struct agent *agent, struct client *client, uint64_t token)
{
    struct offer *offer = find_by_token(&agent->rendezvous, client, token);

    if (!offer) {
        session_withdraw(client, token);
        return;
    }
    agent->stats.offers_withdrawn++;
    rendezvous_remove(agent, offer);
}

void rendezvous_forget(struct agent *agent, struct client *client)
{
    list_for_each (link, &client->offers)
        rendezvous_remove(agent, container_of(link, struct offer, in_client));
    list_for_each (link, &client->held)
        rendezvous_remove(agent, container_of(link, struct offer, in_client));
}

static void retry(struct agent *agent, struct offer *offer)
{
    struct offer *peer;

    if (offer->opening) {
        remote_retry(agent, offer);
        return;
    }
    peer = find_peer(agent, &offer->identity, offer);
    if (peer)
        meet(agent, peer, offer);
}

void rendezvous_retry(struct agent *agent, struct client *client)
{
    while (!list_empty(&client->held) && !client->full) {
        struct offer *offer = container_of(client->held.next, struct offer, in_client);
        list_remove(&offer->in_client);
        list_append(&client->offers, &offer->in_client);
        retry(agent, offer);
    }
}

void rendezvous_recheck(struct agent *agent)
{
    list_for_each (link, &agent->rendezvous.waiting) {
        struct offer *offer = container_of(link, struct offer, link);
        enum wire_reason reason = check(agent, offer->client, &offer->identity);
        if (reason != WIRE_REASON_NONE)
            rendezvous_refuse(agent, offer, reason);
        else
            remote_seek(agent, offer);
    }
}

int rendezvous_init(struct rendezvous *rendezvous)
{
    list_init(&rendezvous->waiting);
    rendezvous->count = 0;
    alone_init(&rendezvous->alone);
    if (table_init(&rendezvous->by_tuple) < 0)
        return -ENOMEM;
    if (table_init(&rendezvous->by_cookie) < 0)
        goto free_tuple;
    if (table_init(&rendezvous->by_token) < 0)
        goto free_cookie;
    return 0;
free_cookie:
    table_deinit(&rendezvous->by_cookie);
free_tuple:
    table_deinit(&rendezvous->by_tuple);
    return -ENOMEM;
}

void rendezvous_deinit(struct rendezvous *rendezvous)
{
    table_deinit(&rendezvous->by_tuple);
    table_deinit(&rendezvous->by_cookie);
    table_deinit(&rendezvous->by_token);
}
