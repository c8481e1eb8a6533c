// Descriptors of clients in the loop: one epoll set, itself watched by the loop.
//
// libuv's own handles are not used for these, because libuv aborts the process when the kernel refuses one more watch,
// and how many there are is up to clients. Here that is an error of the one watch. There is also nothing to wait for
// before a watch may be freed.
#pragma once

#include <stdint.h>
#include <sys/epoll.h>
#include <uv.h>

#define WATCH_BATCH 64

struct watch {
    int fd; // -1 while not watched
    void (*ready)(struct watch *watch, uint32_t events);
};

struct watch_set {
    uv_poll_t poll;
    int epoll;
    int count; // of the events being dispatched
    struct epoll_event batch[WATCH_BATCH];
};

// Returns 0 or -errno.
int watch_set_init(struct watch_set *set, uv_loop_t *loop);

// All watches must be gone. The loop must run once more before the memory may go.
void watch_set_deinit(struct watch_set *set);

// Calls `ready` from the loop as long as there are such events (EPOLL*, level-triggered; EPOLLHUP and EPOLLERR always).
// Returns 0 or -errno; -ENOSPC if the user may not watch any more.
int watch_start(struct watch_set *set, struct watch *watch, int fd, uint32_t events,
                void (*ready)(struct watch *watch, uint32_t events));

// The watch must be started.
void watch_change(struct watch_set *set, struct watch *watch, uint32_t events);

// To be called before the descriptor is closed. Nothing is dispatched to this watch any more. Harmless when repeated.
void watch_stop(struct watch_set *set, struct watch *watch);
