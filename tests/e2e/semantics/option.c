// Socket options, modes, names: what is set must be what is told, and must hold.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/e2e/semantics/scene.h"

static void set_time(int fd, int option, int milliseconds)
{
    struct timeval time = {milliseconds / 1000, milliseconds % 1000 * 1000};
    if (setsockopt(fd, SOL_SOCKET, option, &time, sizeof time) < 0)
        broken("setsockopt");
}

static void say_time(const char *name, int fd, int option)
{
    struct timeval time = {-1, -1};
    socklen_t size = sizeof time;
    if (getsockopt(fd, SOL_SOCKET, option, &time, &size) < 0)
        broken("getsockopt");
    say("%s is %ld.%03ld s", name, (long)time.tv_sec, (long)time.tv_usec / 1000);
}

static void say_option(const char *name, int fd, int level, int option)
{
    int value = -1;
    socklen_t size = sizeof value;
    if (getsockopt(fd, level, option, &value, &size) < 0)
        say("%s: %s", name, strerrorname_np(errno));
    else
        say("%s is %d, of %u bytes", name, value, size);
}

static void receive_timeout(void)
{
    struct pair pair = scene_pair();
    set_time(pair.server, SO_RCVTIMEO, 120);
    say_time("SO_RCVTIMEO", pair.server, SO_RCVTIMEO);
    double begin = now();
    observe_recv("server", pair.server, 10, 0);
    say_elapsed(begin, 120);
    give(pair.client, "half");
    begin = now();
    observe_recv("server", pair.server, 10, MSG_WAITALL);
    say_elapsed(begin, 120);
    char byte;
    begin = now();
    OBSERVE(read(pair.server, &byte, 1));
    say_elapsed(begin, 120);
    set_time(pair.server, SO_RCVTIMEO, 0);
    struct later later;
    struct saying words = {pair.client, "later"};
    scene_later(&later, 200, act_give, &words);
    observe_recv("server", pair.server, 10, 0);
    scene_join(&later);
}

// Set before there is anything to upgrade.
static void receive_timeout_set_early(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    set_time(pair.server, SO_RCVTIMEO, 120);
    scene_upgrade(pair);
    double begin = now();
    observe_recv("server", pair.server, 10, 0);
    say_elapsed(begin, 120);
}

static void prepare_listener(int listener)
{
    int mark = 4;
    set_time(listener, SO_RCVTIMEO, 120);
    set_time(listener, SO_SNDTIMEO, 120);
    if (setsockopt(listener, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark) < 0)
        broken("setsockopt");
}

// Accepted sockets get these options from the one that listened.
static void options_of_listener(void)
{
    struct pair pair = scene_fresh_pair_by(prepare_listener);
    int mark = 1;
    struct pollfd one = {.fd = pair.server, .events = POLLIN};
    say_option("SO_RCVLOWAT", pair.server, SOL_SOCKET, SO_RCVLOWAT);
    for (int i = 0; i < 60; i++) {
        give(pair.client, "1234");
        take(pair.server, 4);
        give(pair.server, "!");
        take(pair.client, 1);
        if (i % 10 == 0)
            nap(5);
    }
    give(pair.client, "123");
    OBSERVE(poll(&one, 1, 50));
    give(pair.client, "4");
    OBSERVE(poll(&one, 1, 1000));
    take(pair.server, 4);
    double begin = now();
    observe_recv("server", pair.server, 10, 0);
    say_elapsed(begin, 120);
    OBSERVE(setsockopt(pair.server, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark));
    fill(pair.server);
    begin = now();
    OBSERVE(send(pair.server, "x", 1, 0));
    say_elapsed(begin, 120);
}

static void send_timeout(void)
{
    struct pair pair = scene_pair();
    set_time(pair.client, SO_SNDTIMEO, 120);
    say_time("SO_SNDTIMEO", pair.client, SO_SNDTIMEO);
    fill(pair.client);
    double begin = now();
    OBSERVE(send(pair.client, "x", 1, 0));
    say_elapsed(begin, 120);
    fill(pair.client);
    begin = now();
    OBSERVE(write(pair.client, "x", 1));
    say_elapsed(begin, 120);
}

