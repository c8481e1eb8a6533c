// forking-pingpong-server: sends every message of a ping-pong client back to it, each client in a process of its own.
//
// The parent only accepts; the child that it forks talks, with blocking calls. This is how inetd, PostgreSQL and many
// others work. After its client each child says how many round trips there were per second and how long they took, as
// seen from here: the time from one complete request to the next.

#include <getopt.h>
#include <signal.h>
#include <sys/wait.h>

#include "examples/latency.h"
#include "examples/pingpong.h"

struct options {
    const char *host, *port;
    uint64_t clients; // end after so many; 0: never
    bool json;
};

static void usage(FILE *out)
{
    fprintf(out, "usage: forking-pingpong-server [options]\n"
                 "Sends the messages of pingpong-client back, each client in a process of its own.\n"
                 "\n"
                 "  --host HOST      where to listen, a name or an address, IPv4 or IPv6 [127.0.0.1]\n"
                 "  --port PORT      the port; 0 takes a free one and prints it [0]\n"
                 "  --clients N      end after N clients; 0 never ends [0]\n"
                 "  --json           print one JSON object for each client\n"
                 "  --help           print this\n"
                 "\n"
                 "Exit status: 0 done, 1 cannot listen, 2 wrong usage.\n");
}

static struct options parse(int argc, char **argv)
{
    enum { HOST = 1, PORT, CLIENTS, JSON, HELP };
    static const struct option known[] = {
        {"host", required_argument, NULL, HOST},
        {"port", required_argument, NULL, PORT},
        {"clients", required_argument, NULL, CLIENTS},
        {"json", no_argument, NULL, JSON},
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
        case JSON:
            options.json = true;
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

// Returns CHANNEL_END when the client is done, or -errno.
static int converse(struct channel *channel, unsigned char *message, uint64_t size, struct latency *latency,
                    double *seconds)
{
    uint64_t first = 0, before = 0;
    for (;;) {
        int result = channel_read(channel, message, size);
        if (result)
            return result;
        uint64_t now = latency_now();
        if (before)
            latency_add(latency, now - before);
        else
            first = now;
        before = now;
        *seconds = (double)(now - first) / 1e9;
        result = channel_write(channel, message, size);
        if (result)
            return result;
    }
}

// The child: one conversation from the hello to the end. Returns the exit status.
static int serve(int fd, bool json)
{
    struct channel channel;
    struct hello hello;
    struct latency latency = {0};
    double seconds = 0;
    struct address_text client = address_of_peer(fd);
    int result = channel_init(&channel, fd, WAIT_BLOCK);
    if (!result)
        result = channel_read(&channel, &hello, sizeof hello);
    int64_t size = result ? -EPROTO : hello_check(&hello);
    if (size < 0)
        errx(EXIT_FAILURE, "%s: does not speak the ping-pong protocol", client.text);
    unsigned char *message = calloc(1, (size_t)size);
    if (!message)
        err(EXIT_FAILURE, "%s: no memory for a message", client.text);
    result = converse(&channel, message, (uint64_t)size, &latency, &seconds);
    channel_close(&channel);
    free(message);
    if (result == -EPROTO)
        errx(EXIT_FAILURE, "%s: closed in the middle of a message", client.text);
    if (result < 0)
        errx(EXIT_FAILURE, "%s: %s", client.text, strerror(-result));
    latency_print(&latency, client.text, (uint64_t)size, waiting_name(WAIT_BLOCK), seconds, json);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    int listener = listener_open(options.host, options.port);
    signal(SIGCHLD, SIG_IGN); // the kernel reaps the children
    for (uint64_t served = 0; !options.clients || served < options.clients; served++) {
        int fd = listener_accept(listener);
        pid_t child = fork();
        if (child == 0) {
            close(listener);
            exit(serve(fd, options.json));
        }
        if (child < 0)
            warn("fork");
        close(fd);
    }
    close(listener);
    while (wait(NULL) > 0) // with the children ignored, returns once all of them have ended
        ;
    return EXIT_SUCCESS;
}
