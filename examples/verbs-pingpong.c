// verbs-pingpong: the ping-pong of pingpong-client and pingpong-server by RDMA writes, without sockets and without
// rdma-agent: what the device itself can do.
//
// Each side has a buffer that the other writes. A message is one RDMA write of the whole size; its last byte is the
// number of the round trip (1 to 255, and again), for which the other side watches its own memory. So neither the
// kernel nor the receiving program's queue has a part in it. With --sleep the write carries an immediate value, and the
// receiver sleeps on its completion channel.
//
// Protocol: with its request to connect the client sends a struct offer, with its answer the server does. Then they take
// turns. The client ends by disconnecting.

#include <getopt.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <sched.h>
#include <signal.h>

#include "examples/latency.h"
#include "examples/pingpong.h"

#define OFFER_MAGIC 0x52445047u // "RDPG"

// Every so many writes one is signalled, and waited for.
#define WRITES_PER_SIGNAL 32
#define RECEIVES          32

// Looks at the memory before giving the CPU away once, and before looking for events of the connection.
#define LOOKS_PER_YIELD  64
#define YIELDS_PER_EVENT 256

#define RESOLVE_MS 2000

// In network byte order.
struct offer {
    uint32_t magic;
    uint32_t size; // of each message, 1..MESSAGE_SIZE_MAX
    uint64_t address;
    uint32_t key;
    uint32_t sleep; // the receiver sleeps: writes carry an immediate
};

struct options {
    const char *host, *port; // host: null in the server if any
    bool server;
    uint64_t size;
    double seconds;
    uint64_t count; // 0: as many as fit into `seconds`
    uint64_t warmup;
    uint64_t clients;
    bool sleep;
    bool json;
};

struct side {
    struct rdma_event_channel *events;
    struct rdma_cm_id *id;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel; // null unless it sleeps
    struct ibv_cq *writes, *arrivals;
    struct ibv_mr *mr;
    unsigned char *buffer; // the one that is written by the other side, then the one that is sent
    uint64_t size;
    bool sleep;
    bool inlined;
    struct offer theirs; // in the host's byte order
    uint64_t written;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    interrupted = 1;
}

static void usage(FILE *out)
{
    fprintf(out, "usage: verbs-pingpong --server [--host ADDRESS] [--port PORT] [--clients N]\n"
                 "       verbs-pingpong --host ADDRESS --port PORT [options]\n"
                 "Exchanges messages by RDMA writes and measures the round trips.\n"
                 "\n"
                 "  --server         serve one client after the other\n"
                 "  --host ADDRESS   an address of an RDMA device: the server's\n"
                 "  --port PORT      its port [18515 for a server]\n"
                 "  --clients N      end after N clients; 0 never ends [0]\n"
                 "  --size BYTES     size of a message, 1 to 67108864 [64]\n"
                 "  --seconds S      how long to measure, fractions allowed [2]\n"
                 "  --count N        measure N round trips instead\n"
                 "  --warmup N       round trips before the measurement begins [1000]\n"
                 "  --sleep          sleep until a message comes, on both sides, instead of watching memory\n"
                 "  --json           print one JSON object\n"
                 "  --help           print this\n"
                 "\n"
                 "Exit status: 0 done, 1 the connection failed, 2 wrong usage, 3 no RDMA device on this host.\n");
}

