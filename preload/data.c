// The data calls: read, write, send, recv and their relatives.
//
// Each is the same small story. A descriptor that is no TCP socket: the real call, untouched. A TCP socket that is not
// in a ring in this direction: the real call, between enter and leave. Otherwise: xfer.
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "preload/export.h"
#include "preload/handover.h"
#include "preload/leave.h"
#include "preload/real.h"
#include "preload/session.h"
#include "preload/sock.h"
#include "preload/xfer.h"

static int rx_route(struct sock *sock, int fd)
{
    if (__builtin_expect(atomic_load_explicit(&sock->rx_way, memory_order_acquire) != WAY_TCP, 1))
        return SESSION_RING;
    return session_rx_enter(sock, fd);
}

static int tx_route(struct sock *sock, int fd)
{
    if (__builtin_expect(atomic_load_explicit(&sock->tx_way, memory_order_acquire) != WAY_TCP, 1))
        return SESSION_RING;
    return session_tx_enter(sock, fd);
}

static ssize_t rx_done(struct sock *sock, ssize_t result)
{
    session_rx_leave(sock, result);
    return result;
}

static ssize_t tx_done(struct sock *sock, ssize_t result)
{
    session_tx_leave(sock, result);
    return result;
}

// As the kernel checks them. False sets errno.
static bool good_vector(const struct iovec *iov, long count, int too_many)
{
    if (count < 0 || count > IOV_MAX) {
        errno = too_many;
        return false;
    }
    if (count && !iov) {
        errno = EFAULT;
        return false;
    }
    size_t total = 0;
    for (long i = 0; i < count; i++) {
        if (iov[i].iov_len > SSIZE_MAX - total) {
            errno = EINVAL;
            return false;
        }
        total += iov[i].iov_len;
    }
    return true;
}

static bool has_null(const struct iovec *iov, long count)
{
    for (long i = 0; i < count; i++) {
        if (iov[i].iov_len && !iov[i].iov_base) {
            errno = EFAULT;
            return true;
        }
    }
    return false;
}

static ssize_t ring_recvmsg(struct sock *sock, int fd, const struct iovec *iov, long count, int flags)
{
    // With MSG_TRUNC nothing is copied.
    if (!good_vector(iov, count, EMSGSIZE) || (!(flags & MSG_TRUNC) && has_null(iov, count)))
        return -1;
    return xfer_recv(sock, fd, spans_of(iov, (size_t)count), flags);
}

static ssize_t ring_recv(struct sock *sock, int fd, void *buffer, size_t size, int flags)
{
    struct iovec one = {buffer, size};
    return ring_recvmsg(sock, fd, &one, 1, flags);
}

// read and readv of no bytes return at once, unlike recv.
static ssize_t ring_readv(struct sock *sock, int fd, const struct iovec *iov, long count, int flags)
{
    if (!good_vector(iov, count, EINVAL) || has_null(iov, count))
        return -1;
    struct spans to = spans_of(iov, (size_t)count);
    return spans_left(&to) ? xfer_recv(sock, fd, to, flags) : 0;
}

static ssize_t ring_send(struct sock *sock, int fd, const struct iovec *iov, long count, int flags, int too_many)
{
    if (!good_vector(iov, count, too_many) || has_null(iov, count))
        return -1;
    return xfer_send(sock, fd, spans_of(iov, (size_t)count), flags);
}

static void check_send_flags(struct sock *sock, int fd, int flags)
{
    if (__builtin_expect(flags & (MSG_OOB | MSG_ZEROCOPY | MSG_FASTOPEN), 0))
        leave_or_pin(sock, fd, "a flag of send that a ring cannot express");
}

static void check_recv_flags(struct sock *sock, int fd, int flags)
{
    if (__builtin_expect(flags & (MSG_OOB | MSG_ERRQUEUE), 0))
        leave_or_pin(sock, fd, "a flag of recv that a ring cannot express");
}

// --- receiving ---

EXPORT ssize_t read(int fd, void *buffer, size_t size)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock)
        return real.read(fd, buffer, size);
    int route = rx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return rx_done(sock, real.read(fd, buffer, size));
    struct iovec one = {buffer, size};
    return route ? -1 : ring_readv(sock, fd, &one, 1, 0);
}

EXPORT ssize_t readv(int fd, const struct iovec *iov, int count)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock)
        return real.readv(fd, iov, count);
    int route = rx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return rx_done(sock, real.readv(fd, iov, count));
    return route ? -1 : ring_readv(sock, fd, iov, count, 0);
}

// With the offset -1 it is readv; any other fails on a socket.
EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock || offset != -1)
        return real.preadv2(fd, iov, count, offset, flags);
    int route = rx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return rx_done(sock, real.preadv2(fd, iov, count, offset, flags));
    return route ? -1 : ring_readv(sock, fd, iov, count, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0);
}

