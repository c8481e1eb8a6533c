// What each function of the ring promises, one by one; and that nothing the other side writes leads it astray.
//
// The ring lies between forbidden pages: an access outside it ends the program.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/ring_rig.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const uint64_t sizes[] = {RING_BYTES_MIN, 32 << 10, RING_STEP, 256 << 10, 1 << 20};

// Nothing may depend on where the cursors stand. They never reach the top bit (RING_FROZEN).
static const uint64_t starts[] = {
    0,
    1,
    5000,
    RING_BYTES_MIN - 1,
    1ull << 32,
    (1ull << 32) - 3,
    CURSOR_LATE - RING_BYTES_MIN,
    CURSOR_LATE - 7,
    CURSOR_LATE,
};

struct scene {
    struct rig rig;
    struct ring_tx tx;
    struct ring_rx rx;
    unsigned char *buffer; // as large as the ring
};

static struct scene set_up(uint64_t size, uint64_t start)
{
    struct scene scene;

    rig_make(&scene.rig, size, start);
    scene.tx = rig_tx(&scene.rig);
    scene.rx = rig_rx(&scene.rig);
    scene.buffer = malloc(size);
    assert_non_null(scene.buffer);
    return scene;
}

static void tear_down(struct scene *scene)
{
    free(scene->buffer);
    rig_free(&scene->rig);
}

static ssize_t put(struct scene *scene, size_t n)
{
    stream_fill(scene->buffer, scene->rig.sender->tx_tail, n < RING_STEP ? n : RING_STEP); // no more can go
    struct iovec one = {scene->buffer, n};
    struct spans from = spans_of(&one, 1);
    ssize_t done = ring_put(&scene->tx, &from);
    assert_int_equal(spans_left(&from), n - (done > 0 ? (size_t)done : 0));
    return done;
}

// Takes out up to `n` bytes (or looks at them, behind the first `skip`), and checks them.
static ssize_t get_or_peek(struct scene *scene, size_t n, uint64_t skip, bool peek)
{
    uint64_t head = scene->rig.receiver->rx_head;
    struct iovec one = {scene->buffer, n};
    struct spans to = spans_of(&one, 1);
    ssize_t done = ring_get(&scene->rx, &to, skip, peek);
    assert_int_equal(spans_left(&to), n - (done > 0 ? (size_t)done : 0));
    if (done > 0)
        assert_int_equal(stream_check(scene->buffer, head + skip, (size_t)done), done);
    assert_int_equal(scene->rig.receiver->rx_head, head + (done > 0 && !peek ? (size_t)done : 0));
    return done;
}

static ssize_t get(struct scene *scene, size_t n)
{
    return get_or_peek(scene, n, 0, false);
}

static void put_all(struct scene *scene, size_t n)
{
    while (n) {
        ssize_t done = put(scene, n);
        assert_true(done > 0);
        n -= (size_t)done;
    }
}

static void get_all(struct scene *scene, size_t n)
{
    while (n) {
        ssize_t done = get(scene, n);
        assert_true(done > 0);
        n -= (size_t)done;
    }
}

// --- producing and consuming ---

static void check_empty(struct scene *scene)
{
    uint64_t head;
    const void *place;

    assert_int_equal(get(scene, 1), 0);
    assert_int_equal(get_or_peek(scene, 1, 0, true), 0);
    assert_int_equal(ring_look(&scene->rx, &head, &place), 0);
    assert_int_equal(ring_ready(&scene->rx), 0);
    assert_int_equal(ring_ready_fresh(&scene->rx), 0);
}

static void check_full(struct scene *scene)
{
    uint64_t tail;
    void *place;

    assert_int_equal(put(scene, 1), 0);
    assert_int_equal(ring_reserve(&scene->tx, &tail, &place), 0);
    assert_int_equal(ring_room(&scene->tx), 0);
}

static void test_fresh_ring_is_empty(void **state)
{
    for (size_t i = 0; i < COUNT(starts); i++) {
        struct scene scene = set_up(RING_BYTES_MIN, starts[i]);
        check_empty(&scene);
        assert_int_equal(ring_room(&scene.tx), RING_BYTES_MIN);
        tear_down(&scene);
    }
}

static void fill_and_drain(uint64_t size, uint64_t start)
{
    struct scene scene = set_up(size, start);

    for (int round = 0; round < 3; round++) {
        ring_rx_republish(&scene.rx);
        put_all(&scene, size);
        check_full(&scene);
        assert_int_equal(ring_ready_fresh(&scene.rx), size);
        get_all(&scene, size);
        check_empty(&scene);
        put_all(&scene, 1000); // the next round begins elsewhere
        get_all(&scene, 1000);
    }
    tear_down(&scene);
}

static void test_fill_and_drain(void **state)
{
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (size_t j = 0; j < COUNT(starts); j++)
            fill_and_drain(sizes[i], starts[j]);
    }
}

static void test_last_bytes_of_the_largest_ring(void **state)
{
    struct scene scene = set_up(RING_BYTES_MAX, RING_BYTES_MAX - 3);

    put_all(&scene, 6);
    get_all(&scene, 6);
    put_all(&scene, RING_BYTES_MAX - 6);
    assert_true(ring_room(&scene.tx) <= 6);
    tear_down(&scene);
}

