// The device of the simulated fabric: a thread that sends and receives frames. See sim.h.

#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "agent/fd.h"
#include "tests/sim/sim.h"

#define BATCH     64
#define READ_SIZE (256u << 10)

uint64_t sim_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t sim_random(struct fabric *fabric)
{
    // xorshift*: good enough to tell keys and delays apart.
    fabric->random ^= fabric->random >> 12;
    fabric->random ^= fabric->random << 25;
    fabric->random ^= fabric->random >> 27;
    return fabric->random * 0x2545f4914f6cdd1dULL;
}

void sim_device_wake(struct fabric *fabric)
{
    eventfd_write(fabric->wake.fd, 1);
}

void sim_watch(struct fabric *fabric, struct sim_source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};

    if (events == source->events)
        return;
    // Without any events it goes out altogether: an error would be reported nevertheless.
    epoll_ctl(fabric->epoll,
              !events          ? EPOLL_CTL_DEL
              : source->events ? EPOLL_CTL_MOD
                               : EPOLL_CTL_ADD,
              source->fd, &event);
    source->events = events;
}

// What the agent is told.

void sim_tell(struct fabric_conn *conn, enum fabric_event_type type, int error)
{
    struct fabric *fabric = conn->fabric;
    struct sim_event *told = calloc(1, sizeof(*told));

    if (!told)
        abort(); // a test without memory says nothing about the agent
    told->event = (struct fabric_event){.type = type, .conn = conn, .data = conn->data, .error = error};
    list_append(&fabric->events, &told->link);
    eventfd_write(fabric->event_fd, 1);
}

void sim_complete(struct fabric_conn *conn, const struct fabric_completion *completion)
{
    struct fabric *fabric = conn->fabric;
    struct sim_completion *made = calloc(1, sizeof(*made));

    if (!made)
        abort();
    made->conn = conn;
    made->completion = *completion;
    if (completion->message) {
        memcpy(made->message, completion->message, completion->size);
        made->completion.message = made->message;
    }
    conn->waiting++;
    if (!conn->started) {
        list_append(&conn->early, &made->link);
        return;
    }
    sim_queue(fabric, made);
}

void sim_queue(struct fabric *fabric, struct sim_completion *made)
{
    list_append(&fabric->completions, &made->link);
    atomic_fetch_add_explicit(&fabric->waiting, 1, memory_order_release);
    if (fabric->armed)
        eventfd_write(fabric->completion_fd, 1);
    fabric->armed = false;
}

static void complete_plain(struct fabric_conn *conn, enum fabric_completion_type type)
{
    const struct fabric_completion completion = {.type = type};

    sim_complete(conn, &completion);
}

// Connections.

struct sim_post *sim_post(struct fabric_conn *conn, enum sim_frame type)
{
    const struct sim_faults *faults = &conn->fabric->faults;
    struct sim_post *post = calloc(1, sizeof(*post));
    uint64_t delay = faults->delay_least_us;

    if (!post)
        abort();
    if (faults->delay_most_us > delay)
        delay += sim_random(conn->fabric) % (faults->delay_most_us - delay);
    post->type = type;
    post->due_ns = sim_now_ns() + delay * 1000;
    if (post->due_ns < conn->last_due_ns)
        post->due_ns = conn->last_due_ns;
    conn->last_due_ns = post->due_ns;
    list_append(&conn->posts, &post->link);
    return post;
}

static void drop_posts(struct fabric_conn *conn)
{
    list_for_each (link, &conn->posts)
        free(container_of(link, struct sim_post, link));
    list_init(&conn->posts);
    conn->counted = 0;
    conn->out_size = conn->out_sent = 0;
}

static void hang_up(struct fabric_conn *conn)
{
    sim_watch(conn->fabric, &conn->source, 0);
    fd_close(&conn->source.fd);
    drop_posts(conn);
}

