// The ring among threads: producers under the lock of their end, consumers without one, real bells.
//
// The stream is made of words that tell their position, and everything moves by whole words: so each chunk that a
// consumer got can be checked by itself, and all chunks together must cover the stream, each byte once. Whoever finds
// nothing to do sleeps as the preload library does: in an epoll set of its own in which the bell stands edge-triggered.
// A watchdog looks for sleepers that were left behind; it looks at the ring as another thread's poll would.

#include <stdarg.h>
#include <setjmp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/ring_rig.h"

#define PARTIES_MOST 6
#define CALL_MOST    (24u << 10)
#define WORD         8

// A watchdog's round, and after how many of them a sleeper that has something to do counts as left behind: two seconds.
#define ROUND_NS    1000000l
#define ROUNDS_MOST 2000

struct plan {
    int producers, consumers;
    uint64_t size, bytes;
};

struct chunk {
    uint64_t position, n;
};

struct party {
    pthread_t thread;
    struct dice dice;
    bool produces;
    int nest;               // an epoll set, where it sleeps
    _Atomic uint32_t sleep; // the number of this sleep; even: awake
    uint32_t sleep_seen, rounds;
    unsigned char buffer[CALL_MOST];
    struct chunk *chunks;
    size_t chunk_count, chunk_room;
};

static struct {
    struct plan plan;
    struct rig rig;
    struct ring_tx tx;
    struct ring_rx rx;
    int producers_bell, consumers_bell;
    struct party party[PARTIES_MOST];
    int parties;
    uint64_t produced; // under the lock
    _Atomic int producing;
    _Atomic bool over;
    _Atomic uint64_t bells;
} scene;

// --- bells ---

static void ring_bell(int bell)
{
    uint64_t one = 1;

    if (write(bell, &one, sizeof(one)) != sizeof(one))
        rig_fail("cannot ring a bell");
    atomic_fetch_add_explicit(&scene.bells, 1, memory_order_relaxed);
}

static void wake_consumers(void)
{
    uint32_t arm;

    if (ring_tx_wants_bell(&scene.tx, &arm)) {
        ring_bell(scene.consumers_bell);
        ring_tx_rang(&scene.tx, arm);
    }
}

static void wake_producers(void)
{
    uint32_t arm;

    if (ring_rx_wants_bell(&scene.rx, &arm)) {
        ring_bell(scene.producers_bell);
        ring_rx_rang(&scene.rx, arm);
    }
}

static int nest_with(int bell)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int nest = epoll_create1(EPOLL_CLOEXEC);

    if (nest < 0 || epoll_ctl(nest, EPOLL_CTL_ADD, bell, &event))
        rig_fail("cannot make an epoll set");
    return nest;
}

static void sleep_in_nest(struct party *self)
{
    struct epoll_event event;

    atomic_fetch_add(&self->sleep, 1);
    while (epoll_wait(self->nest, &event, 1, -1) < 0)
        ;
    atomic_fetch_add(&self->sleep, 1);
}

// --- producing ---

static void pause_sometimes(struct party *self)
{
    struct timespec a_moment = {0, 1000 + (long)dice_below(&self->dice, 100000)};

    switch (dice_below(&self->dice, 256)) {
    case 0:
        nanosleep(&a_moment, NULL);
        break;
    case 1:
    case 2:
    case 3:
        sched_yield();
    }
}

static size_t some_words(struct party *self, uint64_t most)
{
    size_t n = dice_size(&self->dice, CALL_MOST) & ~(size_t)(WORD - 1);

    n = n ? n : WORD;
    return n < most ? n : (size_t)most;
}

static ssize_t put(struct party *self, size_t n)
{
    size_t first = dice_below(&self->dice, n / WORD) * WORD;
    struct iovec two[] = {{self->buffer, first}, {self->buffer + first, n - first}};
    struct spans from = spans_of(two, 2);

    stream_fill(self->buffer, scene.produced, n);
    spans_skip_empty(&from);
    return ring_put(&scene.tx, &from);
}

static ssize_t put_in_place(size_t n)
{
    uint64_t tail;
    void *place;
    ssize_t room = ring_reserve(&scene.tx, &tail, &place);

    if (room <= 0)
        return room;
    n = (size_t)room < n ? (size_t)room : n;
    stream_fill(place, scene.produced, n);
    if (!ring_commit(&scene.tx, tail, n))
        rig_fail("another producer was faster, under the lock");
    return (ssize_t)n;
}