static void test_every_offset_wraps(void **state)
{
    for (uint64_t before = 0; before <= 40; before++) {
        for (size_t n = 1; n <= 80; n += 3) {
            struct scene scene = set_up(RING_BYTES_MIN, 5 * RING_BYTES_MIN - before);
            put_all(&scene, n);
            get_all(&scene, n);
            check_empty(&scene);
            tear_down(&scene);
        }
    }
}

static void test_one_call_moves_a_step_at_most(void **state)
{
    struct scene scene = set_up(1 << 20, 17);
    uint64_t cursor;
    void *place;
    const void *seen;

    assert_int_equal(put(&scene, 3 * RING_STEP), RING_STEP);
    assert_int_equal(put(&scene, RING_STEP + 1), RING_STEP);
    assert_int_equal(ring_reserve(&scene.tx, &cursor, &place), RING_STEP);
    assert_int_equal(ring_look(&scene.rx, &cursor, &seen), RING_STEP);
    assert_int_equal(get(&scene, 3 * RING_STEP), RING_STEP);
    assert_int_equal(get(&scene, 3 * RING_STEP), RING_STEP);
    tear_down(&scene);
}

static void test_nothing_asked_nothing_done(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);

    assert_int_equal(put(&scene, 0), 0);
    put_all(&scene, 10);
    assert_int_equal(get(&scene, 0), 0);
    assert_int_equal(ring_ready_fresh(&scene.rx), 10);
    tear_down(&scene);
}

static void test_room_and_ready_count_bytes(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, CURSOR_LATE - 100);

    put_all(&scene, 1);
    assert_int_equal(ring_room(&scene.tx), RING_BYTES_MIN - 1);
    assert_int_equal(ring_ready_fresh(&scene.rx), 1);
    put_all(&scene, RING_BYTES_MIN - 2);
    assert_int_equal(ring_room(&scene.tx), 1);
    assert_int_equal(put(&scene, 10), 1);
    assert_int_equal(ring_ready_fresh(&scene.rx), RING_BYTES_MIN);
    tear_down(&scene);
}

// So a reader that takes what it sees does not touch the producer's cache line at each call.
static void test_ready_is_content_with_what_it_saw(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 3);

    put_all(&scene, 10);
    assert_int_equal(ring_ready(&scene.rx), 10);
    put_all(&scene, 10);
    assert_int_equal(ring_ready(&scene.rx), 10);
    assert_int_equal(ring_ready_fresh(&scene.rx), 20);
    assert_int_equal(ring_ready(&scene.rx), 20);
    tear_down(&scene);
}

static void test_room_is_content_with_a_quarter(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 3);

    assert_int_equal(ring_room_wanted(&scene.tx), RING_BYTES_MIN / 4);
    put_all(&scene, RING_BYTES_MIN / 2);
    get_all(&scene, RING_BYTES_MIN / 2);
    assert_int_equal(ring_room(&scene.tx), RING_BYTES_MIN / 2); // as seen before
    put_all(&scene, RING_BYTES_MIN / 4 + 1);
    assert_int_equal(ring_room(&scene.tx), RING_BYTES_MIN * 3 / 4 - 1);
    tear_down(&scene);
}

// --- buffers ---

static void test_many_buffers_and_empty_ones(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, RING_BYTES_MIN - 50);
    unsigned char bytes[200], out[200];
    struct iovec in[] = {{NULL, 0},       {bytes, 1}, {NULL, 0},         {NULL, 0},
                         {bytes + 1, 98}, {bytes, 0}, {bytes + 99, 101}, {NULL, 0}};
    struct iovec parts[] = {{NULL, 0}, {NULL, 0}, {out, 120}, {NULL, 0}, {out + 120, 1}, {out + 121, 79}, {NULL, 0}};
    struct spans from = spans_of(in, COUNT(in)), to = spans_of(parts, COUNT(parts));

    stream_fill(bytes, 0, sizeof(bytes));
    spans_skip_empty(&from);
    spans_skip_empty(&to);
    assert_int_equal(spans_left(&from), 200);
    assert_int_equal(ring_put(&scene.tx, &from), 200);
    assert_int_equal(from.count, 0);
    assert_int_equal(ring_get(&scene.rx, &to, 0, false), 200);
    assert_int_equal(to.count, 0);
    assert_int_equal(stream_check(out, 0, 200), 200);
    tear_down(&scene);
}

static void test_buffers_go_on_where_they_were_left(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 1);
    unsigned char *bytes = malloc(RING_BYTES_MIN + 300), out[300];
    struct iovec in[] = {{bytes, RING_BYTES_MIN - 10}, {bytes + RING_BYTES_MIN - 10, 310}};
    struct iovec parts[] = {{out, 7}, {out + 7, 93}, {out + 100, 200}};
    struct spans from = spans_of(in, 2), to = spans_of(parts, 3);

    stream_fill(bytes, 1, RING_BYTES_MIN + 300);
    assert_int_equal(ring_put(&scene.tx, &from), RING_BYTES_MIN);
    assert_int_equal(from.count, 1);
    assert_int_equal(from.offset, 10);
    get_all(&scene, RING_BYTES_MIN);
    assert_int_equal(ring_put(&scene.tx, &from), 300);
    assert_int_equal(ring_get(&scene.rx, &(struct spans){parts, 2, 0}, 0, true), 100);
    assert_int_equal(ring_get(&scene.rx, &to, 0, false), 300);
    assert_int_equal(stream_check(out, 1 + RING_BYTES_MIN, 300), 300);
    free(bytes);
    tear_down(&scene);
}

