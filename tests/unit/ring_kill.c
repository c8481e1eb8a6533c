// Processes that share the ends of a ring and are killed at any instant: the stream stays whole.
//
// Two processes produce, two consume. Again and again one of them is killed while it is at it; the others, alone, must
// go on before it is replaced, so nobody who sleeps may have been left behind by the dead one.
//
// Each byte tells its position, which under the producers' lock is their own cursor. A consumer checks the bytes where
// they lie, writes down in its slot what it is about to take, takes it, and enters it in the ledger. What a killed one
// had in its slot was either taken or not: in the end, the gaps of the ledger must be closed by such entries alone.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/ring_rig.h"

#define PRODUCERS   2
#define PROCESSES   4
#define CALL_MOST   4096
#define LEDGER_MOST (4u << 20)
#define DOUBTS_MOST 65536
#define TEST_NS     8000000000u
#define PATIENCE_NS 5000000000u

struct entry {
    _Atomic uint64_t position, n;
};

// Shared by all the processes.
struct ledger {
    struct entry slot[PROCESSES];
    struct entry entry[LEDGER_MOST];
    _Atomic uint64_t count;
    _Atomic uint64_t sleeps;
    _Atomic bool stop; // produce no more
    _Atomic bool over; // no more will come
    _Atomic bool wrong;
};

struct doubt {
    uint64_t position, n;
};

static struct {
    struct rig rig;
    struct ledger *ledger;
    int producers_bell, consumers_bell;
    pid_t process[PROCESSES];
    struct dice dice;
    struct doubt doubt[DOUBTS_MOST]; // what dead consumers had in their slots
    size_t doubts;
    uint64_t kills;
} scene;

// In a process of its own.
struct party {
    int number;
    int nest;
    struct ring_tx tx;
    struct ring_rx rx;
    struct dice dice;
    unsigned char buffer[CALL_MOST];
};

// --- bells ---

static void ring_bell(int bell)
{
    uint64_t one = 1;

    if (write(bell, &one, sizeof(one)) != sizeof(one))
        rig_fail("cannot ring a bell");
}

static void wake_consumers(struct party *self)
{
    uint32_t arm;

    if (ring_tx_wants_bell(&self->tx, &arm)) {
        ring_bell(scene.consumers_bell);
        ring_tx_rang(&self->tx, arm);
    }
}

static void wake_producers(struct party *self)
{
    uint32_t arm;

    if (ring_rx_wants_bell(&self->rx, &arm)) {
        ring_bell(scene.producers_bell);
        ring_rx_rang(&self->rx, arm);
    }
}

static void sleep_in_nest(struct party *self)
{
    struct epoll_event event;

    atomic_fetch_add(&scene.ledger->sleeps, 1);
    epoll_wait(self->nest, &event, 1, -1);
}

// --- producing ---

// Whatever a dead holder was doing, its last publication is whole.
static void lock_producers(void)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(void *)scene.rig.sender->tx_lock;
    int result = pthread_mutex_lock(lock);

    if (result == EOWNERDEAD)
        result = pthread_mutex_consistent(lock);
    if (result)
        rig_fail("cannot lock the producers' end: %d", result);
}

static void unlock_producers(void)
{
    pthread_mutex_unlock((pthread_mutex_t *)(void *)scene.rig.sender->tx_lock);
}

static ssize_t put(struct party *self)
{
    struct iovec one = {self->buffer, dice_size(&self->dice, CALL_MOST)};
    struct spans from = spans_of(&one, 1);

    stream_fill(self->buffer, scene.rig.sender->tx_tail, one.iov_len);
    return ring_put(&self->tx, &from);
}

static ssize_t put_in_place(struct party *self)
{
    uint64_t tail;
    void *place;
    ssize_t room = ring_reserve(&self->tx, &tail, &place);

    if (room <= 0)
        return room;
    size_t n = dice_size(&self->dice, (size_t)room);
    stream_fill(place, tail, n);
    if (!ring_commit(&self->tx, tail, n))
        rig_fail("another producer was faster, under the lock");
    return (ssize_t)n;
}

// Returns false if there is no room.
static bool produce(struct party *self)
{
    lock_producers();
    ssize_t n = dice_below(&self->dice, 4) ? put(self) : put_in_place(self);
    if (n < 0)
        rig_fail("a producer got %zd", n);
    if (n)
        wake_consumers(self);
    unlock_producers();
    return n;
}

