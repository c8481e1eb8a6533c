// Where a thread sleeps: an epoll set of its own, with the bells and TCP sockets of the rings it waits for.
//
// Everything stands in it edge-triggered, so nobody ever has to read (drain) a bell: each ring of it is an edge in the
// nest of each sleeper, and no sleeper can take another's. What is left over from an earlier wait costs one wake-up.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct sock;
struct timespec;

// Signals, as the kernel has them. glibc's sigset_t is larger and its calls leave two signals out.
typedef uint64_t nest_mask;

void nest_init(void);
void nest_forked(void);
bool nest_moved(int from, int to);

// This thread's nest, with the socket's bell and TCP connection in it. Returns its descriptor, or -errno.
int nest_add(struct sock *sock, int fd);

// This thread's nest as it is, or -1.
int nest_fd(void);

// Blocks all signals that may run a handler; *before is what was blocked until now. What the program ignores, such as
// SIGCHLD by default, stays unblocked, so that the kernel drops it as it comes. Held back, it would interrupt a call of
// the kernel's later, or at once in another thread, as only a handler may. `now` (ns of CLOCK_MONOTONIC): what is ignored
// is asked at most every 2 ms; otherwise one system call.
void nest_block_handled(nest_mask *before, uint64_t now);
void nest_restore_signals(const nest_mask *mask);

// Is there any handler, of the signals not in `mask`, that could have interrupted a call?
bool nest_handlers(const nest_mask *mask);

// Sleeps until something happened in the nest, or it is time to look for the agent: 0. -EAGAIN at the deadline (ns of
// CLOCK_MONOTONIC, 0 = never). Signals were blocked with nest_block_handled, and *before given by it. A signal for which a
// handler is due runs it; -EINTR if that handler does not ask for a restart, or `interruptible` says that any does.
// What happened is noted at the sockets (tcp_event). A cancellation point.
int nest_sleep(uint64_t deadline, bool interruptible, const nest_mask *before);

// The same without a nest, for want of descriptors: sleeps for a moment, after which the caller looks again.
int nest_do_without(uint64_t deadline, bool interruptible, const nest_mask *before);

// Between two sleeps of one call: runs the handlers that have become due, and answers as nest_sleep. A system call.
int nest_hear_signals(bool interruptible, const nest_mask *before);

// Takes in what has happened, without sleeping.
void nest_gather(void);

// A system call that sleeps is made between these two, so that a thread can be cancelled in it as in libc's own.
static inline int nest_let_cancel(void)
{
    int type;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    return type;
}

static inline void nest_forbid_cancel(int type)
{
    pthread_setcanceltype(type, NULL);
}

uint64_t nest_now(void);