EXPORT ssize_t recv(int fd, void *buffer, size_t size, int flags)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock)
        return real.recv(fd, buffer, size, flags);
    check_recv_flags(sock, fd, flags);
    int route = rx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return rx_done(sock, real.recv(fd, buffer, size, flags));
    return route ? -1 : ring_recv(sock, fd, buffer, size, flags);
}

EXPORT ssize_t recvfrom(int fd, void *buffer, size_t size, int flags, struct sockaddr *address, socklen_t *length)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock)
        return real.recvfrom(fd, buffer, size, flags, address, length);
    check_recv_flags(sock, fd, flags);
    int route = rx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return rx_done(sock, real.recvfrom(fd, buffer, size, flags, address, length));
    ssize_t result = route ? -1 : ring_recv(sock, fd, buffer, size, flags);
    if (result < 0 || !address)
        return result;
    if (!length) {
        errno = EFAULT;
        return -1;
    }
    *length = 0; // TCP gives no address
    return result;
}

// How many descriptors are in a part of a message. One of a size that cannot be is the kernel's to refuse.
static size_t descriptors_in(const struct msghdr *message, const struct cmsghdr *part)
{
    size_t room = message->msg_controllen - (size_t)((const char *)part - (const char *)message->msg_control);
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS || part->cmsg_len < CMSG_LEN(0) ||
        part->cmsg_len > room)
        return 0;
    return (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
}

// Descriptors that arrive over a Unix socket may be TCP sockets.
static void look_for_descriptors(const struct msghdr *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR((struct msghdr *)message, part)) {
        size_t count = descriptors_in(message, part);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            sock_found(fd, SOCK_INHERITED);
        }
    }
}

static void fill_in(struct msghdr *message, int flags)
{
    message->msg_namelen = 0;
    message->msg_controllen = 0;
    message->msg_flags = flags & MSG_CMSG_CLOEXEC; // as the kernel leaves it
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock) {
        ssize_t result = real.recvmsg(fd, message, flags);
        if (result >= 0 && message->msg_controllen)
            look_for_descriptors(message);
        return result;
    }
    check_recv_flags(sock, fd, flags);
    // What the kernel says besides the bytes, it can only say in a call of its own.
    if (message->msg_controllen && sock_in_ring(sock) && leave_due(sock, fd))
        leave_mind(sock, fd);
    int route = rx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return rx_done(sock, real.recvmsg(fd, message, flags));
    ssize_t result = route ? -1 : ring_recvmsg(sock, fd, message->msg_iov, (long)message->msg_iovlen, flags);
    if (result >= 0)
        fill_in(message, flags);
    return result;
}

// The kernel's rule: the first message decides about an error; a later one ends the call.
static int ring_recvmmsg(struct sock *sock, int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    unsigned done = 0;
    for (; done < count; done++) {
        struct msghdr *message = &messages[done].msg_hdr;
        ssize_t n = ring_recvmsg(sock, fd, message->msg_iov, (long)message->msg_iovlen, flags & ~MSG_WAITFORONE);
        if (n < 0)
            break;
        fill_in(message, flags);
        messages[done].msg_len = (unsigned)n;
        if (flags & MSG_WAITFORONE)
            flags |= MSG_DONTWAIT;
    }
    return done || !count ? (int)done : -1;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock) {
        int result = real.recvmmsg(fd, messages, count, flags, timeout);
        for (int i = 0; i < result; i++)
            look_for_descriptors(&messages[i].msg_hdr);
        return result;
    }
    check_recv_flags(sock, fd, flags);
    int route = rx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return (int)rx_done(sock, real.recvmmsg(fd, messages, count, flags, timeout));
    return route ? -1 : ring_recvmmsg(sock, fd, messages, count, flags);
}

// --- sending ---

EXPORT ssize_t write(int fd, const void *buffer, size_t size)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock)
        return real.write(fd, buffer, size);
    int route = tx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return tx_done(sock, real.write(fd, buffer, size));
    struct iovec one = {(void *)buffer, size};
    return route ? -1 : ring_send(sock, fd, &one, 1, 0, EINVAL);
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock)
        return real.writev(fd, iov, count);
    int route = tx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return tx_done(sock, real.writev(fd, iov, count));
    return route ? -1 : ring_send(sock, fd, iov, count, 0, EINVAL);
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock || offset != -1)
        return real.pwritev2(fd, iov, count, offset, flags);
    int route = tx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return tx_done(sock, real.pwritev2(fd, iov, count, offset, flags));
    return route ? -1 : ring_send(sock, fd, iov, count, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0, EINVAL);
}

