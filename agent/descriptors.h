// The descriptors that this process may open, and keeping some of them back.
//
// The kernel gives out the lowest free number, so a high number means that few are left. Whoever opens something on
// behalf of others looks at the number it got and gives it back if it is in the reserve. So receiving messages, and
// answering `rdmactl`, still work when sessions have used up the rest.
#pragma once

#include <stdbool.h>

// How many are kept back from whom. Taking a message off a socket needs WIRE_FDS_MAX at once.
enum descriptors_reserve {
    RESERVE_FOR_SESSIONS = 96, // kept back from sessions and their rings
    RESERVE_FOR_CLIENTS = 64,  // ... from client connections
    RESERVE_FOR_CONTROL = 16,  // ... from control connections
};

// Raises the soft limit to the hard one. Before that, none counts as scarce.
void descriptors_init(void);

// Whether `fd`, just opened, is one that should be given back.
bool descriptors_scarce(int fd, enum descriptors_reserve reserve);

// How many descriptors this process may have.
unsigned long descriptors_limit(void);
