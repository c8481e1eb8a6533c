// The kernel's side of a registration: the entry for its TCP socket, the program's own or ours, and the bell beside it.
// With the set's lock, but for epset_entry_keep. Only for the files of epset.
#pragma once

#include <stdint.h>

#include "preload/epset_reg.h"

// epoll_ctl on the kernel's set: 0 or -errno.
int epset_entry_control(const struct epset *set, int operation, int fd, uint32_t events, uint64_t data);

// A new entry of ours, for a registration whose socket is in a ring already: 0 or the kernel's -errno.
int epset_entry_add(struct reg *reg);

// Makes the entry what the ways of its socket ask for. Idempotent.
// A direction is, or may be, in the ring: ours, with the bell.
void epset_entry_convert(struct reg *reg);
// Both directions are TCP again: the program's own, as if it had always been that.
void epset_entry_return(struct reg *reg);

// The program asks for other events: 0 or the kernel's -errno.
int epset_entry_ask(struct reg *reg);

// TCP's end was seen: watched for any longer, it would be reported for ever.
void epset_entry_end_known(struct reg *reg);

// Takes entry and bell out of the kernel's set. Returns what the kernel says of the former.
int epset_entry_remove(struct reg *reg);

// The bell alone, unless another registration of the same socket needs it.
void epset_entry_remove_bell(struct reg *reg);

// Both directions are in the ring: the entry does not depend on what the program asks for.
bool epset_entry_settled(const struct reg *reg);

// The program is about to close `entry`, with which the kernel knows it, while other descriptors of the socket remain:
// a descriptor of our own takes its place, so that it can still be named. No lock of a set is needed.
void epset_entry_keep(struct reg *reg);
