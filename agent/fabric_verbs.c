// The fabric over libibverbs and librdmacm: listening and connecting, and what comes of it.
//
// rdma_cm decides by the addresses which device and port a connection uses, so InfiniBand, RoCE and soft-RoCE are the
// same here. Its event channel is made when it is first needed: on a host without RDMA it cannot be, and a device may
// come later.

#include "agent/fabric_verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "agent/fd.h"
#include "core/log.h"

#define QUEUE_DEPTH   64
#define QUEUE_LEAST   4
#define INLINE_MOST   192
#define BACKLOG       64
#define RESOLVE_MS    2000
#define EVENTS_A_CALL 64

// How long the device waits for an acknowledgement before it sends again, 4.096 us << 17 = 0.54 s, and how often it
// does. After that the connection has failed; links know of a dead host by then.
#define ACK_TIMEOUT 17
#define RETRIES     7

// Without end, since it only means that the other side's data thread has not come by.
#define RNR_RETRIES 7

// How long the other side waits then: 0.16 ms, in the code of the InfiniBand specification. Unless it is set, 655 ms.
#define RNR_TIMER 8

#define CM_DEVICE "/dev/infiniband/rdma_cm"

// What goes with a request to connect. The other side gets it padded, hence the size.
struct greeting {
    uint8_t magic[4];
    uint8_t size;
    uint8_t zero[3];
    uint8_t bytes[FABRIC_PRIVATE_MAX];
};
static_assert(sizeof(struct greeting) <= 56, "all that there is room for in a connection request");

static const uint8_t greeting_magic[4] = {'r', 'd', 'm', 'A'};

struct listener {
    struct list link;
    struct rdma_cm_id *id;
    struct address at;
};

// The whole.

static int watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int open_descriptors(struct fabric *fabric)
{
    int result;

    fabric->events = epoll_create1(EPOLL_CLOEXEC);
    fabric->completions = epoll_create1(EPOLL_CLOEXEC);
    fabric->notices = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fabric->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fabric->events < 0 || fabric->completions < 0 || fabric->notices < 0 || fabric->wake < 0)
        return -errno;
    result = watch(fabric->events, fabric->notices);
    return result < 0 ? result : watch(fabric->completions, fabric->wake);
}

// Without news of devices, one that comes is found by those who try again.
static void open_news(struct fabric *fabric)
{
    fabric->news = devices_watch();
    if (fabric->news < 0)
        log_info("the kernel does not tell of new RDMA devices: %s", strerror(-fabric->news));
    else if (watch(fabric->events, fabric->news) < 0)
        fd_close(&fabric->news);
}

static void set_options(struct fabric *fabric, const struct fabric_options *options)
{
    if (options)
        fabric->options = *options;
    if (fabric->options.queue_depth == 0)
        fabric->options.queue_depth = QUEUE_DEPTH;
    if (fabric->options.queue_depth < QUEUE_LEAST)
        fabric->options.queue_depth = QUEUE_LEAST;
    if (fabric->options.inline_most == 0)
        fabric->options.inline_most = INLINE_MOST;
}

static void close_descriptors(struct fabric *fabric)
{
    fd_close(&fabric->news);
    fd_close(&fabric->wake);
    fd_close(&fabric->notices);
    fd_close(&fabric->completions);
    fd_close(&fabric->events);
}

int fabric_open(struct fabric **fabric_result, const struct fabric_options *options)
{
    struct fabric *fabric = calloc(1, sizeof(*fabric));
    int result;

    if (!fabric)
        return -ENOMEM;
    fabric->events = fabric->completions = fabric->notices = fabric->wake = fabric->news = -1;
    list_init(&fabric->conns);
    list_init(&fabric->listeners);
    list_init(&fabric->started);
    set_options(fabric, options);
    result = open_descriptors(fabric);
    if (result < 0) {
        close_descriptors(fabric);
        free(fabric);
        return result;
    }
    open_news(fabric);
    *fabric_result = fabric;
    return 0;
}

