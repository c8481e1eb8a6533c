#include "tests/e2e/exact/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

// Calls that a level-triggered loop makes on one ready socket before it turns to the next.
#define BURST 3

const char *const loop_names[LOOP_KINDS] = {"threads", "poll", "select", "epoll", "epoll-edge", "epoll-oneshot"};

void loop_set_blocking(struct side *side, bool blocking)
{
    int flags = fcntl(side->fd, F_GETFL);
    fcntl(side->fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
    if ((fcntl(side->fd, F_GETFL) & O_NONBLOCK) != (blocking ? 0 : O_NONBLOCK))
        fail("connection %u: O_NONBLOCK does not stay as it was set", side->connection);
    side->blocking = blocking;
}

// One step of a direction. Returns false when it has to wait.

static bool wants_in(const struct side *side)
{
    return !side->in_done;
}

// Not while it is the other one's turn.
static bool wants_out(const struct side *side)
{
    return !side->out_done && (side->out.offset < side_limit(side) || side->out.offset == side->out.until);
}

static bool step_out(struct side *side)
{
    if (side->out.offset < side->out.until && side_send(side) == WOULD_BLOCK)
        return false;
    if (side->out.offset == side->out.until) {
        side->out_done = true;
        if (side->out.until == side->out.total)
            side_shut(side);
    }
    return true;
}

static bool step_in(struct side *side)
{
    bool ends_later = side->in.until < side->in.total;
    enum outcome outcome = ends_later && side->in.offset == side->in.until ? PROGRESS : side_receive(side);
    if (outcome == WOULD_BLOCK)
        return false;
    side->in_done = outcome == ENDED || (ends_later && side->in.offset == side->in.until);
    return true;
}

// Closing.

static bool holds;

void loop_hold(void)
{
    holds = true;
}

static void close_held(struct side *side)
{
    struct pollfd one = {.fd = side->fd};
    while (!(one.revents & (POLLHUP | POLLERR))) {
        if (poll(&one, 1, -1) < 0 && errno != EINTR)
            fail("connection %u: poll: %s", side->connection, strerror(errno));
    }
    close(side->fd);
}

static void close_ended_side(struct side *side)
{
    if (holds)
        close_held(side);
    else
        close(side->fd);
}

// Threads.

static void wait_alone(struct side *side, short events)
{
    struct pollfd one = {.fd = side->fd, .events = events};
    if (poll(&one, 1, -1) < 0 && errno != EINTR)
        fail("connection %u: poll: %s", side->connection, strerror(errno));
}

static void *send_all(void *argument)
{
    struct side *side = argument;
    while (!side->out_done) {
        if (!step_out(side))
            wait_alone(side, POLLOUT);
    }
    return NULL;
}

static void *receive_all(void *argument)
{
    struct side *side = argument;
    while (!side->in_done) {
        if (!step_in(side))
            wait_alone(side, POLLIN);
    }
    return NULL;
}

static void *talk(void *argument)
{
    struct side *side = argument;
    while (!side->in_done || !side->out_done) {
        bool out = wants_out(side);
        if (!(out ? step_out(side) : step_in(side)))
            wait_alone(side, out ? POLLOUT : POLLIN);
    }
    return NULL;
}

static void *do_nothing(void *argument)
{
    return argument;
}

static void run_threads(struct side *sides, unsigned count)
{
    pthread_t *threads = calloc(2 * count, sizeof *threads);
    for (unsigned i = 0; i < count; i++) {
        // Some of the sockets do not block, so that calls and waits of several threads mix on them.
        loop_set_blocking(&sides[i], !chance_once_in(&sides[i].out_chance, 3));
        bool talks = sides[i].turn != 0;
        if (pthread_create(&threads[2 * i], NULL, talks ? talk : send_all, &sides[i]) != 0 ||
            pthread_create(&threads[2 * i + 1], NULL, talks ? do_nothing : receive_all, &sides[i]) != 0)
            fail("no thread");
    }
    for (unsigned i = 0; i < 2 * count; i++)
        pthread_join(threads[i], NULL);
    free(threads);
}

// Event loops. `wait` sets readable and writable of the sides that are ready.

struct loop {
    enum loop_kind kind;
    struct side *sides;
    unsigned count, left;
    int epoll;
};

static void wait_poll(struct loop *loop)
{
    struct pollfd *set = calloc(loop->count, sizeof *set);
    for (unsigned i = 0; i < loop->count; i++) {
        const struct side *side = &loop->sides[i];
        bool over = side->in_done && side->out_done;
        set[i] = (struct pollfd){.fd = over ? -1 : side->fd};
        set[i].events = (short)((wants_in(side) ? POLLIN : 0) | (wants_out(side) ? POLLOUT : 0));
    }
    if (poll(set, loop->count, -1) <= 0)
        fail("poll: %s", strerror(errno));
    for (unsigned i = 0; i < loop->count; i++) {
        loop->sides[i].readable = set[i].revents & (POLLIN | POLLHUP | POLLERR);
        loop->sides[i].writable = set[i].revents & (POLLOUT | POLLERR);
    }
    free(set);
}

static void wait_select(struct loop *loop)
{
    fd_set reading, writing;
    int highest = -1;
    FD_ZERO(&reading);
    FD_ZERO(&writing);
    for (unsigned i = 0; i < loop->count; i++) {
        const struct side *side = &loop->sides[i];
        if (side->fd >= FD_SETSIZE)
            fail("too many descriptors for select");
        if (wants_in(side))
            FD_SET(side->fd, &reading);
        if (wants_out(side))
            FD_SET(side->fd, &writing);
        if ((wants_in(side) || wants_out(side)) && side->fd > highest)
            highest = side->fd;
    }
    if (select(highest + 1, &reading, &writing, NULL, NULL) <= 0)
        fail("select: %s", strerror(errno));
    for (unsigned i = 0; i < loop->count; i++) {
        struct side *side = &loop->sides[i];
        side->readable = wants_in(side) && FD_ISSET(side->fd, &reading);
        side->writable = wants_out(side) && FD_ISSET(side->fd, &writing);
    }
}

static uint32_t epoll_interest(const struct loop *loop, const struct side *side)
{
    uint32_t flags[LOOP_KINDS] = {[LOOP_EPOLL_EDGE] = EPOLLET | EPOLLRDHUP, [LOOP_EPOLL_ONESHOT] = EPOLLONESHOT};
    if (loop->kind == LOOP_EPOLL_EDGE) // all from the beginning, as nginx and Node.js do
        return EPOLLIN | EPOLLOUT | flags[loop->kind];
    return (wants_in(side) ? EPOLLIN : 0) | (wants_out(side) ? EPOLLOUT : 0) | flags[loop->kind];
}

static void epoll_change(struct loop *loop, unsigned index, int operation)
{
    struct side *side = &loop->sides[index];
    struct epoll_event event = {.events = epoll_interest(loop, side), .data.u32 = index};
    if (epoll_ctl(loop->epoll, operation, side->fd, &event) < 0)
        fail("connection %u: epoll_ctl: %s", side->connection, strerror(errno));
}

static bool any_ready(const struct loop *loop)
{
    for (unsigned i = 0; i < loop->count; i++) {
        const struct side *side = &loop->sides[i];
        if ((side->readable && wants_in(side)) || (side->writable && wants_out(side)))
            return true;
    }
    return false;
}

// Edge-triggered readiness stays until a call would block; what is left of it must not keep us waiting.
static void wait_epoll(struct loop *loop)
{
    struct epoll_event events[16];
    bool edge = loop->kind == LOOP_EPOLL_EDGE;
    for (unsigned i = 0; !edge && i < loop->count; i++)
        loop->sides[i].readable = loop->sides[i].writable = false;
    int number = epoll_wait(loop->epoll, events, 16, edge && any_ready(loop) ? 0 : -1);
    if (number < 0)
        fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < number; i++) {
        struct side *side = &loop->sides[events[i].data.u32];
        side->readable |= (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0;
        side->writable |= (events[i].events & (EPOLLOUT | EPOLLERR)) != 0;
    }
}

// A closed socket leaves the set by itself; half of the time we take it out before.
static void finish(struct loop *loop, unsigned index, bool close_ended)
{
    struct side *side = &loop->sides[index];
    loop->left--;
    if (loop->epoll >= 0 && (!close_ended || holds || chance_once_in(&side->out_chance, 2)))
        epoll_ctl(loop->epoll, EPOLL_CTL_DEL, side->fd, NULL);
    side->ended = close_ended;
    if (close_ended && !holds)
        close(side->fd);
}

static void serve(struct loop *loop, unsigned index, bool close_ended)
{
    struct side *side = &loop->sides[index];
    uint32_t interest = epoll_interest(loop, side);
    bool had_event = side->readable || side->writable;
    for (int i = 0; i < BURST && side->readable && wants_in(side); i++)
        side->readable = step_in(side);
    for (int i = 0; i < BURST && side->writable && wants_out(side); i++)
        side->writable = step_out(side);
    if (side->in_done && side->out_done) {
        finish(loop, index, close_ended);
        return;
    }
    if ((loop->kind == LOOP_EPOLL && epoll_interest(loop, side) != interest) ||
        (loop->kind == LOOP_EPOLL_ONESHOT && had_event))
        epoll_change(loop, index, EPOLL_CTL_MOD);
}

static void run_events(enum loop_kind kind, struct side *sides, unsigned count, bool close_ended)
{
    struct loop loop = {.kind = kind, .sides = sides, .count = count, .epoll = -1};
    if (kind >= LOOP_EPOLL && (loop.epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        fail("epoll_create1: %s", strerror(errno));
    for (unsigned i = 0; i < count; i++) {
        loop_set_blocking(&sides[i], false);
        if (sides[i].in_done && sides[i].out_done)
            continue;
        loop.left++;
        if (loop.epoll >= 0)
            epoll_change(&loop, i, EPOLL_CTL_ADD);
    }
    while (loop.left > 0) {
        kind == LOOP_POLL ? wait_poll(&loop) : kind == LOOP_SELECT ? wait_select(&loop) : wait_epoll(&loop);
        for (unsigned i = 0; i < count; i++) {
            if (!sides[i].in_done || !sides[i].out_done)
                serve(&loop, i, close_ended);
        }
    }
    for (unsigned i = 0; holds && i < count; i++) {
        if (sides[i].ended)
            close_held(&sides[i]);
    }
    if (loop.epoll >= 0)
        close(loop.epoll);
}

void loop_run(enum loop_kind kind, struct side *sides, unsigned count, bool close_ended)
{
    if (kind != LOOP_THREADS) {
        run_events(kind, sides, count, close_ended);
        return;
    }
    run_threads(sides, count);
    for (unsigned i = 0; close_ended && i < count; i++)
        close_ended_side(&sides[i]);
}
