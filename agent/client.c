// From accept to disconnect, and the messages in between.

#include "agent/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/agent.h"
#include "agent/descriptors.h"
#include "agent/fd.h"
#include "agent/foreign.h"
#include "core/fdpass.h"
#include "core/log.h"

// Handled at one go. A queue with room (it is at most a quarter full) takes as many answers and some.
#define MESSAGES_PER_TURN 32

// The name is the process's own choice; it is to be fit for tables and JSON.
static void make_printable(char *text)
{
    text[strcspn(text, "\n")] = '\0';
    for (; *text; text++) {
        if (*text < ' ' || *text > '~')
            *text = '?';
    }
}

static void read_command(pid_t pid, char command[static CLIENT_COMMAND])
{
    char name[32];
    _cleanup_fd_ int fd = -1;
    ssize_t size = -1;

    snprintf(name, sizeof(name), "/proc/%d/comm", pid);
    fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        size = read(fd, command, CLIENT_COMMAND - 1);
    if (size <= 0) {
        strcpy(command, "?");
        return;
    }
    command[size] = '\0';
    make_printable(command);
}

// Sending.

static bool is_gone(int result)
{
    return result == -EPIPE || result == -ECONNRESET;
}

static bool queue_has_room(const struct client *client)
{
    struct pollfd queue = {.fd = client->fd, .events = POLLOUT};

    // A client that is gone counts as having room: it is found out when it is sent something.
    return poll(&queue, 1, 0) != 0;
}

bool client_has_room(struct client *client)
{
    if (!client->full && !queue_has_room(client)) {
        client->full = true;
        watch_change(&client->agent->watches, &client->watch, EPOLLOUT);
    }
    return !client->full;
}

int client_send(struct client *client, const union wire_message *message, const int *fds, unsigned count)
{
    int result = fdpass_send(client->fd, message, fds, count);

    if (result == 0)
        board_raise_mail(&client->agent->board, client->slot);
    return result;
}

// The messages.

// One that is gone already is heard to its end all the same: a short-lived process says what it has to say, and ends.
static int greet(struct client *client)
{
    struct agent_board *board = &client->agent->board;
    union wire_message message;
    int result;

    wire_begin(&message, WIRE_WELCOME);
    message.welcome.version = WIRE_VERSION;
    message.welcome.layout = LAYOUT_VERSION;
    message.welcome.slot = client->slot;
    message.welcome.instance = board->shared->instance;
    result = client_send(client, &message, &board->fd, WIRE_WELCOME_FDS);
    return is_gone(result) ? 0 : result;
}

static int on_hello(struct client *client, const struct wire_hello *hello)
{
    int slot;

    if (client->greeted)
        return -EPROTO;
    if (hello->version != WIRE_VERSION || hello->layout != LAYOUT_VERSION)
        return -EPROTONOSUPPORT;
    slot = board_take_slot(&client->agent->board);
    if (slot < 0)
        return slot;
    client->slot = (uint32_t)slot;
    client->greeted = true;
    log_debug("process %d (%s, user %s) connected", client->pid, client->command, client->user->name);
    return greet(client);
}

static void on_decline(struct client *client, const struct wire_decline *decline)
{
    if (!session_decline(client, decline->session, decline->reason))
        return;
    client->agent->stats.sessions_declined++;
    stats_add_reasons(&client->agent->stats, decline->reason, 1);
}

static void on_count(struct client *client, const struct wire_count *report)
{
    for (unsigned reason = 0; reason < WIRE_REASON_COUNT; reason++)
        stats_add_reasons(&client->agent->stats, reason, report->count[reason]);
}

static void on_withdraw(struct client *client, const struct wire_withdraw *withdraw)
{
    rendezvous_withdraw(client->agent, client, withdraw->token);
    stats_add_reasons(&client->agent->stats, withdraw->reason, 1);
}

static void close_all(const struct client *client, const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        foreign_close(fds[i], client->uid);
}

static int on_message(struct client *client, const union wire_message *message, const int *fds, unsigned count)
{
    if (!client->greeted && message->head.type == WIRE_HELLO)
        return on_hello(client, &message->hello);
    if (client->greeted) {
        switch (message->head.type) {
        case WIRE_OFFER:
            return rendezvous_offer(client->agent, client, &message->offer, fds[0]);
        case WIRE_WITHDRAW:
            on_withdraw(client, &message->withdraw);
            return 0;
        case WIRE_DECLINE:
            on_decline(client, &message->decline);
            return 0;
        case WIRE_LEFT:
            session_left(client, message->left.session);
            return 0;
        case WIRE_KEEP:
            session_keep(client, &message->keep, fds[0]);
            return 0;
        case WIRE_COUNT:
            on_count(client, &message->count);
            return 0;
        }
    }
    // Out of turn, or not a client's message at all.
    close_all(client, fds, count);
    return -EPROTO;
}

// Receiving.

// Returns 1 if there was a message, 0 if there is none now, or -errno.
static int receive(struct client *client)
{
    union wire_message message;
    int fds[WIRE_FDS_MAX];
    unsigned count;
    int result;

    // What does not fit is closed by the kernel at once. A client that is gone, and has not read all, is an error first;
    // what it has said comes after that.
    foreign_guard_begin();
    do
        result = fdpass_take(client->fd, &message, fds, &count);
    while (result == -ECONNRESET);
    foreign_guard_end();
    if (result == 1) {
        int handled = on_message(client, &message, fds, count);
        return handled < 0 ? handled : 1;
    }
    close_all(client, fds, count);
    return result;
}

