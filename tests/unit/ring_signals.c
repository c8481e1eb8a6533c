// Signal handlers that use the end of the ring that the thread below them is using: no byte is lost or doubled.
//
// Another thread sends signals as fast as it can, a third is the other side of the ring. What ring_interleave tries at
// each step, deliberately, this does with real signals at real instructions.
//
// A handler does not produce while the thread below is filling the place behind the tail: it would share that place.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/ring_rig.h"

#define CALL_MOST   4096
#define WORD        8
#define CHUNKS_MOST (4u << 20)
#define TEST_NS     2000000000u

struct chunk {
    uint64_t position, n;
};

// What is produced from two levels is told apart by records, each its number from its own source.
struct record {
    uint32_t source, number;
    uint64_t check;
};

enum { BELOW, ABOVE };

static struct {
    struct rig rig;
    struct ring_tx tx;
    struct ring_rx rx;
    struct dice dice[2];
    unsigned char buffer[2][CALL_MOST];
    int bell, nest; // of the thread that is interrupted
    int other_bell, other_nest;
    pthread_t victim;
    uint64_t until;
    _Atomic bool quiet;    // no more signals
    _Atomic bool produced; // all that will be
    _Atomic bool filling;
    _Atomic uint64_t handled, useful; // handlers, and those of them that moved something

    // Consuming.
    struct chunk *chunks;
    _Atomic uint64_t chunk_count;

    // Producing.
    uint32_t next[2], seen[2];
} scene;

// --- common ---

static void ring_bell(int bell)
{
    uint64_t one = 1;

    if (write(bell, &one, sizeof(one)) != sizeof(one))
        rig_fail("cannot ring a bell");
}

static int nest_with(int bell)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int nest = epoll_create1(EPOLL_CLOEXEC);

    if (nest < 0 || epoll_ctl(nest, EPOLL_CTL_ADD, bell, &event))
        rig_fail("cannot make an epoll set");
    return nest;
}

// Until the bell, or a signal. Nobody is left behind: the rings of these tests never rest for ten seconds.
static void sleep_in_nest(int nest)
{
    struct epoll_event event;

    if (epoll_wait(nest, &event, 1, 10000) == 0)
        rig_fail("left behind asleep: tail %llu, head %llu", (unsigned long long)scene.rig.shared->tail,
                 (unsigned long long)scene.rig.shared->head);
}

static void wake_consumer(int bell)
{
    uint32_t arm;

    if (ring_tx_wants_bell(&scene.tx, &arm)) {
        ring_bell(bell);
        ring_tx_rang(&scene.tx, arm);
    }
}

static void wake_producer(int bell)
{
    uint32_t arm;

    if (ring_rx_wants_bell(&scene.rx, &arm)) {
        ring_bell(bell);
        ring_rx_rang(&scene.rx, arm);
    }
}

static void wait_for_bytes(int nest)
{
    ring_rx_republish(&scene.rx);
    ring_rx_arm(&scene.rx);
    if (ring_ready_fresh(&scene.rx) == 0 && !atomic_load(&scene.produced))
        sleep_in_nest(nest);
}

static bool room_enough(void)
{
    return ring_room(&scene.tx) >= (int64_t)ring_room_wanted(&scene.tx);
}

static void wait_for_room(int nest)
{
    ring_tx_arm(&scene.tx);
    if (!room_enough())
        sleep_in_nest(nest);
}

static size_t some_size(int level, size_t unit)
{
    size_t n = dice_size(&scene.dice[level], CALL_MOST) / unit * unit;

    return n ? n : unit;
}

static void *send_signals(void *argument)
{
    struct dice dice = *(const struct dice *)argument;

    while (!atomic_load(&scene.quiet)) {
        pthread_kill(scene.victim, SIGUSR1);
        if (dice_below(&dice, 8) == 0)
            sched_yield();
        for (uint64_t spin = dice_below(&dice, 2000); spin; spin--)
            __asm__ volatile("");
    }
    return NULL;
}

static void set_up(const char *name, struct dice *dice)
{
    memset((void *)&scene, 0, sizeof(scene));
    *dice = dice_make(name);
    rig_make(&scene.rig, RING_BYTES_MIN, 0);
    scene.tx = rig_tx(&scene.rig);
    scene.rx = rig_rx(&scene.rig);
    scene.dice[BELOW] = dice_split(dice);
    scene.dice[ABOVE] = dice_split(dice);
    scene.bell = eventfd(0, EFD_CLOEXEC);
    scene.nest = nest_with(scene.bell);
    scene.other_bell = eventfd(0, EFD_CLOEXEC);
    scene.other_nest = nest_with(scene.other_bell);
    scene.victim = pthread_self();
    scene.until = rig_now() + rig_scaled(TEST_NS);
}

