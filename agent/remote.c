// Offers and answers, of which each is checked for its turn: whoever answers what was not asked is no peer.

#include "agent/remote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/data_thread.h"
#include "agent/path.h"
#include "agent/peer.h"
#include "agent/rendezvous.h"
#include "core/log.h"

// An offer that a peer made, its addresses as they are seen here.
struct peer_offer {
    struct table_node by_tuple;
    struct table_node by_number;
    struct list in_link;
    struct link *link;
    uint64_t number; // the peer's
    struct address local, remote;
    uint64_t ring_bytes;
};

// The user of a link that is up.
struct remote_link {
    struct agent *agent;
    struct link *link;
    struct session **sessions; // by number
    uint32_t used;             // numbers below this have been given out
    uint32_t *free;            // those of them that are free again
    uint32_t free_count;
    struct list kept; // of struct peer_offer
    uint64_t kept_count;
};

// --- hashes ---

static uint64_t hash_tuple(const struct address *local, const struct address *remote)
{
    const struct address both[2] = {*local, *remote};

    return table_hash(both, sizeof(both));
}

static uint64_t hash_number(uint64_t number)
{
    return table_hash(&number, sizeof(number));
}

static uint64_t hash_peer_number(const struct link *link, uint64_t number)
{
    const uint64_t both[2] = {(uintptr_t)link, number};

    return table_hash(both, sizeof(both));
}

// --- numbers of sessions ---

static struct remote_link *remote_link_new(struct agent *agent, struct link *link)
{
    struct remote_link *of = calloc(1, sizeof(*of));

    if (!of)
        return NULL;
    of->agent = agent;
    of->link = link;
    list_init(&of->kept);
    of->sessions = calloc(DATA_LINK_PATHS, sizeof(struct session *));
    of->free = calloc(DATA_LINK_PATHS, sizeof(uint32_t));
    if (of->sessions && of->free)
        return of;
    free(of->sessions);
    free(of->free);
    free(of);
    return NULL;
}

static void remote_link_free(struct remote_link *of)
{
    free(of->sessions);
    free(of->free);
    free(of);
}

static bool take_number(struct remote_link *of, uint32_t *number)
{
    if (of->free_count == 0 && of->used == DATA_LINK_PATHS)
        return false;
    *number = of->free_count > 0 ? of->free[--of->free_count] : of->used++;
    return true;
}

static void give_number(struct remote_link *of, uint32_t number)
{
    of->sessions[number] = NULL;
    of->free[of->free_count++] = number;
}

static struct session *find_session(const struct remote_link *of, uint32_t number)
{
    return number < of->used ? of->sessions[number] : NULL;
}

// --- what peers have offered ---

static struct peer_offer *find_kept(const struct agent *agent, const struct link *link, uint64_t number)
{
    uint64_t hash = hash_peer_number(link, number);

    for (struct table_node *node = table_first(&agent->remote.kept_by_number, hash); node; node = table_next(node)) {
        struct peer_offer *kept = container_of(node, struct peer_offer, by_number);
        if (kept->link == link && kept->number == number)
            return kept;
    }
    return NULL;
}

static struct peer_offer *find_other_half(const struct agent *agent, const struct identity *identity)
{
    uint64_t hash = hash_tuple(&identity->local, &identity->remote);

    for (struct table_node *node = table_first(&agent->remote.kept, hash); node; node = table_next(node)) {
        struct peer_offer *kept = container_of(node, struct peer_offer, by_tuple);
        if (address_equal(&kept->local, &identity->local) && address_equal(&kept->remote, &identity->remote))
            return kept;
    }
    return NULL;
}

static struct peer_offer *keep(struct remote_link *of, const struct link_message *message)
{
    struct remote *remote = &of->agent->remote;
    struct peer_offer *kept = of->kept_count < REMOTE_OFFERS_MOST ? calloc(1, sizeof(*kept)) : NULL;

    if (!kept)
        return NULL;
    kept->link = of->link;
    kept->number = message->offer.offer;
    kept->local = message->offer.remote;
    kept->remote = message->offer.local;
    kept->ring_bytes = message->offer.ring_bytes;
    table_add(&remote->kept, &kept->by_tuple, hash_tuple(&kept->local, &kept->remote));
    table_add(&remote->kept_by_number, &kept->by_number, hash_peer_number(kept->link, kept->number));
    list_append(&of->kept, &kept->in_link);
    of->kept_count++;
    return kept;
}