#define EXIT_NO_DEVICE 3

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
    enum { SERVER = 1, HOST, PORT, CLIENTS, SIZE, SECONDS, COUNT, WARMUP, SLEEP, JSON, HELP };
    static const struct option known[] = {
        {"server", no_argument, NULL, SERVER},     {"host", required_argument, NULL, HOST},
        {"port", required_argument, NULL, PORT},   {"clients", required_argument, NULL, CLIENTS},
        {"size", required_argument, NULL, SIZE},   {"seconds", required_argument, NULL, SECONDS},
        {"count", required_argument, NULL, COUNT}, {"warmup", required_argument, NULL, WARMUP},
        {"sleep", no_argument, NULL, SLEEP},       {"json", no_argument, NULL, JSON},
        {"help", no_argument, NULL, HELP},         {0},
    };
    struct options options = {.size = 64, .seconds = 2, .warmup = 1000};
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case SERVER:
            options.server = true;
            break;
        case HOST:
            options.host = optarg;
            break;
        case PORT:
            options.port = optarg;
            break;
        case CLIENTS:
            options.clients = number_argument("--clients", optarg, 0, UINT64_MAX);
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
        case SLEEP:
            options.sleep = true;
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
    if (options.server && !options.port)
        options.port = "18515";
    if (optind != argc || !options.port || (!options.server && !options.host)) {
        warnx(optind != argc ? "unexpected argument: %s" : "--host or --port is missing", argv[optind]);
        usage(stderr);
        exit(EXIT_USAGE);
    }
    return options;
}

// ---- devices and addresses

static void require_device(void)
{
    int count = 0;
    struct ibv_device **devices = access("/sys/class/infiniband", F_OK) == 0 ? ibv_get_device_list(&count) : NULL;
    if (devices)
        ibv_free_device_list(devices);
    if (count > 0 && access("/dev/infiniband/rdma_cm", R_OK | W_OK) == 0)
        return;
    if (count == 0)
        warnx("there is no RDMA device on this host; soft-RoCE makes one of any network card:\n"
              "    modprobe rdma_rxe && rdma link add rxe0 type rxe netdev CARD");
    else
        warn("cannot open /dev/infiniband/rdma_cm (modprobe rdma_ucm)");
    exit(EXIT_NO_DEVICE);
}

static struct sockaddr_storage resolve(const char *host, const char *port, int flags)
{
    struct addrinfo *found = address_resolve(host, port, flags);
    struct sockaddr_storage address = {0};
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return address;
}

// ---- connections

static struct rdma_event_channel *events_open(void)
{
    struct rdma_event_channel *events = rdma_create_event_channel();
    if (!events)
        err(EXIT_FAILURE, "cannot use the RDMA connection manager");
    return events;
}

// Waits for an event. Returns whether it is the one that is wanted; it must be acknowledged in any case.
static bool next_event(struct rdma_event_channel *events, enum rdma_cm_event_type wanted, struct rdma_cm_event **event)
{
    if (rdma_get_cm_event(events, event))
        err(EXIT_FAILURE, "the RDMA connection manager");
    return (*event)->event == wanted;
}

static void require_event(struct rdma_event_channel *events, enum rdma_cm_event_type wanted, const char *doing)
{
    struct rdma_cm_event *event;
    if (!next_event(events, wanted, &event))
        errx(EXIT_FAILURE, "%s: %s (%d)", doing, rdma_event_str(event->event), event->status);
    rdma_ack_cm_event(event);
}

// Whether the other side has disconnected, without waiting.
static bool has_ended(struct side *side)
{
    struct pollfd readable = {.fd = side->events->fd, .events = POLLIN};
    struct rdma_cm_event *event;
    if (poll(&readable, 1, 0) != 1)
        return false;
    bool ended = next_event(side->events, RDMA_CM_EVENT_DISCONNECTED, &event);
    rdma_ack_cm_event(event);
    return ended;
}

static void require(bool made, const char *what)
{
    if (!made)
        err(EXIT_FAILURE, "cannot make %s%s", what,
            errno == ENOMEM ? " (is the limit on locked memory too low? ulimit -l unlimited)" : "");
}

static void side_post_receive(struct side *side)
{
    struct ibv_recv_wr receive = {0}, *bad;
    if (side->sleep && ibv_post_recv(side->id->qp, &receive, &bad))
        errx(EXIT_FAILURE, "cannot post a receive");
}

