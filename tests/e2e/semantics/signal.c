// Signals: what they interrupt, what goes on by itself, and what a handler or a cancelled thread may leave behind.

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/semantics/scene.h"

static volatile sig_atomic_t signals;
static int handler_fd = -1;

static void count_signal(int number)
{
    int error = errno;
    signals++;
    if (handler_fd >= 0 && send(handler_fd, "from the handler", 16, MSG_NOSIGNAL) != 16)
        signals += 100;
    errno = error;
}

static void handle(int number, int flags)
{
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = flags};
    sigaction(number, &action, NULL);
}

static void act_signal(void *thread)
{
    pthread_kill(*(pthread_t *)thread, SIGUSR1);
}

// A thread that signals this one in 60 ms.
static void signal_soon(struct later *later)
{
    static pthread_t self;
    self = pthread_self();
    scene_later(later, 60, act_signal, &self);
}

static void interrupted(void)
{
    struct pair pair = scene_pair();
    struct pollfd one = {.fd = pair.server, .events = POLLIN};
    struct epoll_event event = {.events = EPOLLIN};
    struct iovec part;
    struct later later;
    fd_set set;
    char byte;
    int epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, pair.server, &event);
    handle(SIGUSR1, 0);
    part = (struct iovec){&byte, 1};

    signal_soon(&later);
    double begin = now();
    OBSERVE(recv(pair.server, &byte, 1, 0));
    say_elapsed(begin, 60);
    scene_join(&later);
    signal_soon(&later);
    OBSERVE(read(pair.server, &byte, 1));
    scene_join(&later);
    signal_soon(&later);
    OBSERVE(readv(pair.server, &part, 1));
    scene_join(&later);
    signal_soon(&later);
    OBSERVE(poll(&one, 1, 3000));
    scene_join(&later);
    signal_soon(&later);
    OBSERVE(epoll_wait(epoll, &event, 1, 3000));
    scene_join(&later);
    signal_soon(&later);
    FD_ZERO(&set);
    FD_SET(pair.server, &set);
    OBSERVE(select(pair.server + 1, &set, NULL, NULL, NULL));
    scene_join(&later);
    say("%d signals", (int)signals);
    give(pair.client, "x");
    observe_recv("server", pair.server, 1, 0);
}

static void restarted(void)
{
    struct pair pair = scene_pair();
    struct pollfd one = {.fd = pair.server, .events = POLLIN};
    struct epoll_event event = {.events = EPOLLIN};
    struct later later, words_later;
    struct saying words = {pair.client, "later"};
    struct timeval time = {3, 0};
    int epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, pair.server, &event);
    handle(SIGUSR1, SA_RESTART);

    signal_soon(&later);
    scene_later(&words_later, 150, act_give, &words);
    double begin = now();
    observe_recv("server", pair.server, 10, 0);
    say_elapsed(begin, 150);
    scene_join(&later);
    scene_join(&words_later);
    signal_soon(&later);
    OBSERVE(poll(&one, 1, 3000)); // never restarted
    scene_join(&later);
    signal_soon(&later);
    OBSERVE(epoll_wait(epoll, &event, 1, 3000));
    scene_join(&later);
    setsockopt(pair.server, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    signal_soon(&later);
    observe_recv("server, with a timeout,", pair.server, 10, 0);
    scene_join(&later);
    say("%d signals", (int)signals);
}

static void interrupted_in_the_middle(void)
{
    struct pair pair = scene_pair();
    struct later later;
    handle(SIGUSR1, 0);
    give(pair.client, "half");
    signal_soon(&later);
    observe_recv("server", pair.server, 8, MSG_WAITALL);
    scene_join(&later);
    handle(SIGUSR1, SA_RESTART);
    give(pair.client, "half");
    signal_soon(&later);
    observe_recv("server", pair.server, 8, MSG_WAITALL);
    scene_join(&later);
}

struct waiter {
    int fd;
    _Atomic pid_t thread;
    _Atomic int ended;
};

static void *receive_much(void *argument)
{
    struct waiter *waiter = argument;
    char bytes[1000];
    atomic_store(&waiter->thread, gettid());
    recv(waiter->fd, bytes, sizeof bytes, MSG_WAITALL);
    atomic_store(&waiter->ended, 1);
    return NULL;
}

