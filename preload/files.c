// sendfile and splice: bytes that go between a ring and a file or a pipe without the program touching them.
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/export.h"
#include "preload/real.h"
#include "preload/session.h"
#include "preload/xfer.h"

struct source {
    int fd;
    off_t *offset; // null: from where the file stands
};

static ssize_t fill_from_file(void *from, void *place, size_t size)
{
    struct source *source = (struct source *)from;
    if (!source->offset)
        return sys_read(source->fd, place, size);
    long n = sys_call(SYS_pread64, source->fd, place, size, *source->offset);
    if (n > 0)
        *source->offset += n;
    return n;
}

// The kernel's own checks, by asking it to send nothing: sendfile only reads from what can be mapped.
static bool sendfile_possible(int out, int in, off_t *offset)
{
    return sys_call(SYS_sendfile, out, in, offset, 0) == 0;
}

static ssize_t ring_sendfile(struct sock *sock, int out, int in, off_t *offset, size_t size)
{
    struct source source = {.fd = in, .offset = offset};
    size_t sent = 0;
    while (sent < size) {
        int flags = sent && atomic_load(&sock->share->nonblocking) ? MSG_DONTWAIT : 0;
        ssize_t n = xfer_fill(sock, out, flags, size - sent, fill_from_file, &source);
        agent_link_pace(sock, n > 0 ? (size_t)n : 0);
        if (n == XFER_BY_TCP && !sent)
            return XFER_BY_TCP;
        if (n == XFER_ASK_KERNEL && !sent)
            return real.sendfile(out, in, offset, size);
        if (n < 0 && !sent)
            return -1;
        if (n <= 0)
            break;
        sent += (size_t)n;
    }
    return (ssize_t)sent;
}

static ssize_t sendfile_once(struct sock *sock, int out, int in, off_t *offset, size_t size)
{
    int route = atomic_load(&sock->tx_way) != WAY_TCP ? SESSION_RING : session_tx_enter(sock, out);
    if (route == SESSION_KERNEL) {
        ssize_t result = real.sendfile(out, in, offset, size);
        session_tx_leave(sock, result);
        return result;
    }
    if (route)
        return -1;
    if (!sendfile_possible(out, in, offset))
        return real.sendfile(out, in, offset, 0);
    return ring_sendfile(sock, out, in, offset, size);
}

EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t size)
{
    CALL sock = calls_begin(sock_hold(out));
    if (!sock)
        return real.sendfile(out, in, offset, size);
    ssize_t result;
    do
        result = sendfile_once(sock, out, in, offset, size);
    while (result == XFER_BY_TCP);
    return result;
}

EXPORT ssize_t sendfile64(int out, int in, off_t *offset, size_t size) __attribute__((alias("sendfile")));

// --- splice ---

static bool is_pipe(int fd)
{
    return sys_fcntl(fd, F_GETPIPE_SZ, 0) >= 0;
}

struct pipe_end {
    int fd;
    bool nonblocking;
};

static ssize_t fill_from_pipe(void *from, void *place, size_t size)
{
    struct pipe_end *pipe = (struct pipe_end *)from;
    return sys_read(pipe->fd, place, size);
}

static ssize_t drain_to_pipe(void *to, const void *place, size_t size)
{
    struct pipe_end *pipe = (struct pipe_end *)to;
    return sys_write(pipe->fd, place, size);
}

// Blocking for the pipe happens before the ring is touched, so that nobody else is kept out meanwhile.
static bool pipe_ready(const struct pipe_end *pipe, short events)
{
    struct pollfd poll = {.fd = pipe->fd, .events = events};
    struct timespec none = {0, 0};
    int result = sys_ppoll(&poll, 1, pipe->nonblocking ? &none : NULL);
    if (result > 0)
        return true;
    errno = result == 0 ? EAGAIN : -result;
    return false;
}

static ssize_t splice_to_ring(struct sock *sock, int in, int out, size_t size, unsigned flags)
{
    bool pipe_nonblocking = (flags & SPLICE_F_NONBLOCK) || (sys_fcntl(in, F_GETFL, 0) & O_NONBLOCK);
    struct pipe_end pipe = {in, pipe_nonblocking};
    if (!pipe_ready(&pipe, POLLIN))
        return -1;
    ssize_t n = xfer_fill(sock, out, 0, size, fill_from_pipe, &pipe);
    return n == XFER_ASK_KERNEL ? real.splice(in, NULL, out, NULL, size, flags) : n;
}

static ssize_t splice_from_ring(struct sock *sock, int in, int out, size_t size, unsigned flags)
{
    bool pipe_nonblocking = (flags & SPLICE_F_NONBLOCK) || (sys_fcntl(out, F_GETFL, 0) & O_NONBLOCK);
    struct pipe_end pipe = {out, pipe_nonblocking};
    if (!pipe_ready(&pipe, POLLOUT))
        return -1;
    // A pipe that can be written takes a page at least.
    return xfer_drain(sock, in, flags & SPLICE_F_NONBLOCK ? MSG_DONTWAIT : 0, size < 4096 ? size : 4096, drain_to_pipe,
                      &pipe);
}

static ssize_t splice_once(struct sock *from, struct sock *to, int in, off_t *in_offset, int out, off_t *out_offset,
                           size_t size, unsigned flags)
{
    if (from && size) {
        int route = atomic_load(&from->rx_way) != WAY_TCP ? SESSION_RING : session_rx_enter(from, in);
        if (route == SESSION_RING && !in_offset && !out_offset && is_pipe(out))
            return splice_from_ring(from, in, out, size, flags);
        ssize_t result = route == SESSION_FAILED ? -1 : real.splice(in, in_offset, out, out_offset, size, flags);
        if (route == SESSION_KERNEL)
            session_rx_leave(from, result);
        return result;
    }
    if (to && size) {
        int route = atomic_load(&to->tx_way) != WAY_TCP ? SESSION_RING : session_tx_enter(to, out);
        if (route == SESSION_RING && !in_offset && !out_offset && is_pipe(in))
            return splice_to_ring(to, in, out, size, flags);
        ssize_t result = route == SESSION_FAILED ? -1 : real.splice(in, in_offset, out, out_offset, size, flags);
        if (route == SESSION_KERNEL)
            session_tx_leave(to, result);
        return result;
    }
    return real.splice(in, in_offset, out, out_offset, size, flags);
}

EXPORT ssize_t splice(int in, off_t *in_offset, int out, off_t *out_offset, size_t size, unsigned flags)
{
    CALL from = calls_begin(sock_hold(in));
    CALL to = from ? calls_begin_also(sock_hold(out)) : calls_begin(sock_hold(out));
    ssize_t result;
    do
        result = splice_once(from, to, in, in_offset, out, out_offset, size, flags);
    while (result == XFER_BY_TCP);
    return result;
}