// Makes all that a connection needs, for an id that has its device.
static void side_make(struct side *side, uint64_t size, bool sleep)
{
    struct ibv_context *device = side->id->verbs;
    struct ibv_qp_init_attr attributes = {.qp_type = IBV_QPT_RC};
    side->size = size;
    side->sleep = sleep;
    side->written = 0;
    require((side->pd = ibv_alloc_pd(device)), "a protection domain");
    side->channel = sleep ? ibv_create_comp_channel(device) : NULL;
    require(!sleep || side->channel, "a completion channel");
    require((side->writes = ibv_create_cq(device, 2 * WRITES_PER_SIGNAL, NULL, NULL, 0)), "a completion queue");
    require((side->arrivals = ibv_create_cq(device, 2 * RECEIVES, NULL, side->channel, 0)), "a completion queue");
    require((side->buffer = calloc(2, size)), "a buffer");
    require((side->mr = ibv_reg_mr(side->pd, side->buffer, 2 * size, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)),
            "a memory registration");
    attributes.send_cq = side->writes;
    attributes.recv_cq = side->arrivals;
    attributes.cap = (struct ibv_qp_cap){2 * WRITES_PER_SIGNAL, RECEIVES, 1, 1, size <= 192 ? (uint32_t)size : 0};
    if (rdma_create_qp(side->id, side->pd, &attributes)) {
        attributes.cap.max_inline_data = 0;
        require(rdma_create_qp(side->id, side->pd, &attributes) == 0, "a queue pair");
    }
    side->inlined = attributes.cap.max_inline_data >= size;
    for (int i = 0; i < RECEIVES; i++)
        side_post_receive(side);
    if (sleep && ibv_req_notify_cq(side->arrivals, 0))
        errx(EXIT_FAILURE, "cannot ask for events of completions");
}

static void side_close(struct side *side)
{
    rdma_disconnect(side->id);
    rdma_destroy_qp(side->id);
    ibv_dereg_mr(side->mr);
    ibv_destroy_cq(side->writes);
    ibv_destroy_cq(side->arrivals);
    if (side->channel)
        ibv_destroy_comp_channel(side->channel);
    ibv_dealloc_pd(side->pd);
    rdma_destroy_id(side->id);
    free(side->buffer);
}

static struct offer side_offer(const struct side *side)
{
    return (struct offer){
        .magic = htonl(OFFER_MAGIC),
        .size = htonl((uint32_t)side->size),
        .address = htobe64((uintptr_t)side->buffer),
        .key = htonl(side->mr->rkey),
        .sleep = htonl(side->sleep),
    };
}

// Returns whether it is one.
static bool offer_read(struct offer *offer, const struct rdma_cm_event *event)
{
    if (!event->param.conn.private_data || event->param.conn.private_data_len < sizeof *offer)
        return false;
    memcpy(offer, event->param.conn.private_data, sizeof *offer);
    offer->magic = ntohl(offer->magic);
    offer->size = ntohl(offer->size);
    offer->address = be64toh(offer->address);
    offer->key = ntohl(offer->key);
    offer->sleep = ntohl(offer->sleep);
    return offer->magic == OFFER_MAGIC && offer->size >= 1 && offer->size <= MESSAGE_SIZE_MAX;
}

// ---- messages

static void wait_for_write(struct side *side)
{
    struct ibv_wc completion;
    int found;
    while ((found = ibv_poll_cq(side->writes, 1, &completion)) == 0)
        sched_yield();
    if (found < 0 || completion.status != IBV_WC_SUCCESS)
        errx(EXIT_FAILURE, "a write failed: %s", found < 0 ? "no answer" : ibv_wc_status_str(completion.status));
}

