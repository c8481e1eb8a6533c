// Very many connections, all alive at the same time, between a client that asks by each in turn, and its child, a server
// that answers.
//
//   many CONNECTIONS [BUSY]
//
// Every byte is checked. With BUSY, only so many of the connections are used at a time; which ones changes when SIGUSR1
// comes. Ends at SIGTERM, and prints how many rounds it made: "ok, N rounds".

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 64

static volatile sig_atomic_t over, shifts;
static int connections, busy;
static int *client;
static int epfd;

static int must(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static void on_term(int signal)
{
    over = 1;
}

static void on_shift(int signal)
{
    shifts++;
}

static void answer(int fd)
{
    uint64_t words[16];
    ssize_t n = recv(fd, words, sizeof(words), MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n == 0)
        exit(0);
    must((int)n, "recv");
    if (n % 8 != 0)
        must((errno = EPROTO, -1), "a word was cut");
    for (ssize_t i = 0; i < n / 8; i++)
        words[i] = ~words[i];
    if (send(fd, words, (size_t)n, MSG_NOSIGNAL) != n)
        must(-1, "send");
}

static void serve(void)
{
    struct epoll_event events[EVENTS];

    for (;;) {
        int n = epoll_wait(epfd, events, EVENTS, -1);
        if (n < 0 && errno != EINTR)
            must(n, "epoll_wait");
        for (int i = 0; i < n; i++)
            answer(events[i].data.fd);
    }
}

static int listen_somewhere(struct sockaddr_in *address)
{
    socklen_t size = sizeof(*address);
    int listener = must(socket(AF_INET, SOCK_STREAM, 0), "socket");

    must(bind(listener, (struct sockaddr *)address, size), "bind");
    must(listen(listener, 4096), "listen");
    must(getsockname(listener, (struct sockaddr *)address, &size), "getsockname");
    return listener;
}

static void connect_all(const struct sockaddr_in *address)
{
    client = calloc((size_t)connections, sizeof(*client));
    for (int i = 0; i < connections; i++) {
        client[i] = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
        must(connect(client[i], (const struct sockaddr *)address, sizeof(*address)), "connect");
    }
}

static void accept_all(int listener)
{
    for (int i = 0; i < connections; i++) {
        int fd = must(accept(listener, NULL, NULL), "accept");
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        must(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
    }
}

static void ask(int fd, uint64_t question)
{
    uint64_t answer = 0;

    if (send(fd, &question, sizeof(question), MSG_NOSIGNAL) != sizeof(question))
        must(-1, "send");
    ssize_t n;
    while ((n = recv(fd, &answer, sizeof(answer), MSG_WAITALL)) < 0 && errno == EINTR)
        ;
    if (n != sizeof(answer) || answer != ~question) {
        fprintf(stderr, "%zd bytes, %llx instead of %llx: %s\n", n, (unsigned long long)answer,
                (unsigned long long)~question, strerror(errno));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit limit;
    struct sigaction term = {.sa_handler = on_term, .sa_flags = SA_RESTART};
    struct sigaction shift = {.sa_handler = on_shift, .sa_flags = SA_RESTART};
    uint64_t rounds = 0;

    connections = argc > 1 ? atoi(argv[1]) : 10;
    busy = argc > 2 ? atoi(argv[2]) : connections;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int listener = listen_somewhere(&address);
    if (must(fork(), "fork") == 0) {
        epfd = must(epoll_create1(0), "epoll_create1");
        accept_all(listener);
        serve();
    }
    close(listener);
    sigaction(SIGTERM, &term, NULL);
    sigaction(SIGUSR1, &shift, NULL);
    connect_all(&address);
    while (!over) {
        for (int i = 0; i < busy && !over; i++)
            ask(client[(shifts * busy + i) % connections], rounds << 32 | (unsigned)i);
        rounds++;
        if (rounds == 1) {
            puts("ready");
            fflush(stdout);
        }
    }
    printf("ok, %llu rounds\n", (unsigned long long)rounds);
    return 0;
}
