// poll, select and epoll, as called. Where no ring is concerned, the real call, untouched.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "core/sys.h"
#include "preload/epset.h"
#include "preload/export.h"
#include "preload/nest.h"
#include "preload/pollset.h"
#include "preload/real.h"
#include "preload/session.h"

// --- poll ---

EXPORT int poll(struct pollfd *fds, nfds_t count, int milliseconds)
{
    proc_enter();
    POLLSET set;
    if (!pollset_enter(&set, fds, count))
        return pollset_leave(&set, real.poll(fds, count, milliseconds));
    struct timespec timeout = {milliseconds / 1000, milliseconds % 1000 * 1000000l};
    return pollset_leave(&set, pollset_wait(&set, milliseconds < 0 ? NULL : &timeout, NULL));
}

EXPORT int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    proc_enter();
    POLLSET set;
    bool bad_timeout = timeout && (timeout->tv_sec < 0 || (unsigned long)timeout->tv_nsec >= 1000000000u);
    if (!pollset_enter(&set, fds, count) || bad_timeout)
        return pollset_leave(&set, real.ppoll(fds, count, timeout, mask));
    return pollset_leave(&set, pollset_wait(&set, timeout, mask));
}

EXPORT int __poll(struct pollfd *fds, nfds_t count, int milliseconds) __attribute__((alias("poll")));

extern void __chk_fail(void) __attribute__((noreturn));

EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int milliseconds, size_t room);
EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask,
                       size_t room);

EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int milliseconds, size_t room)
{
    if (room / sizeof *fds < count)
        __chk_fail();
    return poll(fds, count, milliseconds);
}

EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask,
                       size_t room)
{
    if (room / sizeof *fds < count)
        __chk_fail();
    return ppoll(fds, count, timeout, mask);
}

// --- select: as poll ---

#define SELECT_READ   (POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR)
#define SELECT_WRITE  (POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR)
#define SELECT_EXCEPT POLLPRI

// The sets may be larger than an fd_set: programs allocate them for more descriptors, and FD_ISSET checks.
static bool in_set(const fd_set *set, int fd)
{
    return set && (((const unsigned long *)set)[fd / 64] >> (fd % 64) & 1);
}

static void put_in_set(fd_set *set, int fd, bool member)
{
    if (set && !member)
        ((unsigned long *)set)[fd / 64] &= ~(1ul << (fd % 64));
}

static bool select_concerns_us(int count, const fd_set *in, const fd_set *out, const fd_set *except)
{
    for (int fd = 0; fd < count; fd++) {
        if ((in_set(in, fd) || in_set(out, fd) || in_set(except, fd)) && pollset_concerns(fd))
            return true;
    }
    return false;
}

static nfds_t to_poll(struct pollfd *fds, int count, const fd_set *in, const fd_set *out, const fd_set *except)
{
    nfds_t n = 0;
    for (int fd = 0; fd < count; fd++) {
        short events = (short)((in_set(in, fd) ? POLLIN | POLLRDNORM : 0) |
                               (in_set(out, fd) ? POLLOUT | POLLWRNORM : 0) | (in_set(except, fd) ? POLLPRI : 0));
        if (events)
            fds[n++] = (struct pollfd){.fd = fd, .events = events};
    }
    return n;
}

static int from_poll(const struct pollfd *fds, nfds_t n, fd_set *in, fd_set *out, fd_set *except)
{
    int bits = 0;
    for (nfds_t i = 0; i < n; i++) {
        int fd = fds[i].fd;
        bool r = in_set(in, fd) && (fds[i].revents & SELECT_READ);
        bool w = in_set(out, fd) && (fds[i].revents & SELECT_WRITE);
        bool e = in_set(except, fd) && (fds[i].revents & SELECT_EXCEPT);
        put_in_set(in, fd, r);
        put_in_set(out, fd, w);
        put_in_set(except, fd, e);
        bits += r + w + e;
    }
    return bits;
}

static bool any_invalid(const struct pollfd *fds, nfds_t n)
{
    for (nfds_t i = 0; i < n; i++) {
        if (fds[i].revents & POLLNVAL)
            return true;
    }
    return false;
}

static void free_many(struct pollfd **many)
{
    int saved = errno;
    free(*many);
    errno = saved;
}

#define FREED __attribute__((cleanup(free_many)))

// At a timeout all sets are cleared; upon an error they stay as they are.
static int select_by_poll(int count, fd_set *in, fd_set *out, fd_set *except, const struct timespec *timeout,
                          const sigset_t *mask)
{
    struct pollfd few[64], *fds = few;
    FREED struct pollfd *many = NULL;
    if (count > 64 && !(fds = many = malloc((size_t)count * sizeof *fds))) {
        errno = ENOMEM;
        return -1;
    }
    nfds_t n = to_poll(fds, count, in, out, except);
    int result = ppoll(fds, n, timeout, mask);
    if (result >= 0 && any_invalid(fds, n)) {
        errno = EBADF;
        result = -1;
    }
    if (result >= 0)
        result = from_poll(fds, n, in, out, except);
    return result;
}

