#include "preload/fdtab.h"

#include <sys/mman.h>

_Atomic(_Atomic uintptr_t *) fdtab_chunks[FDTAB_MAX / FDTAB_CHUNK];

static _Atomic uintptr_t *make_chunk(unsigned index)
{
    void *memory =
        mmap(NULL, FDTAB_CHUNK * sizeof(uintptr_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    _Atomic uintptr_t *mine = (_Atomic uintptr_t *)memory;
    _Atomic uintptr_t *first = NULL;
    if (atomic_compare_exchange_strong(&fdtab_chunks[index], &first, mine))
        return mine;
    munmap(memory, FDTAB_CHUNK * sizeof(uintptr_t));
    return first;
}

int fdtab_put(int fd, enum fd_kind kind, void *object)
{
    unsigned index = (unsigned)fd / FDTAB_CHUNK;
    _Atomic uintptr_t *chunk = (unsigned)fd < FDTAB_MAX ? atomic_load(&fdtab_chunks[index]) : NULL;
    if ((unsigned)fd >= FDTAB_MAX || (!chunk && !(chunk = make_chunk(index))))
        return 0;
    uintptr_t none = 0;
    return atomic_compare_exchange_strong(&chunk[(unsigned)fd % FDTAB_CHUNK], &none,
                                          (uintptr_t)object | (uintptr_t)kind);
}

uintptr_t fdtab_set(int fd, enum fd_kind kind, void *object)
{
    if ((unsigned)fd >= FDTAB_MAX)
        return kind == FD_PLAIN ? 0 : FDTAB_FAILED;
    unsigned index = (unsigned)fd / FDTAB_CHUNK;
    _Atomic uintptr_t *chunk = atomic_load(&fdtab_chunks[index]);
    if (!chunk && kind == FD_PLAIN)
        return 0;
    if (!chunk && !(chunk = make_chunk(index)))
        return FDTAB_FAILED;
    return atomic_exchange(&chunk[(unsigned)fd % FDTAB_CHUNK], (uintptr_t)object | (uintptr_t)kind);
}

int fdtab_clear(int fd, uintptr_t expected)
{
    if ((unsigned)fd >= FDTAB_MAX)
        return 0;
    _Atomic uintptr_t *chunk = atomic_load(&fdtab_chunks[(unsigned)fd / FDTAB_CHUNK]);
    return chunk && atomic_compare_exchange_strong(&chunk[(unsigned)fd % FDTAB_CHUNK], &expected, 0);
}

int fdtab_next(int fd)
{
    for (unsigned at = (unsigned)fd; at < FDTAB_MAX; at++) {
        _Atomic uintptr_t *chunk = atomic_load(&fdtab_chunks[at / FDTAB_CHUNK]);
        if (!chunk)
            at |= FDTAB_CHUNK - 1;
        else if (atomic_load(&chunk[at % FDTAB_CHUNK]))
            return (int)at;
    }
    return -1;
}
