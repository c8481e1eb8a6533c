// Which processes hold a socket?
//
// Processes that came to a socket by fork share what the library knows of it. Those that came to it by exec, or were sent
// it, do not: one that went on by TCP would not hear that another went over to a ring. So the library says of such a
// socket that it may be in other hands (WIRE_OFFER_SHARED), and then it is upgraded only once one process holds it, the
// one that offers it. If that one passes it on afterwards, it declines; who gets it from there asks for the session.
//
// Only the kernel knows, and tells by way of /proc, which takes as long as there are descriptors on the host. So the
// questions are gathered, and one walk answers all of them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct holders_question {
    uint64_t inode; // of the socket
    pid_t pid;
    void *asker; // the caller's own
    bool held;   // by this process
    bool shared; // by any other but the agent itself
};

// Answers all of them, in any order. What the agent may not see (another user's processes, if it is not root) does not
// count. Takes some microseconds for each descriptor on the host.
void holders_ask(struct holders_question *questions, size_t count);
