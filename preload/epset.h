// epoll for sockets with rings.
//
// The program's epoll instance stays what the program sleeps in. As long as a socket is plain TCP, its registration is
// the program's own and costs nothing. When a direction leaves TCP, the registration is converted: the kernel's entry
// for the TCP socket gets our tag as user data and only watches what TCP still carries, and the bell is registered
// beside it, edge-triggered, so that a peer's ring wakes whoever sleeps in the set, in any process.
//
// A converted registration is hot or cold. Hot ones are looked at by epoll_wait itself, before the kernel. Cold ones
// are armed (ring.h): whatever happens next to them rings the bell, the kernel reports the tag, and they become hot. A
// registration is never both cold and ready, so level-triggering is kept by staying hot while ready.
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <time.h>

struct epset;
struct sock;

// The set behind `epfd`, with a reference for the caller, or null if no socket of ours was ever registered in it.
struct epset *epset_find(int epfd);
void epset_hold(struct epset *set);
void epset_drop(struct epset *set);

// epoll_ctl for a TCP socket. As epoll_ctl: 0, or -1 with errno.
int epset_control(int epfd, int operation, struct sock *sock, int fd, struct epoll_event *event);

// An epoll instance was made.
void epset_made(int epfd);

// The set `inner` is about to be watched by another.
void epset_nested(int inner);

// epoll_pwait2 with user space first; a null timeout waits for ever. The set has a converted registration.
// Returns the number of events, or -errno.
int epset_wait(struct epset *set, int epfd, struct epoll_event *events, int most, const struct timespec *timeout,
               const sigset_t *mask);

// Takes our own out of `n` events that the kernel gave, and adds what the rings have, up to `most`. Returns how many.
// For a wait that was begun before there were converted registrations.
int epset_translate(struct epset *set, struct epoll_event *events, int n, int most);

// Are there, or were there ever, converted registrations, so that the kernel's results need translation?
bool epset_converted(const struct epset *set);

// Would epoll_wait return something? For poll and nested sets. Afterwards all its registrations are cold, so that the
// kernel's own readiness of `epfd` tells the rest.
bool epset_ready(struct epset *set);

// A direction of the socket has changed its way, either way: its registrations follow, level, edge and once kept, and
// no event is lost (an edge may be told twice). May be called anywhere, also while a set is being looked at; then, and
// if another thread is at a set, it takes effect when that set is left.
void epset_sock_changed(struct sock *sock);

// Does a registration still look at the socket's ring? After epset_sock_changed, with both directions back in TCP, the
// session may be unmapped as soon as this says no.
bool epset_sock_needs_ring(struct sock *sock);

// A descriptor of the set is about to be closed.
void epset_epfd_gone(struct epset *set, int epfd);

// A descriptor of the socket is about to be closed, while others remain.
void epset_fd_gone(struct sock *sock, int fd);

// The last one is about to be closed. Somebody else may hold the socket for some time yet; no set tells of it any more.
void epset_sock_closing(struct sock *sock);

// It is closed, and no call is under way with it.
// epset_sock_gone: false if that has to wait, since we are a signal handler that interrupted this thread's work on a set;
// then the socket has a reference again, which is dropped after that work.
bool epset_sock_gone(struct sock *sock);

void epset_forked(void);
