// memget: asks a memcached server for one value, over and over, on many connections at once.
//
//   host=127.0.0.1 port=11211 | path=SOCKET, connections=50 size=100 (of the value) seconds=1 warmup=0.2 client_cpus=1
//
//   -> {"per_second", "gets", "us": mean time of a get on one connection}
//
// One request is on its way per connection, and epoll waits for them all, as in the usual load generators. Every answer
// is checked.

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/bench/bench.h"

static const char request[] = "get bench\r\n";

struct connection {
    int fd;
    size_t got; // bytes of the answer
    char *answer;
};

static char *expected;
static size_t expected_bytes;

static int server_connect(void)
{
    const char *path = bench_text("path", NULL), *host = bench_text("host", "127.0.0.1");
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)bench_number("port", 11211))};
    if (path && snprintf(un.sun_path, sizeof un.sun_path, "%s", path) >= (int)sizeof un.sun_path)
        errx(2, "path=%s: too long for a socket", path);
    if (!path && inet_pton(AF_INET, host, &in.sin_addr) != 1)
        errx(2, "host=%s: expected an IPv4 address", host);
    int fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, path ? (struct sockaddr *)&un : (struct sockaddr *)&in, path ? sizeof un : sizeof in))
        err(1, "cannot connect to memcached");
    bench_nodelay(fd);
    return fd;
}

static void send_whole(int fd, const char *text, size_t bytes)
{
    if (send(fd, text, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
        err(1, "send");
}

// Stores the value and prepares the answer that a get must bring.
static void store(size_t size)
{
    char *command, answer[16] = {0};
    char *value = malloc(size + 1);
    if (!value)
        err(1, "malloc");
    memset(value, 'v', size);
    value[size] = '\0';
    int bytes = asprintf(&command, "set bench 0 0 %zu\r\n%s\r\n", size, value);
    expected_bytes = (size_t)asprintf(&expected, "VALUE bench 0 %zu\r\n%s\r\nEND\r\n", size, value);
    int fd = server_connect();
    send_whole(fd, command, (size_t)bytes);
    if (read(fd, answer, sizeof answer - 1) < 0 || strcmp(answer, "STORED\r\n") != 0)
        errx(1, "memcached did not store the value: %s", answer);
    close(fd);
    free(command);
    free(value);
}

// Takes in what has come. Returns true when the answer is complete, and right.
static bool take_answer(struct connection *connection)
{
    ssize_t n = read(connection->fd, connection->answer + connection->got, expected_bytes - connection->got);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0)
        err(1, "memcached closed the connection");
    connection->got += (size_t)n;
    if (connection->got < expected_bytes)
        return false;
    if (memcmp(connection->answer, expected, expected_bytes) != 0)
        errx(1, "memcached gave a wrong answer");
    connection->got = 0;
    return true;
}

// Keeps all connections asking for `seconds`. Returns the number of gets.
static uint64_t ask(int epoll, double seconds)
{
    uint64_t gets = 0, stop = bench_now() + (uint64_t)(seconds * 1e9);
    while (bench_now() < stop) {
        struct epoll_event events[64];
        int n = epoll_wait(epoll, events, 64, 1000);
        if (n == 0)
            errx(1, "memcached did not answer within a second");
        for (int i = 0; i < n; i++) {
            struct connection *connection = events[i].data.ptr;
            if (take_answer(connection)) {
                gets++;
                send_whole(connection->fd, request, sizeof request - 1);
            }
        }
    }
    return gets;
}

static void open_connection(struct connection *connection, int epoll)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    connection->fd = server_connect();
    connection->answer = malloc(expected_bytes);
    if (!connection->answer)
        err(1, "malloc");
    bench_nonblocking(connection->fd);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event))
        err(1, "epoll_ctl");
    send_whole(connection->fd, request, sizeof request - 1);
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "host port path connections size seconds warmup client_cpus");
    unsigned count = (unsigned)bench_number("connections", 50);
    double seconds = bench_number("seconds", 1);
    bench_pin(bench_text("client_cpus", "1"));
    store((size_t)bench_number("size", 100));
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = calloc(count, sizeof *connections);
    if (epoll < 0 || !connections)
        err(1, "no memory");
    for (unsigned i = 0; i < count; i++)
        open_connection(&connections[i], epoll);
    ask(epoll, bench_number("warmup", 0.2));
    uint64_t begin = bench_now(), gets = ask(epoll, seconds);
    double rate = (double)gets / ((double)(bench_now() - begin) / 1e9);
    printf("{\"per_second\":%.1f,\"gets\":%llu,\"us\":%.3f}\n", rate, (unsigned long long)gets, 1e6 * count / rate);
    return 0;
}
