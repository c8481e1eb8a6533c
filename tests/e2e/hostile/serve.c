#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/hostile/hostile.h"

#define CHUNK 65536

// How long (s) connections may take to end once their other ends are gone.
#define PATIENCE 15

static _Atomic unsigned connections, open_connections;

static int listen_on(unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 100) < 0)
        fail("listen");
    return fd;
}

static void over(int fd)
{
    close(fd);
    open_connections--;
}

// --- a thread for each ---

static void *echo_blocking(void *argument)
{
    int fd = (int)(intptr_t)argument;
    char *bytes = malloc(CHUNK);
    ssize_t n;
    while ((n = recv(fd, bytes, CHUNK, 0)) > 0 || (n < 0 && errno == EINTR)) {
        for (ssize_t sent = 0, step; sent < n; sent += step) {
            if ((step = send(fd, bytes + sent, (size_t)(n - sent), MSG_NOSIGNAL)) < 0)
                break;
        }
    }
    free(bytes);
    over(fd);
    return NULL;
}

static void *accept_blocking(void *argument)
{
    int listener = (int)(intptr_t)argument, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        pthread_t thread;
        connections++;
        open_connections++;
        if (pthread_create(&thread, NULL, echo_blocking, (void *)(intptr_t)fd))
            over(fd);
        else
            pthread_detach(thread);
    }
    return NULL;
}

// --- all in one ---

struct connection {
    int fd;
    size_t from, to; // of the bytes that wait to be sent
    char bytes[CHUNK];
};

static void want(int set, struct connection *connection, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    epoll_ctl(set, EPOLL_CTL_MOD, connection->fd, &event);
}

// False when the connection is over.
static bool echo(struct connection *connection, int set)
{
    ssize_t n;
    if (connection->from == connection->to) {
        n = recv(connection->fd, connection->bytes, CHUNK, 0);
        if (n <= 0)
            return n < 0 && (errno == EAGAIN || errno == EINTR);
        connection->from = 0;
        connection->to = (size_t)n;
    }
    n = send(connection->fd, connection->bytes + connection->from, connection->to - connection->from, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return false;
    connection->from += n > 0 ? (size_t)n : 0;
    want(set, connection, connection->from == connection->to ? EPOLLIN : EPOLLOUT);
    return true;
}

static void take_in(int listener, int set)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct connection *connection = fd < 0 ? NULL : calloc(1, sizeof *connection);
    if (!connection)
        return;
    connection->fd = fd;
    connections++;
    open_connections++;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

static int ending;

static void on_events(int set, int listener, const struct epoll_event *events, int n, double *deadline)
{
    for (int i = 0; i < n; i++) {
        struct connection *connection = events[i].data.ptr;
        if (events[i].data.ptr == &ending) {
            *deadline = *deadline > 0 ? *deadline : now() + PATIENCE;
            epoll_ctl(set, EPOLL_CTL_DEL, ending, NULL);
        } else if (!connection) {
            take_in(listener, set);
        } else if (!echo(connection, set)) {
            over(connection->fd);
            free(connection);
        }
    }
}

static int end_signal(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC);
}

void serve(unsigned port, unsigned threads_port)
{
    int listener = listen_on(port), threads_listener = listen_on(threads_port), set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[16], accepting = {.events = EPOLLIN}, end = {.events = EPOLLIN, .data.ptr = &ending};
    double deadline = 0;
    pthread_t thread;
    ending = end_signal();
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &accepting);
    epoll_ctl(set, EPOLL_CTL_ADD, ending, &end);
    pthread_create(&thread, NULL, accept_blocking, (void *)(intptr_t)threads_listener);
    while (!deadline || (open_connections && now() < deadline)) {
        int n = epoll_wait(set, events, 16, 100);
        on_events(set, listener, events, n, &deadline);
    }
    printf("%u connections, of which %u did not end\n", connections, open_connections);
    exit(open_connections ? 1 : 0);
}
