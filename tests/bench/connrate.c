// connrate: connect, request, reply, close, one connection after the other.
//
//   family=tcp|tcp6|unix size=64 (of request and reply) exchanges=1 seconds=1 connections=12000 (at most)
//   server_cpus=0 client_cpus=1
//
//   -> {"us": median of the time of one connection, "mean_us", "per_second", "cpu_us": of both sides, "connections"}
//
// The number of connections is bounded because each leaves a port in TIME_WAIT.

#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define SIZE_MAX_ 65536

static size_t size;
static unsigned exchanges, connections;
static double seconds;
static struct bench_listener listener;

static struct result {
    double us, mean_us, per_second;
    uint64_t connections;
    uint64_t client_cpu_ns, server_cpu_ns;
} * result;

// Returns false if the peer closed before the first byte.
static bool receive(int fd, char *message)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, message + done, size - done);
        if (n == 0 && done == 0)
            return false;
        if (n == 0 || (n < 0 && errno != EINTR))
            err(1, "read");
        if (n > 0)
            done += (size_t)n;
    }
    return true;
}

static void transmit(int fd, const char *message)
{
    if (send(fd, message, size, MSG_NOSIGNAL) != (ssize_t)size)
        err(1, "send");
}

// Serves until a connection brings nothing.
static void server(void *context)
{
    static char message[SIZE_MAX_];
    for (bool last = false; !last;) {
        int fd = bench_accept(&listener);
        bench_nodelay(fd);
        last = true;
        while (receive(fd, message)) {
            transmit(fd, message);
            last = false;
        }
        close(fd);
    }
    result->server_cpu_ns = bench_cpu_ns();
}

static void converse(void)
{
    static char message[SIZE_MAX_];
    int fd = bench_connect(&listener);
    bench_nodelay(fd);
    for (unsigned i = 0; i < exchanges; i++) {
        transmit(fd, message);
        if (!receive(fd, message))
            errx(1, "the server closed early");
    }
    close(fd);
}

static void client(void *context)
{
    double *us = malloc(connections * sizeof *us);
    if (!us)
        err(1, "malloc");
    unsigned done = 0;
    uint64_t begin = bench_now(), stop = begin + (uint64_t)(seconds * 1e9), before = begin;
    while (done < connections && before < stop) {
        converse();
        uint64_t now = bench_now();
        us[done++] = (double)(now - before) / 1e3;
        before = now;
    }
    double elapsed = (double)(before - begin) / 1e9;
    qsort(us, done, sizeof *us, bench_compare);
    result->us = bench_quantile(us, done, 0.5);
    result->mean_us = elapsed * 1e6 / done;
    result->per_second = done / elapsed;
    result->connections = done;
    result->client_cpu_ns = bench_cpu_ns();
    free(us);
    close(bench_connect(&listener)); // tells the server to end
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "family size exchanges seconds connections server_cpus client_cpus");
    size = (size_t)bench_number("size", 64);
    exchanges = (unsigned)bench_number("exchanges", 1);
    connections = (unsigned)bench_number("connections", 12000);
    seconds = bench_number("seconds", 1);
    if (size == 0 || size > SIZE_MAX_ || exchanges == 0 || connections == 0)
        errx(2, "expected a size of 1 to %d, and at least one exchange and connection", SIZE_MAX_);
    result = bench_share(sizeof *result);
    bench_listen(&listener, (enum bench_family)bench_choice("family", BENCH_FAMILIES));
    pid_t one = bench_start(server, NULL, bench_text("server_cpus", "0"));
    pid_t other = bench_start(client, NULL, bench_text("client_cpus", "1"));
    close(listener.fd);
    bench_join(other);
    bench_join(one);
    printf("{\"us\":%.3f,\"mean_us\":%.3f,\"per_second\":%.1f,\"cpu_us\":%.3f,\"connections\":%llu}\n", result->us,
           result->mean_us, result->per_second,
           (double)(result->client_cpu_ns + result->server_cpu_ns) / 1e3 / (double)result->connections,
           (unsigned long long)result->connections);
    return 0;
}
