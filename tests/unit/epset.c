// epoll sets whose sockets leave TCP for a ring and come back to it: what is told, to whom, and under which name.
//
// The library is linked into this program, whose calls it answers. There is no agent: the sessions are made here, and
// the ways of a socket are set by hand, while nothing is under way, as they would be after an attach or a return.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/end.h"
#include "core/memfd.h"
#include "core/session.h"
#include "core/sys.h"
#include "preload/epset.h"
#include "preload/epset_reg.h"
#include "preload/session.h"
#include "preload/sock.h"

#define RING_BYTES 16384u

struct pair {
    int near, far;
};

static struct pair connect_pair(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    struct pair pair = {.near = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    assert_int_equal(connect(pair.near, (struct sockaddr *)&address, size), 0);
    pair.far = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(pair.far >= 0);
    close(listener);
    return pair;
}

static int sealed_memory(size_t bytes, void **address)
{
    int fd = memfd_make("epset", bytes);
    assert_true(fd >= 0);
    assert_int_equal(memfd_map(fd, bytes, 1, address), 0);
    return fd;
}

static int end_memory(uint64_t id, uint32_t side)
{
    void *memory;
    int fd = sealed_memory(END_BYTES, &memory);
    assert_int_equal(end_init(memory, id, 1, side), 0);
    memfd_unmap(memory, END_BYTES);
    return fd;
}

static void attach_side(int fd, uint32_t side, uint64_t id, int session, const int bell[2])
{
    struct wire_attach message = {.session = id, .side = side, .transport = TRANSPORT_SHM, .ring_bytes = RING_BYTES};
    int fds[WIRE_ATTACH_FDS] = {dup(session), end_memory(id, side), dup(bell[side]), dup(bell[1 - side]),
                                dup(bell[side])};
    struct sock *sock = sock_hold(fd);
    assert_non_null(sock);
    assert_int_equal(session_map(sock, &message, fds), 0);
    sock_drop(sock);
}

static void attach(struct pair pair)
{
    static uint64_t id;
    void *memory;
    int session = sealed_memory(session_bytes(RING_BYTES), &memory);
    int bell[2] = {eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    session_init(memory, ++id, TRANSPORT_SHM, RING_BYTES);
    memfd_unmap(memory, session_bytes(RING_BYTES));
    attach_side(pair.near, 0, id, session, bell);
    attach_side(pair.far, 1, id, session, bell);
    close(session);
    close(bell[0]);
    close(bell[1]);
}

static void receive(int fd, size_t size)
{
    char bytes[256];
    while (size > 0) {
        ssize_t n = recv(fd, bytes, size < sizeof bytes ? size : sizeof bytes, 0);
        assert_true(n > 0);
        size -= (size_t)n;
    }
}

static void give(int fd, size_t size)
{
    char bytes[256] = {0};
    assert_int_equal(send(fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
}

static bool in_ring(int fd)
{
    struct sock *sock = sock_hold(fd);
    bool ring = sock->rx_way == WAY_RING && sock->tx_way == WAY_RING;
    sock_drop(sock);
    return ring;
}

// Both directions come into the ring by being used.
static void upgrade(struct pair pair)
{
    attach(pair);
    for (int i = 0; i < 10 && !(in_ring(pair.near) && in_ring(pair.far)); i++) {
        give(pair.near, 1);
        receive(pair.far, 1);
        give(pair.far, 1);
        receive(pair.near, 1);
    }
    assert_true(in_ring(pair.near));
    assert_true(in_ring(pair.far));
}

static void set_ways(int fd, uint8_t rx, uint8_t tx)
{
    struct sock *sock = sock_hold(fd);
    atomic_store(&sock->rx_way, rx);
    atomic_store(&sock->tx_way, tx);
    atomic_store(&sock->share->rx_gate, rx == WAY_TCP ? 0 : GATE_CLOSED);
    atomic_store(&sock->share->tx_gate, tx == WAY_TCP ? 0 : GATE_CLOSED);
    atomic_store(&sock->session.rx.shared->watching, 0);
    atomic_store(&sock->attached, rx != WAY_TCP || tx != WAY_TCP);
    epset_sock_changed(sock);
    sock_drop(sock);
}

// The rings are empty, and left.
static void step_down(struct pair pair)
{
    set_ways(pair.near, WAY_TCP, WAY_TCP);
    set_ways(pair.far, WAY_TCP, WAY_TCP);
}

static bool needs_ring(int fd)
{
    struct sock *sock = sock_hold(fd);
    bool needs = epset_sock_needs_ring(sock);
    sock_drop(sock);
    return needs;
}

static int change(int set, int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(set, operation, fd, &event);
}

// The events of the single one that is told of, 0 if none is.
static uint32_t told(int set, int milliseconds, uint64_t data)
{
    struct epoll_event events[4];
    int n = epoll_wait(set, events, 4, milliseconds);
    assert_in_range(n, 0, 1);
    if (n)
        assert_int_equal(events[0].data.u64, data);
    return n ? events[0].events : 0;
}

// What the kernel itself has in the set: the entry is the program's own, or it is not.
static uint32_t kernel_tells(int set, uint64_t data)
{
    struct epoll_event events[4];
    int n = (int)sys_call(SYS_epoll_pwait, set, events, 4, 200, NULL, 8);
    assert_in_range(n, 0, 1);
    if (n)
        assert_int_equal(events[0].data.u64, data);
    return n ? events[0].events : 0;
}

static void disconnect(struct pair pair, int set)
{
    close(pair.near);
    close(pair.far);
    close(set);
}

// --- back to TCP ---

static void level_returns(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN, 11), 0);
    upgrade(pair);
    give(pair.far, 3);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    receive(pair.near, 3);
    assert_true(needs_ring(pair.near));
    step_down(pair);
    assert_false(needs_ring(pair.near));
    assert_int_equal(told(set, 20, 11), 0);
    give(pair.far, 3);
    assert_int_equal(kernel_tells(set, 11), EPOLLIN);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    receive(pair.near, 3);
    assert_int_equal(told(set, 20, 11), 0);
    assert_int_equal(change(set, EPOLL_CTL_MOD, pair.near, EPOLLOUT, 12), 0);
    assert_int_equal(told(set, 500, 12), EPOLLOUT);
    assert_int_equal(change(set, EPOLL_CTL_DEL, pair.near, 0, 0), 0);
    assert_int_equal(told(set, 20, 12), 0);
    disconnect(pair, set);
}

// What came by TCP before the registration was back is told all the same.
static void edge_returns(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN | EPOLLET, 11), 0);
    upgrade(pair);
    while (told(set, 20, 11))
        continue;
    set_ways(pair.far, WAY_TCP, WAY_TCP);
    give(pair.far, 2);
    struct timespec a_moment = {0, 20000000};
    nanosleep(&a_moment, NULL);
    set_ways(pair.near, WAY_TCP, WAY_TCP);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    assert_int_equal(told(set, 20, 11), 0);
    give(pair.far, 2);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    assert_int_equal(told(set, 20, 11), 0);
    disconnect(pair, set);
}

