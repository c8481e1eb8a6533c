// The preload library's own way from TCP into the ring, on live connections. It
// is linked into this program, whose calls it answers; both ends are here, and
// there is no agent, so that the session comes at a moment that the dice
// choose.
//
// First in one thread, where every call and its outcome follow from the seed;
// then with threads that send, receive, peek and send nothing, on both ends and
// in both directions at once, while each end gets its session some time.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/end.h"
#include "core/memfd.h"
#include "core/session.h"
#include "core/sys.h"
#include "preload/leave.h"
#include "preload/session.h"
#include "preload/sock.h"
#include "tests/unit/ring_rig.h"

#define RING_BYTES 16384u
#define CALL_MOST  (64u << 10)

// What the agent makes for a session, by its descriptors.
struct supply {
    int session, end[2], bell[2];
};

struct link {
    int fd[2];
    struct supply supply;
};

// --- connections ---

static int must(int result, const char *what)
{
    if (result < 0)
        rig_fail("%s: %s", what, strerror(errno));
    return result;
}

static void connect_pair(int fd[2])
{
    static struct sockaddr_in address = {.sin_family = AF_INET};
    static int listener = -1;
    socklen_t size = sizeof(address);

    if (listener < 0) {
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        listener = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
        must(bind(listener, (struct sockaddr *)&address, sizeof(address)), "bind");
        must(listen(listener, 1), "listen");
        must(getsockname(listener, (struct sockaddr *)&address, &size), "getsockname");
    }
    fd[0] = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    must(connect(fd[0], (struct sockaddr *)&address, sizeof(address)), "connect");
    fd[1] = must(accept4(listener, NULL, NULL, SOCK_CLOEXEC), "accept");
}

// With a reset, so that thousands of connections leave no ports behind that have to wait.
static void disconnect(int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    must(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), "SO_LINGER");
    close(fd);
}

static int sealed_memory(size_t bytes, void **address)
{
    int fd = memfd_make("attach", bytes);

    if (fd < 0 || memfd_map(fd, bytes, 1, address))
        rig_fail("no memory for a session");
    return fd;
}

static struct supply make_supply(uint64_t id)
{
    struct supply supply;
    void *memory;

    supply.session = sealed_memory(session_bytes(RING_BYTES), &memory);
    session_init(memory, id, TRANSPORT_SHM, RING_BYTES);
    memfd_unmap(memory, session_bytes(RING_BYTES));
    for (uint32_t side = 0; side < 2; side++) {
        supply.end[side] = sealed_memory(END_BYTES, &memory);
        if (end_init(memory, id, 1, side))
            rig_fail("cannot make an end");
        memfd_unmap(memory, END_BYTES);
        supply.bell[side] = must(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd");
    }
    return supply;
}

static uint64_t next_session(void)
{
    static uint64_t sessions;

    return ++sessions;
}

static void make_link(struct link *link)
{
    link->supply = make_supply(next_session());
    connect_pair(link->fd);
}

static void free_supply(struct supply *supply)
{
    for (int side = 0; side < 2; side++) {
        close(supply->end[side]);
        close(supply->bell[side]);
    }
    close(supply->session);
}

static void free_link(struct link *link)
{
    for (int side = 0; side < 2; side++)
        disconnect(link->fd[side]);
    free_supply(&link->supply);
}

static struct sock *sock_of(const struct link *link, int side)
{
    struct sock *sock = sock_hold(link->fd[side]);

