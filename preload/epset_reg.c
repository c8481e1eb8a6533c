#include "preload/epset_reg.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#define SLAB_CHUNK 256u
#define SLAB_MOST  4096u

// The store of registrations and sets, and what links registrations to sockets.
static struct {
    struct lock lock;
    _Atomic(struct reg *) slab[SLAB_MOST];
    uint32_t chunks;
    struct reg *free_regs;
    struct epset *free_sets;
} registry;

// --- memory ---

static void *map_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static bool grow_slab(void)
{
    struct reg *chunk = registry.chunks < SLAB_MOST ? map_memory(SLAB_CHUNK * sizeof *chunk) : NULL;
    if (!chunk)
        return false;
    for (uint32_t i = 0; i < SLAB_CHUNK; i++) {
        chunk[i].index = registry.chunks * SLAB_CHUNK + i;
        chunk[i].of_sock = registry.free_regs;
        registry.free_regs = &chunk[i];
    }
    atomic_store_explicit(&registry.slab[registry.chunks++], chunk, memory_order_release);
    return true;
}

struct epset *reg_new_set(int fd)
{
    struct lock_guarded guarded = lock_guard(&registry.lock);
    if (guarded.taken && !registry.free_sets) {
        struct epset *more = map_memory(4096);
        for (size_t i = 0; more && i < 4096 / sizeof *more; i++) {
            more[i].next_free = registry.free_sets;
            registry.free_sets = &more[i];
        }
    }
    struct epset *set = guarded.taken ? registry.free_sets : NULL;
    if (set)
        registry.free_sets = set->next_free;
    lock_unguard(&registry.lock, &guarded);
    if (!set)
        return NULL;
    // Its lock and its list of work are always in use: somebody may hold a stale pointer.
    set->fd = fd;
    set->converted = set->nested = set->sleepers = 0;
    set->served = set->turn = 0;
    set->full = false;
    if (!set->buckets) {
        set->buckets = set->few;
        set->bucket_count = EPSET_FEW;
    }
    set->patience.budget_ns = 20000;
    set->patience.misses = 0;
    set->patience.far_ns = 0;
    atomic_store_explicit(&set->refs, 1, memory_order_release);
    return set;
}

void reg_free_set(struct epset *set)
{
    struct lock_guarded guarded = lock_guard(&registry.lock);
    if (guarded.taken) {
        set->next_free = registry.free_sets;
        registry.free_sets = set;
    }
    lock_unguard(&registry.lock, &guarded);
}

// --- the set's table ---

static struct reg **bucket_of(const struct epset *set, const struct sock *sock)
{
    return &set->buckets[sock->index & (set->bucket_count - 1)];
}

static void put_in_table(struct reg *reg)
{
    struct reg **bucket = bucket_of(reg->set, reg->sock);
    reg->of_bucket = *bucket;
    *bucket = reg;
}

// Without memory the chains grow longer.
static void grow_table(struct epset *set)
{
    uint32_t count = set->bucket_count * 8, old_count = set->bucket_count;
    struct reg **buckets = map_memory(count * sizeof *buckets), **old = set->buckets;
    if (!buckets)
        return;
    set->buckets = buckets;
    set->bucket_count = count;
    for (uint32_t i = 0; i < old_count; i++) {
        for (struct reg *reg = old[i], *next; reg; reg = next) {
            next = reg->of_bucket;
            put_in_table(reg);
        }
    }
    if (old == set->few)
        memset(set->few, 0, sizeof set->few);
    else
        munmap(old, old_count * sizeof *old);
}

static void take_out_of_table(struct reg *reg)
{
    struct reg **at = bucket_of(reg->set, reg->sock);
    while (*at != reg)
        at = &(*at)->of_bucket;
    *at = reg->of_bucket;
}

struct reg *reg_first(const struct epset *set, const struct sock *sock)
{
    struct reg *reg = *bucket_of(set, sock);
    while (reg && reg->sock != sock)
        reg = reg->of_bucket;
    return reg;
}

struct reg *reg_next(const struct reg *reg)
{
    struct reg *next = reg->of_bucket;
    while (next && next->sock != reg->sock)
        next = next->of_bucket;
    return next;
}

struct reg *reg_find(const struct epset *set, const struct sock *sock, int fd)
{
    for (struct reg *reg = reg_first(set, sock); reg; reg = reg_next(reg)) {
        if (reg->fd == fd)
            return reg;
    }
    return NULL;
}

// --- names ---

#define TAG_MARK 0x9e1du

// Of the 27 bits that tell one registration at a place from another, the upper ones are this process's: relatives who
// share a set by fork give different names.
#define COUNT_BITS  14u
#define FAMILY_BITS 13u
#define INDEX_BITS  20u
static_assert(SLAB_CHUNK * SLAB_MOST == 1u << INDEX_BITS, "an index fits into a tag");

// In memory that is shared with forked children; null until there is something to name.
static _Atomic uint32_t *family;
static uint32_t family_number;

static void found_family(void)
{
    void *memory = mmap(NULL, sizeof *family, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED)
        family = (_Atomic uint32_t *)memory;
}

static uint32_t new_name(const struct reg *reg)
{
    if (!family)
        found_family();
    return family_number << COUNT_BITS | (reg->generation & ((1u << COUNT_BITS) - 1));
}

uint64_t reg_tag(const struct reg *reg, uint32_t kind)
{
    uint64_t name = reg->name;
    return (uint64_t)TAG_MARK << 48 | (name >> 11) << 32 | kind | (name & 0x7ff) << INDEX_BITS | reg->index;
}

bool reg_tagged(uint64_t data)
{
    return data >> 48 == TAG_MARK;
}