static void send_message(struct side *side, unsigned char number)
{
    unsigned char *message = side->buffer + side->size;
    struct ibv_sge part = {(uintptr_t)message, (uint32_t)side->size, side->mr->lkey};
    struct ibv_send_wr request = {
        .sg_list = &part,
        .num_sge = 1,
        .opcode = side->sleep ? IBV_WR_RDMA_WRITE_WITH_IMM : IBV_WR_RDMA_WRITE,
        .send_flags = side->inlined ? IBV_SEND_INLINE : 0,
        .wr.rdma = {.remote_addr = side->theirs.address, .rkey = side->theirs.key},
    };
    struct ibv_send_wr *bad;
    bool signalled = ++side->written % WRITES_PER_SIGNAL == 0;
    message[side->size - 1] = number;
    if (signalled)
        request.send_flags |= IBV_SEND_SIGNALED;
    if (ibv_post_send(side->id->qp, &request, &bad))
        errx(EXIT_FAILURE, "cannot post a write");
    if (signalled)
        wait_for_write(side);
}

// Returns false if the other side has ended.
static bool watch_memory(struct side *side, unsigned char number)
{
    const volatile unsigned char *last = side->buffer + side->size - 1;
    for (unsigned yields = 0;; yields++) {
        for (int i = 0; i < LOOKS_PER_YIELD; i++) {
            if (__atomic_load_n(last, __ATOMIC_ACQUIRE) == number)
                return true;
        }
        if (interrupted || (yields % YIELDS_PER_EVENT == YIELDS_PER_EVENT - 1 && has_ended(side)))
            return false;
        sched_yield();
    }
}

static bool sleep_for_event(struct side *side)
{
    struct pollfd readable[] = {{.fd = side->channel->fd, .events = POLLIN},
                                {.fd = side->events->fd, .events = POLLIN}};
    struct ibv_cq *cq;
    void *context;
    if (poll(readable, 2, -1) < 0 || interrupted)
        return false;
    if (!(readable[0].revents & POLLIN))
        return !has_ended(side);
    if (ibv_get_cq_event(side->channel, &cq, &context))
        return false;
    ibv_ack_cq_events(cq, 1);
    return ibv_req_notify_cq(cq, 0) == 0;
}

static bool await_arrival(struct side *side)
{
    struct ibv_wc completion;
    while (ibv_poll_cq(side->arrivals, 1, &completion) == 0) {
        if (!sleep_for_event(side))
            return false;
    }
    if (completion.status != IBV_WC_SUCCESS)
        return false;
    side_post_receive(side);
    return true;
}

static bool await_message(struct side *side, unsigned char number)
{
    return side->sleep ? await_arrival(side) : watch_memory(side, number);
}

// ---- the server

static void converse(struct side *side)
{
    for (unsigned number = 1; await_message(side, (unsigned char)number); number = number % 255 + 1)
        send_message(side, (unsigned char)number);
}

// Serves the client that asks with this event, which is acknowledged here.
static void serve(struct side *side, struct rdma_cm_event *event)
{
    bool right = offer_read(&side->theirs, event);
    side->id = event->id;
    rdma_ack_cm_event(event);
    if (!right) {
        warnx("refused a client that does not speak the ping-pong protocol");
        rdma_reject(side->id, NULL, 0);
        rdma_destroy_id(side->id);
        return;
    }
    side_make(side, side->theirs.size, side->theirs.sleep != 0);
    struct offer offer = side_offer(side);
    struct rdma_conn_param answer = {.private_data = &offer, .private_data_len = sizeof offer, .rnr_retry_count = 7};
    if (rdma_accept(side->id, &answer))
        err(EXIT_FAILURE, "cannot accept a client");
    converse(side);
    side_close(side);
}

