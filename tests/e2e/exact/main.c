// Both ends of many TCP connections in one program, every byte checked: no byte lost, doubled, moved or changed, and the
// end where it belongs, whatever carries them.
//
//   exact [--seed N] [--connections N] [--bytes N] [--loop KIND] [--holders one|fork|split] [--ipv6] [--shared]
//         [--receivers N] [--rounds N] [--seconds N] [--hold] [--send CALL] [--receive CALL]
//         [--role server|client --address IP --port N --client-ports N]
//
//   --bytes     each direction of a connection carries up to so many. Most are streams both ways, of which one ends before
//               the other; every fourth is a client's requests and a server's replies, if one process does both
//   --rounds    do it all so often, each time with new connections
//   --loop      threads, poll, select, epoll, epoll-edge, epoll-oneshot
//   --holders   one: a process holds both ends; fork: the server forks a child for each connection, some in the midst
//               of the conversation; split: at each end, a parent sends and its child receives on the same socket
//   --shared    several threads send, and as many as --receivers says receive, on one socket, instead
//   --seconds   give up on a round, and say where everything stands
//   --hold      close no connection before the end of what it sent is out
//   --role      only one end of each connection, for two programs on two hosts: the server at --address and --port, and
//               client number N at local port --client-ports + N; with the same seed and sizes
//   --send, --receive   use this call only, such as "sendmsg" or "recv MSG_PEEK and recv"
//
// Prints "ok" and the seed, or says on stderr what was wrong where, and the seed.

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/exact/chance.h"
#include "tests/e2e/exact/loop.h"
#include "tests/e2e/exact/shared.h"
#include "tests/e2e/exact/side.h"

enum holders { HOLDERS_ONE, HOLDERS_FORK, HOLDERS_SPLIT, HOLDERS_KINDS };
static const char *const holders_names[] = {"one", "fork", "split"};

enum role { ROLE_BOTH, ROLE_SERVER, ROLE_CLIENT, ROLES };
static const char *const role_names[] = {"both", "server", "client"};

static struct {
    enum role role;
    const char *address; // null: loopback
    unsigned port;
    unsigned client_ports; // of the first client; 0: any
    unsigned connections;
    uint64_t bytes;
    enum loop_kind loop;
    enum holders holders;
    int family;
    bool shared;
    unsigned receivers;
    unsigned rounds;
    unsigned seconds;
} options = {.receivers = 1, .connections = 16, .bytes = 4 << 20, .family = AF_INET, .rounds = 1, .seconds = 60};

static unsigned this_round;

// Which connection has which client port: so that the two ends agree on what their streams are.
static _Atomic uint32_t *connection_of_port;
#define PORTS 65536

static int listener;
static struct sockaddr_storage address;
static socklen_t address_size;

// The sides of this process, for the report of a hang.
static struct side *known_sides;
static unsigned known_count;

static void report_hang(int number)
{
    dprintf(STDERR_FILENO, "not ok (seed %llu, pid %d): still busy after %u s\n", (unsigned long long)seed, getpid(),
            options.seconds);
    for (unsigned i = 0; i < known_count; i++) {
        const struct side *side = &known_sides[i];
        dprintf(STDERR_FILENO, "connection %u fd %d: sent %llu of %llu%s, received %llu of %llu%s\n", side->connection,
                side->fd, (unsigned long long)side->out.offset, (unsigned long long)side->out.total,
                side->out_done ? " (done)" : "", (unsigned long long)side->in.offset,
                (unsigned long long)side->in.total, side->in_done ? " (done)" : "");
    }
    _exit(1);
}

static void watch(struct side *sides, unsigned count)
{
    known_sides = sides;
    known_count = count;
    alarm(options.seconds);
}

// Connections.

static void set_address(void)
{
    struct sockaddr_in *four = (struct sockaddr_in *)&address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address;
    const char *text = options.address ? options.address : options.family == AF_INET ? "127.0.0.1" : "::1";
    address.ss_family = (sa_family_t)options.family;
    if (inet_pton(options.family, text, options.family == AF_INET ? (void *)&four->sin_addr : &six->sin6_addr) != 1)
        fail("\"%s\" is no address", text);
    *(options.family == AF_INET ? &four->sin_port : &six->sin6_port) = htons((uint16_t)options.port);
    address_size = options.family == AF_INET ? sizeof *four : sizeof *six;
}