static void tear_down(const char *name)
{
    printf("%s: %llu MB, %llu handlers, %llu of them moved something\n", name,
           (unsigned long long)scene.rig.sender->tx_tail / 1000000, (unsigned long long)scene.handled,
           (unsigned long long)scene.useful);
    assert_true(scene.useful > 0);
    close(scene.nest);
    close(scene.bell);
    close(scene.other_nest);
    close(scene.other_bell);
    rig_free(&scene.rig);
}

static void handle_with(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};

    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
}

// Runs `below` in this thread, interrupted by `handler`, with `other` on the other side of the ring.
static void play(void (*below)(void), void (*handler)(int), void *(*other)(void *), struct dice *dice)
{
    pthread_t sender, peer;
    struct dice sender_dice = dice_split(dice), peer_dice = dice_split(dice);
    sigset_t signals;

    handle_with(handler);
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    pthread_create(&peer, NULL, other, &peer_dice);
    pthread_create(&sender, NULL, send_signals, &sender_dice);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    below();
    atomic_store(&scene.quiet, true);
    pthread_join(sender, NULL);
    pthread_join(peer, NULL);
    handle_with(SIG_IGN);
}

// --- handlers that consume ---

static void *produce_words(void *argument)
{
    struct dice dice = *(const struct dice *)argument;
    unsigned char bytes[CALL_MOST];
    uint64_t position = 0;

    while (rig_now() < scene.until && atomic_load(&scene.chunk_count) < CHUNKS_MOST / 2) {
        struct iovec one = {bytes, (dice_size(&dice, CALL_MOST) & ~(size_t)(WORD - 1)) + WORD};
        struct spans from = spans_of(&one, 1);
        one.iov_len = one.iov_len < CALL_MOST ? one.iov_len : CALL_MOST;
        stream_fill(bytes, position, one.iov_len);
        ssize_t n = ring_put(&scene.tx, &from);
        if (n < 0)
            rig_fail("the producer got %zd", n);
        position += (uint64_t)n;
        if (n)
            wake_consumer(scene.bell);
        else
            wait_for_room(scene.other_nest);
    }
    atomic_store(&scene.produced, true);
    ring_bell(scene.bell);
    return NULL;
}

static void note_chunk(const unsigned char *bytes, size_t n)
{
    uint64_t position = stream_position(bytes), at = atomic_fetch_add(&scene.chunk_count, 1);

    if (stream_check(bytes, position, n) != n)
        rig_fail("wrong bytes behind position %llu", (unsigned long long)position);
    if (at >= CHUNKS_MOST)
        rig_fail("too many chunks");
    scene.chunks[at] = (struct chunk){position, n};
}

// Returns false if there is nothing.
static bool consume_words(int level)
{
    ssize_t n = rig_get(&scene.rx, scene.buffer[level], some_size(level, WORD), false);

    if (n < 0 || n % WORD)
        rig_fail("a consumer got %zd", n);
    if (!n)
        return false;
    wake_producer(scene.other_bell);
    note_chunk(scene.buffer[level], (size_t)n);
    return true;
}

static void consume_in_handler(int number)
{
    int saved = errno;

    atomic_fetch_add(&scene.handled, 1);
    if (consume_words(ABOVE))
        atomic_fetch_add(&scene.useful, 1);
    errno = saved;
}

static void consume_below(void)
{
    for (;;) {
        bool produced = atomic_load(&scene.produced);
        if (consume_words(BELOW))
            continue;
        if (produced)
            return;
        wait_for_bytes(scene.nest);
    }
}

static int compare_chunks(const void *a, const void *b)
{
    uint64_t left = ((const struct chunk *)a)->position, right = ((const struct chunk *)b)->position;

    return left < right ? -1 : left > right;
}

static void check_chunks(void)
{
    uint64_t position = 0;

    qsort(scene.chunks, scene.chunk_count, sizeof(*scene.chunks), compare_chunks);
    for (uint64_t i = 0; i < scene.chunk_count; i++) {
        assert_int_equal(scene.chunks[i].position, position);
        position += scene.chunks[i].n;
    }
    assert_int_equal(position, scene.rig.sender->tx_tail);
}

