// What the ping-pong programs share: their protocol, addresses, and a socket with a way of waiting.
//
// Protocol: the client connects and sends one struct hello. From then on client and server take turns: the client sends
// a message of the announced size, the server sends it back. The client ends by closing between two messages.
//
// These are plain sockets. Nothing here knows of rdma-agent.
#pragma once

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXIT_USAGE 2

#define HELLO_MAGIC      0x50494e47u // "PING"
#define MESSAGE_SIZE_MAX (64u << 20)

// In network byte order.
struct hello {
    uint32_t magic;
    uint32_t size; // of each message, 1..MESSAGE_SIZE_MAX
};

// Reads a whole decimal number within [min, max] from the command line, or ends the program with a message.
static inline uint64_t number_argument(const char *option, const char *text, uint64_t min, uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value < min || value > max)
        errx(EXIT_USAGE, "%s %s: expected a number from %llu to %llu", option, text, (unsigned long long)min,
             (unsigned long long)max);
    return value;
}

// ---- addresses

struct address_text {
    char text[INET6_ADDRSTRLEN + 16];
};

// "127.0.0.1:9111" or "[::1]:9111".
static inline struct address_text address_format(const struct sockaddr_storage *address)
{
    struct address_text result;
    char host[INET6_ADDRSTRLEN] = "?";
    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(result.text, sizeof result.text, "[%s]:%u", host, (unsigned)ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(result.text, sizeof result.text, "%s:%u", host, (unsigned)ntohs(in->sin_port));
    }
    return result;
}

static inline struct address_text address_of_peer(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    getpeername(fd, (struct sockaddr *)&address, &size);
    return address_format(&address);
}

static inline struct addrinfo *address_resolve(const char *host, const char *port, int flags)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *found;
    int result = getaddrinfo(host, port, &hints, &found);
    if (result)
        errx(EXIT_FAILURE, "cannot resolve %s port %s: %s", host, port, gai_strerror(result));
    return found;
}

// Listens on host:port (port "0": any free one) and says where. Ends the program if that cannot be.
static inline int listener_open(const char *host, const char *port)
{
    struct addrinfo *found = address_resolve(host, port, AI_PASSIVE);
    int yes = 1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) ||
        bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, SOMAXCONN))
        err(EXIT_FAILURE, "cannot listen on %s port %s", host, port);
    freeaddrinfo(found);

    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &size))
        err(EXIT_FAILURE, "getsockname");
    printf("listening on %s\n", address_format(&address).text);
    fflush(stdout);
    return fd;
}

// Waits for the next client. What a client or a passing shortage can cause is reported and survived.
static inline int listener_accept(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            return fd;
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
            err(EXIT_FAILURE, "accept");
        warn("accept");
        usleep(100000);
    }
}

static inline int connection_open(const char *host, const char *port)
{
    struct addrinfo *found = address_resolve(host, port, 0);
    int fd = -1;
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen)) {
            int error = errno;
            close(fd);
            errno = error;
            fd = -1;
        }
    }
    if (fd < 0)
        err(EXIT_FAILURE, "cannot connect to %s port %s", host, port);
    freeaddrinfo(found);
    return fd;
}

// ---- channel: a connected socket and what to do while it is not ready

enum waiting {
    WAIT_BLOCK, // blocking calls
    WAIT_SPIN,  // non-blocking calls, again and again
    WAIT_EPOLL, // non-blocking calls, epoll_wait in between
};

static inline const char *waiting_name(enum waiting waiting)
{
    return waiting == WAIT_SPIN ? "spinning" : waiting == WAIT_EPOLL ? "epoll" : "blocking";
}

struct channel {
    int fd;
    int epoll; // -1 unless WAIT_EPOLL; watches fd for input
    enum waiting waiting;
};

#define CHANNEL_END 1 // the peer closed before the first byte of a message

// Takes over fd. Returns 0 or -errno; in both cases channel_close is due.
static inline int channel_init(struct channel *channel, int fd, enum waiting waiting)
{
    int yes = 1;
    *channel = (struct channel){.fd = fd, .epoll = -1, .waiting = waiting};
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes))
        return -errno;
    if (waiting == WAIT_BLOCK)
        return 0;
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
        return -errno;
    if (waiting == WAIT_SPIN)
        return 0;
    struct epoll_event event = {.events = EPOLLIN};
    channel->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (channel->epoll < 0 || epoll_ctl(channel->epoll, EPOLL_CTL_ADD, fd, &event))
        return -errno;
    return 0;
}

static inline void channel_close(struct channel *channel)
{
    if (channel->epoll >= 0)
        close(channel->epoll);
    close(channel->fd);
}

// The socket was not ready for `events`. Returns 0 when it is worth another try, or -errno.
static inline int channel_wait(struct channel *channel, uint32_t events)
{
    if (channel->waiting != WAIT_EPOLL)
        return 0;
    struct epoll_event event = {.events = events};
    if (events != EPOLLIN && epoll_ctl(channel->epoll, EPOLL_CTL_MOD, channel->fd, &event))
        return -errno;
    if (epoll_wait(channel->epoll, &event, 1, -1) < 0 && errno != EINTR)
        return -errno;
    event.events = EPOLLIN;
    if (events != EPOLLIN && epoll_ctl(channel->epoll, EPOLL_CTL_MOD, channel->fd, &event))
        return -errno;
    return 0;
}

// Reads exactly `size` bytes. Returns 0, CHANNEL_END, or -errno; -EPROTO if the peer closed within them.
static inline int channel_read(struct channel *channel, void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(channel->fd, (char *)data + done, size - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0)
            return done ? -EPROTO : CHANNEL_END;
        else if (errno != EAGAIN && errno != EINTR)
            return -errno;
        else if (errno == EAGAIN) {
            int result = channel_wait(channel, EPOLLIN);
            if (result)
                return result;
        }
    }
    return 0;
}

// Writes exactly `size` bytes. Returns 0 or -errno.
static inline int channel_write(struct channel *channel, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = send(channel->fd, (const char *)data + done, size - done, MSG_NOSIGNAL);
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            return -errno;
        else if (errno == EAGAIN) {
            int result = channel_wait(channel, EPOLLOUT);
            if (result)
                return result;
        }
    }
    return 0;
}

// The server's side of the greeting. Returns the message size, or -errno; -EPROTO for a peer that is no ping-pong client.
static inline int64_t hello_check(const struct hello *hello)
{
    uint32_t size = ntohl(hello->size);
    if (ntohl(hello->magic) != HELLO_MAGIC || size == 0 || size > MESSAGE_SIZE_MAX)
        return -EPROTO;
    return size;
}
