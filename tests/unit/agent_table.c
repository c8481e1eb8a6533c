// The hash table: everything is found, also while it grows and when hashes collide.

#include <stdarg.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "agent/list.h"
#include "agent/table.h"

#define COUNT 5000

struct thing {
    struct table_node node;
    unsigned number;
    bool in;
};

static struct table table;
static struct thing things[COUNT];

static int setup(void **state)
{
    for (unsigned i = 0; i < COUNT; i++)
        things[i] = (struct thing){.number = i};
    return table_init(&table);
}

static int teardown(void **state)
{
    table_deinit(&table);
    return 0;
}

static bool find(const struct thing *wanted, uint64_t hash)
{
    for (struct table_node *node = table_first(&table, hash); node; node = table_next(node)) {
        assert_int_equal(node->hash, hash);
        if (container_of(node, struct thing, node) == wanted)
            return true;
    }
    return false;
}

static uint64_t hash_well(unsigned number)
{
    return table_hash(&number, sizeof(number));
}

// Seven values, most of them in the same bucket.
static uint64_t hash_badly(unsigned number)
{
    return (uint64_t)(number % 7) << 32;
}

static void toggle(struct thing *thing, uint64_t hash)
{
    if (thing->in)
        table_remove(&table, &thing->node);
    else
        table_add(&table, &thing->node, hash);
    thing->in = !thing->in;
}

static void check_against(unsigned count, uint64_t (*hash)(unsigned))
{
    unsigned in = 0;

    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(find(&things[i], hash(i)), things[i].in);
        in += things[i].in;
    }
    assert_int_equal(table.count, in);
}

static void toggle_at_random(unsigned count, uint64_t (*hash)(unsigned))
{
    unsigned seed = (unsigned)(uintptr_t)&count;

    print_message("seed %u\n", seed);
    for (unsigned step = 0; step < 3 * count; step++) {
        struct thing *thing = &things[(unsigned)rand_r(&seed) % count];
        toggle(thing, hash(thing->number));
        if (step % (count / 4) == 0)
            check_against(count, hash);
    }
    check_against(count, hash);
}

static void test_many(void **state)
{
    toggle_at_random(COUNT, hash_well);
    assert_true(table.size >= 1024);
}

static void test_collisions(void **state)
{
    toggle_at_random(200, hash_badly);
}

static void test_hashes_use_all_of_the_key(void **state)
{
    unsigned char key[48] = {0};
    uint64_t before = table_hash(key, sizeof(key));

    assert_int_equal(table_hash(key, sizeof(key)), before);
    for (size_t i = 0; i < sizeof(key); i++) {
        key[i] = 1;
        assert_int_not_equal(table_hash(key, sizeof(key)), before);
        key[i] = 0;
    }
    for (size_t size = 0; size < sizeof(key); size++)
        assert_int_not_equal(table_hash(key, size), before);
}

// Of 4,096 neighbouring keys about 1,500 share a bucket of 4,096 with another if chance rules.
static void test_hashes_spread(void **state)
{
    static unsigned char used[4096];
    unsigned free_buckets = 0;

    for (uint64_t i = 0; i < 4096; i++)
        used[hash_well((unsigned)i) & 4095] = 1;
    for (unsigned i = 0; i < 4096; i++)
        free_buckets += !used[i];
    assert_in_range(free_buckets, 1300, 1720);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_collisions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hashes_use_all_of_the_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hashes_spread, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
