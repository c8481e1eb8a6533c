// The ring against a plain queue of bytes: random calls of all its functions, by several holders of each end, in one
// thread. After each call everything that can be seen of the ring is what the model says.

#include <stdarg.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/ring_rig.h"

#define HOLDERS   3
#define CALL_MOST (192u << 10)
#define POOL      (1u << 20)
#define BUFFERS   5

static struct {
    struct dice dice;
    struct rig rig;
    struct ring_tx tx[HOLDERS];
    struct ring_rx rx[HOLDERS];

    // The model: the bytes that are in the queue, and what each side has been told of the other.
    unsigned char *queue; // a byte at its position, modulo POOL
    uint64_t tail, head, head_shown;
    uint32_t rx_arm, rx_rung, tx_arm, tx_rung;

    unsigned char *pool; // random bytes, to be sent
    unsigned char *in;
    uint64_t moved, calls[16];
} model;

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t ready(void)
{
    return model.tail - model.head;
}

// As far as the producers know.
static uint64_t room(void)
{
    return model.rig.size - (model.tail - model.head_shown);
}

static struct ring_tx *some_tx(void)
{
    return &model.tx[dice_below(&model.dice, HOLDERS)];
}

static struct ring_rx *some_rx(void)
{
    return &model.rx[dice_below(&model.dice, HOLDERS)];
}

// --- the model's own moves ---

// Bytes from `position` on that lie contiguous in the queue.
static size_t contiguous(uint64_t position, size_t n)
{
    return (size_t)smaller(n, POOL - position % POOL);
}

static void model_put(const unsigned char *bytes, size_t n)
{
    size_t first = contiguous(model.tail, n);

    memcpy(model.queue + model.tail % POOL, bytes, first);
    memcpy(model.queue, bytes + first, n - first);
    model.tail += n;
    model.moved += n;
}

static void model_check(const unsigned char *bytes, uint64_t skip, size_t n)
{
    uint64_t from = model.head + skip;
    size_t first = contiguous(from, n);

    if (memcmp(model.queue + from % POOL, bytes, first) != 0 || memcmp(model.queue, bytes + first, n - first) != 0)
        rig_fail("one of %zu bytes at %llu is wrong", n, (unsigned long long)from);
}

static void model_consume(size_t n)
{
    model.head += n;
    if (model.head - model.head_shown >= model.rig.size / 8)
        model.head_shown = model.head;
}

// --- calls ---

// Some buffers of `n` bytes in all, empty ones among them, the first not empty.
static struct spans buffers(struct iovec *iov, unsigned char *bytes, size_t n)
{
    size_t left = n;

    for (int i = 0; i < BUFFERS - 1; i++) {
        size_t here = dice_below(&model.dice, 3) ? smaller(dice_size(&model.dice, n), left) : 0;
        iov[i] = (struct iovec){here ? bytes + (n - left) : NULL, here};
        left -= here;
    }
    iov[BUFFERS - 1] = (struct iovec){bytes + (n - left), left};
    struct spans spans = spans_of(iov, BUFFERS);
    spans_skip_empty(&spans);
    return spans;
}

static size_t some_size(void)
{
    return dice_size(&model.dice, dice_below(&model.dice, 4) ? model.rig.size / 4 : CALL_MOST);
}

static void call_put(void)
{
    struct iovec iov[BUFFERS];
    size_t n = some_size();
    unsigned char *bytes = model.pool + dice_below(&model.dice, POOL - n);
    struct spans from = buffers(iov, bytes, n);
    ssize_t done = ring_put(some_tx(), &from);

    assert_int_equal(done, smaller(smaller(n, RING_STEP), room()));
    assert_int_equal(spans_left(&from), n - (size_t)done);
    model_put(bytes, (size_t)done);
}

static void call_reserve(void)
{
    uint64_t tail = 0;
    void *place = NULL;
    struct ring_tx *tx = some_tx();
    uint64_t offset = model.tail % model.rig.size;
    ssize_t n = ring_reserve(tx, &tail, &place);

    assert_int_equal(n, smaller(smaller(room(), model.rig.size - offset), RING_STEP));
    if (!n)
        return;
    assert_int_equal(tail, model.tail);
    assert_ptr_equal(place, model.rig.data + offset);
    size_t used = dice_below(&model.dice, (uint64_t)n + 1);
    memcpy(place, model.pool, used);
    if (dice_below(&model.dice, 8) == 0) { // a signal handler comes in between
        uint64_t before = model.tail;
        call_put();
        bool unmoved = model.tail == before;
        assert_int_equal(ring_commit(tx, tail, used), unmoved);
        used = unmoved ? used : 0;
    } else {
        assert_true(ring_commit(tx, tail, used));
    }
    model_put(model.pool, used);
}

