// Numbers as people read and write them. Sizes are in powers of 1024 throughout.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define UNITS_TEXT 32

// "0", "512", "1.5K", "12M": for columns.
void units_short(char out[UNITS_TEXT], int64_t bytes);

// "512 B", "1.5 MiB": for sentences.
void units_long(char out[UNITS_TEXT], int64_t bytes);

// "1GiB", "1536MiB", "1000": nothing rounded, and units_parse reads it back.
void units_exact(char out[UNITS_TEXT], int64_t bytes);

// "5s", "12m05s", "3h07m", "12d03h"
void units_age(char out[UNITS_TEXT], double seconds);

// Whole bytes: "65536", "64KiB", "1 GiB" (KiB, MiB, GiB, TiB). Returns 0, -EINVAL, or -ERANGE beyond INT64_MAX.
int units_parse(const char *text, int64_t *bytes);
