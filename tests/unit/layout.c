// Shared memory as the agent makes it: fresh headers, and locks that survive their holders.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/end.h"
#include "core/layout.h"
#include "core/session.h"

static void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(memory != MAP_FAILED);
    return memory;
}

static void test_session_bytes(void **state)
{
    assert_int_equal(session_bytes(RING_BYTES_MIN), LAYOUT_PAGE + 2 * RING_BYTES_MIN);
    assert_int_equal(session_bytes(RING_BYTES_MAX), (uint64_t)LAYOUT_PAGE + 2 * (uint64_t)RING_BYTES_MAX);
}

// The fields that different processes write lie at least LAYOUT_APART apart, in every ring.
static void test_producer_and_consumer_are_apart(void **state)
{
    static const size_t groups[] = {
        offsetof(struct ring_shared, tail),   offsetof(struct ring_shared, head), offsetof(struct ring_shared, rx_arm),
        offsetof(struct ring_shared, tx_arm), sizeof(struct ring_shared),
    };

    for (size_t i = 1; i < sizeof(groups) / sizeof(groups[0]); i++) {
        assert_int_equal(groups[i] % LAYOUT_APART, 0);
        assert_true(groups[i] - groups[i - 1] >= LAYOUT_APART);
    }
    assert_int_equal(offsetof(struct session_shared, ring[1]), LAYOUT_APART + sizeof(struct ring_shared));
}

static void check_fresh(const struct session_shared *session)
{
    struct session_shared expected;

    memset((void *)&expected, 0, sizeof(expected));
    expected.magic = SESSION_MAGIC;
    expected.version = LAYOUT_VERSION;
    expected.transport = TRANSPORT_SHM;
    expected.id = 42;
    expected.ring_bytes = RING_BYTES_MIN;
    for (int i = 0; i < 2; i++)
        expected.ring[i].switch_at = expected.ring[i].left_at = SWITCH_NOT_YET;
    assert_memory_equal((const void *)session, (const void *)&expected, sizeof(expected));
}

static void test_session_is_fresh_whatever_the_page_held(void **state)
{
    static const unsigned char dirt[] = {0x00, 0xff, 0x5a};
    unsigned char *memory = shared_memory(session_bytes(RING_BYTES_MIN));

    for (size_t i = 0; i < sizeof(dirt); i++) {
        memset(memory, dirt[i], session_bytes(RING_BYTES_MIN));
        session_init((struct session_shared *)(void *)memory, 42, TRANSPORT_SHM, RING_BYTES_MIN);
        check_fresh((struct session_shared *)(void *)memory);
        for (size_t at = sizeof(struct session_shared); at < LAYOUT_PAGE; at++)
            assert_int_equal(memory[at], 0);
        assert_int_equal(memory[SESSION_DATA], dirt[i]);
    }
    munmap(memory, session_bytes(RING_BYTES_MIN));
}

static void test_end_is_tcp_both_ways(void **state)
{
    struct end_shared *end = shared_memory(END_BYTES);

    assert_int_equal(end_init(end, 42, 7, 1), 0);
    assert_int_equal(end->magic, END_MAGIC);
    assert_int_equal(end->version, LAYOUT_VERSION);
    assert_int_equal(end->session, 42);
    assert_int_equal(end->side, 1);
    assert_int_equal(end->tx_way, WAY_TCP);
    assert_int_equal(end->rx_way, WAY_TCP);
    assert_int_equal(end->tx_tail, 0);
    assert_int_equal(end->rx_head, 0);
    munmap(end, END_BYTES);
}

static void check_lock_knows_its_holder(pthread_mutex_t *lock)
{
    assert_int_equal(pthread_mutex_lock(lock), 0);
    assert_int_equal(pthread_mutex_lock(lock), EDEADLK);
    assert_int_equal(pthread_mutex_unlock(lock), 0);
    assert_int_equal(pthread_mutex_unlock(lock), EPERM);
}

static void check_lock_is_seen_by_another_process(pthread_mutex_t *lock)
{
    int status;

    assert_int_equal(pthread_mutex_lock(lock), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(pthread_mutex_trylock(lock) == EBUSY ? 0 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(pthread_mutex_unlock(lock), 0);
}

// A waiter in one process is woken by the holder in another.
static void check_lock_wakes_another_process(pthread_mutex_t *lock)
{
    int status, pipes[2];
    struct timespec deadline;
    char byte;

    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bool fine = pthread_mutex_lock(lock) == 0 && write(pipes[1], "x", 1) == 1;
        usleep(100000); // the parent goes to sleep on the lock
        _exit(fine && pthread_mutex_unlock(lock) == 0 ? 0 : 1);
    }
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 10;
    assert_int_equal(pthread_mutex_timedlock(lock, &deadline), 0);
    assert_int_equal(pthread_mutex_unlock(lock), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(pipes[0]);
    close(pipes[1]);
}

static void check_lock_outlives_a_killed_holder(pthread_mutex_t *lock)
{
    int status;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        if (pthread_mutex_lock(lock) == 0)
            kill(getpid(), SIGKILL);
        _exit(1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(pthread_mutex_lock(lock), EOWNERDEAD);
    assert_int_equal(pthread_mutex_consistent(lock), 0);
    assert_int_equal(pthread_mutex_unlock(lock), 0);
    assert_int_equal(pthread_mutex_lock(lock), 0);
    assert_int_equal(pthread_mutex_unlock(lock), 0);
}

static void test_locks_of_an_end(void **state)
{
    struct end_shared *end = shared_memory(END_BYTES);
    pthread_mutex_t *locks[2];

    assert_int_equal(end_init(end, 1, 1, 0), 0);
    locks[0] = (pthread_mutex_t *)(void *)end->tx_lock;
    locks[1] = (pthread_mutex_t *)(void *)end->rx_lock;
    for (int i = 0; i < 2; i++) {
        check_lock_knows_its_holder(locks[i]);
        check_lock_is_seen_by_another_process(locks[i]);
        check_lock_wakes_another_process(locks[i]);
        check_lock_outlives_a_killed_holder(locks[i]);
    }
    munmap(end, END_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session_bytes),
        cmocka_unit_test(test_producer_and_consumer_are_apart),
        cmocka_unit_test(test_session_is_fresh_whatever_the_page_held),
        cmocka_unit_test(test_end_is_tcp_both_ways),
        cmocka_unit_test(test_locks_of_an_end),
    };
    return cmocka_run_group_tests_name("layout", tests, NULL, NULL);
}
