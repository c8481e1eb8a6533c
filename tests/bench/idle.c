// idle: many connections that have been used, and then nothing. Shows who is busy when nothing flows.
//
//   family=tcp|tcp6|unix connections=100 exchanges=32 seconds=2 cpus=0,1
//
//   -> {"ready":1} once all connections have been used and the wait begins, and after it
//      {"cpu_ms_per_s": CPU time of this process per second of waiting, "wakeups": times that epoll_wait returned}
//
// One process holds both ends of every connection and watches them all with epoll.

#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define BYTES 64

struct connection {
    int fd[2];
};

static void open_connection(struct connection *connection, const struct bench_listener *listener, int epoll)
{
    connection->fd[0] = bench_connect(listener);
    connection->fd[1] = bench_accept(listener);
    for (int i = 0; i < 2; i++) {
        struct epoll_event event = {.events = EPOLLIN};
        bench_nodelay(connection->fd[i]);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd[i], &event))
            err(1, "epoll_ctl");
    }
}

static void pass(int from, int to)
{
    char data[BYTES] = {0};
    if (send(from, data, sizeof data, MSG_NOSIGNAL) != sizeof data)
        err(1, "send");
    for (size_t done = 0; done < sizeof data;) {
        ssize_t n = read(to, data, sizeof data - done);
        if (n <= 0 && errno != EINTR)
            err(1, "read");
        done += n > 0 ? (size_t)n : 0;
    }
}

static void allow_descriptors(unsigned count)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        err(1, "getrlimit");
    if (limit.rlim_cur < count && limit.rlim_max >= count)
        limit.rlim_cur = count;
    if (setrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur < count)
        errx(1, "%u descriptors are more than this process may have", count);
}

// Returns how often epoll_wait returned within `ns`.
static unsigned wait_for_nothing(int epoll, uint64_t ns)
{
    unsigned wakeups = 0;
    for (uint64_t now = bench_now(), stop = now + ns; now < stop; now = bench_now()) {
        struct epoll_event event;
        wakeups += epoll_wait(epoll, &event, 1, (int)((stop - now) / 1000000u) + 1) > 0;
    }
    return wakeups;
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "family connections exchanges seconds cpus");
    unsigned count = (unsigned)bench_number("connections", 100), exchanges = (unsigned)bench_number("exchanges", 32);
    double seconds = bench_number("seconds", 2);
    bench_pin(bench_text("cpus", ""));
    allow_descriptors(count * 8 + 64); // the library needs some of its own
    struct bench_listener listener;
    bench_listen(&listener, (enum bench_family)bench_choice("family", BENCH_FAMILIES));
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = calloc(count, sizeof *connections);
    if (epoll < 0 || !connections)
        err(1, "no memory");
    for (unsigned i = 0; i < count; i++)
        open_connection(&connections[i], &listener, epoll);
    for (unsigned e = 0; e < exchanges; e++) {
        for (unsigned i = 0; i < count; i++) {
            pass(connections[i].fd[0], connections[i].fd[1]);
            pass(connections[i].fd[1], connections[i].fd[0]);
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); // time for an agent to answer
    }
    printf("{\"ready\":1}\n");
    fflush(stdout);

    uint64_t cpu = bench_cpu_ns();
    unsigned wakeups = wait_for_nothing(epoll, (uint64_t)(seconds * 1e9));
    printf("{\"cpu_ms_per_s\":%.4f,\"wakeups\":%u}\n", (double)(bench_cpu_ns() - cpu) / 1e6 / seconds, wakeups);
    return 0;
}