static void log_drop(const struct client *client, int result)
{
    switch (result) {
    case -EPIPE:
        log_debug("process %d (%s) disconnected", client->pid, client->command);
        break;
    case -EPROTO:
        log_seldom(LOG_LEVEL_WARNING, "dropped process %d (%s): it broke the protocol", client->pid, client->command);
        break;
    case -EPROTONOSUPPORT:
        log_seldom(LOG_LEVEL_WARNING,
                   "dropped process %d (%s): its library speaks another version than this agent "
                   "(%d, layout %d); it must be started again with the agent's own",
                   client->pid, client->command, WIRE_VERSION, LAYOUT_VERSION);
        break;
    case -ENOSPC:
        log_seldom(LOG_LEVEL_WARNING, "turned process %d (%s) away: %d clients are connected, the most there can be",
                   client->pid, client->command, BOARD_SLOTS);
        break;
    default:
        log_seldom(LOG_LEVEL_WARNING, "dropped process %d (%s): %s", client->pid, client->command, strerror(-result));
    }
}

static void client_fail(struct client *client, int result)
{
    struct stats *stats = &client->agent->stats;

    log_drop(client, result);
    if (result == -EPROTO || result == -EPROTONOSUPPORT)
        stats->protocol_errors++;
    else if (result == -ENOSPC)
        stats->clients_refused++;
    client_drop(client);
}

static void resume(struct client *client)
{
    client->full = false;
    watch_change(&client->agent->watches, &client->watch, EPOLLIN);
    rendezvous_retry(client->agent, client);
}

static void on_ready(struct watch *watch, uint32_t events)
{
    struct client *client = container_of(watch, struct client, watch);

    if (client->full && (events & EPOLLOUT))
        resume(client);
    // Gone, while it was not read from: what it sent before is read now, and nothing has to be answered.
    if (events & (EPOLLHUP | EPOLLERR))
        client->full = false;
    for (int i = 0; i < MESSAGES_PER_TURN && client_has_room(client); i++) {
        int result = foreign_is_stuck(client->uid) ? -EBUSY : receive(client);
        if (result == 0)
            return;
        if (result < 0) {
            client_fail(client, result);
            return;
        }
    }
}

// Connecting and disconnecting.

static struct client *client_make(struct agent *agent, int fd, const struct ucred *peer)
{
    struct client *client = calloc(1, sizeof(*client));

    if (!client)
        return NULL;
    client->agent = agent;
    client->fd = fd;
    client->watch.fd = -1;
    client->pid = peer->pid;
    client->uid = peer->uid;
    list_init(&client->link);
    list_init(&client->offers);
    list_init(&client->held);
    list_init(&client->holders);
    read_command(client->pid, client->command);
    client->user = users_get(&agent->users, client->uid);
    if (client->user)
        return client;
    free(client);
    return NULL;
}

static void client_enter(struct client *client)
{
    struct agent *agent = client->agent;

    list_append(&agent->clients, &client->link);
    agent->client_count++;
    client->user->clients++;
    agent_want_rings(agent, client->user);
    agent_tend_pool(agent);
}

static int admit(struct agent *agent, int fd, const struct ucred *peer)
{
    struct client *client;
    int result;

    if (descriptors_scarce(fd, RESERVE_FOR_CLIENTS))
        return -EMFILE;
    if (foreign_is_stuck(peer->uid))
        return -EBUSY;
    client = client_make(agent, fd, peer);
    if (!client)
        return -ENOMEM;
    if (client->user->clients >= agent->config.limits.clients_per_user)
        result = -EDQUOT;
    else
        result = watch_start(&agent->watches, &client->watch, fd, EPOLLIN, on_ready);
    if (result < 0) {
        users_put(&agent->users, client->user);
        free(client);
        return result;
    }
    client_enter(client);
    return 0;
}

void client_accept(struct listener *listener, int fd)
{
    struct agent *agent = listener->data;
    struct ucred peer;
    socklen_t size = sizeof(peer);
    int result = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ? -errno : 0;

    if (result == 0)
        result = admit(agent, fd, &peer);
    if (result == 0)
        return;
    agent->stats.clients_refused++;
    log_seldom(LOG_LEVEL_WARNING, "turned a process of user %u away: %s", peer.uid,
               result == -EDQUOT ? "it has limits.clients_per_user clients already" : strerror(-result));
    close(fd);
}

static void client_leave(struct client *client)
{
    struct agent *agent = client->agent;

    rendezvous_forget(agent, client);
    session_forget(client);
    list_remove(&client->link);
    agent->client_count--;
    if (--client->user->clients == 0)
        ringpool_forget(&agent->pool, client->uid);
    users_put(&agent->users, client->user);
}

void client_drop(struct client *client)
{
    watch_stop(&client->agent->watches, &client->watch);
    client_leave(client);
    if (client->greeted)
        board_give_slot(&client->agent->board, client->slot);
    // What it sent and was never read goes with the connection.
    foreign_guard_begin();
    close(client->fd);
    foreign_guard_end();
    free(client);
}
