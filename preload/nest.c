#include "preload/nest.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <time.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/calls.h"
#include "preload/lock.h"
#include "preload/proc.h"
#include "preload/session.h"
#include "preload/sock.h"

// A thread uses its own without a lock. Of others' only the list and the numbers of descriptors are touched, with the
// lock; the numbers are atomic, because nest_moved changes them under their thread's eyes.
struct nest {
    _Atomic int fd;
    _Atomic int signals; // signalfd, in the nest; -1 until a wait first needs it
    nest_mask signals_mask;
    bool signals_watched; // signals is in the set
    nest_mask let_by;     // what was taken for ignored when signals were last blocked
    uint32_t *known;      // by a socket's index: the number of the session that stands in the nest, 0 for none
    uint32_t size;
    struct nest *sibling; // in the list of all, so that a forked child can close what it does not need
};

static __thread struct nest nest __attribute__((tls_model("initial-exec"))) = {.fd = -1, .signals = -1};
static struct nest *all_nests;
static struct lock all_lock; // held with signals held back: a handler may wait, or move a descriptor, too
static pthread_key_t at_thread_exit;

// Names of things in a nest, in epoll's user data: what it is in the two top bits, then generation and index.
#define TAG_BELL   (0ull << 62)
#define TAG_TCP    (1ull << 62)
#define TAG_SIGNAL (2ull << 62)
#define TAG_KIND   (3ull << 62)

static uint64_t tag(uint64_t kind, const struct sock *sock)
{
    return kind | (uint64_t)(sock->generation & 0x3fffffff) << 32 | sock->index;
}

static void unlink_nest(struct nest *gone)
{
    struct lock_guarded guarded = lock_guard(&all_lock);
    struct nest **link = &all_nests;
    while (*link && *link != gone)
        link = &(*link)->sibling;
    if (*link)
        *link = gone->sibling;
    lock_unguard(&all_lock, &guarded);
}

static void drop(struct nest *gone)
{
    proc_close_own_fd(gone->fd);
    proc_close_own_fd(gone->signals);
    if (gone->known)
        munmap(gone->known, gone->size * sizeof *gone->known);
    *gone = (struct nest){.fd = -1, .signals = -1, .sibling = gone->sibling};
}

static void thread_exits(void *value)
{
    struct nest *gone = (struct nest *)value;
    calls_drop_all();
    unlink_nest(gone);
    drop(gone);
}

void nest_init(void)
{
    pthread_key_create(&at_thread_exit, thread_exits);
}

// The nests of our threads are gone with them, and the one of this thread is an epoll instance shared with the parent.
void nest_forked(void)
{
    all_lock = (struct lock){0};
    for (struct nest *each = all_nests; each; each = each->sibling)
        drop(each);
    all_nests = NULL;
    pthread_setspecific(at_thread_exit, NULL);
}

static bool move_if(_Atomic int *place, int from, int to)
{
    return atomic_compare_exchange_strong(place, &from, to);
}

bool nest_moved(int from, int to)
{
    bool found = false;
    struct lock_guarded guarded = lock_guard(&all_lock);
    for (struct nest *each = all_nests; each && !found; each = each->sibling)
        found = move_if(&each->fd, from, to) || move_if(&each->signals, from, to);
    lock_unguard(&all_lock, &guarded);
    return found;
}

static int make(void)
{
    int fd = (int)sys_call(SYS_epoll_create1, EPOLL_CLOEXEC);
    if (fd < 0)
        return fd;
    fd = proc_own_fd(fd);
    if (fd < 0)
        return -EMFILE;
    nest.fd = fd;
    struct lock_guarded guarded = lock_guard(&all_lock);
    nest.sibling = all_nests;
    all_nests = &nest;
    lock_unguard(&all_lock, &guarded);
    pthread_setspecific(at_thread_exit, &nest);
    return 0;
}

int nest_fd(void)
{
    return nest.fd;
}

static int add(int fd, uint64_t data)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = data};
    int result = (int)sys_call(SYS_epoll_ctl, nest.fd, EPOLL_CTL_ADD, fd, &event);
    // The same open file under the same number, but another socket of ours: it was closed where we did not see it.
    if (result == -EEXIST)
        result = (int)sys_call(SYS_epoll_ctl, nest.fd, EPOLL_CTL_MOD, fd, &event);
    return result;
}

