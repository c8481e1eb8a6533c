// poll, ppoll, select, pselect: what is ready, of upgraded sockets and of all else, and when.

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/e2e/semantics/scene.h"

#define EVERYTHING (POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM)

static void observe_poll(const char *who, int fd, short events, int timeout)
{
    struct pollfd one = {.fd = fd, .events = events, .revents = 0x55};
    int ready = poll(&one, 1, timeout);
    say("%s polls %d: %s", who, ready, bits_of_poll((unsigned)one.revents));
}

static void readiness(void)
{
    struct pair pair = scene_pair();
    observe_poll("idle", pair.server, EVERYTHING, 0);
    give(pair.client, "abc");
    observe_poll("with bytes", pair.server, EVERYTHING, 100);
    observe_poll("for input only", pair.server, POLLIN, 0);
    observe_poll("for output only", pair.server, POLLOUT, 0);
    observe_poll("for nothing", pair.server, 0, 0);
    observe_poll("for urgent bytes", pair.server, POLLPRI, 0);
    observe_recv("server", pair.server, 2, 0);
    observe_poll("with a byte left", pair.server, EVERYTHING, 0);
    observe_recv("server", pair.server, 2, 0);
    observe_poll("with nothing left", pair.server, EVERYTHING, 0);
    shutdown(pair.client, SHUT_WR);
    nap(20);
    observe_poll("at the end", pair.server, EVERYTHING, 0);
    observe_poll("at the end, for the end", pair.server, POLLRDHUP, 0);
    observe_poll("at the end, for output", pair.server, POLLOUT, 0);
    shutdown(pair.server, SHUT_WR);
    nap(20);
    observe_poll("with both halves ended", pair.server, EVERYTHING, 0);
    observe_poll("with both halves ended, for nothing", pair.server, 0, 0);
    observe_poll("the other end", pair.client, EVERYTHING, 0);
}

static void timeouts(void)
{
    struct pair pair = scene_pair();
    struct pollfd one = {.fd = pair.server, .events = POLLIN};
    struct later later;
    struct saying words = {pair.client, "x"};
    double begin = now();
    OBSERVE(poll(&one, 1, 0));
    say_elapsed(begin, 0);
    begin = now();
    OBSERVE(poll(&one, 1, 60));
    say_elapsed(begin, 60);
    begin = now();
    struct timespec time = {0, 70000000};
    OBSERVE(ppoll(&one, 1, &time, NULL));
    say_elapsed(begin, 70);
    scene_later(&later, 80, act_give, &words);
    begin = now();
    OBSERVE(poll(&one, 1, -1));
    say_elapsed(begin, 80);
    scene_join(&later);
    observe_recv("server", pair.server, 1, 0);
    scene_later(&later, 80, act_give, &words);
    begin = now();
    OBSERVE(ppoll(&one, 1, NULL, NULL));
    say_elapsed(begin, 80);
    scene_join(&later);
    begin = now();
    OBSERVE(poll(NULL, 0, 30));
    say_elapsed(begin, 30);
    time.tv_nsec = 1000000000;
    OBSERVE(ppoll(&one, 1, &time, NULL));
}

// Rings, fresh connections, pipes, closed and negative numbers, one of them twice, in one set.
static void many(void)
{
    enum { PAIRS = 12, PIPES = 60 };
    struct pair pairs[PAIRS];
    int pipes[PIPES][2];
    struct pollfd set[2 * PAIRS + PIPES + 3];
    nfds_t count = 0;
    for (int i = 0; i < PAIRS; i++) {
        pairs[i] = i % 3 == 2 ? scene_fresh_pair(AF_INET) : scene_pair();
        set[count++] = (struct pollfd){.fd = pairs[i].server, .events = POLLIN};
        set[count++] = (struct pollfd){.fd = pairs[i].client, .events = i % 2 ? POLLIN | POLLOUT : POLLIN};
    }
    for (int i = 0; i < PIPES; i++) {
        if (pipe(pipes[i]) < 0)
            broken("pipe");
        set[count++] = (struct pollfd){.fd = pipes[i][0], .events = POLLIN};
    }
    set[count++] = (struct pollfd){.fd = -1, .events = POLLIN, .revents = 7};
    set[count++] = (struct pollfd){.fd = 777, .events = POLLIN};
    set[count++] = (struct pollfd){.fd = pairs[0].server, .events = POLLIN | POLLOUT};
    for (int i = 0; i < PAIRS; i += 4)
        give(pairs[i].client, "x");
    for (int i = 0; i < PIPES; i += 20)
        OBSERVE(write(pipes[i][1], "y", 1));
    OBSERVE(poll(set, count, 100));
    for (nfds_t i = 0; i < count; i++) {
        if (set[i].revents)
            say("%d: %s", (int)i, bits_of_poll((unsigned)set[i].revents));
    }
}