static void listener_free(struct listener *listener)
{
    list_remove(&listener->link);
    rdma_destroy_id(listener->id);
    free(listener);
}

void fabric_free(struct fabric *fabric)
{
    list_for_each (link, &fabric->listeners)
        listener_free(container_of(link, struct listener, link));
    if (fabric->channel)
        rdma_destroy_event_channel(fabric->channel);
    close_descriptors(fabric);
    free(fabric);
}

static int adopt_channel(struct fabric *fabric, struct rdma_event_channel *channel)
{
    if (fcntl(channel->fd, F_SETFL, fcntl(channel->fd, F_GETFL) | O_NONBLOCK) < 0)
        return -errno;
    return watch(fabric->events, channel->fd);
}

// librdmacm complains to stderr on a host without RDMA, so it is not asked there.
static int need_channel(struct fabric *fabric)
{
    struct rdma_event_channel *channel;
    int result;

    if (fabric->channel)
        return 0;
    if (!devices_exist())
        return -ENODEV;
    if (access(CM_DEVICE, R_OK | W_OK) < 0) {
        log_seldom(LOG_LEVEL_WARNING, "cannot use %s: %s; load the module rdma_ucm, and let the agent open it",
                   CM_DEVICE, strerror(errno));
        return -ENODEV;
    }
    channel = rdma_create_event_channel();
    if (!channel)
        return errno == ENOENT ? -ENODEV : -errno;
    result = adopt_channel(fabric, channel);
    if (result < 0)
        rdma_destroy_event_channel(channel);
    else
        fabric->channel = channel;
    return result;
}

int fabric_event_fd(const struct fabric *fabric)
{
    return fabric->events;
}

// Listening.

static int listen_at(struct rdma_cm_id *id, const struct address *at)
{
    struct sockaddr_storage name;

    address_to_sockaddr(at, &name);
    if (rdma_bind_addr(id, (struct sockaddr *)&name) < 0 || rdma_listen(id, BACKLOG) < 0)
        return -errno;
    return 0;
}

int fabric_listen(struct fabric *fabric, const struct address *at)
{
    struct listener *listener;
    int result = need_channel(fabric);

    if (result < 0)
        return result;
    listener = calloc(1, sizeof(*listener));
    if (!listener)
        return -ENOMEM;
    if (rdma_create_id(fabric->channel, &listener->id, NULL, RDMA_PS_TCP) < 0) {
        result = -errno;
        free(listener);
        return result;
    }
    listener->at = *at;
    list_append(&fabric->listeners, &listener->link);
    result = listen_at(listener->id, at);
    if (result < 0)
        listener_free(listener);
    return result;
}

void fabric_unlisten(struct fabric *fabric, const struct address *at)
{
    list_for_each (link, &fabric->listeners) {
        struct listener *listener = container_of(link, struct listener, link);
        if (address_equal(&listener->at, at))
            listener_free(listener);
    }
}

static struct listener *find_listener(struct fabric *fabric, const struct rdma_cm_id *id)
{
    list_for_each (link, &fabric->listeners) {
        struct listener *listener = container_of(link, struct listener, link);

        if (listener->id == id)
            return listener;
    }
    return NULL;
}

// A device that was taken away.

static bool is_used(struct fabric *fabric, const struct ibv_context *device)
{
    list_for_each (link, &fabric->conns) {
        struct fabric_conn *conn = container_of(link, struct fabric_conn, link);

        if (conn->id && conn->id->verbs == device)
            return true;
    }
    list_for_each (listening, &fabric->listeners) {
        if (container_of(listening, struct listener, link)->id->verbs == device)
            return true;
    }
    return false;
}

static void release_removed(struct fabric *fabric)
{
    if (!fabric->removed || is_used(fabric, fabric->removed))
        return;
    devices_release(fabric->removed);
    fabric->removed = NULL;
}

// Connections.

