// Two threads that wake each other by turns. The median counts: the shortest time may have been one in which the other
// thread had not yet fallen asleep, or that both had on one CPU, which what passes through several processes is not.

#include "agent/wakeup.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "agent/fd.h"

#define ROUND_TRIPS 24

// Between two of them, so that the other one really sleeps.
#define PAUSE_NS 20000

struct pair {
    int there;
    int back;
};

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void give(int fd)
{
    static const uint64_t one = 1;

    if (write(fd, &one, sizeof(one)) < 0)
        return;
}

static void take(int fd)
{
    uint64_t count;

    while (read(fd, &count, sizeof(count)) < 0)
        ;
}

static void *answer(void *argument)
{
    const struct pair *pair = argument;

    for (int i = 0; i < ROUND_TRIPS; i++) {
        take(pair->there);
        give(pair->back);
    }
    return NULL;
}

static uint64_t round_trip(const struct pair *pair)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    uint64_t began;

    nanosleep(&pause, NULL);
    began = now_ns();
    give(pair->there);
    take(pair->back);
    return now_ns() - began;
}

static int compare(const void *a, const void *b)
{
    const uint64_t *one = a, *other = b;

    return (*one > *other) - (*one < *other);
}

static uint64_t measure(struct pair *pair)
{
    uint64_t took[ROUND_TRIPS];
    pthread_t thread;

    if (pthread_create(&thread, NULL, answer, pair))
        return 0;
    for (int i = 0; i < ROUND_TRIPS; i++)
        took[i] = round_trip(pair);
    pthread_join(thread, NULL);
    qsort(took, ROUND_TRIPS, sizeof(took[0]), compare);
    return took[ROUND_TRIPS / 2] / 2;
}

uint32_t wakeup_measure(void)
{
    _cleanup_fd_ int there = eventfd(0, EFD_CLOEXEC), back = eventfd(0, EFD_CLOEXEC);
    struct pair pair = {.there = there, .back = back};

    if (there < 0 || back < 0)
        return 0;
    return (uint32_t)measure(&pair);
}