void sim_conn_fail(struct fabric_conn *conn, int error)
{
    enum sim_state before = conn->state;

    if (before == SIM_STATE_FAILED || before == SIM_STATE_CLOSED)
        return;
    if (before == SIM_STATE_STRANGE) { // the agent has never heard of it
        sim_conn_bury(conn);
        return;
    }
    hang_up(conn);
    conn->state = SIM_STATE_FAILED;
    conn->error = error;
    if (before == SIM_STATE_CONNECTING)
        sim_tell(conn, error == -ETIMEDOUT ? FABRIC_GONE : FABRIC_REFUSED, error);
    else if (before != SIM_STATE_INCOMING) // that one is told when the agent accepts
        sim_tell(conn, FABRIC_GONE, error);
    if (conn->was_ready)
        complete_plain(conn, FABRIC_FAILED);
}

static void drop_events(struct fabric_conn *conn)
{
    list_for_each (link, &conn->fabric->events) {
        struct sim_event *event = container_of(link, struct sim_event, link);
        if (event->event.conn == conn) {
            list_remove(&event->link);
            free(event);
        }
    }
}

void sim_drop_completions(struct fabric_conn *conn)
{
    struct fabric *fabric = conn->fabric;

    list_for_each (early, &conn->early)
        free(container_of(early, struct sim_completion, link));
    list_init(&conn->early);
    list_for_each (link, &fabric->completions) {
        struct sim_completion *completion = container_of(link, struct sim_completion, link);
        if (completion->conn == conn) {
            list_remove(&completion->link);
            free(completion);
            atomic_fetch_sub(&fabric->waiting, 1);
        }
    }
}

void sim_conn_bury(struct fabric_conn *conn)
{
    hang_up(conn);
    drop_events(conn);
    sim_drop_completions(conn);
    conn->state = SIM_STATE_CLOSED;
    list_for_each (link, &conn->memories) {
        struct fabric_memory *memory = container_of(link, struct fabric_memory, link);
        memory->conn = NULL;
        list_remove(&memory->link);
    }
    list_remove(&conn->link);
    list_append(&conn->fabric->graves, &conn->link);
    sim_device_wake(conn->fabric);
}

void sim_conn_free(struct fabric_conn *conn)
{
    list_remove(&conn->link);
    free(conn->in);
    free(conn->out);
    free(conn);
}

// Sending.

// Room for `size` bytes in a buffer that grows.
static bool grow(uint8_t **bytes, size_t *most, size_t size)
{
    uint8_t *grown;

    if (size <= *most)
        return true;
    grown = realloc(*bytes, size);
    if (!grown)
        return false;
    *bytes = grown;
    *most = size;
    return true;
}

static size_t spans_size(const struct fabric_write *write)
{
    size_t size = 0;

    for (unsigned i = 0; i < write->spans; i++)
        size += write->span[i].size;
    return size;
}

static size_t body_size(const struct sim_post *post)
{
    if (post->type != SIM_WRITE)
        return post->size;
    return sizeof(struct sim_write) + post->write.spans * sizeof(struct sim_span) + spans_size(&post->write);
}

static void build_write(const struct fabric_write *write, uint8_t *to)
{
    const struct sim_write head = {
        .cursor = htobe64(write->cursor),
        .cursor_to = htobe64(write->cursor_to),
        .key = htobe32(write->remote_key),
        .immediate = htobe32(write->immediate),
        .spans = htobe32(write->spans),
    };

    memcpy(to, &head, sizeof(head));
    to += sizeof(head);
    for (unsigned i = 0; i < write->spans; i++) {
        const struct sim_span span = {.to = htobe64(write->span[i].to), .size = htobe32(write->span[i].size)};
        memcpy(to, &span, sizeof(span));
        to += sizeof(span);
    }
    for (unsigned i = 0; i < write->spans; i++) {
        memcpy(to, write->span[i].from, write->span[i].size);
        to += write->span[i].size;
    }
}

// Counts down to a fault. True when it is time.
static bool is_time(uint64_t *in)
{
    return *in > 0 && --*in == 0;
}

