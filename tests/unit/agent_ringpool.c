// Ring memory: clean, whose it was, and no more than it may be.

#include <stdarg.h>
#include <setjmp.h>
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/ringpool.h"
#include "core/layout.h"

#define RING_BYTES RING_BYTES_MIN
#define RING_SIZE  (LAYOUT_PAGE + 2 * (uint64_t)RING_BYTES)

enum { ROOT = 0, ANNA = 1, BERT = 2 };

static struct ringpool pool;
static unsigned descriptors_before;

static unsigned open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static int setup(void **state)
{
    descriptors_before = open_descriptors();
    assert_int_equal(ringpool_init(&pool), 0);
    ringpool_configure(&pool, RING_BYTES, 10 * RING_SIZE);
    return 0;
}

static int teardown(void **state)
{
    ringpool_deinit(&pool);
    assert_int_equal(open_descriptors(), descriptors_before);
    return 0;
}

static unsigned work_off(void)
{
    unsigned steps = 0;

    while (ringpool_work(&pool))
        assert_true(++steps < 100000);
    return steps;
}

static struct ring *take(uint64_t owner)
{
    struct ring *ring = NULL;

    assert_int_equal(ringpool_take(&pool, owner, &ring), 0);
    assert_non_null(ring);
    return ring;
}

static ino_t number_of(const struct ring *ring)
{
    struct stat status;

    assert_int_equal(fstat(ring->fd, &status), 0);
    return status.st_ino;
}

static unsigned char *map_whole(const struct ring *ring)
{
    void *address = mmap(NULL, RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);

    assert_ptr_not_equal(address, MAP_FAILED);
    return address;
}

static void soil(const struct ring *ring)
{
    unsigned char *bytes = map_whole(ring);

    memset(bytes, 0xa5, RING_SIZE);
    munmap(bytes, RING_SIZE);
}

static void check_clean(const struct ring *ring)
{
    unsigned char *bytes = map_whole(ring);

    for (uint64_t i = 0; i < RING_SIZE; i++)
        assert_int_equal(bytes[i], 0);
    munmap(bytes, RING_SIZE);
}

// 512-byte blocks that have memory.
static uint64_t memory_of(const struct ring *ring)
{
    struct stat status;

    assert_int_equal(fstat(ring->fd, &status), 0);
    return (uint64_t)status.st_blocks * 512;
}

static void test_without_a_pool(void **state)
{
    struct ring *ring = take(ANNA);

    assert_int_equal(pool.bytes, 0);
    assert_int_equal(ring->ring_bytes, RING_BYTES);
    check_clean(ring);
    ring->header->id = 7;
    // Nobody said that Anna comes back.
    ringpool_give(&pool, ring);
    assert_int_equal(pool.bytes, 0);
}

static void test_rings_are_made_ready(void **state)
{
    struct ring *ring;

    assert_int_equal(ringpool_want(&pool, ANNA, 3), 0);
    assert_int_equal(pool.bytes, 0);
    assert_true(work_off() >= 3);
    assert_int_equal(pool.bytes, 3 * RING_SIZE);
    assert_false(ringpool_work(&pool));
    ring = take(ANNA);
    assert_int_equal(memory_of(ring), RING_SIZE);
    assert_int_equal(pool.bytes, 2 * RING_SIZE);
    check_clean(ring);
    ringpool_give(&pool, ring);
    work_off();
    assert_int_equal(pool.bytes, 3 * RING_SIZE);
}

static void test_used_rings_are_scrubbed(void **state)
{
    assert_int_equal(ringpool_want(&pool, ANNA, 1), 0);
    // With time to scrub in between and without.
    for (int i = 0; i < 6; i++) {
        struct ring *ring = take(ANNA);
        ino_t number = number_of(ring);
        check_clean(ring);
        soil(ring);
        ringpool_give(&pool, ring);
        if (i % 2)
            work_off();
        ring = take(ANNA);
        assert_int_equal(number_of(ring), number);
        check_clean(ring);
        ringpool_give(&pool, ring);
    }
}

static void test_an_interrupted_scrub(void **state)
{
    struct ring *ring;

    ringpool_configure(&pool, 1 << 20, 100 << 20);
    assert_int_equal(ringpool_want(&pool, ANNA, 1), 0);
    ring = take(ANNA);
    memset(ring->header, 0xa5, LAYOUT_PAGE);
    ringpool_give(&pool, ring);
    for (int i = 0; i < 3; i++)
        assert_true(ringpool_work(&pool));
    ring = take(ANNA);
    assert_int_equal(ring->filled, LAYOUT_PAGE + (2 << 20));
    assert_int_equal(ring->header->magic, 0);
    ringpool_give(&pool, ring);
}

static void test_memory_goes_to_its_owner_only(void **state)
{
    struct ring *ring, *other;
    ino_t number;

    assert_int_equal(ringpool_want(&pool, ANNA, 1), 0);
    assert_int_equal(ringpool_want(&pool, BERT, 0), 0);
    ring = take(ANNA);
    number = number_of(ring);
    ringpool_give(&pool, ring);
    other = take(BERT);
    assert_int_not_equal(number_of(other), number);
    ring = take(ANNA);
    assert_int_equal(number_of(ring), number);
    ringpool_give(&pool, other);
    ringpool_give(&pool, ring);
    assert_int_equal(pool.bytes, 2 * RING_SIZE);
}

