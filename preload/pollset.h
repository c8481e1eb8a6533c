// A poll in which rings take part.
#pragma once

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

struct sock;

struct pollset {
    struct pollfd *fds; // the program's
    nfds_t count;
    struct sock **gated; // those whose gates were entered, with a reference each
    nfds_t gated_count;
    struct sock *gated_few[16];
    struct pollfd *many; // allocated
};

// For a local variable: what it has taken is given back also if the thread is cancelled within its scope.
#define POLLSET __attribute__((cleanup(pollset_abandon))) struct pollset
void pollset_abandon(struct pollset *set);

// Must this descriptor be looked at in user space?
bool pollset_concerns(int fd);

// Begins a poll. False: no ring takes part, and the real call may be made; meanwhile no other thread can attach a
// ring to a socket of the set, because this call counts as one that is inside the kernel.
bool pollset_enter(struct pollset *set, struct pollfd *fds, nfds_t count);

// Ends it; passes `result` and errno through.
int pollset_leave(struct pollset *set, int result);

// Waits as ppoll does; null for no timeout, no mask.
int pollset_wait(struct pollset *set, const struct timespec *timeout, const sigset_t *mask);
