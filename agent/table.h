// An intrusive hash table. Elements embed a node; whoever looks something up compares the candidates himself.
//
// What is hashed can be chosen by clients, so the hash is keyed with random numbers of the process.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct table_node {
    struct table_node *next;
    uint64_t hash;
};

struct table {
    struct table_node **buckets;
    size_t size; // a power of two
    size_t count;
};

// Returns 0 or -ENOMEM.
int table_init(struct table *table);

// The elements are the caller's, and may be left in.
void table_deinit(struct table *table);

// Hashes the bytes of a key that has no padding.
uint64_t table_hash(const void *key, size_t bytes);

// Never fails: without memory to grow, the table only becomes slower.
void table_add(struct table *table, struct table_node *node, uint64_t hash);

// The node must be in the table.
void table_remove(struct table *table, struct table_node *node);

// The elements with this hash, one after the other; null at the end. They include those of other keys that happen to
// have the same hash.
struct table_node *table_first(const struct table *table, uint64_t hash);
struct table_node *table_next(const struct table_node *node);
