// The calls that make, copy, close and configure descriptors.
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/ending.h"
#include "preload/epset.h"
#include "preload/export.h"
#include "preload/handover.h"
#include "preload/leave.h"
#include "preload/real.h"
#include "preload/session.h"
#include "preload/sock.h"
#include "preload/xfer.h"

static int no_such_descriptor(void)
{
    errno = EBADF;
    return -1;
}

static bool is_own(int fd)
{
    return fdtab_kind(fdtab_get(fd)) == FD_OWN;
}

// --- making ---

EXPORT int socket(int domain, int type, int protocol)
{
    proc_enter();
    int fd = real.socket(domain, type, protocol);
    if (fd >= 0 && (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
        (protocol == 0 || protocol == IPPROTO_TCP))
        sock_made(fd, (type & SOCK_NONBLOCK) != 0);
    return fd;
}

static int accepted(int listener, int fd, bool nonblocking)
{
    if (fd >= 0 && fdtab_kind(fdtab_get(listener)) == FD_SOCK) {
        sock_accepted(listener, fd, nonblocking);
        agent_link_expect();
    }
    return fd;
}

EXPORT int accept(int fd, struct sockaddr *address, socklen_t *length)
{
    proc_enter();
    return accepted(fd, real.accept(fd, address, length), false);
}

EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    proc_enter();
    return accepted(fd, real.accept4(fd, address, length, flags), (flags & SOCK_NONBLOCK) != 0);
}

// connect to AF_UNSPEC takes a connection apart, and the socket may become another one.
EXPORT int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    CALL sock = calls_begin(sock_hold(fd));
    bool dissolves = sock && address && length >= sizeof address->sa_family && address->sa_family == AF_UNSPEC;
    // A session that is on its way to us would be taken for the next connection's.
    if (dissolves && !atomic_load(&sock->attached) && atomic_load(&sock->offer) == OFFER_MADE)
        sock_pin(sock, "its connection was dissolved");
    int result = real.connect(fd, address, length);
    if (dissolves && result == 0 && atomic_load(&sock->attached))
        leave_dissolved(sock, fd);
    return result;
}

// --- closing ---

// What we hold of the socket is let go after the kernel has closed it: whoever sees our lifeline end can then see, too,
// whether the connection has ended with it.
static int close_ours(int fd)
{
    HELD sock = sock_hold(fd);
    sock_closing(fd, sock != NULL);
    return real.close(fd);
}

EXPORT int close(int fd)
{
    proc_enter();
    uintptr_t entry = fdtab_get(fd);
    if (__builtin_expect(entry != 0, 0)) {
        if (fdtab_kind(entry) == FD_OWN)
            return no_such_descriptor();
        calls_look();
        return close_ours(fd);
    }
    return real.close(fd);
}

// Calls `closing` for each span of descriptors between our own.
static int around_own(unsigned first, unsigned last, int flags)
{
    while (first <= last) {
        int own = (int)first;
        while ((own = fdtab_next(own)) >= 0 && (unsigned)own <= last && !is_own(own))
            own++;
        unsigned until = own < 0 || (unsigned)own > last ? last : (unsigned)own - 1;
        if (until >= first && !(own >= 0 && (unsigned)own == first)) {
            int result = real.close_range(first, until, flags);
            if (result)
                return result;
        }
        if (until == last && !(own >= 0 && (unsigned)own <= last))
            return 0;
        first = (unsigned)own + 1;
        if (first == 0)
            return 0;
    }
    return 0;
}

static void forget_range(unsigned first, unsigned last)
{
    for (int fd = first > INT32_MAX ? -1 : fdtab_next((int)first); fd >= 0 && (unsigned)fd <= last;
         fd = fdtab_next(fd + 1))
        sock_closing(fd, 0);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    proc_enter();
    if (first > last || (flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)))
        return real.close_range(first, last, flags);
    if (!(flags & CLOSE_RANGE_CLOEXEC))
        forget_range(first, last);
    // Unshared once, the table is our own.
    if (flags & CLOSE_RANGE_UNSHARE) {
        real.close_range(~0u, ~0u, CLOSE_RANGE_UNSHARE);
        flags &= ~CLOSE_RANGE_UNSHARE;
    }
    return around_own(first, last, flags);
}

EXPORT void closefrom(int first)
{
    proc_enter();
    forget_range(first < 0 ? 0 : (unsigned)first, ~0u);
    if (around_own(first < 0 ? 0 : (unsigned)first, ~0u, 0))
        real.closefrom(first);
}

