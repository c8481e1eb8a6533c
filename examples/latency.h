// Round-trip times: a histogram with a resolution of 1.6 % or 1 ns, whichever is coarser, and its printing.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define LATENCY_STEPS   64u // buckets per power of two
#define LATENCY_BUCKETS (LATENCY_STEPS * 36u)

struct latency {
    uint64_t count, sum, min, max;
    uint64_t bucket[LATENCY_BUCKETS];
};

static inline uint64_t latency_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline unsigned latency_bucket(uint64_t ns)
{
    if (ns < LATENCY_STEPS)
        return (unsigned)ns;
    unsigned power = 63u - (unsigned)__builtin_clzll(ns) - 6u;
    unsigned index = power * LATENCY_STEPS + (unsigned)(ns >> power);
    return index < LATENCY_BUCKETS ? index : LATENCY_BUCKETS - 1;
}

// The largest value that falls into a bucket.
static inline uint64_t latency_bucket_top(unsigned index)
{
    if (index < 2 * LATENCY_STEPS)
        return index;
    unsigned power = index / LATENCY_STEPS - 1;
    return ((uint64_t)(index - power * LATENCY_STEPS + 1) << power) - 1;
}

static inline void latency_add(struct latency *latency, uint64_t ns)
{
    if (latency->count == 0 || ns < latency->min)
        latency->min = ns;
    if (ns > latency->max)
        latency->max = ns;
    latency->count++;
    latency->sum += ns;
    latency->bucket[latency_bucket(ns)]++;
}

// The time that `share` (0..1) of the round trips did not exceed, in us.
static inline double latency_us(const struct latency *latency, double share)
{
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)latency->count);
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        seen += latency->bucket[i];
        if (seen > wanted || seen == latency->count) {
            uint64_t top = latency_bucket_top(i);
            return (double)(top < latency->max ? top : latency->max) / 1e3;
        }
    }
    return 0;
}

// Prints what one connection did in `seconds`, for people or as one JSON object on a line of its own.
static inline void latency_print(const struct latency *latency, const char *remote, uint64_t size, const char *mode,
                                 double seconds, bool json)
{
    double rate = seconds > 0 ? (double)latency->count / seconds : 0;
    double mean = latency->count ? (double)latency->sum / (double)latency->count / 1e3 : 0;
    unsigned long long count = latency->count, bytes = size;
    double min = (double)latency->min / 1e3, max = (double)latency->max / 1e3;
    double p50 = latency_us(latency, 0.5), p90 = latency_us(latency, 0.9);
    double p99 = latency_us(latency, 0.99), p999 = latency_us(latency, 0.999);
    if (json)
        printf("{\"remote\":\"%s\",\"size\":%llu,\"mode\":\"%s\",\"round_trips\":%llu,\"seconds\":%.6f,"
               "\"per_second\":%.1f,\"latency_us\":{\"min\":%.3f,\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,"
               "\"p99\":%.3f,\"p99.9\":%.3f,\"max\":%.3f}}\n",
               remote, bytes, mode, count, seconds, rate, min, mean, p50, p90, p99, p999, max);
    else
        printf("%s, %llu bytes, %s: %llu round trips in %.3f s, %.0f per second\n"
               "  latency in us: min %.2f  mean %.2f  p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f\n",
               remote, bytes, mode, count, seconds, rate, min, mean, p50, p90, p99, p999, max);
    fflush(stdout);
}
