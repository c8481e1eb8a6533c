// What a case of the semantics test is made of: a connection that has been upgraded, if there is anything to upgrade it,
// and observations. The same case runs with the library and without; what it observes must be the same, word for word.
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

struct scene_case {
    const char *name;
    void (*run)(void);
};

// The cases of each file, ended by one without a name.
extern const struct scene_case data_cases[], descriptor_cases[], end_cases[], epoll_cases[], handover_cases[],
    option_cases[], pin_cases[], poll_cases[], process_cases[], signal_cases[];

// Two connected TCP sockets of this process.
struct pair {
    int client, server;
};

// Connects over IPv4 loopback, and talks until both directions are in a ring. If RDMA_E2E_CONTROL names the agent's
// control socket and that does not happen, the program ends with code 3; without it, some words are exchanged only.
struct pair scene_pair(void);

// A connection that has carried nothing yet, over the family given. Both sockets block.
struct pair scene_fresh_pair(int family);

// The same over IPv4; what is to be done with the listening socket before it accepts is done by `prepare`.
struct pair scene_fresh_pair_by(void (*prepare)(int listener));

// Talks on a pair until it is in a ring, as scene_pair does.
void scene_upgrade(struct pair pair);

// Starts a process that holds the other end of a connection, upgrades the connection, lets the process run `body` with
// its end and exit with 0. Returns the process and *fd, the end of this one.
pid_t scene_peer(void (*body)(int fd), int *fd);

// Waits for a child process and says how it ended.
void scene_reap(pid_t pid);

// Passes a descriptor through a Unix socket; the other end of it.
void scene_pass(int through, int fd);
int scene_receive_passed(int from);

// Writes a line of observation.
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Makes a call and says what it returned, with errno if that was -1.
#define OBSERVE(call) observe(#call, (errno = 0, (long)(call)))
long observe(const char *call, long result);

// Receives at most `size` bytes and says what came: text is shown, longer things by length.
ssize_t observe_recv(const char *who, int fd, size_t size, int flags);

// Ends the program because the case itself cannot go on.
void broken(const char *what) __attribute__((noreturn));

// Receives and sends exactly; `broken` if that fails.
void give(int fd, const char *text);
void take(int fd, size_t size);

// Calls `act(argument)` in a thread of its own, `milliseconds` from now. scene_join waits for the thread.
struct later {
    unsigned long thread;
    void (*act)(void *argument);
    void *argument;
    int milliseconds;
};
void scene_later(struct later *later, int milliseconds, void (*act)(void *argument), void *argument);
void scene_join(struct later *later);

// What is done later, often: an act whose argument is a struct saying of its socket.
struct saying {
    int fd;
    const char *text;
};
void act_give(void *saying);
void act_close(void *saying);
void act_shutdown(void *saying);

// An address where nothing is mapped, and what a program should not pass, out of sight of the compiler.
void *nowhere(void);
void *no_buffer(void);
int minus_one(void);

void nap(int milliseconds);
double now(void); // milliseconds

// Says whether the time since `begin` is what was expected, within 20 ms.
void say_elapsed(double begin, double expected);

// Fills a non-blocking socket until it takes no more. Returns the bytes that it took.
size_t fill(int fd);

// Receives until `size` bytes came, or nothing more comes for a second. Returns the bytes that came.
size_t drain(int fd, size_t size);

void set_nonblocking(int fd, bool on);

// The names of poll's and epoll's bits, in a buffer that the next call but three overwrites.
const char *bits_of_poll(unsigned bits);
const char *bits_of_epoll(unsigned bits);
