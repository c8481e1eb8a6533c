// pingpong: round trips between pairs of processes over one kind of socket.
//
//   family=tcp|tcp6|unix mode=block|spin|epoll size=64 seconds=1 warmup=0.2 pairs=1
//   pause_us=0        sleep so long before each round trip, so that both sides are asleep when it begins
//   server_cpus=0 client_cpus=1
//
//   -> {"us": median of the time of a round trip, "mean_us", "min_us", "p99_us": of the first pair,
//       "per_second": of all pairs together, "cpu_us": CPU time of both sides per round trip, "rounds": of all pairs}
//
// Round trips are timed in batches of some 20 us, so that reading the clock does not show; with a pause, one by one, the
// pause left out. block: blocking calls. spin: non-blocking calls, again and again. epoll: epoll_wait before every read,
// as event-driven programs do.

#include <err.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define PAIRS_MAX   64
#define BATCH_NS    20000.0
#define SAMPLES_MAX (1u << 20)

enum mode { MODE_BLOCK, MODE_SPIN, MODE_EPOLL };

struct result {
    double us, mean_us, min_us, p99_us, per_second;
    uint64_t rounds;
    uint64_t client_cpu_ns, server_cpu_ns;
};

static struct {
    enum mode mode;
    size_t size;
    unsigned pairs;
    double seconds, warmup;
    long pause_ns;
} setting;

struct shared {
    _Atomic unsigned ready; // clients that are connected and warm
    struct result result[PAIRS_MAX];
};

static struct shared *shared;

// One side of a pair.
struct end {
    struct bench_listener listener;
    struct result *result;
    int fd, epoll;
    unsigned char *message;
};

static void end_open(struct end *end, int fd)
{
    end->fd = fd;
    end->message = calloc(1, setting.size);
    if (!end->message)
        err(1, "calloc");
    bench_nodelay(fd);
    if (setting.mode != MODE_BLOCK)
        bench_nonblocking(fd);
    if (setting.mode == MODE_EPOLL) {
        struct epoll_event event = {.events = EPOLLIN};
        end->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (end->epoll < 0 || epoll_ctl(end->epoll, EPOLL_CTL_ADD, fd, &event))
            err(1, "epoll");
    }
}

static void await_input(const struct end *end)
{
    struct epoll_event event;
    if (epoll_wait(end->epoll, &event, 1, -1) < 0 && errno != EINTR)
        err(1, "epoll_wait");
}

// Returns false if the peer closed before the first byte.
static bool receive(const struct end *end)
{
    for (size_t done = 0; done < setting.size;) {
        if (setting.mode == MODE_EPOLL)
            await_input(end);
        ssize_t n = read(end->fd, end->message + done, setting.size - done);
        if (n == 0 && done == 0)
            return false;
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            err(1, "read");
        if (n > 0)
            done += (size_t)n;
    }
    return true;
}

