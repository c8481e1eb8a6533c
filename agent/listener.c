// accept(), until there is nothing more to accept.

#include "agent/listener.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/fd.h"
#include "core/log.h"

// Taken at one go, so that a crowd at the door does not keep the loop from those inside.
#define ACCEPTS_PER_TURN 32
#define REST_MS          200

static void on_readable(uv_poll_t *poll, int status, int events);

static void on_rested(uv_timer_t *timer)
{
    struct listener *listener = timer->data;

    uv_poll_start(&listener->poll, UV_READABLE, on_readable);
}

static void take_rest(struct listener *listener, int error)
{
    log_seldom(LOG_LEVEL_WARNING, "cannot accept a connection: %s; trying again in %d ms", strerror(error), REST_MS);
    uv_poll_stop(&listener->poll);
    uv_timer_start(&listener->rest, on_rested, REST_MS, 0);
}

// The next connection; or -1 with errno.
static int accept_next(const struct listener *listener)
{
    int fd;

    do
        fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    return fd;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct listener *listener = poll->data;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept_next(listener);
        if (fd >= 0) {
            listener->accepted(listener, fd);
        } else {
            if (errno != EAGAIN)
                take_rest(listener, errno);
            return;
        }
    }
}

int listener_start(struct listener *listener, uv_loop_t *loop, int fd, void (*accepted)(struct listener *, int),
                   void *data)
{
    int result = uv_poll_init(loop, &listener->poll, fd);

    if (result < 0) {
        fd_close(&fd);
        return result;
    }
    listener->fd = fd;
    listener->accepted = accepted;
    listener->data = data;
    listener->poll.data = listener->rest.data = listener;
    uv_timer_init(loop, &listener->rest);
    uv_poll_start(&listener->poll, UV_READABLE, on_readable);
    return 0;
}

void listener_stop(struct listener *listener)
{
    uv_close((uv_handle_t *)&listener->poll, NULL);
    uv_close((uv_handle_t *)&listener->rest, NULL);
    fd_close(&listener->fd);
}
