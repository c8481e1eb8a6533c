// The simulated fabric: agent/fabric.h over TCP sockets, for tests of two agents in two network namespaces.
//
// A thread of its own stands for the device. It takes posted frames to the other side when they are due, and carries out
// what arrives: writes go straight into registered memory, after the same checks as a device makes (the key is one of
// this connection's, everything lies inside), without the receiving agent taking part. Spans are read when they are
// sent, not when they are posted, as a device would.
//
//   fabric_sim.c   the functions of agent/fabric.h
//   sim_device.c   the thread: sockets, frames, memory
//   sim_orders.c   faults to order, over a socket named by RDMA_SIM_ORDERS
//
// One lock guards all of it.
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "agent/address.h"
#include "agent/fabric.h"
#include "agent/list.h"

// A frame: its head, and `size` bytes more. All numbers in network byte order.
//
//   CONNECT   private data
//   ACCEPT, READY, REJECT   nothing
//   WRITE     struct sim_write, spans of struct sim_span, the bytes of all spans
//   MESSAGE   the bytes
enum sim_frame { SIM_CONNECT = 1, SIM_ACCEPT, SIM_READY, SIM_REJECT, SIM_WRITE, SIM_MESSAGE };

struct sim_head {
    uint32_t size;
    uint8_t type;
    uint8_t torn; // of a write: only half of it takes place, then the connection fails
    uint8_t zero[2];
};

struct sim_write {
    uint64_t cursor;
    uint64_t cursor_to;
    uint32_t key;
    uint32_t immediate;
    uint32_t spans;
    uint32_t zero;
};

struct sim_span {
    uint64_t to;
    uint32_t size;
    uint32_t zero;
};

#define SIM_FRAME_MOST (130u << 20)

// Completions that may wait before a connection is read no further.
#define SIM_WAITING_MOST 1024

// Something that the device's epoll set watches.
struct sim_source {
    int fd;
    uint32_t events; // watched
    void (*ready)(struct fabric *fabric, struct sim_source *source, uint32_t events);
};

struct sim_listener {
    struct list link;
    struct address at;
    struct sim_source source;
};

// What is on its way to the other side.
struct sim_post {
    struct list link;
    uint64_t due_ns;
    enum sim_frame type;
    bool counted; // it takes room in the queue
    struct fabric_write write;
    size_t size;
    uint8_t bytes[FABRIC_MESSAGE_MAX];
};

enum sim_state {
    SIM_STATE_CONNECTING, // of ours: no answer yet
    SIM_STATE_STRANGE,    // theirs: has not said CONNECT
    SIM_STATE_INCOMING,   // theirs: waits to be accepted
    SIM_STATE_ACCEPTED,   // theirs: waits for READY
    SIM_STATE_READY,
    SIM_STATE_FAILED,
    SIM_STATE_CLOSED, // waits to be freed
};

struct fabric_conn {
    struct list link;
    struct sim_source source;
    struct fabric *fabric;
    enum sim_state state;
    void *data;
    bool started; // its completions are polled, with poll_data
    void *poll_data;
    struct list early; // completions that came before that
    struct address remote;
    bool connected; // the socket
    bool was_ready;
    int error; // with which it failed before it was accepted

    struct list memories;
    struct list posts;
    unsigned counted;
    bool wants_room;
    uint64_t last_due_ns;

    uint8_t *out; // the frame being sent
    size_t out_size, out_sent, out_most;
    bool out_counted;

    uint8_t *in; // what has come of the next frames
    size_t in_size, in_most;
    unsigned waiting; // completions not yet polled
};

struct fabric_memory {
    struct list link;
    struct fabric_conn *conn;
    uint8_t *bytes;
    size_t size;
    uint64_t address; // as the other side names it
    uint32_t key;
    bool remote_write;
};

struct sim_event {
    struct list link;
    struct fabric_event event;
};

struct sim_completion {
    struct list link;
    struct fabric_conn *conn;
    struct fabric_completion completion;
    uint8_t message[FABRIC_MESSAGE_MAX];
};

struct sim_faults {
    uint64_t delay_least_us, delay_most_us;
    uint64_t fail_in; // posts until one fails; 0: none does
    bool fail_late;   // after it took place, though
    uint64_t tear_in; // writes until one is torn
    bool refuse;      // connections, without asking anybody
    bool silent;      // nothing is sent or received
    bool absent;      // there is no device
    bool no_memory;   // registering fails
};

struct sim_counts {
    uint64_t writes, messages, bytes;
};

struct fabric {
    pthread_mutex_t lock;
    pthread_t thread;
    bool stopping;
    int epoll;
    int event_fd, completion_fd;
    struct sim_source wake, timer, orders;
    struct list listeners, conns, graves, order_givers;
    struct list events;
    struct list completions, polled;
    _Atomic unsigned waiting; // completions in the list: looked at without the lock
    bool armed;
    unsigned depth;
    struct sim_faults faults;
    struct sim_counts counts;
    uint64_t random;
};

// All of these want the lock held, but for the first two.

// Starts the device. Returns 0 or -errno.
int sim_device_start(struct fabric *fabric);
void sim_device_stop(struct fabric *fabric);

// Has the device's thread look at everything.
void sim_device_wake(struct fabric *fabric);

// Watches, or changes or ends (events 0) the watching.
void sim_watch(struct fabric *fabric, struct sim_source *source, uint32_t events);

struct fabric_conn *sim_conn_new(struct fabric *fabric, int fd, enum sim_state state);

// To be sent when its time has come. Never null.
struct sim_post *sim_post(struct fabric_conn *conn, enum sim_frame type);

// The connection failed; says so to whom it concerns.
void sim_conn_fail(struct fabric_conn *conn, int error);

// Closes the socket and drops everything; the memory goes in the device's next turn.
void sim_conn_bury(struct fabric_conn *conn);

void sim_conn_free(struct fabric_conn *conn);

void sim_tell(struct fabric_conn *conn, enum fabric_event_type type, int error);
void sim_complete(struct fabric_conn *conn, const struct fabric_completion *completion);

// To be polled now.
void sim_queue(struct fabric *fabric, struct sim_completion *completion);

// Those that wait to be polled.
void sim_drop_completions(struct fabric_conn *conn);

uint64_t sim_now_ns(void);
uint64_t sim_random(struct fabric *fabric);

// Listens for orders where RDMA_SIM_ORDERS says, if it is set. Returns 0 or -errno.
int sim_orders_start(struct fabric *fabric);
void sim_orders_stop(struct fabric *fabric);