static void transmit(const struct end *end)
{
    for (size_t done = 0; done < setting.size;) {
        ssize_t n = send(end->fd, end->message + done, setting.size - done, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            err(1, "send");
        if (n > 0)
            done += (size_t)n;
        if (n < 0 && setting.mode == MODE_EPOLL)
            poll(&(struct pollfd){.fd = end->fd, .events = POLLOUT}, 1, -1);
    }
}

static void server(void *context)
{
    struct end *end = context;
    end_open(end, bench_accept(&end->listener));
    while (receive(end))
        transmit(end);
    end->result->server_cpu_ns = bench_cpu_ns();
}

// Sends a number and expects it back.
static void round_trip(const struct end *end)
{
    static uint64_t number;
    uint64_t stamp = ++number;
    size_t stamped = setting.size < sizeof stamp ? setting.size : sizeof stamp;
    memcpy(end->message, &stamp, stamped);
    transmit(end);
    if (!receive(end) || memcmp(end->message, &stamp, stamped) != 0)
        errx(1, "the reply to round trip %llu is not what was sent", (unsigned long long)stamp);
}

// Returns the us of one round trip, as the mean of a batch.
static double batch(const struct end *end, uint64_t rounds)
{
    if (setting.pause_ns)
        nanosleep(&(struct timespec){.tv_nsec = setting.pause_ns}, NULL);
    uint64_t begin = bench_now();
    for (uint64_t i = 0; i < rounds; i++)
        round_trip(end);
    return (double)(bench_now() - begin) / 1e3 / (double)rounds;
}

// Returns how many round trips make a batch.
static uint64_t warm_up(const struct end *end)
{
    uint64_t stop = bench_now() + (uint64_t)(setting.warmup * 1e9), rounds = 1;
    double us = 0;
    do {
        us = batch(end, rounds);
        if (!setting.pause_ns)
            rounds = us * 1e3 < BATCH_NS ? (uint64_t)(BATCH_NS / (us * 1e3)) : 1;
    } while (bench_now() < stop);
    return rounds;
}

static void await_others(void)
{
    atomic_fetch_add(&shared->ready, 1);
    while (atomic_load(&shared->ready) < setting.pairs)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static void client(void *context)
{
    struct end *end = context;
    struct result *result = end->result;
    double *us = malloc(SAMPLES_MAX * sizeof *us), sum = 0;
    if (!us)
        err(1, "malloc");
    end_open(end, bench_connect(&end->listener));
    uint64_t rounds = warm_up(end);
    await_others();

    size_t samples = 0;
    uint64_t begin = bench_now(), stop = begin + (uint64_t)(setting.seconds * 1e9), now = begin;
    while (now < stop && samples < SAMPLES_MAX) {
        us[samples] = batch(end, rounds);
        sum += us[samples++];
        now = bench_now();
    }
    result->rounds = rounds * samples;
    result->per_second = (double)result->rounds / ((double)(now - begin) / 1e9);
    result->mean_us = sum / (double)samples;
    qsort(us, samples, sizeof *us, bench_compare);
    result->us = bench_quantile(us, samples, 0.5);
    result->min_us = us[0];
    result->p99_us = bench_quantile(us, samples, 0.99);
    result->client_cpu_ns = bench_cpu_ns();
    free(us);
}

static void run_pair(struct end *end, enum bench_family family, struct result *result, pid_t children[static 2])
{
    bench_listen(&end->listener, family);
    end->result = result;
    children[0] = bench_start(server, end, bench_text("server_cpus", "0"));
    children[1] = bench_start(client, end, bench_text("client_cpus", "1"));
    close(end->listener.fd);
}

static void print_result(void)
{
    double per_second = 0, cpu_ns = 0;
    uint64_t rounds = 0;
    for (unsigned i = 0; i < setting.pairs; i++) {
        const struct result *one = &shared->result[i];
        per_second += one->per_second;
        rounds += one->rounds;
        cpu_ns += (double)(one->client_cpu_ns + one->server_cpu_ns);
    }
    const struct result *first = &shared->result[0];
    printf("{\"us\":%.4f,\"mean_us\":%.4f,\"min_us\":%.4f,\"p99_us\":%.4f,\"per_second\":%.1f,\"cpu_us\":%.3f,"
           "\"rounds\":%llu}\n",
           first->us, first->mean_us, first->min_us, first->p99_us, per_second, cpu_ns / 1e3 / (double)rounds,
           (unsigned long long)rounds);
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "family mode size seconds warmup pairs pause_us server_cpus client_cpus");
    enum bench_family family = (enum bench_family)bench_choice("family", BENCH_FAMILIES);
    setting.mode = (enum mode)bench_choice("mode", "block spin epoll");
    setting.size = (size_t)bench_number("size", 64);
    setting.seconds = bench_number("seconds", 1);
    setting.warmup = bench_number("warmup", 0.2);
    setting.pairs = (unsigned)bench_number("pairs", 1);
    setting.pause_ns = (long)(bench_number("pause_us", 0) * 1e3);
    if (setting.size == 0 || setting.pairs == 0 || setting.pairs > PAIRS_MAX)
        errx(2, "expected a size of at least 1 and 1 to %d pairs", PAIRS_MAX);

    struct end ends[PAIRS_MAX];
    pid_t children[PAIRS_MAX][2];
    shared = bench_share(sizeof *shared);
    for (unsigned i = 0; i < setting.pairs; i++)
        run_pair(&ends[i], family, &shared->result[i], children[i]);
    for (unsigned i = 0; i < setting.pairs; i++) {
        bench_join(children[i][1]);
        bench_join(children[i][0]);
    }
    print_result();
    return 0;
}
