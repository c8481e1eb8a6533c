// The seam between the agent and RDMA: reliable connections between hosts, memory that the far host may write, and
// posting. The agent sees no verbs but through this; fabric_verbs.c has them. (The tests have another one of it, over
// sockets, with faults to order. Which one is used is decided when the program is linked.)
//
// Two threads use it. The control thread opens, listens, connects, accepts, closes, and registers memory; it hears of
// all that by fabric_next_event. The data thread posts and polls, and arms the completions before it sleeps. A
// connection may be posted to from the moment it is ready until fabric_close of it was called; the data thread has
// let go of it before that.
//
// What is relied on, and no more: what is posted on one connection takes effect in its order; a cursor (8 bytes,
// aligned) appears whole. Nothing here blocks but registration, which takes as long as the pages take.
//
// Returns are 0 or -errno. A connection that failed in any way reports it once (FABRIC_GONE, and FABRIC_FAILED to the
// data thread), and every post to it is -EPIPE from then on.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/address.h"

struct fabric;        // the devices of this host
struct fabric_conn;   // a reliable connection to another host's agent: one queue pair
struct fabric_memory; // memory registered for one connection

// The most bytes of one span of a write. A device whose port takes less at a time is not used.
#define FABRIC_SPAN_MOST (64u << 10)

// The most bytes of a message (fabric_post_message), and of what both sides may say of themselves in connecting.
#define FABRIC_MESSAGE_MAX 512
#define FABRIC_PRIVATE_MAX 32

// --- the control thread ---

struct fabric_options {
    uint32_t queue_depth; // posts that may be under way on one connection; 0: 64
    uint32_t inline_most; // bytes sent inline at the most, where the device takes them; 0: 192
};

// Finds the devices. No device is no error: connecting then fails with -ENODEV, and one that appears is found later.
int fabric_open(struct fabric **fabric, const struct fabric_options *options);

// All connections must be closed.
void fabric_free(struct fabric *fabric);

// Listens at an address (port included) of an interface with RDMA, or at any (all zero). -EADDRINUSE, -ENODEV,
// -EADDRNOTAVAIL. Listening at several addresses is fine.
int fabric_listen(struct fabric *fabric, const struct address *at);

// Listens there no more. What has come in stays.
void fabric_unlisten(struct fabric *fabric, const struct address *at);

// Begins to connect; the outcome is an event. `from` (port ignored) is null for any. `data` is carried in the events of
// this connection. `private_data` reaches the other side with FABRIC_INCOMING.
int fabric_connect(struct fabric *fabric, const struct address *from, const struct address *to,
                   const void *private_data, size_t private_size, void *data, struct fabric_conn **conn);

// Answers FABRIC_INCOMING. After accepting, FABRIC_READY or FABRIC_GONE follows; if it cannot be accepted (-errno), it
// remains to be closed. After rejecting, the conn is freed.
int fabric_accept(struct fabric_conn *conn, void *data);
void fabric_reject(struct fabric_conn *conn);

// Ends and frees a connection, in whatever state, and drops what is under way. No event of it comes after this. The far
// host can reach nothing of its memory any more; what is still registered has to be unregistered all the same, now or
// later.
void fabric_close(struct fabric_conn *conn);

enum fabric_event_type {
    FABRIC_NOTHING,  // no event now
    FABRIC_INCOMING, // another host wants a connection: accept or reject it
    FABRIC_READY,    // may be posted to
    FABRIC_REFUSED,  // the other side rejected it, or nobody listens there
    FABRIC_GONE,     // it failed, or the other side closed it; `error` says why
    FABRIC_DEAF,     // the device of an address that was listened at is gone: it has to be listened at again
    FABRIC_DEVICES,  // devices came or went: what could not be listened at may be tried again
};

struct fabric_event {
    enum fabric_event_type type;
    struct fabric_conn *conn;
    void *data;                               // as given to fabric_connect or fabric_accept; null for FABRIC_INCOMING
    int error;                                // -errno for FABRIC_REFUSED, FABRIC_GONE
    struct address remote;                    // of FABRIC_INCOMING; the address of FABRIC_DEAF
    uint8_t private_data[FABRIC_PRIVATE_MAX]; // of FABRIC_INCOMING; zero behind private_size
    size_t private_size;
};