EXPORT int shutdown(int fd, int how)
{
    HELD sock = sock_hold(fd);
    if (sock)
        session_follow(sock, fd);
    if (!sock || !sock->attached)
        return real.shutdown(fd, how);
    struct end_shared *end = sock->session.end;
    // What was sent before must be visible before the FIN is: it is, since sends publish before they return. And so must
    // the announcement of the end be.
    if (how == SHUT_WR || how == SHUT_RDWR) {
        atomic_store(&sock->session.tx.shared->tx_closed, CLOSED_ORDERLY);
        session_tell_agent(sock);
    }
    bool delayed =
        (how == SHUT_WR || how == SHUT_RDWR) && (leave_delays_shutdown(sock, fd) || ending_delays_shutdown(sock, fd));
    int result = !delayed ? real.shutdown(fd, how) : how == SHUT_RDWR ? real.shutdown(fd, SHUT_RD) : 0;
    if (result == 0) {
        if (how == SHUT_WR || how == SHUT_RDWR)
            atomic_store(&end->tx_shut, 1);
        if (how == SHUT_RD || how == SHUT_RDWR)
            atomic_store(&end->rx_shut, 1);
        atomic_store(&sock->tcp_event, 1);
        session_ring_own_bell(sock);
    }
    return result;
}

// --- copying ---

// A vfork child copies descriptors of its own; what its parent's memory says of that number is its parent's. What becomes
// a standard file, stdio may use from now on.
static int copied(int from, int to)
{
    if (to < 0 || !fdtab_get(from) || !proc_owns_memory())
        return to;
    sock_duplicated(from, to);
    if (to <= STDERR_FILENO)
        handover_to_stdio(to);
    return to;
}

EXPORT int dup(int fd)
{
    proc_enter();
    if (is_own(fd))
        return no_such_descriptor();
    return copied(fd, real.dup(fd));
}

// The target is closed by the kernel, if it was open; if it is ours, we give way.
static bool make_way(int from, int to)
{
    if (from == to || is_own(from) || !fdtab_get(to) || !proc_owns_memory())
        return true;
    if (is_own(to))
        return proc_vacate_fd(to);
    // An error leaves the target as it was, so the source is looked at before anything is forgotten.
    if (sys_fcntl(from, F_GETFD, 0) >= 0)
        sock_closing(to, 0);
    return true;
}

EXPORT int dup2(int from, int to)
{
    proc_enter();
    if (is_own(from))
        return no_such_descriptor();
    if (!make_way(from, to)) {
        errno = EBUSY;
        return -1;
    }
    int result = real.dup2(from, to);
    return from == to ? result : copied(from, result);
}

EXPORT int dup3(int from, int to, int flags)
{
    proc_enter();
    if (is_own(from))
        return no_such_descriptor();
    if (!(flags & ~O_CLOEXEC) && !make_way(from, to)) {
        errno = EBUSY;
        return -1;
    }
    return copied(from, real.dup3(from, to, flags));
}

// --- fcntl and ioctl ---

static void note_status_flags(int fd, long flags)
{
    HELD sock = sock_hold(fd);
    if (!sock)
        return;
    if (flags & O_ASYNC)
        leave_or_pin(sock, fd, "O_ASYNC");
    atomic_store(&sock->share->nonblocking, (flags & O_NONBLOCK) != 0);
}

static int do_fcntl(int fd, int command, void *argument)
{
    proc_enter();
    if (is_own(fd))
        return no_such_descriptor();
    int result = real.fcntl(fd, command, argument);
    if (result < 0 || !fdtab_get(fd))
        return result;
    if (command == F_SETFL)
        note_status_flags(fd, (long)argument);
    else if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        copied(fd, result);
    return result;
}

// The argument is a pointer or an int, or is not there at all; passed on as it came.
EXPORT int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return do_fcntl(fd, command, argument);
}

EXPORT int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));
EXPORT int __fcntl(int fd, int command, ...) __attribute__((alias("fcntl")));

static int ring_ioctl(struct sock *sock, int fd, unsigned long request, void *argument, bool *done)
{
    *done = false;
    if (request == FIONBIO || request == FIOASYNC) {
        int result = real.ioctl(fd, request, argument);
        *done = true;
        if (result == 0 && request == FIONBIO)
            atomic_store(&sock->share->nonblocking, *(int *)argument != 0);
        if (result == 0 && request == FIOASYNC && *(int *)argument)
            leave_or_pin(sock, fd, "FIOASYNC");
        return result;
    }
    if (request == SIOCOUTQ && argument && atomic_load(&sock->tx_way) != WAY_TCP) {
        int result = real.ioctl(fd, request, argument);
        *done = true;
        if (result == 0)
            *(int *)argument += (int)xfer_unread(sock);
        return result;
    }
    if (request == FIONREAD && argument && atomic_load(&sock->rx_way) != WAY_TCP) {
        int64_t bytes = xfer_readable(sock, fd);
        *done = bytes >= 0;
        if (*done)
            *(int *)argument = bytes > INT32_MAX ? INT32_MAX : (int)bytes;
    }
    return 0;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    HELD sock = sock_hold(fd);
    if (sock) {
        bool done;
        int result = ring_ioctl(sock, fd, request, argument, &done);
        if (done)
            return result;
    } else if (is_own(fd)) {
        return no_such_descriptor();
    }
    return real.ioctl(fd, request, argument);
}

// --- options ---

#ifndef SO_RCVTIMEO_NEW
#define SO_RCVTIMEO_NEW 66
#define SO_SNDTIMEO_NEW 67
#endif