static void build_frame(struct fabric_conn *conn, const struct sim_post *post)
{
    struct fabric *fabric = conn->fabric;
    struct sim_head head = {.size = htobe32((uint32_t)body_size(post)), .type = (uint8_t)post->type};

    if (post->type == SIM_WRITE)
        head.torn = is_time(&fabric->faults.tear_in);
    memcpy(conn->out, &head, sizeof(head));
    if (post->type == SIM_WRITE)
        build_write(&post->write, conn->out + sizeof(head));
    else
        memcpy(conn->out + sizeof(head), post->bytes, post->size);
    fabric->counts.writes += post->type == SIM_WRITE;
    fabric->counts.messages += post->type == SIM_MESSAGE;
    fabric->counts.bytes += post->type == SIM_WRITE ? spans_size(&post->write) : 0;
}

// Takes the next post that is due into `out`. Returns whether there was one.
static bool take_post(struct fabric_conn *conn, uint64_t now)
{
    struct sim_post *post = container_of(conn->posts.next, struct sim_post, link);
    size_t size;

    if (list_empty(&conn->posts) || post->due_ns > now)
        return false;
    if (post->counted && !conn->fabric->faults.fail_late && is_time(&conn->fabric->faults.fail_in)) {
        sim_conn_fail(conn, -EIO);
        return false;
    }
    size = sizeof(struct sim_head) + body_size(post);
    if (!grow(&conn->out, &conn->out_most, size))
        abort();
    build_frame(conn, post);
    conn->out_size = size;
    conn->out_sent = 0;
    conn->out_counted = post->counted;
    list_remove(&post->link);
    free(post);
    return true;
}

static void finish_post(struct fabric_conn *conn)
{
    conn->out_size = conn->out_sent = 0;
    if (!conn->out_counted)
        return;
    conn->counted--;
    if (conn->fabric->faults.fail_late && is_time(&conn->fabric->faults.fail_in)) {
        sim_conn_fail(conn, -EIO);
        return;
    }
    if (conn->wants_room && conn->counted <= conn->fabric->depth / 2) {
        conn->wants_room = false;
        complete_plain(conn, FABRIC_ROOM);
    }
}

// Returns whether more may be sent now.
static bool send_frame(struct fabric_conn *conn)
{
    ssize_t sent = send(conn->source.fd, conn->out + conn->out_sent, conn->out_size - conn->out_sent, MSG_NOSIGNAL);

    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            sim_conn_fail(conn, -errno);
        return false;
    }
    conn->out_sent += (size_t)sent;
    if (conn->out_sent < conn->out_size)
        return false;
    finish_post(conn);
    return true;
}

static bool is_alive(const struct fabric_conn *conn)
{
    return conn->state != SIM_STATE_FAILED && conn->state != SIM_STATE_CLOSED;
}

// Whether the socket is connected; an error ends the connection.
static bool is_connected(struct fabric_conn *conn)
{
    struct sockaddr_storage remote;
    socklen_t size = sizeof(remote), int_size = sizeof(int);
    int error = 0;

    if (!conn->connected)
        conn->connected = getpeername(conn->source.fd, (struct sockaddr *)&remote, &size) == 0;
    if (conn->connected)
        return true;
    getsockopt(conn->source.fd, SOL_SOCKET, SO_ERROR, &error, &int_size);
    if (error)
        sim_conn_fail(conn, -error);
    return false;
}

static void send_due(struct fabric_conn *conn, uint64_t now)
{
    bool more = is_connected(conn);

    while (more && is_alive(conn) && (conn->out_size || take_post(conn, now)))
        more = send_frame(conn);
}

// Receiving.

// Where `size` bytes at `address` lie that the other side may write with `key`. Null if nowhere.
static uint8_t *find_place(const struct fabric_conn *conn, uint32_t key, uint64_t address, uint64_t size)
{
    list_for_each (link, &conn->memories) {
        const struct fabric_memory *memory = container_of(link, struct fabric_memory, link);
        if (memory->key != key || !memory->remote_write || address < memory->address)
            continue;
        if (address - memory->address <= memory->size && size <= memory->size - (address - memory->address))
            return memory->bytes + (address - memory->address);
    }
    return NULL;
}

