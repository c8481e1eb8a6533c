// The control thread's side: commands in, events out.

#include "agent/data_loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "agent/fd.h"

// --- commands ---

// Pairs with the stores before the data thread sleeps, in data_loop.c: it sees `pending`, or we see that it is asleep.
static void knock(struct data_thread *thread)
{
    static const uint64_t one = 1;

    atomic_store_explicit(&thread->pending, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&thread->asleep, memory_order_seq_cst) && write(thread->knock, &one, sizeof(one)) < 0)
        return;
}

static void command(struct data_thread *thread, struct data_command *what, enum data_command_type type,
                    struct data_link *link)
{
    what->type = type;
    what->link = link;
    pthread_mutex_lock(&thread->lock);
    list_append(&thread->commands, &what->queue);
    pthread_mutex_unlock(&thread->lock);
    knock(thread);
}

static void wish(struct data_thread *thread, struct path *path, uint32_t what)
{
    pthread_mutex_lock(&thread->lock);
    if (!path->gone) {
        path->wishes |= what;
        if (list_empty(&path->in_wishes))
            list_append(&thread->wishes, &path->in_wishes);
    }
    pthread_mutex_unlock(&thread->lock);
    knock(thread);
}

void data_thread_set_rate(struct data_thread *thread, uint64_t bytes_per_s)
{
    atomic_store_explicit(&thread->rate, bytes_per_s, memory_order_relaxed);
    knock(thread);
}

// --- links ---

static void link_free(struct data_link *link)
{
    list_for_each (waiting, &link->queue)
        free(container_of(waiting, struct data_command, queue));
    free(link->paths);
    free(link);
}

static struct data_link *link_make(struct fabric_conn *conn, void *owner)
{
    struct data_link *link = calloc(1, sizeof(*link));

    if (!link)
        return NULL;
    link->paths = calloc(DATA_LINK_PATHS, sizeof(struct path *));
    if (!link->paths) {
        free(link);
        return NULL;
    }
    link->conn = conn;
    link->owner = owner;
    list_init(&link->members);
    list_init(&link->queue);
    list_init(&link->failure.queue);
    return link;
}

int data_thread_add_link(struct data_thread *thread, struct fabric_conn *conn, void *owner, struct data_link **link)
{
    struct data_command *what = malloc(sizeof(*what));

    *link = what ? link_make(conn, owner) : NULL;
    if (!*link) {
        free(what);
        return -ENOMEM;
    }
    command(thread, what, COMMAND_ADD_LINK, *link);
    return 0;
}

// Also those of paths that the data thread had let go of before.
static void drop_events(struct data_thread *thread, const struct data_link *link)
{
    list_for_each (told, &thread->path_events) {
        if (container_of(told, struct path, in_events)->link == link)
            list_remove(told);
    }
    list_for_each (queued, &thread->events) {
        struct data_event *event = container_of(queued, struct data_event, queue);
        if (event->link != link)
            continue;
        list_remove(&event->queue);
        if (event != &link->failure)
            free(event);
    }
}

void data_thread_remove_link(struct data_thread *thread, struct data_link *link)
{
    struct data_command what;

    command(thread, &what, COMMAND_REMOVE_LINK, link);
    pthread_mutex_lock(&thread->lock);
    while (!link->removed)
        pthread_cond_wait(&thread->removed, &thread->lock);
    drop_events(thread, link);
    pthread_mutex_unlock(&thread->lock);
    link_free(link);
}

// One message less would leave the two sides with different ideas of what there is.
static void give_up(struct data_thread *thread, struct data_link *link)
{
    if (link->given_up)
        return;
    link->given_up = true;
    command(thread, &link->giving_up, COMMAND_GIVE_UP, link);
}

void data_thread_send(struct data_thread *thread, struct data_link *link, const struct link_message *message)
{
    struct data_command *what = malloc(sizeof(*what));

    if (!what) {
        give_up(thread, link);
        return;
    }
    what->size = link_message_encode(message, what->wire);
    command(thread, what, COMMAND_SEND, link);
}

void data_link_read_bytes(const struct data_link *link, uint64_t *tx_bytes, uint64_t *rx_bytes)
{
    *tx_bytes = atomic_load_explicit(&link->tx_bytes, memory_order_relaxed);
    *rx_bytes = atomic_load_explicit(&link->rx_bytes, memory_order_relaxed);
}

// --- paths ---

int data_thread_add_path(struct data_thread *thread, struct data_link *link, struct path *path)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = path};

    path_init(path);
    path->conn = link->conn;
    path->link = link;
    // Here, where a refusal can be told. A ring before the data thread knows the path is made good by its first look.
    if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, path->agent_bell, &event) < 0)
        return -errno;
    wish(thread, path, WISH_ADD);
    return 0;
}

