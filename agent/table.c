// Chains in a power of two of buckets, doubled when there are more elements than buckets.

#include "agent/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define TABLE_SIZE_FIRST 64

// Secrets of this process; odd, so that no multiplication loses a bit.
static uint64_t hash_keys[2];

static void hash_keys_choose(void)
{
    if (hash_keys[0])
        return;
    if (getrandom(hash_keys, sizeof(hash_keys), GRND_NONBLOCK) != sizeof(hash_keys)) {
        // Only possible in the first moments of a machine's life.
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        hash_keys[0] = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15u;
        hash_keys[1] = (uint64_t)now.tv_sec ^ (uint64_t)(uintptr_t)&now;
    }
    hash_keys[0] |= 1;
    hash_keys[1] |= 1;
}

int table_init(struct table *table)
{
    hash_keys_choose();
    table->count = 0;
    table->size = TABLE_SIZE_FIRST;
    table->buckets = calloc(table->size, sizeof(*table->buckets));
    return table->buckets ? 0 : -ENOMEM;
}

void table_deinit(struct table *table)
{
    free(table->buckets);
    table->buckets = NULL;
}

// Multiplies to 128 bits and folds: every bit of either factor reaches the middle of the result.
static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t table_hash(const void *key, size_t bytes)
{
    const unsigned char *at = key;
    uint64_t hash = hash_keys[0] ^ bytes;

    while (bytes > 0) {
        uint64_t word = 0;
        size_t step = bytes < sizeof(word) ? bytes : sizeof(word);
        memcpy(&word, at, step);
        hash = fold(hash ^ word, hash_keys[1]) + hash_keys[0];
        at += step;
        bytes -= step;
    }
    return fold(hash, hash_keys[0] ^ hash_keys[1] ^ 1);
}

static struct table_node **bucket_of(const struct table *table, uint64_t hash)
{
    return &table->buckets[hash & (table->size - 1)];
}

static void push(struct table *table, struct table_node *node)
{
    struct table_node **bucket = bucket_of(table, node->hash);

    node->next = *bucket;
    *bucket = node;
}

static void grow(struct table *table)
{
    struct table larger = {.size = table->size * 2, .count = table->count};

    larger.buckets = calloc(larger.size, sizeof(*larger.buckets));
    if (!larger.buckets)
        return;
    for (size_t i = 0; i < table->size; i++) {
        for (struct table_node *node = table->buckets[i], *next; node; node = next) {
            next = node->next;
            push(&larger, node);
        }
    }
    free(table->buckets);
    *table = larger;
}

void table_add(struct table *table, struct table_node *node, uint64_t hash)
{
    if (table->count >= table->size)
        grow(table);
    node->hash = hash;
    push(table, node);
    table->count++;
}

void table_remove(struct table *table, struct table_node *node)
{
    struct table_node **link = bucket_of(table, node->hash);

    while (*link != node)
        link = &(*link)->next;
    *link = node->next;
    table->count--;
}

static struct table_node *with_hash(struct table_node *node, uint64_t hash)
{
    while (node && node->hash != hash)
        node = node->next;
    return node;
}

struct table_node *table_first(const struct table *table, uint64_t hash)
{
    return with_hash(*bucket_of(table, hash), hash);
}

struct table_node *table_next(const struct table_node *node)
{
    return with_hash(node->next, node->hash);
}
