// agent/fabric.h over sockets: what the agent calls. See sim.h.

#include "agent/fabric.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "agent/fd.h"
#include "tests/sim/sim.h"

#define DEPTH 64

static void lock(struct fabric *fabric)
{
    pthread_mutex_lock(&fabric->lock);
}

static void unlock(struct fabric *fabric)
{
    pthread_mutex_unlock(&fabric->lock);
}

static bool is_absent(struct fabric *fabric)
{
    bool absent;

    lock(fabric);
    absent = fabric->faults.absent;
    unlock(fabric);
    return absent;
}

// Opening.

static void init_lists(struct fabric *fabric)
{
    struct list *const lists[] = {&fabric->listeners, &fabric->conns,       &fabric->graves, &fabric->order_givers,
                                  &fabric->events,    &fabric->completions, &fabric->polled};

    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        list_init(lists[i]);
}

int fabric_open(struct fabric **result, const struct fabric_options *options)
{
    struct fabric *fabric = calloc(1, sizeof(*fabric));
    int outcome;

    if (!fabric)
        return -ENOMEM;
    init_lists(fabric);
    pthread_mutex_init(&fabric->lock, NULL);
    fabric->depth = options && options->queue_depth ? options->queue_depth : DEPTH;
    fabric->random = sim_now_ns() ^ (uint64_t)getpid() << 40;
    fabric->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    fabric->completion_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    outcome = fabric->event_fd < 0 || fabric->completion_fd < 0 ? -errno : sim_device_start(fabric);
    if (outcome < 0) {
        fd_close(&fabric->event_fd);
        fd_close(&fabric->completion_fd);
        free(fabric);
        return outcome;
    }
    *result = fabric;
    return 0;
}

static void free_listeners(struct fabric *fabric)
{
    list_for_each (link, &fabric->listeners) {
        struct sim_listener *listener = container_of(link, struct sim_listener, link);
        fd_close(&listener->source.fd);
        free(listener);
    }
}

static void free_completions(struct list *completions)
{
    list_for_each (link, completions)
        free(container_of(link, struct sim_completion, link));
    list_init(completions);
}

void fabric_free(struct fabric *fabric)
{
    sim_device_stop(fabric);
    // Those that nobody has asked for.
    list_for_each (link, &fabric->conns)
        sim_conn_bury(container_of(link, struct fabric_conn, link));
    list_for_each (grave, &fabric->graves)
        sim_conn_free(container_of(grave, struct fabric_conn, link));
    list_for_each (event, &fabric->events)
        free(container_of(event, struct sim_event, link));
    free_listeners(fabric);
    free_completions(&fabric->completions);
    free_completions(&fabric->polled);
    fd_close(&fabric->event_fd);
    fd_close(&fabric->completion_fd);
    pthread_mutex_destroy(&fabric->lock);
    free(fabric);
}

// Connections.

static socklen_t to_sockaddr(const struct address *address, bool with_port, struct sockaddr_storage *to)
{
    struct sockaddr_in *in = (void *)to;
    struct sockaddr_in6 *in6 = (void *)to;
    uint16_t port = with_port ? htons(address->port) : 0;

    memset(to, 0, sizeof(*to));
    if (address_is_ipv4(address)) {
        in->sin_family = AF_INET;
        in->sin_port = port;
        memcpy(&in->sin_addr, address->ip + 12, 4);
        return sizeof(*in);
    }
    in6->sin6_family = AF_INET6;
    in6->sin6_port = port;
    in6->sin6_scope_id = address->scope;
    memcpy(&in6->sin6_addr, address->ip, sizeof(address->ip));
    return sizeof(*in6);
}

static void accept_one(struct fabric *fabric, int fd)
{
    struct fabric_conn *conn;

    if (fabric->faults.absent || !(conn = sim_conn_new(fabric, fd, SIM_STATE_STRANGE)))
        close(fd);
    else
        sim_watch(fabric, &conn->source, EPOLLIN);
}

static void on_connection(struct fabric *fabric, struct sim_source *source, uint32_t events)
{
    int fd = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0)
        accept_one(fabric, fd);
}

