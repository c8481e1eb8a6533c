// What a session has carried, as its ends' memory says. That memory is its users' to write, so the figures are made
// plausible.

#include "agent/session_parts.h"

#include <string.h>

#include "agent/agent.h"
#include "agent/ringpool.h"
#include "core/ring.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

// What it has published here. It may write there what it likes.
static void read_far_end(const struct session *session, struct end_shared *copy)
{
    const struct ring_shared *ring = session->ring->header->ring;

    memset((void *)copy, 0, sizeof(*copy));
    copy->tx_tail = atomic_load_explicit(&ring[0].tail, memory_order_relaxed);
    copy->rx_head = atomic_load_explicit(&ring[1].head, memory_order_relaxed);
}

static void set_figures(struct session_figures *figures, struct end_shared *own, struct end_shared *peer,
                        uint64_t ring_bytes)
{
    // Nobody can have sent more than the other one took and the ring holds, nor taken more than the other one sent.
    *figures = (struct session_figures){
        .tx_bytes = least(own->tx_tail & ~RING_FROZEN, stats_sum(peer->rx_head & ~RING_FROZEN, ring_bytes)),
        .rx_bytes = least(own->rx_head & ~RING_FROZEN, stats_sum(peer->tx_tail & ~RING_FROZEN, 0)),
        .tx_way = own->tx_way,
        .rx_way = own->rx_way,
        .tx_calls = stats_sum(own->tx_calls, 0),
        .rx_calls = stats_sum(own->rx_calls, 0),
        .sleeps = stats_sum(own->sleeps, 0),
        .bells = stats_sum(own->bells, 0),
        .tx_full = stats_sum(own->tx_full, 0),
    };
}

void session_read_figures(const struct session *session, struct session_figures figures[static 2])
{
    struct end_shared copy[2];

    for (int side = 0; side < 2; side++) {
        if (session_end_is_here(&session->end[side]))
            session_end_read(&session->end[side], &copy[side]);
        else
            read_far_end(session, &copy[side]);
    }
    for (int side = 0; side < 2; side++)
        set_figures(&figures[side], &copy[side], &copy[1 - side], session->ring->ring_bytes);
}