static void once_returns(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC);
    upgrade(pair);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN | EPOLLONESHOT, 11), 0);
    step_down(pair);
    give(pair.far, 2);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    assert_int_equal(told(set, 20, 11), 0);
    disconnect(pair, set);
}

// It was told while in the ring; in TCP it is silent until it is asked for again.
static void spent_returns(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC);
    upgrade(pair);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN | EPOLLONESHOT, 11), 0);
    give(pair.far, 2);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    receive(pair.near, 2);
    step_down(pair);
    assert_false(needs_ring(pair.near));
    give(pair.far, 2);
    assert_int_equal(told(set, 20, 11), 0);
    assert_int_equal(change(set, EPOLL_CTL_MOD, pair.near, EPOLLIN | EPOLLONESHOT, 12), 0);
    assert_int_equal(told(set, 500, 12), EPOLLIN);
    assert_int_equal(told(set, 20, 12), 0);
    disconnect(pair, set);
}

static void deleted_stays_deleted(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC);
    upgrade(pair);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN, 11), 0);
    assert_int_equal(change(set, EPOLL_CTL_DEL, pair.near, 0, 0), 0);
    step_down(pair);
    give(pair.far, 2);
    assert_int_equal(told(set, 20, 11), 0);
    assert_int_equal(change(set, EPOLL_CTL_DEL, pair.near, 0, 0), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN | EPOLLEXCLUSIVE, 12), 0);
    assert_int_equal(told(set, 500, 12), EPOLLIN);
    disconnect(pair, set);
}

static void one_direction_returns(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN, 11), 0);
    upgrade(pair);
    set_ways(pair.far, WAY_RING, WAY_TCP);
    set_ways(pair.near, WAY_TCP, WAY_RING);
    assert_int_equal(told(set, 20, 11), 0);
    give(pair.far, 3);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    char bytes[3]; // by the kernel itself: a call of ours would take the ring up again
    assert_int_equal(sys_call(SYS_recvfrom, pair.near, bytes, 3, 0, NULL, NULL), 3);
    assert_int_equal(told(set, 20, 11), 0);
    disconnect(pair, set);
}