// What a write frame says, and where its parts lie.
struct arrival {
    struct sim_write head;
    struct sim_span span[2];
    uint8_t *place[2];
    uint8_t *cursor_place;
    const uint8_t *bytes;
};

static bool read_span(const struct fabric_conn *conn, struct arrival *arrival, unsigned i, const uint8_t *from)
{
    struct sim_span *span = &arrival->span[i];

    memcpy(span, from + i * sizeof(*span), sizeof(*span));
    span->to = be64toh(span->to);
    span->size = be32toh(span->size);
    arrival->place[i] = find_place(conn, arrival->head.key, span->to, span->size);
    return arrival->place[i] != NULL;
}

static bool read_write(const struct fabric_conn *conn, const uint8_t *from, size_t size, struct arrival *arrival)
{
    struct sim_write *head = &arrival->head;
    uint64_t total = sizeof(*head);

    if (size < sizeof(*head))
        return false;
    memcpy(head, from, sizeof(*head));
    head->cursor = be64toh(head->cursor);
    head->cursor_to = be64toh(head->cursor_to);
    head->key = be32toh(head->key);
    head->immediate = be32toh(head->immediate);
    head->spans = be32toh(head->spans);
    total += head->spans * sizeof(struct sim_span);
    if (head->spans > 2 || size < total)
        return false;
    for (unsigned i = 0; i < head->spans; i++) {
        if (!read_span(conn, arrival, i, from + sizeof(*head)))
            return false;
    }
    arrival->bytes = from + total;
    for (unsigned i = 0; i < head->spans; i++)
        total += arrival->span[i].size;
    arrival->cursor_place = find_place(conn, head->key, head->cursor_to, sizeof(head->cursor));
    return size == total && head->cursor_to % 8 == 0 && arrival->cursor_place;
}

static void take_write(struct fabric_conn *conn, const uint8_t *from, size_t size, bool torn)
{
    struct arrival arrival;
    struct fabric_completion completion = {.type = FABRIC_WRITTEN};

    if (!read_write(conn, from, size, &arrival)) {
        sim_conn_fail(conn, -EACCES);
        return;
    }
    for (unsigned i = 0; i < arrival.head.spans; i++) {
        memcpy(arrival.place[i], arrival.bytes, torn ? arrival.span[i].size / 2 : arrival.span[i].size);
        arrival.bytes += arrival.span[i].size;
    }
    if (torn) {
        sim_conn_fail(conn, -EIO);
        return;
    }
    atomic_store((_Atomic uint64_t *)(void *)arrival.cursor_place, arrival.head.cursor);
    completion.immediate = arrival.head.immediate;
    sim_complete(conn, &completion);
}

static void take_message(struct fabric_conn *conn, const uint8_t *from, size_t size)
{
    const struct fabric_completion completion = {.type = FABRIC_MESSAGE, .message = from, .size = size};

    if (size < 1 || size > FABRIC_MESSAGE_MAX)
        sim_conn_fail(conn, -EMSGSIZE);
    else
        sim_complete(conn, &completion);
}

static void take_connect(struct fabric_conn *conn, const uint8_t *from, size_t size)
{
    static const struct sim_head reject = {.type = SIM_REJECT};
    struct fabric_event *event;

    if (conn->fabric->faults.refuse || size > FABRIC_PRIVATE_MAX) {
        send(conn->source.fd, &reject, sizeof(reject), MSG_NOSIGNAL);
        sim_conn_bury(conn);
        return;
    }
    conn->state = SIM_STATE_INCOMING;
    sim_tell(conn, FABRIC_INCOMING, 0);
    event = &container_of(conn->fabric->events.prev, struct sim_event, link)->event;
    event->remote = conn->remote;
    event->private_size = size;
    memcpy(event->private_data, from, size);
}