static void low_water(void)
{
    struct pair pair = scene_pair();
    int mark = 10;
    struct pollfd one = {.fd = pair.server, .events = POLLIN};
    OBSERVE(setsockopt(pair.server, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark));
    say_option("SO_RCVLOWAT", pair.server, SOL_SOCKET, SO_RCVLOWAT);
    give(pair.client, "12345");
    OBSERVE(poll(&one, 1, 50));
    observe_recv("server", pair.server, 2, MSG_DONTWAIT);
    give(pair.client, "6789abc");
    OBSERVE(poll(&one, 1, 1000));
    struct later later;
    struct saying words = {pair.client, "defghijklmno"};
    observe_recv("server", pair.server, 8, 0);
    scene_later(&later, 80, act_give, &words);
    double begin = now();
    observe_recv("server", pair.server, 100, 0);
    say_elapsed(begin, 80);
    scene_join(&later);
    mark = 1;
    OBSERVE(setsockopt(pair.server, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark));
    give(pair.client, "x");
    OBSERVE(poll(&one, 1, 1000));
}

// Our own keepalive must not show.
static void keepalive(void)
{
    struct pair pair = scene_pair();
    int on = 1, off = 0, idle = 77;
    say_option("SO_KEEPALIVE", pair.client, SOL_SOCKET, SO_KEEPALIVE);
    say_option("TCP_KEEPIDLE", pair.client, IPPROTO_TCP, TCP_KEEPIDLE);
    say_option("TCP_KEEPINTVL", pair.client, IPPROTO_TCP, TCP_KEEPINTVL);
    say_option("TCP_KEEPCNT", pair.client, IPPROTO_TCP, TCP_KEEPCNT);
    OBSERVE(setsockopt(pair.client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    OBSERVE(setsockopt(pair.client, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle));
    say_option("SO_KEEPALIVE", pair.client, SOL_SOCKET, SO_KEEPALIVE);
    say_option("TCP_KEEPIDLE", pair.client, IPPROTO_TCP, TCP_KEEPIDLE);
    OBSERVE(setsockopt(pair.client, SOL_SOCKET, SO_KEEPALIVE, &off, sizeof off));
    say_option("SO_KEEPALIVE", pair.client, SOL_SOCKET, SO_KEEPALIVE);
    say_option("SO_KEEPALIVE of the server", pair.server, SOL_SOCKET, SO_KEEPALIVE);
}

static void keepalive_set_early(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    int on = 1;
    OBSERVE(setsockopt(pair.client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    scene_upgrade(pair);
    say_option("SO_KEEPALIVE of the client", pair.client, SOL_SOCKET, SO_KEEPALIVE);
    say_option("SO_KEEPALIVE of the server", pair.server, SOL_SOCKET, SO_KEEPALIVE);
}

static void other_options(void)
{
    struct pair pair = scene_pair();
    int on = 1;
    say_option("SO_ERROR", pair.client, SOL_SOCKET, SO_ERROR);
    say_option("SO_TYPE", pair.client, SOL_SOCKET, SO_TYPE);
    say_option("SO_DOMAIN", pair.client, SOL_SOCKET, SO_DOMAIN);
    say_option("SO_PROTOCOL", pair.client, SOL_SOCKET, SO_PROTOCOL);
    say_option("SO_ACCEPTCONN", pair.client, SOL_SOCKET, SO_ACCEPTCONN);
    say_option("SO_RCVLOWAT", pair.client, SOL_SOCKET, SO_RCVLOWAT);
    say_option("TCP_NODELAY", pair.client, IPPROTO_TCP, TCP_NODELAY);
    OBSERVE(setsockopt(pair.client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    say_option("TCP_NODELAY", pair.client, IPPROTO_TCP, TCP_NODELAY);
    say_option("an unknown option", pair.client, IPPROTO_TCP, 9999);
    OBSERVE(setsockopt(pair.client, IPPROTO_TCP, 9999, &on, sizeof on));
    int room = 100000;
    OBSERVE(setsockopt(pair.client, SOL_SOCKET, SO_SNDBUF, &room, sizeof room));
    say_option("SO_SNDBUF", pair.client, SOL_SOCKET, SO_SNDBUF);
    struct tcp_info info;
    socklen_t size = sizeof info;
    OBSERVE(getsockopt(pair.client, IPPROTO_TCP, TCP_INFO, &info, &size));
    say("state %u", info.tcpi_state);
    give(pair.client, "goes on");
    observe_recv("server", pair.server, 100, 0);
}

static void names(void)
{
    struct pair pair = scene_pair();
    struct sockaddr_in here, there;
    socklen_t size = sizeof here;
    OBSERVE(getsockname(pair.client, (struct sockaddr *)&here, &size));
    OBSERVE(getpeername(pair.server, (struct sockaddr *)&there, &size));
    say("they are %s", memcmp(&here, &there, sizeof here) ? "different" : "equal");
    struct stat status;
    OBSERVE(fstat(pair.client, &status));
    say("%s", S_ISSOCK(status.st_mode) ? "a socket" : "not a socket");
    OBSERVE(connect(pair.client, (struct sockaddr *)&here, sizeof here));
    OBSERVE(bind(pair.client, (struct sockaddr *)&here, sizeof here));
    OBSERVE(listen(pair.client, 5));
    OBSERVE(accept(pair.client, NULL, NULL));
    OBSERVE(isatty(pair.client));
    give(pair.client, "goes on");
    observe_recv("server", pair.server, 100, 0);
    close(pair.server);
    nap(20);
    OBSERVE(getpeername(pair.client, (struct sockaddr *)&there, &size));
    shutdown(pair.client, SHUT_RDWR);
    nap(20);
    OBSERVE(getpeername(pair.client, (struct sockaddr *)&there, &size));
}

// connect() to AF_UNSPEC dissolves a connection.
static void disconnect(void)
{
    struct pair pair = scene_pair();
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    OBSERVE(connect(pair.client, &none, sizeof none));
    nap(20);
    observe_recv("client", pair.client, 10, MSG_DONTWAIT);
    OBSERVE(send(pair.client, "x", 1, MSG_NOSIGNAL));
    observe_recv("server", pair.server, 10, 0);
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        broken("listen");
    OBSERVE(connect(pair.client, (struct sockaddr *)&address, sizeof address));
    struct pair again = {pair.client, accept(listener, NULL, NULL)};
    scene_upgrade(again);
    give(again.client, "anew");
    observe_recv("server", again.server, 10, 0);
}

static void modes(void)
{
    struct pair pair = scene_pair();
    int on = 1, off = 0, copy = dup(pair.server);
    OBSERVE(ioctl(pair.server, FIONBIO, &on));
    say("O_NONBLOCK is %s", fcntl(pair.server, F_GETFL) & O_NONBLOCK ? "set" : "not set");
    say("at the copy it is %s", fcntl(copy, F_GETFL) & O_NONBLOCK ? "set" : "not set");
    observe_recv("server", pair.server, 10, 0);
    observe_recv("the copy", copy, 10, 0);
    OBSERVE(ioctl(copy, FIONBIO, &off));
    say("O_NONBLOCK is %s", fcntl(pair.server, F_GETFL) & O_NONBLOCK ? "set" : "not set");
    OBSERVE(fcntl(copy, F_SETFL, O_NONBLOCK));
    observe_recv("server", pair.server, 10, 0);
    OBSERVE(fcntl(pair.server, F_SETFL, 0));
    say("flags of the copy: %s, %s", fcntl(copy, F_GETFL) & O_NONBLOCK ? "O_NONBLOCK" : "blocking",
        (fcntl(copy, F_GETFL) & O_ACCMODE) == O_RDWR ? "O_RDWR" : "not O_RDWR");
    struct later later;
    struct saying words = {pair.client, "waited for"};
    scene_later(&later, 50, act_give, &words);
    observe_recv("the copy", copy, 100, 0);
    scene_join(&later);
    OBSERVE(fcntl(pair.server, F_GETFD));
    OBSERVE(fcntl(pair.server, F_SETFD, FD_CLOEXEC));
    OBSERVE(fcntl(pair.server, F_GETFD));
    OBSERVE(fcntl(copy, F_GETFD));
    OBSERVE(ioctl(pair.server, FIOCLEX));
    OBSERVE(ioctl(copy, FIONCLEX));
    OBSERVE(fcntl(pair.server, 9999, 0));
    OBSERVE(ioctl(pair.server, 0x9999, 0));
}

static void accepted_modes(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct pair pair = {.client = socket(AF_INET, SOCK_STREAM, 0)};
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 5) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        broken("listen");
    OBSERVE(accept(listener, NULL, NULL));
    OBSERVE(connect(pair.client, (struct sockaddr *)&address, sizeof address));
    give(pair.client, "sent before accept");
    struct pollfd one = {.fd = listener, .events = POLLIN};
    OBSERVE(poll(&one, 1, 1000));
    pair.server = accept4(listener, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    say("O_NONBLOCK is %s, FD_CLOEXEC is %d", fcntl(pair.server, F_GETFL) & O_NONBLOCK ? "set" : "not set",
        fcntl(pair.server, F_GETFD));
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
    set_nonblocking(pair.server, false);
    scene_upgrade(pair);
    set_nonblocking(pair.server, true);
    observe_recv("server", pair.server, 100, 0);
    OBSERVE(accept4(listener, NULL, NULL, 0));
    OBSERVE(accept4(listener, NULL, NULL, 12345));
}

static void connecting_without_waiting(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct pair pair = {.client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 5) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        broken("listen");
    char byte;
    OBSERVE(recv(pair.client, &byte, 1, 0));
    OBSERVE(send(pair.client, &byte, 1, MSG_NOSIGNAL));
    OBSERVE(connect(pair.client, (struct sockaddr *)&address, sizeof address));
    struct pollfd one = {.fd = pair.client, .events = POLLIN | POLLOUT};
    OBSERVE(poll(&one, 1, 1000));
    say("revents %s", bits_of_poll((unsigned)one.revents));
    say_option("SO_ERROR", pair.client, SOL_SOCKET, SO_ERROR);
    OBSERVE(connect(pair.client, (struct sockaddr *)&address, sizeof address));
    OBSERVE(connect(pair.client, (struct sockaddr *)&address, sizeof address));
    pair.server = accept(listener, NULL, NULL);
    set_nonblocking(pair.client, false);
    scene_upgrade(pair);
    close(listener);
    int refused = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    OBSERVE(connect(refused, (struct sockaddr *)&address, sizeof address));
    one = (struct pollfd){.fd = refused, .events = POLLIN | POLLOUT};
    OBSERVE(poll(&one, 1, 1000));
    say("revents %s", bits_of_poll((unsigned)one.revents));
    OBSERVE(recv(refused, &byte, 1, 0));
    say_option("SO_ERROR", refused, SOL_SOCKET, SO_ERROR);
}

// A socket connected to itself is its own other half.
static void connected_to_itself(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int self = socket(AF_INET, SOCK_STREAM, 0);
    size_t wrong = 0;
    if (bind(self, (struct sockaddr *)&address, size) < 0 || getsockname(self, (struct sockaddr *)&address, &size) < 0)
        broken("bind");
    OBSERVE(connect(self, (struct sockaddr *)&address, sizeof address));
    int on = 1;
    setsockopt(self, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (int i = 0; i < 300; i++) {
        char out = (char)i, in = 0;
        wrong += send(self, &out, 1, 0) != 1 || recv(self, &in, 1, 0) != 1 || in != out;
        if (i % 50 == 0)
            nap(10);
    }
    say("%zu words were lost or changed", wrong);
    OBSERVE(shutdown(self, SHUT_WR));
    observe_recv("it", self, 10, 0);
}

const struct scene_case option_cases[] = {
    {"receive_timeout", receive_timeout},
    {"receive_timeout_set_early", receive_timeout_set_early},
    {"options_of_listener", options_of_listener},
    {"send_timeout", send_timeout},
    {"low_water", low_water},
    {"keepalive", keepalive},
    {"keepalive_set_early", keepalive_set_early},
    {"other_options", other_options},
    {"names", names},
    {"disconnect", disconnect},
    {"modes", modes},
    {"accepted_modes", accepted_modes},
    {"connecting_without_waiting", connecting_without_waiting},
    {"connected_to_itself", connected_to_itself},
    {NULL, NULL},
};