static void call_room(void)
{
    struct ring_tx *tx = some_tx();
    int64_t n = ring_room(tx);

    assert_int_equal(ring_room_wanted(tx), model.rig.size / 4);
    assert_in_range(n, 0, room());
    assert_true((uint64_t)n == room() || (uint64_t)n >= model.rig.size / 4);
}

// A holder that has not looked lately may not know of all there is, but knows of something if there is anything.
static void check_got(ssize_t n, uint64_t wanted, uint64_t there, bool looked)
{
    if (looked)
        assert_int_equal(n, smaller(wanted, there));
    else
        assert_in_range(n, there && wanted ? 1 : 0, smaller(wanted, there));
}

static bool look_first(struct ring_rx *rx)
{
    if (dice_below(&model.dice, 2))
        return false;
    assert_int_equal(ring_ready_fresh(rx), ready());
    assert_int_equal(ring_ready(rx), ready());
    return true;
}

static void call_get(void)
{
    struct iovec iov[BUFFERS];
    size_t n = some_size();
    struct spans to = buffers(iov, model.in, n);
    struct ring_rx *rx = some_rx();
    bool looked = look_first(rx);
    ssize_t done = ring_get(rx, &to, 0, false);

    check_got(done, smaller(n, RING_STEP), ready(), looked);
    assert_int_equal(spans_left(&to), n - (size_t)done);
    model_check(model.in, 0, (size_t)done);
    model_consume((size_t)done);
}

static void call_peek(void)
{
    struct iovec iov[BUFFERS];
    size_t n = some_size();
    uint64_t skip = dice_below(&model.dice, 2) * dice_below(&model.dice, model.rig.size + 100);
    struct spans to = buffers(iov, model.in, n);
    struct ring_rx *rx = some_rx();
    bool looked = look_first(rx);
    ssize_t done = ring_get(rx, &to, skip, true);

    check_got(done, smaller(n, RING_STEP), ready() > skip ? ready() - skip : 0, looked);
    assert_int_equal(spans_left(&to), n - (size_t)done);
    model_check(model.in, skip, (size_t)done);
}

static void call_look(void)
{
    uint64_t head = 0, offset = model.head % model.rig.size;
    const void *place = NULL;
    struct ring_rx *rx = some_rx();
    bool looked = look_first(rx);
    ssize_t n = ring_look(rx, &head, &place);

    check_got(n, smaller(RING_STEP, model.rig.size - offset), ready(), looked);
    if (!n)
        return;
    assert_int_equal(head, model.head);
    assert_ptr_equal(place, model.rig.data + offset);
    model_check(place, 0, (size_t)n);
    if (dice_below(&model.dice, 8) == 0) { // another consumer comes in between
        call_get();
        assert_int_equal(ring_consume(rx, head, (size_t)n), model.head == head);
        model_consume(model.head == head ? (size_t)n : 0);
        return;
    }
    size_t used = 1 + dice_below(&model.dice, (uint64_t)n);
    assert_true(ring_consume(rx, head, used));
    model_consume(used);
}

static void call_ready(void)
{
    struct ring_rx *rx = some_rx();

    check_got(ring_ready(rx), UINT64_MAX, ready(), false);
    assert_int_equal(ring_ready_fresh(rx), ready());
}

static void call_republish(void)
{
    ring_tx_republish(some_tx());
    ring_rx_republish(some_rx());
    model.head_shown = model.head;
}

static void call_tx_bell(void)
{
    uint32_t arm = 0;
    struct ring_tx *tx = some_tx();

    assert_int_equal(ring_tx_wants_bell(tx, &arm), model.rx_arm != model.rx_rung);
    assert_int_equal(arm, model.rx_arm);
    if (dice_below(&model.dice, 2)) {
        ring_tx_rang(tx, arm);
        model.rx_rung = arm;
    }
}

