// Shared memory that its receiver can rely on: a memfd sealed against resizing, so that no holder can make another
// take SIGBUS by truncating it.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Makes a memfd of `bytes` zero bytes, close-on-exec, that can neither shrink nor grow nor lose its seals.
// Returns a descriptor, the caller's, or -errno.
int memfd_make(const char *name, uint64_t bytes);

// Forbids all future writable mappings and writes; mappings that exist stay writable. Returns 0 or -errno.
int memfd_seal_readers(int fd);

// Maps `bytes` of a memfd that came from elsewhere, shared, after checking that it is sealed against resizing and at
// least that large. `writable` chooses read-write or read-only. Returns 0 and *address, or -errno; -EPROTO for a memfd
// that is not as it should be. Unmap with memfd_unmap.
int memfd_map(int fd, uint64_t bytes, int writable, void **address);

void memfd_unmap(void *address, uint64_t bytes);