static void drop(struct remote_link *of, struct peer_offer *kept)
{
    struct remote *remote = &of->agent->remote;

    table_remove(&remote->kept, &kept->by_tuple);
    table_remove(&remote->kept_by_number, &kept->by_number);
    list_remove(&kept->in_link);
    of->kept_count--;
    free(kept);
}

// --- opening ---

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static enum wire_reason open_session(struct remote_link *of, struct offer *offer, uint64_t ring_bytes,
                                     const uint8_t *mark, struct session **session)
{
    const struct session_half half = {.client = offer->client, .token = offer->token, .identity = &offer->identity};
    struct session_far far = {.link = of->link, .ring_bytes = ring_bytes, .mark = mark};
    enum wire_reason reason;

    if (!take_number(of, &far.number))
        return WIRE_REASON_TABLE_FULL;
    reason = session_open_far(of->agent, &half, &far, session);
    if (reason == WIRE_REASON_NONE)
        of->sessions[far.number] = *session;
    else
        give_number(of, far.number);
    return reason;
}

static void send_open(struct remote_link *of, const struct session *session, uint64_t number)
{
    struct link_message message = {
        .type = LINK_OPEN,
        .open = {.offer = number, .session = session_far_number(session)},
    };

    session_far_place(session, &message.open.place);
    memcpy(message.open.mark, session->mark, sizeof(message.open.mark));
    link_send(of->link, &message);
}

static void decline(struct remote_link *of, uint64_t number, enum wire_reason reason)
{
    const struct link_message message = {.type = LINK_DECLINE, .decline = {.offer = number, .reason = reason}};

    link_send(of->link, &message);
}

// The major's: both halves are offered.
static void match(struct agent *agent, struct offer *offer, struct peer_offer *kept)
{
    struct remote_link *of = link_user(kept->link);
    uint64_t number = kept->number, ring_bytes = least(kept->ring_bytes, agent->pool.ring_bytes);
    struct session *session;
    enum wire_reason reason;

    drop(of, kept);
    reason = open_session(of, offer, ring_bytes, NULL, &session);
    if (reason != WIRE_REASON_NONE) {
        decline(of, number, reason);
        rendezvous_refuse(agent, offer, reason);
        return;
    }
    offer->opening = session;
    send_open(of, session, number);
}

// The minor's.
static void forward(struct agent *agent, struct link *link, struct offer *offer)
{
    const struct link_message message = {
        .type = LINK_OFFER,
        .offer =
            {
                .offer = ++agent->remote.last_number,
                .local = offer->identity.local,
                .remote = offer->identity.remote,
                .ring_bytes = agent->pool.ring_bytes,
            },
    };

    offer->forwarded_to = link;
    offer->number = message.offer.offer;
    table_add(&agent->remote.forwarded, &offer->by_number, hash_number(offer->number));
    link_send(link, &message);
}

void remote_seek(struct agent *agent, struct offer *offer)
{
    struct link *link = links_find(&agent->links, &offer->identity.remote);
    struct peer_offer *kept;

    if (!link || offer->number || offer->opening || offer->unproven)
        return;
    if (!link_user(link)) {
        link_want(link);
    } else if (!link_is_major(link)) {
        forward(agent, link, offer);
    } else {
        kept = find_other_half(agent, &offer->identity);
        if (kept && kept->link == link)
            match(agent, offer, kept);
    }
}

static void unforward(struct agent *agent, struct offer *offer)
{
    table_remove(&agent->remote.forwarded, &offer->by_number);
    offer->number = 0;
    offer->forwarded_to = NULL;
}

// Gives the session that both hosts have to the client, now or as soon as it can take it.
static void hand_over(struct agent *agent, struct offer *offer, struct session *session)
{
    offer->opening = session;
    if (rendezvous_hold_if_full(offer))
        return;
    offer->opening = NULL;
    if (!session->far) { // the other side has let go meanwhile
        session_far_drop(session);
        remote_seek(agent, offer);
        return;
    }
    session_far_attach(session, offer->client, offer->token);
    rendezvous_remove(agent, offer);
}

void remote_retry(struct agent *agent, struct offer *offer)
{
    if (offer->opening->agreed)
        hand_over(agent, offer, offer->opening);
}

// A session on which the other host has not agreed yet finds out when it has.
void remote_forget(struct agent *agent, struct offer *offer)
{
    const struct link_message message = {.type = LINK_WITHDRAW, .withdraw = {.offer = offer->number}};

    if (offer->opening && offer->opening->agreed)
        session_far_drop(offer->opening);
    if (offer->number == 0)
        return;
    link_send(offer->forwarded_to, &message);
    unforward(agent, offer);
}

