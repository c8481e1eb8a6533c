// agent/fabric.h for tests of what stands on it: both hosts are in this process, and what is posted arrives when the test
// says so, or at the next poll.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/fabric.h"

// A fabric whose connections take `depth` posts before the other side has polled them. With `by_hand`, nothing arrives
// before fake_carry.
struct fabric *fake_fabric(unsigned depth, bool by_hand);

// A connection of each, ready.
void fake_connect(struct fabric *a, struct fabric *b, struct fabric_conn *ends[static 2]);

// Lets the eldest post of this end take effect at the other. False if there is none.
bool fake_carry(struct fabric_conn *from);

// The connection fails, at both ends, and what is under way is lost.
void fake_cut(struct fabric_conn *conn);

// What was posted here so far.
uint64_t fake_posts(const struct fabric_conn *conn);

// Posts that broke a rule: outside the memory that was registered, or with a wrong key.
uint64_t fake_offences(const struct fabric_conn *conn);