// Who was killed may have left a publication, or a bell, undone: so these come before the sleep.
static void wait_for_room(struct party *self)
{
    ring_tx_republish(&self->tx);
    wake_consumers(self);
    ring_tx_arm(&self->tx);
    if (ring_room(&self->tx) < (int64_t)ring_room_wanted(&self->tx) && !atomic_load(&scene.ledger->stop))
        sleep_in_nest(self);
}

static void run_producer(struct party *self)
{
    while (!atomic_load(&scene.ledger->stop)) {
        if (!produce(self))
            wait_for_room(self);
    }
    ring_tx_republish(&self->tx);
}

// --- consuming ---

static void enter(uint64_t position, uint64_t n)
{
    struct ledger *ledger = scene.ledger;
    uint64_t at = atomic_fetch_add(&ledger->count, 1);

    if (at >= LEDGER_MOST)
        rig_fail("the ledger is full");
    atomic_store(&ledger->entry[at].position, position);
    atomic_store(&ledger->entry[at].n, n); // makes it valid
}

// Returns false if there is nothing.
static bool consume(struct party *self)
{
    struct entry *slot = &scene.ledger->slot[self->number];
    uint64_t head;
    const void *place;
    ssize_t n = ring_look(&self->rx, &head, &place);

    if (n < 0)
        rig_fail("a consumer got %zd", n);
    if (n == 0)
        return false;
    n = dice_below(&self->dice, 2) ? n : (ssize_t)dice_size(&self->dice, (size_t)n);
    bool right = stream_check(place, head, (size_t)n) == (size_t)n;
    atomic_store(&slot->position, head);
    atomic_store(&slot->n, (uint64_t)n);
    if (ring_consume(&self->rx, head, (size_t)n)) {
        if (!right)
            atomic_store(&scene.ledger->wrong, true);
        enter(head, (uint64_t)n);
        wake_producers(self);
    }
    atomic_store(&slot->n, 0);
    return true;
}

static void wait_for_bytes(struct party *self)
{
    ring_rx_republish(&self->rx);
    wake_producers(self);
    ring_rx_arm(&self->rx);
    if (ring_ready_fresh(&self->rx) == 0 && !atomic_load(&scene.ledger->over))
        sleep_in_nest(self);
}

static void run_consumer(struct party *self)
{
    for (;;) {
        bool over = atomic_load(&scene.ledger->over);
        if (consume(self))
            continue;
        if (over)
            return;
        wait_for_bytes(self);
    }
}

// --- processes ---

static void run_party(int number, struct dice dice)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    struct party self = {.number = number, .dice = dice, .nest = epoll_create1(EPOLL_CLOEXEC)};
    int bell = number < PRODUCERS ? scene.producers_bell : scene.consumers_bell;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (self.nest < 0 || epoll_ctl(self.nest, EPOLL_CTL_ADD, bell, &event))
        rig_fail("cannot make an epoll set");
    self.tx = rig_tx(&scene.rig);
    self.rx = rig_rx(&scene.rig);
    if (number < PRODUCERS)
        run_producer(&self);
    else
        run_consumer(&self);
}

static void start(int number)
{
    struct dice dice = dice_split(&scene.dice);

    scene.process[number] = fork();
    if (scene.process[number] < 0)
        rig_fail("cannot fork");
    if (scene.process[number] == 0) {
        run_party(number, dice);
        _exit(0);
    }
}

static void say_state(void)
{
    const struct ring_shared *shared = scene.rig.shared;

    fprintf(stderr, "tail %llu (own %llu), head %llu (own %llu), rx_arm %u, rung %u, tx_arm %u, rung %u\n",
            (unsigned long long)shared->tail, (unsigned long long)scene.rig.sender->tx_tail,
            (unsigned long long)shared->head, (unsigned long long)scene.rig.receiver->rx_head, shared->rx_arm,
            shared->rx_rung, shared->tx_arm, shared->tx_rung);
}

static void check_alive(void)
{
    for (int i = 0; i < PROCESSES; i++) {
        int status;
        if (scene.process[i] && waitpid(scene.process[i], &status, WNOHANG) == scene.process[i]) {
            say_state();
            rig_fail("process %d ended by itself: status %x", i, (unsigned)status);
        }
    }
}

static void doze(uint64_t ns)
{
    struct timespec time = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

    nanosleep(&time, NULL);
}

static void kill_one(int victim)
{
    struct entry *slot = &scene.ledger->slot[victim];

    kill(scene.process[victim], SIGKILL);
    waitpid(scene.process[victim], NULL, 0);
    scene.process[victim] = 0;
    scene.kills++;
    if (victim >= PRODUCERS && slot->n) {
        if (scene.doubts == DOUBTS_MOST)
            rig_fail("too many doubts");
        scene.doubt[scene.doubts++] = (struct doubt){slot->position, slot->n};
        slot->n = 0;
    }
}

