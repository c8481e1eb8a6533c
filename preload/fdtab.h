// What this process's descriptors are to us. A table of two levels, read without a lock: a descriptor that is not ours
// to look at costs two loads.
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum fd_kind {
    FD_PLAIN = 0, // nothing of ours: every call passes through
    FD_SOCK = 1,  // a TCP socket: struct sock
    FD_EPOLL = 2, // an epoll instance in which such sockets were registered: struct epset
    FD_OWN = 3,   // the library's own: does not exist, as far as the program is concerned
};

#define FDTAB_KIND  3u
#define FDTAB_CHUNK 1024
#define FDTAB_MAX   (1u << 20)

extern _Atomic(_Atomic uintptr_t *) fdtab_chunks[FDTAB_MAX / FDTAB_CHUNK];

static inline uintptr_t fdtab_get(int fd)
{
    if (__builtin_expect((unsigned)fd >= FDTAB_MAX, 0))
        return 0;
    _Atomic uintptr_t *chunk = atomic_load_explicit(&fdtab_chunks[(unsigned)fd / FDTAB_CHUNK], memory_order_acquire);
    return chunk ? atomic_load_explicit(&chunk[(unsigned)fd % FDTAB_CHUNK], memory_order_acquire) : 0;
}

static inline enum fd_kind fdtab_kind(uintptr_t entry)
{
    return (enum fd_kind)(entry & FDTAB_KIND);
}

static inline void *fdtab_object(uintptr_t entry)
{
    return (void *)(entry & ~(uintptr_t)FDTAB_KIND);
}

// Sets the entry, whatever it was, and returns what it was (references that the table held are now the caller's).
// Objects are aligned to 8. Returns -1 cast to uintptr_t if the table cannot hold `fd` (too high, or no memory).
uintptr_t fdtab_set(int fd, enum fd_kind kind, void *object);
#define FDTAB_FAILED UINTPTR_MAX

// Sets the entry only if there is none. Returns 1 if it did.
int fdtab_put(int fd, enum fd_kind kind, void *object);

// Takes the entry out only if it is still `expected`. Returns 1 if it did.
int fdtab_clear(int fd, uintptr_t expected);

// The lowest descriptor >= fd with an entry, or -1.
int fdtab_next(int fd);