static void test_handlers_that_consume(void **state)
{
    struct dice dice;

    set_up("handlers that consume", &dice);
    scene.chunks = rig_memory(CHUNKS_MOST * sizeof(*scene.chunks));
    play(consume_below, consume_in_handler, produce_words, &dice);
    check_chunks();
    tear_down("handlers that consume");
}

// --- handlers that produce ---

static uint64_t check_of(uint32_t source, uint32_t number)
{
    return ((uint64_t)number << 32 | source) * 0x9e3779b97f4a7c15u;
}

static void fill_records(struct record *records, int level, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t number = scene.next[level] + (uint32_t)i;
        records[i] = (struct record){(uint32_t)level, number, check_of((uint32_t)level, number)};
    }
}

// In place, so that it is known when the place is being filled. Returns bytes, -EAGAIN if a handler was faster.
static ssize_t put_below(size_t wanted)
{
    uint64_t tail;
    void *place;

    atomic_store(&scene.filling, true);
    ssize_t n = ring_reserve(&scene.tx, &tail, &place);
    if (n > 0) {
        n = (size_t)n < wanted ? n : (ssize_t)wanted;
        fill_records(place, BELOW, (size_t)n / sizeof(struct record));
    }
    atomic_store(&scene.filling, false);
    if (n <= 0)
        return n;
    return ring_commit(&scene.tx, tail, (size_t)n) ? n : -EAGAIN;
}

static ssize_t put_above(size_t wanted)
{
    struct iovec one = {scene.buffer[ABOVE], wanted};
    struct spans from = spans_of(&one, 1);

    fill_records((struct record *)(void *)scene.buffer[ABOVE], ABOVE, wanted / sizeof(struct record));
    return ring_put(&scene.tx, &from);
}

// Returns false if there is no room.
static bool produce_records(int level)
{
    size_t wanted = some_size(level, sizeof(struct record));
    ssize_t n = level == BELOW ? put_below(wanted) : put_above(wanted);

    if (n == -EAGAIN)
        return true;
    if (n < 0 || n % (ssize_t)sizeof(struct record))
        rig_fail("a producer got %zd", n);
    scene.next[level] += (uint32_t)((size_t)n / sizeof(struct record));
    if (n)
        wake_consumer(scene.other_bell);
    return n;
}

static void produce_in_handler(int number)
{
    int saved = errno;

    atomic_fetch_add(&scene.handled, 1);
    if (!atomic_load(&scene.filling) && produce_records(ABOVE))
        atomic_fetch_add(&scene.useful, 1);
    errno = saved;
}

static void produce_below(void)
{
    while (rig_now() < scene.until) {
        if (!produce_records(BELOW))
            wait_for_room(scene.nest);
    }
    atomic_store(&scene.quiet, true);
}

static void check_record(const struct record *record)
{
    if (record->source > ABOVE || record->check != check_of(record->source, record->number))
        rig_fail("a record is damaged");
    if (record->number != scene.seen[record->source])
        rig_fail("record %u of source %u came instead of %u", record->number, record->source,
                 scene.seen[record->source]);
    scene.seen[record->source]++;
}

static void *consume_records(void *argument)
{
    struct record records[CALL_MOST / sizeof(struct record)];

    for (;;) {
        bool produced = atomic_load(&scene.produced);
        struct iovec one = {records, sizeof(records)};
        struct spans to = spans_of(&one, 1);
        ssize_t n = ring_get(&scene.rx, &to, 0, false);
        if (n < 0 || n % (ssize_t)sizeof(struct record))
            rig_fail("the consumer got %zd", n);
        for (size_t i = 0; i < (size_t)n / sizeof(struct record); i++)
            check_record(&records[i]);
        if (n)
            wake_producer(scene.bell);
        else if (produced)
            return NULL;
        else
            wait_for_bytes(scene.other_nest);
    }
}

// Signals that are still under way come before this returns: those to a thread are handled on its way out of the kernel.
static void produce_all(void)
{
    sigset_t signals;

    produce_below();
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    atomic_store(&scene.produced, true);
    ring_bell(scene.other_bell);
}

static void test_handlers_that_produce(void **state)
{
    struct dice dice;

    set_up("handlers that produce", &dice);
    play(produce_all, produce_in_handler, consume_records, &dice);
    assert_int_equal(scene.seen[BELOW], scene.next[BELOW]);
    assert_int_equal(scene.seen[ABOVE], scene.next[ABOVE]);
    tear_down("handlers that produce");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handlers_that_consume),
        cmocka_unit_test(test_handlers_that_produce),
    };
    return cmocka_run_group_tests_name("ring_signals", tests, NULL, NULL);
}
