// The byte ring: one direction of a session, as one process sees it.
//
// A ring has one producing end and one consuming end, each of which may be several threads and processes. What an end
// trusts (its own cursor) lies in its end memory; ring_shared holds the publication of it for the other end.
//
//   producer                                     consumer
//   copy the bytes into free space               load tail (acquire): bytes before it are there
//   own tail: compare-and-swap                   copy the bytes out
//   publish tail (seq_cst)                       own head: compare-and-swap
//   rx_arm != rx_rung: ring the bell             publish head (seq_cst), an eighth of the ring at a time
//                                                tx_arm != tx_rung and a quarter free: ring the bell
//
// Dying. A process may be killed at any instruction. Until its compare-and-swap nothing has happened; after it, the
// next operation of any holder (or ring_*_republish) makes the publication true.
//
// Signals. A handler may use the socket that its thread was using: the interrupted operation finds its cursor moved,
// and does its copy again, behind the handler's.
//
// Several users of one end. Consumers need no lock: losers of the compare-and-swap copy again. Producers would write
// over each other's bytes: they hold end_shared.tx_lock, unless there is only one thread and no other process.
//
// Sleeping. A waiter raises its arm counter (seq_cst), looks at the other's cursor once more (seq_cst), and only then
// sleeps; the other publishes its cursor (seq_cst) and then looks at the arm counter (seq_cst). In the single order of
// these four at least one of the two sees the other: no sleeper is left behind. The bell is rung before rx_rung/tx_rung
// says so, so a ringer killed in between leaves a bell rung twice, never one not rung.
//
// Leaving. The producer freezes its cursor: a put that is under way fails its compare-and-swap, and says -ESTALE. What
// was produced before stays readable; left_at tells where it ends.
//
// Wakers see progress in steps. A producer waits for a quarter of the ring, a consumer publishes at the latest every
// eighth: a consumer that has read everything therefore always shows at least seven eighths free.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/layout.h"
#include "core/spans.h"

// Bytes published at a time: a larger copy is shown to the other end in steps, so that both work at once.
#define RING_STEP (64u << 10)

struct ring_tx {
    struct ring_shared *shared;
    _Atomic uint64_t *tail; // end_shared.tx_tail
    unsigned char *data;
    uint64_t size;              // a power of two
    _Atomic uint64_t head_seen; // the consumer's cursor when we last looked
    bool by_device;             // a device writes that cursor: see look_again in ring.c
};

struct ring_rx {
    struct ring_shared *shared;
    _Atomic uint64_t *head; // end_shared.rx_head
    const unsigned char *data;
    uint64_t size;
    _Atomic uint64_t tail_seen; // the producer's cursor when we last looked
    bool by_device;             // as above
};

// `data` is the ring's part of session memory, `size` bytes of it; cursor is this end's own, in end memory.
void ring_tx_init(struct ring_tx *ring, struct ring_shared *shared, _Atomic uint64_t *tail, void *data, uint64_t size);
void ring_rx_init(struct ring_rx *ring, struct ring_shared *shared, _Atomic uint64_t *head, const void *data,
                  uint64_t size);

// Copies in as much as fits, at most RING_STEP bytes, publishes it, and moves `from` on by that much. Does not ring.
// Returns bytes, 0 if there is no room, -EPROTO if the consumer's cursor is out of range, -ESTALE if the ring was left.
ssize_t ring_put(struct ring_tx *ring, struct spans *from);

// Free space, contiguous from the tail on, to be filled in place by the caller, who then calls ring_commit. At most
// RING_STEP bytes. Only one producer at a time, as above. Returns bytes at *place, 0 if there is no room, -EPROTO or
// -ESTALE.
ssize_t ring_reserve(struct ring_tx *ring, uint64_t *tail, void **place);

// Publishes `n` bytes that were put into the place that ring_reserve gave with `tail`. False if a signal handler has
// used the ring meanwhile, or it was left: the bytes are not in it, and are to be put again.
bool ring_commit(struct ring_tx *ring, uint64_t tail, size_t n);

