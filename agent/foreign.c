// A timer that interrupts, and threads that may wait.

#include "agent/foreign.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/list.h"
#include "core/log.h"

#define GUARD_NS          1000000
#define CLOSINGS          64 // threads that may be waiting, in all
#define CLOSINGS_PER_USER 4
#define STACK_BYTES       (64u << 10)

// The guard. The timer's signal is handled by the thread that is guarded, so plain variables do.
static timer_t guard_timer;
static volatile sig_atomic_t guarding;
static volatile sig_atomic_t ticking;

static void set_timer(long ns)
{
    const struct itimerspec every = {.it_interval.tv_nsec = ns, .it_value.tv_nsec = ns};

    timer_settime(guard_timer, 0, &every, NULL);
}

// Ticks go on while there is something to interrupt: the first could come just before the call blocks.
static void on_tick(int signal)
{
    int saved = errno;

    if (!guarding) {
        set_timer(0);
        ticking = 0;
    }
    errno = saved;
}

int foreign_init(void)
{
    struct sigaction action = {.sa_handler = on_tick};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};

    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    sigemptyset(&action.sa_mask);
    // Without SA_RESTART: to interrupt is the purpose.
    if (sigaction(SIGALRM, &action, NULL) < 0 || timer_create(CLOCK_MONOTONIC, &event, &guard_timer) < 0)
        return -errno;
    return 0;
}

void foreign_guard_begin(void)
{
    guarding = 1;
    if (!ticking) {
        ticking = 1;
        set_timer(GUARD_NS);
    }
}

void foreign_guard_end(void)
{
    guarding = 0;
}

// What a thread is closing.
struct closing {
    _Atomic int fd; // -1: none
    uid_t uid;
};

static struct closing closings[CLOSINGS];
static _Atomic int unfinished;

// fd + 1, so that zeroed memory stands for none.
static struct closing *closing_take(int fd, uid_t uid)
{
    for (int i = 0; i < CLOSINGS; i++) {
        if (atomic_load(&closings[i].fd) == 0) {
            closings[i].uid = uid;
            atomic_store(&closings[i].fd, fd + 1);
            atomic_fetch_add(&unfinished, 1);
            return &closings[i];
        }
    }
    return NULL;
}

static void *closing_thread(void *argument)
{
    struct closing *closing = argument;

    close(atomic_load(&closing->fd) - 1);
    atomic_fetch_sub(&unfinished, 1);
    atomic_store(&closing->fd, 0);
    return NULL;
}

static int start_thread(struct closing *closing)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);

    if (error)
        return -error;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    // The loop's signals are for the loop's thread.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attributes, closing_thread, closing);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -error;
}

static void close_guarded(int fd)
{
    foreign_guard_begin();
    close(fd);
    foreign_guard_end();
}

static void close_elsewhere(int fd, uid_t uid)
{
    struct closing *closing = closing_take(fd, uid);

    if (closing && start_thread(closing) == 0)
        return;
    // There is room as long as nobody is stuck, so this is for want of memory.
    if (closing)
        closing_thread(closing);
    else
        close_guarded(fd);
}

static bool is_socket(int fd)
{
    int type;
    socklen_t size = sizeof(type);

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
}

void foreign_close(int fd, uid_t uid)
{
    if (is_socket(fd))
        close_guarded(fd);
    else
        close_elsewhere(fd, uid);
}

bool foreign_is_stuck(uid_t uid)
{
    int of_user = 0, in_all = 0;

    if (atomic_load_explicit(&unfinished, memory_order_relaxed) == 0)
        return false;
    for (int i = 0; i < CLOSINGS; i++) {
        if (atomic_load(&closings[i].fd) == 0)
            continue;
        in_all++;
        of_user += closings[i].uid == uid;
    }
    // One message can bring several.
    return of_user >= CLOSINGS_PER_USER || in_all > CLOSINGS / 2;
}