static void serve_clients(const struct options *options)
{
    struct side side = {.events = events_open()};
    struct rdma_cm_id *listener;
    struct sockaddr_storage address = resolve(options->host, options->port, AI_PASSIVE);
    if (rdma_create_id(side.events, &listener, NULL, RDMA_PS_TCP) ||
        rdma_bind_addr(listener, (struct sockaddr *)&address) || rdma_listen(listener, 8))
        err(EXIT_FAILURE, "cannot listen at %s", address_format(&address).text);
    printf("listening on %s\n", address_format(&address).text);
    fflush(stdout);
    for (uint64_t served = 0; !interrupted && (!options->clients || served < options->clients);) {
        struct rdma_cm_event *event;
        if (next_event(side.events, RDMA_CM_EVENT_CONNECT_REQUEST, &event)) {
            serve(&side, event);
            served++;
        } else {
            rdma_ack_cm_event(event); // of a client before
        }
    }
    rdma_destroy_id(listener);
    rdma_destroy_event_channel(side.events);
}

// ---- the client

static void side_connect(struct side *side, const struct options *options)
{
    struct sockaddr_storage address = resolve(options->host, options->port, 0);
    struct rdma_cm_event *event;
    side->events = events_open();
    if (rdma_create_id(side->events, &side->id, NULL, RDMA_PS_TCP) ||
        rdma_resolve_addr(side->id, NULL, (struct sockaddr *)&address, RESOLVE_MS))
        err(EXIT_FAILURE, "cannot resolve %s", options->host);
    require_event(side->events, RDMA_CM_EVENT_ADDR_RESOLVED, "no RDMA device leads to the server");
    if (rdma_resolve_route(side->id, RESOLVE_MS))
        err(EXIT_FAILURE, "cannot find a route to %s", options->host);
    require_event(side->events, RDMA_CM_EVENT_ROUTE_RESOLVED, "cannot find a route to the server");
    side_make(side, options->size, options->sleep);
    struct offer offer = side_offer(side);
    struct rdma_conn_param request = {
        .private_data = &offer, .private_data_len = sizeof offer, .retry_count = 7, .rnr_retry_count = 7};
    if (rdma_connect(side->id, &request))
        err(EXIT_FAILURE, "cannot connect to %s", options->host);
    if (!next_event(side->events, RDMA_CM_EVENT_ESTABLISHED, &event) || !offer_read(&side->theirs, event))
        errx(EXIT_FAILURE, "cannot connect to %s port %s: %s; is it a verbs-pingpong server?", options->host,
             options->port, rdma_event_str(event->event));
    rdma_ack_cm_event(event);
}

static void round_trip(struct side *side)
{
    static unsigned number;
    number = number % 255 + 1;
    send_message(side, (unsigned char)number);
    if (!await_message(side, (unsigned char)number) && !interrupted)
        errx(EXIT_FAILURE, "the server closed the connection");
    if (!interrupted && side->buffer[side->size - 1] != number)
        errx(EXIT_FAILURE, "the reply is not what was sent");
}

// Returns the time that the measured round trips took, in seconds.
static double measure(struct side *side, const struct options *options, struct latency *latency)
{
    for (uint64_t i = 0; i < options->warmup && !interrupted; i++)
        round_trip(side);
    uint64_t begin = latency_now(), before = begin;
    uint64_t end = options->count ? UINT64_MAX : begin + (uint64_t)(options->seconds * 1e9);
    while (!interrupted && before < end && (!options->count || latency->count < options->count)) {
        round_trip(side);
        uint64_t after = latency_now();
        latency_add(latency, after - before);
        before = after;
    }
    return (double)(before - begin) / 1e9;
}

static void be_a_client(const struct options *options)
{
    static struct latency latency;
    struct side side = {0};
    side_connect(&side, options);
    struct sockaddr_storage server = {0};
    memcpy(&server, rdma_get_peer_addr(side.id), sizeof(struct sockaddr_in6));
    double seconds = measure(&side, options, &latency);
    side_close(&side);
    rdma_destroy_event_channel(side.events);
    latency_print(&latency, address_format(&server).text, options->size,
                  options->sleep ? "RDMA write, sleeping" : "RDMA write", seconds, options->json);
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    struct sigaction once = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &once, NULL);
    require_device();
    if (options.server)
        serve_clients(&options);
    else
        be_a_client(&options);
    return EXIT_SUCCESS;
}
