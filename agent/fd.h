// Descriptors that are closed when their variable goes out of scope.
#pragma once

#include <errno.h>
#include <unistd.h>

// Closes a descriptor, if there is one, and forgets it. Leaves errno alone.
static inline void fd_close(int *fd)
{
    int saved = errno;

    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    errno = saved;
}

#define _cleanup_fd_ __attribute__((cleanup(fd_close)))

// Takes the descriptor out of a variable, which will then not close it.
static inline int fd_steal(int *fd)
{
    int stolen = *fd;

    *fd = -1;
    return stolen;
}
