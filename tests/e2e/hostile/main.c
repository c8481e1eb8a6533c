// hostile serve PORT THREADS_PORT
// hostile attack DIRECTORY PORT THREADS_PORT SECONDS SEED
// hostile babble DIRECTORY SECONDS SEED

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/hostile/hostile.h"

uint64_t dice_next(struct dice *dice)
{
    uint64_t x = dice->state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t dice_below(struct dice *dice, uint64_t bound)
{
    return dice_next(dice) % bound;
}

void fail(const char *what)
{
    perror(what);
    exit(1);
}

double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int connect_to(unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    return fd;
}

int agent_connect(const char *directory, const char *name, int type)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", directory, name);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

#define FDS_MOST 16

void agent_send(int fd, const void *packet, unsigned size, const int *fds, unsigned count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(FDS_MOST * sizeof(int))];
    } control = {.room = {0}};
    struct iovec bytes = {(void *)(uintptr_t)packet, size};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (count) {
        control.head = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int))};
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    }
    sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static struct dice seeded(const char *text)
{
    struct dice dice = {strtoull(text, NULL, 0)};
    printf("seed %llu\n", (unsigned long long)dice.state);
    fflush(stdout);
    return dice;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "serve")) {
        serve((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]));
    } else if (argc == 7 && !strcmp(argv[1], "attack")) {
        struct dice dice = seeded(argv[6]);
        const unsigned ports[2] = {(unsigned)atoi(argv[3]), (unsigned)atoi(argv[4])};
        attack(argv[2], ports, atof(argv[5]), &dice);
    } else if (argc == 5 && !strcmp(argv[1], "babble")) {
        struct dice dice = seeded(argv[4]);
        babble(argv[2], atof(argv[3]), &dice);
    } else {
        fprintf(stderr, "usage: %s serve|attack|babble ...\n", argv[0]);
        return 2;
    }
    return 0;
}