// --- peeking ---

static void test_peek_takes_nothing_out(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, RING_BYTES_MIN - 30);

    put_all(&scene, 100);
    for (uint64_t skip = 0; skip < 100; skip++)
        assert_int_equal(get_or_peek(&scene, 1000, skip, true), 100 - skip);
    assert_int_equal(get_or_peek(&scene, 10, 50, true), 10);
    assert_int_equal(get_or_peek(&scene, 10, 100, true), 0);
    assert_int_equal(get_or_peek(&scene, 10, 5000, true), 0);
    assert_int_equal(scene.rig.shared->head, scene.rig.start);
    get_all(&scene, 100);
    tear_down(&scene);
}

static void test_peek_sees_what_came_later(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);

    put_all(&scene, 5);
    assert_int_equal(get_or_peek(&scene, 100, 0, true), 5);
    put_all(&scene, 5);
    assert_int_equal(get_or_peek(&scene, 100, 5, true), 5);
    tear_down(&scene);
}

// --- in place ---

static void test_reserve_and_commit(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, RING_BYTES_MIN - 100);
    uint64_t tail;
    void *place;

    assert_int_equal(ring_reserve(&scene.tx, &tail, &place), 100); // as far as it is contiguous
    assert_ptr_equal(place, scene.rig.data + RING_BYTES_MIN - 100);
    stream_fill(place, tail, 60);
    assert_true(ring_commit(&scene.tx, tail, 60));
    assert_int_equal(ring_reserve(&scene.tx, &tail, &place), 40);
    stream_fill(place, tail, 40);
    assert_true(ring_commit(&scene.tx, tail, 40));
    assert_int_equal(ring_reserve(&scene.tx, &tail, &place), RING_BYTES_MIN - 100);
    assert_ptr_equal(place, scene.rig.data);
    stream_fill(place, tail, RING_BYTES_MIN - 100);
    assert_true(ring_commit(&scene.tx, tail, RING_BYTES_MIN - 100));
    check_full(&scene);
    get_all(&scene, 100);
    ring_rx_republish(&scene.rx);
    assert_int_equal(ring_reserve(&scene.tx, &tail, &place), 100);
    assert_ptr_equal(place, scene.rig.data + RING_BYTES_MIN - 100);
    get_all(&scene, RING_BYTES_MIN - 100);
    tear_down(&scene);
}

static void test_commit_fails_if_a_handler_was_faster(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 9);
    uint64_t tail;
    void *place;

    assert_true(ring_reserve(&scene.tx, &tail, &place) > 0);
    put_all(&scene, 5);
    assert_false(ring_commit(&scene.tx, tail, 3));
    assert_int_equal(scene.rig.sender->tx_tail, 14);
    assert_int_equal(scene.rig.shared->tail, 14);
    get_all(&scene, 5);
    check_empty(&scene);
    tear_down(&scene);
}

static void test_look_and_consume(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, RING_BYTES_MIN - 100);
    uint64_t head;
    const void *place;

    put_all(&scene, 150);
    assert_int_equal(ring_look(&scene.rx, &head, &place), 100);
    assert_int_equal(head, scene.rig.start);
    assert_int_equal(stream_check(place, head, 100), 100);
    assert_true(ring_consume(&scene.rx, head, 30));
    assert_int_equal(ring_look(&scene.rx, &head, &place), 70);
    assert_true(ring_consume(&scene.rx, head, 70));
    assert_int_equal(ring_look(&scene.rx, &head, &place), 50);
    assert_ptr_equal(place, scene.rig.data);
    assert_int_equal(stream_check(place, head, 50), 50);
    tear_down(&scene);
}

static void test_consume_fails_if_another_was_faster(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);
    uint64_t head;
    const void *place;

    put_all(&scene, 50);
    assert_int_equal(ring_look(&scene.rx, &head, &place), 50);
    get_all(&scene, 10);
    assert_false(ring_consume(&scene.rx, head, 50));
    assert_int_equal(scene.rig.receiver->rx_head, 10);
    get_all(&scene, 40);
    tear_down(&scene);
}

// --- publication ---

static void test_tail_is_published_at_once(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, CURSOR_LATE);

    put_all(&scene, 1);
    assert_int_equal(scene.rig.shared->tail, CURSOR_LATE + 1);
    tear_down(&scene);
}

static void test_head_is_published_an_eighth_at_a_time(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 77);
    uint64_t eighth = RING_BYTES_MIN / 8;

    put_all(&scene, RING_BYTES_MIN);
    for (int i = 1; i <= 8; i++) {
        get_all(&scene, eighth - 1);
        assert_int_equal(scene.rig.shared->head, 77 + (uint64_t)(i - 1) * eighth);
        get_all(&scene, 1);
        assert_int_equal(scene.rig.shared->head, 77 + (uint64_t)i * eighth);
    }
    tear_down(&scene);
}

