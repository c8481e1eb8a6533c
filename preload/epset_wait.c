// What epoll_wait does: user space first, then the kernel, in which it sleeps.
#include "preload/agent_link.h"
#include "preload/epset.h"

#include <errno.h>
#include <string.h>

#include "core/sys.h"
#include "preload/epset_look.h"
#include "preload/epset_own.h"
#include "preload/leave.h"
#include "preload/nest.h"
#include "preload/wait.h"

static const struct timespec no_time = {0, 0};

// No registration is in an answer twice, be it that it was found here and by the kernel, as it went from the one to the
// other, or that the kernel was asked twice: takes out, of `n` events behind `kept`, those whose data are in an earlier
// one, which tells what they do. Returns how many there are in all.
static int join(struct epoll_event *events, int kept, int n)
{
    int end = kept;
    for (int i = kept; i < kept + n; i++) {
        int j = 0;
        while (j < kept && events[j].data.u64 != events[i].data.u64)
            j++;
        if (j < kept)
            events[j].events |= events[i].events;
        else
            events[end++] = events[i];
    }
    return end;
}

// Our own taken out, and what became hot by it looked at.
static int take_in(struct epset *set, struct epoll_event *events, int n, int most)
{
    if (!epset_enter(set))
        return 0;
    int kept = epset_look_translate(set, events, n);
    if (kept < most)
        kept = join(events, kept, epset_look_at_hot(set, events + kept, most - kept));
    epset_leave(set);
    return kept;
}

static int ask_kernel(struct epset *set, int epfd, struct epoll_event *events, int most, const struct timespec *timeout,
                      const nest_mask *mask)
{
    int type = nest_let_cancel();
    int n = (int)sys_call(SYS_epoll_pwait2, epfd, events, most, timeout, mask, sizeof *mask);
    if (n == -ENOSYS) {
        int ms = timeout ? (int)(timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000) : -1;
        n = (int)sys_call(SYS_epoll_pwait, epfd, events, most, ms, mask, sizeof *mask);
    }
    nest_forbid_cancel(type);
    if (n <= 0)
        return n;
    int kept = take_in(set, events, n, most);
    // Only news that turned out to be none: -EAGAIN tells it from a timeout.
    return kept ? kept : -EAGAIN;
}

static int look(struct epset *set, struct epoll_event *events, int most)
{
    if (!epset_enter(set))
        return 0;
    int n = epset_look_at_hot(set, events, most);
    epset_leave(set);
    return n;
}

// So often in a row may epoll_wait be answered from the rings alone.
#define SERVED_MOST 16u

// Answers full of what is ours, after which the kernel is left for the next time.
#define TRIES_MOST 16

// What the kernel has of its own, without waiting, up to `most`. Behind what is ours there may be more.
static int ask_for_kernels(struct epset *set, int epfd, struct epoll_event *events, int most, const nest_mask *mask)
{
    int kept = 0;
    for (int tries = 0, asked = most, got = most; tries < TRIES_MOST && got == asked && kept < most; tries++) {
        asked = most - kept;
        got = (int)sys_call(SYS_epoll_pwait, epfd, events + kept, asked, 0, mask, sizeof *mask);
        if (got <= 0 || !epset_enter(set))
            break;
        int own = epset_look_translate(set, events + kept, got);
        epset_leave(set);
        kept = join(events, kept, own);
    }
    return kept;
}

// Adds that to `n` events of the rings. Returns how many there are then.
static int add_kernels(struct epset *set, int epfd, struct epoll_event *events, int n, int most, const nest_mask *mask)
{
    struct epoll_event more[64];
    int room = most - n < 64 ? most - n : 64;
    set->served = set->turn = 0;
    int got = ask_for_kernels(set, epfd, more, room, mask);
    memcpy(events + n, more, (size_t)got * sizeof *more);
    return join(events, n, got);
}

// What the rings have; the kernel is asked as well when it has not been for a while, and first when the rings alone
// have filled the answers until each of them was in one.
static int serve_hot(struct epset *set, int epfd, struct epoll_event *events, int most, const nest_mask *mask)
{
    int n = 0;
    if (set->full && epset_look_kernels_turn(set))
        n = add_kernels(set, epfd, events, 0, most, mask);
    if (n < most)
        n = join(events, n, look(set, events + n, most - n));
    set->full = n == most;
    if (n)
        set->served++;
    return n == 0 || n == most || set->served < SERVED_MOST ? n : add_kernels(set, epfd, events, n, most, mask);
}

static int look_until(struct epset *set, int epfd, struct epoll_event *events, int most, uint64_t now, uint64_t until,
                      bool shares_cpu, const nest_mask *mask)
{
    do {
        int n = look(set, events, most);
        if (n)
            return n;
        n = ask_kernel(set, epfd, events, most, &no_time, mask);
        if (n && n != -EAGAIN)
            return n;
        now = wait_between_looks(now, shares_cpu);
    } while (now < until);
    return 0;
}

