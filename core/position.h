// Where a TCP connection stands in its two streams, by the kernel's own counters.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Bytes handed to the kernel for sending since the connection began: those sent for the first time, and those waiting.
// Exact while no send is under way. False if the connection cannot send any more.
bool position_sent(int fd, uint64_t *position);

// Bytes that the program has read from the kernel since the connection began. Exact while no receive is under way. False
// if the connection is gone.
bool position_read(int fd, uint64_t *position);
