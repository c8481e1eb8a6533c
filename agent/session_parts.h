// What session.c (sessions and their ends), session_far.c (ends on other hosts) and session_keep.c (sockets that are kept)
// share.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/session.h"

// An empty session of a transport, with nothing made yet; null without memory.
struct session *session_make(struct agent *agent, uint32_t transport);

// Makes the memory, the bell and the lifeline of an end on this host. Returns 0 or -errno.
int session_end_make(struct session_end *end);

void session_end_introduce(struct session_end *end, const struct session_half *half);

// Hands the end to a client. Returns 0 or -errno.
int session_end_attach(struct session_end *end, struct client *client, uint64_t token, int lifeline);

// The end goes over: nobody holds it.
void session_end_closed(struct session_end *end);

// Nobody holds the end who is known to, but its socket is held.
bool session_end_drifts(const struct session_end *end);

// WAY_*, as the end's memory says.
uint32_t session_end_tx_way(const struct session_end *end);

// Counts a session whose ends are introduced, and makes it known.
void session_enter(struct session *session);

// Undoes session_make and what was made since, before session_enter.
void session_abandon(struct session *session);

// Both ends are closed: ends and frees it, now or when nothing lingers.
void session_over(struct session *session);

// Ends and frees it.
void session_close(struct session *session);

enum wire_reason session_reason_of(int result);

// --- session_far.c ---

// Nobody holds this end any more, or it cannot be used: the other host is told.
void session_far_finish(struct session *session);

// When the agent ends: lets go without telling anybody.
void session_far_forget(struct session *session);
