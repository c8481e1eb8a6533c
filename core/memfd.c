// Sealed shared memory.
//
// Descriptors are used by direct calls only, as they were received and will be closed: a thread sanitizer that sees some
// of it through the C library takes the next file of that number for the same one, used by two threads at once.

#include "core/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/sys.h"

// Newer than some C libraries; kernels before 6.3 refuse it. Hosts that forbid executable memfds insist on it.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

// The kernel's results from here up are errors.
#define ERRNO_MOST 4095

#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static int create(const char *name)
{
    long fd = sys_call(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

    if (fd == -EINVAL)
        fd = sys_call(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return (int)fd;
}

int memfd_make(const char *name, uint64_t bytes)
{
    int fd = create(name);
    int result;

    if (fd < 0)
        return fd;
    result = (int)sys_call(SYS_ftruncate, fd, bytes);
    if (result == 0)
        result = sys_fcntl(fd, F_ADD_SEALS, SIZE_SEALS);
    if (result < 0) {
        sys_close(fd);
        return result;
    }
    return fd;
}

int memfd_seal_readers(int fd)
{
    return sys_fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
}

static int check_foreign(int fd, uint64_t bytes)
{
    int seals = sys_fcntl(fd, F_GET_SEALS, 0);
    int64_t size = sys_call(SYS_lseek, fd, 0, SEEK_END);

    // Anything but a memfd has no seals at all, and says so with an error.
    if (seals < 0 || (seals & SIZE_SEALS) != SIZE_SEALS)
        return -EPROTO;
    return size < 0 || (uint64_t)size < bytes ? -EPROTO : 0;
}

int memfd_map(int fd, uint64_t bytes, int writable, void **address)
{
    int result = check_foreign(fd, bytes);
    long mapped;

    if (result < 0)
        return result;
    mapped = sys_call(SYS_mmap, NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (mapped < 0 && mapped >= -ERRNO_MOST)
        return (int)mapped;
    *address = (void *)mapped;
    return 0;
}

void memfd_unmap(void *address, uint64_t bytes)
{
    munmap(address, bytes);
}
