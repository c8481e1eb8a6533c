// The process we live in: first call, fork, and what is true of it as a whole.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/single_threaded.h>
#include <sys/types.h>

// Zero before the first call in a process, and again in a forked child, because its page is wiped on fork, however the
// fork was made. It stays set in a vfork child, which runs in its parent's memory.
extern _Atomic uint32_t *proc_ready;

void proc_first_call(void);

// Every interposer begins with this. One load and a branch.
static inline void proc_enter(void)
{
    if (__builtin_expect(!atomic_load_explicit(proc_ready, memory_order_acquire), 0))
        proc_first_call();
}

// The only thread, and so free to use plain operations where threads would need atomic ones.
static inline bool proc_single_threaded(void)
{
    return __libc_single_threaded;
}

// False in a vfork child: its descriptors are its own, but what we know of them is its parent's. One system call.
bool proc_owns_memory(void);

// To be called in a process that is about to fork: what parent and child will both hold is marked as shared.
void proc_before_fork(void);

// RDMA_AGENT_DISABLE was set: nothing is ever upgraded.
bool proc_disabled(void);

// The CPU that this thread runs on, + 1; 0 if that is not cheaply known.
uint32_t proc_cpu(void);

// Calls `act` for each descriptor that the calling process has, a vfork child its own. They are those that /proc lists;
// without /proc there are none.
void proc_each_fd(void (*act)(int fd));

// One line to stderr if RDMA_AGENT_DEBUG was set.
void proc_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Takes a descriptor of the library's own out of the program's way: moves it up, close-on-exec, and marks it FD_OWN.
// The one passed in is closed in any case. Returns the new one, or -1 if there are none to spare (the library uses a
// quarter of the soft limit at the most).
int proc_own_fd(int fd);

// Closes such a descriptor.
void proc_close_own_fd(int fd);

// The program wants this very number (dup2): moves our descriptor away from it. Objects that hold it are told by
// the table: see own_fd_moved in session.h. Returns false if that was not possible.
bool proc_vacate_fd(int fd);
