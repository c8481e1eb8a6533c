// epoll: level, edge, once, exclusive, nested; what joins and leaves a set, and who is woken.

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/semantics/scene.h"

static int make_set(void)
{
    int set = epoll_create1(EPOLL_CLOEXEC);
    if (set < 0)
        broken("epoll_create1");
    return set;
}

static int change(int set, int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(set, operation, fd, &event);
}

// Up to 16 events, told in the order of their data.
static int observe_wait(int set, int timeout)
{
    struct epoll_event events[16];
    errno = 0;
    int count = epoll_wait(set, events, 16, timeout);
    if (count <= 0)
        say("epoll_wait: %d%s%s", count, count < 0 ? " " : "", count < 0 ? strerrorname_np(errno) : "");
    for (int i = 0; i < count; i++) {
        for (int j = i + 1; j < count; j++) {
            if (events[j].data.u64 < events[i].data.u64) {
                struct epoll_event swap = events[i];
                events[i] = events[j];
                events[j] = swap;
            }
        }
        say("epoll_wait: %d of %d: %s on %llx", i + 1, count, bits_of_epoll(events[i].events),
            (unsigned long long)events[i].data.u64);
    }
    return count;
}

static void level(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 1));
    observe_wait(set, 0);
    give(pair.client, "abc");
    for (int i = 0; i < 3; i++)
        observe_wait(set, 1000);
    observe_recv("server", pair.server, 2, 0);
    observe_wait(set, 1000);
    observe_recv("server", pair.server, 2, 0);
    observe_wait(set, 20);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, EPOLLIN | EPOLLOUT, 2));
    observe_wait(set, 1000);
    observe_wait(set, 1000);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, 0, 3));
    give(pair.client, "d");
    observe_wait(set, 20);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, EPOLLIN, 4));
    observe_wait(set, 1000);
    OBSERVE(change(set, EPOLL_CTL_DEL, pair.server, 0, 0));
    observe_wait(set, 20);
}

static void edge(void)
{
    struct pair pair = scene_pair();
    int set = make_set(), on = 1;
    // Or the kernel may keep the second of two small messages back until the first is acknowledged, 40 ms later.
    setsockopt(pair.client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLET, 1));
    observe_wait(set, 0);
    for (int i = 0; i < 3; i++) {
        give(pair.client, "abc");
        observe_wait(set, 1000);
        observe_wait(set, 20);
    }
    observe_recv("server", pair.server, 4, 0);
    observe_wait(set, 20);
    give(pair.client, "def");
    give(pair.client, "ghi");
    nap(20);
    observe_wait(set, 1000);
    observe_wait(set, 20);
    observe_recv("server", pair.server, 100, 0);
    observe_wait(set, 20);
    give(pair.client, "x");
    observe_wait(set, 1000);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, EPOLLIN | EPOLLET, 2));
    observe_wait(set, 1000);
    observe_wait(set, 20);
}

static void edge_with_output(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    set_nonblocking(pair.client, true);
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.client, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1));
    observe_wait(set, 0);
    observe_wait(set, 20);
    give(pair.server, "in");
    observe_wait(set, 1000);
    observe_wait(set, 20);
    observe_recv("client", pair.client, 100, 0);
    size_t sent = fill(pair.client);
    observe_wait(set, 20);
    say("all received: %s", drain(pair.server, sent) == sent ? "yes" : "no");
    observe_wait(set, 1000);
    shutdown(pair.server, SHUT_WR);
    nap(20);
    observe_wait(set, 1000);
    observe_wait(set, 20);
}

// Bytes and end that are there already when the socket joins the set.
static void joining_late(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    give(pair.client, "abc");
    shutdown(pair.client, SHUT_WR);
    nap(20);
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1));
    observe_wait(set, 1000);
    observe_wait(set, 20);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
    observe_wait(set, 20);
}

static void once(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLONESHOT, 1));
    give(pair.client, "abc");
    observe_wait(set, 1000);
    observe_wait(set, 20);
    give(pair.client, "def");
    observe_wait(set, 20);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, EPOLLIN | EPOLLONESHOT, 2));
    observe_wait(set, 1000);
    observe_wait(set, 20);
    observe_recv("server", pair.server, 100, 0);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, EPOLLIN | EPOLLONESHOT | EPOLLET, 3));
    observe_wait(set, 20);
    give(pair.client, "x");
    observe_wait(set, 1000);
    observe_wait(set, 20);
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 4));
    OBSERVE(change(set, EPOLL_CTL_DEL, pair.server, 0, 0));
}