static void say_sets(int ready, struct pair pair, int pipe_end, fd_set *reading, fd_set *writing, fd_set *special)
{
    say("select says %d: server %d %d %d, client %d %d %d, pipe %d", ready, FD_ISSET(pair.server, reading),
        FD_ISSET(pair.server, writing), FD_ISSET(pair.server, special), FD_ISSET(pair.client, reading),
        FD_ISSET(pair.client, writing), FD_ISSET(pair.client, special), FD_ISSET(pipe_end, reading));
}

static void select_pair(struct pair pair, int pipe_end, bool writing_too, int milliseconds)
{
    fd_set reading, writing, special;
    struct timeval time = {milliseconds / 1000, milliseconds % 1000 * 1000};
    FD_ZERO(&reading);
    FD_ZERO(&writing);
    FD_ZERO(&special);
    FD_SET(pair.server, &reading);
    FD_SET(pair.client, &reading);
    FD_SET(pipe_end, &reading);
    FD_SET(pair.server, &special);
    if (writing_too)
        FD_SET(pair.client, &writing);
    int ready = select(FD_SETSIZE, &reading, &writing, &special, &time);
    say_sets(ready, pair, pipe_end, &reading, &writing, &special);
    say("the time left is %s", time.tv_sec || time.tv_usec ? "not zero" : "zero");
}

static void sets(void)
{
    struct pair pair = scene_pair();
    int ends[2];
    if (pipe(ends) < 0)
        broken("pipe");
    double begin = now();
    select_pair(pair, ends[0], false, 60);
    say_elapsed(begin, 60);
    select_pair(pair, ends[0], true, 1000);
    give(pair.client, "x");
    select_pair(pair, ends[0], false, 1000);
    select_pair(pair, ends[0], true, 1000);
    OBSERVE(write(ends[1], "y", 1));
    select_pair(pair, ends[0], true, 1000);
    observe_recv("server", pair.server, 1, 0);
    select_pair(pair, ends[0], false, 1000);
    struct later later;
    struct saying words = {pair.client, "z"};
    char byte;
    OBSERVE(read(ends[0], &byte, 1));
    scene_later(&later, 60, act_give, &words);
    begin = now();
    select_pair(pair, ends[0], false, 3000);
    say_elapsed(begin, 60);
    scene_join(&later);
}

static void sets_at_their_limits(void)
{
    struct pair pair = scene_pair();
    fd_set set;
    struct timeval none = {0, 0}, wrong = {-1, 0};
    give(pair.client, "x");
    nap(10);
    FD_ZERO(&set);
    FD_SET(pair.server, &set);
    OBSERVE(select(pair.server, &set, NULL, NULL, &none)); // one too few: it is not looked at
    FD_SET(pair.server, &set);
    OBSERVE(select(pair.server + 1, &set, NULL, NULL, &none));
    OBSERVE(select(-1, &set, NULL, NULL, &none));
    FD_SET(pair.server, &set);
    OBSERVE(select(pair.server + 1, &set, NULL, NULL, &wrong));
    FD_SET(60, &set);
    OBSERVE(select(61, &set, NULL, NULL, &none));
    OBSERVE(select(0, NULL, NULL, NULL, &none));
    close(pair.client);
    close(pair.server);
    FD_ZERO(&set);
    FD_SET(pair.server, &set);
    OBSERVE(select(pair.server + 1, &set, NULL, NULL, &none));
}

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
    signals++;
}

static void block_and_raise(sigset_t *empty)
{
    sigset_t one;
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigemptyset(empty);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    sigprocmask(SIG_BLOCK, &one, NULL);
    raise(SIGUSR1);
}

// A blocked signal is let through for the time of the wait, and no longer.
static void masks(void)
{
    struct pair pair = scene_pair();
    struct pollfd one = {.fd = pair.server, .events = POLLIN};
    struct timespec long_time = {5, 0};
    sigset_t empty;
    fd_set set;
    FD_ZERO(&set);
    FD_SET(pair.server, &set);
    block_and_raise(&empty);
    OBSERVE(poll(&one, 1, 20));
    say("%d signals", (int)signals);
    OBSERVE(ppoll(&one, 1, &long_time, &empty));
    say("%d signals", (int)signals);
    raise(SIGUSR1);
    OBSERVE(pselect(pair.server + 1, &set, NULL, NULL, &long_time, &empty));
    say("%d signals, and %s waits", (int)signals, FD_ISSET(pair.server, &set) ? "the socket still" : "nothing");
    raise(SIGUSR1);
    nap(10);
    say("%d signals", (int)signals);
}

