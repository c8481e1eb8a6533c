// The data thread: moves the bytes of all sessions with other hosts.
//
// One thread, one loop: commands of the control thread, completions of the fabric, bells of sessions, the hot sessions.
// It spins as long as that has lately paid, then sleeps on all of them together.
//
// A session is hot while it has lately moved something: then its header is looked at in every turn. Otherwise it is
// cold: its cursors are armed (see core/ring.h), its bell stands in the thread's epoll set, and it costs nothing.
//
// The control thread speaks to it by a queue of commands, each carried out in order; it answers by a queue of events,
// handled in the control thread's loop. Nothing else is shared but figures, which are atomic. Neither ever waits for
// the other, but in data_thread_remove_link and data_thread_stop, which the data thread answers at once.
#pragma once

#include <stdint.h>
#include <uv.h>

#include "agent/link_wire.h"

struct data_thread;
struct data_link; // what the data thread knows of a link
struct fabric;
struct fabric_conn;
struct path;

// Sessions on one link: their numbers (path.number) are below this.
#define DATA_LINK_PATHS 65536

// What the control thread is told, in its own loop.
struct data_thread_events {
    // A message that is not of a session, in wire form decoded. `owner` is the link's.
    void (*received)(void *owner, const struct link_message *message);
    // The connection failed, or the peer broke the protocol (`why`, static). Nothing more comes of it.
    void (*failed)(void *owner, const char *why);
    // A path (a session's end) has something to say: bits of enum path_events. `owner` is the path's.
    void (*path)(void *owner, struct path *path, int what);
};

// `wake_ns` is what a thread takes to wake up on this host (agent/wakeup.h).
int data_thread_start(struct data_thread **thread, struct fabric *fabric, uv_loop_t *loop, uint32_t wake_ns,
                      const struct data_thread_events *events);

// All links must have been removed. Waits for the thread to end. The loop must run once more before it is closed.
void data_thread_stop(struct data_thread *thread);

// What each session may send per second, in bytes; 0 = unlimited.
void data_thread_set_rate(struct data_thread *thread, uint64_t bytes_per_s);

// The connection is ready: serves it from now on. Returns 0 or -ENOMEM.
int data_thread_add_link(struct data_thread *thread, struct fabric_conn *conn, void *owner, struct data_link **link);

// When this returns, the data thread touches neither the connection nor any path of it any more, and no event of it
// comes after. Waits for the thread, which answers at once.
void data_thread_remove_link(struct data_thread *thread, struct data_link *link);

// Posts a message behind all that was posted before.
void data_thread_send(struct data_thread *thread, struct data_link *link, const struct link_message *message);

// Takes over a path, fit for path_init; its number must be free on the link. It stays the owner's memory, and must stay
// until PATH_OVER or data_thread_remove_link. Returns 0 or -errno.
int data_thread_add_path(struct data_thread *thread, struct data_link *link, struct path *path);

// The other end is at `place`, and called `remote` there.
void data_thread_connect_path(struct data_thread *thread, struct path *path, const struct link_place *place,
                              uint32_t remote);

// Nobody holds the end any more: what was produced is sent, then PATH_OVER follows, at once if it was never connected.
void data_thread_finish_path(struct data_thread *thread, struct path *path);

// Bytes of sessions through this link since it was added.
void data_link_read_bytes(const struct data_link *link, uint64_t *tx_bytes, uint64_t *rx_bytes);
