#include "preload/pollset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/epset.h"
#include "preload/export.h"
#include "preload/fdtab.h"
#include "preload/leave.h"
#include "preload/nest.h"
#include "preload/session.h"
#include "preload/wait.h"
#include "preload/xfer.h"

bool pollset_concerns(int fd)
{
    uintptr_t entry = fdtab_get(fd);
    if (fdtab_kind(entry) == FD_EPOLL)
        return epset_converted(fdtab_object(entry));
    if (fdtab_kind(entry) != FD_SOCK)
        return false;
    if (sock_unresolved(fdtab_object(entry))) {
        HELD sock = sock_hold(fd);
        if (sock)
            session_resolve(sock, fd);
    }
    return sock_in_ring(fdtab_object(entry));
}

// A receive of another thread could attach the ring while this one sleeps in the kernel's poll, where it would not see
// the bell. A lone thread cannot be in two places.
static bool needs_gates(void)
{
    return !proc_single_threaded();
}

// By the sockets themselves: meanwhile a number may have become another socket's.
static void leave_gates(struct pollset *set)
{
    for (nfds_t i = 0; i < set->gated_count; i++) {
        gate_leave(set->gated[i]->share, &set->gated[i]->share->rx_gate);
        sock_drop(set->gated[i]);
    }
    if (set->gated && set->gated != set->gated_few)
        free(set->gated);
    set->gated = NULL;
    set->gated_count = 0;
}

static bool enter_gates(struct pollset *set)
{
    bool few = set->count <= sizeof set->gated_few / sizeof set->gated_few[0];
    set->gated = few ? set->gated_few : malloc(set->count * sizeof *set->gated);
    if (!set->gated)
        return false;
    for (nfds_t i = 0; i < set->count; i++) {
        struct sock *sock = sock_hold(set->fds[i].fd);
        if (!sock)
            continue;
        if (!gate_enter(sock->share, &sock->share->rx_gate)) {
            sock_drop(sock);
            leave_gates(set);
            return false;
        }
        set->gated[set->gated_count++] = sock;
    }
    return true;
}

bool pollset_enter(struct pollset *set, struct pollfd *fds, nfds_t count)
{
    set->fds = fds;
    set->count = count;
    set->gated = NULL;
    set->gated_count = 0;
    set->many = NULL;
    // Nothing of ours can be polled by so many, or by a null pointer: the kernel shall say so.
    if (!fds || count > FDTAB_MAX)
        return false;
    for (nfds_t i = 0; i < count; i++) {
        if (pollset_concerns(fds[i].fd))
            return true;
    }
    return needs_gates() && !enter_gates(set);
}

int pollset_leave(struct pollset *set, int result)
{
    if (set->gated) {
        int saved = errno;
        leave_gates(set);
        errno = saved;
    }
    return result;
}

void pollset_abandon(struct pollset *set)
{
    int saved = errno;
    leave_gates(set);
    free(set->many);
    errno = saved;
}

// --- looking ---

static bool own_fd(int fd)
{
    return fdtab_kind(fdtab_get(fd)) == FD_OWN;
}

// The rings' part of the answer. Returns how many descriptors have something to report.
static int look_at_rings(struct pollset *set)
{
    int ready = 0;
    for (nfds_t i = 0; i < set->count; i++) {
        struct pollfd *poll = &set->fds[i];
        poll->revents = 0;
        HELD sock = sock_hold(poll->fd);
        if (sock && sock_in_ring(sock))
            poll->revents = xfer_events(sock, poll->fd, poll->events);
        ready += poll->revents != 0;
    }
    return ready;
}

static int look_at_sets(struct pollset *set)
{
    int ready = 0;
    for (nfds_t i = 0; i < set->count; i++) {
        struct pollfd *poll = &set->fds[i];
        struct epset *inner = fdtab_kind(fdtab_get(poll->fd)) == FD_EPOLL ? epset_find(poll->fd) : NULL;
        if (!inner)
            continue;
        if ((poll->events & (POLLIN | POLLRDNORM)) && epset_ready(inner)) {
            poll->revents |= poll->events & (POLLIN | POLLRDNORM);
            ready++;
        }
        epset_drop(inner);
    }
    return ready;
}

// What the kernel is asked of this descriptor: all, if no ring takes part; of a socket in a ring only what still goes
// by TCP. The nest has the rest.
static struct pollfd for_kernel(const struct pollfd *asked)
{
    struct pollfd kernel = {.fd = asked->fd, .events = asked->events};
    HELD sock = sock_hold(asked->fd);
    if (sock && sock_in_ring(sock)) {
        short by_tcp = 0;
        by_tcp |= sock->rx_way == WAY_TCP ? POLLIN | POLLRDNORM | POLLRDHUP | POLLPRI : 0;
        by_tcp |= sock->tx_way == WAY_TCP ? POLLOUT | POLLWRNORM : 0;
        kernel.events &= by_tcp;
        // An end that was seen is reported by look_at_rings, if it was asked for; unasked it would wake us for ever.
        if (!kernel.events)
            kernel.fd = -1;
    } else if (own_fd(asked->fd)) {
        kernel.fd = asked->fd >= 0 ? INT32_MAX : -1; // not open, as far as the program knows
    }
    return kernel;
}

