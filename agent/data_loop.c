// The loop: everything here runs in the data thread.

#include "agent/data_loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>

// Done at one go, before the next kind of work has its turn.
#define COMPLETIONS_PER_TURN 32
#define PATHS_PER_TURN       64
#define BELLS_PER_TURN       64

// While there is other work, bells are looked at every so many turns: a system call.
#define TURNS_PER_BELLS 8u

// A path cools after so many looks in vain; where many are hot, each look in vain keeps the others waiting.
#define LOOKS_IN_VAIN      4096u
#define LOOKS_IN_VAIN_MANY 64u
#define MANY               64u

// Of a link, in either direction, before it counts as failed.
#define WAITING_MOST 65536u

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct path_pace pace_now(const struct data_thread *thread)
{
    uint64_t rate = atomic_load_explicit(&thread->rate, memory_order_relaxed);

    return (struct path_pace){.rate = rate, .now = rate ? now_ns() : 0};
}

// --- telling the control thread ---

static void tell(struct data_thread *thread, struct data_event *event)
{
    atomic_fetch_add_explicit(&event->link->events, 1, memory_order_relaxed);
    pthread_mutex_lock(&thread->lock);
    list_append(&thread->events, &event->queue);
    pthread_mutex_unlock(&thread->lock);
    uv_async_send(&thread->async);
}

static void link_fail(struct data_thread *thread, struct data_link *link, const char *why)
{
    if (link->failed)
        return;
    link->failed = true;
    list_for_each (member, &link->members)
        container_of(member, struct path, in_link)->failed = true;
    link->failure.link = link;
    link->failure.why = why;
    tell(thread, &link->failure);
}

static void tell_message(struct data_thread *thread, struct data_link *link, const struct link_message *message)
{
    bool room = atomic_load_explicit(&link->events, memory_order_relaxed) < WAITING_MOST;
    struct data_event *event = room ? calloc(1, sizeof(*event)) : NULL;

    if (!event) {
        link_fail(thread, link, "it sends more than can be heard");
        return;
    }
    event->link = link;
    event->message = *message;
    tell(thread, event);
}

static void tell_path(struct data_thread *thread, struct path *path, bool gone)
{
    pthread_mutex_lock(&thread->lock);
    path->told |= path->events;
    path->events = 0;
    if (gone) {
        path->gone = true;
        list_remove(&path->in_wishes);
    }
    if (list_empty(&path->in_events))
        list_append(&thread->path_events, &path->in_events);
    pthread_mutex_unlock(&thread->lock);
    uv_async_send(&thread->async);
}

// --- hot and cold ---

static void heat(struct data_thread *thread, struct path *path)
{
    path->idle = 0;
    if (!list_empty(&path->turn))
        return;
    list_append(&thread->hot, &path->turn);
    thread->hot_count++;
}

static void chill(struct data_thread *thread, struct path *path)
{
    if (list_empty(&path->turn))
        return;
    list_remove(&path->turn);
    thread->hot_count--;
}

// --- the life of a path ---

static void detach(struct data_thread *thread, struct path *path)
{
    chill(thread, path);
    epoll_ctl(thread->epoll, EPOLL_CTL_DEL, path->agent_bell, NULL);
    path->link->paths[path->number] = NULL;
    list_remove(&path->in_link);
}

// To be called after everything that may have changed a path. It may be gone after this.
static void settle(struct data_thread *thread, struct path *path)
{
    if (path_is_over(path)) {
        detach(thread, path);
        path->events |= PATH_OVER;
        tell_path(thread, path, true);
    } else if (path->events) {
        tell_path(thread, path, false);
    }
}

static void add_path(struct data_thread *thread, struct path *path)
{
    path->failed = path->link->failed;
    path->link->paths[path->number] = path;
    list_append(&path->link->members, &path->in_link);
    heat(thread, path);
}

static struct path *take_wish(struct data_thread *thread, uint32_t *wishes)
{
    struct path *path = NULL;

    pthread_mutex_lock(&thread->lock);
    if (!list_empty(&thread->wishes)) {
        path = container_of(thread->wishes.next, struct path, in_wishes);
        list_remove(&path->in_wishes);
        *wishes = path->wishes;
        path->wishes = 0;
    }
    pthread_mutex_unlock(&thread->lock);
    return path;
}

static void grant(struct data_thread *thread, struct path *path, uint32_t wishes)
{
    if (wishes & WISH_ADD)
        add_path(thread, path);
    if (wishes & WISH_CONNECT)
        path_connect(path, &path->wish_place, path->wish_remote);
    if (wishes & WISH_FINISH)
        path_finish(path);
    heat(thread, path);
    settle(thread, path);
}

// --- messages of the control thread ---

// False once there is no room.
static bool post_first(struct data_thread *thread, struct data_link *link)
{
    struct data_command *what = container_of(link->queue.next, struct data_command, queue);
    int result = fabric_post_message(link->conn, what->wire, what->size);

    if (result == -EAGAIN) {
        link->stuck = true;
        return false;
    }
    list_remove(&what->queue);
    link->queued--;
    free(what);
    if (result < 0)
        link_fail(thread, link, "the connection failed");
    return result == 0;
}

