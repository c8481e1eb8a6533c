// Posting and polling: what the data thread does with a connection.
//
// A post is one to three requests, handed to the device in one call, of which the last one carries the number of the
// post. Every quarter of the queue one is signalled; its completion tells that all posts up to it are done, and thereby
// that their slots are free.

#include "agent/fabric_verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/log.h"

#define POLL_BATCH 32
#define ARM_BATCH  16

// Failing, as seen here: the control thread is told, and the data thread by its own next poll.
static void fail(struct fabric_conn *conn, int error)
{
    uint64_t one = 1;

    if (conn_fail(conn, error) && write(conn->fabric->notices, &one, sizeof(one)) < 0)
        log_error("cannot tell of a failed connection: %s", strerror(errno));
}

void fabric_start(struct fabric_conn *conn, void *data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};

    conn->tag = data;
    list_append(&conn->fabric->started, &conn->started);
    if (epoll_ctl(conn->fabric->completions, EPOLL_CTL_ADD, conn->channel->fd, &event) < 0)
        fail(conn, -errno);
}

// Out of the set here and not in closing it: this thread may be looking at the set meanwhile.
void fabric_stop(struct fabric_conn *conn)
{
    epoll_ctl(conn->fabric->completions, EPOLL_CTL_DEL, conn->channel->fd, NULL);
    list_remove(&conn->started);
}

// Posting.

static bool has_failed(struct fabric_conn *conn)
{
    return atomic_load_explicit(&conn->error, memory_order_relaxed) != 0;
}

static int check_room(struct fabric_conn *conn)
{
    if (has_failed(conn))
        return -EPIPE;
    if (conn->posted - conn->completed < conn->depth)
        return 0;
    conn->wants_room = true;
    return -EAGAIN;
}

// Copies what is sent with the next post to its slot.
static struct ibv_sge fill_slot(struct fabric_conn *conn, const void *bytes, uint32_t size)
{
    uint64_t slot = conn->receivable + conn->posted % conn->depth;
    unsigned char *at = conn->slots + slot * FABRIC_MESSAGE_MAX;

    memcpy(at, bytes, size);
    return (struct ibv_sge){.addr = (uintptr_t)at, .length = size, .lkey = conn->slots_mr->lkey};
}

static unsigned flags_for(const struct fabric_conn *conn, uint32_t size)
{
    return size <= conn->inline_most ? IBV_SEND_INLINE : 0;
}

// Hands over a chain of requests that ends with `last`.
static int post(struct fabric_conn *conn, struct ibv_send_wr *first, struct ibv_send_wr *last)
{
    struct ibv_send_wr *bad;
    int error;

    last->wr_id = ++conn->posted;
    if (conn->posted - conn->signalled >= conn->depth / 4) {
        last->send_flags |= IBV_SEND_SIGNALED;
        conn->signalled = conn->posted;
    }
    error = ibv_post_send(conn->qp, first, &bad);
    if (error == 0)
        return 0;
    fail(conn, -error);
    return -EPIPE;
}

static void fill_span(const struct fabric_conn *conn, const struct fabric_write *write, unsigned i,
                      struct ibv_send_wr *request, struct ibv_sge *sge)
{
    uint32_t size = write->span[i].size;

    *sge = (struct ibv_sge){
        .addr = (uintptr_t)write->span[i].from,
        .length = size,
        .lkey = write->memory->local_key,
    };
    *request = (struct ibv_send_wr){
        .next = request + 1,
        .sg_list = sge,
        .num_sge = 1,
        .opcode = IBV_WR_RDMA_WRITE,
        .send_flags = flags_for(conn, size),
        .wr.rdma = {.remote_addr = write->span[i].to, .rkey = write->remote_key},
    };
}