static void start_listening(void)
{
    int one = 1;
    listener = socket(options.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, address_size) < 0 || listen(listener, 1000) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &address_size) < 0)
        fail("cannot listen: %s", strerror(errno));
}

static unsigned port_of(const struct sockaddr_storage *any)
{
    return ntohs(any->ss_family == AF_INET ? ((const struct sockaddr_in *)any)->sin_port
                                           : ((const struct sockaddr_in6 *)any)->sin6_port);
}

// Whether the conversation of this connection begins before the fork, and how far it then goes.
static bool begins_before_fork(unsigned connection)
{
    return connection % 2 == 1;
}

#define LARGEST_TURN 65536
#define TURNS        2000

// The size of a request, and of a reply; 0 where there are none.
static uint64_t turn_of(unsigned connection)
{
    struct chance chance = {.state = seed ^ mix(0x30000 + connection)};
    bool talks = options.holders != HOLDERS_SPLIT && connection % 4 == 2;
    return talks ? chance_size(&chance, LARGEST_TURN) : 0;
}

// Some streams carry nothing, some little, most much.
static uint64_t stream_total(unsigned id)
{
    struct chance chance = {.state = seed ^ mix(id + 1)};
    uint64_t turn = turn_of(id / 2), most = turn && turn * TURNS < options.bytes ? turn * TURNS : options.bytes;
    if (chance_once_in(&chance, 20))
        return 0;
    if (chance_once_in(&chance, 4))
        return chance_size(&chance, most);
    return most / 2 + chance_below(&chance, most / 2 + 1);
}

static void stream_init(struct stream *stream, unsigned id)
{
    *stream = (struct stream){.id = id, .total = stream_total(id)};
    stream->until = stream->total;
}

