#include "preload/share.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/lock.h"

#define PAGE   4096u
#define PLACES (PAGE / sizeof(struct share) - 1)

static_assert(sizeof(struct share) == 64, "a place is one cache line");

// The first place of a page is its head. `forked` is shared; the rest is each process's own business and lies in
// `struct page`, outside, because a child's closing of sockets is not its parent's.
struct page_head {
    _Atomic uint32_t forked;
};

struct page {
    struct page *next;
    unsigned char *memory;
    uint64_t used; // a bit for each place
};
static_assert(PLACES <= 64, "a bit for each place");

static struct {
    struct lock lock;   // held with signals held back, since a handler may close, too
    struct page *pages; // those mapped
    struct page *spare; // descriptions to be used again
} all;

static struct page_head *head_of(const void *place)
{
    return (struct page_head *)((uintptr_t)place & ~(uintptr_t)(PAGE - 1));
}

bool share_forked(const struct share *share)
{
    return atomic_load_explicit(&head_of(share)->forked, memory_order_relaxed);
}

static struct page *describe(void)
{
    if (!all.spare) {
        struct page *more = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (more == MAP_FAILED)
            return NULL;
        for (size_t i = 0; i < PAGE / sizeof *more; i++) {
            more[i].next = all.spare;
            all.spare = &more[i];
        }
    }
    struct page *page = all.spare;
    all.spare = page->next;
    return page;
}

static struct page *map_page(void)
{
    struct page *page = describe();
    if (!page)
        return NULL;
    void *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        page->next = all.spare;
        all.spare = page;
        return NULL;
    }
    *page = (struct page){.next = all.pages, .memory = (unsigned char *)memory};
    all.pages = page;
    return page;
}

static struct page *page_with_room(void)
{
    for (struct page *page = all.pages; page; page = page->next) {
        if (!head_of(page->memory)->forked && page->used != (1ull << PLACES) - 1)
            return page;
    }
    return map_page();
}

struct share *share_new(void)
{
    struct share *share = NULL;
    struct lock_guarded guarded = lock_guard(&all.lock);
    struct page *page = page_with_room();
    if (page) {
        int place = __builtin_ctzll(~page->used);
        page->used |= 1ull << place;
        share = (struct share *)(page->memory + ((size_t)place + 1) * sizeof *share);
        memset(share, 0, sizeof *share);
    }
    lock_unguard(&all.lock, &guarded);
    return share;
}

static void unmap_page(struct page **link)
{
    struct page *page = *link;
    *link = page->next;
    munmap(page->memory, PAGE);
    page->next = all.spare;
    all.spare = page;
}

void share_free(struct share *share)
{
    struct lock_guarded guarded = lock_guard(&all.lock);
    unsigned char *memory = (unsigned char *)head_of(share);
    struct page **link = &all.pages;
    while (*link && (*link)->memory != memory)
        link = &(*link)->next;
    if (*link) {
        (*link)->used &= ~(1ull << ((size_t)((unsigned char *)share - memory) / sizeof *share - 1));
        // One empty page that no child has seen is kept for the next socket.
        if (!(*link)->used && (head_of(memory)->forked || (*link)->next || all.pages != *link))
            unmap_page(link);
    }
    lock_unguard(&all.lock, &guarded);
}

void share_before_fork(void)
{
    struct lock_guarded guarded = lock_guard(&all.lock);
    for (struct page *page = all.pages; page; page = page->next) {
        if (page->used)
            atomic_store(&head_of(page->memory)->forked, 1);
    }
    lock_unguard(&all.lock, &guarded);
}

void share_after_fork(void)
{
    all.lock = (struct lock){0};
    // A page that was empty at the fork is shared with the parent all the same.
    for (struct page **link = &all.pages; *link;) {
        if (!(*link)->used)
            unmap_page(link);
        else
            link = &(*link)->next;
    }
}
