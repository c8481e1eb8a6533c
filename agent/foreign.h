// Letting go of descriptors that came from others, without being held up by what they are.
//
// close() may block: a TCP socket lingers if its owner asked for that and no other copy is left; a file is flushed, and
// its file system may be a program of the sender's. The first is interrupted after a millisecond, which loses nothing:
// the kernel goes on closing the connection by itself. The second is done by a thread, and a user for whom several such
// threads do not come back is not listened to until they do.
#pragma once

#include <stdbool.h>
#include <sys/types.h>

// To be called once, by the thread that will use the rest. Returns 0 or -errno.
int foreign_init(void);

// Between these two, calls of this thread that block are interrupted within two milliseconds. They do not nest.
void foreign_guard_begin(void);
void foreign_guard_end(void);

// Closes a descriptor that a user sent.
void foreign_close(int fd, uid_t uid);

// Whether too much of what this user sent cannot be closed.
bool foreign_is_stuck(uid_t uid);