// A device that is given more than its port takes fails the connection, and says so only when it is on its way.
static int check_write(const struct fabric_write *write)
{
    if (write->spans > 2)
        return -EINVAL;
    for (unsigned i = 0; i < write->spans; i++) {
        if (write->span[i].size > FABRIC_SPAN_MOST)
            return -EINVAL;
    }
    return 0;
}

int fabric_post_write(struct fabric_conn *conn, const struct fabric_write *write)
{
    struct ibv_send_wr requests[3], *cursor = &requests[write->spans];
    struct ibv_sge sges[3];
    int result = check_write(write);

    if (result == 0)
        result = check_room(conn);
    if (result < 0)
        return result;
    for (unsigned i = 0; i < write->spans; i++)
        fill_span(conn, write, i, &requests[i], &sges[i]);
    sges[write->spans] = fill_slot(conn, &write->cursor, sizeof(write->cursor));
    *cursor = (struct ibv_send_wr){
        .sg_list = &sges[write->spans],
        .num_sge = 1,
        .opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
        .send_flags = flags_for(conn, sizeof(write->cursor)),
        .imm_data = htonl(write->immediate),
        .wr.rdma = {.remote_addr = write->cursor_to, .rkey = write->remote_key},
    };
    return post(conn, requests, cursor);
}

int fabric_post_message(struct fabric_conn *conn, const void *message, size_t size)
{
    struct ibv_send_wr request;
    struct ibv_sge sge;
    int result = size >= 1 && size <= FABRIC_MESSAGE_MAX ? check_room(conn) : -EINVAL;

    if (result < 0)
        return result;
    sge = fill_slot(conn, message, (uint32_t)size);
    request = (struct ibv_send_wr){
        .sg_list = &sge,
        .num_sge = 1,
        .opcode = IBV_WR_SEND,
        .send_flags = flags_for(conn, (uint32_t)size),
    };
    return post(conn, &request, &request);
}

// Polling.

// The receives of the last poll: their messages have been read by now.
static void repost_receives(struct fabric_conn *conn)
{
    struct ibv_recv_wr *bad;
    int error;

    if (!conn->spent)
        return;
    *conn->spent_end = NULL;
    error = ibv_post_recv(conn->qp, conn->spent, &bad);
    conn->spent = NULL;
    conn->spent_end = &conn->spent;
    if (error)
        fail(conn, -error);
}

static void spend_receive(struct fabric_conn *conn, uint64_t number)
{
    struct ibv_recv_wr *receive = &conn->receives[number];

    *conn->spent_end = receive;
    conn->spent_end = &receive->next;
}

// Takes the completion of a request of ours. Returns how many completions it is to others: 0 or 1.
static unsigned take_sent(struct fabric_conn *conn, const struct ibv_wc *wc, struct fabric_completion *completion)
{
    conn->completed = wc->wr_id;
    if (!conn->wants_room)
        return 0;
    conn->wants_room = false;
    *completion = (struct fabric_completion){.type = FABRIC_ROOM, .data = conn->tag};
    return 1;
}

static unsigned take_received(struct fabric_conn *conn, const struct ibv_wc *wc, struct fabric_completion *completion)
{
    *completion = (struct fabric_completion){
        .type = wc->opcode == IBV_WC_RECV ? FABRIC_MESSAGE : FABRIC_WRITTEN,
        .data = conn->tag,
        .immediate = wc->opcode == IBV_WC_RECV ? 0 : ntohl(wc->imm_data),
    };
    if (wc->opcode == IBV_WC_RECV) {
        completion->message = conn->slots + wc->wr_id * FABRIC_MESSAGE_MAX;
        completion->size = wc->byte_len;
    }
    spend_receive(conn, wc->wr_id);
    return 1;
}

// What a failed request says of the connection, for people.
static int error_of(enum ibv_wc_status status)
{
    switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR:
        return -ETIMEDOUT;
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_LOC_ACCESS_ERR:
    case IBV_WC_LOC_PROT_ERR:
        return -EACCES;
    case IBV_WC_WR_FLUSH_ERR:
        return -ECONNRESET;
    default:
        return -EIO;
    }
}

