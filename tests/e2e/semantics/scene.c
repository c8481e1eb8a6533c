#include "tests/e2e/semantics/scene.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Exchanges before the agent is asked for the first time, and how long it may take.
#define WORDS        30
#define PATIENCE_MS  8000
#define NOT_UPGRADED 3

void say(const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof text - 2)
        length = sizeof text - 2;
    text[length++] = '\n';
    if (write(STDOUT_FILENO, text, (size_t)length) != length)
        _exit(4);
}

long observe(const char *call, long result)
{
    int error = errno;
    if (result == -1)
        say("%s = -1 %s", call, error ? strerrorname_np(error) : "(no error)");
    else
        say("%s = %ld", call, result);
    errno = error;
    return result;
}

ssize_t observe_recv(const char *who, int fd, size_t size, int flags)
{
    unsigned char *bytes = calloc(1, size + 1);
    ssize_t got = recv(fd, bytes, size, flags);
    int error = errno;
    bool text = got > 0 && got < 100;
    for (ssize_t i = 0; i < got && text; i++)
        text = isprint(bytes[i]);
    if (got < 0)
        say("%s receives %s", who, strerrorname_np(error));
    else if (text)
        say("%s receives \"%s\"", who, (char *)bytes);
    else
        say("%s receives %zd bytes", who, got);
    free(bytes);
    errno = error;
    return got;
}

void broken(const char *what)
{
    dprintf(STDERR_FILENO, "the case cannot go on: %s: %s\n", what, strerror(errno));
    _exit(4);
}

void give(int fd, const char *text)
{
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text))
        broken("send");
}

void take(int fd, size_t size)
{
    char bytes[4096];
    while (size > 0) {
        ssize_t got = recv(fd, bytes, size < sizeof bytes ? size : sizeof bytes, 0);
        if (got <= 0)
            broken("recv");
        size -= (size_t)got;
    }
}

// Connections.

static socklen_t loopback(int family, struct sockaddr_storage *address)
{
    memset(address, 0, sizeof *address);
    address->ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        ((struct sockaddr_in *)address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return sizeof(struct sockaddr_in);
    }
    ((struct sockaddr_in6 *)address)->sin6_addr = in6addr_loopback;
    return sizeof(struct sockaddr_in6);
}

static int listen_on(struct sockaddr_storage *address, socklen_t *size)
{
    int listener = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)address, *size) < 0 || listen(listener, 10) < 0 ||
        getsockname(listener, (struct sockaddr *)address, size) < 0)
        broken("no listening socket");
    return listener;
}

static int connect_to(const struct sockaddr_storage *address, socklen_t size)
{
    int fd = socket(address->ss_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, size) < 0)
        broken("no connection");
    return fd;
}

static struct pair connect_pair(int family, void (*prepare)(int listener))
{
    struct sockaddr_storage address;
    socklen_t size = loopback(family, &address);
    int listener = listen_on(&address, &size);
    if (prepare)
        prepare(listener);
    struct pair pair = {.client = connect_to(&address, size)};
    if ((pair.server = accept(listener, NULL, NULL)) < 0)
        broken("accept");
    close(listener);
    return pair;
}

struct pair scene_fresh_pair(int family)
{
    return connect_pair(family, NULL);
}

struct pair scene_fresh_pair_by(void (*prepare)(int listener))
{
    return connect_pair(AF_INET, prepare);
}

// The agent's word on it.

static unsigned port_of(const struct sockaddr_storage *address)
{
    return ntohs(address->ss_family == AF_INET ? ((const struct sockaddr_in *)address)->sin_port
                                               : ((const struct sockaddr_in6 *)address)->sin6_port);
}

static void ports_of(int fd, unsigned *local, unsigned *remote)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        broken("getsockname");
    *local = port_of(&address);
    size = sizeof address;
    if (getpeername(fd, (struct sockaddr *)&address, &size) < 0)
        broken("getpeername");
    *remote = port_of(&address);
}