// A few sockets have buffers of another size, or send at once. (Very small ones make the kernel's TCP wait for timers.)
static void vary_socket(struct side *side)
{
    int size = 65536 << chance_below(&side->out_chance, 6), one = 1;
    if (chance_once_in(&side->out_chance, 4))
        setsockopt(side->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (chance_once_in(&side->out_chance, 4))
        setsockopt(side->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    // Who makes a request in parts would wait for acknowledgements otherwise.
    if (side->turn || chance_once_in(&side->out_chance, 2))
        setsockopt(side->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void side_init(struct side *side, int fd, unsigned connection, bool server)
{
    *side = (struct side){.fd = fd, .connection = connection, .blocking = true, .asks = !server};
    side->turn = turn_of(connection);
    stream_init(&side->out, 2 * connection + server);
    stream_init(&side->in, 2 * connection + !server);
    side->out_chance.state = seed ^ mix(0x10000 + side->out.id);
    side->in_chance.state = seed ^ mix(0x20000 + side->in.id);
    vary_socket(side);
}

// Each round has ports of its own, since those of the one before are not free yet.
static unsigned first_client_port(void)
{
    return options.client_ports + this_round * options.connections;
}

// The other program knows a connection by its port.
static void bind_client(int fd, unsigned connection)
{
    struct sockaddr_storage local = {.ss_family = (sa_family_t)options.family};
    uint16_t port = htons((uint16_t)(first_client_port() + connection));
    int one = 1;
    if (options.family == AF_INET)
        ((struct sockaddr_in *)&local)->sin_port = port;
    else
        ((struct sockaddr_in6 *)&local)->sin6_port = port;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&local, address_size) < 0)
        fail("cannot bind to port %u: %s", ntohs(port), strerror(errno));
}

static void connect_side(struct side *side, unsigned connection)
{
    struct sockaddr_storage local;
    socklen_t size = sizeof local;
    int fd = socket(options.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (options.client_ports)
        bind_client(fd, connection);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, address_size) < 0 ||
        getsockname(fd, (struct sockaddr *)&local, &size) < 0)
        fail("cannot connect: %s", strerror(errno));
    atomic_store(&connection_of_port[port_of(&local)], connection + 1);
    side_init(side, fd, connection, false);
}

// Which connection comes from this port.
static unsigned connection_from(unsigned port)
{
    uint32_t number;
    if (options.client_ports)
        return port - first_client_port();
    while (!(number = atomic_load(&connection_of_port[port])))
        usleep(100);
    return number - 1;
}

static void accept_side(struct side *side)
{
    struct sockaddr_storage remote;
    socklen_t size = sizeof remote;
    int fd = accept4(listener, (struct sockaddr *)&remote, &size, SOCK_CLOEXEC);
    if (fd < 0)
        fail("cannot accept: %s", strerror(errno));
    side_init(side, fd, connection_from(port_of(&remote)), true);
}

static struct side *make_sides(bool server)
{
    struct side *sides = calloc(options.connections, sizeof *sides);
    for (unsigned i = 0; i < options.connections; i++)
        server ? accept_side(&sides[i]) : connect_side(&sides[i], i);
    return sides;
}

// Processes.

static pid_t fork_or_fail(void)
{
    pid_t pid = fork();
    if (pid < 0)
        fail("fork: %s", strerror(errno));
    return pid;
}

static void wait_for(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            fail("waitpid: %s", strerror(errno));
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail("process %d ended with status 0x%x", pid, status);
}

static void carry_first_part(struct side *side)
{
    side->out.until = side->out.total / 2;
    side->in.until = side->in.total / 2;
    loop_run(LOOP_THREADS, side, 1, false);
    side->out.until = side->out.total;
    side->in.until = side->in.total;
    side->out_done = side->in_done = false;
}

struct job {
    struct side *sides;
};

static void *run_job(void *argument)
{
    struct job *job = argument;
    loop_run(options.loop, job->sides, options.connections, true);
    return NULL;
}

// Both ends in this process: a thread, at least, for the clients and one for the servers.
static void run_one(void)
{
    struct side *sides = calloc(2 * options.connections, sizeof *sides);
    for (unsigned i = 0; i < options.connections; i++) {
        connect_side(&sides[i], i);
        accept_side(&sides[options.connections + i]);
    }
    watch(sides, 2 * options.connections);
    pthread_t thread;
    struct job servers = {.sides = sides + options.connections}, clients = {.sides = sides};
    pthread_create(&thread, NULL, run_job, &servers);
    run_job(&clients);
    pthread_join(thread, NULL);
    free(sides);
}

// A server of the old kind.
static void serve_by_forking(void)
{
    pid_t *children = calloc(options.connections, sizeof *children);
    for (unsigned i = 0; i < options.connections; i++) {
        struct side side;
        accept_side(&side);
        watch(&side, 1);
        if (begins_before_fork(side.connection))
            carry_first_part(&side);
        if ((children[i] = fork_or_fail()) == 0) {
            close(listener);
            watch(&side, 1);
            loop_run(options.loop, &side, 1, true);
            exit(0);
        }
        close(side.fd);
        watch(NULL, 0);
    }
    for (unsigned i = 0; i < options.connections; i++)
        wait_for(children[i]);
    free(children);
}

static void run_fork(void)
{
    pid_t server = fork_or_fail();
    if (server == 0) {
        serve_by_forking();
        exit(0);
    }
    struct side *sides = make_sides(false);
    watch(sides, options.connections);
    loop_run(options.loop, sides, options.connections, true);
    wait_for(server);
    free(sides);
}

// One end of all connections: this process sends, a child receives on the same sockets.
static void run_half(bool server)
{
    struct side *sides = make_sides(server);
    watch(sides, options.connections);
    for (unsigned i = 0; i < options.connections; i++) {
        if (begins_before_fork(sides[i].connection))
            carry_first_part(&sides[i]);
    }
    pid_t receiver = fork_or_fail();
    watch(sides, options.connections);
    for (unsigned i = 0; i < options.connections; i++)
        *(receiver ? &sides[i].in_done : &sides[i].out_done) = true;
    loop_run(options.loop, sides, options.connections, true);
    if (receiver == 0)
        exit(0);
    wait_for(receiver);
    free(sides);
}

static void run_split(void)
{
    pid_t server = fork_or_fail();
    run_half(server == 0);
    if (server == 0)
        exit(0);
    wait_for(server);
}

// One end of all connections: the other one is in another program.
static void run_role(bool server)
{
    if (options.holders == HOLDERS_SPLIT) {
        run_half(server);
    } else if (server && options.holders == HOLDERS_FORK) {
        serve_by_forking();
    } else {
        struct side *sides = make_sides(server);
        watch(sides, options.connections);
        loop_run(options.loop, sides, options.connections, true);
        free(sides);
    }
}

// Command line.

static unsigned choice(const char *word, const char *const *names, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(word, names[i]) == 0)
            return i;
    }
    fail("unknown choice \"%s\"", word);
}