// Room for all sockets up to that index.
static bool grow(uint32_t index)
{
    uint32_t size = (index | 1023) + 1;
    uint32_t *known = mmap(NULL, size * sizeof *known, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (known == MAP_FAILED)
        return false;
    if (nest.known) {
        memcpy(known, nest.known, nest.size * sizeof *known);
        munmap(nest.known, nest.size * sizeof *known);
    }
    nest.known = known;
    nest.size = size;
    return true;
}

// Nothing is ever taken out by hand: the kernel does that when a file is closed, and a number that is in use again must
// not take out its successor.
int nest_add(struct sock *sock, int fd)
{
    if (nest.fd < 0) {
        int result = make();
        if (result < 0)
            return result;
    }
    if (sock->index >= nest.size && !grow(sock->index))
        return -ENOMEM;
    if (nest.known[sock->index] == sock->session.in_nests)
        return nest.fd;
    int result = add(sock->session.bell, tag(TAG_BELL, sock));
    if (!result)
        result = add(fd, tag(TAG_TCP, sock));
    // Its other end goes with the agent, and then nothing more comes from another host.
    if (!result && session_is_far(sock))
        result = add(sock->session.lifeline, tag(TAG_TCP, sock));
    if (result)
        return result;
    nest.known[sock->index] = sock->session.in_nests;
    return nest.fd;
}

// --- signals ---

// Never blocked: the two that glibc keeps for itself (cancellation, set*id), and those that report an error of the
// running code.
#define BIT(signal) (1ull << ((signal)-1))
#define LET_THROUGH \
    (BIT(32) | BIT(33) | BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGSYS) | \
     BIT(SIGKILL) | BIT(SIGSTOP))

// The kernel's own struct sigaction.
struct kernel_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    nest_mask mask;
};

// For how long (ns) it stays known which signals are ignored: asking takes some microseconds.
#define IGNORED_FOR 2000000u

static bool ignored_by_default(int signal)
{
    return signal == SIGCHLD || signal == SIGURG || signal == SIGWINCH;
}

static bool handled(int signal, struct kernel_action *action)
{
    return sys_call(SYS_rt_sigaction, signal, NULL, action, sizeof action->mask) == 0 && action->handler != SIG_DFL &&
           action->handler != SIG_IGN;
}

static nest_mask ask_ignored(void)
{
    nest_mask ignored = 0;
    for (int signal = 1; signal <= 64; signal++) {
        struct kernel_action action;
        if ((LET_THROUGH & BIT(signal)) || sys_call(SYS_rt_sigaction, signal, NULL, &action, sizeof action.mask))
            continue;
        if (action.handler == SIG_IGN || (action.handler == SIG_DFL && ignored_by_default(signal)))
            ignored |= BIT(signal);
    }
    return ignored;
}

// Two threads may ask at once; each learns the truth, and what one leaves to the next is as young as it says or younger.
static nest_mask ignored_signals(uint64_t now)
{
    static _Atomic uint64_t asked;
    static _Atomic nest_mask known;
    uint64_t last = atomic_load_explicit(&asked, memory_order_acquire);
    if (last && now - last < IGNORED_FOR)
        return atomic_load_explicit(&known, memory_order_relaxed);
    nest_mask ignored = ask_ignored();
    atomic_store_explicit(&known, ignored, memory_order_relaxed);
    atomic_store_explicit(&asked, now, memory_order_release);
    return ignored;
}

void nest_block_handled(nest_mask *before, uint64_t now)
{
    nest.let_by = ignored_signals(now);
    nest_mask most = ~(LET_THROUGH | nest.let_by);
    sys_call(SYS_rt_sigprocmask, SIG_BLOCK, &most, before, sizeof most);
}

// What was taken for ignored a moment ago may have been given a handler since.
static void block_handled_since(void)
{
    struct kernel_action action;
    nest_mask handlers = 0;
    for (nest_mask left = nest.let_by; left; left &= left - 1) {
        int signal = __builtin_ctzll(left) + 1;
        handlers |= handled(signal, &action) ? BIT(signal) : 0;
    }
    nest.let_by &= ~handlers;
    if (handlers)
        sys_call(SYS_rt_sigprocmask, SIG_BLOCK, &handlers, NULL, sizeof handlers);
}

void nest_restore_signals(const nest_mask *mask)
{
    sys_call(SYS_rt_sigprocmask, SIG_SETMASK, mask, NULL, sizeof *mask);
}

// The nest also wakes for signals that we hold back, but not for those that the program itself has blocked.
static void make_signals(const nest_mask *before)
{
    nest_mask wanted = ~(*before | LET_THROUGH | nest.let_by);
    if (nest.signals >= 0 && nest.signals_mask == wanted)
        return;
    int fd = (int)sys_call(SYS_signalfd4, nest.signals, &wanted, sizeof wanted, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return;
    nest.signals_mask = wanted;
    if (nest.signals < 0)
        nest.signals = proc_own_fd(fd);
}

static void watch_signals(const nest_mask *before)
{
    make_signals(before);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = TAG_SIGNAL};
    if (nest.signals_watched || nest.signals < 0)
        return;
    nest.signals_watched = sys_call(SYS_epoll_ctl, nest.fd, EPOLL_CTL_ADD, nest.signals, &event) == 0;
}

// poll lets the kernel run handlers while it sleeps: a pending signal must not look like an event to it.
static void ignore_signals(void)
{
    if (nest.signals_watched)
        sys_call(SYS_epoll_ctl, nest.fd, EPOLL_CTL_DEL, nest.signals, NULL);
    nest.signals_watched = false;
}

