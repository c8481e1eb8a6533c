// What the tests of the ring share: a ring between forbidden pages, dice that can be cast again, and bytes that tell
// where in the stream they belong.
//
// Everything lies in one shared mapping, which forked processes inherit.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/layout.h"
#include "core/ring.h"

// As far as cursors ever come: half of what there is below RING_FROZEN.
#define CURSOR_LATE (1ull << 62)

// One direction: what the two ends share, what each has for itself, and the data, a forbidden page on either side of
// each of them.
struct rig {
    struct ring_shared *shared;
    struct end_shared *sender;
    struct end_shared *receiver;
    unsigned char *data;
    uint64_t size;
    uint64_t start; // all cursors begin here
    unsigned char *mapping;
    size_t mapped;
};

void rig_make(struct rig *rig, uint64_t size, uint64_t start);
void rig_free(struct rig *rig);

// The ring as a process sees it that has just mapped it.
struct ring_tx rig_tx(const struct rig *rig);
struct ring_rx rig_rx(const struct rig *rig);

// ring_get into one buffer, of whole words; if not `alone`, others may consume at the same time. Then one who loses
// against another may have read what a producer was already writing: that is void, and a race that the thread sanitizer
// need not know of, so under it the bytes are taken out by ring_look and ring_consume, and read behind its back.
ssize_t rig_get(struct ring_rx *ring, void *to, size_t n, bool alone);

// Shared, zeroed memory, that forked processes inherit.
void *rig_memory(size_t size);

// Ends the program: threads and forked processes cannot fail a cmocka test.
void rig_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

uint64_t rig_now(void); // ns

// How long a test may be: the value of the environment variable RING_SCALE in percent, of `amount`. A thread sanitizer
// makes everything about ten times slower: there it is a tenth.
uint64_t rig_scaled(uint64_t amount);

struct dice {
    uint64_t state;
};

// Seeded by the environment variable RING_SEED, or else at random. Prints the seed with `name`.
struct dice dice_make(const char *name);

// Dice of their own for each of several threads or processes.
struct dice dice_split(struct dice *dice);

uint64_t dice_cast(struct dice *dice);
uint64_t dice_below(struct dice *dice, uint64_t limit); // 0 .. limit - 1

// 1 .. most; small and large ones alike.
size_t dice_size(struct dice *dice, size_t most);

// The stream: any 8 bytes at a position divisible by 8 tell which position that is.
void stream_fill(void *place, uint64_t position, size_t n);
uint64_t stream_position(const void *place); // of the 8 bytes there; divided by 8 only modulo 2^61

// The number of bytes at `place` that are as they should be from `position` on: n if all are.
size_t stream_check(const void *place, uint64_t position, size_t n);
