// Two sides of a fabric in one process, for tests: each with a fabric of its own, and a buffer that the other may write.
//
// Everything here gives up, and fails the test, after some seconds.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/address.h"
#include "agent/fabric.h"

#define BUFFER_SIZE 65536

#define EVENTS_MAX 64

struct side {
    const char *name;                       // "a" or "b", for messages
    struct side *other;                     // what happens there has to go on while this one waits
    struct fabric_event events[EVENTS_MAX]; // not asked for yet
    unsigned event_count;
    struct fabric *fabric;
    struct fabric_conn *conn;
    struct fabric_memory *target; // all of `buffer`, for the other to write
    struct fabric_memory *source; // all of `source_buffer`
    unsigned char *buffer;
    unsigned char *source_buffer;
};

struct pair {
    struct side a, b; // b listens, a connects
    struct address at;
};

// Where to listen: the address that the program was told, and another port each time.
struct address rig_address(void);
void rig_set_host(const char *host);

// Two fabrics, not connected; b listens. And the end of it.
void pair_open(struct pair *pair, const struct fabric_options *options);
void pair_close(struct pair *pair);

// The same without listening.
void pair_open_deaf(struct pair *pair, const struct fabric_options *options);

// Connects them, lets the data side begin, and registers the buffers.
void pair_connect(struct pair *pair);

// One connection more, from a to b.
void pair_connect_another(struct pair *pair, struct fabric_conn **a, struct fabric_conn **b);

void side_register(struct side *side);
void side_close(struct side *side);

// Waits for the next event, which must be of this type.
struct fabric_event side_event(struct side *side, enum fabric_event_type type);
struct fabric_event side_event_any(struct side *side);

// Takes an event if there is one now.
bool side_has_event(struct side *side, struct fabric_event *event);

// No event comes for some milliseconds.
void side_expect_no_event(struct side *side);

// Waits for the next completion, which must be of this type.
struct fabric_completion side_completion(struct side *side, enum fabric_completion_type type);
bool side_has_completion(struct side *side, struct fabric_completion *completion);

// A write of `size` bytes from `offset` of its source buffer to `offset` of the other's buffer, in one span, or in two,
// of which the first has `split` bytes. The cursor goes to the last 8 bytes of the other's buffer.
struct fabric_write rig_write(const struct side *from, const struct side *to, size_t offset, size_t size, size_t split,
                              uint64_t cursor);
uint64_t side_cursor(const struct side *side);

// Posts, however long there is no room.
void side_post(struct side *side, const struct fabric_write *write);
