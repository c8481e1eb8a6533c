#include "preload/lock.h"

#include <linux/futex.h>
#include <signal.h>

#include "core/sys.h"

__thread uint32_t lock_self_known __attribute__((tls_model("initial-exec")));

uint32_t lock_ask_self(void)
{
    lock_self_known = (uint32_t)sys_call(SYS_gettid);
    return lock_self_known;
}

void lock_forked(void)
{
    lock_self_known = 0;
}

// Looks for a free lock before sleeping: what is done under these locks is short.
#define LOOKS 100

static bool take_free(struct lock *lock, uint32_t self)
{
    uint32_t nobody = 0;
    return !atomic_load_explicit(&lock->word, memory_order_relaxed) &&
           atomic_compare_exchange_strong(&lock->word, &nobody, self);
}

// Whoever has slept takes the lock as one that is waited for: there may be more sleepers than it.
void lock_wait(struct lock *lock, uint32_t self)
{
    for (int i = 0; i < LOOKS; i++) {
        if (take_free(lock, self))
            return;
    }
    for (;;) {
        uint32_t seen = atomic_load(&lock->word);
        if (!seen && atomic_compare_exchange_strong(&lock->word, &seen, self | LOCK_WAITED))
            return;
        if (!seen || (!(seen & LOCK_WAITED) && !atomic_compare_exchange_strong(&lock->word, &seen, seen | LOCK_WAITED)))
            continue;
        sys_call(SYS_futex, &lock->word, FUTEX_WAIT_PRIVATE, seen | LOCK_WAITED, NULL);
    }
}

void lock_wake(struct lock *lock)
{
    sys_call(SYS_futex, &lock->word, FUTEX_WAKE_PRIVATE, 1);
}

struct lock_guarded lock_guard(struct lock *lock)
{
    struct lock_guarded guarded;
    uint64_t all = ~0ull;
    sys_call(SYS_rt_sigprocmask, SIG_BLOCK, &all, &guarded.signals, sizeof all);
    guarded.taken = lock_enter(lock);
    return guarded;
}

void lock_unguard(struct lock *lock, const struct lock_guarded *guarded)
{
    if (guarded->taken)
        lock_leave(lock);
    sys_call(SYS_rt_sigprocmask, SIG_SETMASK, &guarded->signals, NULL, sizeof guarded->signals);
}