// It is upgraded after it was reported, one of many: what was reported stays that.
static void once_among_many(void)
{
    enum { MANY = 250, TRIED = 25 };
    int set = make_set(), others[2], again = 0;
    struct epoll_event event;
    struct rlimit limit = {2048, 2048};
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < MANY; i++) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, others) < 0)
            broken("socketpair");
        change(set, EPOLL_CTL_ADD, others[0], EPOLLIN, 1000);
    }
    for (int i = 0; i < TRIED; i++) {
        struct pair pair = scene_fresh_pair(AF_INET);
        change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLONESHOT, (uint64_t)i);
        give(pair.client, "reported");
        if (epoll_wait(set, &event, 1, 1000) != 1)
            broken("epoll_wait");
        scene_upgrade(pair);
        again += epoll_wait(set, &event, 1, 0);
    }
    say("reported again: %d", again);
}

static void exclusive(void)
{
    struct pair pair = scene_pair();
    int one = make_set(), two = make_set();
    OBSERVE(change(one, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLEXCLUSIVE, 1));
    OBSERVE(change(two, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLEXCLUSIVE, 2));
    OBSERVE(change(one, EPOLL_CTL_MOD, pair.server, EPOLLIN, 1));
    int other = make_set();
    OBSERVE(change(other, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 1));
    OBSERVE(change(other, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLEXCLUSIVE | EPOLLRDHUP, 1));
    give(pair.client, "x");
    nap(20);
    struct epoll_event event;
    int woken = epoll_wait(one, &event, 1, 100) + epoll_wait(two, &event, 1, 100);
    say("%s woken", woken >= 1 ? "somebody is" : "nobody is");
    observe_recv("server", pair.server, 100, 0);
    observe_wait(one, 20);
    observe_wait(two, 20);
    OBSERVE(change(one, EPOLL_CTL_DEL, pair.server, 0, 0));
}

static void nested(void)
{
    struct pair pair = scene_pair();
    int inner = make_set(), outer = make_set();
    OBSERVE(change(inner, EPOLL_CTL_ADD, pair.server, EPOLLIN, 1));
    OBSERVE(change(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2));
    struct pollfd one = {.fd = inner, .events = POLLIN | POLLOUT};
    observe_wait(outer, 20);
    OBSERVE(poll(&one, 1, 20));
    give(pair.client, "x");
    observe_wait(outer, 1000);
    observe_wait(inner, 1000);
    OBSERVE(poll(&one, 1, 1000));
    say("revents %s", bits_of_poll((unsigned)one.revents));
    fd_set reading;
    FD_ZERO(&reading);
    FD_SET(outer, &reading);
    struct timeval time = {1, 0};
    OBSERVE(select(outer + 1, &reading, NULL, NULL, &time));
    observe_recv("server", pair.server, 100, 0);
    observe_wait(outer, 20);
    OBSERVE(poll(&one, 1, 20));
    struct later later;
    struct saying words = {pair.client, "y"};
    scene_later(&later, 50, act_give, &words);
    double begin = now();
    observe_wait(outer, 3000);
    say_elapsed(begin, 50);
    scene_join(&later);
    observe_recv("server", pair.server, 100, 0);
    scene_later(&later, 50, act_give, &words);
    begin = now();
    OBSERVE(poll(&one, 1, 3000));
    say_elapsed(begin, 50);
    scene_join(&later);
    OBSERVE(change(inner, EPOLL_CTL_ADD, outer, EPOLLIN, 3));
}

static void ends(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1));
    shutdown(pair.client, SHUT_WR);
    nap(20);
    observe_wait(set, 1000);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, EPOLLRDHUP, 2));
    observe_wait(set, 1000);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, EPOLLOUT, 3));
    observe_wait(set, 1000);
    shutdown(pair.server, SHUT_WR);
    nap(20);
    observe_wait(set, 1000);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, 0, 4));
    observe_wait(set, 1000);
}

static void reset(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1));
    setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(pair.client);
    nap(20);
    observe_wait(set, 1000);
    observe_recv("server", pair.server, 10, 0);
    observe_wait(set, 1000);
}

