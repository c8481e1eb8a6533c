#include "core/ring.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"

void ring_tx_init(struct ring_tx *ring, struct ring_shared *shared, _Atomic uint64_t *tail, void *data, uint64_t size)
{
    *ring = (struct ring_tx){.shared = shared, .tail = tail, .data = (unsigned char *)data, .size = size};
    ring->head_seen = atomic_load_explicit(tail, memory_order_relaxed) - size; // no room was seen yet
}

void ring_rx_init(struct ring_rx *ring, struct ring_shared *shared, _Atomic uint64_t *head, const void *data,
                  uint64_t size)
{
    *ring = (struct ring_rx){.shared = shared, .head = head, .data = (const unsigned char *)data, .size = size};
    ring->tail_seen = atomic_load_explicit(head, memory_order_relaxed); // no bytes were seen yet
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

// Shows the other end how far `own` is. Others of this end, or a signal handler, may do the same at the same time, and
// be further: the publication never goes back, since the other end would take that for a breach of the protocol. Who
// finds it done already may go: whoever did it looks at the arm counter after it.
static void publish(_Atomic uint64_t *shown, const _Atomic uint64_t *own)
{
    uint64_t before = atomic_load_explicit(shown, memory_order_relaxed);
    for (;;) {
        uint64_t now = atomic_load_explicit(own, memory_order_acquire) & ~RING_FROZEN;
        if ((int64_t)(now - before) <= 0)
            return;
        if (atomic_compare_exchange_strong_explicit(shown, &before, now, memory_order_seq_cst, memory_order_relaxed))
            return;
    }
}

// A device writes the cursors of an end whose other end is on another host, and not always at a stroke: soft-RoCE copies
// them byte by byte, from the lowest on, on some processors, and may be kept from it in the middle. What is seen then lies
// behind what it will be, perhaps behind what it was, and never ahead. So what cannot be is looked at so many times more
// before it counts as a breach of the protocol, and now and then the CPU is given to who may be writing.
#define LOOKS_AGAIN     2000u
#define LOOKS_PER_YIELD 20u

static bool look_again(bool by_device, unsigned looks)
{
    if (!by_device || looks == LOOKS_AGAIN)
        return false;
    if (looks % LOOKS_PER_YIELD == 0)
        sys_sched_yield();
    return true;
}

// --- producing ---

// The true tail is the producers' own, so `own` is trusted; the consumer's head must lie within a ring of it.
// Pairs with the seq_cst exchange in publish_head: what the consumer has read is read before we write over it. Another
// thread may be the one that writes there (poll looks, too): the release passes it on to the acquire in room_seen.
static int look_at_head(struct ring_tx *ring, uint64_t own)
{
    uint64_t head;
    for (unsigned looks = 0;; looks++) {
        head = atomic_load_explicit(&ring->shared->head, memory_order_seq_cst);
        if (own - head <= ring->size)
            break;
        if (own & RING_FROZEN)
            return -ESTALE;
        // Another holder may have produced since `own` was loaded, and the consumer read beyond it.
        if (atomic_load_explicit(ring->tail, memory_order_acquire) != own)
            return -EAGAIN;
        if (!look_again(ring->by_device, looks))
            return -EPROTO;
    }
    atomic_store_explicit(&ring->head_seen, head, memory_order_release);
    return 0;
}

static uint64_t room_seen(const struct ring_tx *ring, uint64_t own)
{
    uint64_t used = own - atomic_load_explicit(&ring->head_seen, memory_order_acquire);
    return used <= ring->size ? ring->size - used : 0;
}

// Room behind `*own`, which is loaded here. Looks at the consumer's cursor only if less than `wanted` was seen.
static int64_t room_at(struct ring_tx *ring, uint64_t *own, uint64_t wanted)
{
    for (;;) {
        *own = atomic_load_explicit(ring->tail, memory_order_relaxed);
        uint64_t room = room_seen(ring, *own);
        if (room >= wanted)
            return (int64_t)room;
        int result = look_at_head(ring, *own);
        if (result == -EAGAIN)
            continue;
        return result ? result : (int64_t)room_seen(ring, *own);
    }
}

int64_t ring_room(struct ring_tx *ring)
{
    uint64_t own;
    return room_at(ring, &own, ring_room_wanted(ring));
}

// seq_cst, before the look at rx_arm in ring_tx_wants_bell: pairs with ring_rx_arm.
static void publish_tail(struct ring_tx *ring)
{
    publish(&ring->shared->tail, ring->tail);
}

bool ring_commit(struct ring_tx *ring, uint64_t tail, size_t n)
{
    // Release: the copy comes before the cursor, for a holder that takes over from here.
    if (!atomic_compare_exchange_strong_explicit(ring->tail, &tail, tail + n, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return false;
    publish_tail(ring);
    return true;
}

static void copy_in(struct ring_tx *ring, uint64_t tail, struct spans *from, size_t n)
{
    size_t offset = tail & (ring->size - 1);
    size_t first = smaller(n, ring->size - offset);
    spans_gather(from, ring->data + offset, first);
    if (n > first)
        spans_gather(from, ring->data, n - first);
}

ssize_t ring_put(struct ring_tx *ring, struct spans *from)
{
    uint64_t wanted = smaller(spans_left(from), RING_STEP);
    for (;;) {
        uint64_t tail;
        int64_t room = room_at(ring, &tail, wanted);
        if (room <= 0)
            return (ssize_t)room;
        size_t n = smaller(wanted, (uint64_t)room);
        struct spans place = *from;
        copy_in(ring, tail, &place, n);
        if (ring_commit(ring, tail, n)) {
            *from = place;
            return (ssize_t)n;
        }
    }
}

ssize_t ring_reserve(struct ring_tx *ring, uint64_t *tail, void **place)
{
    int64_t room = room_at(ring, tail, RING_STEP);
    if (room <= 0)
        return (ssize_t)room;
    size_t offset = *tail & (ring->size - 1);
    *place = ring->data + offset;
    return (ssize_t)smaller(smaller((uint64_t)room, ring->size - offset), RING_STEP);
}

int ring_tx_consumed(const struct ring_tx *ring, uint64_t tail, uint64_t *head)
{
    unsigned looks = 0;
    do
        *head = atomic_load_explicit(&ring->shared->head, memory_order_seq_cst);
    while (tail - *head > ring->size && look_again(ring->by_device, looks++));
    return tail - *head > ring->size ? -EPROTO : 0;
}

uint64_t ring_tx_unread(const struct ring_tx *ring)
{
    uint64_t tail = atomic_load_explicit(ring->tail, memory_order_relaxed) & ~RING_FROZEN;
    return smaller(tail - atomic_load_explicit(&ring->shared->head, memory_order_acquire), ring->size);
}

bool ring_tx_wants_bell(const struct ring_tx *ring, uint32_t *arm)
{
    *arm = atomic_load_explicit(&ring->shared->rx_arm, memory_order_seq_cst);
    return *arm != atomic_load_explicit(&ring->shared->rx_rung, memory_order_relaxed);
}

void ring_tx_rang(struct ring_tx *ring, uint32_t arm)
{
    atomic_store_explicit(&ring->shared->rx_rung, arm, memory_order_release);
}

// seq_cst, before the waiter's look at head: pairs with publish_head and ring_rx_wants_bell.
void ring_tx_arm(struct ring_tx *ring)
{
    atomic_fetch_add_explicit(&ring->shared->tx_arm, 1, memory_order_seq_cst);
}

bool ring_tx_armed(const struct ring_tx *ring)
{
    return atomic_load_explicit(&ring->shared->tx_arm, memory_order_relaxed) !=
           atomic_load_explicit(&ring->shared->tx_rung, memory_order_acquire);
}

// left_at after the tail: who sees the one, sees all that was produced. seq_cst, before the look at rx_arm: pairs with
// ring_rx_arm and the look at left_at after it.
void ring_tx_leave(struct ring_tx *ring)
{
    uint64_t tail = atomic_fetch_or_explicit(ring->tail, RING_FROZEN, memory_order_acq_rel) & ~RING_FROZEN;
    publish_tail(ring);
    atomic_store_explicit(&ring->shared->left_at, tail, memory_order_seq_cst);
}

bool ring_ask_to_leave(struct ring_shared *ring, uint32_t wish)
{
    uint32_t before = atomic_load(&ring->leave_wish);
    while (before < wish && !atomic_compare_exchange_weak(&ring->leave_wish, &before, wish))
        ;
    return before < wish || (before & ~(uint32_t)LEAVE_TAKEN) == wish;
}

uint32_t ring_take_wish(struct ring_shared *ring)
{
    return atomic_fetch_or(&ring->leave_wish, LEAVE_TAKEN) & ~(uint32_t)LEAVE_TAKEN;
}

void ring_tx_republish(struct ring_tx *ring)
{
    if (atomic_load_explicit(&ring->shared->tail, memory_order_relaxed) !=
        (atomic_load_explicit(ring->tail, memory_order_acquire) & ~RING_FROZEN))
        publish_tail(ring);
}

// --- consuming ---

// The mirror image of look_at_head. Pairs with the seq_cst exchange in publish_tail: the bytes before tail are there, for
// the thread, too, that relies on tail_seen.
static int look_at_tail(struct ring_rx *ring, uint64_t own)
{
    uint64_t tail;
    for (unsigned looks = 0;; looks++) {
        tail = atomic_load_explicit(&ring->shared->tail, memory_order_seq_cst);
        if (tail - own <= ring->size)
            break;
        if (own & RING_FROZEN)
            return -ESTALE;
        if (atomic_load_explicit(ring->head, memory_order_acquire) != own)
            return -EAGAIN;
        if (!look_again(ring->by_device, looks))
            return -EPROTO;
    }
    atomic_store_explicit(&ring->tail_seen, tail, memory_order_release);
    return 0;
}

// What was seen before may lie behind `own`, if another holder consumed more than this one saw produced.
static uint64_t ready_seen(const struct ring_rx *ring, uint64_t own)
{
    uint64_t ready = atomic_load_explicit(&ring->tail_seen, memory_order_acquire) - own;
    return ready <= ring->size ? ready : 0;
}

static int64_t ready_at(struct ring_rx *ring, uint64_t *own, uint64_t wanted)
{
    for (;;) {
        *own = atomic_load_explicit(ring->head, memory_order_acquire);
        uint64_t ready = ready_seen(ring, *own);
        if (ready >= wanted)
            return (int64_t)ready;
        int result = look_at_tail(ring, *own);
        if (result == -EAGAIN)
            continue;
        return result ? result : (int64_t)ready_seen(ring, *own);
    }
}

int64_t ring_ready(struct ring_rx *ring)
{
    uint64_t own;
    return ready_at(ring, &own, 1);
}

int64_t ring_ready_fresh(struct ring_rx *ring)
{
    uint64_t own;
    return ready_at(ring, &own, ring->size);
}

// seq_cst, before the look at tx_arm in ring_rx_wants_bell: pairs with ring_tx_arm.
static void publish_head(struct ring_rx *ring)
{
    publish(&ring->shared->head, ring->head);
}

bool ring_consume(struct ring_rx *ring, uint64_t head, size_t n)
{
    // Release: our reads come before the cursor, for whoever publishes it and lets the producer write there.
    if (!atomic_compare_exchange_strong_explicit(ring->head, &head, head + n, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return false;
    if (head + n - atomic_load_explicit(&ring->shared->head, memory_order_relaxed) >= ring->size / 8)
        publish_head(ring);
    return true;
}

static void copy_out(const struct ring_rx *ring, uint64_t head, struct spans *to, size_t n)
{
    size_t offset = head & (ring->size - 1);
    size_t first = smaller(n, ring->size - offset);
    spans_scatter(to, ring->data + offset, first);
    if (n > first)
        spans_scatter(to, ring->data, n - first);
}

// After a look at the bytes: were they there all the time? An exchange of the head for itself, since a load could be
// carried out before our reads. Pairs, by way of the next ring_consume, with the producer's look at the head.
static bool still_at(struct ring_rx *ring, uint64_t head)
{
    return atomic_compare_exchange_strong_explicit(ring->head, &head, head, memory_order_acq_rel, memory_order_relaxed);
}

ssize_t ring_get(struct ring_rx *ring, struct spans *to, uint64_t skip, bool peek)
{
    uint64_t wanted = smaller(spans_left(to), RING_STEP);
    for (;;) {
        uint64_t head;
        int64_t ready = ready_at(ring, &head, skip + 1);
        if (ready < 0)
            return (ssize_t)ready;
        if ((uint64_t)ready <= skip)
            return 0;
        size_t n = smaller(wanted, (uint64_t)ready - skip);
        struct spans place = *to;
        copy_out(ring, head + skip, &place, n);
        bool done = peek ? still_at(ring, head) : ring_consume(ring, head, n);
        if (done) {
            *to = place;
            return (ssize_t)n;
        }
    }
}

ssize_t ring_look(struct ring_rx *ring, uint64_t *head, const void **place)
{
    int64_t ready = ready_at(ring, head, 1);
    if (ready <= 0)
        return (ssize_t)ready;
    size_t offset = *head & (ring->size - 1);
    *place = ring->data + offset;
    return (ssize_t)smaller(smaller((uint64_t)ready, ring->size - offset), RING_STEP);
}

// tail is only used to judge whether ringing is worth it; an absurd one costs a bell at the most.
bool ring_rx_wants_bell(const struct ring_rx *ring, uint32_t *arm)
{
    *arm = atomic_load_explicit(&ring->shared->tx_arm, memory_order_seq_cst);
    if (*arm == atomic_load_explicit(&ring->shared->tx_rung, memory_order_relaxed))
        return false;
    uint64_t used = atomic_load_explicit(&ring->shared->tail, memory_order_relaxed) -
                    atomic_load_explicit(&ring->shared->head, memory_order_relaxed);
    return used > ring->size || ring->size - used >= ring->size / 4;
}

void ring_rx_rang(struct ring_rx *ring, uint32_t arm)
{
    atomic_store_explicit(&ring->shared->tx_rung, arm, memory_order_release);
}

// seq_cst, before the waiter's look at tail: pairs with publish_tail and ring_tx_wants_bell.
void ring_rx_arm(struct ring_rx *ring)
{
    atomic_fetch_add_explicit(&ring->shared->rx_arm, 1, memory_order_seq_cst);
}

bool ring_rx_armed(const struct ring_rx *ring)
{
    return atomic_load_explicit(&ring->shared->rx_arm, memory_order_relaxed) !=
           atomic_load_explicit(&ring->shared->rx_rung, memory_order_acquire);
}

void ring_rx_republish(struct ring_rx *ring)
{
    if (atomic_load_explicit(&ring->shared->head, memory_order_relaxed) !=
        (atomic_load_explicit(ring->head, memory_order_acquire) & ~RING_FROZEN))
        publish_head(ring);
}

void ring_rx_freeze(struct ring_rx *ring)
{
    atomic_fetch_or_explicit(ring->head, RING_FROZEN, memory_order_acq_rel);
    publish_head(ring);
}

// Pairs with the store in ring_tx_leave.
int ring_rx_left(const struct ring_rx *ring)
{
    uint64_t left_at = atomic_load_explicit(&ring->shared->left_at, memory_order_seq_cst);
    if (left_at == SWITCH_NOT_YET)
        return 0;
    uint64_t head = atomic_load_explicit(ring->head, memory_order_acquire) & ~RING_FROZEN;
    return left_at == head ? 1 : left_at - head <= ring->size ? 0 : -EPROTO;
}