// Bytes that may be produced now, -EPROTO, or -ESTALE.
int64_t ring_room(struct ring_tx *ring);

// Room at which a waiting producer is woken, and at which an end counts as writable.
static inline uint64_t ring_room_wanted(const struct ring_tx *ring)
{
    return ring->size / 4;
}

// Copies out as much as there is, at most RING_STEP bytes, and moves `to` on by that much; with `peek` the bytes stay.
// `skip` bytes are passed over first (for a peek that goes on; else 0). Does not ring.
// Returns bytes, 0 if there are none, -EPROTO if the producer's cursor is out of range, -ESTALE if the head is frozen.
ssize_t ring_get(struct ring_rx *ring, struct spans *to, uint64_t skip, bool peek);

// Bytes that lie contiguous at the head, at most RING_STEP, to be read in place; ring_consume takes them out.
// Returns bytes at *place, 0, or -EPROTO.
ssize_t ring_look(struct ring_rx *ring, uint64_t *head, const void **place);

// Takes out `n` bytes that ring_look gave with `head`. False if another consumer was faster; nothing is changed then.
bool ring_consume(struct ring_rx *ring, uint64_t head, size_t n);

// Bytes that may be consumed now, or -EPROTO. Looks at shared memory only if none were seen before.
int64_t ring_ready(struct ring_rx *ring);

// The same, after a fresh look at the producer's cursor.
int64_t ring_ready_fresh(struct ring_rx *ring);

// How far the consumer has shown that it has read, for a ring that was left at `tail`. 0 or -EPROTO.
int ring_tx_consumed(const struct ring_tx *ring, uint64_t tail, uint64_t *head);

// Bytes that were produced and are not known to have been consumed; at most a ring.
uint64_t ring_tx_unread(const struct ring_tx *ring);

// After ring_put, ring_commit: does the consumer sleep? If so ring its bell, then call ring_tx_rang with *arm.
bool ring_tx_wants_bell(const struct ring_tx *ring, uint32_t *arm);
void ring_tx_rang(struct ring_tx *ring, uint32_t arm);

// After ring_get, ring_consume: does the producer sleep, and is there now room for it? As above.
bool ring_rx_wants_bell(const struct ring_rx *ring, uint32_t *arm);
void ring_rx_rang(struct ring_rx *ring, uint32_t arm);

// Declares that this side is about to sleep. Look at the ring once more after it, before sleeping.
void ring_tx_arm(struct ring_tx *ring);
void ring_rx_arm(struct ring_rx *ring);

// True as long as no bell has been rung since the last arm: whoever sleeps will be woken.
bool ring_tx_armed(const struct ring_tx *ring);
bool ring_rx_armed(const struct ring_rx *ring);

// Ends the ring where it is: nothing can be produced any more. Whatever was, is published, and left_at says so. May be
// done again, by a holder that does not know how far a dead one came.
void ring_tx_leave(struct ring_tx *ring);

// Has the producer left, and everything been consumed? 1 if so, 0 if not, -EPROTO if it names an end that cannot be.
int ring_rx_left(const struct ring_rx *ring);

// In what way the producer is asked to leave, LEAVE_TAKEN or not. seq_cst: see preload/leave.h.
static inline uint32_t ring_leave_wish(const struct ring_shared *ring)
{
    return atomic_load_explicit(&ring->leave_wish, memory_order_seq_cst) & ~(uint32_t)LEAVE_TAKEN;
}

// Asks for it. Nothing that was asked for is taken back, and nothing is changed once the producer has begun. Returns
// whether the producer will leave in just that way.
bool ring_ask_to_leave(struct ring_shared *ring, uint32_t wish);

// The producer begins to leave, or had begun: from now on the wish stands. Returns it.
uint32_t ring_take_wish(struct ring_shared *ring);

// Nothing can be consumed any more, and how much has been is published. May be done again.
void ring_rx_freeze(struct ring_rx *ring);

// Makes the published cursor equal to the true one. Cheap if it is. Before sleeping, and after a holder died.
void ring_tx_republish(struct ring_tx *ring);
void ring_rx_republish(struct ring_rx *ring);