// Adds what the kernel says of the others. `fds` has room for all, and one more if there is a nest to watch.
static int ask_kernel(struct pollset *set, struct pollfd *fds, int nest, const struct timespec *timeout,
                      const nest_mask *mask)
{
    for (nfds_t i = 0; i < set->count; i++)
        fds[i] = for_kernel(&set->fds[i]);
    fds[set->count] = (struct pollfd){.fd = nest, .events = POLLIN};
    nfds_t count = set->count + (nest >= 0);
    struct timespec left = timeout ? *timeout : (struct timespec){0, 0};
    int type = nest_let_cancel();
    int result = (int)sys_call(SYS_ppoll, fds, count, timeout ? &left : NULL, mask, sizeof *mask);
    nest_forbid_cancel(type);
    for (nfds_t i = 0; result > 0 && i < set->count; i++)
        set->fds[i].revents |= fds[i].revents;
    return result;
}

static int count_ready(const struct pollset *set)
{
    int ready = 0;
    for (nfds_t i = 0; i < set->count; i++)
        ready += set->fds[i].revents != 0;
    return ready;
}

static const struct timespec no_time = {0, 0};

// One whole look: rings, epoll sets, and the kernel without waiting. -EINTR or the number ready.
static int look_at_all(struct pollset *set, struct pollfd *fds, const nest_mask *mask)
{
    look_at_rings(set);
    look_at_sets(set);
    int result = ask_kernel(set, fds, -1, &no_time, mask);
    int ready = count_ready(set);
    return ready || result >= 0 ? ready : result;
}

// Are there descriptors of which the rings do not tell all?
static bool kernel_needed(const struct pollset *set)
{
    for (nfds_t i = 0; i < set->count; i++) {
        struct sock *sock = sock_hold(set->fds[i].fd);
        bool all = sock && sock->rx_way != WAY_TCP && sock->tx_way != WAY_TCP;
        if (sock)
            sock_drop(sock);
        if (!all && set->fds[i].fd >= 0)
            return true;
    }
    return false;
}

// --- sleeping ---

static void arm(struct sock *sock, short events)
{
    if (sock->rx_way != WAY_TCP && (events & (POLLIN | POLLRDNORM))) {
        ring_rx_republish(&sock->session.rx);
        ring_rx_arm(&sock->session.rx);
    }
    if (sock->tx_way != WAY_TCP && (events & (POLLOUT | POLLWRNORM)))
        ring_tx_arm(&sock->session.tx);
}

// This thread's nest with all the rings of the set in it, and the rings armed. -errno if there are no descriptors.
static int nest_for(struct pollset *set)
{
    int nest = -1;
    for (nfds_t i = 0; i < set->count; i++) {
        HELD sock = sock_hold(set->fds[i].fd);
        if (!sock || !sock_in_ring(sock))
            continue;
        nest = nest_add(sock, set->fds[i].fd);
        if (nest < 0)
            return nest;
        arm(sock, set->fds[i].events);
    }
    return nest;
}

static bool time_left(uint64_t deadline, struct timespec *left)
{
    uint64_t now = nest_now();
    uint64_t ns = deadline > now ? deadline - now : 0;
    *left = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    return ns != 0;
}

#define WITHOUT_NEST 1000000l // ns between looks, if there are no descriptors to sleep with

// `timeout` may be null: for ever.
static const struct timespec *shorter(const struct timespec *timeout, const struct timespec *other)
{
    bool longer = timeout && (timeout->tv_sec > other->tv_sec ||
                              (timeout->tv_sec == other->tv_sec && timeout->tv_nsec > other->tv_nsec));
    return !timeout || longer ? other : timeout;
}

static int sleep_once(struct pollset *set, struct pollfd *fds, uint64_t deadline, const nest_mask *mask)
{
    int nest = nest_for(set);
    // What was in the nest from before, or came in by adding. Whatever comes later finds us armed, or is seen now.
    nest_gather();
    int ready = look_at_all(set, fds, mask);
    if (ready)
        return ready;
    struct timespec left;
    const struct timespec *timeout = NULL;
    if (deadline && !time_left(deadline, &left))
        return -EAGAIN;
    uint64_t until = agent_link_sleep_until(deadline);
    time_left(until, &left);
    if (until)
        timeout = &left;
    const struct timespec a_while = {0, WITHOUT_NEST};
    if (nest < 0 && nest != -1)
        timeout = shorter(timeout, &a_while);
    int result = ask_kernel(set, fds, nest < 0 ? -1 : nest, timeout, mask);
    // As many as the kernel takes (RLIMIT_NOFILE): there is no room for the nest.
    if (result == -EINVAL && nest >= 0)
        result = ask_kernel(set, fds, -1, shorter(timeout, &a_while), mask);
    if (result < 0)
        return result;
    nest_gather();
    look_at_rings(set);
    look_at_sets(set);
    for (nfds_t i = 0; result > 0 && i < set->count; i++)
        set->fds[i].revents |= fds[i].revents;
    return count_ready(set);
}