static void post_queue(struct data_thread *thread, struct data_link *link)
{
    while (!link->failed && !link->stuck && !list_empty(&link->queue) && post_first(thread, link))
        ;
}

static void queue_message(struct data_thread *thread, struct data_link *link, struct data_command *what)
{
    if (link->failed || link->queued >= WAITING_MOST) {
        free(what);
        link_fail(thread, link, "it takes no more messages");
        return;
    }
    list_append(&link->queue, &what->queue);
    link->queued++;
    post_queue(thread, link);
}

// --- commands ---

static void remove_link(struct data_thread *thread, struct data_link *link)
{
    list_for_each (member, &link->members) {
        struct path *path = container_of(member, struct path, in_link);
        detach(thread, path);
        pthread_mutex_lock(&thread->lock);
        list_remove(&path->in_events);
        list_remove(&path->in_wishes);
        path->gone = true;
        pthread_mutex_unlock(&thread->lock);
    }
    fabric_stop(link->conn);
    pthread_mutex_lock(&thread->lock);
    link->removed = true;
    pthread_cond_broadcast(&thread->removed);
    pthread_mutex_unlock(&thread->lock);
}

static void carry_out(struct data_thread *thread, struct data_command *what)
{
    switch (what->type) {
    case COMMAND_ADD_LINK:
        fabric_start(what->link->conn, what->link);
        free(what);
        break;
    case COMMAND_REMOVE_LINK:
        remove_link(thread, what->link); // `what` is gone by then
        break;
    case COMMAND_GIVE_UP:
        link_fail(thread, what->link, "no memory for a message to it");
        break;
    case COMMAND_SEND:
        queue_message(thread, what->link, what);
        break;
    }
}

static struct data_command *take_command(struct data_thread *thread)
{
    struct data_command *what = NULL;

    pthread_mutex_lock(&thread->lock);
    if (!list_empty(&thread->commands)) {
        what = container_of(thread->commands.next, struct data_command, queue);
        list_remove(&what->queue);
    }
    pthread_mutex_unlock(&thread->lock);
    return what;
}

// Wishes first: a path is known here before the message goes out that tells the other side of it. One that is removed
// with its link is in no queue any more.
static bool take_commands(struct data_thread *thread)
{
    struct data_command *what;
    struct path *path;
    uint32_t wishes;

    if (!atomic_load_explicit(&thread->pending, memory_order_relaxed) ||
        !atomic_exchange_explicit(&thread->pending, 0, memory_order_seq_cst))
        return false;
    do {
        while ((path = take_wish(thread, &wishes)))
            grant(thread, path, wishes);
        what = take_command(thread);
        if (what)
            carry_out(thread, what);
    } while (what);
    return true;
}

// --- completions ---

static struct path *find_path(struct data_thread *thread, struct data_link *link, uint32_t number)
{
    struct path *path = number < DATA_LINK_PATHS ? link->paths[number] : NULL;

    if (!path)
        link_fail(thread, link, "it named a session that it does not have");
    return path;
}

static void add_bytes(_Atomic uint64_t *sum, uint64_t *bytes)
{
    if (*bytes == 0)
        return;
    // No other thread adds.
    atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + *bytes, memory_order_relaxed);
    *bytes = 0;
}

static void on_written(struct data_thread *thread, struct data_link *link, uint32_t number)
{
    struct path *path = find_path(thread, link, number);

    if (!path)
        return;
    path_arrived(path);
    add_bytes(&link->rx_bytes, &path->rx_bytes);
    heat(thread, path);
    settle(thread, path);
}

static void on_session_message(struct data_thread *thread, struct data_link *link, const struct link_message *message)
{
    struct path *path = find_path(thread, link, message->session.session);

    if (!path)
        return;
    if (path_hear(path, message) < 0) {
        link_fail(thread, link, "it said something of a session that could not be so");
        return;
    }
    heat(thread, path);
    settle(thread, path);
}

static void on_message(struct data_thread *thread, struct data_link *link, const void *wire, size_t size)
{
    struct link_message message;

    if (link_message_decode(&message, wire, size) < 0)
        link_fail(thread, link, "it sent a malformed message");
    else if (message.type >= LINK_WATCHING)
        on_session_message(thread, link, &message);
    else
        tell_message(thread, link, &message);
}

static void on_completion(struct data_thread *thread, const struct fabric_completion *completion)
{
    struct data_link *link = completion->data;

    if (link->failed)
        return;
    switch (completion->type) {
    case FABRIC_WRITTEN:
        on_written(thread, link, completion->immediate);
        break;
    case FABRIC_MESSAGE:
        on_message(thread, link, completion->message, completion->size);
        break;
    case FABRIC_ROOM:
        link->stuck = false;
        post_queue(thread, link);
        break;
    case FABRIC_FAILED:
        link_fail(thread, link, "the connection failed");
        break;
    }
}