static void mixed(void)
{
    struct pair pair = scene_pair();
    int ends[2], event = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (pipe(ends) < 0)
        broken("pipe");
    struct pollfd set[] = {{pair.server, POLLIN, 0}, {ends[0], POLLIN, 0}, {event, POLLIN, 0}, {timer, POLLIN, 0}};
    struct itimerspec soon = {.it_value = {0, 40000000}};
    uint64_t one = 1;
    double begin = now();
    timerfd_settime(timer, 0, &soon, NULL);
    OBSERVE(poll(set, 4, 3000));
    say_elapsed(begin, 40);
    OBSERVE(read(timer, &one, 8));
    one = 1;
    OBSERVE(write(event, &one, 8));
    OBSERVE(poll(set, 4, 3000));
    OBSERVE(read(event, &one, 8));
    give(pair.client, "x");
    OBSERVE(poll(set, 4, 3000));
    OBSERVE(write(ends[1], "y", 1));
    OBSERVE(poll(set, 4, 3000));
    say("%s %s", bits_of_poll((unsigned)set[0].revents), bits_of_poll((unsigned)set[1].revents));
    observe_recv("server", pair.server, 1, 0);
    OBSERVE(poll(set, 4, 3000));
}

static void *poll_once(void *argument)
{
    struct pollfd one = {.fd = *(int *)argument, .events = POLLIN};
    return (void *)(long)poll(&one, 1, 3000);
}

static void two_threads(void)
{
    struct pair pair = scene_pair();
    pthread_t threads[2];
    void *results[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, poll_once, &pair.server);
    nap(50);
    double begin = now();
    give(pair.client, "x");
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], &results[i]);
    say_elapsed(begin, 0);
    say("they polled %ld and %ld", (long)results[0], (long)results[1]);
}

// Room in a full socket: it may take a while until there is enough of it, but then it is told.
static void room(void)
{
    struct pair pair = scene_pair();
    size_t sent = fill(pair.client);
    struct pollfd one = {.fd = pair.client, .events = POLLOUT};
    OBSERVE(poll(&one, 1, 30));
    drain(pair.server, sent);
    OBSERVE(poll(&one, 1, 3000));
    fill(pair.client);
    fd_set set;
    struct timeval time = {0, 30000};
    FD_ZERO(&set);
    FD_SET(pair.client, &set);
    OBSERVE(select(pair.client + 1, NULL, &set, NULL, &time));
    drain(pair.server, SIZE_MAX);
    FD_SET(pair.client, &set);
    time.tv_sec = 3;
    OBSERVE(select(pair.client + 1, NULL, &set, NULL, &time));
}

// As many as there may be descriptors, most of them left out.
static void as_many_as_allowed(void)
{
    struct pair pair = scene_pair();
    struct rlimit limit = {64, 64};
    struct pollfd set[64];
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < 64; i++)
        set[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    set[10].fd = pair.server;
    set[60] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLPRI};
    OBSERVE(poll(set, 64, 50));
    struct later later;
    struct saying words = {pair.client, "later"};
    scene_later(&later, 80, act_give, &words);
    OBSERVE(poll(set, 64, 2000));
    say("%s", bits_of_poll((unsigned)set[10].revents));
    scene_join(&later);
}

// By their numbers, as some programs do.
static void by_syscall(void)
{
    struct pair pair = scene_pair();
    fd_set set;
    FD_ZERO(&set);
    FD_SET(pair.server, &set);
    give(pair.client, "x");
    struct timespec left = {1, 0};
    OBSERVE(syscall(SYS_pselect6, pair.server + 1, &set, NULL, NULL, &left, NULL));
    say("it is in the set: %d", FD_ISSET(pair.server, &set) != 0);
#ifdef SYS_select
    struct timeval time = {1, 0};
    OBSERVE(syscall(SYS_select, pair.server + 1, &set, NULL, NULL, &time));
#else
    OBSERVE(select(pair.server + 1, &set, NULL, NULL, NULL));
#endif
    char byte = 0;
    struct iovec part = {&byte, 1};
    OBSERVE(syscall(SYS_preadv2, pair.server, &part, 1, -1L, -1L, 0));
    OBSERVE(syscall(SYS_pwritev2, pair.server, &part, 1, -1L, -1L, 0));
    observe_recv("client", pair.client, 10, 0);
}

const struct scene_case poll_cases[] = {
    {"poll_readiness", readiness},
    {"poll_timeouts", timeouts},
    {"poll_many", many},
    {"select_sets", sets},
    {"select_sets_at_their_limits", sets_at_their_limits},
    {"poll_masks", masks},
    {"poll_mixed", mixed},
    {"poll_two_threads", two_threads},
    {"poll_room", room},
    {"poll_as_many_as_allowed", as_many_as_allowed},
    {"poll_by_syscall", by_syscall},
    {NULL, NULL},
};