static void errors(void)
{
    struct pair pair = scene_pair();
    int set = make_set(), file = open("/proc/self/exe", O_RDONLY);
    struct epoll_event event = {0};
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, EPOLLIN, 1));
    OBSERVE(change(set, EPOLL_CTL_DEL, pair.server, EPOLLIN, 1));
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 1));
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 2));
    OBSERVE(change(set, 77, pair.server, EPOLLIN, 2));
    OBSERVE(change(set, EPOLL_CTL_ADD, set, EPOLLIN, 2));
    OBSERVE(change(set, EPOLL_CTL_ADD, file, EPOLLIN, 2));
    OBSERVE(change(set, EPOLL_CTL_ADD, 999, EPOLLIN, 2));
    OBSERVE(change(file, EPOLL_CTL_ADD, pair.server, EPOLLIN, 2));
    OBSERVE(change(999, EPOLL_CTL_ADD, pair.server, EPOLLIN, 2));
    OBSERVE(change(pair.client, EPOLL_CTL_ADD, pair.server, EPOLLIN, 2));
    OBSERVE(epoll_ctl(set, EPOLL_CTL_ADD, pair.client, NULL));
    OBSERVE(epoll_ctl(set, EPOLL_CTL_DEL, pair.server, NULL));
    OBSERVE(epoll_wait(set, &event, 0, 0));
    OBSERVE(epoll_wait(set, &event, minus_one(), 0));
    OBSERVE(epoll_wait(pair.server, &event, 1, 0));
    OBSERVE(epoll_wait(999, &event, 1, 0));
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 1));
    give(pair.client, "x");
    nap(20);
    OBSERVE(epoll_wait(set, nowhere(), 1, 100));
    observe_wait(set, 1000);
    OBSERVE(epoll_create(0));
    OBSERVE(epoll_create1(12345));
}

static void closing(void)
{
    struct pair one = scene_pair(), two = scene_pair();
    int set = make_set(), copy = dup(two.server), number = two.server;
    OBSERVE(change(set, EPOLL_CTL_ADD, one.server, EPOLLIN, 1));
    OBSERVE(change(set, EPOLL_CTL_ADD, two.server, EPOLLIN, 2));
    give(one.client, "x");
    give(two.client, "y");
    OBSERVE(close(one.server));
    observe_wait(set, 1000);
    OBSERVE(close(two.server));
    observe_wait(set, 1000); // its copy keeps the socket, and the set, going
    OBSERVE(change(set, EPOLL_CTL_DEL, number, 0, 0));
    observe_recv("the copy", copy, 10, 0);
    observe_wait(set, 20);
    OBSERVE(change(set, EPOLL_CTL_ADD, copy, EPOLLIN, 3));
    give(two.client, "z");
    observe_wait(set, 1000);
    OBSERVE(close(copy));
    observe_wait(set, 20);
}

// A number given anew is another member, or none.
static void reused_number(void)
{
    struct pair one = scene_pair(), two = scene_pair();
    int set = make_set(), number = one.server;
    OBSERVE(change(set, EPOLL_CTL_ADD, number, EPOLLIN, 1));
    OBSERVE(close(number));
    OBSERVE(dup2(two.server, number) == number);
    give(two.client, "x");
    observe_wait(set, 20);
    OBSERVE(change(set, EPOLL_CTL_MOD, number, EPOLLIN, 2));
    OBSERVE(change(set, EPOLL_CTL_ADD, number, EPOLLIN, 3));
    observe_wait(set, 1000);
    OBSERVE(change(set, EPOLL_CTL_ADD, two.server, EPOLLIN | EPOLLET, 4));
    observe_wait(set, 1000);
    observe_wait(set, 1000);
    OBSERVE(close(two.server));
    observe_wait(set, 1000);
}

static void copies(void)
{
    struct pair pair = scene_pair();
    int set = make_set(), copy = dup(pair.server);
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 0xfeedfacecafebeefULL));
    OBSERVE(change(set, EPOLL_CTL_ADD, copy, EPOLLIN | EPOLLOUT, 7));
    give(pair.client, "x");
    observe_wait(set, 1000);
    OBSERVE(change(set, EPOLL_CTL_DEL, pair.server, 0, 0));
    observe_wait(set, 1000);
}

// All that are ready get their turn, however few events are asked for at once.
static void turns(void)
{
    enum { PAIRS = 9 };
    struct pair pairs[PAIRS];
    int set = make_set(), seen[PAIRS] = {0};
    for (int i = 0; i < PAIRS; i++) {
        pairs[i] = i % 3 == 2 ? scene_fresh_pair(AF_INET) : scene_pair();
        change(set, EPOLL_CTL_ADD, pairs[i].server, EPOLLIN, (uint64_t)i);
        give(pairs[i].client, "x");
    }
    nap(20);
    for (int round = 0; round < 3; round++) {
        struct epoll_event events[3];
        int count = epoll_wait(set, events, 3, 1000);
        say("%d events", count);
        for (int i = 0; i < count; i++)
            seen[events[i].data.u64]++;
    }
    for (int i = 0; i < PAIRS; i++)
        say("member %d was told %d times", i, seen[i]);
}