enum hotness { NOTHING_HOT, HOT_HERE, HOT_ELSEWHERE }; // as far as the first of the hot ones tells of its CPU

static enum hotness hotness(struct epset *set)
{
    enum hotness hotness = NOTHING_HOT;
    if (!epset_enter(set))
        return hotness;
    if (set->hot)
        hotness = wait_shares_cpu(set->hot->sock) ? HOT_HERE : HOT_ELSEWHERE;
    epset_leave(set);
    return hotness;
}

static int look_briefly(struct epset *set, struct epoll_event *events, int most)
{
    for (int i = wait_pauses(); i > 0; i--) {
        int n = look(set, events, most);
        if (n)
            return n;
        wait_pause();
    }
    return 0;
}

static void wake_up(struct epset **asleep)
{
    if (*asleep)
        (*asleep)->sleepers--;
}

static int sleep_in_kernel(struct epset *set, int epfd, struct epoll_event *events, int most, uint64_t deadline,
                           const nest_mask *mask)
{
    if (!epset_enter(set))
        return -EINTR;
    int n = epset_look_and_arm(set, events, most);
    set->sleepers += n == 0;
    // Also if the thread is cancelled.
    __attribute__((cleanup(wake_up))) struct epset *asleep = n == 0 ? set : NULL;
    epset_leave(set);
    if (n)
        return n;
    struct timespec left, *timeout = NULL;
    uint64_t until = agent_link_sleep_until(deadline);
    if (until) {
        uint64_t now = nest_now();
        uint64_t ns = until > now ? until - now : 0;
        left = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
        timeout = &left;
    }
    n = ask_kernel(set, epfd, events, most, timeout, mask);
    wake_up(&asleep);
    asleep = NULL;
    if (n == 0 && until != deadline) {
        agent_link_look();
        n = -EAGAIN;
    }
    return n;
}

// Signals with handlers are blocked from the first yield to the end of the wait, so that a handler runs where the kernel
// would let it run: in the final epoll_pwait, which then says EINTR.
static int wait_long(struct epset *set, int epfd, struct epoll_event *events, int most, uint64_t deadline,
                     const nest_mask *wanted_mask)
{
    nest_mask before;
    agent_link_look();
    uint64_t began = nest_now();
    nest_block_handled(&before, began);
    const nest_mask *mask = wanted_mask ? wanted_mask : &before;
    enum hotness hot = hotness(set);
    uint32_t budget = hot == HOT_ELSEWHERE ? patience_budget(&set->patience, began) : 0;
    uint64_t until = deadline && began + budget > deadline ? deadline : began + budget;
    int n = budget ? look_until(set, epfd, events, most, began, until, false, mask) : 0;
    bool slept = n == 0;
    while (n == 0 || n == -EAGAIN) {
        n = sleep_in_kernel(set, epfd, events, most, deadline, mask);
        if (n == -EINTR && !nest_handlers(mask))
            n = -EAGAIN;
        if (n == -EAGAIN && deadline && nest_now() >= deadline)
            n = 0;
        if (n == 0)
            break;
    }
    if (n > 0 && hot != NOTHING_HOT)
        patience_learn(&set->patience, nest_now() - began, slept);
    nest_restore_signals(&before);
    return n;
}

static int wait_in_set(struct epset *set, int epfd, struct epoll_event *events, int most,
                       const struct timespec *timeout, const nest_mask *mask)
{
    int n = serve_hot(set, epfd, events, most, mask);
    if (n == 0 && timeout && !timeout->tv_sec && !timeout->tv_nsec) {
        set->served = 0;
        n = ask_kernel(set, epfd, events, most, &no_time, mask);
        return n == -EAGAIN ? 0 : n;
    }
    if (n == 0 && hotness(set) == HOT_ELSEWHERE)
        n = look_briefly(set, events, most);
    if (n)
        return n;
    set->served = 0;
    uint64_t deadline = 0;
    if (timeout)
        deadline = nest_now() + (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_nsec;
    return wait_long(set, epfd, events, most, deadline, mask);
}

int epset_wait(struct epset *set, int epfd, struct epoll_event *events, int most, const struct timespec *timeout,
               const sigset_t *mask)
{
    nest_mask wanted;
    if (mask)
        memcpy(&wanted, mask, sizeof wanted);
    epset_known_as(set, epfd);
    int n = wait_in_set(set, epfd, events, most, timeout, mask ? &wanted : NULL);
    if ((set->sleepers || set->nested) && epset_enter(set)) {
        epset_look_leave_to_sleepers(set);
        epset_leave(set);
    }
    leave_tidy(NULL);
    return n;
}

int epset_translate(struct epset *set, struct epoll_event *events, int n, int most)
{
    int kept = take_in(set, events, n, most);
    if (epset_enter(set)) {
        epset_look_leave_to_sleepers(set);
        epset_leave(set);
    }
    return kept;
}

bool epset_ready(struct epset *set)
{
    if (!epset_enter(set))
        return false;
    bool ready = epset_look_ready(set);
    epset_leave(set);
    return ready;
}