// Returns false if there is no room.
static bool produce(struct party *self)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(void *)scene.rig.sender->tx_lock;

    if (pthread_mutex_lock(lock))
        rig_fail("cannot lock the producers' end");
    uint64_t left = scene.plan.bytes - scene.produced;
    ssize_t n = 0;
    if (left) {
        size_t words = some_words(self, left);
        n = dice_below(&self->dice, 4) ? put(self, words) : put_in_place(words);
        if (n < 0 || n % WORD)
            rig_fail("a producer got %zd", n);
        scene.produced += (uint64_t)n;
        if (n)
            wake_consumers();
    }
    pthread_mutex_unlock(lock);
    return n || !left;
}

static bool all_produced(void)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(void *)scene.rig.sender->tx_lock;

    pthread_mutex_lock(lock);
    bool all = scene.produced == scene.plan.bytes;
    pthread_mutex_unlock(lock);
    return all;
}

static bool room_enough(void)
{
    return ring_room(&scene.tx) >= (int64_t)ring_room_wanted(&scene.tx);
}

static void run_producer(struct party *self)
{
    while (!all_produced()) {
        pause_sometimes(self);
        if (produce(self) || room_enough())
            continue;
        ring_tx_arm(&scene.tx);
        if (!room_enough())
            sleep_in_nest(self);
    }
    if (atomic_fetch_sub(&scene.producing, 1) == 1) {
        atomic_store(&scene.over, true); // as at the end of the connection
        ring_bell(scene.consumers_bell);
    }
}

// --- consuming ---

static void note_chunk(struct party *self, size_t n)
{
    uint64_t position = stream_position(self->buffer);

    if (stream_check(self->buffer, position, n) != n)
        rig_fail("wrong bytes behind position %llu", (unsigned long long)position);
    if (self->chunk_count == self->chunk_room) {
        self->chunk_room = self->chunk_room ? 2 * self->chunk_room : 1024;
        self->chunks = realloc(self->chunks, self->chunk_room * sizeof(*self->chunks));
        if (!self->chunks)
            rig_fail("no memory");
    }
    self->chunks[self->chunk_count++] = (struct chunk){position, n};
}

static void peek(struct party *self, size_t n)
{
    struct iovec one = {self->buffer, n};
    struct spans to = spans_of(&one, 1);
    ssize_t seen = ring_get(&scene.rx, &to, 0, true);

    if (seen > 0 && stream_check(self->buffer, stream_position(self->buffer), (size_t)seen) != (size_t)seen)
        rig_fail("wrong bytes were seen");
}

// Returns false if there is nothing.
static bool consume(struct party *self)
{
    size_t words = some_words(self, CALL_MOST);
    bool alone = scene.plan.consumers == 1;

    if (alone && dice_below(&self->dice, 8) == 0)
        peek(self, words);
    ssize_t n = rig_get(&scene.rx, self->buffer, words, alone && dice_below(&self->dice, 4));
    if (n < 0 || n % WORD)
        rig_fail("a consumer got %zd", n);
    if (!n)
        return false;
    wake_producers();
    note_chunk(self, (size_t)n);
    return true;
}

static bool nothing_ready(void)
{
    return ring_ready_fresh(&scene.rx) == 0;
}

static void run_consumer(struct party *self)
{
    for (;;) {
        bool over = atomic_load(&scene.over);
        pause_sometimes(self);
        if (consume(self))
            continue;
        if (over)
            break;
        ring_rx_republish(&scene.rx);
        ring_rx_arm(&scene.rx);
        if (nothing_ready() && !atomic_load(&scene.over))
            sleep_in_nest(self);
    }
    ring_bell(scene.consumers_bell); // the others may be asleep: the end was rung once
}

static void *run_party(void *argument)
{
    struct party *self = (struct party *)argument;

    if (self->produces)
        run_producer(self);
    else
        run_consumer(self);
    return NULL;
}

// --- the watchdog ---

static void left_behind(const struct party *party)
{
    const struct ring_shared *shared = scene.rig.shared;

    fprintf(stderr, "tail %llu (own %llu), head %llu (own %llu), rx_arm %u, rung %u, tx_arm %u, rung %u\n",
            (unsigned long long)shared->tail, (unsigned long long)scene.rig.sender->tx_tail,
            (unsigned long long)shared->head, (unsigned long long)scene.rig.receiver->rx_head, shared->rx_arm,
            shared->rx_rung, shared->tx_arm, shared->tx_rung);
    for (int i = 0; i < scene.parties; i++)
        fprintf(stderr, "%s %d: %s\n", scene.party[i].produces ? "producer" : "consumer", i,
                scene.party[i].sleep % 2 ? "asleep" : "awake");
    rig_fail("%s %ld was left behind asleep", party->produces ? "producer" : "consumer", (long)(party - scene.party));
}