// Registered under a number that is closed while a copy remains.
static void closed_number_returns(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC), copy = dup(pair.near);
    upgrade(pair);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN, 11), 0);
    close(pair.near);
    give(pair.far, 2);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    receive(copy, 2);
    set_ways(copy, WAY_TCP, WAY_TCP);
    set_ways(pair.far, WAY_TCP, WAY_TCP);
    assert_false(needs_ring(copy));
    give(pair.far, 2);
    assert_int_equal(told(set, 500, 11), EPOLLIN);
    assert_int_equal(dup2(copy, pair.near), pair.near);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN, 12), -1);
    assert_int_equal(errno, EEXIST);
    assert_int_equal(change(set, EPOLL_CTL_MOD, pair.near, EPOLLIN, 13), 0);
    assert_int_equal(told(set, 500, 13), EPOLLIN);
    assert_int_equal(change(set, EPOLL_CTL_DEL, pair.near, 0, 0), 0);
    assert_int_equal(told(set, 20, 13), 0);
    close(copy);
    disconnect(pair, set);
}

// Up and down and up again, with new sessions, under one registration.
static void again_and_again(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC);
    assert_int_equal(change(set, EPOLL_CTL_ADD, pair.near, EPOLLIN, 11), 0);
    for (int i = 0; i < 20; i++) {
        upgrade(pair);
        give(pair.far, 3);
        assert_int_equal(told(set, 500, 11), EPOLLIN);
        receive(pair.near, 3);
        assert_int_equal(told(set, 1, 11), 0); // armed: what comes next rings the bell
        give(pair.far, 3);
        assert_int_equal(told(set, 500, 11), EPOLLIN);
        receive(pair.near, 3);
        step_down(pair);
        for (int side = 0; side < 2; side++) {
            struct sock *sock = sock_hold(side ? pair.far : pair.near);
            session_unmap(sock);
            sock_drop(sock);
        }
        give(pair.far, 3);
        assert_int_equal(told(set, 500, 11), EPOLLIN);
        receive(pair.near, 3);
    }
    disconnect(pair, set);
}

// --- with threads ---

struct waiter {
    pthread_t thread;
    int set;
    _Atomic int events;
};

static void *wait_for_one(void *argument)
{
    struct waiter *waiter = argument;
    struct epoll_event event;
    atomic_store(&waiter->events, epoll_wait(waiter->set, &event, 1, 5000));
    return NULL;
}

static void sleeper_is_woken(void **state)
{
    struct pair pair = connect_pair();
    struct waiter waiter = {.set = epoll_create1(EPOLL_CLOEXEC)};
    struct timespec a_moment = {0, 50000000};
    upgrade(pair);
    assert_int_equal(change(waiter.set, EPOLL_CTL_ADD, pair.near, EPOLLIN, 11), 0);
    pthread_create(&waiter.thread, NULL, wait_for_one, &waiter);
    nanosleep(&a_moment, NULL);
    step_down(pair);
    nanosleep(&a_moment, NULL);
    assert_int_equal(waiter.events, 0);
    give(pair.far, 1);
    pthread_join(waiter.thread, NULL);
    assert_int_equal(waiter.events, 1);
    disconnect(pair, waiter.set);
}

#define SETS 3

struct crowd {
    struct pair pair;
    int set[SETS];
    _Atomic bool over;
};

static void *wait_in_all(void *argument)
{
    struct crowd *crowd = argument;
    struct epoll_event events[4];
    for (unsigned i = 0; !crowd->over; i++) {
        int n = epoll_wait(crowd->set[i % SETS], events, 4, 0);
        assert_in_range(n, 0, 4);
    }
    return NULL;
}

static void *change_in_all(void *argument)
{
    struct crowd *crowd = argument;
    for (unsigned i = 0; !crowd->over; i++) {
        change(crowd->set[i % SETS], i % 2 ? EPOLL_CTL_DEL : EPOLL_CTL_ADD, crowd->pair.far, EPOLLIN, 12);
        change(crowd->set[i % SETS], EPOLL_CTL_MOD, crowd->pair.near, EPOLLIN | (i % 2 ? EPOLLOUT : 0), 11);
    }
    return NULL;
}

