// A fresh session header.

#include "core/session.h"

#include <string.h>

#include "core/layout.h"

void session_init(struct session_shared *session, uint64_t id, uint32_t transport, uint64_t ring_bytes)
{
    memset((void *)session, 0, LAYOUT_PAGE);
    session->magic = SESSION_MAGIC;
    session->version = LAYOUT_VERSION;
    session->transport = transport;
    session->id = id;
    session->ring_bytes = ring_bytes;
    for (int i = 0; i < 2; i++) {
        atomic_store_explicit(&session->ring[i].switch_at, SWITCH_NOT_YET, memory_order_relaxed);
        atomic_store_explicit(&session->ring[i].left_at, SWITCH_NOT_YET, memory_order_relaxed);
    }
}
