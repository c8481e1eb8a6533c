// A listening Unix socket in the loop.
//
// When accepting fails for want of descriptors or memory, it rests for a while: the connection that cannot be taken
// stays in the queue and would otherwise wake the loop without end.
#pragma once

#include <uv.h>

struct listener {
    uv_poll_t poll;
    uv_timer_t rest;
    int fd;
    // Gets each new connection, which is then its own; non-blocking and close-on-exec.
    void (*accepted)(struct listener *listener, int fd);
    void *data; // the user's
};

// Takes the listening socket over in any case. Returns 0 or -errno; after a failure there is nothing to close.
int listener_start(struct listener *listener, uv_loop_t *loop, int fd, void (*accepted)(struct listener *, int),
                   void *data);

// Closes the socket. The loop must run once more before the memory may go.
void listener_stop(struct listener *listener);