static void timeouts(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    struct epoll_event event;
    struct timespec time = {0, 70000000};
    struct later later;
    struct saying words = {pair.client, "x"};
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 1));
    double begin = now();
    OBSERVE(epoll_wait(set, &event, 1, 0));
    say_elapsed(begin, 0);
    begin = now();
    OBSERVE(epoll_wait(set, &event, 1, 60));
    say_elapsed(begin, 60);
    begin = now();
    OBSERVE(epoll_pwait(set, &event, 1, 50, NULL));
    say_elapsed(begin, 50);
    begin = now();
    OBSERVE(epoll_pwait2(set, &event, 1, &time, NULL));
    say_elapsed(begin, 70);
    scene_later(&later, 80, act_give, &words);
    begin = now();
    OBSERVE(epoll_wait(set, &event, 1, -1));
    say_elapsed(begin, 80);
    scene_join(&later);
    begin = now();
    OBSERVE(epoll_pwait2(set, &event, 1, NULL, NULL));
    say_elapsed(begin, 0);
}

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
    signals++;
}

static void masks(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    struct epoll_event event;
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    struct timespec long_time = {5, 0};
    sigset_t one, empty;
    change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 1);
    sigaction(SIGUSR1, &action, NULL);
    sigemptyset(&empty);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    sigprocmask(SIG_BLOCK, &one, NULL);
    raise(SIGUSR1);
    OBSERVE(epoll_wait(set, &event, 1, 20));
    say("%d signals", (int)signals);
    OBSERVE(epoll_pwait(set, &event, 1, 5000, &empty));
    say("%d signals", (int)signals);
    raise(SIGUSR1);
    OBSERVE(epoll_pwait2(set, &event, 1, &long_time, &empty));
    say("%d signals", (int)signals);
}

struct joining {
    int set, fd;
    int operation;
    uint32_t events;
};

static void act_change(void *argument)
{
    const struct joining *joining = argument;
    change(joining->set, joining->operation, joining->fd, joining->events, 5);
}

// Another thread lets a socket with bytes join a set that is being waited for.
static void changed_while_waiting(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    struct later later;
    struct joining joining = {set, pair.server, EPOLL_CTL_ADD, EPOLLIN};
    give(pair.client, "x");
    scene_later(&later, 60, act_change, &joining);
    double begin = now();
    observe_wait(set, 3000);
    say_elapsed(begin, 60);
    scene_join(&later);
    OBSERVE(change(set, EPOLL_CTL_MOD, pair.server, 0, 6));
    joining.operation = EPOLL_CTL_MOD;
    scene_later(&later, 60, act_change, &joining);
    begin = now();
    observe_wait(set, 3000);
    say_elapsed(begin, 60);
    scene_join(&later);
}

// The connection is upgraded while it is a member already, as in every server.
static void upgraded_as_member(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    int level_set = make_set(), edge_set = make_set();
    struct epoll_event event;
    OBSERVE(change(level_set, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLRDHUP, 1));
    OBSERVE(change(edge_set, EPOLL_CTL_ADD, pair.client, EPOLLIN | EPOLLOUT | EPOLLET, 2));
    scene_upgrade(pair);
    while (epoll_wait(edge_set, &event, 1, 20) > 0)
        continue;
    observe_wait(level_set, 20);
    give(pair.client, "x");
    observe_wait(level_set, 1000);
    give(pair.server, "y");
    observe_wait(edge_set, 1000);
    observe_wait(edge_set, 20);
    observe_recv("server", pair.server, 10, 0);
    observe_recv("client", pair.client, 10, 0);
    close(pair.client);
    observe_wait(level_set, 1000);
}

