// The way of a byte: sending into a ring, and receiving from one.
//
// These are the bodies of send and recv, in all their variants, for a direction that has left TCP. They return what
// the call returns, and set errno.
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "core/spans.h"
#include "preload/sock.h"

ssize_t xfer_send(struct sock *sock, int fd, struct spans from, int flags);
ssize_t xfer_recv(struct sock *sock, int fd, struct spans to, int flags);

// What poll would report of the ring and, where it matters, of the TCP connection, of the events in `wanted` and of
// those that are always reported.
short xfer_events(struct sock *sock, int fd, short wanted);

// Bytes that may be read without blocking (FIONREAD), or -errno.
int64_t xfer_readable(struct sock *sock, int fd);

// Bytes that were sent and are not known to have been received (SIOCOUTQ); fewer than an eighth of the ring count as 0.
int64_t xfer_unread(struct sock *sock);

// Produces in place, for sendfile and splice: `fill` puts up to `size` bytes at `place` and returns how many, 0 at the
// end of its source, or -errno. One step; blocks for room as a send would. Returns bytes, 0, -1 with errno, or
// XFER_ASK_KERNEL: the other end no longer reads, and the real call has the right answer.
#define XFER_ASK_KERNEL (-2)
// ... or XFER_BY_TCP: the direction has gone back to TCP, and the call is to be begun again.
#define XFER_BY_TCP (-3)
ssize_t xfer_fill(struct sock *sock, int fd, int flags, size_t most,
                  ssize_t (*fill)(void *source, void *place, size_t size), void *source);

// Consumes in place, for splice: `drain` takes up to `size` bytes and returns how many, or -errno. As above.
ssize_t xfer_drain(struct sock *sock, int fd, int flags, size_t most,
                   ssize_t (*drain)(void *sink, const void *place, size_t size), void *sink);