void data_thread_connect_path(struct data_thread *thread, struct path *path, const struct link_place *place,
                              uint32_t remote)
{
    path->wish_place = *place;
    path->wish_remote = remote;
    wish(thread, path, WISH_CONNECT);
}

void data_thread_finish_path(struct data_thread *thread, struct path *path)
{
    wish(thread, path, WISH_FINISH);
}

// --- events ---

// One at a time: a callback may remove a link, and with it others of the queue.
static struct data_event *take_event(struct data_thread *thread)
{
    struct data_event *event = NULL;

    pthread_mutex_lock(&thread->lock);
    if (!list_empty(&thread->events)) {
        event = container_of(thread->events.next, struct data_event, queue);
        list_remove(&event->queue);
        atomic_fetch_sub_explicit(&event->link->events, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&thread->lock);
    return event;
}

static void deliver(struct data_thread *thread, struct data_event *event)
{
    void *owner = event->link->owner;

    if (event->why) {
        thread->callbacks->failed(owner, event->why);
        return;
    }
    thread->callbacks->received(owner, &event->message);
    free(event);
}

static struct path *take_path_event(struct data_thread *thread, uint32_t *what)
{
    struct path *path = NULL;

    pthread_mutex_lock(&thread->lock);
    if (!list_empty(&thread->path_events)) {
        path = container_of(thread->path_events.next, struct path, in_events);
        list_remove(&path->in_events);
        *what = path->told;
        path->told = 0;
    }
    pthread_mutex_unlock(&thread->lock);
    return path;
}

static void on_async(uv_async_t *async)
{
    struct data_thread *thread = async->data;
    struct data_event *event;
    struct path *path;
    uint32_t what;

    while ((event = take_event(thread)))
        deliver(thread, event);
    while ((path = take_path_event(thread, &what)))
        thread->callbacks->path(path->owner, path, (int)what);
}

// --- beginning and end ---

static int watch(struct data_thread *thread, int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};

    return epoll_ctl(thread->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int open_descriptors(struct data_thread *thread)
{
    int result;

    thread->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (thread->epoll < 0)
        return -errno;
    thread->knock = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (thread->knock < 0)
        return -errno;
    result = watch(thread, thread->knock, EPOLLIN | EPOLLET, NULL);
    return result < 0 ? result : watch(thread, fabric_completion_fd(thread->fabric), EPOLLIN, NULL);
}

static void close_descriptors(struct data_thread *thread)
{
    fd_close(&thread->epoll);
    fd_close(&thread->knock);
}

static struct data_thread *make(struct fabric *fabric, uint32_t wake_ns, const struct data_thread_events *callbacks)
{
    struct data_thread *thread = calloc(1, sizeof(*thread));

    if (!thread)
        return NULL;
    thread->fabric = fabric;
    thread->wake_ns = wake_ns;
    thread->callbacks = callbacks;
    thread->epoll = thread->knock = -1;
    list_init(&thread->hot);
    list_init(&thread->commands);
    list_init(&thread->wishes);
    list_init(&thread->events);
    list_init(&thread->path_events);
    pthread_mutex_init(&thread->lock, NULL);
    pthread_cond_init(&thread->removed, NULL);
    return thread;
}

static void destroy(struct data_thread *thread)
{
    close_descriptors(thread);
    pthread_cond_destroy(&thread->removed);
    pthread_mutex_destroy(&thread->lock);
    free(thread);
}

// The loop's signals are for the loop's thread.
static int start(struct data_thread *thread)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread->thread, NULL, data_loop_run, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        pthread_setname_np(thread->thread, "rdma-data");
    return -error;
}

static void on_closed(uv_handle_t *handle)
{
    destroy(handle->data);
}

int data_thread_start(struct data_thread **result_thread, struct fabric *fabric, uv_loop_t *loop, uint32_t wake_ns,
                      const struct data_thread_events *events)
{
    struct data_thread *thread = make(fabric, wake_ns, events);
    int result = thread ? open_descriptors(thread) : -ENOMEM;

    if (result == 0)
        result = uv_async_init(loop, &thread->async, on_async);
    if (result < 0) {
        if (thread)
            destroy(thread);
        return result;
    }
    thread->async.data = thread;
    result = start(thread);
    if (result < 0)
        uv_close((uv_handle_t *)&thread->async, on_closed);
    else
        *result_thread = thread;
    return result;
}

void data_thread_stop(struct data_thread *thread)
{
    atomic_store_explicit(&thread->stopping, 1, memory_order_seq_cst);
    knock(thread);
    pthread_join(thread->thread, NULL);
    uv_close((uv_handle_t *)&thread->async, on_closed);
}
