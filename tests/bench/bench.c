#include "tests/bench/bench.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// ---- parameters

static int argument_count;
static char **arguments;

// Whether `word` of `length` is one of the words of `list`. Returns its index or -1.
static int find_word(const char *list, const char *word, size_t length)
{
    int index = 0;
    for (const char *at = list; *at; index++) {
        size_t here = strcspn(at, " ");
        if (here == length && memcmp(at, word, length) == 0)
            return index;
        at += here + strspn(at + here, " ");
    }
    return -1;
}

void bench_arguments(int argc, char **argv, const char *known)
{
    for (int i = 1; i < argc; i++) {
        size_t name = strcspn(argv[i], "=");
        if (!argv[i][name] || find_word(known, argv[i], name) < 0)
            errx(2, "%s: expected name=value, the names being: %s", argv[i], known);
    }
    argument_count = argc;
    arguments = argv;
}

const char *bench_text(const char *name, const char *otherwise)
{
    size_t length = strlen(name);
    for (int i = 1; i < argument_count; i++) {
        if (strncmp(arguments[i], name, length) == 0 && arguments[i][length] == '=')
            return arguments[i] + length + 1;
    }
    return otherwise;
}

double bench_number(const char *name, double otherwise)
{
    const char *text = bench_text(name, NULL);
    if (!text)
        return otherwise;
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0))
        errx(2, "%s=%s: expected a number, 0 or more", name, text);
    return value;
}

int bench_choice(const char *name, const char *choices)
{
    const char *text = bench_text(name, NULL);
    int index = text ? find_word(choices, text, strlen(text)) : 0;
    if (index < 0)
        errx(2, "%s=%s: expected one of: %s", name, text, choices);
    return index;
}

// ---- time and CPUs

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t bench_now(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t bench_cpu_ns(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

void bench_pin(const char *cpus)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const char *at = cpus; *at;) {
        char *end;
        unsigned long cpu = strtoul(at, &end, 10);
        if (end == at || cpu >= CPU_SETSIZE || (*end && *end != ','))
            errx(2, "%s: expected a list of CPUs such as 0,1", cpus);
        CPU_SET(cpu, &set);
        at = *end ? end + 1 : end;
    }
    if (*cpus && sched_setaffinity(0, sizeof set, &set))
        err(1, "cannot run on CPUs %s", cpus);
}

// ---- processes

void *bench_share(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        err(1, "no %zu bytes of shared memory", bytes);
    return memory;
}

pid_t bench_start(void (*run)(void *context), void *context, const char *cpus)
{
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        err(1, "fork");
    if (child > 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    bench_pin(cpus);
    run(context);
    _exit(0);
}

void bench_join(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            err(1, "waitpid");
    }
    if (status)
        errx(1, "one side failed with status %#x", (unsigned)status);
}

// ---- sockets

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
};

static socklen_t fill_address(const struct bench_listener *listener, union address *address)
{
    memset(address, 0, sizeof *address);
    switch (listener->family) {
    case BENCH_TCP:
        address->in.sin_family = AF_INET;
        address->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address->in.sin_port = htons(listener->port);
        return sizeof address->in;
    case BENCH_TCP6:
        address->in6.sin6_family = AF_INET6;
        address->in6.sin6_addr = in6addr_loopback;
        address->in6.sin6_port = htons(listener->port);
        return sizeof address->in6;
    case BENCH_UNIX:
        address->un.sun_family = AF_UNIX;
        memcpy(address->un.sun_path + 1, listener->path, strlen(listener->path));
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(listener->path));
    }
    return 0;
}

void bench_listen(struct bench_listener *listener, enum bench_family family)
{
    union address address;
    *listener = (struct bench_listener){.family = family};
    snprintf(listener->path, sizeof listener->path, "rdma-bench-%d-%llx", (int)getpid(),
             (unsigned long long)bench_now());
    socklen_t size = fill_address(listener, &address);
    listener->fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener->fd < 0 || bind(listener->fd, &address.any, size) || listen(listener->fd, SOMAXCONN))
        err(1, "cannot listen");
    size = sizeof address;
    if (getsockname(listener->fd, &address.any, &size))
        err(1, "getsockname");
    if (family == BENCH_TCP)
        listener->port = ntohs(address.in.sin_port);
    else if (family == BENCH_TCP6)
        listener->port = ntohs(address.in6.sin6_port);
}

int bench_accept(const struct bench_listener *listener)
{
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        err(1, "accept");
    return fd;
}

int bench_connect(const struct bench_listener *listener)
{
    union address address;
    socklen_t size = fill_address(listener, &address);
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, &address.any, size))
        err(1, "cannot connect");
    return fd;
}

void bench_nodelay(int fd)
{
    int yes = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) && errno != EOPNOTSUPP)
        err(1, "TCP_NODELAY");
}

void bench_nonblocking(int fd)
{
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
        err(1, "O_NONBLOCK");
}

// ---- numbers

int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_quantile(const double *sorted, size_t count, double share)
{
    if (count == 0)
        return 0;
    size_t index = (size_t)(share * (double)count);
    return sorted[index < count ? index : count - 1];
}