EXPORT ssize_t send(int fd, const void *buffer, size_t size, int flags)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock)
        return real.send(fd, buffer, size, flags);
    check_send_flags(sock, fd, flags);
    int route = tx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return tx_done(sock, real.send(fd, buffer, size, flags));
    struct iovec one = {(void *)buffer, size};
    return route ? -1 : ring_send(sock, fd, &one, 1, flags, EINVAL);
}

EXPORT ssize_t sendto(int fd, const void *buffer, size_t size, int flags, const struct sockaddr *address,
                      socklen_t length)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock)
        return real.sendto(fd, buffer, size, flags, address, length);
    check_send_flags(sock, fd, flags);
    int route = tx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return tx_done(sock, real.sendto(fd, buffer, size, flags, address, length));
    struct iovec one = {(void *)buffer, size};
    return route ? -1 : ring_send(sock, fd, &one, 1, flags, EINVAL);
}

// Sockets that go to another process are upgraded there, if at all, and not here any more. Whether that process knows of
// rings nobody can say: it is TCP that they go by.
static void note_passed(const struct msghdr *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR((struct msghdr *)message, part)) {
        size_t count = descriptors_in(message, part);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
            HELD sock = sock_hold(fd);
            if (!sock)
                continue;
            atomic_fetch_add(&sock->share->passed, 1);
            handover_to_stranger(sock, fd);
        }
    }
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock) {
        if (message && message->msg_controllen)
            note_passed(message);
        return real.sendmsg(fd, message, flags);
    }
    check_send_flags(sock, fd, flags);
    int route = tx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return tx_done(sock, real.sendmsg(fd, message, flags));
    return route ? -1 : ring_send(sock, fd, message->msg_iov, (long)message->msg_iovlen, flags, EMSGSIZE);
}

static int ring_sendmmsg(struct sock *sock, int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    unsigned done = 0;
    for (; done < count; done++) {
        struct msghdr *message = &messages[done].msg_hdr;
        ssize_t n = ring_send(sock, fd, message->msg_iov, (long)message->msg_iovlen, flags, EMSGSIZE);
        if (n < 0)
            break;
        messages[done].msg_len = (unsigned)n;
        struct spans whole = spans_of(message->msg_iov, message->msg_iovlen);
        if ((size_t)n < spans_left(&whole))
            return (int)done + 1; // cut short: what follows would leave a gap
    }
    return done || !count ? (int)done : -1;
}

EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    CALL sock = calls_begin(sock_hold(fd));
    if (!sock) {
        for (unsigned i = 0; messages && i < count; i++)
            note_passed(&messages[i].msg_hdr);
        return real.sendmmsg(fd, messages, count, flags);
    }
    check_send_flags(sock, fd, flags);
    int route = tx_route(sock, fd);
    if (route == SESSION_KERNEL)
        return (int)tx_done(sock, real.sendmmsg(fd, messages, count, flags));
    return route ? -1 : ring_sendmmsg(sock, fd, messages, count, flags);
}

// --- other names of the same calls: glibc's own, and those of programs compiled with _FORTIFY_SOURCE ---

EXPORT ssize_t __read(int fd, void *buffer, size_t size) __attribute__((alias("read")));
EXPORT ssize_t __write(int fd, const void *buffer, size_t size) __attribute__((alias("write")));
EXPORT ssize_t __send(int fd, const void *buffer, size_t size, int flags) __attribute__((alias("send")));
EXPORT ssize_t __recv(int fd, void *buffer, size_t size, int flags) __attribute__((alias("recv")));
EXPORT ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
    __attribute__((alias("preadv2")));
EXPORT ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
    __attribute__((alias("pwritev2")));

// Provided by glibc; ends the program with its message about a buffer overflow.
extern void __chk_fail(void) __attribute__((noreturn));

static void check_room(size_t size, size_t room)
{
    if (size > room)
        __chk_fail();
}

EXPORT ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room);
EXPORT ssize_t __recv_chk(int fd, void *buffer, size_t size, size_t room, int flags);
EXPORT ssize_t __recvfrom_chk(int fd, void *buffer, size_t size, size_t room, int flags, struct sockaddr *address,
                              socklen_t *length);

EXPORT ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room)
{
    check_room(size, room);
    return read(fd, buffer, size);
}

EXPORT ssize_t __recv_chk(int fd, void *buffer, size_t size, size_t room, int flags)
{
    check_room(size, room);
    return recv(fd, buffer, size, flags);
}

EXPORT ssize_t __recvfrom_chk(int fd, void *buffer, size_t size, size_t room, int flags, struct sockaddr *address,
                              socklen_t *length)
{
    check_room(size, room);
    return recvfrom(fd, buffer, size, flags, address, length);
}
