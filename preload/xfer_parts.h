// What xfer_recv.c, xfer_send.c and xfer_ready.c share.
#pragma once

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "preload/wait.h"
#include "preload/xfer.h"

// Outcomes of one step besides a number of bytes: 0 is end of stream.
#define NOTHING_YET (-EAGAIN)
#define CHANGED_WAY (-ESTALE) // the direction went over to TCP, or to a ring: begin the step again

// Of session_rx_enter and session_tx_enter, where the call does not go to the kernel.
ssize_t xfer_entry_result(int route);

// As many buffers as go into one call of the kernel, and a message of the first that are left.
#define XFER_PART 64
struct msghdr xfer_part_of(const struct spans *spans, struct iovec part[static XFER_PART]);

// As wait_ring, with the socket's own timeout, which begins with the first wait of a call. With a timeout, or a `part` of
// the bytes moved, any signal handler ends the call, as in the kernel.
int xfer_wait(struct sock *sock, int fd, enum wait_for what, uint64_t least, struct waiting *waiting, bool part);

// As wait_over, before the rest of the call goes to the kernel.
int xfer_wait_over(struct sock *sock, enum wait_for what, struct waiting *waiting, bool part);

void xfer_ring_peer_bell(struct sock *sock);

static inline ssize_t xfer_fail(int error)
{
    errno = error;
    return -1;
}

// For the counters in an end's memory, which are there to be read by people: returns the new count. Of two threads at once
// one may go uncounted.
static inline uint64_t xfer_count(_Atomic uint64_t *counter)
{
    uint64_t counted = atomic_load_explicit(counter, memory_order_relaxed) + 1;
    atomic_store_explicit(counter, counted, memory_order_relaxed);
    return counted;
}

static inline bool xfer_nonblocking(const struct sock *sock, int flags)
{
    return (flags & MSG_DONTWAIT) || atomic_load_explicit(&sock->share->nonblocking, memory_order_relaxed);
}

static inline bool xfer_broken(const struct sock *sock)
{
    return atomic_load_explicit(&sock->session.end->broken, memory_order_relaxed);
}

static inline bool xfer_receives_by_tcp(const struct sock *sock)
{
    return atomic_load_explicit(&sock->rx_way, memory_order_acquire) == WAY_TCP;
}

static inline bool xfer_sends_by_tcp(const struct sock *sock)
{
    return atomic_load_explicit(&sock->tx_way, memory_order_acquire) == WAY_TCP;
}