static unsigned take(struct fabric_conn *conn, const struct ibv_wc *wc, struct fabric_completion *completion)
{
    if (wc->status != IBV_WC_SUCCESS) {
        if (!has_failed(conn))
            log_debug("a request on %s failed: %s", fabric_device_name(conn), ibv_wc_status_str(wc->status));
        fail(conn, error_of(wc->status));
        return 0;
    }
    return wc->opcode & IBV_WC_RECV ? take_received(conn, wc, completion) : take_sent(conn, wc, completion);
}

// Returns whether all there was has been taken.
static bool drain(struct fabric_conn *conn, struct fabric_completion *completions, unsigned most, unsigned *count)
{
    while (*count < most) {
        struct ibv_wc wc[POLL_BATCH];
        unsigned wanted = most - *count < POLL_BATCH ? most - *count : POLL_BATCH;
        int found = ibv_poll_cq(conn->cq, (int)wanted, wc);

        if (found < 0) {
            fail(conn, -EIO);
            return true;
        }
        for (int i = 0; i < found; i++)
            *count += take(conn, &wc[i], &completions[*count]);
        if ((unsigned)found < wanted)
            return true;
    }
    return false;
}

static void poll_one(struct fabric_conn *conn, struct fabric_completion *completions, unsigned most, unsigned *count)
{
    // Before the queue is looked at: what came before the failure is in it by then.
    bool failed = atomic_load(&conn->error) != 0;

    repost_receives(conn);
    if (!drain(conn, completions, most, count) || *count == most || !(failed || has_failed(conn)) || conn->told)
        return;
    conn->told = true;
    completions[(*count)++] = (struct fabric_completion){.type = FABRIC_FAILED, .data = conn->tag};
}

int fabric_poll(struct fabric *fabric, struct fabric_completion *completions, unsigned most)
{
    unsigned count = 0;

    list_for_each (link, &fabric->started) {
        if (count < most)
            poll_one(container_of(link, struct fabric_conn, started), completions, most, &count);
    }
    // Another is the first next time, lest a busy one keep the others from being heard.
    if (count == most && !list_empty(&fabric->started)) {
        struct list *first = fabric->started.next;

        list_remove(first);
        list_append(&fabric->started, first);
    }
    return (int)count;
}

// Sleeping.

// The channel told of a completion.
static void take_signal(struct fabric_conn *conn)
{
    struct ibv_cq *cq;
    void *context;

    if (ibv_get_cq_event(conn->channel, &cq, &context) < 0)
        return;
    ibv_ack_cq_events(cq, 1);
    conn->armed = false;
}

static void take_signals(struct fabric *fabric)
{
    struct epoll_event events[ARM_BATCH];
    int count = epoll_wait(fabric->completions, events, ARM_BATCH, 0);
    uint64_t value;

    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr)
            take_signal(events[i].data.ptr);
        else if (read(fabric->wake, &value, sizeof(value)) < 0 && errno != EAGAIN)
            log_seldom(LOG_LEVEL_ERROR, "cannot read an event descriptor: %s", strerror(errno));
    }
}

static int arm_one(struct fabric_conn *conn)
{
    int error;

    if (conn->armed || has_failed(conn))
        return has_failed(conn) && !conn->told ? -EAGAIN : 0;
    error = ibv_req_notify_cq(conn->cq, 0);
    if (error)
        fail(conn, -error);
    conn->armed = true;
    return error ? -EAGAIN : 0;
}

int fabric_arm(struct fabric *fabric)
{
    int result = 0;

    take_signals(fabric);
    list_for_each (link, &fabric->started) {
        if (arm_one(container_of(link, struct fabric_conn, started)) < 0)
            result = -EAGAIN;
    }
    return result;
}

int fabric_completion_fd(const struct fabric *fabric)
{
    return fabric->completions;
}
