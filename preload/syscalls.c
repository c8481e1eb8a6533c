// syscall(): programs that go past libc's functions, but not past libc. libuv closes every descriptor so.
//
// The calls that matter to us are answered by our own functions; the rest goes through untouched.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include "core/sys.h"
#include "preload/epset.h"
#include "preload/export.h"
#include "preload/real.h"

struct arguments {
    long a[6];
};

static struct arguments take(va_list list)
{
    struct arguments arguments;
    for (int i = 0; i < 6; i++)
        arguments.a[i] = va_arg(list, long);
    return arguments;
}

static long pass(long number, const struct arguments *p)
{
    return real.syscall(number, p->a[0], p->a[1], p->a[2], p->a[3], p->a[4], p->a[5]);
}

#define FD     ((int)p->a[0])
#define PTR(i) ((void *)p->a[i])

static long data_call(long number, const struct arguments *p, bool *known)
{
    *known = true;
    switch (number) {
    case SYS_read:
        return read(FD, PTR(1), (size_t)p->a[2]);
    case SYS_write:
        return write(FD, PTR(1), (size_t)p->a[2]);
    case SYS_readv:
        return readv(FD, PTR(1), (int)p->a[2]);
    case SYS_writev:
        return writev(FD, PTR(1), (int)p->a[2]);
    case SYS_sendto:
        return sendto(FD, PTR(1), (size_t)p->a[2], (int)p->a[3], PTR(4), (socklen_t)p->a[5]);
    case SYS_recvfrom:
        return recvfrom(FD, PTR(1), (size_t)p->a[2], (int)p->a[3], PTR(4), PTR(5));
    case SYS_sendmsg:
        return sendmsg(FD, PTR(1), (int)p->a[2]);
    case SYS_recvmsg:
        return recvmsg(FD, PTR(1), (int)p->a[2]);
    case SYS_sendmmsg:
        return sendmmsg(FD, PTR(1), (unsigned)p->a[2], (int)p->a[3]);
    case SYS_recvmmsg:
        return recvmmsg(FD, PTR(1), (unsigned)p->a[2], (int)p->a[3], PTR(4));
    case SYS_preadv2: // the offset is in two parts where a register cannot hold it
        return preadv2(FD, PTR(1), (int)p->a[2], (off_t)p->a[3], (int)p->a[5]);
    case SYS_pwritev2:
        return pwritev2(FD, PTR(1), (int)p->a[2], (off_t)p->a[3], (int)p->a[5]);
    case SYS_sendfile:
        return sendfile(FD, (int)p->a[1], PTR(2), (size_t)p->a[3]);
    case SYS_splice:
        return splice(FD, PTR(1), (int)p->a[2], PTR(3), (size_t)p->a[4], (unsigned)p->a[5]);
    }
    *known = false;
    return 0;
}

static long descriptor_call(long number, const struct arguments *p, bool *known)
{
    *known = true;
    switch (number) {
    case SYS_close:
        return close(FD);
    case SYS_close_range:
        return close_range((unsigned)p->a[0], (unsigned)p->a[1], (int)p->a[2]);
    case SYS_shutdown:
        return shutdown(FD, (int)p->a[1]);
    case SYS_dup:
        return dup(FD);
#ifdef SYS_dup2
    case SYS_dup2:
        return dup2(FD, (int)p->a[1]);
#endif
    case SYS_dup3:
        return dup3(FD, (int)p->a[1], (int)p->a[2]);
    case SYS_fcntl:
        return fcntl(FD, (int)p->a[1], PTR(2));
    case SYS_ioctl:
        return ioctl(FD, (unsigned long)p->a[1], PTR(2));
    case SYS_socket:
        return socket((int)p->a[0], (int)p->a[1], (int)p->a[2]);
    case SYS_accept:
        return accept(FD, PTR(1), PTR(2));
    case SYS_accept4:
        return accept4(FD, PTR(1), PTR(2), (int)p->a[3]);
    case SYS_connect:
        return connect(FD, PTR(1), (socklen_t)p->a[2]);
    case SYS_setsockopt:
        return setsockopt(FD, (int)p->a[1], (int)p->a[2], PTR(3), (socklen_t)p->a[4]);
    case SYS_getsockopt:
        return getsockopt(FD, (int)p->a[1], (int)p->a[2], PTR(3), PTR(4));
    }
    *known = false;
    return 0;
}