// Timestamps, zero copy: what only the kernel can say of the bytes.
static bool pins(int level, int option)
{
    return level == SOL_SOCKET &&
           (option == SO_TIMESTAMP || option == SO_TIMESTAMPNS || option == SO_TIMESTAMPING || option == 63 ||
            option == 64 || option == 65 || option == SO_ZEROCOPY || option == SO_PEEK_OFF || option == SO_OOBINLINE);
}

// Kernel TLS, repair, programs on the socket: what only the kernel can do with the bytes, from the next one on.
static bool changes_the_bytes(int level, int option)
{
    return level == SOL_SOCKET
               ? option == SO_ATTACH_FILTER || option == SO_ATTACH_BPF
               : level == IPPROTO_TCP && (option == TCP_ULP || option == TCP_REPAIR || option == TCP_ZEROCOPY_RECEIVE);
}

EXPORT int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
    HELD sock = sock_hold(fd);
    if (!sock)
        return is_own(fd) ? no_such_descriptor() : real.setsockopt(fd, level, option, value, length);
    if (pins(level, option)) {
        atomic_store(&sock->share->pinning_option, 1);
        leave_or_pin(sock, fd, "a socket option that a ring cannot express");
    } else if (changes_the_bytes(level, option)) {
        handover_to_stranger(sock, fd);
    }
    int result = real.setsockopt(fd, level, option, value, length);
    if (result == 0 && length >= sizeof(int))
        session_keepalive_set(sock, fd, level, option, *(const int *)value);
    if (result == 0 && level == SOL_SOCKET &&
        (option == SO_RCVLOWAT || option == SO_RCVTIMEO || option == SO_SNDTIMEO || option == SO_RCVTIMEO_NEW ||
         option == SO_SNDTIMEO_NEW))
        session_read_options(sock, fd);
    return result;
}

EXPORT int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
    HELD sock = sock_hold(fd);
    if (!sock)
        return is_own(fd) ? no_such_descriptor() : real.getsockopt(fd, level, option, value, length);
    int result = real.getsockopt(fd, level, option, value, length);
    int seen;
    if (result == 0 && *length == sizeof seen && session_keepalive_get(sock, level, option, &seen))
        *(int *)value = seen;
    return result;
}

// --- stdio does its reading and writing where we cannot see it ---

EXPORT FILE *fdopen(int fd, const char *mode)
{
    HELD sock = sock_hold(fd);
    if (sock)
        handover_to_stranger(sock, fd);
    return real.fdopen(fd, mode);
}

EXPORT FILE *_IO_fdopen(int fd, const char *mode);
EXPORT FILE *_IO_fdopen(int fd, const char *mode)
{
    return fdopen(fd, mode);
}

// Nor can we see dprintf's writing, but that can be done for it.
static int print(int fd, const char *format, va_list arguments)
{
    char *text = NULL;
    int size = vasprintf(&text, format, arguments), done = 0;
    while (done < size) {
        ssize_t n = write(fd, text + done, (size_t)(size - done));
        if (n < 0)
            break;
        done += (int)n;
    }
    free(text);
    return done < size ? -1 : size;
}

EXPORT int vdprintf(int fd, const char *format, va_list arguments)
{
    HELD sock = sock_hold(fd);
    return sock ? print(fd, format, arguments) : real.vdprintf(fd, format, arguments);
}

EXPORT int dprintf(int fd, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int result = vdprintf(fd, format, arguments);
    va_end(arguments);
    return result;
}

EXPORT int __vdprintf_chk(int fd, int flag, const char *format, va_list arguments);
EXPORT int __dprintf_chk(int fd, int flag, const char *format, ...);

// The flag asks libc for checks of the format, which only libc itself can make.
EXPORT int __vdprintf_chk(int fd, int flag, const char *format, va_list arguments)
{
    HELD sock = sock_hold(fd);
    return sock ? print(fd, format, arguments) : real.__vdprintf_chk(fd, flag, format, arguments);
}

EXPORT int __dprintf_chk(int fd, int flag, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int result = __vdprintf_chk(fd, flag, format, arguments);
    va_end(arguments);
    return result;
}

// --- other names ---

EXPORT int __close(int fd) __attribute__((alias("close")));
EXPORT int __connect(int fd, const struct sockaddr *address, socklen_t length) __attribute__((alias("connect")));
EXPORT int __dup2(int from, int to) __attribute__((alias("dup2")));
EXPORT int __setsockopt(int fd, int level, int option, const void *value, socklen_t length)
    __attribute__((alias("setsockopt")));
EXPORT int __getsockopt(int fd, int level, int option, void *value, socklen_t *length)
    __attribute__((alias("getsockopt")));
EXPORT int __ioctl(int fd, unsigned long request, ...) __attribute__((alias("ioctl")));
EXPORT int __shutdown(int fd, int how) __attribute__((alias("shutdown")));
EXPORT int __socket(int domain, int type, int protocol) __attribute__((alias("socket")));
EXPORT int __accept(int fd, struct sockaddr *address, socklen_t *length) __attribute__((alias("accept")));
EXPORT int __accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) __attribute__((alias("accept4")));
