// pingpong-server: sends every message of a ping-pong client back to it. One process, no threads.
//
// Blocking or spinning, it serves one client after the other; with --epoll it serves many at once. After each client it
// says how many round trips there were per second and how long they took, as seen from here: the time from one complete
// request to the next.

#include <getopt.h>

#include "examples/latency.h"
#include "examples/pingpong.h"

struct options {
    const char *host, *port;
    uint64_t clients; // end after so many; 0: never
    enum waiting waiting;
    bool json;
    bool quiet;
};

static void usage(FILE *out)
{
    fprintf(out, "usage: pingpong-server [options]\n"
                 "Sends the messages of pingpong-client back.\n"
                 "\n"
                 "  --host HOST      where to listen, a name or an address, IPv4 or IPv6 [127.0.0.1]\n"
                 "  --port PORT      the port; 0 takes a free one and prints it [0]\n"
                 "  --clients N      end after N clients; 0 never ends [0]\n"
                 "  --poll           non-blocking calls, again and again, instead of blocking ones\n"
                 "  --epoll          non-blocking calls, and many clients at once through epoll\n"
                 "  --json           print one JSON object for each client\n"
                 "  --quiet          measure and print nothing: the clock costs a little with every message\n"
                 "  --help           print this\n"
                 "\n"
                 "Exit status: 0 done, 1 cannot listen, 2 wrong usage.\n");
}

static struct options parse(int argc, char **argv)
{
    enum { HOST = 1, PORT, CLIENTS, POLL, EPOLL, JSON, QUIET, HELP };
    static const struct option known[] = {
        {"host", required_argument, NULL, HOST},
        {"port", required_argument, NULL, PORT},
        {"clients", required_argument, NULL, CLIENTS},
        {"poll", no_argument, NULL, POLL},
        {"epoll", no_argument, NULL, EPOLL},
        {"json", no_argument, NULL, JSON},
        {"quiet", no_argument, NULL, QUIET},
        {"help", no_argument, NULL, HELP},
        {0},
    };
    struct options options = {.host = "127.0.0.1", .port = "0"};
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case HOST:
            options.host = optarg;
            break;
        case PORT:
            options.port = optarg;
            break;
        case CLIENTS:
            options.clients = number_argument("--clients", optarg, 0, UINT64_MAX);
            break;
        case POLL:
            options.waiting = WAIT_SPIN;
            break;
        case EPOLL:
            options.waiting = WAIT_EPOLL;
            break;
        case JSON:
            options.json = true;
            break;
        case QUIET:
            options.quiet = true;
            break;
        case HELP:
            usage(stdout);
            exit(EXIT_SUCCESS);
        default:
            usage(stderr);
            exit(EXIT_USAGE);
        }
    }
    if (optind != argc) {
        warnx("unexpected argument: %s", argv[optind]);
        usage(stderr);
        exit(EXIT_USAGE);
    }
    return options;
}

// ---- one client's figures

struct figures {
    struct latency latency;
    uint64_t first, last; // when the first and the latest request were complete
};

static void figures_add(struct figures *figures)
{
    uint64_t now = latency_now();
    if (figures->last)
        latency_add(&figures->latency, now - figures->last);
    else
        figures->first = now;
    figures->last = now;
}

// `result` is how the conversation ended: CHANNEL_END as it should, or -errno.
static void figures_print(const struct figures *figures, int result, const char *client, uint64_t size,
                          const struct options *options)
{
    if (result == -EPROTO)
        warnx("%s: does not speak the ping-pong protocol, or closed in the middle of a message", client);
    else if (result < 0)
        warnx("%s: %s", client, strerror(-result));
    else if (!options->quiet)
        latency_print(&figures->latency, client, size, waiting_name(options->waiting),
                      (double)(figures->last - figures->first) / 1e9, options->json);
}

// ---- one client at a time

// Returns CHANNEL_END when the client is done, or -errno.
static int converse(struct channel *channel, uint64_t *size, struct figures *figures, bool quiet)
{
    struct hello hello;
    int result = channel_read(channel, &hello, sizeof hello);
    if (result)
        return result < 0 ? result : -EPROTO;
    int64_t announced = hello_check(&hello);
    if (announced < 0)
        return (int)announced;
    *size = (uint64_t)announced;
    unsigned char *message = calloc(1, *size);
    if (!message)
        return -ENOMEM;
    while (!result) {
        result = channel_read(channel, message, *size);
        if (!result && !quiet)
            figures_add(figures);
        if (!result)
            result = channel_write(channel, message, *size);
    }
    free(message);
    return result;
}