// --- messages to the major ---

static void on_offer(struct remote_link *of, const struct link_message *message)
{
    struct peer_offer *kept;
    struct offer *offer;

    if (peer_speaks_for(link_peer(of->link), &message->offer.local) < 0) {
        link_fail(of->link, "it offered a connection with an address that it may not speak for");
        return;
    }
    if (find_kept(of->agent, of->link, message->offer.offer)) {
        link_fail(of->link, "it made the same offer twice");
        return;
    }
    // Another peer speaks for that address more narrowly.
    if (links_find(&of->agent->links, &message->offer.local) != of->link)
        return;
    kept = keep(of, message);
    if (!kept) {
        decline(of, message->offer.offer, WIRE_REASON_TABLE_FULL);
        return;
    }
    offer = rendezvous_find(of->agent, &kept->local, &kept->remote);
    if (offer)
        match(of->agent, offer, kept);
}

static void on_withdraw(struct remote_link *of, const struct link_message *message)
{
    struct peer_offer *kept = find_kept(of->agent, of->link, message->withdraw.offer);

    // It may have been matched meanwhile.
    if (kept)
        drop(of, kept);
}

// The offer for which a session is being opened. Its process may have forked meanwhile, and the child have offered it.
static struct offer *find_offer_of(const struct remote_link *of, const struct session *session)
{
    return rendezvous_find_socket(of->agent, session->end[1].identity.cookie);
}

static struct session *find_opening(struct remote_link *of, uint32_t number)
{
    struct session *session = find_session(of, number);

    if (session && session->opening && !session->agreed)
        return session;
    link_fail(of->link, "it answered for a session that was not opened");
    return NULL;
}

static void on_opened(struct remote_link *of, const struct link_message *message)
{
    struct session *session = find_opening(of, message->opened.yours);
    struct offer *offer;

    if (!session)
        return;
    if (message->opened.place.ring_bytes != session->ring->ring_bytes) {
        link_fail(of->link, "it opened a session with a ring of another size");
        return;
    }
    session_far_connect(session, &message->opened.place, message->opened.mine);
    session->agreed = true;
    offer = find_offer_of(of, session);
    if (offer)
        hand_over(of->agent, offer, session);
    else
        session_far_drop(session);
}

static void on_refuse(struct remote_link *of, const struct link_message *message)
{
    struct session *session = find_opening(of, message->refuse.session);
    enum wire_reason reason = message->refuse.reason;
    struct offer *offer;

    if (!session)
        return;
    offer = find_offer_of(of, session);
    session_far_drop(session);
    if (!offer)
        return;
    offer->opening = NULL;
    // It was withdrawn there, perhaps to be offered again.
    if (reason == WIRE_REASON_NONE)
        remote_seek(of->agent, offer);
    else
        rendezvous_refuse(of->agent, offer, reason);
}

// --- messages to the minor ---

static void refuse(struct remote_link *of, uint32_t session, enum wire_reason reason)
{
    const struct link_message message = {.type = LINK_REFUSE, .refuse = {.session = session, .reason = reason}};

    link_send(of->link, &message);
}

static struct offer *find_forwarded(const struct remote_link *of, uint64_t number)
{
    for (struct table_node *node = table_first(&of->agent->remote.forwarded, hash_number(number)); node;
         node = table_next(node)) {
        struct offer *offer = container_of(node, struct offer, by_number);
        if (offer->number == number && offer->forwarded_to == of->link)
            return offer;
    }
    return NULL;
}

static void answer(struct remote_link *of, struct session *session, const struct link_message *open)
{
    struct link_message message = {
        .type = LINK_OPENED,
        .opened = {.yours = open->open.session, .mine = session_far_number(session)},
    };

    session_far_place(session, &message.opened.place);
    session_far_connect(session, &open->open.place, open->open.session);
    link_send(of->link, &message);
}

static void on_open(struct remote_link *of, const struct link_message *message)
{
    struct offer *offer = find_forwarded(of, message->open.offer);
    struct session *session;
    enum wire_reason reason;

    if (!offer) {
        refuse(of, message->open.session, WIRE_REASON_NONE);
        return;
    }
    unforward(of->agent, offer);
    reason = message->open.place.ring_bytes > of->agent->pool.ring_bytes
                 ? WIRE_REASON_LIMIT_MEMORY
                 : open_session(of, offer, message->open.place.ring_bytes, message->open.mark, &session);
    if (reason != WIRE_REASON_NONE) {
        refuse(of, message->open.session, reason);
        rendezvous_refuse(of->agent, offer, reason);
        return;
    }
    answer(of, session, message);
    session->agreed = true;
    hand_over(of->agent, offer, session);
}

