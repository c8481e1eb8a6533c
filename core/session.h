// The header of session memory, as the agent makes it before either end maps it.
#pragma once

#include <stdint.h>

struct session_shared;

// Makes the header page that of a new session, whatever it held before: both rings empty, neither switched to, nobody
// watching. The data of the rings is left alone. `transport` is TRANSPORT_*; `ring_bytes` that of each ring.
void session_init(struct session_shared *session, uint64_t id, uint32_t transport, uint64_t ring_bytes);