// A descriptor that is readable when fabric_next_event has something. Stays the fabric's.
int fabric_event_fd(const struct fabric *fabric);
void fabric_next_event(struct fabric *fabric, struct fabric_event *event);

// Registers memory for use with this connection only. With `remote_write`, the other side may write anywhere in it who
// knows the key; without, it is a source of writes only. The memory must stay mapped until it is unregistered or the
// connection is closed. The connection must have been ready. -ENOMEM also stands for a limit on locked memory.
int fabric_register(struct fabric_conn *conn, void *address, size_t size, bool remote_write,
                    struct fabric_memory **memory);
void fabric_unregister(struct fabric_memory *memory);

// What the other side must be told to write there.
uint32_t fabric_memory_key(const struct fabric_memory *memory);
uint64_t fabric_memory_address(const struct fabric_memory *memory);

// The device of a connection ("rxe0"), for people. Valid as long as the connection is.
const char *fabric_device_name(const struct fabric_conn *conn);

// A device as `rdmactl doctor` shows it.
struct fabric_device {
    char name[64];
    char state[32];      // "active", "down", ...
    char link[32];       // "ethernet", "infiniband"
    char addresses[256]; // of its ports, as far as there are any, separated by blanks
    uint32_t ports;
};

// Fills in at most `most`; returns how many there are, or -errno.
int fabric_list_devices(struct fabric *fabric, struct fabric_device *devices, unsigned most);

// --- the data thread ---

// From now on fabric_poll takes the completions of this connection, too; they carry `data`. The connection must have
// been ready; if it has failed meanwhile, FABRIC_FAILED is the first that comes.
void fabric_start(struct fabric_conn *conn, void *data);

// From now on it takes none of them any more. To be called before fabric_close of what was started.
void fabric_stop(struct fabric_conn *conn);

// One write of data and cursor: the spans go to their places, and then, in the same post, the 8 bytes of `cursor` go to
// `cursor_to`, with `immediate` telling the other side's data thread. Without spans, the cursor alone.
struct fabric_write {
    struct {
        const void *from; // in `memory`
        uint64_t to;      // address as the other side told it
        uint32_t size;    // at most FABRIC_SPAN_MOST
    } span[2];
    unsigned spans; // 0 to 2
    const struct fabric_memory *memory;
    uint32_t remote_key;
    uint64_t cursor;
    uint64_t cursor_to;
    uint32_t immediate;
};

// -EAGAIN: too much is under way; a FABRIC_ROOM completion will come. The bytes of spans must stay as they are until the
// other side is known to have them (not only until a completion). -EPIPE: the connection failed. -EINVAL: what cannot be.
int fabric_post_write(struct fabric_conn *conn, const struct fabric_write *write);

// A message to the other side's data thread, behind all writes posted before it. The bytes are copied. 1 to
// FABRIC_MESSAGE_MAX bytes. -EAGAIN and -EPIPE as above.
int fabric_post_message(struct fabric_conn *conn, const void *message, size_t size);

enum fabric_completion_type {
    FABRIC_WRITTEN, // the other side wrote: `immediate`
    FABRIC_MESSAGE, // a message came: `message`, `size`, valid until the next fabric_poll
    FABRIC_ROOM,    // posts are possible again after an -EAGAIN
    FABRIC_FAILED,  // the connection failed
};

struct fabric_completion {
    enum fabric_completion_type type;
    void *data; // as given to fabric_start
    uint32_t immediate;
    const void *message;
    size_t size;
};

// Takes at most `most` completions of all connections that were started. Returns how many. What was written or sent
// before a connection failed comes before its FABRIC_FAILED.
int fabric_poll(struct fabric *fabric, struct fabric_completion *completions, unsigned most);

// Before the data thread sleeps: from now on fabric_completion_fd becomes readable with the next completion. Poll once
// more after it: what was there already may have made no difference to the descriptor. Returns 0 or -EAGAIN if it is
// certain that there is something.
int fabric_arm(struct fabric *fabric);

// May be watched (level-triggered). Its readiness lasts until the next fabric_arm.
int fabric_completion_fd(const struct fabric *fabric);
