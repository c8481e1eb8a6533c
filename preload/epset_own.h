// Entering and leaving a set. Only for the files of epset.
#pragma once

#include "preload/epset_reg.h"

// True with the set's lock; false if this thread has it already, further down its stack: we are a signal handler, and
// must do without.
bool epset_enter(struct epset *set);

// Does the work that was left meanwhile, here and elsewhere, and gives the lock back.
void epset_leave(struct epset *set);
