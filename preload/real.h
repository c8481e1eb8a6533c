// The functions that this library stands in front of, as the next object in the link map has them.
//
// Calls that are not ours to answer go through here, with the arguments they came with, so that errno, cancellation
// and everything else stay as they are. Interposers never call each other, nor an interposed name.
#pragma once

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

// X(return type, name, parameters)
#define REAL_FUNCTIONS(X) \
    X(ssize_t, read, (int, void *, size_t)) \
    X(ssize_t, write, (int, const void *, size_t)) \
    X(ssize_t, readv, (int, const struct iovec *, int)) \
    X(ssize_t, writev, (int, const struct iovec *, int)) \
    X(ssize_t, preadv2, (int, const struct iovec *, int, off_t, int)) \
    X(ssize_t, pwritev2, (int, const struct iovec *, int, off_t, int)) \
    X(ssize_t, send, (int, const void *, size_t, int)) \
    X(ssize_t, recv, (int, void *, size_t, int)) \
    X(ssize_t, sendto, (int, const void *, size_t, int, const struct sockaddr *, socklen_t)) \
    X(ssize_t, recvfrom, (int, void *, size_t, int, struct sockaddr *, socklen_t *)) \
    X(ssize_t, sendmsg, (int, const struct msghdr *, int)) \
    X(ssize_t, recvmsg, (int, struct msghdr *, int)) \
    X(int, sendmmsg, (int, struct mmsghdr *, unsigned, int)) \
    X(int, recvmmsg, (int, struct mmsghdr *, unsigned, int, struct timespec *)) \
    X(ssize_t, sendfile, (int, int, off_t *, size_t)) \
    X(ssize_t, splice, (int, off_t *, int, off_t *, size_t, unsigned)) \
    X(int, poll, (struct pollfd *, nfds_t, int)) \
    X(int, ppoll, (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *)) \
    X(int, select, (int, fd_set *, fd_set *, fd_set *, struct timeval *)) \
    X(int, pselect, (int, fd_set *, fd_set *, fd_set *, const struct timespec *, const sigset_t *)) \
    X(int, epoll_create, (int)) \
    X(int, epoll_create1, (int)) \
    X(int, epoll_ctl, (int, int, int, struct epoll_event *)) \
    X(int, epoll_wait, (int, struct epoll_event *, int, int)) \
    X(int, epoll_pwait, (int, struct epoll_event *, int, int, const sigset_t *)) \
    X(int, epoll_pwait2, (int, struct epoll_event *, int, const struct timespec *, const sigset_t *)) \
    X(int, close, (int)) \
    X(int, close_range, (unsigned, unsigned, int)) \
    X(void, closefrom, (int)) \
    X(int, shutdown, (int, int)) \
    X(int, dup, (int)) \
    X(int, dup2, (int, int)) \
    X(int, dup3, (int, int, int)) \
    X(int, fcntl, (int, int, ...)) \
    X(int, ioctl, (int, unsigned long, ...)) \
    X(int, socket, (int, int, int)) \
    X(int, accept, (int, struct sockaddr *, socklen_t *)) \
    X(int, accept4, (int, struct sockaddr *, socklen_t *, int)) \
    X(int, connect, (int, const struct sockaddr *, socklen_t)) \
    X(int, setsockopt, (int, int, int, const void *, socklen_t)) \
    X(int, getsockopt, (int, int, int, void *, socklen_t *)) \
    X(int, vdprintf, (int, const char *, va_list)) \
    X(int, __vdprintf_chk, (int, int, const char *, va_list)) \
    X(FILE *, fdopen, (int, const char *)) \
    X(pid_t, fork, (void)) \
    X(pid_t, _Fork, (void)) \
    X(FILE *, popen, (const char *, const char *)) \
    X(int, system, (const char *)) \
    X(int, clone, (int (*)(void *), void *, int, void *, ...)) \
    X(pid_t, vfork, (void)) \
    X(int, posix_spawn, \
      (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[], \
       char *const[])) \
    X(int, posix_spawnp, \
      (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[], \
       char *const[])) \
    X(int, posix_spawn_file_actions_adddup2, (posix_spawn_file_actions_t *, int, int)) \
    X(int, execve, (const char *, char *const[], char *const[])) \
    X(int, execv, (const char *, char *const[])) \
    X(int, execvp, (const char *, char *const[])) \
    X(int, execvpe, (const char *, char *const[], char *const[])) \
    X(int, fexecve, (int, char *const[], char *const[])) \
    X(int, execveat, (int, const char *, char *const[], char *const[], int)) \
    X(long, syscall, (long, ...))

struct real {
#define REAL_MEMBER(type, name, parameters) type(*name) parameters;
    REAL_FUNCTIONS(REAL_MEMBER)
#undef REAL_MEMBER
};

extern struct real real;

// Looks every name up. Called once, before anything else of the library.
void real_load(void);