static void call_rx_bell(void)
{
    uint32_t arm = 0;
    struct ring_rx *rx = some_rx();

    assert_int_equal(ring_rx_wants_bell(rx, &arm), model.tx_arm != model.tx_rung && room() >= model.rig.size / 4);
    assert_int_equal(arm, model.tx_arm);
    if (dice_below(&model.dice, 2)) {
        ring_rx_rang(rx, arm);
        model.tx_rung = arm;
    }
}

static void call_arm(void)
{
    if (dice_below(&model.dice, 2)) {
        ring_tx_arm(some_tx());
        model.tx_arm++;
    } else {
        ring_rx_arm(some_rx());
        model.rx_arm++;
    }
    assert_int_equal(ring_tx_armed(some_tx()), model.tx_arm != model.tx_rung);
    assert_int_equal(ring_rx_armed(some_rx()), model.rx_arm != model.rx_rung);
}

// A process that has just mapped the ring, or was forked from another.
static void call_new_holder(void)
{
    *some_tx() = dice_below(&model.dice, 2) ? rig_tx(&model.rig) : *some_tx();
    *some_rx() = dice_below(&model.dice, 2) ? rig_rx(&model.rig) : *some_rx();
}

static void check_all(void)
{
    const struct ring_shared *shared = model.rig.shared;

    if (model.rig.sender->tx_tail != model.tail || shared->tail != model.tail)
        rig_fail("the tail is %llu, published %llu, and not %llu", (unsigned long long)model.rig.sender->tx_tail,
                 (unsigned long long)shared->tail, (unsigned long long)model.tail);
    if (model.rig.receiver->rx_head != model.head || shared->head != model.head_shown)
        rig_fail("the head is %llu, published %llu, and not %llu, %llu",
                 (unsigned long long)model.rig.receiver->rx_head, (unsigned long long)shared->head,
                 (unsigned long long)model.head, (unsigned long long)model.head_shown);
}

static void (*const calls[])(void) = {
    call_put,  call_put,  call_put,   call_reserve, call_get, call_get,     call_get,       call_look,
    call_peek, call_room, call_ready, call_tx_bell, call_arm, call_rx_bell, call_republish, call_new_holder,
};
#define CALLS (sizeof(calls) / sizeof(calls[0]))

// --- rounds ---

static void set_up_round(void)
{
    uint64_t size = RING_BYTES_MIN << dice_below(&model.dice, 6);
    uint64_t starts[] = {0, 0, dice_cast(&model.dice) >> 2, CURSOR_LATE - dice_below(&model.dice, 4 * size)};

    rig_make(&model.rig, size, starts[dice_below(&model.dice, 4)]);
    for (int i = 0; i < HOLDERS; i++) {
        model.tx[i] = rig_tx(&model.rig);
        model.rx[i] = rig_rx(&model.rig);
    }
    model.tail = model.head = model.head_shown = model.rig.start;
    model.rx_arm = model.rx_rung = model.tx_arm = model.tx_rung = (uint32_t)dice_cast(&model.dice);
    model.rig.shared->rx_arm = model.rig.shared->rx_rung = model.rx_arm;
    model.rig.shared->tx_arm = model.rig.shared->tx_rung = model.tx_arm;
}

static void play_round(uint64_t steps)
{
    // A tide: producing or consuming prevails for a while, so that the ring is often full, and often empty.
    bool flood = true;

    set_up_round();
    while (steps--) {
        if (dice_below(&model.dice, 30) == 0)
            flood = !flood;
        size_t which = dice_below(&model.dice, CALLS);
        if (flood ? which >= 4 && which < 8 : which < 4)
            which = dice_below(&model.dice, 2) ? which ^ 4 : which;
        calls[which]();
        model.calls[which]++;
        check_all();
    }
    rig_free(&model.rig);
}

static void test_random_calls(void **state)
{
    model.dice = dice_make("ring_model");
    model.queue = malloc(POOL);
    model.pool = malloc(POOL);
    model.in = malloc(CALL_MOST);
    assert_true(model.queue && model.pool && model.in);
    for (size_t i = 0; i < POOL; i++)
        model.pool[i] = (unsigned char)dice_cast(&model.dice);
    for (uint64_t rounds = rig_scaled(2500); rounds; rounds--)
        play_round(2000);
    printf("ring_model: %llu MB moved\n", (unsigned long long)model.moved / 1000000);
    assert_true(model.moved > 1000000);
    free(model.queue);
    free(model.pool);
    free(model.in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_calls),
    };
    return cmocka_run_group_tests_name("ring_model", tests, NULL, NULL);
}
