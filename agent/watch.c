// A set within the loop's set.

#include "agent/watch.h"

#include <errno.h>

#include "agent/fd.h"

static void dispatch(uv_poll_t *poll, int status, int events)
{
    struct watch_set *set = poll->data;
    int count = epoll_wait(set->epoll, set->batch, WATCH_BATCH, 0);

    set->count = count > 0 ? count : 0;
    for (int i = 0; i < set->count; i++) {
        // Null: stopped by one that came before it.
        struct watch *watch = set->batch[i].data.ptr;
        if (watch)
            watch->ready(watch, set->batch[i].events);
    }
    set->count = 0;
}

int watch_set_init(struct watch_set *set, uv_loop_t *loop)
{
    int result;

    set->count = 0;
    set->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (set->epoll < 0)
        return -errno;
    result = uv_poll_init(loop, &set->poll, set->epoll);
    if (result < 0) {
        fd_close(&set->epoll);
        return result;
    }
    set->poll.data = set;
    uv_poll_start(&set->poll, UV_READABLE, dispatch);
    return 0;
}

void watch_set_deinit(struct watch_set *set)
{
    uv_close((uv_handle_t *)&set->poll, NULL);
    fd_close(&set->epoll);
}

int watch_start(struct watch_set *set, struct watch *watch, int fd, uint32_t events,
                void (*ready)(struct watch *watch, uint32_t events))
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    watch->fd = -1;
    watch->ready = ready;
    if (epoll_ctl(set->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return -errno;
    watch->fd = fd;
    return 0;
}

void watch_change(struct watch_set *set, struct watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    epoll_ctl(set->epoll, EPOLL_CTL_MOD, watch->fd, &event);
}

void watch_stop(struct watch_set *set, struct watch *watch)
{
    if (watch->fd < 0)
        return;
    epoll_ctl(set->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->fd = -1;
    for (int i = 0; i < set->count; i++) {
        if (set->batch[i].data.ptr == watch)
            set->batch[i].data.ptr = NULL;
    }
}