// Only rings, which tell all there is to know: the nest itself is slept in, and the kernel's poll is not needed.
static int sleep_in_nest(struct pollset *set, uint64_t deadline, const nest_mask *mask)
{
    int ready = look_at_rings(set); // armed by now
    if (ready || kernel_needed(set))
        return ready;
    int result = nest_sleep(deadline, true, mask);
    return result < 0 ? result : look_at_rings(set);
}

static bool shares_cpu(const struct pollset *set);

static int look_briefly(struct pollset *set)
{
    if (shares_cpu(set))
        return 0;
    for (int i = wait_pauses(); i > 0; i--) {
        int ready = look_at_rings(set);
        if (ready)
            return ready;
        wait_pause();
    }
    return 0;
}

// What was in a ring may have gone back to TCP at the last look.
static int look_until(struct pollset *set, struct pollfd *fds, uint64_t now, uint64_t until, bool shares_cpu,
                      const nest_mask *mask)
{
    do {
        int ready = kernel_needed(set) ? look_at_all(set, fds, mask) : look_at_rings(set);
        if (ready)
            return ready;
        now = wait_between_looks(now, shares_cpu);
    } while (now < until);
    return 0;
}

// The patience of a poll is that of the first ring in it.
static struct sock *first_ring(const struct pollset *set)
{
    for (nfds_t i = 0; i < set->count; i++) {
        struct sock *sock = sock_hold(set->fds[i].fd);
        if (sock && sock_in_ring(sock))
            return sock;
        if (sock)
            sock_drop(sock);
    }
    return NULL;
}

static bool shares_cpu(const struct pollset *set)
{
    HELD first = first_ring(set);
    return first && wait_shares_cpu(first);
}

static int wait_long(struct pollset *set, struct pollfd *fds, uint64_t deadline, const nest_mask *mask)
{
    CALL first = calls_begin(first_ring(set));
    agent_link_look();
    uint64_t began = nest_now();
    uint32_t budget = first && !wait_shares_cpu(first) ? patience_budget(&first->rx_patience, began) : 0;
    uint64_t until = deadline && began + budget > deadline ? deadline : began + budget;
    int ready = budget ? look_until(set, fds, began, until, shares_cpu(set), mask) : 0;
    bool slept = ready == 0;
    while (ready == 0) {
        ready = !kernel_needed(set) && nest_for(set) >= 0 ? sleep_in_nest(set, deadline, mask)
                                                          : sleep_once(set, fds, deadline, mask);
        agent_link_look();
    }
    if (ready > 0 && first)
        patience_learn(&first->rx_patience, nest_now() - began, slept);
    return ready;
}

// A program that polls and polls without ever waiting hears of a killed peer only from the kernel: ask it now and then.
static bool kernels_turn(void)
{
    static __thread unsigned turns __attribute__((tls_model("initial-exec")));
    return ++turns % 16 == 0;
}

static int wait_with(struct pollset *set, struct pollfd *fds, const struct timespec *timeout, const sigset_t *mask)
{
    bool kernel = kernel_needed(set);
    bool at_once = timeout && !timeout->tv_sec && !timeout->tv_nsec;
    nest_mask before, wanted;
    int ready;
    if (!kernel && !mask && (ready = look_at_rings(set)))
        return ready;
    if (!kernel && !mask && at_once && !kernels_turn())
        return 0;
    if (!mask && !at_once && (ready = look_briefly(set))) {
        // The others may be ready too. Or nothing is any more, since somebody else was faster: then it is waited for.
        if (!kernel || (ready = look_at_all(set, fds, NULL)) != 0)
            return ready;
    }
    nest_block_handled(&before, nest_now());
    if (mask)
        memcpy(&wanted, mask, sizeof wanted);
    const nest_mask *for_kernel_mask = mask ? &wanted : &before;
    ready = kernel || mask || at_once ? look_at_all(set, fds, for_kernel_mask) : 0;
    if (ready == 0 && !at_once) {
        uint64_t deadline =
            timeout ? nest_now() + (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_nsec : 0;
        ready = wait_long(set, fds, deadline, for_kernel_mask);
    }
    nest_restore_signals(&before);
    return ready == -EAGAIN ? 0 : ready;
}

#define FEW 32

int pollset_wait(struct pollset *set, const struct timespec *timeout, const sigset_t *mask)
{
    struct pollfd few[FEW + 1], *fds = few;
    if (set->count > FEW && !(fds = set->many = malloc((set->count + 1) * sizeof *fds))) {
        errno = ENOMEM;
        return -1;
    }
    int ready = wait_with(set, fds, timeout, mask);
    leave_tidy(NULL);
    if (ready >= 0)
        return ready;
    errno = -ready;
    return -1;
}