struct reg *reg_of_tag(const struct epset *set, uint64_t data)
{
    uint32_t index = (uint32_t)data & ((1u << INDEX_BITS) - 1);
    uint32_t name = (uint32_t)(data >> 32 & 0xffff) << 11 | ((uint32_t)data >> INDEX_BITS & 0x7ff);
    struct reg *chunk = atomic_load_explicit(&registry.slab[index / SLAB_CHUNK], memory_order_acquire);
    struct reg *reg = chunk ? &chunk[index % SLAB_CHUNK] : NULL;
    return reg && reg->set == set && !reg->removed && reg->name == name ? reg : NULL;
}

void reg_forked(void)
{
    registry.lock = (struct lock){0};
    if (family)
        family_number = (atomic_fetch_add(family, 1) + 1) & ((1u << FAMILY_BITS) - 1);
}

// --- registrations ---

static struct reg *take_free_reg(struct epset *set, struct sock *sock, int fd)
{
    if (!registry.free_regs && !grow_slab())
        return NULL;
    struct reg *reg = registry.free_regs;
    registry.free_regs = reg->of_sock;
    uint32_t index = reg->index, generation = reg->generation;
    *reg = (struct reg){.index = index,
                        .generation = generation,
                        .set = set,
                        .sock = sock,
                        .fd = fd,
                        .entry = fd,
                        .via = fd,
                        .of_sock = sock->regs};
    reg->name = new_name(reg);
    atomic_store_explicit(&sock->regs, reg, memory_order_release);
    return reg;
}

// Called by epoll_ctl, of which some programs make very many: signals are not held back.
struct reg *reg_add(struct epset *set, struct sock *sock, int fd)
{
    if (!lock_enter(&registry.lock))
        return NULL;
    struct reg *reg = take_free_reg(set, sock, fd);
    lock_leave(&registry.lock);
    if (!reg)
        return NULL;
    if (++set->reg_count > set->bucket_count * 2)
        grow_table(set);
    put_in_table(reg);
    return reg;
}

static void give_back(struct reg *reg)
{
    uint32_t index = reg->index, generation = reg->generation + 1;
    *reg = (struct reg){.index = index, .generation = generation, .of_sock = registry.free_regs};
    registry.free_regs = reg;
}

static void unlink_from_sock(struct reg *reg)
{
    struct reg *first = reg->sock->regs;
    if (first == reg) {
        atomic_store_explicit(&reg->sock->regs, reg->of_sock, memory_order_release);
        return;
    }
    while (first->of_sock != reg)
        first = first->of_sock;
    first->of_sock = reg->of_sock;
}

void reg_free(struct reg *reg)
{
    if (reg->hot)
        reg_leave_hot(reg);
    take_out_of_table(reg);
    reg->set->reg_count--;
    if (reg->entry != reg->fd)
        proc_close_own_fd(reg->entry);
    bool entered = lock_enter(&registry.lock);
    unlink_from_sock(reg);
    // One that stands in the list of work cannot be used for anything else yet.
    if (atomic_load(&reg->todo))
        atomic_store(&reg->removed, 1);
    else
        give_back(reg);
    if (entered)
        lock_leave(&registry.lock);
}

void reg_remove_all(struct epset *set)
{
    for (uint32_t i = 0; i < set->bucket_count; i++) {
        while (set->buckets[i])
            reg_free(set->buckets[i]);
    }
    if (set->buckets != set->few)
        munmap(set->buckets, set->bucket_count * sizeof *set->buckets);
    set->buckets = set->few;
    set->bucket_count = EPSET_FEW;
}

void reg_make_hot(struct reg *reg)
{
    reg->idle = 0;
    if (reg->hot)
        return;
    reg->hot = 1;
    reg->hot_next = reg->set->hot;
    reg->set->hot = reg;
    reg->set->hot_count++;
}

void reg_leave_hot(struct reg *reg)
{
    struct reg **at = &reg->set->hot;
    while (*at && *at != reg)
        at = &(*at)->hot_next;
    if (!*at)
        return;
    *at = reg->hot_next;
    reg->set->hot_count--;
    reg->hot = 0;
}

// --- across sets ---

bool reg_busy_below(void)
{
    return (atomic_load_explicit(&registry.lock.word, memory_order_relaxed) & ~LOCK_WAITED) == lock_self();
}

bool reg_each_of_sock(struct sock *sock, void (*each)(struct reg *reg, void *context), void *context)
{
    struct lock_guarded guarded = lock_guard(&registry.lock);
    for (struct reg *reg = guarded.taken ? sock->regs : NULL; reg; reg = reg->of_sock)
        each(reg, context);
    lock_unguard(&registry.lock, &guarded);
    return guarded.taken;
}

void reg_leave_todo(struct reg *reg)
{
    if (atomic_exchange(&reg->todo, 1))
        return;
    struct reg *first = atomic_load(&reg->set->todo);
    do {
        reg->todo_next = first;
    } while (!atomic_compare_exchange_weak(&reg->set->todo, &first, reg));
}

// Only the holder of the set's lock takes out, so none can have come back in between.
static struct reg *pop_todo(struct epset *set)
{
    struct reg *first = atomic_load(&set->todo);
    while (first && !atomic_compare_exchange_weak(&set->todo, &first, first->todo_next))
        ;
    return first;
}

struct reg *reg_take_todo(struct epset *set)
{
    for (struct reg *reg; (reg = pop_todo(set));) {
        if (!atomic_load(&reg->removed)) {
            atomic_store(&reg->todo, 0);
            return reg;
        }
        struct lock_guarded guarded = lock_guard(&registry.lock);
        give_back(reg);
        lock_unguard(&registry.lock, &guarded);
    }
    return NULL;
}