static void test_head_is_published_as_far_as_it_is(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);

    put_all(&scene, RING_BYTES_MIN);
    get_all(&scene, 1000);
    get_all(&scene, RING_BYTES_MIN / 2);
    assert_int_equal(scene.rig.shared->head, 1000 + RING_BYTES_MIN / 2);
    tear_down(&scene);
}

// What is not yet published must never keep a producer waiting for its quarter.
static void test_drained_ring_shows_room(void **state)
{
    struct dice dice = dice_make("drained");
    struct scene scene = set_up(RING_BYTES_MIN, 0);

    for (int i = 0; i < 20000; i++) {
        size_t n = dice_size(&dice, RING_BYTES_MIN * 7 / 8);
        put_all(&scene, n);
        while (ring_ready_fresh(&scene.rx))
            get(&scene, dice_size(&dice, RING_BYTES_MIN));
        assert_true(scene.rig.shared->tail - scene.rig.shared->head < RING_BYTES_MIN / 8);
    }
    tear_down(&scene);
}

static void test_republish(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);

    put_all(&scene, 10);
    get_all(&scene, 10);
    assert_int_equal(scene.rig.shared->head, 0);
    ring_rx_republish(&scene.rx);
    assert_int_equal(scene.rig.shared->head, 10);
    ring_rx_republish(&scene.rx);
    ring_tx_republish(&scene.tx);
    assert_int_equal(scene.rig.shared->head, 10);
    assert_int_equal(scene.rig.shared->tail, 10);
    tear_down(&scene);
}

// Killed between moving its own cursor and publishing it: the bytes are in the ring, and the next call shows them.
static void test_publication_of_a_dead_producer_is_made_good(void **state)
{
    for (int how = 0; how < 2; how++) {
        struct scene scene = set_up(RING_BYTES_MIN, 0);
        stream_fill(scene.rig.data, 0, 100);
        scene.rig.sender->tx_tail = 100;
        check_empty(&scene);
        if (how == 0)
            ring_tx_republish(&scene.tx);
        else
            put_all(&scene, 50);
        get_all(&scene, how == 0 ? 100 : 150);
        check_empty(&scene);
        tear_down(&scene);
    }
}

static void test_publication_of_a_dead_consumer_is_made_good(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);

    put_all(&scene, RING_BYTES_MIN);
    scene.rig.receiver->rx_head = RING_BYTES_MIN / 2;
    check_full(&scene);
    get_all(&scene, 1);
    assert_int_equal(scene.rig.shared->head, RING_BYTES_MIN / 2 + 1);
    put_all(&scene, RING_BYTES_MIN / 2 + 1);
    get_all(&scene, RING_BYTES_MIN);
    tear_down(&scene);
}

// --- several holders ---

static void test_holders_that_saw_less_catch_up(void **state)
{
    struct scene one = set_up(RING_BYTES_MIN, CURSOR_LATE - 2000), other = one;

    put_all(&one, 100);
    assert_int_equal(ring_ready(&one.rx), 100);
    for (int i = 0; i < 20; i++) { // further than `one` ever saw, and more than once around
        put_all(&other, RING_BYTES_MIN / 2);
        get_all(&other, RING_BYTES_MIN / 2);
    }
    assert_int_equal(ring_ready(&one.rx), 100);
    get_all(&one, 100);
    check_empty(&one);
    check_empty(&other);
    ring_rx_republish(&one.rx);
    assert_int_equal(ring_room(&one.tx), RING_BYTES_MIN);
    put_all(&one, RING_BYTES_MIN);
    check_full(&other);
    check_full(&one);
    get_all(&one, RING_BYTES_MIN);
    tear_down(&one);
}

// --- bells ---

static void test_producer_rings_for_a_sleeper_only(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);
    uint32_t arm;

    assert_false(ring_tx_wants_bell(&scene.tx, &arm));
    assert_false(ring_rx_armed(&scene.rx));
    ring_rx_arm(&scene.rx);
    assert_true(ring_rx_armed(&scene.rx));
    assert_true(ring_tx_wants_bell(&scene.tx, &arm));
    assert_int_equal(arm, 1);
    assert_true(ring_tx_wants_bell(&scene.tx, &arm)); // until it is said to have been rung
    ring_tx_rang(&scene.tx, arm);
    assert_false(ring_tx_wants_bell(&scene.tx, &arm));
    assert_false(ring_rx_armed(&scene.rx));
    tear_down(&scene);
}

static void test_consumer_rings_for_a_sleeper_only(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);
    uint32_t arm;

    assert_false(ring_rx_wants_bell(&scene.rx, &arm));
    assert_false(ring_tx_armed(&scene.tx));
    ring_tx_arm(&scene.tx);
    assert_true(ring_tx_armed(&scene.tx));
    assert_true(ring_rx_wants_bell(&scene.rx, &arm));
    assert_int_equal(arm, 1);
    ring_rx_rang(&scene.rx, arm);
    assert_false(ring_rx_wants_bell(&scene.rx, &arm));
    assert_false(ring_tx_armed(&scene.tx));
    tear_down(&scene);
}

