// What the measuring programs share. Each measures one thing, takes its parameters as name=value, and prints one line of
// JSON. They use plain sockets and know nothing of rdma-agent, except for the rings that stand for the limit.
//
// A function that fails ends the program with a message and status 1: half a measurement is none.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// ---- parameters

// Ends the program with status 2 if an argument is not name=value with a name out of `known` ("size seconds cpus").
void bench_arguments(int argc, char **argv, const char *known);

// The value of a parameter, or `otherwise` if it was not given.
const char *bench_text(const char *name, const char *otherwise);
double bench_number(const char *name, double otherwise);

// The index of the parameter's value in `choices` ("block spin epoll"); the first if it was not given.
int bench_choice(const char *name, const char *choices);

// ---- time and CPUs

uint64_t bench_now(void); // ns

// CPU time of this process so far, user and system, in ns.
uint64_t bench_cpu_ns(void);

// Restricts this process to a list of CPUs ("0" or "0,1"); "" leaves it alone.
void bench_pin(const char *cpus);

// One try of a spinning wait.
static inline void bench_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// ---- processes

// Memory shared with the children that are started later; zero.
void *bench_share(size_t bytes);

// Starts run(context) in a child on these CPUs. The child dies with its parent.
pid_t bench_start(void (*run)(void *context), void *context, const char *cpus);

// Waits until a child has ended well; ends the program if it ended badly.
void bench_join(pid_t child);

// ---- sockets

enum bench_family { BENCH_TCP, BENCH_TCP6, BENCH_UNIX };
#define BENCH_FAMILIES "tcp tcp6 unix"

struct bench_listener {
    enum bench_family family;
    int fd;
    char path[64]; // Unix: the abstract name
    uint16_t port; // TCP
};

// On the loopback address or an abstract name, whichever is free.
void bench_listen(struct bench_listener *listener, enum bench_family family);
int bench_accept(const struct bench_listener *listener);
int bench_connect(const struct bench_listener *listener);

void bench_nodelay(int fd); // does nothing on a Unix socket
void bench_nonblocking(int fd);

// ---- numbers

int bench_compare(const void *a, const void *b); // of double, for qsort

// The value at `share` (0..1) of `count` sorted numbers; 0 of none.
double bench_quantile(const double *sorted, size_t count, double share);
