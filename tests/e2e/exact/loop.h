// Moves the bytes of many sides until all are done, waiting in one of the ways that programs wait.
#pragma once

#include "tests/e2e/exact/side.h"

enum loop_kind { LOOP_THREADS, LOOP_POLL, LOOP_SELECT, LOOP_EPOLL, LOOP_EPOLL_EDGE, LOOP_EPOLL_ONESHOT, LOOP_KINDS };

extern const char *const loop_names[LOOP_KINDS];

// Runs until each side has in_done and out_done. A direction that is not done at the beginning is carried to its
// `until`; at its `total`, the sender ends its half and the receiver expects the end. LOOP_THREADS gives each
// direction a thread that blocks; the other kinds serve all sides in the calling thread, and make them non-blocking.
// Sides of which both directions ended wholly are closed if `close_ended`: at once, or after loop_hold all at the end, each
// when the kernel says that it has hung up (POLLHUP), which means that the end of what was sent is out.
void loop_hold(void);
void loop_run(enum loop_kind kind, struct side *sides, unsigned count, bool close_ended);

// Sets whether calls on the side's socket block.
void loop_set_blocking(struct side *side, bool blocking);