// Who arms while the bell for an earlier sleep is being rung still gets its own.
static void test_a_second_sleeper_is_not_forgotten(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);
    uint32_t arm, later;

    ring_rx_arm(&scene.rx);
    assert_true(ring_tx_wants_bell(&scene.tx, &arm));
    ring_rx_arm(&scene.rx);
    ring_tx_rang(&scene.tx, arm);
    assert_true(ring_rx_armed(&scene.rx));
    assert_true(ring_tx_wants_bell(&scene.tx, &later));
    assert_int_equal(later, 2);
    ring_tx_arm(&scene.tx);
    assert_true(ring_rx_wants_bell(&scene.rx, &arm));
    ring_tx_arm(&scene.tx);
    ring_rx_rang(&scene.rx, arm);
    assert_true(ring_tx_armed(&scene.tx));
    assert_true(ring_rx_wants_bell(&scene.rx, &later));
    tear_down(&scene);
}

static void test_arm_counters_wrap(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);
    uint32_t arm;

    scene.rig.shared->rx_arm = scene.rig.shared->rx_rung = UINT32_MAX;
    scene.rig.shared->tx_arm = scene.rig.shared->tx_rung = UINT32_MAX;
    ring_rx_arm(&scene.rx);
    ring_tx_arm(&scene.tx);
    assert_true(ring_tx_wants_bell(&scene.tx, &arm));
    assert_int_equal(arm, 0);
    ring_tx_rang(&scene.tx, arm);
    assert_false(ring_tx_wants_bell(&scene.tx, &arm));
    assert_true(ring_rx_wants_bell(&scene.rx, &arm));
    ring_rx_rang(&scene.rx, arm);
    assert_false(ring_rx_wants_bell(&scene.rx, &arm));
    tear_down(&scene);
}

// A producer that waits is woken when a quarter of the ring is free, not before.
static void test_producer_is_woken_for_a_quarter(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, CURSOR_LATE - 5);
    uint32_t arm;

    put_all(&scene, RING_BYTES_MIN);
    ring_tx_arm(&scene.tx);
    get_all(&scene, RING_BYTES_MIN / 8);
    assert_false(ring_rx_wants_bell(&scene.rx, &arm));
    get_all(&scene, RING_BYTES_MIN / 8 - 1);
    ring_rx_republish(&scene.rx);
    assert_int_equal(ring_room(&scene.tx), RING_BYTES_MIN / 4 - 1);
    assert_false(ring_rx_wants_bell(&scene.rx, &arm));
    get_all(&scene, 1);
    ring_rx_republish(&scene.rx);
    assert_true(ring_rx_wants_bell(&scene.rx, &arm));
    assert_int_equal(ring_room(&scene.tx), RING_BYTES_MIN / 4);
    tear_down(&scene);
}

// The rule is about what the producer can see.
static void test_bell_is_for_room_that_is_published(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);
    uint32_t arm;

    put_all(&scene, RING_BYTES_MIN - RING_BYTES_MIN / 8);
    ring_tx_arm(&scene.tx);
    get_all(&scene, RING_BYTES_MIN / 8 - 1);
    assert_false(ring_rx_wants_bell(&scene.rx, &arm));
    get_all(&scene, 1);
    assert_true(ring_rx_wants_bell(&scene.rx, &arm));
    tear_down(&scene);
}

// --- a hostile other side ---

struct everything {
    struct ring_shared shared;
    uint64_t tx_tail, rx_head;
    unsigned char data[RING_BYTES_MIN];
};

static void remember(const struct scene *scene, struct everything *all)
{
    memcpy((void *)&all->shared, (const void *)scene->rig.shared, sizeof(all->shared));
    all->tx_tail = scene->rig.sender->tx_tail;
    all->rx_head = scene->rig.receiver->rx_head;
    memcpy(all->data, scene->rig.data, sizeof(all->data));
}

static void check_unchanged(const struct scene *scene, const struct everything *before)
{
    static struct everything now;

    remember(scene, &now);
    assert_memory_equal((const void *)&now, (const void *)before, sizeof(now));
}

static void check_head_is_refused(struct scene *scene, uint64_t head)
{
    static struct everything before;
    uint64_t tail;
    void *place;

    scene->tx = rig_tx(&scene->rig); // that has seen nothing better
    scene->tx.head_seen = scene->rig.sender->tx_tail - RING_BYTES_MIN;
    scene->rig.shared->head = head;
    remember(scene, &before);
    assert_int_equal(put(scene, 100), -EPROTO);
    assert_int_equal(ring_reserve(&scene->tx, &tail, &place), -EPROTO);
    assert_int_equal(ring_room(&scene->tx), -EPROTO);
    check_unchanged(scene, &before);
}

static void check_tail_is_refused(struct scene *scene, uint64_t tail)
{
    static struct everything before;
    uint64_t head;
    const void *place;

    scene->rx = rig_rx(&scene->rig);
    scene->rx.tail_seen = scene->rig.receiver->rx_head;
    scene->rig.shared->tail = tail;
    remember(scene, &before);
    assert_int_equal(get(scene, 100), -EPROTO);
    assert_int_equal(get_or_peek(scene, 100, 7, true), -EPROTO);
    assert_int_equal(ring_look(&scene->rx, &head, &place), -EPROTO);
    assert_int_equal(ring_ready(&scene->rx), -EPROTO);
    assert_int_equal(ring_ready_fresh(&scene->rx), -EPROTO);
    check_unchanged(scene, &before);
}

