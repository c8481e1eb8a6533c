// The kernel's calls, made directly.
//
// The preload library replaces libc's socket calls, so core, which it links, must not use them: it would call itself.
// Each function returns what the kernel returns: a result, or -errno. errno is left alone. None is a cancellation point.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>

struct msghdr;
struct pollfd;
struct timespec;

#if defined(__x86_64__)
static inline long sys_call6(long n, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long sys_call6(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "this processor is not supported: x86_64 and aarch64 are"
#endif

#define SYS_CALL_(n, a, b, c, d, e, f, ...) \
    sys_call6((long)(n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

// sys_call(SYS_name, up to six arguments): 0 or more, or -errno.
#define sys_call(...) SYS_CALL_(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

static inline int sys_close(int fd)
{
    return (int)sys_call(SYS_close, fd);
}

static inline long sys_read(int fd, void *buffer, size_t size)
{
    return sys_call(SYS_read, fd, buffer, size);
}

static inline long sys_write(int fd, const void *buffer, size_t size)
{
    return sys_call(SYS_write, fd, buffer, size);
}

static inline int sys_fcntl(int fd, int command, long argument)
{
    return (int)sys_call(SYS_fcntl, fd, command, argument);
}

static inline int sys_ioctl(int fd, unsigned long request, void *argument)
{
    return (int)sys_call(SYS_ioctl, fd, request, argument);
}

static inline long sys_sendmsg(int fd, const struct msghdr *message, int flags)
{
    return sys_call(SYS_sendmsg, fd, message, flags);
}

static inline long sys_recvmsg(int fd, struct msghdr *message, int flags)
{
    return sys_call(SYS_recvmsg, fd, message, flags);
}

static inline int sys_getsockopt(int fd, int level, int option, void *value, uint32_t *size)
{
    return (int)sys_call(SYS_getsockopt, fd, level, option, value, size);
}

static inline int sys_setsockopt(int fd, int level, int option, const void *value, uint32_t size)
{
    return (int)sys_call(SYS_setsockopt, fd, level, option, value, size);
}

static inline int sys_sched_yield(void)
{
    return (int)sys_call(SYS_sched_yield);
}

// Blocks until an event, the timeout (null: for ever) or a signal (-EINTR).
static inline int sys_ppoll(struct pollfd *fds, size_t count, const struct timespec *timeout)
{
    return (int)sys_call(SYS_ppoll, fds, count, timeout, (void *)0, 8);
}
