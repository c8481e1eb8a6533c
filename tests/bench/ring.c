// ring: the limit. Two processes exchange bytes through a lock-free ring as the textbooks have it, without sockets, calls
// or a library in between: what no implementation on this machine can beat by much.
//
//   test=roundtrip|stream size=64 seconds=1 ring=262144 server_cpus=0 client_cpus=1
//   wait=spin       spin until there is something: no flags, no fences
//        flag       spin, but look after each publication whether the other side sleeps (it never does)
//        sleep      do not spin: raise the flag, look once more, sleep on an eventfd
//   pause_us=0      sleep so long before each round trip
//
//   -> roundtrip: {"us": median, "mean_us", "min_us", "p99_us", "per_second", "rounds"}
//      stream:    {"gb_per_s", "cpu_s_per_gb", "bytes"}

#include <err.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define APART       128
#define PUBLISH_MAX 65536u // more is published piece by piece, so that the other side can begin
#define BATCH_NS    20000.0
#define SAMPLES_MAX (1u << 20)
#define FLAG_SPINS  1000000u

enum waiting { WAIT_SPIN, WAIT_FLAG, WAIT_SLEEP };

struct ring {
    _Alignas(APART) _Atomic uint64_t tail;   // the producer's count of bytes
    _Alignas(APART) _Atomic uint64_t head;   // the consumer's count of bytes
    _Alignas(APART) _Atomic uint32_t asleep; // the consumer's
    _Alignas(APART) unsigned char data[];
};

// One side's view: the two rings, and the last cursors of the other side that it saw.
struct end {
    struct ring *out, *in;
    uint64_t tail, head_seen;  // of out
    uint64_t head, tail_seen;  // of in
    int wakes_other, wakes_me; // eventfds
};

static uint64_t ring_bytes;
static enum waiting waiting;
static size_t size;
static double seconds;
static long pause_ns;
static struct end ends[2];

static struct shared {
    _Atomic uint32_t stop;
    uint64_t bytes, ns, cpu_ns[2];
} * shared;

static struct ring *ring_new(void)
{
    return bench_share(sizeof(struct ring) + ring_bytes);
}

static void copy_in(struct ring *ring, uint64_t at, const unsigned char *from, size_t n)
{
    size_t offset = at & (ring_bytes - 1), first = n < ring_bytes - offset ? n : ring_bytes - offset;
    memcpy(ring->data + offset, from, first);
    memcpy(ring->data, from + first, n - first);
}

static void copy_out(const struct ring *ring, uint64_t at, unsigned char *to, size_t n)
{
    size_t offset = at & (ring_bytes - 1), first = n < ring_bytes - offset ? n : ring_bytes - offset;
    memcpy(to, ring->data + offset, first);
    memcpy(to + first, ring->data, n - first);
}

// The flag and the cursor are written and read in opposite orders on the two sides, hence seq_cst; its pair is in
// fall_asleep.
static void publish(struct end *end)
{
    if (waiting == WAIT_SPIN) {
        atomic_store_explicit(&end->out->tail, end->tail, memory_order_release);
        return;
    }
    atomic_store(&end->out->tail, end->tail);
    uint64_t one = 1;
    if (atomic_load(&end->out->asleep) && write(end->wakes_other, &one, sizeof one) < 0)
        err(1, "eventfd");
}

static void fall_asleep(struct end *end)
{
    uint64_t count;
    atomic_store(&end->in->asleep, 1);
    if (atomic_load(&end->in->tail) == end->head && read(end->wakes_me, &count, sizeof count) < 0 && errno != EINTR)
        err(1, "eventfd");
    atomic_store_explicit(&end->in->asleep, 0, memory_order_relaxed);
}

// Waits for input. Returns how many bytes there are; 0 once the other side has stopped.
static uint64_t await_bytes(struct end *end)
{
    for (unsigned tries = 0; end->tail_seen == end->head; tries++) {
        end->tail_seen = atomic_load_explicit(&end->in->tail, memory_order_acquire);
        if (end->tail_seen != end->head)
            break;
        if (atomic_load_explicit(&shared->stop, memory_order_acquire)) {
            end->tail_seen = atomic_load_explicit(&end->in->tail, memory_order_acquire);
            if (end->tail_seen == end->head)
                return 0;
        } else if (waiting == WAIT_SLEEP || (waiting == WAIT_FLAG && tries >= FLAG_SPINS))
            fall_asleep(end);
        else
            bench_relax();
    }
    return end->tail_seen - end->head;
}

static uint64_t await_room(struct end *end)
{
    while (end->tail - end->head_seen == ring_bytes) {
        end->head_seen = atomic_load_explicit(&end->out->head, memory_order_acquire);
        if (end->tail - end->head_seen == ring_bytes)
            bench_relax();
    }
    return ring_bytes - (end->tail - end->head_seen);
}

static size_t least(size_t a, size_t b, size_t c)
{
    size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

static void ring_send(struct end *end, const unsigned char *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        size_t n = least(bytes - done, await_room(end), PUBLISH_MAX);
        copy_in(end->out, end->tail, data + done, n);
        end->tail += n;
        publish(end);
        done += n;
    }
}

// Returns what there is, up to `bytes`; 0 once the other side has stopped.
static size_t ring_receive(struct end *end, unsigned char *data, size_t bytes)
{
    size_t n = least(bytes, await_bytes(end), PUBLISH_MAX);
    copy_out(end->in, end->head, data, n);
    end->head += n;
    atomic_store_explicit(&end->in->head, end->head, memory_order_release);
    return n;
}

static bool ring_receive_whole(struct end *end, unsigned char *data)
{
    for (size_t done = 0; done < size;) {
        size_t n = ring_receive(end, data + done, size - done);
        if (n == 0)
            return false;
        done += n;
    }
    return true;
}