// The answer to "list", to be freed.
static char *list_sessions(const char *control)
{
    static const char request[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"list\",\"params\":{}}\n";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", control);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        broken("the agent cannot be asked");
    if (write(fd, request, sizeof request - 1) != sizeof request - 1)
        broken("the agent cannot be asked");
    size_t size = 0, room = 1 << 20;
    char *answer = malloc(room + 1);
    ssize_t got;
    while (size < room && !memchr(answer, '\n', size) && (got = read(fd, answer + size, room - size)) > 0)
        size += (size_t)got;
    close(fd);
    answer[size] = 0;
    return answer;
}

// The number after the last colon of an address in a row such as {"local":"[::1]:80", ...}; 0 if it is not there.
static unsigned port_in_row(const char *row, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *value = strstr(row, quoted);
    if (!value || !(value = strchr(value + strlen(quoted), '"')))
        return 0;
    const char *end = strchr(value + 1, '"');
    while (end && end > value && end[-1] != ':')
        end--;
    return end ? (unsigned)atoi(end) : 0;
}

static bool way_is_ring(const char *row, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *value = strstr(row, quoted);
    return value && (value = strchr(value + strlen(quoted), '"')) && strncmp(value, "\"ring\"", 6) == 0;
}

// Whether this end is listed with both its directions in the ring. Cuts the list into rows.
static bool listed(const char *list, int fd)
{
    unsigned local, remote;
    ports_of(fd, &local, &remote);
    char *copy = strdup(list), *rest = copy;
    bool found = false;
    for (char *row; !found && (row = strsep(&rest, "{"));) {
        found = port_in_row(row, "local") == local && port_in_row(row, "remote") == remote &&
                way_is_ring(row, "tx_way") && way_is_ring(row, "rx_way");
    }
    free(copy);
    return found;
}

// Whether both directions are in the ring, as seen at this end and at the other; true without an agent to ask.
static bool in_ring(int fd, int other)
{
    const char *control = getenv("RDMA_E2E_CONTROL");
    if (!control)
        return true;
    char *list = list_sessions(control);
    bool result = listed(list, fd) && (other < 0 || listed(list, other));
    free(list);
    return result;
}

static void give_up_if_late(double begin)
{
    if (now() - begin < PATIENCE_MS)
        return;
    char *list = list_sessions(getenv("RDMA_E2E_CONTROL"));
    dprintf(STDERR_FILENO, "not upgraded after %d ms: %s\n", PATIENCE_MS, list);
    _exit(NOT_UPGRADED);
}

void scene_upgrade(struct pair pair)
{
    double begin = now();
    for (int words = 0; words < WORDS || !in_ring(pair.client, pair.server); words++) {
        give(pair.client, "?");
        take(pair.server, 1);
        give(pair.server, "!");
        take(pair.client, 1);
        if (words > WORDS)
            nap(1);
        give_up_if_late(begin);
    }
}

struct pair scene_pair(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    scene_upgrade(pair);
    return pair;
}

static void be_peer(const struct sockaddr_storage *address, socklen_t size, void (*body)(int fd))
{
    int fd = connect_to(address, size);
    for (char word = 0; word != 'G';) {
        if (recv(fd, &word, 1, 0) != 1 || send(fd, &word, 1, 0) != 1)
            broken("peer");
    }
    body(fd);
    exit(0);
}

pid_t scene_peer(void (*body)(int fd), int *fd)
{
    struct sockaddr_storage address;
    socklen_t size = loopback(AF_INET, &address);
    int listener = listen_on(&address, &size);
    pid_t pid = fork();
    if (pid == 0)
        be_peer(&address, size, body);
    if (pid < 0 || (*fd = accept(listener, NULL, NULL)) < 0)
        broken("no peer");
    close(listener);
    double begin = now();
    for (int words = 0; words < WORDS || !in_ring(*fd, -1); words++) {
        give(*fd, "?");
        take(*fd, 1);
        if (words > WORDS)
            nap(1);
        give_up_if_late(begin);
    }
    give(*fd, "G");
    take(*fd, 1);
    return pid;
}

void scene_reap(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            broken("waitpid");
    }
    if (WIFSIGNALED(status))
        say("the child was ended by signal %d", WTERMSIG(status));
    else
        say("the child ended with code %d", WEXITSTATUS(status));
}

// Passing.

void scene_pass(int through, int fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec part = {(char *)"!", 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(through, &message, 0) != 1)
        broken("passing a descriptor");
}

