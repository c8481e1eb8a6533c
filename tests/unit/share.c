// Places that forked processes share, and the gates in them: with real forks.
//
// The page of a place is the page of memory it lies in; whether that is mapped is asked of the kernel.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "preload/share.h"
#include "tests/unit/ring_rig.h"

#define PAGE   4096u
#define TAG    5  // of the session that the gates are closed for
#define PLACES 63 // of a page

static uintptr_t page_of(const struct share *share)
{
    return (uintptr_t)share & ~(uintptr_t)(PAGE - 1);
}

static bool is_mapped(uintptr_t page)
{
    unsigned char resident;

    return mincore((void *)page, PAGE, &resident) == 0;
}

static struct share *must_have(void)
{
    struct share *share = share_new();

    if (!share)
        rig_fail("no place for a socket");
    return share;
}

// A child process that runs `act`, and says whether all went well.
static pid_t start(bool (*act)(void *), void *argument)
{
    share_before_fork();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        share_after_fork();
        _exit(act(argument) ? 0 : 1);
    }
    return child;
}

static void must_end_well(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void in_child(bool (*act)(void *), void *argument)
{
    must_end_well(start(act, argument));
}

// In steps, parent and child by turns.
static _Atomic int *turn;

static void set_turn(int number)
{
    atomic_store(turn, number);
}

static void wait_turn(int number)
{
    uint64_t until = rig_now() + 10000000000u;

    while (atomic_load(turn) != number) {
        if (rig_now() > until)
            rig_fail("turn %d never came", number);
        usleep(100);
    }
}

// --- places ---

static bool is_zero(const struct share *share)
{
    static const struct share zero;

    return memcmp((const void *)share, (const void *)&zero, sizeof(zero)) == 0;
}

static void test_places_are_apart_aligned_and_zero(void **state)
{
    struct share *share[3 * PLACES];

    for (int i = 0; i < 3 * PLACES; i++) {
        share[i] = must_have();
        assert_int_equal((uintptr_t)share[i] % 64, 0);
        assert_true(is_zero(share[i]));
        memset((void *)share[i], 0xff, sizeof(*share[i]));
        share[i]->passed = (uint32_t)i;
    }
    for (int i = 0; i < 3 * PLACES; i++)
        assert_int_equal(share[i]->passed, i);
    for (int i = 0; i < 3 * PLACES; i++)
        share_free(share[i]);
}

static void test_a_free_place_is_used_again_and_zero(void **state)
{
    struct share *one = must_have(), *other = must_have();

    memset((void *)one, 0xff, sizeof(*one));
    share_free(one);
    struct share *again = must_have();
    assert_ptr_equal(again, one);
    assert_true(is_zero(again));
    assert_false(share_forked(again));
    share_free(again);
    share_free(other);
}

static void test_pages_are_given_back_but_one(void **state)
{
    struct share *share[3 * PLACES];
    int mapped = 0;

    for (int i = 0; i < 3 * PLACES; i++)
        share[i] = must_have();
    for (int i = 0; i < 3 * PLACES; i++)
        share_free(share[i]);
    for (int i = 0; i < 3; i++)
        mapped += is_mapped(page_of(share[i * PLACES + PLACES / 2]));
    assert_in_range(mapped, 0, 1);
}

// --- places and forks ---

static bool new_place_elsewhere(void *argument)
{
    struct share *share = must_have();
    bool elsewhere = page_of(share) != page_of((struct share *)argument);
    bool fresh = !share_forked(share) && share_forked((struct share *)argument);

    share_free(share);
    return elsewhere && fresh;
}

static void test_a_page_that_was_forked_takes_no_new_sockets(void **state)
{
    struct share *old = must_have();

    assert_false(share_forked(old));
    in_child(new_place_elsewhere, old);
    assert_true(share_forked(old));
    assert_true(new_place_elsewhere(old));
    share_free(old);
    assert_false(is_mapped(page_of(old)));
}

static bool write_to_new_places(void *argument)
{
    struct share *share = must_have();

    share->passed = 1;
    set_turn(1);
    wait_turn(2);
    return share->passed == 1;
}

// Whatever page the parent keeps for its next socket, the child's next one must not lie in it too.
static void test_new_places_of_parent_and_child_are_not_the_same_memory(void **state)
{
    struct share *kept = must_have();
    share_free(kept);
    assert_true(is_mapped(page_of(kept))); // for the next
    set_turn(0);
    pid_t child = start(write_to_new_places, NULL);
    struct share *mine[PLACES];
    for (int i = 0; i < PLACES; i++)
        mine[i] = must_have();
    wait_turn(1);
    for (int i = 0; i < PLACES; i++) {
        assert_int_equal(mine[i]->passed, 0);
        mine[i]->passed = 2;
    }
    set_turn(2);
    must_end_well(child);
    for (int i = 0; i < PLACES; i++)
        share_free(mine[i]);
}

static bool see_change(void *argument)
{
    struct share *share = (struct share *)argument;

    wait_turn(1);
    bool seen = share->nonblocking == 7;
    share->pinned = 9;
    set_turn(2);
    return seen;
}

static void test_old_places_are_shared(void **state)
{
    struct share *share = must_have();

    set_turn(0);
    pid_t child = start(see_change, share);
    share->nonblocking = 7;
    set_turn(1);
    wait_turn(2);
    assert_int_equal(share->pinned, 9);
    must_end_well(child);
    share_free(share);
}

struct two {
    struct share *a, *b;
};

static bool free_one_by_one(void *argument)
{
    struct two *two = (struct two *)argument;

    share_free(two->a);
    if (!is_mapped(page_of(two->b)))
        return false;
    share_free(two->b);
    return !is_mapped(page_of(two->b));
}

// Each process by itself, whatever the other still holds.
static void test_a_forked_page_goes_with_its_last_socket_here(void **state)
{
    struct two two = {must_have(), must_have()};

    assert_int_equal(page_of(two.a), page_of(two.b));
    in_child(free_one_by_one, &two);
    assert_true(is_mapped(page_of(two.a)));
    two.a->pinned = 1;
    assert_true(free_one_by_one(&two));
}

static bool free_in_grandchild(void *argument)
{
    struct two *two = (struct two *)argument;
    int status;
    pid_t child;

    share_free(two->a);
    child = start(free_one_by_one, &(struct two){two->b, two->b});
    waitpid(child, &status, 0);
    share_free(two->b);
    return !is_mapped(page_of(two->b));
}

static void test_grandchildren(void **state)
{
    struct two two = {must_have(), must_have()};

    in_child(free_in_grandchild, &two);
    assert_true(free_one_by_one(&two));
}

static void test_many_sockets_and_forks_leave_nothing_behind(void **state)
{
    struct share *share[10][100];
    uintptr_t page[10][100];

    for (int i = 0; i < 10; i++) {
        for (int j = 0; j < 100; j++)
            page[i][j] = page_of(share[i][j] = must_have());
        share_before_fork();
    }
    for (int i = 0; i < 10; i++) {
        for (int j = 0; j < 100; j++)
            share_free(share[i][j]);
    }
    for (int i = 0; i < 10; i++) {
        for (int j = 0; j < 100; j++)
            assert_false(is_mapped(page[i][j]));
    }
}

// --- gates ---

static void test_gate_alone(void **state)
{
    struct share *share = must_have();

    assert_true(gate_enter(share, &share->rx_gate));
    assert_true(gate_enter(share, &share->rx_gate)); // a signal handler in a call of its own
    assert_false(gate_close(&share->rx_gate, TAG));
    gate_leave(share, &share->rx_gate);
    assert_false(gate_close(&share->rx_gate, TAG));
    gate_leave(share, &share->rx_gate);
    assert_true(gate_close(&share->rx_gate, TAG));
    assert_true(gate_close(&share->rx_gate, TAG));
    assert_false(gate_enter(share, &share->rx_gate));
    assert_int_equal(share->rx_gate, gate_closed_by(TAG));
    assert_int_equal(share->tx_gate, 0); // the other direction's is another
    share_free(share);
}

static bool go_through_gate(void *argument)
{
    struct share *share = (struct share *)argument;

    wait_turn(1); // the parent is inside
    bool right = !gate_close(&share->rx_gate, TAG) && gate_enter(share, &share->rx_gate);
    set_turn(2);
    wait_turn(3); // the parent has left
    right = right && !gate_close(&share->rx_gate, TAG);
    gate_leave(share, &share->rx_gate);
    right = right && gate_close(&share->rx_gate, TAG);
    set_turn(4);
    return right;
}

static void test_gate_across_a_fork(void **state)
{
    struct share *share = must_have();

    set_turn(0);
    pid_t child = start(go_through_gate, share);
    assert_true(gate_enter(share, &share->rx_gate));
    set_turn(1);
    wait_turn(2);
    gate_leave(share, &share->rx_gate);
    set_turn(3);
    wait_turn(4);
    assert_false(gate_enter(share, &share->rx_gate));
    assert_true(gate_close(&share->rx_gate, TAG));
    assert_int_equal(share->rx_gate, gate_closed_by(TAG));
    must_end_well(child);
    share_free(share);
}

static bool leave_gate(void *argument)
{
    struct share *share = (struct share *)argument;

    return share->rx_gate == 1;
}

// A call that began before the fork ends after it, in the parent.
static void test_fork_while_inside(void **state)
{
    struct share *share = must_have();

    assert_true(gate_enter(share, &share->rx_gate));
    in_child(leave_gate, share);
    gate_leave(share, &share->rx_gate);
    assert_true(gate_close(&share->rx_gate, TAG));
    share_free(share);
}

static bool be_killed_inside(void *argument)
{
    struct share *share = (struct share *)argument;

    if (gate_enter(share, &share->tx_gate))
        kill(getpid(), SIGKILL);
    return false;
}

// Nobody can tell how far its call came: so that direction stays TCP, which goes on.
static void test_a_holder_killed_inside_leaves_the_direction_tcp(void **state)
{
    struct share *share = must_have();
    int status;
    pid_t child = start(be_killed_inside, share);

    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_false(gate_close(&share->tx_gate, TAG));
    assert_true(gate_enter(share, &share->tx_gate));
    gate_leave(share, &share->tx_gate);
    assert_false(gate_close(&share->tx_gate, TAG));
    assert_true(gate_close(&share->rx_gate, TAG));
    share_free(share);
}

// --- a crowd at one gate after the other ---

#define GATES           50
#define CROWD_PROCESSES 2

struct crowd {
    struct share *share[GATES];
    _Atomic int at;   // the gate that is tried now
    _Atomic int past; // how many have found it closed
    _Atomic int inside;
    _Atomic int wrong;
    _Atomic uint64_t entered;
    int threads; // of each process; 0: only the one that it has
};

// As long as somebody is inside, nobody can close.
static void pass(struct crowd *crowd, _Atomic uint64_t *gate)
{
    bool closed = atomic_load(gate) & GATE_CLOSED;

    atomic_fetch_add(&crowd->inside, 1);
    atomic_fetch_add_explicit(&crowd->entered, 1, memory_order_relaxed);
    atomic_fetch_sub(&crowd->inside, 1);
    if (closed || (atomic_load(gate) & GATE_CLOSED))
        atomic_store(&crowd->wrong, 1);
}

static void *pass_all_gates(void *argument)
{
    struct crowd *crowd = (struct crowd *)argument;

    for (int at = 0; at < GATES; at++) {
        const struct share *share = crowd->share[at];
        _Atomic uint64_t *gate = &crowd->share[at]->rx_gate;
        while (atomic_load(&crowd->at) != at)
            usleep(1);
        for (int i = 1; gate_enter(share, gate); i++) {
            pass(crowd, gate);
            gate_leave(share, gate);
            if (i % 4 == 0)
                usleep(1); // now and then there is nobody inside
        }
        atomic_fetch_add(&crowd->past, 1);
    }
    return NULL;
}

static bool join_crowd(void *argument)
{
    const struct crowd *crowd = (const struct crowd *)argument;
    pthread_t thread[8];

    if (!crowd->threads)
        pass_all_gates(argument);
    for (int i = 0; i < crowd->threads; i++) {
        if (pthread_create(&thread[i], NULL, pass_all_gates, argument))
            return false;
    }
    for (int i = 0; i < crowd->threads; i++)
        pthread_join(thread[i], NULL);
    return true;
}

static void close_gate_on(struct crowd *crowd, int at)
{
    int all = CROWD_PROCESSES * (crowd->threads ? crowd->threads : 1);
    uint64_t until = rig_now() + 10000000000u;

    atomic_store(&crowd->past, 0);
    atomic_store(&crowd->at, at);
    usleep(at % 4 ? 20 : 500);
    while (!gate_close(&crowd->share[at]->rx_gate, TAG)) {
        if (rig_now() > until)
            rig_fail("the gate is never free");
    }
    if (atomic_load(&crowd->inside))
        rig_fail("somebody is inside a closed gate");
    while (atomic_load(&crowd->past) < all) {
        usleep(1);
        if (rig_now() > until)
            rig_fail("somebody goes on through a closed gate");
    }
    if (crowd->share[at]->rx_gate != gate_closed_by(TAG))
        rig_fail("the closed gate counts somebody: %llx", (unsigned long long)crowd->share[at]->rx_gate);
}

static void try_crowd(struct crowd *crowd, int threads)
{
    pid_t child[CROWD_PROCESSES];

    memset((void *)crowd, 0, sizeof(*crowd));
    crowd->threads = threads;
    crowd->at = -1;
    for (int i = 0; i < GATES; i++)
        crowd->share[i] = must_have();
    for (int i = 0; i < CROWD_PROCESSES; i++)
        child[i] = start(join_crowd, crowd);
    for (int at = 0; at < GATES; at++)
        close_gate_on(crowd, at);
    for (int i = 0; i < CROWD_PROCESSES; i++)
        must_end_well(child[i]);
    assert_int_equal(crowd->wrong, 0);
    assert_true(crowd->entered > 0);
    for (int i = 0; i < GATES; i++)
        share_free(crowd->share[i]);
}

static void test_nobody_is_inside_a_closed_gate(void **state)
{
    struct crowd *crowd = rig_memory(sizeof(*crowd));

    for (uint64_t round = rig_scaled(20); round; round--) {
        try_crowd(crowd, 0);
        try_crowd(crowd, 2);
    }
    munmap(crowd, sizeof(*crowd));
}

static int make_turn(void **state)
{
    turn = rig_memory(sizeof(*turn));
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places_are_apart_aligned_and_zero),
        cmocka_unit_test(test_a_free_place_is_used_again_and_zero),
        cmocka_unit_test(test_pages_are_given_back_but_one),
        cmocka_unit_test(test_a_page_that_was_forked_takes_no_new_sockets),
        cmocka_unit_test(test_new_places_of_parent_and_child_are_not_the_same_memory),
        cmocka_unit_test(test_old_places_are_shared),
        cmocka_unit_test(test_a_forked_page_goes_with_its_last_socket_here),
        cmocka_unit_test(test_grandchildren),
        cmocka_unit_test(test_many_sockets_and_forks_leave_nothing_behind),
        cmocka_unit_test(test_gate_alone),
        cmocka_unit_test(test_gate_across_a_fork),
        cmocka_unit_test(test_fork_while_inside),
        cmocka_unit_test(test_a_holder_killed_inside_leaves_the_direction_tcp),
        cmocka_unit_test(test_nobody_is_inside_a_closed_gate),
    };
    return cmocka_run_group_tests_name("share", tests, make_turn, NULL);
}