static struct fabric_conn *conn_new(struct fabric *fabric, enum conn_state state, void *data)
{
    struct fabric_conn *conn = calloc(1, sizeof(*conn));

    if (!conn)
        return NULL;
    conn->fabric = fabric;
    conn->state = state;
    conn->data = data;
    conn->spent_end = &conn->spent;
    list_init(&conn->memories);
    list_init(&conn->started);
    list_append(&fabric->conns, &conn->link);
    return conn;
}

static void conn_free(struct fabric_conn *conn)
{
    conn_close_queue(conn);
    if (conn->id)
        rdma_destroy_id(conn->id);
    list_remove(&conn->link);
    release_removed(conn->fabric);
    free(conn);
}

static void set_ack_timeout(struct fabric_conn *conn)
{
    uint8_t timeout = ACK_TIMEOUT;

    if (rdma_set_option(conn->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout)) < 0)
        log_debug("cannot set the time for acknowledgements: %s", strerror(errno));
}

static int resolve(struct fabric_conn *conn, const struct address *from, const struct address *to)
{
    struct sockaddr_storage source, target;

    if (from)
        address_to_sockaddr(from, &source);
    address_to_sockaddr(to, &target);
    if (from && source.ss_family == AF_INET)
        ((struct sockaddr_in *)(void *)&source)->sin_port = 0;
    else if (from)
        ((struct sockaddr_in6 *)(void *)&source)->sin6_port = 0;
    if (rdma_create_id(conn->fabric->channel, &conn->id, conn, RDMA_PS_TCP) < 0)
        return -errno;
    set_ack_timeout(conn);
    if (rdma_resolve_addr(conn->id, from ? (struct sockaddr *)&source : NULL, (struct sockaddr *)&target, RESOLVE_MS) <
        0)
        return -errno;
    return 0;
}

int fabric_connect(struct fabric *fabric, const struct address *from, const struct address *to,
                   const void *private_data, size_t private_size, void *data, struct fabric_conn **conn_result)
{
    struct fabric_conn *conn;
    int result = need_channel(fabric);

    if (result < 0)
        return result;
    if (private_size > FABRIC_PRIVATE_MAX)
        return -EMSGSIZE;
    conn = conn_new(fabric, CONN_CONNECTING, data);
    if (!conn)
        return -ENOMEM;
    memcpy(conn->private_data, private_data, private_size);
    conn->private_size = (uint8_t)private_size;
    result = resolve(conn, from, to);
    if (result < 0)
        conn_free(conn);
    else
        *conn_result = conn;
    return result;
}

int fabric_accept(struct fabric_conn *conn, void *data)
{
    struct rdma_conn_param parameters = {.rnr_retry_count = RNR_RETRIES, .flow_control = 1};
    int result = conn_open_queue(conn);

    conn->data = data;
    conn->state = CONN_ACCEPTED;
    if (result == 0 && rdma_accept(conn->id, &parameters) < 0)
        result = -errno;
    return result;
}

void fabric_reject(struct fabric_conn *conn)
{
    rdma_reject(conn->id, NULL, 0);
    conn_free(conn);
}

void fabric_close(struct fabric_conn *conn)
{
    if (conn->state == CONN_INCOMING)
        rdma_reject(conn->id, NULL, 0);
    else if (conn->qp)
        rdma_disconnect(conn->id);
    conn_free(conn);
}

// Events. What rdma_cm reports is copied and acknowledged at once: an id cannot be destroyed before.

struct cm_event {
    enum rdma_cm_event_type type;
    struct rdma_cm_id *id;
    int status;
    struct greeting greeting;
};

// Returns whether the event is one for the user.
static bool report_failure(struct fabric_conn *conn, enum fabric_event_type type, int error, struct fabric_event *event)
{
    uint64_t one = 1;

    if (conn_fail(conn, error) && write(conn->fabric->wake, &one, sizeof(one)) < 0)
        log_error("cannot tell of a failed connection: %s", strerror(errno));
    if (conn->state == CONN_OVER)
        return false;
    conn->state = CONN_OVER;
    event->type = type;
    event->conn = conn;
    event->data = conn->data;
    event->error = error;
    return true;
}