static void watch_party(struct party *party)
{
    uint32_t now = atomic_load(&party->sleep);
    bool due = party->produces ? room_enough() : !nothing_ready() || atomic_load(&scene.over);

    party->rounds = now % 2 && now == party->sleep_seen && due ? party->rounds + 1 : 0;
    party->sleep_seen = now;
    if (party->rounds > ROUNDS_MOST)
        left_behind(party);
}

static void *watch(void *argument)
{
    struct timespec round = {0, ROUND_NS};

    while (!atomic_load((_Atomic bool *)argument)) {
        nanosleep(&round, NULL);
        for (int i = 0; i < scene.parties; i++)
            watch_party(&scene.party[i]);
    }
    return NULL;
}

// --- scenes ---

static int compare_chunks(const void *a, const void *b)
{
    uint64_t left = ((const struct chunk *)a)->position, right = ((const struct chunk *)b)->position;

    return left < right ? -1 : left > right;
}

// All chunks in their order follow upon each other.
static void check_chunks(void)
{
    struct chunk *all;
    size_t count = 0;
    uint64_t position = 0;

    for (int i = 0; i < scene.parties; i++)
        count += scene.party[i].chunk_count;
    all = malloc(count * sizeof(*all));
    assert_non_null(all);
    count = 0;
    for (int i = 0; i < scene.parties; i++) {
        if (scene.party[i].chunk_count)
            memcpy(all + count, scene.party[i].chunks, scene.party[i].chunk_count * sizeof(*all));
        count += scene.party[i].chunk_count;
    }
    qsort(all, count, sizeof(*all), compare_chunks);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(all[i].position, position);
        position += all[i].n;
    }
    assert_int_equal(position, scene.plan.bytes);
    free(all);
}

static void set_up(struct plan plan, struct dice *dice)
{
    memset((void *)&scene, 0, sizeof(scene));
    scene.plan = plan;
    scene.plan.bytes = rig_scaled(plan.bytes) & ~(uint64_t)(WORD - 1);
    rig_make(&scene.rig, plan.size, 0);
    scene.tx = rig_tx(&scene.rig);
    scene.rx = rig_rx(&scene.rig);
    scene.producers_bell = eventfd(0, EFD_CLOEXEC);
    scene.consumers_bell = eventfd(0, EFD_CLOEXEC);
    scene.producing = plan.producers;
    scene.parties = plan.producers + plan.consumers;
    for (int i = 0; i < scene.parties; i++) {
        struct party *party = &scene.party[i];
        party->dice = dice_split(dice);
        party->produces = i < plan.producers;
        party->nest = nest_with(party->produces ? scene.producers_bell : scene.consumers_bell);
    }
}

static uint64_t tear_down(void)
{
    uint64_t sleeps = 0;

    for (int i = 0; i < scene.parties; i++) {
        sleeps += scene.party[i].sleep / 2;
        close(scene.party[i].nest);
        free(scene.party[i].chunks);
    }
    close(scene.producers_bell);
    close(scene.consumers_bell);
    rig_free(&scene.rig);
    return sleeps;
}

// Returns how often somebody slept.
static uint64_t play(struct plan plan, struct dice *dice)
{
    pthread_t watchdog;
    _Atomic bool watched = false;

    set_up(plan, dice);
    pthread_create(&watchdog, NULL, watch, &watched);
    for (int i = 0; i < scene.parties; i++)
        pthread_create(&scene.party[i].thread, NULL, run_party, &scene.party[i]);
    for (int i = 0; i < scene.parties; i++)
        pthread_join(scene.party[i].thread, NULL);
    atomic_store(&watched, true);
    pthread_join(watchdog, NULL);
    check_chunks();
    return tear_down();
}

static void run(const char *name, struct plan plan)
{
    struct dice dice = dice_make(name);
    uint64_t began = rig_now();
    uint64_t sleeps = play(plan, &dice);

    printf("%s: %llu MB, %llu sleeps, %llu bells, %.2f s\n", name, (unsigned long long)scene.plan.bytes / 1000000,
           (unsigned long long)sleeps, (unsigned long long)scene.bells, (double)(rig_now() - began) * 1e-9);
    assert_true(sleeps > 0);
}

