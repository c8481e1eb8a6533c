#include "agent/spin.h"

#include <sched.h>
#include <time.h>

#define BUDGET_LEAST 2000u

// The most to look, in times that a thread takes to wake up, and its bounds.
#define WAKES      4u
#define MOST_LEAST 50000u
#define MOST_MOST  2000000u

// A sleep that ended within so many times the most need not have been one, had everybody looked.
#define SOON 3u

// Looks with a PAUSE in between, at the beginning. Few: the one we wait for may be waiting for this CPU.
#define BRIEF_LOOKS 4u

// After so many misses in a row idle times begin with sleep, but for every PROBE-th.
#define MISSES_MOST 8u
#define PROBE       32u

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

static uint32_t most_to_look(uint32_t wake_ns)
{
    uint64_t most = (uint64_t)WAKES * wake_ns;

    return most < MOST_LEAST ? MOST_LEAST : most > MOST_MOST ? MOST_MOST : (uint32_t)most;
}

void spin_init(struct spin *spin, uint32_t wake_ns)
{
    uint32_t most = most_to_look(wake_ns);
    cpu_set_t cpus;

    *spin = (struct spin){.most_ns = most, .budget_ns = most};
    spin->alone = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) == 1;
}

static bool may_look(const struct spin *spin)
{
    return !spin->alone && !yields_avoided(&spin->yields, spin->began) &&
           (spin->misses <= MISSES_MOST || spin->misses % PROBE == 0);
}

static void yield(struct spin *spin, uint64_t before)
{
    uint64_t after;

    sched_yield();
    after = now_ns();
    yields_note(&spin->yields, after, after - before);
}

bool spin_idle(struct spin *spin)
{
    uint64_t now;

    if (!spin->began) {
        spin->began = now_ns();
        spin->looks = 0;
    }
    if (!may_look(spin))
        return false;
    if (spin->looks++ < BRIEF_LOOKS) {
        pause_briefly();
        return true;
    }
    now = now_ns();
    if (now - spin->began >= spin->budget_ns)
        return false;
    yield(spin, now);
    return true;
}

static uint32_t within(const struct spin *spin, uint64_t budget)
{
    return budget > spin->most_ns ? spin->most_ns : budget < BUDGET_LEAST ? BUDGET_LEAST : (uint32_t)budget;
}

void spin_busy_slow(struct spin *spin, bool slept)
{
    uint64_t took = now_ns() - spin->began;

    spin->began = 0;
    if (!slept) {
        uint64_t wanted = 2 * took;
        spin->misses = 0;
        if (wanted <= spin->budget_ns)
            wanted = spin->budget_ns - (spin->budget_ns - wanted) / 8;
        spin->budget_ns = within(spin, wanted);
    } else if (took < SOON * (uint64_t)spin->most_ns) {
        // It need not have been one, had we looked longer; and then the next will come sooner.
        spin->misses = 0;
        spin->budget_ns = spin->most_ns;
    } else {
        spin->misses++;
        spin->budget_ns = within(spin, spin->budget_ns - spin->budget_ns / 4);
    }
}
