#include "preload/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <time.h>
#include <unistd.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/epset.h"
#include "preload/fdtab.h"
#include "preload/handover.h"
#include "preload/leave.h"
#include "preload/lock.h"
#include "preload/nest.h"
#include "preload/program.h"
#include "preload/real.h"
#include "preload/share.h"
#include "preload/sock.h"

// A page of its own, so that it can be wiped on fork without anything else.
static union {
    _Atomic uint32_t ready;
    unsigned char page[4096];
} wiped __attribute__((aligned(4096)));

_Atomic uint32_t *proc_ready = &wiped.ready;

static struct {
    _Atomic uint32_t started; // survives fork: tells a first call from a forked child
    pthread_mutex_t lock;
    pid_t pid;
    bool disabled;
    bool debug;
    _Atomic int own_count;
} proc = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool set_in_environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value && strcmp(value, "0") != 0;
}

void proc_each_fd(void (*act)(int fd))
{
    int dir = (int)sys_call(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return;
    struct {
        uint64_t ino;
        int64_t off;
        unsigned short reclen;
        unsigned char type;
        char name[];
    } * entry;
    char buffer[4096] __attribute__((aligned(8)));
    for (long n; (n = sys_call(SYS_getdents64, dir, buffer, sizeof buffer)) > 0;) {
        for (long at = 0; at < n; at += entry->reclen) {
            entry = (void *)(buffer + at);
            int fd = entry->name[0] == '.' ? -1 : atoi(entry->name);
            if (fd >= 0 && fd != dir)
                act(fd);
        }
    }
    sys_close(dir);
}

static void start(void)
{
    real_load();
    proc.pid = (pid_t)sys_call(SYS_getpid);
    proc.disabled = set_in_environment("RDMA_AGENT_DISABLE");
    proc.debug = set_in_environment("RDMA_AGENT_DEBUG");
    agent_link_init();
    program_init();
    nest_init();
    madvise(&wiped, sizeof wiped, MADV_WIPEONFORK);
    pthread_atfork(proc_before_fork, NULL, NULL);
    if (proc.disabled)
        return;
    // Exec may have handed us TCP sockets. Afterwards every socket comes into being in sight, and what is not in the table
    // is nothing of ours.
    proc_each_fd(sock_inherited);
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        handover_to_stdio(fd);
}

// The child has its parent's memory as it was, but not its threads: what they held is let go. Its connection to the
// agent is the parent's; it makes its own when it has something to say.
static void start_as_child(void)
{
    proc.pid = (pid_t)sys_call(SYS_getpid);
    lock_forked();
    agent_link_forked();
    nest_forked();
    epset_forked();
    sock_forked();
}

void proc_first_call(void)
{
    uint32_t started = 0;
    if (atomic_compare_exchange_strong(&proc.started, &started, 1)) {
        start();
        atomic_store(&proc.started, 2);
        atomic_store_explicit(proc_ready, 1, memory_order_release);
    } else if (started == 2) {
        // A forked child has one thread, which is here before it can have made another.
        atomic_store_explicit(proc_ready, 1, memory_order_release);
        start_as_child();
    }
    // started == 1: start() itself, or another thread beside it, calls something: real functions are there, and the
    // descriptor table is still empty, so the call passes through.
    while (!real.read)
        sys_sched_yield();
}

__attribute__((constructor(101))) static void constructor(void)
{
    proc_enter();
}

// What the other end has asked for again is in nobody's hands any more once this process is gone.
__attribute__((destructor)) static void destructor(void)
{
    if (proc_owns_memory())
        leave_finish_all();
}

bool proc_owns_memory(void)
{
    return sys_call(SYS_getpid) == proc.pid;
}

void proc_before_fork(void)
{
    if (proc_owns_memory())
        share_before_fork();
}

bool proc_disabled(void)
{
    return proc.disabled;
}

// The kernel keeps the number up to date in the area for restartable sequences, which glibc registers for each thread.
// The thread pointer is glibc's own business elsewhere; this use of it is documented (rseq in the glibc manual).
uint32_t proc_cpu(void)
{
    if (!__rseq_size)
        return 0;
    const struct rseq *area = (const struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    int32_t cpu = (int32_t)area->cpu_id;
    return cpu < 0 ? 0 : (uint32_t)cpu + 1;
}

void proc_debug(const char *format, ...)
{
    if (!proc.debug)
        return;
    int saved = errno;
    char line[512];
    int size = snprintf(line, sizeof line, "rdma-preload[%d]: ", (int)proc.pid);
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(line + size, sizeof line - (size_t)size - 1, format, arguments);
    va_end(arguments);
    size += more < 0 ? 0 : more;
    size = size > (int)sizeof line - 2 ? (int)sizeof line - 2 : size;
    line[size++] = '\n';
    sys_write(2, line, (size_t)size);
    errno = saved;
}

// The soft limit, which the program may change as it goes.
static int fd_limit(void)
{
    struct rlimit limit = {1024, 1024};
    sys_call(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
    return limit.rlim_cur > FDTAB_MAX ? (int)FDTAB_MAX : (int)limit.rlim_cur;
}

// High enough to leave the low numbers (select, scripts, habits) alone; not at the top, because the kernel's own table,
// which every fork copies, grows with the highest number in use.
static int own_fd_base(int limit)
{
    return limit * 3 / 4 < 1000 ? limit * 3 / 4 : 1000;
}

int proc_own_fd(int fd)
{
    if (fd < 0)
        return -1;
    int own = -1, limit = fd_limit();
    if (atomic_fetch_add(&proc.own_count, 1) < limit / 4)
        own = sys_fcntl(fd, F_DUPFD_CLOEXEC, own_fd_base(limit));
    sys_close(fd);
    if (own >= 0 && fdtab_set(own, FD_OWN, NULL) != FDTAB_FAILED)
        return own;
    if (own >= 0)
        sys_close(own);
    atomic_fetch_sub(&proc.own_count, 1);
    return -1;
}

void proc_close_own_fd(int fd)
{
    if (fd < 0)
        return;
    fdtab_clear(fd, FD_OWN);
    sys_close(fd);
    atomic_fetch_sub(&proc.own_count, 1);
}

bool proc_vacate_fd(int fd)
{
    int moved = sys_fcntl(fd, F_DUPFD_CLOEXEC, own_fd_base(fd_limit()));
    if (moved < 0)
        return false;
    if (fdtab_set(moved, FD_OWN, NULL) == FDTAB_FAILED ||
        !(agent_link_moved(fd, moved) || nest_moved(fd, moved) || sock_own_fd_moved(fd, moved))) {
        fdtab_clear(moved, FD_OWN);
        sys_close(moved);
        return false;
    }
    fdtab_clear(fd, FD_OWN);
    return true;
}