static bool poll_completions(struct data_thread *thread)
{
    struct fabric_completion completions[COMPLETIONS_PER_TURN];
    int count = fabric_poll(thread->fabric, completions, COMPLETIONS_PER_TURN);

    for (int i = 0; i < count; i++)
        on_completion(thread, &completions[i]);
    return count > 0;
}

// --- the hot paths ---

static void cool_if_idle(struct data_thread *thread, struct path *path, const struct path_pace *pace)
{
    unsigned most = thread->hot_count > MANY ? LOOKS_IN_VAIN_MANY : LOOKS_IN_VAIN;

    if (++path->idle < most || path_paced_until(path, pace))
        return;
    if (path_cool(path, false))
        chill(thread, path);
}

static bool push(struct data_thread *thread, struct path *path, const struct path_pace *pace)
{
    struct data_link *link = path->link;
    int result;

    // Messages of the control thread that wait for room come first.
    if (link->failed || link->stuck || !list_empty(&link->queue))
        return false;
    result = path_push(path, pace);
    if (result > 0) {
        path->idle = 0;
        add_bytes(&link->tx_bytes, &path->tx_bytes);
        settle(thread, path);
        return true;
    }
    if (result == 0)
        cool_if_idle(thread, path, pace);
    else if (result == -EAGAIN)
        link->stuck = true;
    else
        link_fail(thread, link, "the connection failed");
    return false;
}

static bool push_hot(struct data_thread *thread)
{
    unsigned count = thread->hot_count < PATHS_PER_TURN ? thread->hot_count : PATHS_PER_TURN;
    struct path_pace pace = pace_now(thread);
    bool busy = false;

    for (; count > 0; count--) {
        struct path *path = container_of(thread->hot.next, struct path, turn);
        if (path->turn.next != &thread->hot) {
            list_remove(&path->turn);
            list_append(&thread->hot, &path->turn);
        }
        busy |= push(thread, path, &pace);
    }
    return busy;
}

// --- sleeping ---

static void hear_bells(struct data_thread *thread, int timeout)
{
    struct epoll_event events[BELLS_PER_TURN];
    int count = epoll_wait(thread->epoll, events, BELLS_PER_TURN, timeout);

    for (int i = 0; i < count; i++) {
        struct path *path = events[i].data.ptr;
        // Not yet granted, or a knock, or the fabric: each is looked at anyway.
        if (path && !list_empty(&path->in_link))
            heat(thread, path);
    }
}

// Whether the thread may sleep as far as this path goes, and if only for a time, until when.
static bool rest(struct data_thread *thread, struct path *path, const struct path_pace *pace, uint64_t *until)
{
    uint64_t paced = path_paced_until(path, pace);

    if (path->link->failed) {
        chill(thread, path);
        return true;
    }
    // A completion will come when there is room, and then it is looked at.
    if (path->link->stuck)
        return true;
    if (!path_cool(path, paced != 0))
        return false;
    if (!paced)
        chill(thread, path);
    else if (paced < *until)
        *until = paced;
    return true;
}

static bool rest_all(struct data_thread *thread, const struct path_pace *pace, uint64_t *until)
{
    list_for_each (hot, &thread->hot) {
        if (!rest(thread, container_of(hot, struct path, turn), pace, until))
            return false;
    }
    return true;
}

static int timeout_until(uint64_t until, const struct path_pace *pace)
{
    if (until == UINT64_MAX)
        return -1;
    return (int)((until - pace->now + 999999) / 1000000);
}

// Everything that may wake it is asked to do so, then looked at once more, then waited for.
static void sleep_on_all(struct data_thread *thread)
{
    struct path_pace pace = pace_now(thread);
    uint64_t until = UINT64_MAX;

    if (!rest_all(thread, &pace, &until) || fabric_arm(thread->fabric) < 0 || poll_completions(thread))
        return;
    atomic_store_explicit(&thread->asleep, 1, memory_order_seq_cst);
    if (!atomic_load_explicit(&thread->pending, memory_order_seq_cst)) {
        thread->slept = true;
        hear_bells(thread, timeout_until(until, &pace));
    }
    atomic_store_explicit(&thread->asleep, 0, memory_order_seq_cst);
}

static bool take_turn(struct data_thread *thread)
{
    bool busy = take_commands(thread);

    busy |= poll_completions(thread);
    busy |= push_hot(thread);
    if (++thread->turn % TURNS_PER_BELLS == 0)
        hear_bells(thread, 0);
    return busy;
}

void *data_loop_run(void *argument)
{
    struct data_thread *thread = argument;

    spin_init(&thread->spin, thread->wake_ns);
    while (!atomic_load_explicit(&thread->stopping, memory_order_relaxed)) {
        if (take_turn(thread)) {
            spin_busy(&thread->spin, thread->slept);
            thread->slept = false;
        } else if (!spin_idle(&thread->spin)) {
            sleep_on_all(thread);
        }
    }
    return NULL;
}
