#include "core/repeat.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "core/position.h"
#include "core/record.h"
#include "core/sys.h"

static_assert(sizeof((struct end_shared *)0)->mark == RECORD_MARK, "a mark fits");

static uint64_t tail_of(const struct repeat *repeat)
{
    return atomic_load(&repeat->end->tx_tail) & ~RING_FROZEN;
}

// The head before `watching`: a consumer whose head has moved has settled before. One that knows nothing of rings any more
// has said how far exactly it was before it asked. Returns 0 or -EPROTO.
static int choose_begin(const struct repeat *repeat, uint64_t tail, uint64_t *from, uint32_t *record)
{
    int result = ring_tx_consumed(repeat->ring, tail, from);
    bool known =
        *from || atomic_load_explicit(&repeat->ring->shared->watching, memory_order_seq_cst) == WATCHING_SETTLED;
    *record = known && ring_leave_wish(repeat->ring->shared) != LEAVE_BARE ? RECORD_BYTES : 0;
    return result;
}

// From WAY_RING to WAY_BACK. Nothing has been sent by the kernel since the ring began, so its position is where the
// repetition begins, and it is taken before anything is sent. Returns 1 if the connection cannot send.
static int begin(const struct repeat *repeat, int fd)
{
    uint64_t at, from;
    uint32_t record;
    atomic_fetch_or(&repeat->end->tx_tail, RING_FROZEN);
    ring_tx_republish(repeat->ring);
    if (!position_sent(fd, &at))
        return 1;
    if (choose_begin(repeat, tail_of(repeat), &from, &record))
        return -EPROTO;
    atomic_store(&repeat->end->tx_back_at, at);
    atomic_store(&repeat->end->tx_back_from, from);
    atomic_store(&repeat->end->tx_back_record, record);
    // seq_cst, before the look at `arrived`: pairs with the agent's, who stores that and then looks at tx_way.
    atomic_store(&repeat->end->tx_way, WAY_BACK);
    return 0;
}

static long send_some(int fd, const void *bytes, size_t size, bool more)
{
    return sys_call(SYS_sendto, fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0), NULL, 0);
}

static long send_record(const struct repeat *repeat, int fd, uint64_t from, uint64_t until, size_t done)
{
    uint8_t bytes[RECORD_BYTES];
    struct record record = {.from = from, .until = until};
    memcpy(record.mark, repeat->end->mark, RECORD_MARK);
    record_write(&record, bytes);
    return send_some(fd, bytes + done, RECORD_BYTES - done, from != until);
}

static long send_ring(const struct repeat *repeat, int fd, uint64_t at, uint64_t until)
{
    size_t offset = at & (repeat->ring->size - 1), size = (size_t)(until - at);
    size_t here = repeat->ring->size - offset;
    return send_some(fd, repeat->ring->data + offset, size < here ? size : here, size > here);
}

// All of it is at the other host, its end too: nothing has to be said again, unless that has begun.
static bool need_not_begin(const struct repeat *repeat, uint64_t done)
{
    return done == 0 && atomic_load_explicit(&repeat->ring->shared->arrived, memory_order_seq_cst);
}

int repeat_step(const struct repeat *repeat, int fd)
{
    int result = atomic_load(&repeat->end->tx_way) == WAY_RING ? begin(repeat, fd) : 0;
    if (result)
        return result;
    // Once, so that whoever else writes there cannot keep us here for longer than it takes to send the ring.
    uint64_t at = atomic_load(&repeat->end->tx_back_at), now;
    uint64_t from = atomic_load(&repeat->end->tx_back_from), until = tail_of(repeat);
    uint32_t record = atomic_load(&repeat->end->tx_back_record) ? RECORD_BYTES : 0;
    if (until - from > repeat->ring->size)
        return -EPROTO;
    while (position_sent(fd, &now)) {
        uint64_t done = now - at;
        if (done >= record + (until - from) || need_not_begin(repeat, done))
            return 1;
        long n = done < record ? send_record(repeat, fd, from, until, (size_t)done)
                               : send_ring(repeat, fd, from + (done - record), until);
        if (n == -EAGAIN || n == -EINTR)
            return 0;
        if (n < 0)
            return 1; // what is wrong with the connection the kernel tells the next call
    }
    return 1;
}
