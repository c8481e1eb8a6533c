// This process's connection to the agent of its host: offers go out, sessions come in.
//
// Nothing here ever waits for the agent (but for adoption, for a second at the most), and nothing here is ever reported
// to the program: without an agent, connections are TCP.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/wire.h"

struct sock;

void agent_link_init(void);
void agent_link_forked(void);
bool agent_link_moved(int from, int to);

// At each data call on a socket in TCP mode: counts it, takes in what the agent has sent, and offers the socket to the
// agent when the policy's threshold is reached. errno is kept.
void agent_link_visit(struct sock *sock, int fd);

// Now and then, where a call is about to wait anyway: is the agent still there, or another one? Sessions that an agent
// before it made are left, so that the new one can make theirs.
void agent_link_look(void);

// Where a call sleeps until `deadline` (ns of CLOCK_MONOTONIC, 0: for ever): until when it may sleep before it is to look
// for the agent again. An agent that is dead wakes who sleeps; one that hangs does not.
uint64_t agent_link_sleep_until(uint64_t deadline);

// A process that accepts connections will need the policy, and its children inherit it.
void agent_link_expect(void);

// Asks the agent for the session that another holder of this socket has made, and waits for the answer.
bool agent_link_adopt(struct sock *sock, int fd);

// The socket's session is over at this end: tells the agent, and lets the socket wait before it is offered again.
void agent_link_left(struct sock *sock);

// The sending direction is at its end: hands the socket to the agent that made its session (WIRE_KEEP_*). False if that
// is not possible.
bool agent_link_keep(struct sock *sock, int fd, uint32_t flags);

// The socket was closed, or will not be upgraded any more: the offer that may be out is void.
void agent_link_withdraw(struct sock *sock, enum wire_reason reason);

// Counts, for the agent's statistics, why something stays TCP.
void agent_link_count(enum wire_reason reason);

// How long it takes on this host to wake a sleeping thread, as the agent measured; 0 if that is not known.
uint32_t agent_link_wake_ns(void);

// Holds the caller up as the agent's rate limit demands, before it sends `size` bytes.
void agent_link_pace(struct sock *sock, size_t size);