static long program_call(long number, const struct arguments *p, bool *known)
{
    *known = true;
    switch (number) {
    case SYS_execve:
        return execve(PTR(0), PTR(1), PTR(2));
    case SYS_execveat:
        return execveat(FD, PTR(1), PTR(2), PTR(3), (int)p->a[4]);
    }
    *known = false;
    return 0;
}

static long readiness_call(long number, const struct arguments *p, bool *known)
{
    *known = true;
    switch (number) {
#ifdef SYS_select
    case SYS_select:
        return select(FD, PTR(1), PTR(2), PTR(3), PTR(4));
#endif
    case SYS_pselect6:
        return pselect(FD, PTR(1), PTR(2), PTR(3), PTR(4), p->a[5] ? *(const sigset_t **)p->a[5] : NULL);
#ifdef SYS_poll
    case SYS_poll:
        return poll(PTR(0), (nfds_t)p->a[1], (int)p->a[2]);
#endif
    case SYS_ppoll:
        return ppoll(PTR(0), (nfds_t)p->a[1], PTR(2), PTR(3));
    case SYS_epoll_create1:
        return epoll_create1((int)p->a[0]);
    case SYS_epoll_ctl:
        return epoll_ctl(FD, (int)p->a[1], (int)p->a[2], PTR(3));
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
        return epoll_wait(FD, PTR(1), (int)p->a[2], (int)p->a[3]);
#endif
    case SYS_epoll_pwait:
        return epoll_pwait(FD, PTR(1), (int)p->a[2], (int)p->a[3], PTR(4));
    case SYS_epoll_pwait2:
        return epoll_pwait2(FD, PTR(1), (int)p->a[2], PTR(3), PTR(4));
    }
    *known = false;
    return 0;
}

static void before_new_process(long number, const struct arguments *p)
{
    bool copies_memory = false;
#ifdef SYS_fork
    copies_memory |= number == SYS_fork;
#endif
    copies_memory |= number == SYS_clone && !(p->a[0] & CLONE_VM);
    copies_memory |= number == SYS_clone3 && p->a[0] && !(*(unsigned long *)p->a[0] & CLONE_VM);
    if (copies_memory)
        proc_before_fork();
}

// io_uring would read and write, and register with epoll, where nobody sees it. A program that sets one up by
// syscall(), as libuv does, is told that this kernel has none, and takes the ordinary way.
#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

EXPORT long syscall(long number, ...)
{
    va_list list;
    va_start(list, number);
    struct arguments arguments = take(list);
    va_end(list);
    proc_enter();
    bool known;
    long result = data_call(number, &arguments, &known);
    if (!known)
        result = descriptor_call(number, &arguments, &known);
    if (!known)
        result = readiness_call(number, &arguments, &known);
    if (!known)
        result = program_call(number, &arguments, &known);
    if (known)
        return result;
    if (number == SYS_io_uring_setup && !proc_disabled()) {
        errno = ENOSYS;
        return -1;
    }
    before_new_process(number, &arguments);
    result = pass(number, &arguments);
    if (number == SYS_pidfd_getfd && result >= 0)
        sock_found((int)result, SOCK_INHERITED);
    return result;
}

// glibc's own function of this name does not go through syscall().
EXPORT int pidfd_getfd(int pidfd, int fd, unsigned flags);
EXPORT int pidfd_getfd(int pidfd, int fd, unsigned flags)
{
    return (int)syscall(SYS_pidfd_getfd, pidfd, fd, flags);
}
