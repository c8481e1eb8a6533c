// The data thread's inside, which data_thread.c (the side of the control thread) and data_loop.c (the loop) share.
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "agent/data_thread.h"
#include "agent/fabric.h"
#include "agent/list.h"
#include "agent/path.h"
#include "agent/spin.h"

enum path_wishes { WISH_ADD = 1, WISH_CONNECT = 2, WISH_FINISH = 4 };

enum data_command_type { COMMAND_ADD_LINK, COMMAND_REMOVE_LINK, COMMAND_SEND, COMMAND_GIVE_UP };

struct data_command {
    struct list queue;
    enum data_command_type type;
    struct data_link *link;
    size_t size; // of a message, in wire form
    uint8_t wire[FABRIC_MESSAGE_MAX];
};

// Something for the control thread, but for what paths have to say.
struct data_event {
    struct list queue;
    struct data_link *link;
    const char *why; // the link failed; null: a message came
    struct link_message message;
};

struct data_link {
    void *owner;
    struct fabric_conn *conn;
    struct path **paths; // by number
    struct list members; // of struct path
    struct list queue;   // of struct data_command: messages that wait for room
    unsigned queued;
    bool stuck;                // posts fail with -EAGAIN until there is room
    bool failed;               // nothing is done for it any more
    struct data_event failure; // needs no memory then
    _Atomic unsigned events;   // of it in data_thread.events
    bool removed;              // the data thread has let go of it; under the lock
    _Atomic uint64_t tx_bytes, rx_bytes;
    struct data_command giving_up; // the control thread's, for want of memory: a message is lost
    bool given_up;
};

struct data_thread {
    // The data thread's own.
    struct fabric *fabric;
    struct list hot; // of struct path
    unsigned hot_count;
    struct spin spin;
    uint32_t wake_ns; // as measured before
    unsigned turn;
    bool slept; // in the idle time that is not over
    int epoll;

    // Between the two.
    pthread_mutex_t lock;
    pthread_cond_t removed;
    struct list commands;
    struct list wishes; // of struct path
    struct list events;
    struct list path_events;  // of struct path
    _Atomic uint32_t pending; // commands or wishes
    _Atomic uint32_t asleep;
    _Atomic uint32_t stopping;
    _Atomic uint64_t rate;
    int knock; // eventfd: wakes the data thread

    // The control thread's.
    pthread_t thread;
    uv_async_t async;
    const struct data_thread_events *callbacks;
};

// The thread's function.
void *data_loop_run(void *data_thread);