static bool is_asleep(pid_t thread)
{
    char path[64], state = '?';
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)thread);
    FILE *file = fopen(path, "r");
    bool known = file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1;
    if (file)
        fclose(file);
    return known && state == 'S';
}

static void wait_until_asleep(struct waiter *waiter)
{
    pid_t thread;
    while (!(thread = atomic_load(&waiter->thread)) || !is_asleep(thread))
        nap(1);
}

static bool ends_within(struct waiter *waiter, int ms)
{
    for (; !atomic_load(&waiter->ended) && ms > 0; ms--)
        nap(1);
    return atomic_load(&waiter->ended);
}

static void spin_for(double seconds)
{
    for (double begin = now(); now() < begin + seconds;)
        ;
}

// A byte, too few to end the call, wakes the receiver, and at about that time comes the signal: always it ends the call.
static void interrupted_while_woken(void)
{
    enum { TIMES = 400 };
    struct pair pair = scene_pair();
    int lost = 0;
    handle(SIGUSR1, 0);
    for (int i = 0; i < TIMES; i++) {
        struct waiter waiter = {.fd = pair.server};
        pthread_t thread;
        pthread_create(&thread, NULL, receive_much, &waiter);
        wait_until_asleep(&waiter);
        give(pair.client, "x");
        spin_for(i % 50 * 1e-6);
        pthread_kill(thread, SIGUSR1);
        if (!ends_within(&waiter, 500)) {
            lost++;
            pthread_kill(thread, SIGUSR1);
        }
        pthread_join(thread, NULL);
        while (recv(pair.server, &(char){0}, 1, MSG_DONTWAIT) > 0)
            ;
    }
    say("%d of %d signals did not end the call, %d handled", lost, TIMES, (int)signals - lost);
}