static void mixed(void)
{
    struct pair pair = scene_pair();
    int set = make_set(), ends_of_pipe[2], event = eventfd(0, EFD_NONBLOCK);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec soon = {.it_value = {0, 40000000}};
    uint64_t one = 1;
    if (pipe(ends_of_pipe) < 0)
        broken("pipe");
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 1));
    OBSERVE(change(set, EPOLL_CTL_ADD, ends_of_pipe[0], EPOLLIN, 2));
    OBSERVE(change(set, EPOLL_CTL_ADD, event, EPOLLIN | EPOLLET, 3));
    OBSERVE(change(set, EPOLL_CTL_ADD, timer, EPOLLIN, 4));
    double begin = now();
    timerfd_settime(timer, 0, &soon, NULL);
    observe_wait(set, 3000);
    say_elapsed(begin, 40);
    OBSERVE(read(timer, &one, 8));
    one = 1;
    OBSERVE(write(event, &one, 8));
    observe_wait(set, 3000);
    observe_wait(set, 20);
    OBSERVE(write(ends_of_pipe[1], "p", 1));
    give(pair.client, "s");
    nap(10);
    observe_wait(set, 3000);
    observe_recv("server", pair.server, 10, 0);
    observe_wait(set, 3000);
}

static void after_fork(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN, 1));
    pid_t pid = fork();
    if (pid == 0) {
        observe_wait(set, 3000);
        observe_recv("the child", pair.server, 100, 0);
        _exit(0);
    }
    nap(50);
    give(pair.client, "for the child");
    scene_reap(pid);
    observe_wait(set, 20);
    give(pair.client, "for the parent");
    observe_wait(set, 1000);
    observe_recv("the parent", pair.server, 100, 0);
}

static void *wait_for_edge(void *set)
{
    struct epoll_event event;
    return (void *)(long)epoll_wait(*(int *)set, &event, 1, 300);
}

// One edge wakes one of the threads that wait.
static void edge_among_threads(void)
{
    enum { THREADS = 3 };
    struct pair pair = scene_pair();
    int set = make_set();
    pthread_t threads[THREADS];
    long sum = 0;
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.server, EPOLLIN | EPOLLET, 1));
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, wait_for_edge, &set);
    nap(100);
    give(pair.client, "x");
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        sum += (long)result;
    }
    say("%ld threads were woken", sum);
}

static void full_socket(void)
{
    struct pair pair = scene_pair();
    int set = make_set();
    size_t sent = fill(pair.client);
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.client, EPOLLOUT, 1));
    observe_wait(set, 30);
    say("all received: %s", drain(pair.server, sent) == sent ? "yes" : "no");
    observe_wait(set, 3000);
    observe_wait(set, 3000);
}

// It has bytes but no room when it joins, so that the first room is news, after the bytes were. No call has found it
// full: only poll was asked.
static void edge_of_full_socket(void)
{
    struct pair pair = scene_pair();
    struct pollfd one = {.fd = pair.client, .events = POLLOUT};
    int set = make_set();
    size_t sent = 0;
    static const char bytes[4096];
    for (int idle = 0; idle < 4; idle++) {
        while (poll(&one, 1, 25) == 1) {
            if (send(pair.client, bytes, sizeof bytes, MSG_DONTWAIT) != (ssize_t)sizeof bytes)
                broken("send");
            sent += sizeof bytes;
            idle = 0;
        }
    }
    give(pair.server, "x");
    OBSERVE(change(set, EPOLL_CTL_ADD, pair.client, EPOLLIN | EPOLLOUT | EPOLLET, 1));
    observe_wait(set, 1000);
    observe_wait(set, 30);
    say("all received: %s", drain(pair.server, sent) == sent ? "yes" : "no");
    observe_wait(set, 3000);
    observe_wait(set, 30);
}

const struct scene_case epoll_cases[] = {
    {"epoll_level", level},
    {"epoll_edge", edge},
    {"epoll_edge_with_output", edge_with_output},
    {"epoll_joining_late", joining_late},
    {"epoll_once", once},
    {"epoll_once_among_many", once_among_many},
    {"epoll_exclusive", exclusive},
    {"epoll_nested", nested},
    {"epoll_ends", ends},
    {"epoll_reset", reset},
    {"epoll_errors", errors},
    {"epoll_closing", closing},
    {"epoll_reused_number", reused_number},
    {"epoll_copies", copies},
    {"epoll_turns", turns},
    {"epoll_timeouts", timeouts},
    {"epoll_masks", masks},
    {"epoll_changed_while_waiting", changed_while_waiting},
    {"epoll_upgraded_as_member", upgraded_as_member},
    {"epoll_mixed", mixed},
    {"epoll_after_fork", after_fork},
    {"epoll_edge_among_threads", edge_among_threads},
    {"epoll_full_socket", full_socket},
    {"epoll_edge_of_full_socket", edge_of_full_socket},
    {NULL, NULL},
};
