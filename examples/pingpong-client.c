// pingpong-client: sends a message to a ping-pong server, waits for it to come back, and so on; then says how many round
// trips there were per second and how long they took.
//
// Every round trip is timed on its own, and every reply is checked: it must bear the number of its request.

#include <getopt.h>
#include <signal.h>

#include "examples/latency.h"
#include "examples/pingpong.h"

struct options {
    const char *host, *port;
    size_t size;
    double seconds;
    uint64_t count; // 0: as many as fit into `seconds`
    uint64_t warmup;
    enum waiting waiting;
    bool json;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    interrupted = 1;
}

static void usage(FILE *out)
{
    fprintf(out, "usage: pingpong-client --port PORT [options]\n"
                 "Exchanges messages with pingpong-server or forking-pingpong-server and measures the round trips.\n"
                 "\n"
                 "  --host HOST      where the server is, a name or an address, IPv4 or IPv6 [127.0.0.1]\n"
                 "  --port PORT      its port\n"
                 "  --size BYTES     size of a message, 1 to 67108864 [64]\n"
                 "  --seconds S      how long to measure, fractions allowed [2]\n"
                 "  --count N        measure N round trips instead\n"
                 "  --warmup N       round trips before the measurement begins [1000]\n"
                 "  --poll           non-blocking calls, again and again, instead of blocking ones\n"
                 "  --epoll          non-blocking calls, and epoll_wait when there is nothing to do\n"
                 "  --json           print one JSON object\n"
                 "  --help           print this\n"
                 "\n"
                 "Exit status: 0 done, 1 the connection failed, 2 wrong usage. Interrupt (^C) to end early.\n");
}

static double seconds_argument(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value > 0 && value <= 86400))
        errx(EXIT_USAGE, "--seconds %s: expected a number above 0, at most 86400", text);
    return value;
}

static struct options parse(int argc, char **argv)
{
    enum { HOST = 1, PORT, SIZE, SECONDS, COUNT, WARMUP, POLL, EPOLL, JSON, HELP };
    static const struct option known[] = {
        {"host", required_argument, NULL, HOST},
        {"port", required_argument, NULL, PORT},
        {"size", required_argument, NULL, SIZE},
        {"seconds", required_argument, NULL, SECONDS},
        {"count", required_argument, NULL, COUNT},
        {"warmup", required_argument, NULL, WARMUP},
        {"poll", no_argument, NULL, POLL},
        {"epoll", no_argument, NULL, EPOLL},
        {"json", no_argument, NULL, JSON},
        {"help", no_argument, NULL, HELP},
        {0},
    };
    struct options options = {.host = "127.0.0.1", .size = 64, .seconds = 2, .warmup = 1000};
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case HOST:
            options.host = optarg;
            break;
        case PORT:
            options.port = optarg;
            break;
        case SIZE:
            options.size = number_argument("--size", optarg, 1, MESSAGE_SIZE_MAX);
            break;
        case SECONDS:
            options.seconds = seconds_argument(optarg);
            break;
        case COUNT:
            options.count = number_argument("--count", optarg, 1, UINT64_MAX);
            break;
        case WARMUP:
            options.warmup = number_argument("--warmup", optarg, 0, UINT64_MAX);
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
        case HELP:
            usage(stdout);
            exit(EXIT_SUCCESS);
        default:
            usage(stderr);
            exit(EXIT_USAGE);
        }
    }
    if (optind != argc || !options.port) {
        warnx(options.port ? "unexpected argument: %s" : "--port is missing", argv[optind]);
        usage(stderr);
        exit(EXIT_USAGE);
    }
    return options;
}

// Ends the program when a call on the connection gave anything but 0.
static void require(int result)
{
    if (result == CHANNEL_END || result == -EPROTO)
        errx(EXIT_FAILURE, "the server closed the connection; is it a ping-pong server?");
    if (result) {
        errno = -result;
        err(EXIT_FAILURE, "connection to the server");
    }
}

static void round_trip(struct channel *channel, unsigned char *message, size_t size)
{
    static uint64_t number;
    uint64_t stamp = ++number;
    size_t stamped = size < sizeof stamp ? size : sizeof stamp;
    memcpy(message, &stamp, stamped);
    require(channel_write(channel, message, size));
    require(channel_read(channel, message, size));
    if (memcmp(message, &stamp, stamped) != 0)
        errx(EXIT_FAILURE, "the reply to message %llu is not what was sent", (unsigned long long)stamp);
}

// Returns the time that the measured round trips took, in seconds.
static double measure(struct channel *channel, const struct options *options, unsigned char *message,
                      struct latency *latency)
{
    for (uint64_t i = 0; i < options->warmup && !interrupted; i++)
        round_trip(channel, message, options->size);

    uint64_t begin = latency_now(), before = begin;
    uint64_t end = options->count ? UINT64_MAX : begin + (uint64_t)(options->seconds * 1e9);
    while (!interrupted && before < end && (!options->count || latency->count < options->count)) {
        round_trip(channel, message, options->size);
        uint64_t after = latency_now();
        latency_add(latency, after - before);
        before = after;
    }
    return (double)(before - begin) / 1e9;
}

int main(int argc, char **argv)
{
    static struct latency latency;
    struct options options = parse(argc, argv);
    unsigned char *message = calloc(1, options.size);
    if (!message)
        err(EXIT_FAILURE, "no memory for a message of %zu bytes", options.size);
    struct sigaction once = {.sa_handler = on_interrupt, .sa_flags = (int)(SA_RESTART | SA_RESETHAND)};
    sigaction(SIGINT, &once, NULL);

    struct channel channel;
    struct hello hello = {htonl(HELLO_MAGIC), htonl((uint32_t)options.size)};
    require(channel_init(&channel, connection_open(options.host, options.port), options.waiting));
    struct address_text server = address_of_peer(channel.fd);
    require(channel_write(&channel, &hello, sizeof hello));
    double seconds = measure(&channel, &options, message, &latency);
    channel_close(&channel);
    free(message);

    latency_print(&latency, server.text, options.size, waiting_name(options.waiting), seconds, options.json);
    return EXIT_SUCCESS;
}