static unsigned char *buffer_new(size_t bytes)
{
    unsigned char *buffer = calloc(1, bytes);
    if (!buffer)
        err(1, "calloc");
    return buffer;
}

// Ends the conversation: the other side may be asleep.
static void stop_other(struct end *end)
{
    uint64_t one = 1;
    atomic_store(&shared->stop, 1);
    if (write(end->wakes_other, &one, sizeof one) < 0)
        err(1, "eventfd");
}

// ---- round trips

static void echo(void *context)
{
    struct end *end = context;
    unsigned char *message = buffer_new(size);
    while (ring_receive_whole(end, message))
        ring_send(end, message, size);
    free(message);
}

static double batch(struct end *end, unsigned char *message, uint64_t rounds)
{
    if (pause_ns)
        nanosleep(&(struct timespec){.tv_nsec = pause_ns}, NULL);
    uint64_t begin = bench_now();
    for (uint64_t i = 0; i < rounds; i++) {
        ring_send(end, message, size);
        if (!ring_receive_whole(end, message))
            errx(1, "the other side stopped");
    }
    return (double)(bench_now() - begin) / 1e3 / (double)rounds;
}

static void round_trips(struct end *end)
{
    unsigned char *message = buffer_new(size);
    double *us = malloc(SAMPLES_MAX * sizeof *us), sum = 0;
    if (!us)
        err(1, "malloc");
    uint64_t rounds = 1, warm = bench_now() + 100000000u;
    do {
        double one = batch(end, message, rounds);
        if (!pause_ns)
            rounds = one * 1e3 < BATCH_NS ? (uint64_t)(BATCH_NS / (one * 1e3)) : 1;
    } while (bench_now() < warm);

    size_t samples = 0;
    uint64_t begin = bench_now(), stop = begin + (uint64_t)(seconds * 1e9), now = begin;
    while (now < stop && samples < SAMPLES_MAX) {
        us[samples] = batch(end, message, rounds);
        sum += us[samples++];
        now = bench_now();
    }
    stop_other(end);
    qsort(us, samples, sizeof *us, bench_compare);
    printf("{\"us\":%.4f,\"mean_us\":%.4f,\"min_us\":%.4f,\"p99_us\":%.4f,\"per_second\":%.1f,\"rounds\":%llu}\n",
           bench_quantile(us, samples, 0.5), sum / (double)samples, us[0], bench_quantile(us, samples, 0.99),
           (double)(rounds * samples) / ((double)(now - begin) / 1e9), (unsigned long long)(rounds * samples));
    free(us);
    free(message);
}

// ---- a stream

static void drain(void *context)
{
    struct end *end = context;
    unsigned char *data = buffer_new(PUBLISH_MAX);
    uint64_t got = 0, begin = 0, cpu = 0;
    for (size_t n; (n = ring_receive(end, data, PUBLISH_MAX)) != 0; got += begin ? n : 0) {
        if (!begin) {
            begin = bench_now();
            cpu = bench_cpu_ns();
        }
    }
    shared->bytes = got;
    shared->ns = bench_now() - begin;
    shared->cpu_ns[1] = bench_cpu_ns() - cpu;
    free(data);
}

static void stream(struct end *end, pid_t other)
{
    unsigned char *data = buffer_new(size);
    uint64_t cpu = bench_cpu_ns(), stop = bench_now() + (uint64_t)(seconds * 1e9);
    unsigned between_looks = size >= 65536 ? 1 : (unsigned)(65536 / size);
    do {
        for (unsigned i = 0; i < between_looks; i++)
            ring_send(end, data, size);
    } while (bench_now() < stop);
    shared->cpu_ns[0] = bench_cpu_ns() - cpu;
    stop_other(end);
    bench_join(other);
    double gb = (double)shared->bytes / 1e9;
    printf("{\"gb_per_s\":%.5f,\"cpu_s_per_gb\":%.5f,\"bytes\":%llu}\n", gb / ((double)shared->ns / 1e9),
           (double)(shared->cpu_ns[0] + shared->cpu_ns[1]) / 1e9 / gb, (unsigned long long)shared->bytes);
    free(data);
}

static void connect_ends(void)
{
    struct ring *there = ring_new(), *back = ring_new();
    int bells[2] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};
    if (bells[0] < 0 || bells[1] < 0)
        err(1, "eventfd");
    ends[0] = (struct end){.out = there, .in = back, .wakes_other = bells[1], .wakes_me = bells[0]};
    ends[1] = (struct end){.out = back, .in = there, .wakes_other = bells[0], .wakes_me = bells[1]};
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "test size seconds ring wait pause_us server_cpus client_cpus");
    bool streaming = bench_choice("test", "roundtrip stream") == 1;
    size = (size_t)bench_number("size", 64);
    seconds = bench_number("seconds", 1);
    ring_bytes = (uint64_t)bench_number("ring", 262144);
    waiting = (enum waiting)bench_choice("wait", "spin flag sleep");
    pause_ns = (long)(bench_number("pause_us", 0) * 1e3);
    if (size == 0 || ring_bytes < PUBLISH_MAX || (ring_bytes & (ring_bytes - 1)))
        errx(2, "expected a size of at least 1, and a ring of a power of two, at least %u", PUBLISH_MAX);

    shared = bench_share(sizeof *shared);
    connect_ends();
    pid_t other = bench_start(streaming ? drain : echo, &ends[1], bench_text("server_cpus", "0"));
    bench_pin(bench_text("client_cpus", "1"));
    if (streaming) {
        stream(&ends[0], other);
    } else {
        round_trips(&ends[0]);
        bench_join(other);
    }
    return 0;
}