// Twice around the ring, so that everything that the dead one left must have been passed.
static void check_that_others_go_on(void)
{
    uint64_t goal = scene.rig.receiver->rx_head + 2 * scene.rig.size, until = rig_now() + PATIENCE_NS;

    while (scene.rig.receiver->rx_head < goal) {
        check_alive();
        if (rig_now() > until) {
            say_state();
            rig_fail("the others do not go on");
        }
        doze(20000);
    }
}

static void end_all(int from, int to)
{
    for (int i = from; i < to; i++) {
        int status;
        if (waitpid(scene.process[i], &status, 0) != scene.process[i] || status)
            rig_fail("process %d ended with status %x", i, (unsigned)status);
    }
}

// --- the account ---

static int compare_entries(const void *a, const void *b)
{
    const struct entry *left = (const struct entry *)a, *right = (const struct entry *)b;

    return left->position < right->position ? -1 : left->position > right->position;
}

// May dead consumers have taken just what lies from `position` to `end`?
static bool closed_by_doubts(uint64_t position, uint64_t end)
{
    if (position == end)
        return true;
    for (size_t i = 0; i < scene.doubts; i++) {
        const struct doubt *doubt = &scene.doubt[i];
        if (doubt->position == position && position + doubt->n <= end && closed_by_doubts(position + doubt->n, end))
            return true;
    }
    return false;
}

static void check_ledger(void)
{
    struct ledger *ledger = scene.ledger;
    uint64_t position = 0, end = scene.rig.sender->tx_tail;

    assert_false(ledger->wrong);
    assert_int_equal(scene.rig.receiver->rx_head, end);
    qsort(ledger->entry, ledger->count, sizeof(ledger->entry[0]), compare_entries);
    for (uint64_t i = 0; i < ledger->count; i++) {
        if (ledger->entry[i].n == 0)
            continue; // its consumer was killed before it had entered it: it is in doubt
        assert_true(closed_by_doubts(position, ledger->entry[i].position));
        position = ledger->entry[i].position + ledger->entry[i].n;
    }
    assert_true(closed_by_doubts(position, end));
}

static void set_up(uint64_t size)
{
    memset((void *)&scene, 0, sizeof(scene));
    scene.dice = dice_make("ring_kill");
    rig_make(&scene.rig, size, 0);
    scene.ledger = rig_memory(sizeof(*scene.ledger));
    scene.producers_bell = eventfd(0, EFD_CLOEXEC);
    scene.consumers_bell = eventfd(0, EFD_CLOEXEC);
    for (int i = 0; i < PROCESSES; i++)
        start(i);
}

static void run_and_kill(uint64_t ns)
{
    uint64_t until = rig_now() + ns;

    while (rig_now() < until && scene.ledger->count < LEDGER_MOST / 2) {
        int victim = (int)dice_below(&scene.dice, PROCESSES);
        doze(dice_below(&scene.dice, 500000));
        kill_one(victim);
        check_that_others_go_on();
        start(victim);
    }
}

static void wind_up(void)
{
    alarm(60); // ends what hangs
    atomic_store(&scene.ledger->stop, true);
    ring_bell(scene.producers_bell);
    end_all(0, PRODUCERS);
    atomic_store(&scene.ledger->over, true);
    ring_bell(scene.consumers_bell);
    end_all(PRODUCERS, PROCESSES);
    alarm(0);
}

static void play(uint64_t size)
{
    set_up(size);
    run_and_kill(rig_scaled(TEST_NS / 2));
    wind_up();
    check_ledger();
    printf("ring_kill: %llu MB, %llu killed, %zu of them while consuming, %llu sleeps\n",
           (unsigned long long)scene.rig.sender->tx_tail / 1000000, (unsigned long long)scene.kills, scene.doubts,
           (unsigned long long)scene.ledger->sleeps);
    assert_true(scene.kills > 0 && scene.ledger->sleeps > 0);
    munmap(scene.ledger, sizeof(*scene.ledger));
    close(scene.producers_bell);
    close(scene.consumers_bell);
    rig_free(&scene.rig);
}

static void test_small_ring(void **state)
{
    play(RING_BYTES_MIN);
}

static void test_large_ring(void **state)
{
    play(256 << 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_ring),
        cmocka_unit_test(test_large_ring),
    };
    return cmocka_run_group_tests_name("ring_kill", tests, NULL, NULL);
}
