// Random numbers that a seed repeats.
#pragma once

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t mix(uint64_t word)
{
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ULL;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebULL;
    return word ^ (word >> 31);
}

struct chance {
    uint64_t state;
};

static inline uint64_t chance_next(struct chance *chance)
{
    return mix(chance->state += 0x9e3779b97f4a7c15ULL);
}

// A number from 0 to limit - 1.
static inline uint64_t chance_below(struct chance *chance, uint64_t limit)
{
    return chance_next(chance) % limit;
}

// True once in `times`.
static inline bool chance_once_in(struct chance *chance, unsigned times)
{
    return chance_below(chance, times) == 0;
}

// A number from 1 to limit, each order of magnitude as probable as the next.
static inline uint64_t chance_size(struct chance *chance, uint64_t limit)
{
    unsigned bits = 0;
    while (bits < 63 && (limit >> bits) > 1)
        bits++;
    uint64_t size = 1 + chance_below(chance, 2ULL << chance_below(chance, bits + 1));
    return size < limit ? size : limit;
}