bool nest_handlers(const nest_mask *mask)
{
    struct kernel_action action;
    for (int signal = 1; signal <= 64; signal++) {
        if (!((*mask | LET_THROUGH) & BIT(signal)) && handled(signal, &action))
            return true;
    }
    return false;
}

static nest_mask pending_signals(void)
{
    nest_mask pending = 0;
    sys_call(SYS_rt_sigpending, &pending, sizeof pending);
    return pending;
}

// Has one of these signals a handler that asks for the interrupted call to fail with EINTR?
static bool handler_interrupts(nest_mask signals, const nest_mask *before, bool interruptible)
{
    signals &= ~(*before | LET_THROUGH);
    for (int signal = 1; signal <= 64; signal++) {
        struct kernel_action action;
        if (!(signals & BIT(signal)) || !handled(signal, &action))
            continue;
        if (interruptible || !(action.flags & SA_RESTART))
            return true;
    }
    return false;
}

// Lets the handlers run that are due. `woken`: the kernel's own call was interrupted. By what was let by, then, if that
// was given a handler since it was asked for.
static int handle_signals(bool woken, bool interruptible, const nest_mask *before)
{
    bool interrupts = handler_interrupts(pending_signals() | (woken ? nest.let_by : 0), before, interruptible);
    nest_mask again;
    nest_restore_signals(before);
    pthread_testcancel();
    nest_block_handled(&again, nest_now());
    return interrupts ? -EINTR : 0;
}

// Is any pending that only we hold back?
static bool signal_due(const nest_mask *before)
{
    return pending_signals() & ~(*before | LET_THROUGH);
}

int nest_hear_signals(bool interruptible, const nest_mask *before)
{
    return signal_due(before) ? handle_signals(false, interruptible, before) : 0;
}

// Without a descriptor for it, pending signals are looked for so often (ns).
#define WITHOUT_SIGNALFD 10000000u

static uint64_t look_for_signals_by(uint64_t until)
{
    if (nest.signals >= 0)
        return until;
    uint64_t soon = nest_now() + WITHOUT_SIGNALFD;
    return !until || soon < until ? soon : until;
}

// --- sleeping ---

uint64_t nest_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void note_tcp(uint64_t data)
{
    struct sock *sock = sock_find((uint32_t)data, (uint32_t)(data >> 32) & 0x3fffffff);
    if (!sock)
        return;
    atomic_store_explicit(&sock->tcp_event, 1, memory_order_release);
    sock_drop(sock);
}

#define EVENTS 16

static int take_in(const struct timespec *timeout, bool *signalled)
{
    struct epoll_event events[EVENTS];
    int type = nest_let_cancel();
    int n = (int)sys_call(SYS_epoll_pwait2, nest.fd, events, EVENTS, timeout, NULL, 0);
    if (n == -ENOSYS) {
        int ms = timeout ? (int)(timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000) : -1;
        n = (int)sys_call(SYS_epoll_pwait, nest.fd, events, EVENTS, ms, NULL, 0);
    }
    nest_forbid_cancel(type);
    for (int i = 0; i < n; i++) {
        if ((events[i].data.u64 & TAG_KIND) == TAG_TCP)
            note_tcp(events[i].data.u64);
        else if ((events[i].data.u64 & TAG_KIND) == TAG_SIGNAL)
            *signalled = true;
    }
    return n;
}

void nest_gather(void)
{
    struct timespec none = {0, 0};
    bool signalled;
    ignore_signals();
    while (nest.fd >= 0 && take_in(&none, &signalled) == EVENTS)
        ;
}

int nest_sleep(uint64_t deadline, bool interruptible, const nest_mask *before)
{
    block_handled_since();
    watch_signals(before);
    uint64_t until = look_for_signals_by(agent_link_sleep_until(deadline));
    struct timespec timeout;
    if (until) {
        uint64_t now = nest_now();
        uint64_t left = until > now ? until - now : 0;
        timeout = (struct timespec){(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
    }
    bool signalled = false;
    int n = take_in(until ? &timeout : NULL, &signalled);
    signalled |= nest.signals < 0 && signal_due(before);
    if (n == 0 && !signalled)
        return until == deadline ? -EAGAIN : 0;
    // -EINTR here comes from what was let through: a stop and continue, or a cancellation; or from what was let by.
    if (signalled || n == -EINTR)
        return handle_signals(n == -EINTR, interruptible, before);
    return n < 0 ? n : 0;
}

#define WITHOUT_NEST 1000000 // ns

int nest_do_without(uint64_t deadline, bool interruptible, const nest_mask *before)
{
    struct timespec a_while = {0, WITHOUT_NEST};
    sys_ppoll(NULL, 0, &a_while);
    int result = nest_hear_signals(interruptible, before);
    return result == 0 && deadline && nest_now() >= deadline ? -EAGAIN : result;
}