// Distances from the true cursor that cannot be, in either direction.
static const uint64_t absurd[] = {
    1, 2, 100, RING_BYTES_MIN, 1ull << 32, 1ull << 63, (1ull << 63) - 1, UINT64_MAX - RING_BYTES_MIN,
};

static void test_absurd_head_is_refused(void **state)
{
    for (size_t i = 0; i < COUNT(starts); i++) {
        struct scene scene = set_up(RING_BYTES_MIN, starts[i]);
        put_all(&scene, RING_BYTES_MIN / 2);
        uint64_t tail = scene.rig.sender->tx_tail;
        for (size_t j = 0; j < COUNT(absurd); j++)
            check_head_is_refused(&scene, tail + absurd[j]);
        check_head_is_refused(&scene, tail - RING_BYTES_MIN - 1);
        tear_down(&scene);
    }
}

static void test_absurd_tail_is_refused(void **state)
{
    for (size_t i = 0; i < COUNT(starts); i++) {
        struct scene scene = set_up(RING_BYTES_MIN, starts[i]);
        put_all(&scene, 1000);
        get_all(&scene, 1000);
        uint64_t head = scene.rig.receiver->rx_head;
        for (size_t j = 0; j < COUNT(absurd); j++)
            check_tail_is_refused(&scene, head - absurd[j]);
        check_tail_is_refused(&scene, head + RING_BYTES_MIN + 1);
        tear_down(&scene);
    }
}

static void test_extreme_cursors_are_accepted(void **state)
{
    for (size_t i = 0; i < COUNT(starts); i++) {
        struct scene scene = set_up(RING_BYTES_MIN, starts[i]);
        put_all(&scene, RING_BYTES_MIN);
        assert_int_equal(ring_room(&scene.tx), 0);
        scene.rig.shared->head = starts[i] + RING_BYTES_MIN;
        assert_int_equal(ring_room(&scene.tx), RING_BYTES_MIN);
        assert_int_equal(ring_ready_fresh(&scene.rx), RING_BYTES_MIN);
        scene.rx = rig_rx(&scene.rig);
        scene.rig.shared->tail = starts[i];
        assert_int_equal(ring_ready_fresh(&scene.rx), 0);
        tear_down(&scene);
    }
}

// A cursor that goes back costs its owner room, or bytes, but nobody else anything.
// --- cursors that are written by a device ---

struct torn {
    _Atomic uint64_t *cursor;
    uint64_t whole;
    _Atomic int begun;
};

// On the same CPU as the looks, which give it away in between.
static void *write_the_rest(void *argument)
{
    struct torn *torn = argument;

    atomic_store(&torn->begun, 1);
    for (int i = 0; i < 10; i++)
        sched_yield();
    atomic_store(torn->cursor, torn->whole);
    return NULL;
}

static cpu_set_t stay_on_one_cpu(void)
{
    cpu_set_t before, one;

    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&one); cpu++) {
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &one);
    }
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    return before;
}

// The lowest byte of 300 is there, the next is still that of 200: 44.
static void test_a_torn_cursor_is_looked_at_again(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 200);
    cpu_set_t before = stay_on_one_cpu();
    pthread_t thread;

    for (int tx = 0; tx < 2; tx++) {
        _Atomic uint64_t *cursor = tx ? &scene.rig.shared->head : &scene.rig.shared->tail;
        uint64_t behind = tx ? RING_BYTES_MIN : 0; // a head that lies behind the tail by a ring and more cannot be
        struct torn torn = {.cursor = cursor, .whole = 300 - behind};
        *cursor = 44 - behind;
        scene.tx.head_seen = 200ull - RING_BYTES_MIN; // no room was seen
        scene.tx.by_device = scene.rx.by_device = true;
        assert_int_equal(pthread_create(&thread, NULL, write_the_rest, &torn), 0);
        while (!atomic_load(&torn.begun))
            sched_yield();
        assert_int_equal(tx ? ring_room(&scene.tx) : ring_ready_fresh(&scene.rx), 100);
        pthread_join(thread, NULL);
    }
    scene.rig.shared->tail = 44;
    assert_int_equal(ring_ready_fresh(&scene.rx), -EPROTO); // but not for ever
    sched_setaffinity(0, sizeof(before), &before);
    tear_down(&scene);
}

static void test_head_going_back(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, CURSOR_LATE - 1000);

    put_all(&scene, RING_BYTES_MIN);
    scene.rig.shared->head += 500;
    assert_int_equal(ring_room(&scene.tx), 500);
    scene.rig.shared->head -= 300;
    assert_int_equal(ring_room(&scene.tx), 200);
    assert_int_equal(put(&scene, 1000), 200);
    assert_int_equal(ring_room(&scene.tx), 0);
    tear_down(&scene);
}