static void serve_one(int listener, const struct options *options)
{
    struct channel channel;
    struct figures figures = {0};
    uint64_t size = 0;
    int fd = listener_accept(listener);
    struct address_text client = address_of_peer(fd);
    int result = channel_init(&channel, fd, options->waiting);
    if (!result)
        result = converse(&channel, &size, &figures, options->quiet);
    channel_close(&channel);
    figures_print(&figures, result, client.text, size, options);
}

// ---- many clients at once

enum turn { GREETING, RECEIVING, REPLYING };

struct client {
    int fd;
    uint32_t watched; // EPOLLIN or EPOLLOUT
    enum turn turn;
    struct hello hello;
    uint64_t size;
    unsigned char *message; // the client's, size bytes
    uint64_t done;          // bytes of the hello, the request or the reply
    struct address_text address;
    struct figures figures;
};

static void client_add(int epoll, int listener)
{
    int fd = listener_accept(listener), yes = 1;
    struct client *client = calloc(1, sizeof *client);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (!client || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) {
        warn("cannot serve a client");
        close(fd);
        free(client);
        return;
    }
    client->fd = fd;
    client->watched = EPOLLIN;
    client->address = address_of_peer(fd);
}

// Returns 0 when `size` bytes are there, CHANNEL_END, or -errno; -EAGAIN when more must be waited for.
static int client_receive(struct client *client, void *data, uint64_t size)
{
    while (client->done < size) {
        ssize_t n = read(client->fd, (char *)data + client->done, size - client->done);
        if (n > 0)
            client->done += (uint64_t)n;
        else if (n == 0)
            return client->done || client->turn == GREETING ? -EPROTO : CHANNEL_END;
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

// Returns 0 when the reply is out, or -errno; -EAGAIN when room must be waited for.
static int client_reply(struct client *client)
{
    while (client->done < client->size) {
        ssize_t n = send(client->fd, client->message + client->done, client->size - client->done, MSG_NOSIGNAL);
        if (n >= 0)
            client->done += (uint64_t)n;
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int client_greet(struct client *client)
{
    int64_t size = hello_check(&client->hello);
    if (size < 0)
        return (int)size;
    client->size = (uint64_t)size;
    client->message = calloc(1, client->size);
    return client->message ? 0 : -ENOMEM;
}

// Takes one turn of the conversation. Returns 0 when it is complete, CHANNEL_END, or -errno.
static int client_take_turn(struct client *client, bool quiet)
{
    int result = 0;
    switch (client->turn) {
    case GREETING:
        result = client_receive(client, &client->hello, sizeof client->hello);
        return result ? result : client_greet(client);
    case RECEIVING:
        result = client_receive(client, client->message, client->size);
        if (!result && !quiet)
            figures_add(&client->figures);
        return result;
    case REPLYING:
        return client_reply(client);
    }
    return result;
}

// Goes on with this client until it would block. Returns -EAGAIN then, CHANNEL_END, or another -errno.
static int client_advance(struct client *client, bool quiet)
{
    for (;;) {
        int result = client_take_turn(client, quiet);
        if (result)
            return result;
        client->turn = client->turn == RECEIVING ? REPLYING : RECEIVING;
        client->done = 0;
    }
}

static void client_free(struct client *client)
{
    close(client->fd);
    free(client->message);
    free(client);
}

// Returns true when the client is gone.
static bool client_serve(int epoll, struct client *client, const struct options *options)
{
    int result = client_advance(client, options->quiet);
    if (result != -EAGAIN) {
        figures_print(&client->figures, result, client->address.text, client->size, options);
        client_free(client);
        return true;
    }
    struct epoll_event event = {.events = client->turn == REPLYING ? EPOLLOUT : EPOLLIN, .data.ptr = client};
    if (client->watched != event.events && epoll_ctl(epoll, EPOLL_CTL_MOD, client->fd, &event))
        err(EXIT_FAILURE, "epoll_ctl");
    client->watched = event.events;
    return false;
}

static void serve_many(int listener, const struct options *options)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
        err(EXIT_FAILURE, "epoll");
    for (uint64_t served = 0; !options->clients || served < options->clients;) {
        struct epoll_event events[64];
        int n = epoll_wait(epoll, events, 64, -1);
        if (n < 0 && errno != EINTR)
            err(EXIT_FAILURE, "epoll_wait");
        for (int i = 0; i < n; i++) {
            if (!events[i].data.ptr)
                client_add(epoll, listener);
            else
                served += client_serve(epoll, events[i].data.ptr, options);
        }
    }
    close(epoll);
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    int listener = listener_open(options.host, options.port);
    if (options.waiting == WAIT_EPOLL)
        serve_many(listener, &options);
    else
        for (uint64_t served = 0; !options.clients || served < options.clients; served++)
            serve_one(listener, &options);
    close(listener);
    return EXIT_SUCCESS;
}