static void become_ready(struct fabric_conn *conn)
{
    conn->state = SIM_STATE_READY;
    conn->was_ready = true;
    sim_tell(conn, FABRIC_READY, 0);
}

static void take_frame(struct fabric_conn *conn, const struct sim_head *head, const uint8_t *body, size_t size)
{
    if (conn->state == SIM_STATE_STRANGE && head->type == SIM_CONNECT) {
        take_connect(conn, body, size);
    } else if (conn->state == SIM_STATE_CONNECTING && head->type == SIM_ACCEPT) {
        sim_post(conn, SIM_READY);
        become_ready(conn);
    } else if (conn->state == SIM_STATE_CONNECTING && head->type == SIM_REJECT) {
        sim_conn_fail(conn, -ECONNREFUSED);
    } else if (conn->state == SIM_STATE_ACCEPTED && head->type == SIM_READY) {
        become_ready(conn);
    } else if (conn->state == SIM_STATE_READY && head->type == SIM_WRITE) {
        take_write(conn, body, size, head->torn);
    } else if (conn->state == SIM_STATE_READY && head->type == SIM_MESSAGE) {
        take_message(conn, body, size);
    } else {
        sim_conn_fail(conn, -EPROTO);
    }
}

static void take_frames(struct fabric_conn *conn)
{
    size_t taken = 0;

    while (is_alive(conn) && conn->in_size - taken >= sizeof(struct sim_head)) {
        struct sim_head head;
        size_t size;
        memcpy(&head, conn->in + taken, sizeof(head));
        size = be32toh(head.size);
        if (size > SIM_FRAME_MOST) {
            sim_conn_fail(conn, -EMSGSIZE);
            break;
        }
        if (conn->in_size - taken < sizeof(head) + size)
            break;
        take_frame(conn, &head, conn->in + taken + sizeof(head), size);
        taken += sizeof(head) + size;
    }
    conn->in_size -= taken;
    memmove(conn->in, conn->in + taken, conn->in_size);
}

static void receive(struct fabric_conn *conn)
{
    ssize_t size;

    if (!grow(&conn->in, &conn->in_most, conn->in_size + READ_SIZE))
        abort();
    size = recv(conn->source.fd, conn->in + conn->in_size, READ_SIZE, 0);
    if (size > 0) {
        conn->in_size += (size_t)size;
        take_frames(conn);
    } else if (size == 0) {
        sim_conn_fail(conn, -ECONNRESET);
    } else if (errno != EAGAIN && errno != EINTR) {
        sim_conn_fail(conn, -errno);
    }
}

