// Where the preload library is, and the environment that puts it into a program.
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

struct ctl;

#define LIBRARY_NAME     "librdma-preload.so"
#define LIBRARY_VARIABLE "RDMA_PRELOAD_LIBRARY"

// Finds the library: the file that RDMA_PRELOAD_LIBRARY names, if it is set; otherwise beside this program, in
// ../lib/rdma-agent/ from there, or where it was to be installed.
// Returns 0 and its absolute path; -ENOENT; for a file that is there but cannot be used, another -errno and its path.
int library_find(char path[static PATH_MAX]);

// The places where library_find looks, for complaints: "A, B, C".
void library_places(char *text, size_t size);

// A path with a space or a colon cannot stand in LD_PRELOAD: these separate its entries.
bool library_can_preload(const char *path);

// Sets LD_PRELOAD so that `path` comes first and what was there stays; nothing if it has that entry already, since a
// sanitizer's runtime may have to come before it. Returns 0 or -errno.
int library_set_preload(const char *path);