static bool report_gone(struct fabric_conn *conn, int error, struct fabric_event *event)
{
    return report_failure(conn, FABRIC_GONE, error, event);
}

static bool on_address(struct fabric_conn *conn, struct fabric_event *event)
{
    if (rdma_resolve_route(conn->id, RESOLVE_MS) == 0)
        return false;
    return report_gone(conn, -errno, event);
}

static int send_request(struct fabric_conn *conn)
{
    struct greeting greeting = {.size = conn->private_size};
    struct rdma_conn_param parameters = {
        .private_data = &greeting,
        .private_data_len = sizeof(greeting),
        .retry_count = RETRIES,
        .rnr_retry_count = RNR_RETRIES,
        .flow_control = 1,
    };

    memcpy(greeting.magic, greeting_magic, sizeof(greeting.magic));
    memcpy(greeting.bytes, conn->private_data, conn->private_size);
    return rdma_connect(conn->id, &parameters) < 0 ? -errno : 0;
}

static bool on_route(struct fabric_conn *conn, struct fabric_event *event)
{
    int result = conn_open_queue(conn);

    if (result == 0)
        result = send_request(conn);
    return result < 0 && report_gone(conn, result, event);
}

static bool is_greeting(const struct greeting *greeting)
{
    static const uint8_t zero[sizeof(greeting->zero)];

    return memcmp(greeting->magic, greeting_magic, sizeof(greeting_magic)) == 0 &&
           greeting->size <= FABRIC_PRIVATE_MAX && memcmp(greeting->zero, zero, sizeof(zero)) == 0;
}

// Another host wants a connection. `id` is new, and ours.
static bool on_request(struct fabric *fabric, const struct cm_event *cm, struct fabric_event *event)
{
    struct fabric_conn *conn = NULL;

    if (is_greeting(&cm->greeting))
        conn = conn_new(fabric, CONN_INCOMING, NULL);
    else
        log_seldom(LOG_LEVEL_WARNING, "refused a connection of a program that is no rdma-agent");
    if (!conn) {
        rdma_reject(cm->id, NULL, 0);
        rdma_destroy_id(cm->id);
        return false;
    }
    conn->id = cm->id;
    conn->id->context = conn;
    event->type = FABRIC_INCOMING;
    event->conn = conn;
    address_from_sockaddr(&event->remote, (void *)rdma_get_peer_addr(conn->id));
    event->private_size = cm->greeting.size;
    memcpy(event->private_data, cm->greeting.bytes, cm->greeting.size);
    return true;
}

static void set_rnr_timer(struct fabric_conn *conn)
{
    struct ibv_qp_attr attributes = {.qp_state = IBV_QPS_RTS, .min_rnr_timer = RNR_TIMER};
    int error = ibv_modify_qp(conn->qp, &attributes, IBV_QP_STATE | IBV_QP_MIN_RNR_TIMER);

    if (error)
        log_debug("%s: cannot set the time to wait for receivers: %s", fabric_device_name(conn), strerror(error));
}

static bool on_established(struct fabric_conn *conn, struct fabric_event *event)
{
    if (conn->state != CONN_CONNECTING && conn->state != CONN_ACCEPTED)
        return false;
    set_rnr_timer(conn);
    conn->state = CONN_READY;
    event->type = FABRIC_READY;
    event->conn = conn;
    event->data = conn->data;
    return true;
}

// The status of failures is -errno, or nothing, or of the connection manager's own numbers.
static int error_of(const struct cm_event *cm, int otherwise)
{
    return cm->status < 0 && cm->status > -4096 ? cm->status : otherwise;
}