static void on_conn(struct fabric *fabric, struct sim_source *source, uint32_t events)
{
    struct fabric_conn *conn = container_of(source, struct fabric_conn, source);

    if (is_alive(conn) && is_connected(conn) && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        receive(conn);
}

struct fabric_conn *sim_conn_new(struct fabric *fabric, int fd, enum sim_state state)
{
    static const int yes = 1;
    struct fabric_conn *conn = calloc(1, sizeof(*conn));
    struct sockaddr_storage remote;
    socklen_t size = sizeof(remote);

    if (!conn)
        return NULL;
    *conn = (struct fabric_conn){.source = {.fd = fd, .ready = on_conn}, .fabric = fabric, .state = state};
    list_init(&conn->memories);
    list_init(&conn->posts);
    list_init(&conn->early);
    list_append(&fabric->conns, &conn->link);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    conn->connected = getpeername(fd, (struct sockaddr *)&remote, &size) == 0;
    if (conn->connected)
        address_from_sockaddr(&conn->remote, &remote);
    return conn;
}

// The thread.

static uint32_t wanted_events(const struct fabric_conn *conn)
{
    uint32_t events = 0;

    if (!is_alive(conn) || conn->fabric->faults.silent)
        return 0;
    if (conn->waiting < SIM_WAITING_MOST)
        events |= EPOLLIN;
    if (conn->out_size || !conn->connected)
        events |= EPOLLOUT;
    return events;
}

// Sends what is due, and says when the next of it will be: 0 for never.
static uint64_t serve_conns(struct fabric *fabric, uint64_t now)
{
    uint64_t next = 0;

    list_for_each (link, &fabric->conns) {
        struct fabric_conn *conn = container_of(link, struct fabric_conn, link);
        if (is_alive(conn) && !fabric->faults.silent)
            send_due(conn, now);
        sim_watch(fabric, &conn->source, wanted_events(conn));
        if (is_alive(conn) && !conn->out_size && !list_empty(&conn->posts)) {
            uint64_t due = container_of(conn->posts.next, struct sim_post, link)->due_ns;
            if (due > now && (!next || due < next))
                next = due;
        }
    }
    return next;
}

static void set_timer(struct fabric *fabric, uint64_t due)
{
    const struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(due / 1000000000), .tv_nsec = (long)(due % 1000000000)},
    };

    timerfd_settime(fabric->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void watch_listeners(struct fabric *fabric)
{
    list_for_each (link, &fabric->listeners)
        sim_watch(fabric, &container_of(link, struct sim_listener, link)->source, fabric->faults.silent ? 0 : EPOLLIN);
}

static void turn(struct fabric *fabric, const struct epoll_event *batch, int count)
{
    for (int i = 0; i < count; i++) {
        struct sim_source *source = batch[i].data.ptr;
        source->ready(fabric, source, batch[i].events);
    }
    set_timer(fabric, serve_conns(fabric, sim_now_ns()));
    watch_listeners(fabric);
    // Nothing of the batch names them any more.
    list_for_each (link, &fabric->graves)
        sim_conn_free(container_of(link, struct fabric_conn, link));
}

static void *run(void *data)
{
    struct fabric *fabric = data;
    bool stopping = false;

    while (!stopping) {
        struct epoll_event batch[BATCH];
        int count = epoll_wait(fabric->epoll, batch, BATCH, -1);
        pthread_mutex_lock(&fabric->lock);
        turn(fabric, batch, count);
        stopping = fabric->stopping;
        pthread_mutex_unlock(&fabric->lock);
    }
    return NULL;
}

static void on_counter(struct fabric *fabric, struct sim_source *source, uint32_t events)
{
    uint64_t count;

    if (read(source->fd, &count, sizeof(count)) < 0)
        return; // somebody was faster
}

static int start_thread(struct fabric *fabric)
{
    sigset_t all, before;
    int result;

    // Signals are the agent's main thread's.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = -pthread_create(&fabric->thread, NULL, run, fabric);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

static void close_all(struct fabric *fabric)
{
    sim_orders_stop(fabric);
    fd_close(&fabric->wake.fd);
    fd_close(&fabric->timer.fd);
    fd_close(&fabric->epoll);
}

int sim_device_start(struct fabric *fabric)
{
    int result;

    fabric->epoll = epoll_create1(EPOLL_CLOEXEC);
    fabric->wake = (struct sim_source){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .ready = on_counter};
    fabric->timer = (struct sim_source){
        .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC),
        .ready = on_counter,
    };
    fabric->orders.fd = -1;
    if (fabric->epoll < 0 || fabric->wake.fd < 0 || fabric->timer.fd < 0) {
        result = -errno;
    } else {
        sim_watch(fabric, &fabric->wake, EPOLLIN);
        sim_watch(fabric, &fabric->timer, EPOLLIN);
        result = sim_orders_start(fabric);
        if (result == 0)
            result = start_thread(fabric);
    }
    if (result < 0)
        close_all(fabric);
    return result;
}

void sim_device_stop(struct fabric *fabric)
{
    pthread_mutex_lock(&fabric->lock);
    fabric->stopping = true;
    sim_device_wake(fabric);
    pthread_mutex_unlock(&fabric->lock);
    pthread_join(fabric->thread, NULL);
    close_all(fabric);
}
