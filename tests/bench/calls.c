// calls: what one call costs on descriptors that are never accelerated, to be run with and without the library.
//
//   call=NAME seconds=0.3 cpus=0      ->  {"ns": tenth percentile over batches, "median_ns": ...}
//   call=list                         ->  {"calls": [names]}
//
// The low percentile stands for the call itself: interrupts and other processes only ever add to it. One process, so that
// nothing ever waits; what is written is read back at once.

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define BYTES       64
#define BATCH_NS    100000.0
#define BATCHES_MAX 100000u

// What the calls work on: written to `out`, read from `in`; `epoll` watches `in`.
static struct {
    int out, in, epoll;
} at;

static char data[BYTES];

static void want(ssize_t result, ssize_t expected)
{
    if (result != expected)
        err(1, "a call gave %zd instead of %zd", result, expected);
}

// ---- what a call works on

static void open_null(void)
{
    at.out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    at.in = open("/dev/zero", O_RDONLY | O_CLOEXEC);
}

static void open_pipe(void)
{
    int fds[2];
    want(pipe2(fds, O_CLOEXEC), 0);
    at.in = fds[0];
    at.out = fds[1];
}

static void open_epoll(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    open_pipe();
    at.epoll = epoll_create1(EPOLL_CLOEXEC);
    want(epoll_ctl(at.epoll, EPOLL_CTL_ADD, at.in, &event), 0);
}

static void open_unix(void)
{
    int fds[2];
    want(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    at.in = fds[0];
    at.out = fds[1];
}

static void open_tcp(void)
{
    struct bench_listener listener;
    bench_listen(&listener, BENCH_TCP);
    at.out = bench_connect(&listener);
    at.in = bench_accept(&listener);
    bench_nodelay(at.out);
    bench_nodelay(at.in);
}

// ---- the calls

static void call_write(void)
{
    want(write(at.out, data, BYTES), BYTES);
}

static void call_read(void)
{
    want(read(at.in, data, BYTES), BYTES);
}

static void call_write_read(void)
{
    want(write(at.out, data, BYTES), BYTES);
    want(read(at.in, data, BYTES), BYTES);
}

static void call_send_recv(void)
{
    want(send(at.out, data, BYTES, MSG_NOSIGNAL), BYTES);
    want(recv(at.in, data, BYTES, 0), BYTES);
}

static void call_poll(void)
{
    struct pollfd fds[2] = {{.fd = at.in, .events = POLLIN}, {.fd = at.out, .events = 0}};
    want(poll(fds, 2, 0), 0);
}

static void call_select(void)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(at.in, &set);
    struct timeval none = {0};
    want(select(at.in + 1, &set, NULL, NULL, &none), 0);
}

static void call_epoll_wait(void)
{
    struct epoll_event event;
    want(epoll_wait(at.epoll, &event, 1, 0), 0);
}

static void call_fcntl(void)
{
    if (fcntl(at.in, F_GETFL) < 0)
        err(1, "fcntl");
}

static void call_dup_close(void)
{
    int fd = dup(at.in);
    want(close(fd), 0);
}

static const struct {
    const char *name;
    void (*open)(void);
    void (*call)(void);
} calls[] = {
    {"write-null", open_null, call_write},           {"read-zero", open_null, call_read},
    {"write-read-pipe", open_pipe, call_write_read}, {"poll-pipe", open_pipe, call_poll},
    {"select-pipe", open_pipe, call_select},         {"epoll-wait-pipe", open_epoll, call_epoll_wait},
    {"fcntl-pipe", open_pipe, call_fcntl},           {"dup-close-pipe", open_pipe, call_dup_close},
    {"send-recv-unix", open_unix, call_send_recv},   {"send-recv-tcp", open_tcp, call_send_recv},
};
#define CALLS (sizeof calls / sizeof *calls)

static void print_list(void)
{
    printf("{\"calls\":[");
    for (size_t i = 0; i < CALLS; i++)
        printf("%s\"%s\"", i ? "," : "", calls[i].name);
    printf("]}\n");
}

static double batch(void (*call)(void), unsigned count)
{
    uint64_t begin = bench_now();
    for (unsigned i = 0; i < count; i++)
        call();
    return (double)(bench_now() - begin) / count;
}

static void measure(void (*call)(void), double seconds)
{
    double *ns = malloc(BATCHES_MAX * sizeof *ns);
    if (!ns)
        err(1, "malloc");
    batch(call, 1000);
    unsigned count = (unsigned)(BATCH_NS / batch(call, 1000)) + 1;
    size_t batches = 0;
    uint64_t stop = bench_now() + (uint64_t)(seconds * 1e9);
    do {
        ns[batches++] = batch(call, count);
    } while (batches < BATCHES_MAX && bench_now() < stop);
    qsort(ns, batches, sizeof *ns, bench_compare);
    printf("{\"ns\":%.2f,\"median_ns\":%.2f}\n", bench_quantile(ns, batches, 0.1), bench_quantile(ns, batches, 0.5));
    free(ns);
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "call seconds cpus");
    const char *name = bench_text("call", "list");
    if (strcmp(name, "list") == 0) {
        print_list();
        return 0;
    }
    bench_pin(bench_text("cpus", ""));
    for (size_t i = 0; i < CALLS; i++) {
        if (strcmp(calls[i].name, name) == 0) {
            calls[i].open();
            if (at.in < 0 || at.out < 0)
                err(1, "%s", name);
            measure(calls[i].call, bench_number("seconds", 0.3));
            return 0;
        }
    }
    errx(2, "call=%s: there is no such call; call=list prints them", name);
}
