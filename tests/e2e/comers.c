// comers PORT COUNT: connections to an echo server, one after the other, each upgraded and soon over, in all the ways a
// connection can be over. Their source addresses take turns, so that ports that wait (TIME_WAIT) are no limit.

#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORD      64
#define EXCHANGES 12
#define SOURCES   64

static int connect_from(unsigned source, unsigned port)
{
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + source);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)port);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&from, sizeof from) || connect(fd, (struct sockaddr *)&to, sizeof to))
        err(1, "connect");
    return fd;
}

static void exchange(int fd, unsigned number)
{
    char sent[WORD], got[WORD];
    snprintf(sent, sizeof sent, "%u", number);
    if (send(fd, sent, WORD, MSG_NOSIGNAL) != WORD)
        err(1, "send");
    if (recv(fd, got, WORD, MSG_WAITALL) != WORD || strcmp(got, sent))
        err(1, "recv");
}

static void end(int fd, unsigned how)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    char none;
    if (how == 0 && (shutdown(fd, SHUT_WR) || recv(fd, &none, 1, 0) != 0))
        err(1, "the end");
    if (how == 1)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    if (how == 2 && send(fd, "unheard", 7, MSG_NOSIGNAL) != 7)
        err(1, "send");
    close(fd);
}

int main(int argc, char **argv)
{
    unsigned port = argc == 3 ? (unsigned)atoi(argv[1]) : 0, count = argc == 3 ? (unsigned)atoi(argv[2]) : 0;
    for (unsigned i = 0; i < count; i++) {
        int fd = connect_from(i % SOURCES, port);
        for (unsigned j = 0; j < EXCHANGES; j++)
            exchange(fd, i * EXCHANGES + j);
        end(fd, i % 4);
    }
    puts("ok");
    return 0;
}
