// What the files of fabric_verbs share: the structures behind agent/fabric.h, over libibverbs and librdmacm.
//
// fabric_verbs.c          devices as a whole, listening, connecting, events         the control thread
// fabric_verbs_conn.c     what a connection consists of, and registered memory      the control thread
// fabric_verbs_data.c     posting and polling                                       the data thread
// fabric_verbs_devices.c  the devices of this host, for people, and their changes   the control thread
//
// A connection is one reliable queue pair with a protection domain, a completion queue and a completion channel of its
// own: a key is good on its connection only, and taking one connection apart concerns no other. There are as many as
// there are peer hosts, so looking at each queue costs little.
//
// The two threads share of a connection only `error`. Which of the other fields is whose is said below; what both read
// does not change from fabric_start to fabric_stop.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>

#include "agent/fabric.h"
#include "agent/list.h"

struct fabric {
    struct fabric_options options;

    // The control thread's.
    struct rdma_event_channel *channel; // null as long as the host has no RDMA
    int events;                         // an epoll set of the channel, `notices`, and `news`
    int news;                           // socket on which the kernel tells of devices; -1: it does not
    bool devices_changed;
    struct ibv_context *removed; // a device that was taken away and is to be let go of
    struct list conns;
    struct list listeners;

    int notices; // eventfd: the data thread found that a connection failed
    int wake;    // eventfd: the control thread did

    // The data thread's.
    int completions; // an epoll set of the completion channels and `wake`
    struct list started;
};

enum conn_state {
    CONN_CONNECTING,
    CONN_INCOMING, // nobody has answered yet
    CONN_ACCEPTED,
    CONN_READY,
    CONN_OVER, // FABRIC_GONE or FABRIC_REFUSED was reported
};

struct fabric_conn {
    struct fabric *fabric;
    struct rdma_cm_id *id;
    _Atomic int error; // -errno once it has failed, set by either thread, never cleared

    // The control thread's.
    struct list link;
    enum conn_state state;
    void *data;
    struct list memories;
    uint8_t private_data[FABRIC_PRIVATE_MAX]; // to be sent with the request
    uint8_t private_size;

    // What it consists of, from conn_open_queue to conn_close_queue.
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    struct ibv_mr *slots_mr;
    unsigned char *slots; // FABRIC_MESSAGE_MAX bytes each: those to receive into, then those to send from
    struct ibv_recv_wr *receives;
    struct ibv_sge *receive_sges;
    uint32_t depth;       // posts
    uint32_t receivable;  // receives
    uint32_t inline_most; // what the device takes

    // The data thread's.
    struct list started;
    void *tag;                 // fabric_start's `data`
    uint64_t posted;           // posts so far
    uint64_t signalled;        // the last of them whose completion will be seen
    uint64_t completed;        // the last of them whose completion was seen
    bool wants_room;           // somebody was told -EAGAIN
    bool told;                 // FABRIC_FAILED was
    bool armed;                // the channel will say when the next completion comes
    struct ibv_recv_wr *spent; // receives to be posted again, chained; null: none
    struct ibv_recv_wr **spent_end;
};

struct fabric_memory {
    struct list link;  // in its connection's
    struct ibv_mr *mr; // null once the connection is closed
    uint32_t remote_key;
    uint32_t local_key;
    uint64_t address;
};

// Makes the queue pair and all that belongs to it, for an id that has its device. Returns 0 or -errno.
int conn_open_queue(struct fabric_conn *conn);

// Takes it all apart, as far as it is there, and ends the registrations.
void conn_close_queue(struct fabric_conn *conn);

// Marks a connection as failed, unless it is. Returns whether it was not.
bool conn_fail(struct fabric_conn *conn, int error);

// Opens the socket on which the kernel tells of new devices. Returns it, or -errno.
int devices_watch(void);

// Reads all that the kernel had to tell. Returns whether RDMA devices came or went.
bool devices_changed(int news);

// Lets the kernel have a device back that it wants to remove, when nothing uses it any more.
void devices_release(struct ibv_context *device);

// Whether this host has any RDMA device now.
bool devices_exist(void);