int scene_receive_passed(int from)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    int fd;
    struct iovec part = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(from, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
        broken("receiving a descriptor");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

// Later.

static void *run_later(void *argument)
{
    struct later *later = argument;
    nap(later->milliseconds);
    later->act(later->argument);
    return NULL;
}

void scene_later(struct later *later, int milliseconds, void (*act)(void *argument), void *argument)
{
    *later = (struct later){.act = act, .argument = argument, .milliseconds = milliseconds};
    if (pthread_create(&later->thread, NULL, run_later, later) != 0)
        broken("no thread");
}

void scene_join(struct later *later)
{
    pthread_join(later->thread, NULL);
}

void act_give(void *saying)
{
    const struct saying *words = saying;
    give(words->fd, words->text);
}

void act_close(void *saying)
{
    close(((const struct saying *)saying)->fd);
}

void act_shutdown(void *saying)
{
    shutdown(((const struct saying *)saying)->fd, SHUT_RDWR);
}

void *nowhere(void)
{
    return (void *)64;
}

void *no_buffer(void)
{
    return NULL;
}

int minus_one(void)
{
    return -1;
}

void nap(int milliseconds)
{
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        continue;
}

double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

void say_elapsed(double begin, double expected)
{
    double elapsed = now() - begin;
    if (elapsed > expected - 1.5 && elapsed < expected + 20)
        say("after %.0f ms, as expected", expected);
    else
        say("after %.1f ms instead of %.0f", elapsed, expected);
}

// Bytes.

// TCP finds more room now and then: it counts as full once it has taken nothing for a while.
size_t fill(int fd)
{
    static const char bytes[65536];
    size_t sum = 0;
    for (int idle = 0; idle < 4; idle++) {
        ssize_t sent;
        while ((sent = send(fd, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL)) > 0) {
            sum += (size_t)sent;
            idle = 0;
        }
        nap(25);
    }
    return sum;
}

size_t drain(int fd, size_t size)
{
    static char bytes[65536];
    size_t sum = 0;
    while (sum < size) {
        struct pollfd one = {.fd = fd, .events = POLLIN};
        if (poll(&one, 1, 1000) <= 0)
            return sum;
        ssize_t got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got <= 0)
            return sum;
        sum += (size_t)got;
    }
    return sum;
}

void set_nonblocking(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    if (fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
        broken("fcntl");
}

// Names of bits.

struct bit {
    unsigned value;
    const char *name;
};

static const char *names_of(unsigned bits, const struct bit *known)
{
    static char texts[4][160];
    static unsigned turn;
    char *text = texts[turn++ % 4];
    size_t length = 0;
    text[0] = 0;
    for (; known->name; known++) {
        if (bits & known->value)
            length += (size_t)snprintf(text + length, sizeof texts[0] - length, "%s%s", length ? "|" : "", known->name);
        bits &= ~known->value;
    }
    if (bits)
        snprintf(text + length, sizeof texts[0] - length, "|0x%x", bits);
    return text[0] ? text : "nothing";
}

const char *bits_of_poll(unsigned bits)
{
    static const struct bit known[] = {
        {POLLIN, "POLLIN"},         {POLLPRI, "POLLPRI"},
        {POLLOUT, "POLLOUT"},       {POLLERR, "POLLERR"},
        {POLLHUP, "POLLHUP"},       {POLLNVAL, "POLLNVAL"},
        {POLLRDNORM, "POLLRDNORM"}, {POLLWRNORM, "POLLWRNORM"},
        {POLLRDHUP, "POLLRDHUP"},   {0, NULL},
    };
    return names_of(bits, known);
}

const char *bits_of_epoll(unsigned bits)
{
    static const struct bit known[] = {
        {EPOLLIN, "EPOLLIN"},
        {EPOLLPRI, "EPOLLPRI"},
        {EPOLLOUT, "EPOLLOUT"},
        {EPOLLERR, "EPOLLERR"},
        {EPOLLHUP, "EPOLLHUP"},
        {EPOLLRDHUP, "EPOLLRDHUP"},
        {0, NULL},
    };
    return names_of(bits, known);
}