static void threads_in_several_sets(void **state)
{
    struct crowd crowd = {.pair = connect_pair()};
    pthread_t threads[4];
    upgrade(crowd.pair);
    for (int i = 0; i < SETS; i++) {
        crowd.set[i] = epoll_create1(EPOLL_CLOEXEC);
        assert_int_equal(change(crowd.set[i], EPOLL_CTL_ADD, crowd.pair.near, EPOLLIN, 11), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, i < 3 ? wait_in_all : change_in_all, &crowd);
    for (int i = 0; i < 2000; i++)
        set_ways(crowd.pair.near, i % 2 ? WAY_RING : WAY_TCP, i % 2 ? WAY_RING : WAY_TCP);
    crowd.over = true;
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    set_ways(crowd.pair.near, WAY_TCP, WAY_TCP);
    set_ways(crowd.pair.far, WAY_TCP, WAY_TCP);
    give(crowd.pair.far, 1);
    for (int i = 0; i < SETS; i++) {
        change(crowd.set[i], EPOLL_CTL_DEL, crowd.pair.far, 0, 0);
        assert_int_equal(change(crowd.set[i], EPOLL_CTL_MOD, crowd.pair.near, EPOLLIN, 11), 0);
        assert_int_equal(told(crowd.set[i], 500, 11), EPOLLIN);
        close(crowd.set[i]);
    }
    close(crowd.pair.near);
    close(crowd.pair.far);
}

// --- names ---

static uint64_t name_of_new(int set, int fd)
{
    struct epset *epset = epset_find(set);
    struct sock *sock = sock_hold(fd);
    struct reg *reg = reg_add(epset, sock, fd);
    uint64_t name = reg_tag(reg, 0);
    assert_true(reg_tagged(name));
    assert_ptr_equal(reg_of_tag(epset, name), reg);
    reg_free(reg);
    assert_null(reg_of_tag(epset, name));
    sock_drop(sock);
    epset_drop(epset);
    return name;
}

// Relatives that share a set do not give the same name to two things.
static void forked_names_differ(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC), ends[2];
    assert_int_equal(pipe(ends), 0);
    name_of_new(set, pair.near);
    for (int i = 0; i < 2; i++) {
        if (fork() == 0) {
            uint64_t name = name_of_new(set, pair.near);
            _exit(write(ends[1], &name, sizeof name) == sizeof name ? 0 : 1);
        }
    }
    uint64_t names[3] = {name_of_new(set, pair.near)};
    for (int i = 1; i < 3; i++) {
        assert_int_equal(read(ends[0], &names[i], sizeof names[i]), sizeof names[i]);
        wait(NULL);
    }
    assert_int_not_equal(names[0], names[1]);
    assert_int_not_equal(names[0], names[2]);
    assert_int_not_equal(names[1], names[2]);
    close(ends[0]);
    close(ends[1]);
    disconnect(pair, set);
}

static void same_place_other_name(void **state)
{
    struct pair pair = connect_pair();
    int set = epoll_create1(EPOLL_CLOEXEC);
    assert_int_not_equal(name_of_new(set, pair.near), name_of_new(set, pair.near));
    disconnect(pair, set);
}

// --- poll ---

#define GIVEN 50000

struct giving {
    int fd, end, taker;
    atomic_int taken;
};

static void *give_all(void *argument)
{
    struct giving *giving = argument;
    for (int i = 0; i < GIVEN; i++) {
        while (atomic_load(&giving->taken) < i)
            sched_yield();
        give(giving->fd, 1);
    }
    assert_int_equal(write(giving->end, "", 1), 1);
    return NULL;
}

static void *take_all(void *argument)
{
    struct giving *giving = argument;
    char byte;
    while (atomic_load(&giving->taken) < GIVEN) {
        if (recv(giving->taker, &byte, 1, MSG_DONTWAIT) == 1)
            atomic_fetch_add(&giving->taken, 1);
    }
    return NULL;
}

// One thread takes what another is just being told of. That one has not waited to the end of its time, which has none.
static void taken_meanwhile(void **state)
{
    struct pair pair = connect_pair();
    pthread_t giver, taker;
    int end[2];
    upgrade(pair);
    assert_int_equal(pipe2(end, O_CLOEXEC), 0);
    struct giving giving = {.fd = pair.near, .end = end[1], .taker = pair.far};
    struct pollfd both[2] = {{.fd = pair.far, .events = POLLIN}, {.fd = end[0], .events = POLLIN}};
    pthread_create(&giver, NULL, give_all, &giving);
    pthread_create(&taker, NULL, take_all, &giving);
    while (!both[1].revents)
        assert_true(poll(both, 2, -1) > 0);
    pthread_join(giver, NULL);
    pthread_join(taker, NULL);
    close(end[1]);
    disconnect(pair, end[0]);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(level_returns),         cmocka_unit_test(edge_returns),
        cmocka_unit_test(once_returns),          cmocka_unit_test(spent_returns),
        cmocka_unit_test(deleted_stays_deleted), cmocka_unit_test(one_direction_returns),
        cmocka_unit_test(closed_number_returns), cmocka_unit_test(again_and_again),
        cmocka_unit_test(sleeper_is_woken),      cmocka_unit_test(threads_in_several_sets),
        cmocka_unit_test(forked_names_differ),   cmocka_unit_test(same_place_other_name),
        cmocka_unit_test(taken_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
