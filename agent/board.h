// The agent's side of the notice board: a page of policy and a mail counter for each client (core/layout.h).
#pragma once

#include <stdint.h>

#include "core/layout.h"

struct policy;

struct agent_board {
    struct board *shared; // the only writable mapping there will ever be
    int fd;               // for WELCOME; can be mapped for reading only
    uint32_t free_count;
    uint16_t free[BOARD_SLOTS];
};
static_assert(BOARD_SLOTS <= UINT16_MAX + 1, "a slot's number fits");

// Returns 0 or -errno.
int board_init(struct agent_board *board);

void board_deinit(struct agent_board *board);

// Returns a slot, or -ENOSPC.
int board_take_slot(struct agent_board *board);

// The counter of the slot goes on from where it stands.
void board_give_slot(struct agent_board *board, uint32_t slot);

// Tells the client of this slot that it has mail.
void board_raise_mail(struct agent_board *board, uint32_t slot);

// Says that the agent is at work at this time (ms of CLOCK_MONOTONIC); 0: that it does not say so any more.
void board_beat(struct agent_board *board, uint64_t now_ms);

// Publishes what clients need to know of the policy, and that offers which were refused may be made again.
void board_publish(struct agent_board *board, const struct policy *policy, uint64_t rate);
