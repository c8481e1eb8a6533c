// Calls under way in this thread that hold a socket and may sleep.
//
// A signal handler may jump out of one (siglongjmp), and nothing that the call holds is let go of then. A reference that
// is never dropped would keep the connection open when the program closes it, so each thread keeps a list of such calls by
// their stack frames. A call from a frame that is not below the last one's in the list proves that that was left by a
// jump: it is dropped then, or when the thread ends, if that has ever slept in a wait of ours. So what was left in a
// function is closed for good by that function or one further out; by one that it calls, only with the next call from
// there. Calls that a handler makes stand below the one that it interrupted; on a stack of its own (sigaltstack) nothing
// can be told, and nothing is dropped.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "preload/sock.h"

#define CALLS_MOST 8u // within each other: by handlers of signals, or as one call is made of another

struct call {
    struct sock *sock;
    const char *frame;
};

struct calls {
    uint32_t count; // more than CALLS_MOST: those beyond are not in the list
    struct call at[CALLS_MOST];
};
extern __thread struct calls calls __attribute__((tls_model("initial-exec")));

void calls_drop_jumped(const char *frame);

// Returns whether the call was in the list: otherwise it was taken for left, and is dropped already.
bool calls_end_slow(struct sock *sock, const char *frame);

// When the thread ends.
void calls_drop_all(void);

// In a forked child: the calls of the thread that it has go on.
void calls_count_again(void);

// Before a call, or a close, by a function that the program has called itself.
__attribute__((always_inline)) static inline void calls_look(void)
{
    const char *frame = __builtin_frame_address(0);
    uint32_t last = calls.count - 1;
    if (__builtin_expect(last < CALLS_MOST && calls.at[last].frame <= frame, 0))
        calls_drop_jumped(frame);
}

// Passes the reference on to the list; null is none.
__attribute__((always_inline)) static inline struct sock *calls_begin_also(struct sock *sock)
{
    uint32_t count = calls.count;
    if (!sock)
        return sock;
    if (count >= CALLS_MOST) {
        calls.count = count + 1;
        return sock;
    }
    // A handler may come in between, and leave its own behind: what is counted is then put in again.
    struct call *call = &calls.at[count];
    *call = (struct call){sock, __builtin_frame_address(0)};
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    calls.count = count + 1;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    *call = (struct call){sock, __builtin_frame_address(0)};
    return sock;
}

__attribute__((always_inline)) static inline struct sock *calls_begin(struct sock *sock)
{
    if (sock)
        calls_look();
    return calls_begin_also(sock);
}

__attribute__((always_inline)) static inline void calls_end(struct sock **sock)
{
    if (!*sock)
        return;
    const char *frame = __builtin_frame_address(0);
    uint32_t last = calls.count - 1;
    if (__builtin_expect(last < CALLS_MOST && calls.at[last].sock == *sock && calls.at[last].frame == frame, 1))
        calls.count = last;
    else if (!calls_end_slow(*sock, frame))
        return;
    sock_drop(*sock);
}

// As HELD, for `CALL sock = calls_begin(...)`; another one in the same function is begun with calls_begin_also.
#define CALL __attribute__((cleanup(calls_end))) struct sock *