static void parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"seed", required_argument, NULL, 's'},
        {"connections", required_argument, NULL, 'c'},
        {"bytes", required_argument, NULL, 'b'},
        {"loop", required_argument, NULL, 'l'},
        {"holders", required_argument, NULL, 'h'},
        {"ipv6", no_argument, NULL, '6'},
        {"shared", no_argument, NULL, 'S'},
        {"rounds", required_argument, NULL, 'n'},
        {"seconds", required_argument, NULL, 't'},
        {"send", required_argument, NULL, 'o'},
        {"receive", required_argument, NULL, 'i'},
        {"receivers", required_argument, NULL, 'r'},
        {"hold", no_argument, NULL, 'H'},
        {"role", required_argument, NULL, 'R'},
        {"address", required_argument, NULL, 'a'},
        {"port", required_argument, NULL, 'p'},
        {"client-ports", required_argument, NULL, 'P'},
        {NULL, 0, NULL, 0},
    };
    int letter;
    while ((letter = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (letter) {
        case 's':
            seed = strtoull(optarg, NULL, 0);
            break;
        case 'c':
            options.connections = (unsigned)atoi(optarg);
            break;
        case 'b':
            options.bytes = strtoull(optarg, NULL, 0);
            break;
        case 'l':
            options.loop = choice(optarg, loop_names, LOOP_KINDS);
            break;
        case 'h':
            options.holders = choice(optarg, holders_names, HOLDERS_KINDS);
            break;
        case '6':
            options.family = AF_INET6;
            break;
        case 'S':
            options.shared = true;
            break;
        case 'r':
            options.receivers = (unsigned)atoi(optarg);
            break;
        case 'o':
            side_send_only_by(optarg);
            break;
        case 'i':
            side_receive_only_by(optarg);
            break;
        case 'H':
            loop_hold();
            break;
        case 'R':
            options.role = choice(optarg, role_names, ROLES);
            break;
        case 'a':
            options.address = optarg;
            break;
        case 'p':
            options.port = (unsigned)atoi(optarg);
            break;
        case 'P':
            options.client_ports = (unsigned)atoi(optarg);
            break;
        case 'n':
            options.rounds = (unsigned)atoi(optarg);
            break;
        case 't':
            options.seconds = (unsigned)atoi(optarg);
            break;
        default:
            exit(2);
        }
    }
}

static void run(void)
{
    void (*const run_holders[])(void) = {run_one, run_fork, run_split};
    memset(connection_of_port, 0, PORTS * sizeof *connection_of_port);
    if (options.role != ROLE_BOTH)
        run_role(options.role == ROLE_SERVER);
    else if (options.shared)
        shared_run(options.connections, options.receivers);
    else
        run_holders[options.holders]();
}

int main(int argc, char **argv)
{
    seed = (uint64_t)time(NULL) << 16 ^ (uint64_t)getpid();
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, report_hang);
    connection_of_port =
        mmap(NULL, PORTS * sizeof *connection_of_port, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (connection_of_port == MAP_FAILED)
        fail("no memory");
    set_address();
    if (options.role != ROLE_CLIENT)
        start_listening();
    for (; this_round < options.rounds; this_round++)
        run();
    printf("ok, seed %llu\n", (unsigned long long)seed);
    return 0;
}