static void test_shared_memory_is_not_kept(void **state)
{
    struct ring *ring;

    assert_int_equal(ringpool_want(&pool, ANNA, 2), 0);
    work_off();
    ring = take(RINGPOOL_SHARED);
    assert_int_equal(pool.bytes, 2 * RING_SIZE);
    check_clean(ring);
    ringpool_give(&pool, ring);
    assert_int_equal(pool.bytes, 2 * RING_SIZE);
}

// A process of root's keeps its mapping, whatever it is afterwards: here as a descriptor.
static void test_roots_memory_is_used_once(void **state)
{
    ino_t used[4];
    int kept[4];

    assert_int_equal(ringpool_want(&pool, ROOT, 2), 0);
    for (int i = 0; i < 4; i++) {
        work_off();
        assert_int_equal(pool.bytes, 2 * RING_SIZE); // new ones are kept ready all the same
        struct ring *ring = take(ROOT);
        assert_true(ring->fresh);
        assert_int_equal(ring->filled, RING_SIZE);
        used[i] = number_of(ring);
        kept[i] = dup(ring->fd);
        for (int j = 0; j < i; j++)
            assert_int_not_equal(used[i], used[j]);
        ringpool_give(&pool, ring);
        assert_int_equal(pool.bytes, RING_SIZE);
    }
    for (int i = 0; i < 4; i++)
        close(kept[i]);
}

static void test_the_bound(void **state)
{
    struct ring *rings[20];
    ino_t youngest;

    assert_int_equal(ringpool_want(&pool, ANNA, 100), 0);
    work_off();
    assert_int_equal(pool.bytes, 10 * RING_SIZE);
    for (int i = 0; i < 20; i++)
        rings[i] = take(ANNA);
    assert_int_equal(pool.bytes, 0);
    youngest = number_of(rings[19]);
    for (int i = 0; i < 20; i++)
        ringpool_give(&pool, rings[i]);
    assert_int_equal(pool.bytes, 10 * RING_SIZE);
    // The oldest went.
    ringpool_shrink(&pool, RING_SIZE);
    assert_int_equal(pool.bytes, RING_SIZE);
    rings[0] = take(ANNA);
    assert_int_equal(number_of(rings[0]), youngest);
    ringpool_give(&pool, rings[0]);
}

static void test_others_make_room(void **state)
{
    struct ring *ring;

    assert_int_equal(ringpool_want(&pool, ANNA, 100), 0);
    work_off();
    assert_int_equal(ringpool_want(&pool, BERT, 1), 0);
    ring = take(BERT);
    ringpool_give(&pool, ring);
    assert_int_equal(pool.bytes, 10 * RING_SIZE);
    ringpool_forget(&pool, ANNA);
    assert_int_equal(pool.bytes, RING_SIZE);
}

static void test_everybody_gets_some(void **state)
{
    struct ring *ring;

    assert_int_equal(ringpool_want(&pool, ANNA, 100), 0);
    assert_int_equal(ringpool_want(&pool, BERT, 100), 0);
    work_off();
    assert_int_equal(pool.bytes, 10 * RING_SIZE);
    for (int i = 0; i < 4; i++) {
        ring = take(BERT);
        assert_int_equal(memory_of(ring), RING_SIZE);
        ring_free(ring);
    }
}

static void test_another_size(void **state)
{
    struct ring *ring, *other;

    assert_int_equal(ringpool_want(&pool, ANNA, 2), 0);
    work_off();
    ring = take(ANNA);
    ringpool_configure(&pool, 2 * RING_BYTES, 10 * RING_SIZE);
    assert_int_equal(pool.bytes, 0);
    other = take(ANNA);
    assert_int_equal(other->ring_bytes, 2 * RING_BYTES);
    ringpool_give(&pool, ring);
    assert_int_equal(pool.bytes, 0);
    ringpool_give(&pool, other);
    assert_int_equal(pool.bytes, LAYOUT_PAGE + 4 * (uint64_t)RING_BYTES);
}

static void test_no_pool_at_all(void **state)
{
    struct ring *ring;

    ringpool_configure(&pool, RING_BYTES, RING_SIZE - 1);
    assert_int_equal(ringpool_want(&pool, ANNA, 3), 0);
    assert_false(ringpool_work(&pool));
    ring = take(ANNA);
    ringpool_give(&pool, ring);
    assert_int_equal(pool.bytes, 0);
}

static void test_a_forgotten_owner(void **state)
{
    struct ring *ring;

    assert_int_equal(ringpool_want(&pool, ANNA, 3), 0);
    work_off();
    ring = take(ANNA);
    ringpool_forget(&pool, ANNA);
    ringpool_forget(&pool, ANNA);
    assert_int_equal(pool.bytes, 0);
    ringpool_give(&pool, ring);
    assert_int_equal(pool.bytes, 0);
    assert_false(ringpool_work(&pool));
}

static void test_whoever_holds_a_freed_ring_keeps_it(void **state)
{
    struct ring *ring = take(ANNA);
    unsigned char *bytes = map_whole(ring);

    bytes[0] = bytes[RING_SIZE - 1] = 1;
    ring_free(ring);
    assert_int_equal(bytes[0] + bytes[RING_SIZE - 1], 2);
    munmap(bytes, RING_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_without_a_pool, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rings_are_made_ready, setup, teardown),
        cmocka_unit_test_setup_teardown(test_used_rings_are_scrubbed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_interrupted_scrub, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory_goes_to_its_owner_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shared_memory_is_not_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_roots_memory_is_used_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_others_make_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_everybody_gets_some, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_size, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_pool_at_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_forgotten_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whoever_holds_a_freed_ring_keeps_it, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
