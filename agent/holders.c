// A walk through /proc.

#include "agent/holders.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/fd.h"

#define NAME_BYTES 64

static void close_dir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

#define _cleanup_dir_ __attribute__((cleanup(close_dir)))

// The directory of this name below that one; null if there is none, or it is not ours to see.
static DIR *open_below(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *opened = fd < 0 ? NULL : fdopendir(fd);

    if (fd >= 0 && !opened)
        close(fd);
    return opened;
}

static bool is_number(const char *name)
{
    return isdigit((unsigned char)name[0]);
}

// The inode that a link of /proc/PID/fd names, 0 if it is not a socket's.
static uint64_t socket_inode(int dir, const char *name)
{
    char target[NAME_BYTES];
    ssize_t size = readlinkat(dir, name, target, sizeof(target) - 1);
    uint64_t inode = 0;

    target[size < 0 ? 0 : size] = '\0';
    return sscanf(target, "socket:[%" SCNu64 "]", &inode) == 1 ? inode : 0;
}

static int compare(const void *a, const void *b)
{
    const struct holders_question *one = a, *other = b;

    return (one->inode > other->inode) - (one->inode < other->inode);
}

static void note_holder(struct holders_question *questions, size_t count, uint64_t inode, pid_t pid)
{
    const struct holders_question key = {.inode = inode};
    struct holders_question *question = bsearch(&key, questions, count, sizeof(key), compare);

    if (!question)
        return;
    question->held |= question->pid == pid;
    question->shared |= question->pid != pid;
}

static void look_at_process(int proc, pid_t pid, struct holders_question *questions, size_t count)
{
    char path[NAME_BYTES];
    struct dirent *entry;

    snprintf(path, sizeof(path), "%d/fd", pid);
    _cleanup_dir_ DIR *dir = open_below(proc, path);
    while (dir && (entry = readdir(dir))) {
        uint64_t inode = is_number(entry->d_name) ? socket_inode(dirfd(dir), entry->d_name) : 0;
        if (inode)
            note_holder(questions, count, inode, pid);
    }
}

void holders_ask(struct holders_question *questions, size_t count)
{
    _cleanup_dir_ DIR *proc = open_below(AT_FDCWD, "/proc");
    struct dirent *entry;

    qsort(questions, count, sizeof(*questions), compare);
    while (proc && (entry = readdir(proc))) {
        pid_t pid = is_number(entry->d_name) ? (pid_t)atoi(entry->d_name) : getpid();
        if (pid != getpid())
            look_at_process(dirfd(proc), pid, questions, count);
    }
}
