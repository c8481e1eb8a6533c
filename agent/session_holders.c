// The clients that hold an end: how it is handed to them, to the first and to those that come later, and what they say of
// it afterwards.

#include "agent/session_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "agent/agent.h"
#include "agent/fd.h"
#include "agent/ringpool.h"
#include "core/log.h"

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

void session_holders_drop(struct session_end *end)
{
    list_for_each (link, &end->holders)
        remove_holder(container_of(link, struct session_holder, in_end));
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
    int result = session_lifeline_watch(end);

    if (result < 0)
        return result;
    list_remove(&end->drift);
    end->closed = false;
    session_end_take_back_closed(end);
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
    lifeline = session_lifeline_reopen(end);
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

// Others may still use what this client could not.
static void end_declined(struct session_end *end, enum wire_reason reason)
{
    if (!list_empty(&end->holders))
        return;
    end->declined = reason != WIRE_REASON_NONE ? reason : WIRE_REASON_NO_MEMORY;
    if (!end->closed)
        session_end_tell_closed(end);
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

    session_end_read(end, &copy);
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

    if (holder && session_end_has_left(holder->end))
        remove_holder(holder);
}

void session_forget(struct client *client)
{
    list_for_each (link, &client->holders)
        remove_holder(container_of(link, struct session_holder, in_client));
}