static void test_tail_going_back(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, CURSOR_LATE - 1000);

    put_all(&scene, 1000);
    assert_int_equal(ring_ready_fresh(&scene.rx), 1000);
    scene.rig.shared->tail -= 900;
    assert_int_equal(ring_ready_fresh(&scene.rx), 100);
    assert_int_equal(get(&scene, 1000), 100);
    assert_int_equal(get(&scene, 1000), 0);
    scene.rig.shared->tail -= 1;
    assert_int_equal(get(&scene, 1000), -EPROTO);
    tear_down(&scene);
}

// The producer's cursor only serves to judge whether a bell is worth it.
static void test_absurd_cursors_cost_a_bell_at_most(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);
    uint32_t arm;

    put_all(&scene, RING_BYTES_MIN);
    ring_tx_arm(&scene.tx);
    assert_false(ring_rx_wants_bell(&scene.rx, &arm));
    scene.rig.shared->tail = scene.rig.shared->head - 1;
    assert_true(ring_rx_wants_bell(&scene.rx, &arm));
    scene.rig.shared->tail = scene.rig.shared->head + RING_BYTES_MIN + 1;
    assert_true(ring_rx_wants_bell(&scene.rx, &arm));
    tear_down(&scene);
}

static uint64_t nonsense(struct dice *dice, uint64_t near)
{
    switch (dice_below(dice, 4)) {
    case 0:
        return dice_cast(dice);
    case 1:
        return near + dice_below(dice, 2 * RING_BYTES_MIN);
    case 2:
        return near - dice_below(dice, 2 * RING_BYTES_MIN);
    default:
        return near;
    }
}

// Everything that the other side may write changes at random between our calls: never more than the ring is read or
// written, and nothing but success or -EPROTO comes out.
static void fuzz_producer(struct scene *scene, struct dice *dice)
{
    struct iovec one = {scene->buffer, 1 + dice_below(dice, RING_BYTES_MIN)};
    struct spans from = spans_of(&one, 1);
    uint64_t tail = scene->rig.sender->tx_tail;
    uint32_t arm;

    scene->rig.shared->head = nonsense(dice, tail - RING_BYTES_MIN / 2);
    scene->rig.shared->rx_arm = (uint32_t)dice_cast(dice);
    scene->rig.shared->tx_rung = (uint32_t)dice_cast(dice);
    ssize_t n = ring_put(&scene->tx, &from);
    assert_true(n == -EPROTO || (n >= 0 && n <= RING_BYTES_MIN && (size_t)n <= one.iov_len));
    assert_int_equal(scene->rig.sender->tx_tail, tail + (n > 0 ? (uint64_t)n : 0));
    int64_t room = ring_room(&scene->tx);
    assert_true(room == -EPROTO || (room >= 0 && room <= RING_BYTES_MIN));
    if (ring_tx_wants_bell(&scene->tx, &arm))
        ring_tx_rang(&scene->tx, arm);
    ring_tx_arm(&scene->tx);
    ring_tx_republish(&scene->tx);
}

static void fuzz_consumer(struct scene *scene, struct dice *dice)
{
    struct iovec one = {scene->buffer, 1 + dice_below(dice, RING_BYTES_MIN)};
    struct spans to = spans_of(&one, 1);
    uint64_t head = scene->rig.receiver->rx_head, skip = dice_below(dice, 2) * dice_below(dice, RING_BYTES_MIN);
    bool peek = skip || dice_below(dice, 4) == 0;
    uint32_t arm;

    scene->rig.shared->tail = nonsense(dice, head + RING_BYTES_MIN / 2);
    scene->rig.shared->tx_arm = (uint32_t)dice_cast(dice);
    scene->rig.shared->rx_rung = (uint32_t)dice_cast(dice);
    scene->rig.shared->left_at = nonsense(dice, head + RING_BYTES_MIN / 2);
    assert_in_range(ring_rx_left(&scene->rx) + EPROTO, 0, EPROTO + 1);
    ssize_t n = ring_get(&scene->rx, &to, skip, peek);
    assert_true(n == -EPROTO || (n >= 0 && n <= RING_BYTES_MIN && (size_t)n <= one.iov_len));
    assert_int_equal(scene->rig.receiver->rx_head, head + (n > 0 && !peek ? (uint64_t)n : 0));
    int64_t ready = ring_ready_fresh(&scene->rx);
    assert_true(ready == -EPROTO || (ready >= 0 && ready <= RING_BYTES_MIN));
    if (ring_rx_wants_bell(&scene->rx, &arm))
        ring_rx_rang(&scene->rx, arm);
    ring_rx_arm(&scene->rx);
    ring_rx_republish(&scene->rx);
}

static void test_random_nonsense(void **state)
{
    struct dice dice = dice_make("nonsense");

    for (int round = 0; round < 40; round++) {
        struct scene scene = set_up(RING_BYTES_MIN, nonsense(&dice, 0) >> 2);
        for (uint64_t i = rig_scaled(1000); i; i--) {
            fuzz_producer(&scene, &dice);
            fuzz_consumer(&scene, &dice);
        }
        tear_down(&scene);
    }
}

// --- leaving ---

