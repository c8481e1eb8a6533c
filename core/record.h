// What stands in a TCP stream where a ring was left that the other end cannot read any more: the bytes that follow are
// the ring's, sent once more, from this byte of it on.
//
//   mark     16 bytes that both ends have from their agents, and nobody else knows
//   from     8 bytes, the least significant first: the ring's byte with which the repetition begins
//   until    8 bytes: the ring's end; what follows it was never in the ring
//
// It can stand only at the one place of the stream where the ring begins (ring_shared.switch_at).
#pragma once

#include <stddef.h>
#include <stdint.h>

#define RECORD_MARK  16
#define RECORD_BYTES 32

struct record {
    uint8_t mark[RECORD_MARK];
    uint64_t from, until;
};

void record_write(const struct record *record, uint8_t to[static RECORD_BYTES]);

// Reads what stands there, of which `size` bytes have come. RECORD_WHOLE fills in the record. RECORD_PART: it may become
// one. RECORD_NOT: it is something else.
enum { RECORD_NOT = 0, RECORD_PART = 1, RECORD_WHOLE = 2 };
int record_read(struct record *record, const uint8_t mark[static RECORD_MARK], const uint8_t *from, size_t size);
