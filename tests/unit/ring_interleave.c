// The ring under interleavings that can be had again: its own source, with a scheduler of ours at each step.
//
// core/ring.c is compiled into this program with its atomic operations, and its copying, replaced by the same with a
// call of `step` before them. There the dice decide whether another actor goes on instead, whether a signal handler
// comes in between, or whether the actor is killed. Only one actor runs at a time, each in a thread of its own, so that
// a seed gives the same run again. All operations are sequentially consistent here: of weaker orders, ring_threads and
// the thread sanitizer may know.
//
// The reference is a plain array of bytes. A byte enters it at the compare-and-swap that moves the producers' own
// cursor, and is compared with it at the one that moves the consumers'. So a killed actor has either done its work or
// not, and nobody has to know which. If nobody can go on although there is work left, somebody was left behind asleep.

#include <stdarg.h>
#include <setjmp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/layout.h"

static void step(const char *what, int line);
static void copy_in_steps(void *to, const void *from, size_t n);
static bool swap_cursor(_Atomic uint64_t *cursor, uint64_t *expected, uint64_t wanted);

#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_fetch_add_explicit
#undef atomic_compare_exchange_strong_explicit
#undef memcpy
#define atomic_load_explicit(place, order)             (step("load " #place, __LINE__), *(place))
#define atomic_store_explicit(place, value, order)     (step("store " #place, __LINE__), (void)(*(place) = (value)))
#define atomic_fetch_add_explicit(place, value, order) (step("add " #place, __LINE__), *(place) += (value))
#define atomic_compare_exchange_strong_explicit(place, expected, value, ok, no) \
    (step("swap " #place, __LINE__), swap_cursor(place, expected, value))
#define memcpy copy_in_steps
#include "core/ring.c"
#undef memcpy

#include "tests/unit/ring_rig.h"

#define ACTORS_MOST 4
#define LEVELS      2 // a handler is not interrupted again
#define CALL_MOST   1024

struct plan {
    const char *name;
    int producers, consumers;
    bool one_view; // all threads of one process: they share struct ring_tx and ring_rx
    bool unlocked; // the one producer is alone, and so takes no lock
    bool talk;     // who has produced waits until it is consumed, as in a conversation
    int switches;  // one step in so many lets another go on
    int handlers;  // one step in so many is followed by a signal handler, 0 = none
    int kills;     // of each round
};

// What one call is about: the bytes to be produced, or the place they are consumed to.
struct call {
    unsigned char bytes[CALL_MOST];
    const unsigned char *place; // of what is consumed
    uint64_t moved;             // what went into the stream, or came out of it, on behalf of this call
};

struct actor {
    pthread_t thread;
    sem_t turn;
    bool produces, done;
    bool bell;      // has been rung since its last sleep
    bool asleep;    // until it is
    bool waiting;   // for the lock
    bool listening; // until all is consumed
    bool filling;   // the place behind the tail: a handler that produces now would share it
    int level;      // 1 in a signal handler
    struct call call[LEVELS];
    struct ring_tx tx_own, *tx; // null until it has mapped the ring
    struct ring_rx rx_own, *rx;
    jmp_buf top;
};

static struct {
    const struct plan *plan;
    struct rig rig;
    struct dice dice;
    struct actor actor[ACTORS_MOST];
    int actors;
    struct actor *running; // null while the round is set up
    struct actor *holder;  // of the producers' lock
    struct ring_tx tx;
    struct ring_rx rx;
    unsigned char *stream; // all that was produced in this round
    uint64_t quota, produced, consumed;
    int kills_left;
    uint64_t bells_left; // at the end, as when the connection is closed
    sem_t over;
    uint64_t steps, switches, handled, killed, slept;
    struct {
        long actor;
        int level, line;
        const char *what;
    } trace[64];
} world;

static uint64_t one_in(uint64_t n)
{
    return n && dice_below(&world.dice, n) == 0;
}

// --- failing ---

static void say_trace(void)
{
    for (uint64_t i = world.steps < 64 ? 0 : world.steps - 64; i < world.steps; i++)
        fprintf(stderr, "  actor %ld%s  %s (%d)\n", world.trace[i % 64].actor, world.trace[i % 64].level ? "'" : " ",
                world.trace[i % 64].what, world.trace[i % 64].line);
}

static void say_world(void)
{
    const struct ring_shared *shared = world.rig.shared;

    fprintf(stderr, "produced %llu, consumed %llu of %llu; tail %llu (own %llu), head %llu (own %llu), from %llu on\n",
            (unsigned long long)world.produced, (unsigned long long)world.consumed, (unsigned long long)world.quota,
            (unsigned long long)shared->tail, (unsigned long long)world.rig.sender->tx_tail,
            (unsigned long long)shared->head, (unsigned long long)world.rig.receiver->rx_head,
            (unsigned long long)world.rig.start);
    fprintf(stderr, "rx_arm %u, rung %u; tx_arm %u, rung %u\n", shared->rx_arm, shared->rx_rung, shared->tx_arm,
            shared->tx_rung);
    for (int i = 0; i < world.actors; i++) {
        const struct actor *actor = &world.actor[i];
        fprintf(stderr, "actor %d %s:%s%s%s%s%s\n", i, actor->produces ? "produces" : "consumes",
                actor->done ? " done" : "", actor->asleep ? " asleep" : "", actor->bell ? " bell" : "",
                actor->waiting ? " waits for the lock" : "", actor->listening ? " listens" : "");
    }
}

static void broken(const char *why)
{
    say_trace();
    say_world();
    rig_fail("%s: %s", world.plan->name, why);
}

#define CHECK(condition, why) ((condition) ? (void)0 : broken(why))

// --- the scheduler ---

static bool can_go_on(const struct actor *actor)
{
    if (actor->done || (actor->asleep && !actor->bell) || (actor->waiting && world.holder))
        return false;
    return !actor->listening || world.consumed == world.produced;
}

static bool producers_are_done(void)
{
    for (int i = 0; i < world.actors; i++) {
        if (world.actor[i].produces && !world.actor[i].done)
            return false;
    }
    return true;
}

static void ring_bell_of(bool producers)
{
    for (int i = 0; i < world.actors; i++) {
        if (world.actor[i].produces == producers)
            world.actor[i].bell = true;
    }
}

static struct actor *choose(void)
{
    struct actor *able[ACTORS_MOST];
    int n = 0;

    for (int i = 0; i < world.actors; i++) {
        if (can_go_on(&world.actor[i]))
            able[n++] = &world.actor[i];
    }
    return n ? able[dice_below(&world.dice, (uint64_t)n)] : NULL;
}

static void hand_over(void)
{
    struct actor *self = world.running, *next = choose();

    if (!next && producers_are_done() && world.bells_left) {
        world.bells_left--;
        ring_bell_of(false);
        next = choose();
    }
    if (!next) {
        CHECK(producers_are_done() && world.consumed == world.produced, "nobody can go on");
        sem_post(&world.over);
    } else if (next != self) {
        world.switches++;
        world.running = next;
        sem_post(&next->turn);
    }
    if (self->done || next == self)
        return;
    sem_wait(&self->turn);
}

// --- the steps ---

static void handler(struct actor *self);

static void step(const char *what, int line)
{
    struct actor *self = world.running;

    if (!self || !self->tx)
        return;
    world.trace[world.steps % 64].actor = self - world.actor;
    world.trace[world.steps % 64].level = self->level;
    world.trace[world.steps % 64].what = what;
    world.trace[world.steps % 64].line = line;
    world.steps++;
    if (world.kills_left && one_in(200)) {
        world.kills_left--;
        world.killed++;
        longjmp(self->top, 1);
    }
    if (strcmp(what, "swap ring->tail") == 0)
        self->filling = false;
    if (self->level == 0 && !self->filling && one_in((uint64_t)world.plan->handlers))
        handler(self);
    if (one_in((uint64_t)world.plan->switches))
        hand_over();
}

static void copy_in_steps(void *to, const void *from, size_t n)
{
    size_t first = n > 1 ? dice_below(&world.dice, n) : 0;

    step("copy", 1);
    memcpy(to, from, first);
    step("copy", 2);
    memcpy((unsigned char *)to + first, (const unsigned char *)from + first, n - first);
}

static struct call *call_of(struct actor *actor)
{
    return &actor->call[actor->level];
}

static void is_produced(uint64_t tail, size_t n)
{
    struct call *call = call_of(world.running);

    CHECK(tail == world.rig.start + world.produced, "the tail is not where the stream ends");
    CHECK(tail + n - world.rig.receiver->rx_head <= world.rig.size, "more than a ring was produced");
    memcpy(world.stream + world.produced, call->bytes, n);
    world.produced += n;
    call->moved += n;
}

static void is_consumed(uint64_t head, size_t n)
{
    struct call *call = call_of(world.running);

    CHECK(head == world.rig.start + world.consumed, "the head is not where the reader stands");
    CHECK(world.consumed + n <= world.produced, "more was consumed than produced");
    CHECK(memcmp(world.stream + world.consumed, call->place, n) == 0, "wrong bytes were consumed");
    world.consumed += n;
    call->moved += n;
}

static bool swap_cursor(_Atomic uint64_t *cursor, uint64_t *expected, uint64_t wanted)
{
    if (*cursor != *expected) {
        *expected = *cursor;
        world.running->filling = cursor == &world.rig.sender->tx_tail;
        return false;
    }
    if (cursor == &world.rig.sender->tx_tail)
        is_produced(*expected, wanted - *expected);
    else if (cursor == &world.rig.receiver->rx_head)
        is_consumed(*expected, wanted - *expected);
    *cursor = wanted;
    return true;
}

// --- what the actors do ---

// Another was faster, or there was nothing to take: it is to be tried again.
#define LOST (-1000)

static struct iovec some_buffer(unsigned char *place)
{
    return (struct iovec){place, dice_size(&world.dice, dice_below(&world.dice, 8) ? world.rig.size / 2 : CALL_MOST)};
}

static ssize_t produce_in_place(struct actor *self, size_t wanted)
{
    uint64_t tail;
    void *place;
    ssize_t n = ring_reserve(self->tx, &tail, &place);

    if (n <= 0)
        return n;
    n = (size_t)n < wanted ? n : (ssize_t)wanted;
    copy_in_steps(place, call_of(self)->bytes, (size_t)n);
    return ring_commit(self->tx, tail, (size_t)n) ? n : LOST;
}

// One attempt. Returns bytes, 0 if there is no room.
static ssize_t produce(struct actor *self)
{
    struct iovec one = some_buffer(call_of(self)->bytes);
    struct spans from = spans_of(&one, 1);

    for (size_t i = 0; i < one.iov_len; i++)
        call_of(self)->bytes[i] = (unsigned char)dice_cast(&world.dice);
    call_of(self)->moved = 0;
    self->filling = true;
    ssize_t n = dice_below(&world.dice, 4) ? ring_put(self->tx, &from) : produce_in_place(self, one.iov_len);
    self->filling = false;
    CHECK(n >= 0 || n == LOST, "the producer met an error");
    CHECK(call_of(self)->moved == (n > 0 ? (uint64_t)n : 0), "what a producer's call says is not what it did");
    uint32_t arm;
    if (n && ring_tx_wants_bell(self->tx, &arm)) {
        ring_bell_of(false);
        ring_tx_rang(self->tx, arm);
    }
    return n;
}

static ssize_t consume_in_place(struct actor *self, size_t wanted)
{
    uint64_t head;
    const void *place;
    ssize_t n = ring_look(self->rx, &head, &place);

    if (n <= 0)
        return n;
    n = (size_t)n < wanted ? n : (ssize_t)wanted;
    copy_in_steps(call_of(self)->bytes, place, (size_t)n);
    return ring_consume(self->rx, head, (size_t)n) ? n : LOST;
}

static ssize_t peek(struct actor *self, struct spans *to)
{
    uint64_t skip = dice_below(&world.dice, 2) * dice_below(&world.dice, world.rig.size);
    ssize_t n = ring_get(self->rx, to, skip, true);

    if (n > 0) {
        CHECK(world.consumed + skip + (size_t)n <= world.produced, "more was seen than produced");
        CHECK(memcmp(world.stream + world.consumed + skip, call_of(self)->bytes, (size_t)n) == 0,
              "wrong bytes were seen");
    }
    return n < 0 ? n : LOST;
}

// One attempt. Returns bytes, 0 if there are none.
static ssize_t consume(struct actor *self)
{
    struct iovec one = some_buffer(call_of(self)->bytes);
    struct spans to = spans_of(&one, 1);
    uint64_t way = dice_below(&world.dice, 8);
    uint32_t arm;

    call_of(self)->place = call_of(self)->bytes;
    call_of(self)->moved = 0;
    ssize_t n = way == 0  ? peek(self, &to)
                : way < 3 ? consume_in_place(self, one.iov_len)
                          : ring_get(self->rx, &to, 0, false);
    CHECK(n >= 0 || n == LOST, "the consumer met an error");
    CHECK(call_of(self)->moved == (n > 0 ? (uint64_t)n : 0), "what a consumer's call says is not what it did");
    if (n && ring_rx_wants_bell(self->rx, &arm)) {
        ring_bell_of(true);
        ring_rx_rang(self->rx, arm);
    }
    return n;
}

// Above the holder of the lock it goes without, as session_lock has it (EDEADLK).
static void produce_in_handler(struct actor *self)
{
    bool lock_it = !world.plan->unlocked && !world.holder;

    if (world.holder && world.holder != self)
        return;
    if (lock_it)
        world.holder = self;
    produce(self);
    if (lock_it)
        world.holder = NULL;
}

static void handler(struct actor *self)
{
    self->level++;
    world.handled++;
    if (!self->produces)
        consume(self);
    else if (world.produced < world.quota)
        produce_in_handler(self);
    self->level--;
}

// --- sleeping ---

static void sleep_until_bell(struct actor *self)
{
    world.slept++;
    self->asleep = true;
    hand_over();
    self->asleep = self->bell = false;
}

// Who was killed may have left a publication, or a bell, undone.
static void make_good_producing(struct actor *self)
{
    uint32_t arm;

    ring_tx_republish(self->tx);
    if (ring_tx_wants_bell(self->tx, &arm)) {
        ring_bell_of(false);
        ring_tx_rang(self->tx, arm);
    }
}

static void make_good_consuming(struct actor *self)
{
    uint32_t arm;

    ring_rx_republish(self->rx);
    if (ring_rx_wants_bell(self->rx, &arm)) {
        ring_bell_of(true);
        ring_rx_rang(self->rx, arm);
    }
}

// Then the order of ring.h: arm, look once more, sleep.
static void wait_for_room(struct actor *self)
{
    make_good_producing(self);
    ring_tx_arm(self->tx);
    int64_t room = ring_room(self->tx);
    CHECK(room >= 0, "the waiting producer met an error");
    if ((uint64_t)room < ring_room_wanted(self->tx))
        sleep_until_bell(self);
}

static void wait_for_bytes(struct actor *self)
{
    make_good_consuming(self);
    ring_rx_arm(self->rx);
    int64_t ready = ring_ready_fresh(self->rx);
    CHECK(ready >= 0, "the waiting consumer met an error");
    if (!ready)
        sleep_until_bell(self);
}

// --- the actors ---

static void lock(struct actor *self)
{
    while (world.holder) {
        self->waiting = true;
        hand_over();
        self->waiting = false;
    }
    world.holder = self;
}

static void unlock(struct actor *self)
{
    if (world.holder == self)
        world.holder = NULL;
}

static void listen_until_consumed(struct actor *self)
{
    self->listening = true;
    hand_over();
    self->listening = false;
}

static void run_producer(struct actor *self)
{
    while (world.produced < world.quota) {
        if (!world.plan->unlocked)
            lock(self);
        ssize_t n = produce(self);
        unlock(self);
        if (!n)
            wait_for_room(self);
        else if (world.plan->talk)
            listen_until_consumed(self);
    }
    make_good_producing(self);
}

static void run_consumer(struct actor *self)
{
    while (world.consumed < world.produced || !producers_are_done()) {
        if (!consume(self))
            wait_for_bytes(self);
    }
}

// An actor that was killed begins again, as another process would.
static void *act(void *argument)
{
    struct actor *self = (struct actor *)argument;

    sem_wait(&self->turn);
    setjmp(self->top);
    unlock(self);
    self->level = 0;
    self->asleep = self->waiting = self->listening = self->filling = false;
    self->tx = NULL;
    self->tx_own = rig_tx(&world.rig);
    self->rx_own = rig_rx(&world.rig);
    self->rx = world.plan->one_view ? &world.rx : &self->rx_own;
    self->tx = world.plan->one_view ? &world.tx : &self->tx_own;
    if (self->produces)
        run_producer(self);
    else
        run_consumer(self);
    self->done = true;
    hand_over();
    return NULL;
}

// --- rounds ---

static void set_up(const struct plan *plan, struct dice *dice)
{
    static const uint64_t starts[] = {0, 12345, CURSOR_LATE - 1000};

    world.plan = plan;
    world.dice = dice_split(dice);
    rig_make(&world.rig, 64ull << dice_below(&world.dice, 5), starts[dice_below(&world.dice, 3)]);
    world.tx = rig_tx(&world.rig);
    world.rx = rig_rx(&world.rig);
    world.quota = world.rig.size * (4 + dice_below(&world.dice, 30));
    world.stream = malloc(world.quota + 16 * CALL_MOST);
    assert_non_null(world.stream);
    world.produced = world.consumed = 0;
    world.kills_left = plan->kills;
    world.bells_left = 2;
    world.actors = plan->producers + plan->consumers;
    world.running = world.holder = NULL;
    sem_init(&world.over, 0, 0);
    for (int i = 0; i < world.actors; i++) {
        world.actor[i] = (struct actor){.produces = i < plan->producers};
        sem_init(&world.actor[i].turn, 0, 0);
    }
}

static void run_round(const struct plan *plan, struct dice *dice)
{
    set_up(plan, dice);
    for (int i = 0; i < world.actors; i++) {
        if (pthread_create(&world.actor[i].thread, NULL, act, &world.actor[i]))
            rig_fail("cannot make a thread");
    }
    world.running = &world.actor[dice_below(&world.dice, (uint64_t)world.actors)];
    sem_post(&world.running->turn);
    sem_wait(&world.over);
    for (int i = 0; i < world.actors; i++)
        pthread_join(world.actor[i].thread, NULL);
    world.running = NULL;
    CHECK(world.consumed == world.produced, "bytes are left over");
    free(world.stream);
    rig_free(&world.rig);
}

// The threads take turns: on one processor they need no waking up across.
static void use_one_processor(void)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static void run(const struct plan *plan, uint64_t rounds)
{
    struct dice dice = dice_make(plan->name);

    use_one_processor();
    world.steps = world.switches = world.handled = world.killed = world.slept = 0;
    for (uint64_t i = rig_scaled(rounds); i; i--)
        run_round(plan, &dice);
    printf("%s: %llu steps, %llu switches, %llu handlers, %llu killed, %llu sleeps\n", plan->name,
           (unsigned long long)world.steps, (unsigned long long)world.switches, (unsigned long long)world.handled,
           (unsigned long long)world.killed, (unsigned long long)world.slept);
}

static void test_one_of_each(void **state)
{
    run(&(struct plan){"one of each", 1, 1, .unlocked = true, .switches = 4}, 300);
}

static void test_conversation(void **state)
{
    run(&(struct plan){"conversation", 1, 1, .unlocked = true, .talk = true, .switches = 4}, 200);
}

static void test_threads(void **state)
{
    run(&(struct plan){"threads", 2, 2, .one_view = true, .switches = 4}, 300);
}

static void test_processes(void **state)
{
    run(&(struct plan){"processes", 2, 2, .switches = 4}, 300);
}

static void test_three_consumers(void **state)
{
    run(&(struct plan){"three consumers", 1, 3, .one_view = true, .unlocked = true, .switches = 3}, 300);
}

static void test_conversation_of_many(void **state)
{
    run(&(struct plan){"conversation of many", 2, 2, .talk = true, .switches = 4}, 200);
}

static void test_handlers_that_produce(void **state)
{
    run(&(struct plan){"handlers that produce", 1, 1, .one_view = true, .unlocked = true, .switches = 4,
                       .handlers = 10},
        200);
}

static void test_handlers_above_a_holder(void **state)
{
    run(&(struct plan){"handlers above a holder", 2, 2, .one_view = true, .switches = 4, .handlers = 20}, 200);
}

static void test_killed_processes(void **state)
{
    run(&(struct plan){"killed processes", 2, 2, .switches = 4, .kills = 20}, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_of_each),
        cmocka_unit_test(test_conversation),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_three_consumers),
        cmocka_unit_test(test_conversation_of_many),
        cmocka_unit_test(test_handlers_that_produce),
        cmocka_unit_test(test_handlers_above_a_holder),
        cmocka_unit_test(test_killed_processes),
    };
    return cmocka_run_group_tests_name("ring_interleave", tests, NULL, NULL);
}
