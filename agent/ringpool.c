// Rings that are ready, by owner, and the unready that become so in idle time.

#include "agent/ringpool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/descriptors.h"
#include "agent/fd.h"
#include "core/layout.h"
#include "core/memfd.h"

// Written at once, and in one step of work: about 100 us where the pages are new.
#define SCRUB_BYTES (128u << 10)

#define ROOT 0 // the user id

struct owner {
    struct table_node node;
    struct list link;
    uint64_t id;
    unsigned want; // rings to keep
    unsigned have; // rings in both lists
    struct list ready;
    struct list unready;
};

static char zeros[SCRUB_BYTES];

static uint64_t ring_size(const struct ring *ring)
{
    return session_bytes(ring->ring_bytes);
}

void ring_free(struct ring *ring)
{
    memfd_unmap(ring->header, LAYOUT_PAGE);
    fd_close(&ring->fd);
    free(ring);
}

static int ring_open(struct ring *ring)
{
    void *header;
    int result;

    ring->fd = memfd_make("rdma-session", ring_size(ring));
    if (ring->fd < 0)
        return ring->fd;
    // Nor may a client add seals of its own, which would keep others from mapping it.
    result = fcntl(ring->fd, F_ADD_SEALS, F_SEAL_SEAL) < 0 ? -errno : 0;
    if (result == 0)
        result = memfd_map(ring->fd, LAYOUT_PAGE, 1, &header);
    if (result < 0)
        fd_close(&ring->fd);
    else
        ring->header = header;
    return result;
}

static int ring_make(struct ring **result_ring, uint64_t owner, uint64_t ring_bytes)
{
    struct ring *ring = calloc(1, sizeof(*ring));
    int result;

    if (!ring)
        return -ENOMEM;
    ring->owner = owner;
    ring->ring_bytes = ring_bytes;
    ring->fresh = true;
    list_init(&ring->link);
    list_init(&ring->age);
    result = ring_open(ring);
    if (result < 0)
        free(ring);
    else
        *result_ring = ring;
    return result;
}

// Zeroes the next `most` bytes, and so gives them pages if they have none yet.
static int ring_fill(struct ring *ring, uint64_t most)
{
    uint64_t end = ring_size(ring);

    if (most < end - ring->filled)
        end = ring->filled + most;
    while (ring->filled < end) {
        uint64_t left = end - ring->filled;
        ssize_t wrote = pwrite(ring->fd, zeros, left < SCRUB_BYTES ? left : SCRUB_BYTES, (off_t)ring->filled);
        if (wrote <= 0)
            return wrote < 0 ? -errno : -EIO;
        ring->filled += (uint64_t)wrote;
    }
    return 0;
}

static bool ring_is_ready(const struct ring *ring)
{
    return ring->filled == ring_size(ring);
}

static struct owner *owner_find(const struct ringpool *pool, uint64_t id)
{
    for (struct table_node *node = table_first(&pool->owners, table_hash(&id, sizeof(id))); node;
         node = table_next(node)) {
        struct owner *owner = container_of(node, struct owner, node);
        if (owner->id == id)
            return owner;
    }
    return NULL;
}

static struct owner *owner_make(struct ringpool *pool, uint64_t id)
{
    struct owner *owner = calloc(1, sizeof(*owner));

    if (!owner)
        return NULL;
    owner->id = id;
    list_init(&owner->ready);
    list_init(&owner->unready);
    table_add(&pool->owners, &owner->node, table_hash(&id, sizeof(id)));
    list_append(&pool->owner_list, &owner->link);
    return owner;
}

static void pool_add(struct ringpool *pool, struct owner *owner, struct ring *ring)
{
    list_append(ring_is_ready(ring) ? &owner->ready : &owner->unready, &ring->link);
    list_append(&pool->aging, &ring->age);
    owner->have++;
    pool->bytes += ring_size(ring);
}

static void pool_remove(struct ringpool *pool, struct owner *owner, struct ring *ring)
{
    list_remove(&ring->link);
    list_remove(&ring->age);
    owner->have--;
    pool->bytes -= ring_size(ring);
}

static void pool_drop(struct ringpool *pool, struct ring *ring)
{
    pool_remove(pool, owner_find(pool, ring->owner), ring);
    ring_free(ring);
}

int ringpool_init(struct ringpool *pool)
{
    list_init(&pool->owner_list);
    list_init(&pool->aging);
    pool->ring_bytes = RING_BYTES_MIN;
    pool->bytes = pool->bytes_most = 0;
    return table_init(&pool->owners);
}

void ringpool_deinit(struct ringpool *pool)
{
    list_for_each (link, &pool->owner_list)
        ringpool_forget(pool, container_of(link, struct owner, link)->id);
    table_deinit(&pool->owners);
}