EXPORT int select(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
{
    proc_enter();
    if (count <= 0 || count > (int)FDTAB_MAX || (timeout && (timeout->tv_sec < 0 || timeout->tv_usec < 0)) ||
        !select_concerns_us(count, in, out, except))
        return real.select(count, in, out, except, timeout);
    if (!timeout)
        return select_by_poll(count, in, out, except, NULL, NULL);
    uint64_t ns = (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_usec * 1000u;
    uint64_t deadline = nest_now() + ns;
    struct timespec wait = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    int result = select_by_poll(count, in, out, except, &wait, NULL);
    // Linux tells how much of the time is left.
    uint64_t now = nest_now(), left = deadline > now ? deadline - now : 0;
    *timeout = (struct timeval){(time_t)(left / 1000000000u), (long)(left % 1000000000u / 1000)};
    return result;
}

EXPORT int pselect(int count, fd_set *in, fd_set *out, fd_set *except, const struct timespec *timeout,
                   const sigset_t *mask)
{
    proc_enter();
    if (count <= 0 || count > (int)FDTAB_MAX || !select_concerns_us(count, in, out, except))
        return real.pselect(count, in, out, except, timeout, mask);
    return select_by_poll(count, in, out, except, timeout, mask);
}

EXPORT int __select(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
    __attribute__((alias("select")));

// --- epoll ---

static void release_set(struct epset **set)
{
    if (*set)
        epset_drop(*set);
}

// As HELD, of a set.
#define HELD_SET __attribute__((cleanup(release_set))) struct epset *

static int made(int epfd)
{
    if (epfd >= 0)
        epset_made(epfd);
    return epfd;
}

EXPORT int epoll_create(int size)
{
    proc_enter();
    return made(real.epoll_create(size));
}

EXPORT int epoll_create1(int flags)
{
    proc_enter();
    return made(real.epoll_create1(flags));
}

EXPORT int epoll_ctl(int epfd, int operation, int fd, struct epoll_event *event)
{
    HELD sock = sock_hold(fd);
    if (sock && sock_unresolved(sock) && operation != EPOLL_CTL_DEL)
        session_resolve(sock, fd);
    if (sock && fdtab_kind(fdtab_get(epfd)) != FD_OWN)
        return epset_control(epfd, operation, sock, fd, event);
    enum fd_kind kind = fdtab_kind(fdtab_get(fd));
    if (kind == FD_OWN) {
        errno = EBADF;
        return -1;
    }
    if (kind == FD_EPOLL && operation == EPOLL_CTL_ADD)
        epset_nested(fd);
    return real.epoll_ctl(epfd, operation, fd, event);
}

// The wait may have been begun before any registration was converted, by another thread.
// Then what it reports may be nothing but our own, and the wait goes on: `*again` says so.
static int plain_result(struct epset *set, struct epoll_event *events, int n, int most, bool *again)
{
    *again = false;
    if (n <= 0 || !epset_converted(set))
        return n;
    n = epset_translate(set, events, n, most);
    *again = n == 0;
    return n;
}

static int wait_result(int result)
{
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}

static bool ours(struct epset *set, const struct epoll_event *events, int most)
{
    return epset_converted(set) && events && most > 0;
}

static int wait_milliseconds(struct epset *set, int epfd, struct epoll_event *events, int most, int milliseconds,
                             const sigset_t *mask)
{
    struct timespec timeout = {milliseconds / 1000, milliseconds % 1000 * 1000000l};
    return wait_result(epset_wait(set, epfd, events, most, milliseconds < 0 ? NULL : &timeout, mask));
}

EXPORT int epoll_wait(int epfd, struct epoll_event *events, int most, int milliseconds)
{
    proc_enter();
    HELD_SET set = epset_find(epfd);
    if (!set)
        return real.epoll_wait(epfd, events, most, milliseconds);
    int result = -1;
    bool again = ours(set, events, most);
    if (!again)
        result = plain_result(set, events, real.epoll_wait(epfd, events, most, milliseconds), most, &again);
    if (again)
        result = wait_milliseconds(set, epfd, events, most, milliseconds, NULL);
    return result;
}

EXPORT int epoll_pwait(int epfd, struct epoll_event *events, int most, int milliseconds, const sigset_t *mask)
{
    proc_enter();
    HELD_SET set = epset_find(epfd);
    if (!set)
        return real.epoll_pwait(epfd, events, most, milliseconds, mask);
    int result = -1;
    bool again = ours(set, events, most);
    if (!again)
        result = plain_result(set, events, real.epoll_pwait(epfd, events, most, milliseconds, mask), most, &again);
    if (again)
        result = wait_milliseconds(set, epfd, events, most, milliseconds, mask);
    return result;
}

EXPORT int epoll_pwait2(int epfd, struct epoll_event *events, int most, const struct timespec *timeout,
                        const sigset_t *mask)
{
    proc_enter();
    HELD_SET set = epset_find(epfd);
    if (!set)
        return real.epoll_pwait2(epfd, events, most, timeout, mask);
    int result = -1;
    bool again = ours(set, events, most);
    if (!again)
        result = plain_result(set, events, real.epoll_pwait2(epfd, events, most, timeout, mask), most, &again);
    if (again)
        result = wait_result(epset_wait(set, epfd, events, most, timeout, mask));
    return result;
}
