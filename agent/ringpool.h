// Ring memory, kept ready: fresh pages cost microseconds each, so rings are made and scrubbed when there is time.
//
// A ring (the memory of a session: header page and the data of both directions) that has held one user's data is only
// ever given to that user again. Rings of two users are made for the one session and freed at its end.
//
// Owners are numbers (user ids). The pool does not know sessions, limits, or the loop.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/list.h"
#include "agent/table.h"

struct session_shared;

// How many rings are kept ready for a user: a few, and more for one with many sessions.
#define RINGS_KEPT_LEAST 4
#define RINGS_KEPT_MOST  32

#define RINGPOOL_SHARED UINT64_MAX // the owner of a ring of two users

struct ring {
    struct list link; // in its owner's list, or by itself
    struct list age;  // in ringpool.aging, oldest first, or by itself
    uint64_t owner;
    uint64_t ring_bytes;           // of each direction
    int fd;                        // the memfd
    struct session_shared *header; // its first page
    uint64_t filled;               // bytes from the beginning that have been zeroed, and so have their pages
    bool fresh;                    // never used: all zero, though not all of it may have pages yet
};

struct ringpool {
    struct table owners;    // of struct owner
    struct list owner_list; // the same
    struct list aging;      // all rings in the pool
    uint64_t ring_bytes;    // of new rings
    uint64_t bytes;         // of all rings in the pool
    uint64_t bytes_most;
};

// Returns 0 or -ENOMEM.
int ringpool_init(struct ringpool *pool);

// Frees the rings in the pool. Those that are out must have been given back.
void ringpool_deinit(struct ringpool *pool);

// Sets the size of rings and the bound of the pool from now on. What is in it and does not fit goes.
void ringpool_configure(struct ringpool *pool, uint64_t ring_bytes, uint64_t bytes_most);

// Keeps about `count` rings ready for this owner. Returns 0 or -ENOMEM.
int ringpool_want(struct ringpool *pool, uint64_t owner, unsigned count);

// Frees the rings of an owner who will not come back soon, and wants none.
void ringpool_forget(struct ringpool *pool, uint64_t owner);

// Frees pooled rings, the oldest first, until the pool holds at most `bytes`.
void ringpool_shrink(struct ringpool *pool, uint64_t bytes);

// A ring with zeroed header and data, for the owner, from the pool or new. Returns 0 and *ring, or -errno.
int ringpool_take(struct ringpool *pool, uint64_t owner, struct ring **ring);

// The same for a ring of another size than those in the pool may have.
int ringpool_take_of(struct ringpool *pool, uint64_t owner, uint64_t ring_bytes, struct ring **ring);

// Lets go of a ring that others may still use: they keep its memory.
void ring_free(struct ring *ring);

// Gives a ring back that nobody else uses any more.
void ringpool_give(struct ringpool *pool, struct ring *ring);

// Does a little of the work that makes rings ready, at most some 100 us. Returns whether there is more.
bool ringpool_work(struct ringpool *pool);