    if (!sock)
        rig_fail("the library does not know the socket");
    return sock;
}

static bool sends_in_ring(const struct link *link, int side)
{
    struct sock *sock = sock_of(link, side);
    bool ring = sock->tx_way == WAY_RING;

    sock_drop(sock);
    return ring;
}

static int copy_of(int fd)
{
    return must(sys_fcntl(fd, F_DUPFD_CLOEXEC, 0), "dup");
}

// The agent's ATTACH arrives.
static void attach(const struct link *link, int side)
{
    const struct supply *supply = &link->supply;
    void *memory;
    int fds[WIRE_ATTACH_FDS] = {copy_of(supply->session), copy_of(supply->end[side]), copy_of(supply->bell[side]),
                                copy_of(supply->bell[1 - side]), copy_of(supply->bell[side])};

    if (memfd_map(supply->session, LAYOUT_PAGE, 0, &memory))
        rig_fail("cannot map a session");
    struct wire_attach message = {.session = ((struct session_shared *)memory)->id,
                                  .side = (uint32_t)side,
                                  .transport = TRANSPORT_SHM,
                                  .ring_bytes = RING_BYTES};
    memfd_unmap(memory, LAYOUT_PAGE);
    struct sock *sock = sock_of(link, side);
    enum wire_reason reason = session_map(sock, &message, fds);
    if (reason)
        rig_fail("the session was not taken: %s", wire_reason_name(reason));
    sock_drop(sock);
}

// --- one thread ---

// A direction: what was sent, and what was received of it.
struct way {
    uint64_t sent, received;
    bool shut, ended;
};

struct scene {
    bool shut_early; // also before both ends have their session
    bool leaves;     // sessions are left, and come again
    bool attached;   // both ends
    struct link link;
    struct way way[2]; // by the sending side
    struct dice dice;
    unsigned char *buffer;
};

static struct {
    uint64_t calls, bytes, rings, tcps, left;
} tally;

static void step_send(struct scene *scene, int side)
{
    struct way *way = &scene->way[side];
    size_t n = dice_size(&scene->dice, CALL_MOST);

    if (way->shut)
        return;
    stream_fill(scene->buffer, way->sent, n);
    ssize_t sent = send(scene->link.fd[side], scene->buffer, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        rig_fail("a send failed: %s", strerror(errno));
    way->sent += sent > 0 ? (uint64_t)sent : 0;
}

static void check_received(struct scene *scene, const struct way *way, size_t n)
{
    if (way->received + n > way->sent)
        rig_fail("%zu bytes at %llu, of which only %llu were sent", n, (unsigned long long)way->received,
                 (unsigned long long)way->sent);
    size_t right = stream_check(scene->buffer, way->received, n);
    if (right != n)
        rig_fail("byte %llu is wrong", (unsigned long long)(way->received + right));
}

static void step_recv(struct scene *scene, int side, int flags)
{
    struct way *way = &scene->way[1 - side];
    ssize_t n = recv(scene->link.fd[side], scene->buffer, dice_size(&scene->dice, CALL_MOST), MSG_DONTWAIT | flags);

    if (n < 0 && errno != EAGAIN)
        rig_fail("a receive failed: %s", strerror(errno));
    if (n == 0 && !(way->shut && way->received == way->sent))
        rig_fail("end of stream at %llu of %llu", (unsigned long long)way->received, (unsigned long long)way->sent);
    if (n <= 0) {
        way->ended |= n == 0;
        return;
    }
    check_received(scene, way, (size_t)n);
    way->received += flags & MSG_PEEK ? 0 : (uint64_t)n;
}

static void step_shut(struct scene *scene, int side)
{
    struct way *way = &scene->way[side];

    if (way->shut || !(scene->attached || scene->shut_early) || dice_below(&scene->dice, 40))
        return;
    must(shutdown(scene->link.fd[side], SHUT_WR), "shutdown");
    way->shut = true;
}

// Readable may be told late, as long as the kernel has not delivered, but never
// if there is nothing.
static void step_poll(struct scene *scene, int side)
{
    const struct way *way = &scene->way[1 - side];
    struct pollfd poll_fd = {.fd = scene->link.fd[side], .events = POLLIN};

    must(poll(&poll_fd, 1, 0), "poll");
    if ((poll_fd.revents & POLLIN) && way->received == way->sent && !way->shut)
        rig_fail("readable, and there is nothing");
    if (poll_fd.revents & (POLLERR | POLLNVAL))
        rig_fail("poll reports %x", (unsigned)poll_fd.revents);
}

// One end wants TCP back, or the agent does.
static void step_leave(struct scene *scene, int side)
{
    struct sock *sock = sock_of(&scene->link, side);

    if (scene->leaves && sock->attached && dice_below(&scene->dice, 8) == 0)
        leave_ask(sock, dice_below(&scene->dice, 2) ? LEAVE_DRAIN : LEAVE_RESEND);
    sock_drop(sock);
}

// The next session comes when the last one is over at both ends, as an agent would have it.
static void step_attach_again(struct scene *scene)
{
    struct sock *sock[2] = {sock_of(&scene->link, 0), sock_of(&scene->link, 1)};
    bool over = scene->attached && !sock[0]->mapped && !sock[1]->mapped;

    sock_drop(sock[0]);
    sock_drop(sock[1]);
    if (!over)
        return;
    tally.left++;
    free_supply(&scene->link.supply);
    scene->link.supply = make_supply(next_session());
    attach(&scene->link, 0);
    attach(&scene->link, 1);
}

static void step(struct scene *scene)
{
    int side = (int)dice_below(&scene->dice, 2);

    tally.calls++;
    switch (dice_below(&scene->dice, scene->leaves ? 12 : 10)) {
    case 0:
    case 1:
    case 2:
        step_send(scene, side);
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        step_recv(scene, side, 0);
        break;
    case 7:
        step_recv(scene, side, MSG_PEEK);
        break;
    case 8:
        step_poll(scene, side);
        break;
    case 9:
        step_shut(scene, side);
        break;
    case 10:
        step_leave(scene, side);
        break;
    case 11:
        step_attach_again(scene);
    }
}

// All that was sent arrives, and then the end.
static void drain(struct scene *scene, int side)
{
    uint64_t until = rig_now() + 10000000000u;

    scene->way[1 - side].shut = true;
    shutdown(scene->link.fd[1 - side], SHUT_WR);
    while (!scene->way[1 - side].ended) {
        struct pollfd other = {.fd = scene->link.fd[1 - side], .events = POLLOUT};
        step_recv(scene, side, 0);
        must(poll(&other, 1, 0), "poll"); // what is being sent again goes on in any call
        if (rig_now() > until)
            rig_fail("what was sent does not arrive: %llu of %llu", (unsigned long long)scene->way[1 - side].received,
                     (unsigned long long)scene->way[1 - side].sent);
    }
}

static void play_connection(struct scene *scene)
{
    make_link(&scene->link);
    memset(scene->way, 0, sizeof(scene->way));
    scene->attached = false;
    uint64_t steps = dice_below(&scene->dice, scene->leaves ? 1500 : 300);
    uint64_t attach_at[2] = {dice_below(&scene->dice, 150), dice_below(&scene->dice, 150)};
    for (uint64_t i = 0; i < steps; i++) {
        for (int side = 0; side < 2; side++) {
            if (i == attach_at[side])
                attach(&scene->link, side);
        }
        scene->attached = i >= attach_at[0] && i >= attach_at[1];
        step(scene);
    }
    drain(scene, 0);
    drain(scene, 1);
    for (int side = 0; side < 2; side++) {
        tally.bytes += scene->way[side].sent;
        *(sends_in_ring(&scene->link, side) ? &tally.rings : &tally.tcps) += 1;
    }
    free_link(&scene->link);
}

static void say_tally(const char *name, uint64_t connections)
{
    printf("%s: %llu connections, %llu MB; %llu directions ended in the ring, "
           "%llu in TCP; %llu sessions were left\n",
           name, (unsigned long long)connections, (unsigned long long)tally.bytes / 1000000,
           (unsigned long long)tally.rings, (unsigned long long)tally.tcps, (unsigned long long)tally.left);
    assert_true(tally.rings > 0);
    memset(&tally, 0, sizeof(tally));
}

static void play_connections(const char *name, bool shut_early, bool leaves, uint64_t connections)
{
    struct scene scene = {
        .shut_early = shut_early, .leaves = leaves, .dice = dice_make(name), .buffer = malloc(CALL_MOST)};

    assert_non_null(scene.buffer);
    for (uint64_t i = 0; i < connections; i++)
        play_connection(&scene);
    free(scene.buffer);
    say_tally(name, connections);
}

static void test_one_thread(void **state)
{
    play_connections("attach_stream, one thread", false, false, rig_scaled(3000));
}

// One side has ended its direction, and only then the session comes: the other direction may still go into the ring.
static void test_half_closed_before(void **state)
{
    play_connections("attach_stream, half closed before", true, false, rig_scaled(2000));
}

// Sessions are left at any time, and others take their place.
static void test_leaving(void **state)
{
    play_connections("attach_stream, leaving", false, true, rig_scaled(3000));
}

// --- threads ---

enum job { JOB_WRITE, JOB_WRITE_NOTHING, JOB_READ, JOB_PEEK, JOB_ATTACH, JOBS };

struct worker {
    pthread_t thread;
    struct stage *stage;
    int side;
    enum job job;
    struct dice dice;
    unsigned char buffer[CALL_MOST];
};

struct stage {
    struct link link;
    bool peek_to_the_end; // the peekers sleep in their calls, too, and wait for the end
    uint64_t total[2];    // to be sent by each side
    _Atomic bool written[2];
    struct worker worker[2][JOBS];
};

static void pause_sometimes(struct dice *dice)
{
    struct timespec a_moment = {0, (long)dice_below(dice, 50000)};

    if (dice_below(dice, 16) == 0)
        nanosleep(&a_moment, NULL);
}

static void work_writing(struct worker *self, struct stage *stage)
{
    uint64_t sent = 0, total = stage->total[self->side];

    while (sent < total) {
        size_t n = dice_size(&self->dice, CALL_MOST);
        n = n < total - sent ? n : (size_t)(total - sent);
        stream_fill(self->buffer, sent, n);
        ssize_t done = send(stage->link.fd[self->side], self->buffer, n, dice_below(&self->dice, 4) ? 0 : MSG_DONTWAIT);
        if (done < 0 && errno != EAGAIN)
            rig_fail("a send failed: %s", strerror(errno));
        sent += done > 0 ? (uint64_t)done : 0;
        pause_sometimes(&self->dice);
    }
    atomic_store(&stage->written[self->side], true);
    pthread_join(stage->worker[self->side][JOB_WRITE_NOTHING].thread, NULL);
    if (!stage->peek_to_the_end)
        pthread_join(stage->worker[1 - self->side][JOB_PEEK].thread, NULL);
    must(shutdown(stage->link.fd[self->side], SHUT_WR), "shutdown");
}

// Goes through the gate of the sending direction, and switches it, but brings
// no bytes into it.
static void work_writing_nothing(struct worker *self, struct stage *stage)
{
    while (!atomic_load(&stage->written[self->side])) {
        if (send(stage->link.fd[self->side], "", 0, 0) != 0)
            rig_fail("a send of nothing failed: %s", strerror(errno));
        pause_sometimes(&self->dice);
    }
}

static void work_reading(struct worker *self, struct stage *stage)
{
    static const int flags[] = {0, 0, MSG_DONTWAIT, MSG_WAITALL};
    uint64_t received = 0;

    for (;;) {
        ssize_t n = recv(stage->link.fd[self->side], self->buffer, dice_size(&self->dice, CALL_MOST),
                         flags[dice_below(&self->dice, 4)]);
        if (n < 0 && errno != EAGAIN)
            rig_fail("a receive failed: %s", strerror(errno));
        if (n == 0)
            break;
        if (n < 0)
            continue;
        size_t right = stream_check(self->buffer, received, (size_t)n);
        if (right != (size_t)n)
            rig_fail("byte %llu is wrong", (unsigned long long)(received + right));
        received += (size_t)n;
        pause_sometimes(&self->dice);
    }
    if (received != stage->total[1 - self->side])
        rig_fail("end of stream at %llu of %llu", (unsigned long long)received,
                 (unsigned long long)stage->total[1 - self->side]);
}

// Goes through the gate of the receiving direction, and switches it, but takes no bytes out of it.
static void work_peeking(struct worker *self, struct stage *stage)
{
    bool over = false;

    while (!over) {
        int flags = stage->peek_to_the_end && dice_below(&self->dice, 4) ? MSG_PEEK : MSG_PEEK | MSG_DONTWAIT;
        bool written = atomic_load(&stage->written[1 - self->side]);
        ssize_t n = recv(stage->link.fd[self->side], self->buffer, dice_size(&self->dice, CALL_MOST), flags);
        if (n < 0 && errno != EAGAIN)
            rig_fail("a peek failed: %s", strerror(errno));
        pause_sometimes(&self->dice);
        over = stage->peek_to_the_end ? n == 0 : written;
    }
}

static void work_attaching(struct worker *self, struct stage *stage)
{
    struct timespec wait = {0, (long)dice_size(&self->dice, 400000)};

    nanosleep(&wait, NULL);
    attach(&stage->link, self->side);
}

static void *work(void *argument)
{
    static void (*const work_of[JOBS])(struct worker *, struct stage *) = {
        work_writing, work_writing_nothing, work_reading, work_peeking, work_attaching,
    };
    struct worker *self = (struct worker *)argument;

    work_of[self->job](self, self->stage);
    return NULL;
}

static void say_side(const struct stage *stage, int side)
{
    struct sock *sock = sock_of(&stage->link, side);

    fprintf(stderr, "side %d: written %d, tx_way %d, rx_way %d, tcp_event %d, gates %llx %llx", side,
            stage->written[side], sock->tx_way, sock->rx_way, sock->tcp_event, (unsigned long long)sock->share->rx_gate,
            (unsigned long long)sock->share->tx_gate);
    if (sock->attached)
        fprintf(stderr, ", fin_seen %u, ready %lld, armed %d", sock->session.end->fin_seen,
                (long long)ring_ready_fresh(&sock->session.rx), ring_rx_armed(&sock->session.rx));
    fprintf(stderr, "\n");
    sock_drop(sock);
}

static void join(struct stage *stage, struct worker *worker)
{
    static const char *const names[JOBS] = {"writer", "writer of nothing", "reader", "peeker", "attacher"};
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    if (pthread_timedjoin_np(worker->thread, NULL, &until) == 0)
        return;
    say_side(stage, 0);
    say_side(stage, 1);
    rig_fail("the %s of side %d does not come to an end", names[worker->job], worker->side);
}

static void play_stage(struct stage *stage, struct dice *dice)
{
    make_link(&stage->link);
    for (int side = 0; side < 2; side++) {
        stage->total[side] = dice_below(dice, 8) ? dice_below(dice, 1 << 20) : 0;
        stage->written[side] = false;
    }
    for (int i = 0; i < 2 * JOBS; i++) {
        struct worker *worker = &stage->worker[i % 2][JOBS - 1 - i / 2]; // who writes joins those who disturb
        worker->stage = stage;
        worker->side = i % 2;
        worker->job = (enum job)(JOBS - 1 - i / 2);
        worker->dice = dice_split(dice);
        if (pthread_create(&worker->thread, NULL, work, worker))
            rig_fail("cannot make a thread");
    }
    for (int i = 0; i < 2 * JOBS; i++) {
        bool joined = i / 2 == JOB_WRITE_NOTHING || (i / 2 == JOB_PEEK && !stage->peek_to_the_end);
        if (!joined)
            join(stage, &stage->worker[i % 2][i / 2]);
    }
    for (int side = 0; side < 2; side++) {
        tally.bytes += stage->total[side];
        *(sends_in_ring(&stage->link, side) ? &tally.rings : &tally.tcps) += 1;
    }
    free_link(&stage->link);
}

static void play_stages(const char *name, bool peek_to_the_end, uint64_t ns)
{
    struct dice dice = dice_make(name);
    struct stage *stage = calloc(1, sizeof(*stage));
    uint64_t until = rig_now() + rig_scaled(ns), connections = 0;

    assert_non_null(stage);
    stage->peek_to_the_end = peek_to_the_end;
    for (; rig_now() < until; connections++)
        play_stage(stage, &dice);
    free(stage);
    say_tally(name, connections);
}

static void test_threads(void **state)
{
    play_stages("attach_stream, threads", false, 3000000000u);
}

// Two threads receive, and both must hear of the end.
static void test_two_receivers(void **state)
{
    play_stages("attach_stream, two receivers", true, 3000000000u);
}

// An agent that runs here by chance must not hear of our sockets. The library
// reads its directory at its very beginning.
static void keep_agents_away(char **arguments)
{
    static const char nowhere[] = "/nonexistent";
    const char *dir = getenv("RDMA_AGENT_DIR");

    if (dir && strcmp(dir, nowhere) == 0)
        return;
    setenv("RDMA_AGENT_DIR", nowhere, 1);
    execv("/proc/self/exe", arguments);
    rig_fail("cannot begin again");
}

int main(int argc, char **argv)
{
    // The ones with a single thread before there are others.
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_thread), cmocka_unit_test(test_half_closed_before), cmocka_unit_test(test_leaving),
        cmocka_unit_test(test_threads),    cmocka_unit_test(test_two_receivers),
    };

    keep_agents_away(argv);
    return cmocka_run_group_tests_name("attach_stream", tests, NULL, NULL);
}
