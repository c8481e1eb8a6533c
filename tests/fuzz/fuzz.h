// What the fuzzers share.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// Called by libFuzzer with one input after the other. Returns 0.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A property that must hold for every input; unlike assert it is never compiled away.
#define MUST(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)
