#include "tests/unit/ring_rig.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#include "core/end.h"

void rig_fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    abort();
}

// --- the ring ---

static unsigned char *open_up(unsigned char *place, size_t size)
{
    if (mprotect(place, size, PROT_READ | PROT_WRITE))
        rig_fail("cannot open up memory");
    return place;
}

static size_t whole_pages(size_t size)
{
    return (size + LAYOUT_PAGE - 1) & ~(size_t)(LAYOUT_PAGE - 1);
}

void rig_make(struct rig *rig, uint64_t size, uint64_t start)
{
    size_t data = whole_pages(size);

    *rig = (struct rig){.size = size, .start = start, .mapped = 8 * LAYOUT_PAGE + data};
    void *mapping = mmap(NULL, rig->mapped, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED)
        rig_fail("no memory for a ring of %llu bytes", (unsigned long long)size);
    rig->mapping = (unsigned char *)mapping;
    rig->shared = (struct ring_shared *)(void *)open_up(rig->mapping + 1 * LAYOUT_PAGE, LAYOUT_PAGE);
    rig->sender = (struct end_shared *)(void *)open_up(rig->mapping + 3 * LAYOUT_PAGE, LAYOUT_PAGE);
    rig->receiver = (struct end_shared *)(void *)open_up(rig->mapping + 5 * LAYOUT_PAGE, LAYOUT_PAGE);
    rig->data = open_up(rig->mapping + 7 * LAYOUT_PAGE, data);
    if (end_init(rig->sender, 1, 1, 0) || end_init(rig->receiver, 1, 1, 1))
        rig_fail("cannot make the locks of an end");
    rig->shared->tail = rig->shared->head = start;
    rig->shared->left_at = SWITCH_NOT_YET;
    rig->sender->tx_tail = rig->receiver->rx_head = start;
}

void rig_free(struct rig *rig)
{
    munmap(rig->mapping, rig->mapped);
}

struct ring_tx rig_tx(const struct rig *rig)
{
    struct ring_tx tx;

    ring_tx_init(&tx, rig->shared, &rig->sender->tx_tail, rig->data, rig->size);
    return tx;
}

struct ring_rx rig_rx(const struct rig *rig)
{
    struct ring_rx rx;

    ring_rx_init(&rx, rig->shared, &rig->receiver->rx_head, rig->data, rig->size);
    return rx;
}

#ifdef __SANITIZE_THREAD__
#define THREAD_SANITIZER true
#else
#define THREAD_SANITIZER false
#endif

__attribute__((noinline, no_sanitize("thread"))) static void read_unseen(void *to, const void *from, size_t n)
{
    volatile uint64_t *out = (volatile uint64_t *)to;
    const volatile uint64_t *in = (const volatile uint64_t *)from;

    for (size_t i = 0; i < n / sizeof(*out); i++)
        out[i] = in[i];
}

static ssize_t get_in_place(struct ring_rx *ring, void *to, size_t n)
{
    for (;;) {
        uint64_t head;
        const void *place;
        ssize_t ready = ring_look(ring, &head, &place);
        if (ready <= 0)
            return ready;
        size_t taken = (size_t)ready < n ? (size_t)ready : n;
        read_unseen(to, place, taken);
        if (ring_consume(ring, head, taken))
            return (ssize_t)taken;
    }
}

ssize_t rig_get(struct ring_rx *ring, void *to, size_t n, bool alone)
{
    struct iovec one = {to, n};
    struct spans spans = spans_of(&one, 1);

    return THREAD_SANITIZER && !alone ? get_in_place(ring, to, n) : ring_get(ring, &spans, 0, false);
}

void *rig_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        rig_fail("no memory for %zu bytes", size);
    return memory;
}

uint64_t rig_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t rig_scaled(uint64_t amount)
{
    const char *scale = getenv("RING_SCALE");
    uint64_t percent = scale ? strtoull(scale, NULL, 10) : 100;

#ifdef __SANITIZE_THREAD__
    amount /= 10;
#endif
    amount = amount * percent / 100;
    return amount ? amount : 1;
}

// --- dice ---

struct dice dice_make(const char *name)
{
    const char *given = getenv("RING_SEED");
    struct dice dice;

    if (given)
        dice.state = strtoull(given, NULL, 0);
    else if (getrandom(&dice.state, sizeof(dice.state), 0) != sizeof(dice.state))
        dice.state = rig_now();
    printf("%s: RING_SEED=%llu\n", name, (unsigned long long)dice.state);
    fflush(stdout);
    return dice;
}

// Steele, Lea and Flood's SplitMix64.
uint64_t dice_cast(struct dice *dice)
{
    uint64_t z = dice->state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct dice dice_split(struct dice *dice)
{
    return (struct dice){dice_cast(dice)};
}

uint64_t dice_below(struct dice *dice, uint64_t limit)
{
    return dice_cast(dice) % limit;
}

size_t dice_size(struct dice *dice, size_t most)
{
    unsigned bits = 64 - (unsigned)__builtin_clzll(most);
    size_t size = 1 + (size_t)(dice_cast(dice) >> (64 - 1 - dice_below(dice, bits)));

    return size < most ? size : most;
}

// --- the stream ---

// Odd, so that it can be undone modulo 2^64.
#define STREAM_TIMES 0x9e3779b97f4a7c15u
#define STREAM_UNDO  0xf1de83e19937733du

static unsigned char stream_byte(uint64_t position)
{
    return (unsigned char)(position / 8 * STREAM_TIMES >> position % 8 * 8);
}

static bool word_aligned(uint64_t position, size_t left)
{
    return position % 8 == 0 && left >= 8;
}

void stream_fill(void *place, uint64_t position, size_t n)
{
    unsigned char *out = (unsigned char *)place;

    for (size_t i = 0; i < n;) {
        if (word_aligned(position + i, n - i)) {
            uint64_t word = (position + i) / 8 * STREAM_TIMES;
            memcpy(out + i, &word, 8);
            i += 8;
        } else {
            out[i] = stream_byte(position + i);
            i++;
        }
    }
}

uint64_t stream_position(const void *place)
{
    uint64_t word;

    memcpy(&word, place, 8);
    return word * STREAM_UNDO * 8;
}

size_t stream_check(const void *place, uint64_t position, size_t n)
{
    const unsigned char *in = (const unsigned char *)place;
    size_t i = 0;

    while (i < n) {
        uint64_t word = (position + i) / 8 * STREAM_TIMES;
        if (word_aligned(position + i, n - i) && memcmp(in + i, &word, 8) == 0)
            i += 8;
        else if (in[i] == stream_byte(position + i))
            i++;
        else
            break;
    }
    return i;
}
