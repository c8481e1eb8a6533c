// The memory of one session end, as the agent makes it before anybody maps it.
#pragma once

#include <stdint.h>

struct end_shared;

// Fills in the zeroed, not yet shared memory of an end: what it is, that both its ways are TCP, and its two locks, each
// a pthread_mutex_t that is process-shared, robust (EOWNERDEAD) and error-checking (EDEADLK).
// Returns 0 or -errno. There is nothing to undo: the memory may simply be unmapped.
int end_init(struct end_shared *end, uint64_t session, uint64_t instance, uint32_t side);
