// A connection's ring: how it is attached to the TCP stream, one direction at a time, and let go.
#pragma once

#include <stdbool.h>

#include "preload/sock.h"

static inline struct ring_shared *session_ring_out(const struct session *session)
{
    return &session->shared->ring[session->side];
}

static inline struct ring_shared *session_ring_in(const struct session *session)
{
    return &session->shared->ring[1 - session->side];
}

// Maps what the agent sent with ATTACH. Takes all of `fds`. Returns 0, or the reason why the socket stays TCP.
enum wire_reason session_map(struct sock *sock, const struct wire_attach *attach, int fds[static WIRE_ATTACH_FDS]);
void session_unmap(struct sock *sock);

// Reads from the kernel what of a socket's options a ring must honour.
void session_read_options(struct sock *sock, int fd);

// Called by a receiving (sending) call on a socket that is not yet in a ring in that direction; errno is kept.
// SESSION_KERNEL: the call goes to the kernel, and *_leave must follow with its result. SESSION_RING: the ring has it
// from now on. SESSION_FAILED: the connection was upgraded by another holder, whose session cannot be had; errno says.
int session_rx_enter(struct sock *sock, int fd);
int session_tx_enter(struct sock *sock, int fd);
enum { SESSION_FAILED = -1, SESSION_RING = 0, SESSION_KERNEL = 1 };

void session_rx_leave(struct sock *sock, ssize_t result);
void session_tx_leave(struct sock *sock, ssize_t result);

// A socket that came from elsewhere (exec, another process) may be in a ring already, as its first user in this process
// must know, be it one that only polls. Asks the agent, once.
void session_resolve(struct sock *sock, int fd);

// If another holder has upgraded the connection, this process takes part in the session too.
void session_follow(struct sock *sock, int fd);

// In WAY_WATCH: finds out whether the sender has switched, and whether all that it sent before was read. Returns how
// many bytes may be read from TCP now (SESSION_TCP_ALL while it has not switched), 0 once the direction is WAY_RING,
// or -errno. The caller holds end_shared.rx_lock.
int64_t session_rx_settle(struct sock *sock, int fd);
#define SESSION_TCP_ALL INT64_MAX

// Locks of the end, held across processes. False if another holds it (try), or it cannot be had.
bool session_lock(void *lock);
bool session_trylock(void *lock);
void session_unlock(void *lock);

// SO_KEEPALIVE as long as the ring is in use: without it a firewall may forget a TCP connection that carries nothing any
// more. The program does not see it. session_keepalive_get: true if `*value` is what it shall see.
bool session_keepalive_get(const struct sock *sock, int level, int option, int *value);
void session_keepalive_set(struct sock *sock, int fd, int level, int option, int value);

// The last descriptor of this process is about to be closed.
void session_last_close(struct sock *sock, int fd);

// The other end broke the ring protocol: this session is over, for both.
void session_broken(struct sock *sock);

// Wakes this end's own sleepers.
void session_ring_own_bell(struct sock *sock);

// Has the agent that made the session let go of it, or gone?
bool session_agent_is_gone(const struct sock *sock);

// The other end is on another host: the rings are the agent's, which moves the bytes, and must be told of everything else
// that is said in the header.
static inline bool session_is_far(const struct sock *sock)
{
    return sock->session.transport == TRANSPORT_RDMA;
}

void session_tell_agent(struct sock *sock);
