// One agent per directory.

#include "agent/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/fd.h"
#include "core/wire.h"

#define RUNDIR_LOCK "agent.lock"

// Whoever can write to the directory could put sockets of his own in the place of ours.
static int check_directory(const char *path, const struct stat *status, char error[static RUNDIR_ERROR])
{
    bool of_another = status->st_uid != 0 && status->st_uid != geteuid();
    bool open_to_all = (status->st_mode & (S_IWGRP | S_IWOTH)) && !(status->st_mode & S_ISVTX);

    if (!of_another && !open_to_all)
        return 0;
    snprintf(error, RUNDIR_ERROR,
             "%s %s: others could take the agent's place there; "
             "name another directory with --runtime-dir",
             path, of_another ? "belongs to another user" : "can be written by other users");
    return -EPERM;
}

static int make_directory(const char *path, char error[static RUNDIR_ERROR])
{
    struct stat status;

    // The mode is set apart from the umask: every user must be able to reach the sockets.
    if (mkdir(path, 0755) == 0 && chmod(path, 0755) == 0)
        return 0;
    if (errno != EEXIST) {
        int result = -errno;
        snprintf(error, RUNDIR_ERROR, "cannot make the runtime directory %s: %s; name another with --runtime-dir", path,
                 strerror(-result));
        return result;
    }
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode))
        return check_directory(path, &status, error);
    snprintf(error, RUNDIR_ERROR, "%s is not a directory; name another with --runtime-dir", path);
    return -ENOTDIR;
}

static int set_address(struct sockaddr_un *address, const char *path, const char *name, char error[static RUNDIR_ERROR])
{
    int length;

    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    length = snprintf(address->sun_path, sizeof(address->sun_path), "%s/%s", path, name);
    if (length > 0 && (size_t)length < sizeof(address->sun_path))
        return 0;
    snprintf(error, RUNDIR_ERROR,
             "the runtime directory's name is too long: "
             "%s/%s has %d bytes, a socket's name at most %zu",
             path, name, length, sizeof(address->sun_path) - 1);
    return -ENAMETOOLONG;
}

static void read_holder(int lock, char pid[static 32])
{
    ssize_t size = pread(lock, pid, 31, 0);

    pid[size > 0 ? size : 0] = '\0';
    pid[strcspn(pid, "\n")] = '\0';
    if (!*pid)
        strcpy(pid, "unknown");
}

static int take_lock(const char *path, char error[static RUNDIR_ERROR])
{
    char name[sizeof(((struct sockaddr_un *)0)->sun_path) + sizeof(RUNDIR_LOCK)];
    _cleanup_fd_ int lock = -1;
    char pid[32];
    int result;

    snprintf(name, sizeof(name), "%s/" RUNDIR_LOCK, path);
    // Only for its owner: everybody who can open a file can lock it.
    lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0) {
        result = -errno;
        snprintf(error, RUNDIR_ERROR, "cannot open %s: %s; the agent must be able to write to its runtime directory",
                 name, strerror(-result));
        return result;
    }
    if (flock(lock, LOCK_EX | LOCK_NB) < 0) {
        result = -errno;
        read_holder(lock, pid);
        snprintf(error, RUNDIR_ERROR,
                 "another agent, process %s, serves %s already; "
                 "stop it, or name another directory with --runtime-dir",
                 pid, path);
        return result;
    }
    snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(lock, 0) < 0 || pwrite(lock, pid, strlen(pid), 0) < 0) {
        result = -errno;
        snprintf(error, RUNDIR_ERROR, "cannot write to %s: %s", name, strerror(-result));
        return result;
    }
    return fd_steal(&lock);
}

int rundir_init(struct rundir *rundir, const char *path, char error[static RUNDIR_ERROR])
{
    int result = set_address(&rundir->clients, path, WIRE_SOCKET, error);

    rundir->lock = -1;
    if (result == 0)
        result = set_address(&rundir->control, path, WIRE_CONTROL, error);
    if (result == 0)
        result = make_directory(path, error);
    if (result < 0)
        return result;
    rundir->lock = take_lock(path, error);
    return rundir->lock < 0 ? rundir->lock : 0;
}

// Only ever removes a socket: while the lock is held, it is ours or that of an agent that died.
static int remove_socket(const char *path, char error[static RUNDIR_ERROR])
{
    struct stat status;

    if (lstat(path, &status) < 0)
        return 0;
    if (!S_ISSOCK(status.st_mode)) {
        snprintf(error, RUNDIR_ERROR, "%s exists and is not a socket; remove it", path);
        return -EEXIST;
    }
    unlink(path);
    return 0;
}

int rundir_listen(const struct sockaddr_un *address, int type, char error[static RUNDIR_ERROR])
{
    _cleanup_fd_ int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int result = remove_socket(address->sun_path, error);

    if (result < 0)
        return result;
    if (fd < 0 || bind(fd, (const void *)address, sizeof(*address)) < 0 || chmod(address->sun_path, 0666) < 0 ||
        listen(fd, SOMAXCONN) < 0) {
        result = -errno;
        snprintf(error, RUNDIR_ERROR, "cannot listen at %s: %s", address->sun_path, strerror(-result));
        return result;
    }
    return fd_steal(&fd);
}

void rundir_deinit(struct rundir *rundir)
{
    char ignored[RUNDIR_ERROR];

    if (rundir->lock < 0)
        return;
    remove_socket(rundir->clients.sun_path, ignored);
    remove_socket(rundir->control.sun_path, ignored);
    fd_close(&rundir->lock);
}