// It may have been withdrawn meanwhile.
static void on_decline(struct remote_link *of, const struct link_message *message)
{
    struct offer *offer = find_forwarded(of, message->decline.offer);

    if (!offer)
        return;
    unforward(of->agent, offer);
    rendezvous_refuse(of->agent, offer, (enum wire_reason)message->decline.reason);
}

// --- links ---

// Whether this is said by the major alone.
static bool is_majors(const struct link_message *message)
{
    return message->type == LINK_OPEN || message->type == LINK_DECLINE;
}

static void on_received(struct link *link, const struct link_message *message)
{
    struct remote_link *of = link_user(link);

    if (!of)
        return;
    if (is_majors(message) == link_is_major(link)) {
        link_fail(link, "it sent a message that is not its part");
        return;
    }
    switch (message->type) {
    case LINK_OFFER:
        on_offer(of, message);
        break;
    case LINK_WITHDRAW:
        on_withdraw(of, message);
        break;
    case LINK_OPEN:
        on_open(of, message);
        break;
    case LINK_OPENED:
        on_opened(of, message);
        break;
    case LINK_REFUSE:
        on_refuse(of, message);
        break;
    case LINK_DECLINE:
        on_decline(of, message);
        break;
    default:
        link_fail(link, "it sent a message out of turn");
    }
}

static void on_up(struct link *link)
{
    struct agent *agent = link_agent(link);
    struct remote_link *of = remote_link_new(agent, link);

    if (!of) {
        link_fail(link, "no memory");
        return;
    }
    link_set_user(link, of);
    // Of the major, the offers of the other side come now.
    if (link_is_major(link))
        return;
    list_for_each (waiting, &agent->rendezvous.waiting) {
        struct offer *offer = container_of(waiting, struct offer, link);
        if (!offer->unproven && links_find(&agent->links, &offer->identity.remote) == link)
            forward(agent, link, offer);
    }
}

static void lose_sessions(struct remote_link *of)
{
    for (uint32_t number = 0; number < of->used; number++) {
        struct session *session = of->sessions[number];
        struct offer *offer = session && session->opening ? find_offer_of(of, session) : NULL;
        if (offer)
            offer->opening = NULL;
        if (session)
            session_far_lost(session);
    }
}

static void on_down(struct link *link)
{
    struct remote_link *of = link_user(link);

    if (!of)
        return;
    link_set_user(link, NULL);
    lose_sessions(of);
    list_for_each (in_link, &of->kept)
        drop(of, container_of(in_link, struct peer_offer, in_link));
    list_for_each (waiting, &of->agent->rendezvous.waiting) {
        struct offer *offer = container_of(waiting, struct offer, link);
        if (offer->forwarded_to == link)
            unforward(of->agent, offer);
    }
    remote_link_free(of);
}

static void on_broken(const struct session *session)
{
    struct stats *stats = &session->agent->stats;

    stats_add_reasons(stats, WIRE_REASON_PROTOCOL, 1);
    log_seldom(LOG_LEVEL_WARNING, "session %llu (process %d) with peer %s: one of its ends broke the protocol",
               (unsigned long long)session->id, session->end[1].pid, link_peer(session_far_link(session))->name);
}

static void on_path(void *owner, struct path *path, int what)
{
    struct session *session = owner;

    if (what & PATH_BROKEN)
        on_broken(session);
    if (what & PATH_ARRIVED)
        session_far_arrived(session);
    if (!(what & PATH_OVER))
        return;
    give_number(link_user(session_far_link(session)), session_far_number(session));
    session_far_over(session);
}

const struct links_events remote_events = {.up = on_up, .down = on_down, .received = on_received, .path = on_path};

int remote_init(struct remote *remote)
{
    remote->last_number = 0;
    if (table_init(&remote->forwarded) < 0)
        return -ENOMEM;
    if (table_init(&remote->kept) < 0)
        goto free_forwarded;
    if (table_init(&remote->kept_by_number) < 0)
        goto free_kept;
    return 0;
free_kept:
    table_deinit(&remote->kept);
free_forwarded:
    table_deinit(&remote->forwarded);
    return -ENOMEM;
}

void remote_deinit(struct remote *remote)
{
    table_deinit(&remote->forwarded);
    table_deinit(&remote->kept);
    table_deinit(&remote->kept_by_number);
}
