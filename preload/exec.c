// Executing programs: what they inherit is handed over, if they will not load this library.
//
// These run in children of vfork and of processes with threads, too: nothing here allocates memory, or takes a lock that
// others hold for long.
#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "preload/export.h"
#include "preload/handover.h"
#include "preload/program.h"
#include "preload/real.h"

static void before_path(const char *path, char *const environment[])
{
    proc_enter();
    handover_before_program(!path || program_loads_library(path, environment), HANDOVER_TO_SELF);
}

static void before_file(const char *file, char *const environment[])
{
    proc_enter();
    handover_before_program(!file || program_found_loads_library(file, environment), HANDOVER_TO_SELF);
}

EXPORT int execve(const char *path, char *const arguments[], char *const environment[])
{
    before_path(path, environment);
    return real.execve(path, arguments, environment);
}

EXPORT int execv(const char *path, char *const arguments[])
{
    before_path(path, environ);
    return real.execv(path, arguments);
}

EXPORT int execvp(const char *file, char *const arguments[])
{
    before_file(file, environ);
    return real.execvp(file, arguments);
}

EXPORT int execvpe(const char *file, char *const arguments[], char *const environment[])
{
    before_file(file, environment);
    return real.execvpe(file, arguments, environment);
}

EXPORT int execveat(int dir, const char *path, char *const arguments[], char *const environment[], int flags)
{
    char name[PATH_MAX];
    bool own_name = *path == '/' || (dir == AT_FDCWD && *path);
    snprintf(name, sizeof name, *path ? "/proc/self/fd/%d/%s" : "/proc/self/fd/%d", dir, path);
    before_path(own_name ? path : name, environment);
    return real.execveat(dir, path, arguments, environment, flags);
}

EXPORT int fexecve(int fd, char *const arguments[], char *const environment[])
{
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    before_path(name, environment);
    return real.fexecve(fd, arguments, environment);
}

// --- with the arguments one by one ---

// Of `first` and what follows it up to the null pointer, which is counted, too.
static size_t count_arguments(const char *first, va_list list)
{
    size_t count = 1;
    while (first) {
        first = va_arg(list, const char *);
        count++;
    }
    return count;
}

static void gather(char **arguments, const char *first, va_list *list)
{
    *arguments = (char *)first;
    while (*arguments)
        *++arguments = va_arg(*list, char *);
}

// The kernel does not take more.
static bool too_many(size_t count)
{
    if (count <= (size_t)INT_MAX / sizeof(char *))
        return false;
    errno = E2BIG;
    return true;
}

// The array lies on the stack of the caller, who may be a vfork child.
#define GATHER(first) \
    va_list list; \
    va_start(list, first); \
    size_t count = count_arguments(first, list); \
    va_end(list); \
    if (too_many(count)) \
        return -1; \
    char **arguments = alloca(count * sizeof *arguments); \
    va_start(list, first); \
    gather(arguments, first, &list)

EXPORT int execl(const char *path, const char *first, ...)
{
    GATHER(first);
    va_end(list);
    return execv(path, arguments);
}

EXPORT int execlp(const char *file, const char *first, ...)
{
    GATHER(first);
    va_end(list);
    return execvp(file, arguments);
}

EXPORT int execle(const char *path, const char *first, ...)
{
    GATHER(first);
    char **environment = va_arg(list, char **);
    va_end(list);
    return execve(path, arguments, environment);
}