static int listen_at(const struct address *at)
{
    static const int yes = 1, no = 0;
    struct sockaddr_storage storage;
    socklen_t size = to_sockaddr(at, true, &storage);
    _cleanup_fd_ int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (storage.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
    if (bind(fd, (struct sockaddr *)&storage, size) < 0 || listen(fd, 128) < 0)
        return -errno;
    return fd_steal(&fd);
}

int fabric_listen(struct fabric *fabric, const struct address *at)
{
    struct sim_listener *listener;
    int fd;

    if (is_absent(fabric))
        return -ENODEV;
    fd = listen_at(at);
    if (fd < 0)
        return fd;
    listener = calloc(1, sizeof(*listener));
    if (!listener) {
        close(fd);
        return -ENOMEM;
    }
    listener->at = *at;
    listener->source = (struct sim_source){.fd = fd, .ready = on_connection};
    lock(fabric);
    list_append(&fabric->listeners, &listener->link);
    if (!fabric->faults.silent)
        sim_watch(fabric, &listener->source, EPOLLIN);
    unlock(fabric);
    return 0;
}

// The listener stays until the end: the device's thread may be about to look at it.
void fabric_unlisten(struct fabric *fabric, const struct address *at)
{
    lock(fabric);
    list_for_each (link, &fabric->listeners) {
        struct sim_listener *listener = container_of(link, struct sim_listener, link);
        if (listener->source.fd < 0 || !address_equal(&listener->at, at))
            continue;
        sim_watch(fabric, &listener->source, 0);
        fd_close(&listener->source.fd);
    }
    unlock(fabric);
}

// Begins to connect. Returns the socket or -errno.
static int begin(const struct address *from, const struct address *to)
{
    static const int yes = 1;
    struct sockaddr_storage storage;
    socklen_t size = to_sockaddr(to, true, &storage);
    _cleanup_fd_ int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    if (from) {
        struct sockaddr_storage source;
        if (bind(fd, (struct sockaddr *)&source, to_sockaddr(from, false, &source)) < 0)
            return -errno;
    }
    if (connect(fd, (struct sockaddr *)&storage, size) < 0 && errno != EINPROGRESS)
        return -errno;
    return fd_steal(&fd);
}

int fabric_connect(struct fabric *fabric, const struct address *from, const struct address *to,
                   const void *private_data, size_t private_size, void *data, struct fabric_conn **result)
{
    struct fabric_conn *conn;
    int fd;

    if (private_size > FABRIC_PRIVATE_MAX)
        return -EINVAL;
    fd = is_absent(fabric) ? -ENODEV : begin(from, to);
    if (fd < 0)
        return fd;
    lock(fabric);
    conn = sim_conn_new(fabric, fd, SIM_STATE_CONNECTING);
    if (conn) {
        struct sim_post *hello = sim_post(conn, SIM_CONNECT);
        conn->data = data;
        if (private_size > 0)
            memcpy(hello->bytes, private_data, private_size);
        hello->size = private_size;
        *result = conn;
        sim_device_wake(fabric);
    } else {
        close(fd);
    }
    unlock(fabric);
    return conn ? 0 : -ENOMEM;
}

int fabric_accept(struct fabric_conn *conn, void *data)
{
    struct fabric *fabric = conn->fabric;

    lock(fabric);
    conn->data = data;
    if (conn->state == SIM_STATE_FAILED) {
        sim_tell(conn, FABRIC_GONE, conn->error);
    } else {
        conn->state = SIM_STATE_ACCEPTED;
        sim_post(conn, SIM_ACCEPT);
        sim_device_wake(fabric);
    }
    unlock(fabric);
    return 0;
}

void fabric_reject(struct fabric_conn *conn)
{
    static const struct sim_head reject = {.type = SIM_REJECT};
    struct fabric *fabric = conn->fabric;

    lock(fabric);
    // There is room in the socket: nothing was sent on it yet.
    if (conn->state == SIM_STATE_INCOMING && !fabric->faults.silent)
        send(conn->source.fd, &reject, sizeof(reject), MSG_NOSIGNAL);
    sim_conn_bury(conn);
    unlock(fabric);
}

void fabric_close(struct fabric_conn *conn)
{
    struct fabric *fabric = conn->fabric;

    lock(fabric);
    sim_conn_bury(conn);
    unlock(fabric);
}

// Events.

int fabric_event_fd(const struct fabric *fabric)
{
    return fabric->event_fd;
}

static void drain(int fd)
{
    eventfd_t count;

    eventfd_read(fd, &count);
}

void fabric_next_event(struct fabric *fabric, struct fabric_event *event)
{
    lock(fabric);
    *event = (struct fabric_event){.type = FABRIC_NOTHING};
    if (!list_empty(&fabric->events)) {
        struct sim_event *first = container_of(fabric->events.next, struct sim_event, link);
        *event = first->event;
        list_remove(&first->link);
        free(first);
    }
    if (list_empty(&fabric->events))
        drain(fabric->event_fd);
    unlock(fabric);
}

// Memory.

int fabric_register(struct fabric_conn *conn, void *address, size_t size, bool remote_write,
                    struct fabric_memory **memory)
{
    struct fabric *fabric = conn->fabric;
    struct fabric_memory *made = calloc(1, sizeof(*made));

    if (!made)
        return -ENOMEM;
    lock(fabric);
    if (fabric->faults.no_memory) {
        unlock(fabric);
        free(made);
        return -ENOMEM;
    }
    *made = (struct fabric_memory){
        .conn = conn,
        .bytes = address,
        .size = size,
        .address = (sim_random(fabric) >> 20) << 12,
        .key = (uint32_t)sim_random(fabric),
        .remote_write = remote_write,
    };
    list_append(&conn->memories, &made->link);
    unlock(fabric);
    *memory = made;
    return 0;
}

static bool is_used(const struct fabric_conn *conn, const struct fabric_memory *memory)
{
    list_for_each (link, &conn->posts) {
        const struct sim_post *post = container_of(link, struct sim_post, link);
        if (post->type == SIM_WRITE && post->write.spans && post->write.memory == memory)
            return true;
    }
    return false;
}

void fabric_unregister(struct fabric_memory *memory)
{
    struct fabric_conn *conn = memory->conn;
    struct fabric *fabric;

    if (!conn) { // the connection is closed
        free(memory);
        return;
    }
    fabric = conn->fabric;
    lock(fabric);
    // As a device would: it finds the memory gone.
    if (is_used(conn, memory))
        sim_conn_fail(conn, -EFAULT);
    list_remove(&memory->link);
    unlock(fabric);
    free(memory);
}

uint32_t fabric_memory_key(const struct fabric_memory *memory)
{
    return memory->key;
}

uint64_t fabric_memory_address(const struct fabric_memory *memory)
{
    return memory->address;
}

const char *fabric_device_name(const struct fabric_conn *conn)
{
    return "sim0";
}

int fabric_list_devices(struct fabric *fabric, struct fabric_device *devices, unsigned most)
{
    if (is_absent(fabric))
        return 0;
    if (most > 0)
        devices[0] = (struct fabric_device){.name = "sim0", .state = "active", .link = "ethernet", .ports = 1};
    return 1;
}

// Posting.

static int check_spans(const struct fabric_conn *conn, const struct fabric_write *write)
{
    if (write->spans > 2 || (write->spans && write->memory->conn != conn))
        return -EINVAL;
    for (unsigned i = 0; i < write->spans; i++) {
        const uint8_t *from = write->span[i].from, *begin_of = write->memory->bytes;
        if (write->span[i].size > FABRIC_SPAN_MOST || from < begin_of ||
            (size_t)(from - begin_of) > write->memory->size ||
            write->span[i].size > write->memory->size - (size_t)(from - begin_of))
            return -EINVAL;
    }
    return 0;
}

// Returns 0 with *post to be filled in, or -errno.
static int begin_post(struct fabric_conn *conn, enum sim_frame type, struct sim_post **post)
{
    if (conn->state != SIM_STATE_READY)
        return -EPIPE;
    if (conn->counted >= conn->fabric->depth) {
        conn->wants_room = true;
        return -EAGAIN;
    }
    *post = sim_post(conn, type);
    (*post)->counted = true;
    conn->counted++;
    sim_device_wake(conn->fabric);
    return 0;
}

int fabric_post_write(struct fabric_conn *conn, const struct fabric_write *write)
{
    struct fabric *fabric = conn->fabric;
    struct sim_post *post;
    int result;

    lock(fabric);
    result = check_spans(conn, write);
    if (result == 0)
        result = begin_post(conn, SIM_WRITE, &post);
    if (result == 0)
        post->write = *write;
    unlock(fabric);
    return result;
}

int fabric_post_message(struct fabric_conn *conn, const void *message, size_t size)
{
    struct fabric *fabric = conn->fabric;
    struct sim_post *post;
    int result;

    if (size < 1 || size > FABRIC_MESSAGE_MAX)
        return -EINVAL;
    lock(fabric);
    result = begin_post(conn, SIM_MESSAGE, &post);
    if (result == 0) {
        memcpy(post->bytes, message, size);
        post->size = size;
    }
    unlock(fabric);
    return result;
}

// Completions.

void fabric_start(struct fabric_conn *conn, void *data)
{
    struct fabric *fabric = conn->fabric;

    lock(fabric);
    conn->started = true;
    conn->poll_data = data;
    list_for_each (link, &conn->early) {
        list_remove(link);
        sim_queue(fabric, container_of(link, struct sim_completion, link));
    }
    unlock(fabric);
}

void fabric_stop(struct fabric_conn *conn)
{
    struct fabric *fabric = conn->fabric;

    lock(fabric);
    conn->started = false;
    sim_drop_completions(conn);
    unlock(fabric);
}

static void take_completions(struct fabric *fabric, struct fabric_completion *completions, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct sim_completion *first = container_of(fabric->completions.next, struct sim_completion, link);
        completions[i] = first->completion;
        completions[i].data = first->conn->poll_data;
        list_remove(&first->link);
        list_append(&fabric->polled, &first->link);
        if (first->conn->waiting-- == SIM_WAITING_MOST)
            sim_device_wake(fabric);
    }
}

int fabric_poll(struct fabric *fabric, struct fabric_completion *completions, unsigned most)
{
    unsigned count = atomic_load_explicit(&fabric->waiting, memory_order_acquire);

    if (count == 0)
        return 0;
    lock(fabric);
    free_completions(&fabric->polled);
    count = atomic_load(&fabric->waiting); // those of a connection that was closed are gone
    if (count > most)
        count = most;
    take_completions(fabric, completions, count);
    atomic_fetch_sub(&fabric->waiting, count);
    unlock(fabric);
    return (int)count;
}

int fabric_arm(struct fabric *fabric)
{
    int result;

    lock(fabric);
    drain(fabric->completion_fd);
    result = list_empty(&fabric->completions) ? 0 : -EAGAIN;
    fabric->armed = result == 0;
    unlock(fabric);
    return result;
}

int fabric_completion_fd(const struct fabric *fabric)
{
    return fabric->completion_fd;
}
