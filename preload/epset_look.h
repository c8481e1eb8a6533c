// Hot and cold: what epoll_wait itself looks at, and what was left to the kernel. With the set's lock. Only for the
// files of epset.
#pragma once

#include "preload/epset_reg.h"

// Makes it hot, and with it all of the socket's in the set: one bell rings for all of them.
void epset_look_heat(struct reg *reg);

// Reports what is ready among the hot, up to `most`, those first that were not reported lately. Those idle for long go
// cold. Returns how many.
int epset_look_at_hot(struct epset *set, struct epoll_event *events, int most);

// Declares sleep for all the hot, and looks once more; if there is nothing, all are cold.
int epset_look_and_arm(struct epset *set, struct epoll_event *events, int most);

// Is anything ready? Takes note of nothing: what is found will be found again. What is not ready goes cold.
bool epset_look_ready(struct epset *set);

// Others sleep in the kernel with this set, or with one that contains it: they only wake by a bell. So nothing is left
// for user space alone; what is ready now rings its own bell, as the kernel would wake one of them.
void epset_look_leave_to_sleepers(struct epset *set);

// Takes our tags out of what the kernel reported; their registrations become hot. Returns how many remain.
int epset_look_translate(struct epset *set, struct epoll_event *events, int n);

// Has every hot one been reported since the kernel was last asked? Then it is its turn, however many are ready here.
bool epset_look_kernels_turn(const struct epset *set);