static void test_a_ring_that_was_left_takes_nothing(void **state)
{
    for (size_t i = 0; i < COUNT(starts); i++) {
        struct scene scene = set_up(RING_BYTES_MIN, starts[i]);
        struct iovec one = {scene.buffer, 10};
        struct spans from = spans_of(&one, 1);
        uint64_t tail;
        void *place;

        put_all(&scene, 100);
        ring_tx_leave(&scene.tx);
        assert_int_equal(ring_put(&scene.tx, &from), -ESTALE);
        assert_int_equal(ring_reserve(&scene.tx, &tail, &place), -ESTALE);
        assert_int_equal(ring_room(&scene.tx), -ESTALE);
        assert_int_equal(scene.rig.shared->tail, starts[i] + 100);
        assert_int_equal(scene.rig.shared->left_at, starts[i] + 100);
        tear_down(&scene);
    }
}

static void test_what_was_reserved_is_not_committed_after_leaving(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 0);
    uint64_t tail;
    void *place;

    assert_true(ring_reserve(&scene.tx, &tail, &place) > 0);
    ring_tx_leave(&scene.tx);
    assert_false(ring_commit(&scene.tx, tail, 5));
    assert_int_equal(scene.rig.shared->left_at, 0);
    tear_down(&scene);
}

static void test_the_rest_is_read_after_leaving(void **state)
{
    struct scene scene = set_up(RING_BYTES_MIN, 77);

    put_all(&scene, 100);
    assert_int_equal(ring_rx_left(&scene.rx), 0);
    ring_tx_leave(&scene.tx);
    ring_tx_leave(&scene.tx); // by another holder, who does not know
    assert_int_equal(scene.rig.shared->left_at, 177);
    assert_int_equal(ring_rx_left(&scene.rx), 0);
    get_all(&scene, 99);
    assert_int_equal(ring_rx_left(&scene.rx), 0);
    get_all(&scene, 1);
    assert_int_equal(ring_rx_left(&scene.rx), 1);
    ring_tx_republish(&scene.tx);
    assert_int_equal(scene.rig.shared->tail, 177);
    tear_down(&scene);
}

static void test_an_absurd_end_is_refused(void **state)
{
    for (size_t i = 0; i < COUNT(absurd); i++) {
        struct scene scene = set_up(RING_BYTES_MIN, 5000);
        scene.rig.shared->left_at = 5000 - absurd[i];
        assert_int_equal(ring_rx_left(&scene.rx), -EPROTO);
        tear_down(&scene);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fresh_ring_is_empty),
        cmocka_unit_test(test_fill_and_drain),
        cmocka_unit_test(test_last_bytes_of_the_largest_ring),
        cmocka_unit_test(test_every_offset_wraps),
        cmocka_unit_test(test_one_call_moves_a_step_at_most),
        cmocka_unit_test(test_nothing_asked_nothing_done),
        cmocka_unit_test(test_room_and_ready_count_bytes),
        cmocka_unit_test(test_ready_is_content_with_what_it_saw),
        cmocka_unit_test(test_room_is_content_with_a_quarter),
        cmocka_unit_test(test_many_buffers_and_empty_ones),
        cmocka_unit_test(test_buffers_go_on_where_they_were_left),
        cmocka_unit_test(test_peek_takes_nothing_out),
        cmocka_unit_test(test_peek_sees_what_came_later),
        cmocka_unit_test(test_reserve_and_commit),
        cmocka_unit_test(test_commit_fails_if_a_handler_was_faster),
        cmocka_unit_test(test_look_and_consume),
        cmocka_unit_test(test_consume_fails_if_another_was_faster),
        cmocka_unit_test(test_tail_is_published_at_once),
        cmocka_unit_test(test_head_is_published_an_eighth_at_a_time),
        cmocka_unit_test(test_head_is_published_as_far_as_it_is),
        cmocka_unit_test(test_drained_ring_shows_room),
        cmocka_unit_test(test_republish),
        cmocka_unit_test(test_publication_of_a_dead_producer_is_made_good),
        cmocka_unit_test(test_publication_of_a_dead_consumer_is_made_good),
        cmocka_unit_test(test_holders_that_saw_less_catch_up),
        cmocka_unit_test(test_producer_rings_for_a_sleeper_only),
        cmocka_unit_test(test_consumer_rings_for_a_sleeper_only),
        cmocka_unit_test(test_a_second_sleeper_is_not_forgotten),
        cmocka_unit_test(test_arm_counters_wrap),
        cmocka_unit_test(test_producer_is_woken_for_a_quarter),
        cmocka_unit_test(test_bell_is_for_room_that_is_published),
        cmocka_unit_test(test_absurd_head_is_refused),
        cmocka_unit_test(test_absurd_tail_is_refused),
        cmocka_unit_test(test_extreme_cursors_are_accepted),
        cmocka_unit_test(test_a_torn_cursor_is_looked_at_again),
        cmocka_unit_test(test_head_going_back),
        cmocka_unit_test(test_tail_going_back),
        cmocka_unit_test(test_absurd_cursors_cost_a_bell_at_most),
        cmocka_unit_test(test_random_nonsense),
        cmocka_unit_test(test_a_ring_that_was_left_takes_nothing),
        cmocka_unit_test(test_what_was_reserved_is_not_committed_after_leaving),
        cmocka_unit_test(test_the_rest_is_read_after_leaving),
        cmocka_unit_test(test_an_absurd_end_is_refused),
    };
    return cmocka_run_group_tests_name("ring_basic", tests, NULL, NULL);
}
