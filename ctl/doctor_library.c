// Does the preload library really get into a program? A child is started with it, a program that prints its own memory
// map, and both its complaints and its map are read.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/doctor.h"
#include "ctl/library.h"

#define TRIAL_LIMIT_S 5
#define TRIAL_TEXT    (64 << 10) // more of a stream is read and dropped

struct trial {
    pid_t pid;
    int out, err;         // read ends
    char map[TRIAL_TEXT]; // what it printed
    char complaint[TRIAL_TEXT];
    size_t map_size, complaint_size;
    int status; // of waitpid
    bool late;
};

// In the child: nothing here may allocate or return.
static void become_trial(const char *const argv[], int out, int err)
{
    int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    execvp(argv[0], (char *const *)argv);
    _exit(127);
}

static int trial_start(struct trial *trial, const char *library)
{
    static const char *const argv[] = {"cat", "/proc/self/maps", NULL};
    int out[2], err[2];
    if (library_set_preload(library) < 0)
        return -ENOMEM;
    if (pipe2(out, O_CLOEXEC) < 0)
        return -errno;
    if (pipe2(err, O_CLOEXEC) < 0) {
        int error = -errno;
        close(out[0]);
        close(out[1]);
        return error;
    }
    trial->pid = fork();
    int error = trial->pid < 0 ? -errno : 0;
    if (trial->pid == 0)
        become_trial(argv, out[1], err[1]);
    close(out[1]);
    close(err[1]);
    trial->out = out[0];
    trial->err = err[0];
    return error;
}

// Returns false at the end of the stream.
static bool take(int fd, char *text, size_t *size)
{
    char dropped[4096];
    bool full = *size == TRIAL_TEXT - 1;
    ssize_t got = full ? read(fd, dropped, sizeof(dropped)) : read(fd, text + *size, TRIAL_TEXT - 1 - *size);
    if (got > 0 && !full)
        *size += (size_t)got;
    return got > 0 || (got < 0 && errno == EINTR);
}

static int left_ms(const struct timespec *end)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t left = (end->tv_sec - now.tv_sec) * 1000 + (end->tv_nsec - now.tv_nsec) / 1000000;
    return left > 0 ? (int)left : 0;
}

static void trial_read(struct trial *trial)
{
    struct pollfd fds[] = {{trial->out, POLLIN, 0}, {trial->err, POLLIN, 0}};
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += TRIAL_LIMIT_S;
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        if (poll(fds, 2, left_ms(&end)) <= 0 && left_ms(&end) == 0) {
            trial->late = true;
            return;
        }
        if (fds[0].revents && !take(trial->out, trial->map, &trial->map_size))
            fds[0].fd = -1;
        if (fds[1].revents && !take(trial->err, trial->complaint, &trial->complaint_size))
            fds[1].fd = -1;
    }
}

static void trial_end(struct trial *trial)
{
    if (trial->late)
        kill(trial->pid, SIGKILL);
    while (waitpid(trial->pid, &trial->status, 0) < 0 && errno == EINTR)
        ;
    close(trial->out);
    close(trial->err);
    trial->complaint[strcspn(trial->complaint, "\n")] = '\0';
}

static void judge(struct doctor *doctor, const struct trial *trial, const char *library)
{
    if (trial->late)
        doctor_report(doctor, DOCTOR_FAIL, "see whether RDMA_AGENT_DISABLE=1 helps, and report it as a bug",
                      "a program with the library did not end within %d s", TRIAL_LIMIT_S);
    else if (trial->status != 0)
        doctor_report(doctor, DOCTOR_FAIL, "install the library again", "a program with the library fails: %s",
                      *trial->complaint ? trial->complaint : "it ended with an error");
    else if (!strstr(trial->map, library))
        doctor_report(doctor, DOCTOR_FAIL,
                      "install the library that was built for this system; check that programs "
                      "may map it (noexec mounts, security modules)",
                      "the dynamic loader does not load %s: %s", library,
                      *trial->complaint ? trial->complaint : "LD_PRELOAD has no effect");
    else if (*trial->complaint)
        doctor_report(doctor, DOCTOR_WARN, "see ld.so(8)", "programs with the library complain: %s", trial->complaint);
    else
        doctor_report(doctor, DOCTOR_OK, NULL, "programs load it");
}

static void try_library(struct doctor *doctor, const char *library)
{
    struct trial *trial = ctl_memory(calloc(1, sizeof(*trial)));
    int error = trial_start(trial, library);
    if (error == 0) {
        trial_read(trial);
        trial_end(trial);
        judge(doctor, trial, library);
    } else {
        doctor_report(doctor, DOCTOR_WARN, "raise the limits on processes and descriptors",
                      "cannot start a program to try the library: %s", strerror(-error));
    }
    free(trial);
}

void doctor_check_library(struct doctor *doctor)
{
    char path[PATH_MAX], places[3 * PATH_MAX];
    int error = library_find(path);
    if (error == -ENOENT) {
        library_places(places, sizeof(places));
        doctor_report(doctor, DOCTOR_FAIL, "install it, or name it in $" LIBRARY_VARIABLE,
                      "the preload library is not there; looked for %s", places);
        return;
    }
    if (error < 0) {
        doctor_report(doctor, DOCTOR_FAIL, "make it a regular file that everybody can read",
                      "the preload library %s cannot be used: %s", path, strerror(-error));
        return;
    }
    if (!library_can_preload(path)) {
        doctor_report(doctor, DOCTOR_FAIL, "move the library",
                      "the path \"%s\" contains a space or a colon, which LD_PRELOAD cannot hold", path);
        return;
    }
    doctor_report(doctor, DOCTOR_OK, NULL, "the preload library is %s", path);
    try_library(doctor, path);
}
