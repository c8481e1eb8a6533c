// What the files of a session share:
//
//   session.c            makes it, finds it, and clears up after it
//   session_end.c        one of its ends: memory, bell, and what the other end is told of it
//   session_lifeline.c   whether an end is still held
//   session_holders.c    the clients that hold an end
//   session_room.c       which sessions give up their memory for new ones
//   session_figures.c    what a session has carried
//   session_far.c        the end on another host
//   session_keep.c       sockets that are kept until the other host has all
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/session.h"

// --- session.c ---

// An empty session of a transport, with nothing made yet; null without memory.
struct session *session_make(struct agent *agent, uint32_t transport);

// Counts a session whose ends are introduced, and makes it known.
void session_enter(struct session *session);

// Undoes session_make and what was made since, before session_enter.
void session_abandon(struct session *session);

// Both ends are closed: ends and frees it, now or when nothing lingers.
void session_over(struct session *session);

// Ends and frees it.
void session_close(struct session *session);

enum wire_reason session_reason_of(int result);

// --- session_end.c ---

// An end with nothing made yet; and lets go of whatever it has.
void session_end_prepare(struct session_end *end, struct session *session, uint32_t side);
void session_end_deinit(struct session_end *end);

// Makes the memory, the bell and the lifeline of an end on this host. Returns 0 or -errno.
int session_end_make(struct session_end *end);

void session_end_introduce(struct session_end *end, const struct session_half *half);

// A copy of what the end's memory says; of nothing if it cannot be read.
void session_end_read(const struct session_end *end, struct end_shared *copy);

// WAY_*, as the end's memory says.
uint32_t session_end_tx_way(const struct session_end *end);

// Whether the end's memory says that it has left its session, in both directions. Only then can its socket be offered
// again: the first time that it is seen, the end is not found by its socket any more.
bool session_end_has_left(struct session_end *end);

// The other end, or the other host, is told that nobody holds this one, or that it cannot be used.
void session_end_tell_closed(struct session_end *end);
void session_end_take_back_closed(struct session_end *end);

// The end goes over: nobody holds it.
void session_end_closed(struct session_end *end);

// --- session_lifeline.c ---

// Makes the lifeline and watches it. Returns 0 or -errno.
int session_lifeline_make(struct session_end *end);

// Watches it again, after it was found closed. Returns 0 or -errno.
int session_lifeline_watch(struct session_end *end);

// One more copy of the lifeline's far end, of which the agent keeps none; or -errno. It is the caller's to close.
int session_lifeline_reopen(const struct session_end *end);

// Nobody holds the end who is known to, but its socket is held.
bool session_end_drifts(const struct session_end *end);

// --- session_holders.c ---

// Hands the end to a client. Returns 0 or -errno.
int session_end_attach(struct session_end *end, struct client *client, uint64_t token, int lifeline);

void session_holders_drop(struct session_end *end);

// --- session_room.c ---

// So many bytes more for a session of these users are above a limit: recalls sessions that are idle, for the next try.
void session_make_room(struct agent *agent, const struct user *a, const struct user *b, uint64_t bytes);

// --- session_far.c ---

// Nobody holds this end any more, or it cannot be used: the other host is told.
void session_far_finish(struct session *session);

// When the agent ends: lets go without telling anybody.
void session_far_forget(struct session *session);