void ringpool_configure(struct ringpool *pool, uint64_t ring_bytes, uint64_t bytes_most)
{
    if (ring_bytes != pool->ring_bytes)
        ringpool_shrink(pool, 0);
    pool->ring_bytes = ring_bytes;
    pool->bytes_most = bytes_most;
    ringpool_shrink(pool, bytes_most);
}

int ringpool_want(struct ringpool *pool, uint64_t id, unsigned count)
{
    struct owner *owner = owner_find(pool, id);

    if (!owner)
        owner = owner_make(pool, id);
    if (!owner)
        return -ENOMEM;
    owner->want = count;
    return 0;
}

void ringpool_forget(struct ringpool *pool, uint64_t id)
{
    struct owner *owner = owner_find(pool, id);

    if (!owner)
        return;
    list_for_each (link, &owner->ready)
        pool_drop(pool, container_of(link, struct ring, link));
    list_for_each (link, &owner->unready)
        pool_drop(pool, container_of(link, struct ring, link));
    table_remove(&pool->owners, &owner->node);
    list_remove(&owner->link);
    free(owner);
}

void ringpool_shrink(struct ringpool *pool, uint64_t bytes)
{
    while (pool->bytes > bytes)
        pool_drop(pool, container_of(pool->aging.next, struct ring, age));
}

static struct ring *take_pooled(struct ringpool *pool, uint64_t id)
{
    struct owner *owner = owner_find(pool, id);
    struct ring *ring;

    if (!owner || owner->have == 0)
        return NULL;
    ring = container_of(list_empty(&owner->ready) ? owner->unready.next : owner->ready.next, struct ring, link);
    pool_remove(pool, owner, ring);
    // What was never used is zero without our doing.
    if (!ring->fresh && ring_fill(ring, UINT64_MAX) < 0) {
        ring_free(ring);
        return NULL;
    }
    return ring;
}

int ringpool_take(struct ringpool *pool, uint64_t owner, struct ring **ring)
{
    *ring = owner == RINGPOOL_SHARED ? NULL : take_pooled(pool, owner);
    return *ring ? 0 : ring_make(ring, owner, pool->ring_bytes);
}

int ringpool_take_of(struct ringpool *pool, uint64_t owner, uint64_t ring_bytes, struct ring **ring)
{
    return ring_bytes == pool->ring_bytes ? ringpool_take(pool, owner, ring) : ring_make(ring, owner, ring_bytes);
}

// Makes room in the pool for one more ring of the present size. Returns whether there is.
static bool make_room(struct ringpool *pool, uint64_t bytes)
{
    if (bytes > pool->bytes_most)
        return false;
    ringpool_shrink(pool, pool->bytes_most - bytes);
    return true;
}

// Whoever has had it mapped may still have.
static bool may_be_used_again(const struct ring *ring)
{
    return ring->owner != ROOT && ring->owner != RINGPOOL_SHARED;
}

void ringpool_give(struct ringpool *pool, struct ring *ring)
{
    struct owner *owner = may_be_used_again(ring) ? owner_find(pool, ring->owner) : NULL;

    if (!owner || ring->ring_bytes != pool->ring_bytes || !make_room(pool, ring_size(ring))) {
        ring_free(ring);
        return;
    }
    ring->fresh = false;
    ring->filled = 0;
    pool_add(pool, owner, ring);
}

static void fill_one(struct ringpool *pool, struct owner *owner)
{
    struct ring *ring = container_of(owner->unready.next, struct ring, link);

    if (ring_fill(ring, SCRUB_BYTES) < 0) {
        // No memory now: do not try again and again.
        pool_drop(pool, ring);
        owner->want = 0;
    } else if (ring_is_ready(ring)) {
        list_remove(&ring->link);
        list_append(&owner->ready, &ring->link);
    }
}

static bool lacks_rings(const struct ringpool *pool, const struct owner *owner)
{
    return owner->have < owner->want && pool->bytes + session_bytes(pool->ring_bytes) <= pool->bytes_most;
}

static void add_one(struct ringpool *pool, struct owner *owner)
{
    struct ring *ring;

    if (ring_make(&ring, owner->id, pool->ring_bytes) < 0) {
        owner->want = 0;
    } else if (descriptors_scarce(ring->fd, RESERVE_FOR_SESSIONS)) {
        owner->want = 0;
        ring_free(ring);
    } else {
        pool_add(pool, owner, ring);
    }
}

bool ringpool_work(struct ringpool *pool)
{
    list_for_each (link, &pool->owner_list) {
        struct owner *owner = container_of(link, struct owner, link);
        if (!list_empty(&owner->unready))
            fill_one(pool, owner);
        else if (lacks_rings(pool, owner))
            add_one(pool, owner);
        else
            continue;
        // Everybody's turn comes.
        list_remove(&owner->link);
        list_append(&pool->owner_list, &owner->link);
        return true;
    }
    return false;
}
