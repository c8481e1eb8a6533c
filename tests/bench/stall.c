// stall: for how long nothing arrives, at the longest, in each of several stretches of time. What happens in them is the
// caller's affair.
//
//   kind=stream|pingpong family=tcp|tcp6|unix size=64 windows=10 window_ms=300 server_cpus=0 client_cpus=1
//
//   -> {"ready":1} when the connection has been busy for a while and the first stretch begins, and after the last
//      {"gaps_ms":[the longest time between two receives, in each stretch]}

#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/bench.h"

// Before the first stretch (ns).
#define WARM_UP 500000000u

enum kind { STREAM, PINGPONG };

static struct {
    struct bench_listener listener;
    enum kind kind;
    size_t size;
    unsigned windows;
    uint64_t window;
} given;

static char *buffer(void)
{
    char *bytes = calloc(1, given.size);
    if (!bytes)
        err(1, "no memory");
    return bytes;
}

static void send_all(int fd, const char *bytes)
{
    for (size_t done = 0; done < given.size;) {
        ssize_t n = send(fd, bytes + done, given.size - done, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            exit(0); // the other one has all that it wants
        done += n > 0 ? (size_t)n : 0;
    }
}

// False at the end of the stream.
static bool receive_all(int fd, char *bytes)
{
    for (size_t done = 0; done < given.size;) {
        ssize_t n = read(fd, bytes + done, given.size - done);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static void serve(void *context)
{
    int fd = bench_accept(&given.listener);
    char *bytes = buffer();
    bench_nodelay(fd);
    while (given.kind == STREAM || receive_all(fd, bytes))
        send_all(fd, bytes);
}

static uint64_t step(int fd, char *bytes)
{
    if (given.kind == PINGPONG)
        send_all(fd, bytes);
    if (!receive_all(fd, bytes))
        errx(1, "the connection has ended");
    return bench_now();
}

// The longest gap that ends before `stop`, or at the first receive after it; *last is the time of the last receive.
static uint64_t longest_gap(int fd, char *bytes, uint64_t stop, uint64_t *last)
{
    uint64_t longest = 0;
    while (*last < stop) {
        uint64_t now = step(fd, bytes);
        longest = now - *last > longest ? now - *last : longest;
        *last = now;
    }
    return longest;
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "kind family size windows window_ms server_cpus client_cpus");
    given.kind = (enum kind)bench_choice("kind", "stream pingpong");
    given.size = (size_t)bench_number("size", 64);
    given.windows = (unsigned)bench_number("windows", 10);
    given.window = (uint64_t)(bench_number("window_ms", 300) * 1e6);
    bench_listen(&given.listener, (enum bench_family)bench_choice("family", BENCH_FAMILIES));
    bench_start(serve, NULL, bench_text("server_cpus", ""));
    bench_pin(bench_text("client_cpus", ""));
    int fd = bench_connect(&given.listener);
    char *bytes = buffer();
    bench_nodelay(fd);
    uint64_t last = bench_now(), begin = last + WARM_UP;
    longest_gap(fd, bytes, begin, &last);
    printf("{\"ready\":1}\n");
    fflush(stdout);
    printf("{\"gaps_ms\":[");
    for (unsigned i = 1; i <= given.windows; i++)
        printf("%s%.3f", i == 1 ? "" : ",", (double)longest_gap(fd, bytes, begin + i * given.window, &last) / 1e6);
    printf("]}\n");
    return 0;
}
