#include "preload/calls.h"

#include <signal.h>

#include "core/sys.h"

__thread struct calls calls __attribute__((tls_model("initial-exec")));

// A stack that lies farther off is another one: of a program that changes stacks by itself.
#define SAME_STACK 65536

static bool on_alternate_stack(void)
{
    stack_t stack;
    return sys_call(SYS_sigaltstack, NULL, &stack) != 0 || (stack.ss_flags & SS_ONSTACK);
}

// The list is shortened first, since dropping may take long, and be interrupted.
static void drop_last(void)
{
    struct sock *sock = calls.at[calls.count - 1].sock;
    calls.count--;
    sock_drop(sock);
}

static uint32_t listed(void)
{
    return calls.count < CALLS_MOST ? calls.count : CALLS_MOST;
}

static bool was_jumped_over(const char *frame)
{
    const char *last = calls.count ? calls.at[calls.count - 1].frame : NULL;
    return last && last <= frame && frame - last < SAME_STACK;
}

void calls_drop_jumped(const char *frame)
{
    if (on_alternate_stack())
        return;
    while (was_jumped_over(frame))
        drop_last();
}

// What stands behind one that ends was jumped over.
bool calls_end_slow(struct sock *sock, const char *frame)
{
    if (calls.count > CALLS_MOST) {
        calls.count--;
        return true;
    }
    uint32_t at = calls.count;
    while (at && (calls.at[at - 1].sock != sock || calls.at[at - 1].frame != frame))
        at--;
    if (!at)
        return false;
    while (calls.count > at)
        drop_last();
    calls.count--;
    return true;
}

void calls_drop_all(void)
{
    calls.count = listed();
    while (calls.count)
        drop_last();
}

void calls_count_again(void)
{
    for (uint32_t i = 0; i < listed(); i++)
        atomic_fetch_add(&calls.at[i].sock->refs, 1);
}