static bool on_conn_event(struct fabric_conn *conn, const struct cm_event *cm, struct fabric_event *event)
{
    switch (cm->type) {
    case RDMA_CM_EVENT_ADDR_RESOLVED:
        return on_address(conn, event);
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
        return on_route(conn, event);
    case RDMA_CM_EVENT_ESTABLISHED:
        return on_established(conn, event);
    case RDMA_CM_EVENT_REJECTED:
        return report_failure(conn, FABRIC_REFUSED, error_of(cm, -ECONNREFUSED), event);
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR:
        return report_gone(conn, error_of(cm, -EHOSTUNREACH), event);
    case RDMA_CM_EVENT_UNREACHABLE:
    case RDMA_CM_EVENT_CONNECT_ERROR:
        return report_gone(conn, error_of(cm, -ETIMEDOUT), event);
    case RDMA_CM_EVENT_DISCONNECTED:
        // Ends what is under way, and answers.
        rdma_disconnect(conn->id);
        return report_gone(conn, -ECONNRESET, event);
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
        return report_gone(conn, -ENODEV, event);
    default:
        return false;
    }
}

static bool on_cm_event(struct fabric *fabric, const struct cm_event *cm, struct fabric_event *event)
{
    struct listener *listener = find_listener(fabric, cm->id);

    if (cm->type == RDMA_CM_EVENT_CONNECT_REQUEST)
        return on_request(fabric, cm, event);
    if (cm->type == RDMA_CM_EVENT_DEVICE_REMOVAL)
        fabric->removed = cm->id->verbs;
    if (!listener)
        return on_conn_event(cm->id->context, cm, event);
    if (cm->type != RDMA_CM_EVENT_DEVICE_REMOVAL)
        return false;
    event->type = FABRIC_DEAF;
    event->remote = listener->at;
    listener_free(listener);
    release_removed(fabric);
    return true;
}

static bool read_cm_event(struct fabric *fabric, struct cm_event *cm)
{
    struct rdma_cm_event *found;
    size_t size;

    if (!fabric->channel || rdma_get_cm_event(fabric->channel, &found) < 0)
        return false;
    memset(cm, 0, sizeof(*cm));
    cm->type = found->event;
    cm->id = found->id;
    cm->status = found->status;
    size = found->param.conn.private_data_len;
    if (found->event == RDMA_CM_EVENT_CONNECT_REQUEST && found->param.conn.private_data)
        memcpy(&cm->greeting, found->param.conn.private_data,
               size < sizeof(cm->greeting) ? size : sizeof(cm->greeting));
    rdma_ack_cm_event(found);
    return true;
}

static bool next_cm_event(struct fabric *fabric, struct fabric_event *event)
{
    struct cm_event cm;

    // The descriptor stays readable if there are more.
    for (int i = 0; i < EVENTS_A_CALL && read_cm_event(fabric, &cm); i++) {
        if (on_cm_event(fabric, &cm, event))
            return true;
    }
    return false;
}

// What the data thread found.
static bool next_failed(struct fabric *fabric, struct fabric_event *event)
{
    uint64_t value;

    if (read(fabric->notices, &value, sizeof(value)) < 0 && errno != EAGAIN)
        log_seldom(LOG_LEVEL_ERROR, "cannot read an event descriptor: %s", strerror(errno));
    list_for_each (link, &fabric->conns) {
        struct fabric_conn *conn = container_of(link, struct fabric_conn, link);
        int error = atomic_load(&conn->error);

        if (error < 0 && report_gone(conn, error, event))
            return true;
    }
    return false;
}

static bool next_news(struct fabric *fabric, struct fabric_event *event)
{
    if (fabric->news >= 0 && devices_changed(fabric->news))
        fabric->devices_changed = true;
    if (!fabric->devices_changed)
        return false;
    fabric->devices_changed = false;
    event->type = FABRIC_DEVICES;
    return true;
}

void fabric_next_event(struct fabric *fabric, struct fabric_event *event)
{
    memset(event, 0, sizeof(*event));
    if (!next_failed(fabric, event) && !next_cm_event(fabric, event) && !next_news(fabric, event))
        event->type = FABRIC_NOTHING;
}
