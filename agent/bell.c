// An epoll set with one or two eventfds in it.

#include "agent/bell.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "agent/fd.h"
#include "core/log.h"

void bell_init(struct bell *bell)
{
    bell->sleep = bell->rope = bell->agent = -1;
}

void bell_deinit(struct bell *bell)
{
    fd_close(&bell->sleep);
    fd_close(&bell->rope);
    fd_close(&bell->agent);
}

static int make_rope(const struct bell *bell, int *rope)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};

    if (*rope < 0)
        *rope = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (*rope < 0)
        return -errno;
    return epoll_ctl(bell->sleep, EPOLL_CTL_ADD, *rope, &event) < 0 && errno != EEXIST ? -errno : 0;
}

int bell_make(struct bell *bell)
{
    bell->sleep = epoll_create1(EPOLL_CLOEXEC);
    return bell->sleep < 0 ? -errno : make_rope(bell, &bell->rope);
}

void bell_ring(struct bell *bell)
{
    static const uint64_t one = 1;
    int result = make_rope(bell, &bell->agent);

    // A full counter has the same effect as one that is raised.
    if (result == 0 && write(bell->agent, &one, sizeof(one)) < 0 && errno != EAGAIN)
        result = -errno;
    if (result < 0)
        log_seldom(LOG_LEVEL_WARNING, "cannot ring a bell: %s", strerror(-result));
}