static void interrupted_sender(void)
{
    enum { SIZE = 64 << 20 };
    struct pair pair = scene_pair();
    struct later later;
    char *bytes = calloc(1, SIZE);
    handle(SIGUSR1, 0);
    signal_soon(&later);
    ssize_t sent = send(pair.client, bytes, SIZE, 0);
    say("the sender sent %s", sent > 0 && sent < SIZE ? "a part" : "all or nothing");
    scene_join(&later);
    size_t more = fill(pair.client);
    signal_soon(&later);
    OBSERVE(send(pair.client, bytes, 10, 0));
    scene_join(&later);
    more += fill(pair.client);
    handle(SIGUSR1, SA_RESTART);
    struct timeval time = {0, 200000};
    setsockopt(pair.client, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
    signal_soon(&later);
    OBSERVE(send(pair.client, bytes, 10, 0));
    scene_join(&later);
    say("all that was sent comes: %s", drain(pair.server, SIZE_MAX) == (size_t)sent + more ? "yes" : "no");
    free(bytes);
}

static void blocked_signal(void)
{
    struct pair pair = scene_pair();
    struct later later, words_later;
    struct saying words = {pair.client, "undisturbed"};
    sigset_t set;
    handle(SIGUSR1, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal_soon(&later);
    scene_later(&words_later, 120, act_give, &words);
    observe_recv("server", pair.server, 100, 0);
    say("%d signals", (int)signals);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    say("%d signals", (int)signals);
    scene_join(&later);
    scene_join(&words_later);
}

static void ignored_signal(void)
{
    struct pair pair = scene_pair();
    struct later later, words_later;
    struct saying words = {pair.client, "undisturbed"};
    signal(SIGUSR1, SIG_IGN);
    signal_soon(&later);
    scene_later(&words_later, 120, act_give, &words);
    observe_recv("server", pair.server, 100, 0);
    scene_join(&later);
    scene_join(&words_later);
}

// The handler comes just after a wait that had learnt that the signal is ignored.
static void ignored_no_more(void)
{
    struct pair pair = scene_pair();
    struct pollfd one = {.fd = pair.server, .events = POLLIN};
    struct timespec briefly = {0, 200000};
    for (int i = 0; i < 3; i++) {
        struct later later;
        char byte;
        signal(SIGUSR1, SIG_IGN);
        OBSERVE(ppoll(&one, 1, &briefly, NULL));
        handle(SIGUSR1, 0);
        signal_soon(&later);
        OBSERVE(recv(pair.server, &byte, 1, 0));
        scene_join(&later);
        say("%d signals", (int)signals);
    }
}

static atomic_bool raining;

static void *rain(void *thread)
{
    while (raining) {
        pthread_kill(*(pthread_t *)thread, SIGWINCH);
        pthread_kill(*(pthread_t *)thread, SIGHUP);
        struct timespec pause = {0, 20000};
        nanosleep(&pause, NULL);
    }
    return NULL;
}

// What is ignored, by default or by order, interrupts nothing, also where another signal has a handler.
static void ignored_beside_handled(void)
{
    enum { WAITS = 400 };
    struct pair pair = scene_pair();
    struct pollfd one = {.fd = pair.server, .events = POLLIN};
    struct epoll_event event = {.events = EPOLLIN};
    pthread_t self = pthread_self(), thread;
    int epoll = epoll_create1(0), waits = 0, polls = 0, selects = 0;
    epoll_ctl(epoll, EPOLL_CTL_ADD, pair.server, &event);
    handle(SIGUSR1, 0);
    signal(SIGHUP, SIG_IGN);
    raining = true;
    pthread_create(&thread, NULL, rain, &self);
    for (int i = 0; i < WAITS; i++) {
        struct timeval time = {0, 1000};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(pair.server, &set);
        waits += epoll_wait(epoll, &event, 1, 1) != 0;
        polls += poll(&one, 1, 1) != 0;
        selects += select(pair.server + 1, &set, NULL, NULL, &time) != 0;
    }
    raining = false;
    pthread_join(thread, NULL);
    say("of %d each, interrupted: %d epoll_wait, %d poll, %d select", WAITS, waits, polls, selects);
}

static void *receive_in_kernel(void *fd)
{
    char bytes[8];
    return (void *)recv(*(int *)fd, bytes, sizeof bytes, MSG_WAITALL);
}

// A child ends while the main thread waits for a ring, and another one in the kernel, with half of what it wants.
static void ignored_beside_kernel(void)
{
    struct pair pair = scene_pair();
    struct later later, words_later;
    struct timespec a_while = {0, 30000000};
    pthread_t thread;
    void *got;
    char byte;
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    send(ends[1], "half", 4, 0);
    pthread_create(&thread, NULL, receive_in_kernel, &ends[0]);
    nanosleep(&a_while, NULL);
    pid_t child = fork();
    if (child == 0) {
        nanosleep(&a_while, NULL);
        _exit(0);
    }
    struct saying rest = {ends[1], "half"}, words = {pair.client, "x"};
    scene_later(&later, 100, act_give, &rest);
    scene_later(&words_later, 150, act_give, &words);
    ssize_t n = recv(pair.server, &byte, 1, 0);
    pthread_join(thread, &got);
    scene_join(&later);
    scene_join(&words_later);
    scene_reap(child);
    say("main thread: %zd, other thread: %zd", n, (ssize_t)got);
}

// The handler sends on the socket whose reading it interrupted.
static void handler_that_sends(void)
{
    struct pair pair = scene_pair();
    struct later later, words_later;
    struct saying words = {pair.client, "later"};
    handler_fd = pair.server;
    handle(SIGUSR1, SA_RESTART);
    signal_soon(&later);
    scene_later(&words_later, 150, act_give, &words);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("client", pair.client, 100, 0);
    scene_join(&later);
    scene_join(&words_later);
    say("%d signals", (int)signals);
}

struct transfer {
    int fd;
    size_t size;
    size_t wrong;
};

static void *receive_all(void *argument)
{
    struct transfer *transfer = argument;
    static unsigned char bytes[100000];
    size_t at = 0;
    while (at < transfer->size) {
        ssize_t got = recv(transfer->fd, bytes, sizeof bytes, 0);
        if (got <= 0)
            break;
        for (ssize_t i = 0; i < got; i++)
            transfer->wrong += bytes[i] != (unsigned char)((at + (size_t)i) / 251);
        at += (size_t)got;
    }
    transfer->wrong += transfer->size - at;
    return NULL;
}

// A timer's signals rain on a transfer, which goes on as if there were none.
static void storm(void)
{
    enum { SIZE = 24 << 20 };
    struct pair pair = scene_pair();
    struct transfer transfer = {.fd = pair.server, .size = SIZE};
    struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    pthread_t receiver;
    unsigned char *bytes = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = (unsigned char)(i / 251);
    handle(SIGALRM, SA_RESTART);
    pthread_create(&receiver, NULL, receive_all, &transfer);
    setitimer(ITIMER_REAL, &often, NULL);
    for (size_t at = 0; at < SIZE;) {
        ssize_t sent = send(pair.client, bytes + at, SIZE - at < 300000 ? SIZE - at : 300000, 0);
        if (sent <= 0)
            broken("send");
        at += (size_t)sent;
    }
    pthread_join(receiver, NULL);
    setitimer(ITIMER_REAL, &never, NULL);
    say("%zu bytes are wrong, and signals %s", transfer.wrong, signals > 3 ? "did fall" : "did not fall");
    free(bytes);
}

static void *receive_one(void *fd)
{
    char byte;
    recv(*(int *)fd, &byte, 1, 0);
    return NULL;
}

static void *poll_one(void *fd)
{
    struct pollfd one = {.fd = *(int *)fd, .events = POLLIN};
    poll(&one, 1, -1);
    return NULL;
}

static void *send_much(void *fd)
{
    static char bytes[1 << 20];
    while (send(*(int *)fd, bytes, sizeof bytes, MSG_NOSIGNAL) > 0)
        continue;
    return NULL;
}

static void cancel(const char *what, void *(*body)(void *), int fd)
{
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, body, &fd);
    nap(80);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    say("the thread in %s was %s", what, result == PTHREAD_CANCELED ? "cancelled" : "not cancelled");
}

// A thread that is cancelled leaves a connection that others can use.
static void cancelled(void)
{
    struct pair pair = scene_pair();
    cancel("recv", receive_one, pair.server);
    give(pair.client, "x");
    observe_recv("server", pair.server, 10, 0);
    cancel("poll", poll_one, pair.server);
    give(pair.client, "y");
    observe_recv("server", pair.server, 10, 0);
    cancel("send", send_much, pair.client);
    say("something was sent: %s", drain(pair.server, SIZE_MAX) > 0 ? "yes" : "no");
    give(pair.client, "z");
    observe_recv("server", pair.server, 10, 0);
}

static void observe_end(const char *who, int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    OBSERVE(poll(&one, 1, 1000));
    observe_recv(who, fd, 10, MSG_DONTWAIT);
}

// Nor does one that is cancelled keep the connection open; this thread polls in the kernel while the rest goes on.
static void cancelled_and_closed(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    pthread_t thread;
    pthread_create(&thread, NULL, poll_one, &pair.server);
    for (int i = 0; i < 60; i++) {
        give(pair.server, "!");
        take(pair.client, 1);
        nap(1);
    }
    for (int i = 0; i < 60; i++) {
        pthread_cancel(thread);
        pthread_join(thread, NULL);
        give(pair.client, "?");
        take(pair.server, 1);
        pthread_create(&thread, NULL, poll_one, &pair.server);
        nap(1);
    }
    pthread_cancel(thread);
    pthread_join(thread, NULL);
    OBSERVE(close(pair.server));
    observe_end("client", pair.client);
}

static sigjmp_buf way_out;

static void jump(int number)
{
    siglongjmp(way_out, 1);
}

// The old way of giving up a call: jump out of it.
static void jumped_out(void)
{
    struct pair pair = scene_pair();
    struct itimerval soon = {{0, 0}, {0, 80000}};
    signal(SIGALRM, jump);
    for (int i = 0; i < 3; i++) {
        if (sigsetjmp(way_out, 1) == 0) {
            setitimer(ITIMER_REAL, &soon, NULL);
            char byte;
            OBSERVE(recv(pair.server, &byte, 1, 0));
        }
        give(pair.client, "x");
        observe_recv("server", pair.server, 10, 0);
    }
    if (sigsetjmp(way_out, 1) == 0) {
        setitimer(ITIMER_REAL, &soon, NULL);
        send_much(&pair.client);
    }
    say("something was sent: %s", drain(pair.server, SIZE_MAX) > 0 ? "yes" : "no");
    give(pair.client, "x");
    observe_recv("server", pair.server, 10, 0);
}

static void leave_by_jump(void *(*body)(void *), int fd)
{
    struct itimerval soon = {{0, 0}, {0, 80000}};
    signal(SIGALRM, jump);
    if (sigsetjmp(way_out, 1) == 0) {
        setitimer(ITIMER_REAL, &soon, NULL);
        body(&fd);
        say("it was not left");
    }
}

static void *receive_a_byte(void *fd)
{
    char byte;
    recv(*(int *)fd, &byte, 1, 0);
    return NULL;
}

// What is given up so is closed next, as by programs with a time limit: the other end hears of that.
static void jumped_out_and_closed(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    leave_by_jump(receive_a_byte, pair.server);
    for (int i = 0; i < 60; i++) {
        give(pair.server, "!");
        take(pair.client, 1);
        nap(1);
    }
    OBSERVE(close(pair.server));
    observe_end("client of one in TCP", pair.client);
    pair = scene_pair();
    leave_by_jump(receive_a_byte, pair.server);
    OBSERVE(close(pair.server));
    observe_end("client of a receiver", pair.client);
    pair = scene_pair();
    leave_by_jump(poll_one, pair.server);
    OBSERVE(close(pair.server));
    observe_end("client of a poller", pair.client);
    pair = scene_pair();
    leave_by_jump(send_much, pair.server);
    OBSERVE(close(pair.server));
    say("something was sent: %s", drain(pair.client, SIZE_MAX) > 0 ? "yes" : "no");
    observe_end("client of a sender", pair.client);
}

// Few descriptors are left for the library, perhaps none for hearing of signals while it waits.
static void interrupt_with(unsigned limit)
{
    struct rlimit few = {limit, limit};
    struct itimerval soon = {{0, 0}, {0, 80000}};
    struct pair pairs[2];
    setrlimit(RLIMIT_NOFILE, &few);
    for (int i = 0; i < 2; i++) {
        pairs[i] = scene_fresh_pair(AF_INET);
        for (int words = 0; words < 60; words++) {
            give(pairs[i].client, "?");
            take(pairs[i].server, 1);
            give(pairs[i].server, "!");
            take(pairs[i].client, 1);
            if (words % 10 == 0)
                nap(2);
        }
    }
    handle(SIGALRM, 0);
    setitimer(ITIMER_REAL, &soon, NULL);
    observe_recv("server", pairs[0].server, 1, 0);
}

static void interrupted_with_few_descriptors(void)
{
    for (unsigned limit = 24; limit <= 44; limit += 2) {
        pid_t pid = fork();
        if (pid == 0) {
            interrupt_with(limit);
            _exit(0);
        }
        int status = 0, waited = 0;
        while (waitpid(pid, &status, WNOHANG) == 0 && ++waited < 1500)
            nap(1);
        if (waited == 1500) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
        }
        say("with %u descriptors: ended with %x", limit, status);
    }
}

const struct scene_case signal_cases[] = {
    {"interrupted", interrupted},
    {"interrupted_while_woken", interrupted_while_woken},
    {"restarted", restarted},
    {"interrupted_in_the_middle", interrupted_in_the_middle},
    {"interrupted_sender", interrupted_sender},
    {"blocked_signal", blocked_signal},
    {"ignored_signal", ignored_signal},
    {"ignored_no_more", ignored_no_more},
    {"ignored_beside_handled", ignored_beside_handled},
    {"ignored_beside_kernel", ignored_beside_kernel},
    {"handler_that_sends", handler_that_sends},
    {"signal_storm", storm},
    {"cancelled", cancelled},
    {"cancelled_and_closed", cancelled_and_closed},
    {"jumped_out", jumped_out},
    {"jumped_out_and_closed", jumped_out_and_closed},
    {"interrupted_with_few_descriptors", interrupted_with_few_descriptors},
    {NULL, NULL},
};