#define MB 1000000u

static void test_one_of_each(void **state)
{
    run("one of each, small ring", (struct plan){1, 1, RING_BYTES_MIN, 400 * MB});
    run("one of each, large ring", (struct plan){1, 1, 256 << 10, 400 * MB});
}

static void test_several_producers(void **state)
{
    run("three producers", (struct plan){3, 1, RING_BYTES_MIN, 400 * MB});
}

static void test_several_consumers(void **state)
{
    run("three consumers", (struct plan){1, 3, RING_BYTES_MIN, 400 * MB});
}

static void test_several_of_each(void **state)
{
    run("three of each, small ring", (struct plan){3, 3, RING_BYTES_MIN, 400 * MB});
    run("two of each, large ring", (struct plan){2, 2, 256 << 10, 400 * MB});
}

// --- order, for the thread sanitizer ---
//
// One thread does its part, and tells the next only by a relaxed store, which orders nothing. So all the order that the
// sanitizer can find is the ring's own.

static _Atomic int passed_on;

static void pass_on(int turn)
{
    atomic_store_explicit(&passed_on, turn, memory_order_relaxed);
}

static void wait_turn(int turn)
{
    while (atomic_load_explicit(&passed_on, memory_order_relaxed) != turn)
        sched_yield();
}

static void must_get(struct ring_rx *rx, size_t n, bool peek)
{
    unsigned char bytes[RING_BYTES_MIN];
    struct iovec one = {bytes, n};
    struct spans to = spans_of(&one, 1);

    if (ring_get(rx, &to, 0, peek) != (ssize_t)n)
        rig_fail("there was less than %zu bytes", n);
}

static void must_put(struct ring_tx *tx, size_t n)
{
    unsigned char bytes[RING_BYTES_MIN] = {0};
    struct iovec one = {bytes, n};
    struct spans from = spans_of(&one, 1);

    if (ring_put(tx, &from) != (ssize_t)n)
        rig_fail("there was room for less than %zu bytes", n);
}

static void *peek_then_pass_on(void *argument)
{
    wait_turn(1);
    must_get(&scene.rx, RING_BYTES_MIN, true);
    pass_on(2);
    return NULL;
}

static void *consume_then_pass_on(void *argument)
{
    wait_turn(1);
    must_get(&scene.rx, RING_BYTES_MIN / 2, false);
    pass_on(2);
    return NULL;
}

// So little that it is not published.
static void *consume_little_then_pass_on(void *argument)
{
    wait_turn(1);
    must_get(&scene.rx, 100, false);
    pass_on(2);
    return NULL;
}

static void two_threads(void *(*first)(void *), void (*second)(void))
{
    pthread_t thread;

    rig_make(&scene.rig, RING_BYTES_MIN, 0);
    scene.tx = rig_tx(&scene.rig);
    scene.rx = rig_rx(&scene.rig);
    pass_on(0);
    pthread_create(&thread, NULL, first, NULL);
    must_put(&scene.tx, RING_BYTES_MIN);
    pass_on(1);
    wait_turn(2);
    second();
    pthread_join(thread, NULL);
    rig_free(&scene.rig);
}

static void consume_and_refill(void)
{
    must_get(&scene.rx, RING_BYTES_MIN, false);
    must_put(&scene.tx, RING_BYTES_MIN);
}

static void refill(void)
{
    must_put(&scene.tx, RING_BYTES_MIN / 2);
}

static void publish_and_refill(void)
{
    ring_rx_republish(&scene.rx);
    must_put(&scene.tx, 100);
}

static void test_peek_is_over_before_the_place_is_used_again(void **state)
{
    two_threads(peek_then_pass_on, consume_and_refill);
}

static void test_bytes_are_out_before_the_place_is_used_again(void **state)
{
    two_threads(consume_then_pass_on, refill);
}

static void test_bytes_are_out_before_another_publishes_that(void **state)
{
    two_threads(consume_little_then_pass_on, publish_and_refill);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_of_each),
        cmocka_unit_test(test_several_producers),
        cmocka_unit_test(test_several_consumers),
        cmocka_unit_test(test_several_of_each),
        cmocka_unit_test(test_peek_is_over_before_the_place_is_used_again),
        cmocka_unit_test(test_bytes_are_out_before_the_place_is_used_again),
        cmocka_unit_test(test_bytes_are_out_before_another_publishes_that),
    };
    return cmocka_run_group_tests_name("ring_threads", tests, NULL, NULL);
}
