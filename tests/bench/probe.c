// probe: how long one cache line takes from one CPU to another and back.
//
//   cpus=A,B seconds=0.1      ->  {"ns": median over batches, "min_ns": ...}
//
// Where two virtual CPUs lie moves every figure of shared memory by a factor of four, so each run says what it had.

#include <err.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"

#define BATCH       1000u
#define BATCHES_MAX 100000u
#define STOP        UINT64_MAX

static _Atomic uint64_t *ball; // odd: on its way to the child; even: back

static void child(void *context)
{
    for (uint64_t expected = 1;; expected += 2) {
        uint64_t seen;
        while ((seen = atomic_load_explicit(ball, memory_order_acquire)) != expected) {
            if (seen == STOP)
                return;
            bench_relax();
        }
        atomic_store_explicit(ball, expected + 1, memory_order_release);
    }
}

// Returns the ns of one round trip, as the mean of a batch; `count` is the number of round trips so far.
static double batch(uint64_t *count)
{
    uint64_t begin = bench_now();
    for (unsigned i = 0; i < BATCH; i++) {
        uint64_t back = *count + 2;
        atomic_store_explicit(ball, *count + 1, memory_order_release);
        while (atomic_load_explicit(ball, memory_order_acquire) != back)
            bench_relax();
        *count = back;
    }
    return (double)(bench_now() - begin) / BATCH;
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "cpus seconds");
    char *cpus = strdup(bench_text("cpus", "0,1"));
    char *comma = cpus ? strchr(cpus, ',') : NULL;
    if (!comma)
        errx(2, "cpus=%s: expected two CPUs", cpus);
    *comma = '\0';

    ball = bench_share(4096);
    pid_t other = bench_start(child, NULL, comma + 1);
    bench_pin(cpus);
    double *ns = malloc(BATCHES_MAX * sizeof *ns);
    if (!ns)
        err(1, "malloc");
    uint64_t count = 0, end = bench_now() + (uint64_t)(bench_number("seconds", 0.1) * 1e9);
    size_t batches = 0;
    do {
        ns[batches++] = batch(&count);
    } while (batches < BATCHES_MAX && bench_now() < end);
    atomic_store(ball, STOP);
    bench_join(other);

    qsort(ns, batches, sizeof *ns, bench_compare);
    printf("{\"ns\":%.1f,\"min_ns\":%.1f}\n", bench_quantile(ns, batches, 0.5), ns[0]);
    free(ns);
    free(cpus);
    return 0;
}
