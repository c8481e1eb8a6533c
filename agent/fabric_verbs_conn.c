// What a connection consists of: a queue pair and its surroundings, and the memory registered for it.

#include "agent/fabric_verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "core/log.h"

// Spans, and the cursor.
#define REQUESTS_PER_POST 3

// Receives for each post that the other side may have under way: then it seldom finds none, though they are given back
// only when the data thread comes by.
#define RECEIVES_PER_POST 4

bool conn_fail(struct fabric_conn *conn, int error)
{
    int none = 0;

    return atomic_compare_exchange_strong(&conn->error, &none, error);
}

// Locked memory.

static void say_memlock(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        log_seldom(LOG_LEVEL_WARNING, "cannot register memory with the RDMA device: there is not enough of it");
    else
        log_seldom(LOG_LEVEL_WARNING,
                   "cannot register memory with the RDMA device: this process may lock %llu KiB; raise the limit "
                   "(LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited)",
                   (unsigned long long)limit.rlim_cur / 1024);
}

// The error of a call that makes something, which the kernel charges against the limit on locked memory.
static int making_error(void)
{
    int error = errno ? -errno : -EIO;

    if (error == -ENOMEM)
        say_memlock();
    return error;
}

// The parts, each made and unmade by a pair of functions.

static int open_channel(struct fabric_conn *conn)
{
    int error;

    errno = 0;
    conn->channel = ibv_create_comp_channel(conn->id->verbs);
    if (!conn->channel)
        return making_error();
    if (fcntl(conn->channel->fd, F_SETFL, fcntl(conn->channel->fd, F_GETFL) | O_NONBLOCK) == 0)
        return 0;
    error = -errno;
    ibv_destroy_comp_channel(conn->channel);
    conn->channel = NULL;
    return error;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

// Fits the wishes to what the device can.
static void fit(struct fabric_conn *conn, const struct ibv_device_attr *device)
{
    uint32_t requests = (uint32_t)device->max_qp_wr, entries = (uint32_t)device->max_cqe;

    conn->depth = least(conn->fabric->options.queue_depth, requests / REQUESTS_PER_POST);
    conn->receivable = least(conn->depth * RECEIVES_PER_POST, requests);
    if (conn->depth * REQUESTS_PER_POST + conn->receivable > entries) {
        conn->depth = entries / (REQUESTS_PER_POST + RECEIVES_PER_POST);
        conn->receivable = conn->depth * RECEIVES_PER_POST;
    }
}

// When a queue pair fails, each of its requests has a completion, signalled or not.
static int open_cq(struct fabric_conn *conn)
{
    uint32_t entries = conn->depth * REQUESTS_PER_POST + conn->receivable;

    errno = 0;
    conn->cq = ibv_create_cq(conn->id->verbs, (int)entries, conn, conn->channel, 0);
    return conn->cq ? 0 : making_error();
}

static int try_qp(struct fabric_conn *conn, uint32_t inline_most)
{
    struct ibv_qp_init_attr wanted = {
        .qp_type = IBV_QPT_RC,
        .send_cq = conn->cq,
        .recv_cq = conn->cq,
        .cap =
            {
                .max_send_wr = conn->depth * REQUESTS_PER_POST,
                .max_recv_wr = conn->receivable,
                .max_send_sge = 1,
                .max_recv_sge = 1,
                .max_inline_data = inline_most,
            },
    };

    errno = 0;
    if (rdma_create_qp(conn->id, conn->pd, &wanted) < 0)
        return -errno;
    conn->qp = conn->id->qp;
    conn->inline_most = wanted.cap.max_inline_data < inline_most ? wanted.cap.max_inline_data : inline_most;
    return 0;
}

// What can be sent inline at the most is not known but by trying.
static int open_qp(struct fabric_conn *conn)
{
    uint32_t inline_most = conn->fabric->options.inline_most;
    int result = try_qp(conn, inline_most);

    while (result < 0 && result != -ENOMEM && inline_most > 0) {
        inline_most /= 2;
        result = try_qp(conn, inline_most);
    }
    if (result == -ENOMEM)
        say_memlock();
    return result;
}

static void close_qp(struct fabric_conn *conn)
{
    rdma_destroy_qp(conn->id);
    conn->qp = NULL;
}

static int open_slots(struct fabric_conn *conn)
{
    size_t size = (size_t)(conn->receivable + conn->depth) * FABRIC_MESSAGE_MAX;

    conn->receives = calloc(conn->receivable, sizeof(*conn->receives));
    conn->receive_sges = calloc(conn->receivable, sizeof(*conn->receive_sges));
    conn->slots = aligned_alloc(FABRIC_MESSAGE_MAX, size);
    if (!conn->receives || !conn->receive_sges || !conn->slots)
        return -ENOMEM;
    errno = 0;
    conn->slots_mr = ibv_reg_mr(conn->pd, conn->slots, size, IBV_ACCESS_LOCAL_WRITE);
    return conn->slots_mr ? 0 : making_error();
}

static void close_slots(struct fabric_conn *conn)
{
    if (conn->slots_mr)
        ibv_dereg_mr(conn->slots_mr);
    free(conn->slots);
    free(conn->receive_sges);
    free(conn->receives);
    conn->slots_mr = NULL;
    conn->slots = NULL;
    conn->receive_sges = NULL;
    conn->receives = NULL;
}

static int post_receives(struct fabric_conn *conn)
{
    struct ibv_recv_wr *bad;

    for (uint32_t i = 0; i < conn->receivable; i++) {
        conn->receive_sges[i] = (struct ibv_sge){
            .addr = (uintptr_t)(conn->slots + (size_t)i * FABRIC_MESSAGE_MAX),
            .length = FABRIC_MESSAGE_MAX,
            .lkey = conn->slots_mr->lkey,
        };
        conn->receives[i] = (struct ibv_recv_wr){
            .wr_id = i,
            .next = i + 1 < conn->receivable ? &conn->receives[i + 1] : NULL,
            .sg_list = &conn->receive_sges[i],
            .num_sge = 1,
        };
    }
    return -ibv_post_recv(conn->qp, conn->receives, &bad);
}

static int check_port(const struct fabric_conn *conn)
{
    struct ibv_port_attr port;
    int error = ibv_query_port(conn->id->verbs, conn->id->port_num, &port);

    if (error)
        return -error;
    return port.max_msg_sz < FABRIC_SPAN_MOST ? -EMSGSIZE : 0;
}

static int open_pd(struct fabric_conn *conn)
{
    struct ibv_device_attr device;
    int error = ibv_query_device(conn->id->verbs, &device);
    int result = error ? -error : check_port(conn);

    if (result < 0)
        return result;
    fit(conn, &device);
    errno = 0;
    conn->pd = ibv_alloc_pd(conn->id->verbs);
    return conn->pd ? 0 : making_error();
}

int conn_open_queue(struct fabric_conn *conn)
{
    int result = open_pd(conn);

    if (result == 0)
        result = open_channel(conn);
    if (result == 0)
        result = open_cq(conn);
    if (result == 0)
        result = open_slots(conn);
    if (result == 0)
        result = open_qp(conn);
    if (result == 0)
        result = post_receives(conn);
    if (result < 0)
        conn_close_queue(conn);
    return result;
}

static void close_memory(struct fabric_memory *memory)
{
    if (memory->mr)
        ibv_dereg_mr(memory->mr);
    memory->mr = NULL;
    list_remove(&memory->link);
}

void conn_close_queue(struct fabric_conn *conn)
{
    // The queue pair first: nobody writes to memory any more when it is gone.
    if (conn->qp)
        close_qp(conn);
    list_for_each (link, &conn->memories)
        close_memory(container_of(link, struct fabric_memory, link));
    close_slots(conn);
    if (conn->cq)
        ibv_destroy_cq(conn->cq);
    conn->cq = NULL;
    if (conn->channel)
        ibv_destroy_comp_channel(conn->channel);
    conn->channel = NULL;
    if (conn->pd)
        ibv_dealloc_pd(conn->pd);
    conn->pd = NULL;
}

// Registered memory.

int fabric_register(struct fabric_conn *conn, void *address, size_t size, bool remote_write,
                    struct fabric_memory **memory_result)
{
    // Local writing is what remote writing presupposes.
    int access = remote_write ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE : 0;
    struct fabric_memory *memory;
    int error;

    if (!conn->pd)
        return -EPIPE;
    memory = calloc(1, sizeof(*memory));
    if (!memory)
        return -ENOMEM;
    errno = 0;
    memory->mr = ibv_reg_mr(conn->pd, address, size, access);
    if (!memory->mr) {
        error = making_error();
        free(memory);
        return error;
    }
    memory->remote_key = memory->mr->rkey;
    memory->local_key = memory->mr->lkey;
    memory->address = (uintptr_t)address;
    list_append(&conn->memories, &memory->link);
    *memory_result = memory;
    return 0;
}

void fabric_unregister(struct fabric_memory *memory)
{
    close_memory(memory);
    free(memory);
}

uint32_t fabric_memory_key(const struct fabric_memory *memory)
{
    return memory->remote_key;
}

uint64_t fabric_memory_address(const struct fabric_memory *memory)
{
    return memory->address;
}

const char *fabric_device_name(const struct fabric_conn *conn)
{
    return conn->id->verbs ? ibv_get_device_name(conn->id->verbs->device) : "";
}
