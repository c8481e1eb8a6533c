// The runtime directory: the agent's two sockets, and a lock that says that it is taken.
//
// The lock goes with the process that holds it, so what an agent that died left behind is known to be stale.
#pragma once

#include <sys/un.h>

#define RUNDIR_ERROR 512

struct rundir {
    struct sockaddr_un clients; // WIRE_SOCKET
    struct sockaddr_un control; // WIRE_CONTROL
    int lock;
};

// Makes the directory if need be (not its parents) and locks it. On failure returns -errno, says in `error` what was
// expected and what to do, and holds nothing.
int rundir_init(struct rundir *rundir, const char *path, char error[static RUNDIR_ERROR]);

// Makes a listening, non-blocking, close-on-exec socket of `type` at one of the two addresses, open to all users, in
// place of a stale one. Returns it or -errno, with `error` as above.
int rundir_listen(const struct sockaddr_un *address, int type, char error[static RUNDIR_ERROR]);

// Removes the sockets and gives up the lock. The directory stays.
void rundir_deinit(struct rundir *rundir);
