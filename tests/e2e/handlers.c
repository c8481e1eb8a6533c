// handlers SECONDS: opens, uses, polls and closes connections all the time, while the handler of a timer does the same
// with connections of its own, and now and then closes one that the main program is using. Whatever is interrupted, nobody
// waits for ever, and nothing is mixed up.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in address = {.sin_family = AF_INET};
static int listener;
static volatile sig_atomic_t alarms, victim = -1, victim_closed;

static void fail(const char *what)
{
    perror(what);
    _exit(1);
}

struct pair {
    int near, far;
};

static bool connect_pair(struct pair *pair)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    pair->near = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pair->near < 0)
        return false;
    setsockopt(pair->near, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    if (connect(pair->near, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINTR && errno != EISCONN)
        fail("connect");
    while ((pair->far = accept(listener, NULL, NULL)) < 0) {
        if (errno != EINTR)
            fail("accept");
    }
    return true;
}

// A word there and back. Between the two connections' ends in this program, the one accepted may be another's.
static void use(const struct pair *pair, int rounds)
{
    char byte = 'x';
    for (int i = 0; i < rounds; i++) {
        struct pollfd ready = {.fd = pair->far, .events = POLLIN};
        send(pair->near, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        poll(&ready, 1, 1);
        recv(pair->far, &byte, 1, MSG_DONTWAIT);
        send(pair->far, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        recv(pair->near, &byte, 1, MSG_DONTWAIT);
    }
}

static void on_alarm(int number)
{
    static struct pair own = {-1, -1};
    int saved = errno;
    alarms++;
    if (own.near >= 0) {
        use(&own, 2);
        if (alarms % 8 == 0) {
            close(own.near);
            close(own.far);
            own.near = -1;
        }
    } else if (!connect_pair(&own)) {
        own.near = -1;
    }
    if (alarms % 16 == 7 && victim >= 0) {
        int fd = victim;
        victim = -1;
        victim_closed = 1;
        close(fd);
    }
    errno = saved;
}

static void wait_in_set(const struct pair *pair, int set)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = pair->far}, told;
    if (epoll_ctl(set, EPOLL_CTL_ADD, pair->far, &event) < 0 && errno != ENOMEM)
        fail("epoll_ctl");
    send(pair->near, "y", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    int n = epoll_wait(set, &told, 1, 1);
    if (n > 0 && told.data.fd != pair->far)
        fail("another was told of");
}

static void one_connection(int set)
{
    struct pair pair;
    if (!connect_pair(&pair))
        fail("socket");
    victim_closed = 0;
    victim = pair.near;
    use(&pair, 6);
    wait_in_set(&pair, set);
    use(&pair, 2);
    victim = -1;
    if (!victim_closed)
        close(pair.near);
    close(pair.far);
}

static void start_alarms(void)
{
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 300}, {0, 300}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    struct timespec begin, now;
    socklen_t size = sizeof address;
    unsigned long connections = 0;
    int set = epoll_create1(EPOLL_CLOEXEC);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 100) ||
        getsockname(listener, (struct sockaddr *)&address, &size))
        fail("listen");
    start_alarms();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        one_connection(set);
        connections++;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - begin.tv_sec) + (double)(now.tv_nsec - begin.tv_nsec) / 1e9 < seconds);
    printf("%lu connections, %d alarms\n", connections, (int)alarms);
    return 0;
}
