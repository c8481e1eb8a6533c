// The data thread: two of them, one for each host, over a fake fabric, with applications in threads that really sleep.
//
// This thread is the control thread of both. Whoever sleeps longer than anything here may take was left behind.

#include <stdarg.h>
#include <setjmp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/data_thread.h"
#include "agent/path.h"
#include "core/end.h"
#include "core/session.h"
#include "tests/unit/fake/fabric.h"
#include "tests/unit/ring_rig.h"

#define RING        (64u << 10)
#define PAIRS_MOST  64
#define CALL_MOST   20000
#define PATIENCE_MS 20000
#define MESSAGES    200

struct host;

struct side {
    struct path path;
    struct host *host;
    struct session_shared *memory;
    struct end_shared *end;
    struct fabric_memory *target, *source;
    struct ring_tx tx;
    struct ring_rx rx;
    uint64_t to_send, to_receive;
    pthread_t sender, receiver;
    struct dice dice;
    uint32_t told; // enum path_events
};

struct host {
    struct fabric *fabric;
    struct fabric_conn *conn;
    struct data_thread *thread;
    struct data_link *link;
    struct side sides[PAIRS_MOST];
    struct link_message heard[MESSAGES];
    unsigned heard_count;
    const char *failed;
};

static struct host hosts[2];
static uv_loop_t loop;

// --- hosts ---

static void on_received(void *owner, const struct link_message *message)
{
    struct host *host = owner;

    assert_true(host->heard_count < MESSAGES);
    host->heard[host->heard_count++] = *message;
}

static void on_failed(void *owner, const char *why)
{
    ((struct host *)owner)->failed = why;
}

static void on_path(void *owner, struct path *path, int what)
{
    struct side *side = owner;

    assert_ptr_equal(&side->path, path);
    side->told |= (uint32_t)what;
}

static const struct data_thread_events callbacks = {.received = on_received, .failed = on_failed, .path = on_path};

static int setup(void **state)
{
    struct fabric_conn *conns[2];

    memset(hosts, 0, sizeof(hosts));
    uv_loop_init(&loop);
    for (int i = 0; i < 2; i++)
        hosts[i].fabric = fake_fabric(16, false);
    fake_connect(hosts[0].fabric, hosts[1].fabric, conns);
    for (int i = 0; i < 2; i++) {
        struct host *host = &hosts[i];
        host->conn = conns[i];
        assert_int_equal(data_thread_start(&host->thread, host->fabric, &loop, 25000, &callbacks), 0);
        assert_int_equal(data_thread_add_link(host->thread, host->conn, host, &host->link), 0);
    }
    return 0;
}

static void free_side(struct side *side)
{
    if (!side->memory)
        return;
    fabric_unregister(side->target);
    fabric_unregister(side->source);
    munmap(side->memory, session_bytes(RING));
    munmap(side->end, END_BYTES);
    close(side->path.bell);
    close(side->path.agent_bell);
}

static int teardown(void **state)
{
    for (int i = 0; i < 2; i++) {
        data_thread_remove_link(hosts[i].thread, hosts[i].link);
        data_thread_stop(hosts[i].thread);
        assert_int_equal(fake_offences(hosts[i].conn), 0);
        for (int j = 0; j < PAIRS_MOST; j++)
            free_side(&hosts[i].sides[j]);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    for (int i = 0; i < 2; i++)
        fabric_close(hosts[i].conn);
    for (int i = 0; i < 2; i++)
        fabric_free(hosts[i].fabric);
    return 0;
}

static void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

static void make_side(struct host *host, struct side *side, uint32_t number)
{
    side->host = host;
    side->memory = shared_memory(session_bytes(RING));
    side->end = shared_memory(END_BYTES);
    session_init(side->memory, number, TRANSPORT_RDMA, RING);
    assert_int_equal(end_init(side->end, number, 1, 1), 0);
    unsigned char *data = (unsigned char *)side->memory + SESSION_DATA;
    fabric_register(host->conn, side->memory, SESSION_DATA + RING, true, &side->target);
    fabric_register(host->conn, data + RING, RING, false, &side->source);
    side->path = (struct path){.memory = side->memory,
                               .end = side->end,
                               .ring_bytes = RING,
                               .source = side->source,
                               .bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
                               .agent_bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
                               .number = number,
                               .owner = side};
    ring_tx_init(&side->tx, &side->memory->ring[1], &side->end->tx_tail, data + RING, RING);
    ring_rx_init(&side->rx, &side->memory->ring[0], &side->end->rx_head, data, RING);
}

static void connect_side(struct side *side, const struct side *other)
{
    const struct link_place place = {
        .address = fabric_memory_address(other->target), .key = fabric_memory_key(other->target), .ring_bytes = RING};

    data_thread_connect_path(side->host->thread, &side->path, &place, other->path.number);
}

// Numbers that differ on the two hosts. Both ends are known to their data threads before either may speak.
static void make_pair(unsigned which)
{
    struct side *a = &hosts[0].sides[which], *b = &hosts[1].sides[which];

    make_side(&hosts[0], a, which);
    make_side(&hosts[1], b, PAIRS_MOST - which);
    assert_int_equal(data_thread_add_path(hosts[0].thread, hosts[0].link, &a->path), 0);
    assert_int_equal(data_thread_add_path(hosts[1].thread, hosts[1].link, &b->path), 0);
    const struct link_message ping = {.type = LINK_PING};
    for (int i = 0; i < 2; i++)
        data_thread_send(hosts[i].thread, hosts[i].link, &ping);
    while (hosts[0].heard_count == 0 || hosts[1].heard_count == 0)
        uv_run(&loop, UV_RUN_ONCE);
    hosts[0].heard_count = hosts[1].heard_count = 0;
    connect_side(a, b);
    connect_side(b, a);
}

static void nap(unsigned ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&time, NULL);
}

// Runs the loop until the condition holds.
#define RUN_UNTIL(condition) \
    do { \
        for (unsigned waited = 0; !(condition); waited++) { \
            assert_true(waited < PATIENCE_MS); \
            uv_run(&loop, UV_RUN_NOWAIT); \
            nap(1); \
        } \
    } while (0)

// --- applications ---

static void ring_bell(const struct side *side)
{
    static const uint64_t one = 1;

    if (write(side->path.agent_bell, &one, sizeof(one)) < 0)
        rig_fail("cannot ring");
}

// As the library does: the bell is never drained, each thread has its own edge-triggered set.
static void sleep_until_rung(const struct side *side, const char *what)
{
    static _Thread_local int set;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};

    if (!set) {
        set = epoll_create1(EPOLL_CLOEXEC);
        if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, side->path.bell, &event) < 0)
            rig_fail("no set to sleep in");
        return; // whatever was rung before
    }
    if (epoll_wait(set, &event, 1, PATIENCE_MS) != 1)
        rig_fail("a %s was left behind", what);
}

static void send_some(struct side *side, uint64_t position, size_t n)
{
    static _Thread_local unsigned char bytes[CALL_MOST];
    struct iovec one = {bytes, n};
    struct spans from = spans_of(&one, 1);
    uint32_t arm;

    stream_fill(bytes, position, n);
    while (from.count) {
        if (ring_put(&side->tx, &from) == 0) {
            ring_tx_arm(&side->tx);
            if (ring_room(&side->tx) < (int64_t)ring_room_wanted(&side->tx))
                sleep_until_rung(side, "sender");
        } else if (ring_tx_wants_bell(&side->tx, &arm)) {
            ring_bell(side);
            ring_tx_rang(&side->tx, arm);
        }
    }
}

static void *run_sender(void *argument)
{
    struct side *side = argument;

    while (!atomic_load(&side->memory->ring[1].watching))
        nap(1);
    atomic_store(&side->memory->ring[1].switch_at, 1);
    ring_bell(side);
    for (uint64_t sent = 0; sent < side->to_send;) {
        size_t n = dice_size(&side->dice, CALL_MOST);
        n = n < side->to_send - sent ? n : side->to_send - sent;
        send_some(side, sent, n);
        sent += n;
    }
    atomic_store(&side->memory->ring[1].tx_closed, CLOSED_ORDERLY);
    ring_bell(side);
    return NULL;
}

static bool is_at_end(struct side *side)
{
    return atomic_load(&side->memory->ring[0].tx_closed) && ring_ready_fresh(&side->rx) == 0;
}

static void receive_some(struct side *side, uint64_t *position)
{
    static _Thread_local unsigned char bytes[CALL_MOST];
    struct iovec one = {bytes, sizeof(bytes)};
    struct spans to = spans_of(&one, 1);
    ssize_t n = ring_get(&side->rx, &to, 0, false);
    uint32_t arm;

    if (n < 0 || stream_check(bytes, *position, (size_t)n) != (size_t)n)
        rig_fail("wrong bytes behind %llu", (unsigned long long)*position);
    *position += (uint64_t)n;
    if (n > 0 && ring_rx_wants_bell(&side->rx, &arm)) {
        ring_bell(side);
        ring_rx_rang(&side->rx, arm);
    }
    if (n > 0)
        return;
    ring_rx_republish(&side->rx);
    ring_rx_arm(&side->rx);
    if (ring_ready_fresh(&side->rx) == 0 && !atomic_load(&side->memory->ring[0].tx_closed))
        sleep_until_rung(side, "receiver");
}

static void *run_receiver(void *argument)
{
    struct side *side = argument;
    uint64_t position = 0;

    ring_rx_arm(&side->rx);
    atomic_store(&side->memory->ring[0].watching, 1);
    ring_bell(side);
    while (!is_at_end(side))
        receive_some(side, &position);
    if (position != side->to_receive)
        rig_fail("%llu bytes, not %llu", (unsigned long long)position, (unsigned long long)side->to_receive);
    return NULL;
}

static void start_side(struct side *side)
{
    if (pthread_create(&side->sender, NULL, run_sender, side) ||
        pthread_create(&side->receiver, NULL, run_receiver, side))
        rig_fail("no thread");
}

static void start_pair(unsigned which, struct dice *dice, uint64_t bytes)
{
    struct side *a = &hosts[0].sides[which], *b = &hosts[1].sides[which];

    a->to_send = b->to_receive = dice_below(dice, bytes);
    b->to_send = a->to_receive = dice_below(dice, bytes);
    a->dice = dice_split(dice);
    b->dice = dice_split(dice);
    start_side(a);
    start_side(b);
}

static void join_pair(unsigned which)
{
    for (int i = 0; i < 2; i++) {
        pthread_join(hosts[i].sides[which].sender, NULL);
        pthread_join(hosts[i].sides[which].receiver, NULL);
    }
}

static void finish_pair(unsigned which)
{
    for (int i = 0; i < 2; i++)
        data_thread_finish_path(hosts[i].thread, &hosts[i].sides[which].path);
    RUN_UNTIL((hosts[0].sides[which].told & PATH_OVER) && (hosts[1].sides[which].told & PATH_OVER));
    assert_false((hosts[0].sides[which].told | hosts[1].sides[which].told) & PATH_BROKEN);
}

// --- the tests ---

static void test_many_sessions(void **state)
{
    struct dice dice = dice_make("many sessions");
    unsigned pairs = 8;

    for (unsigned i = 0; i < pairs; i++)
        make_pair(i);
    for (unsigned i = 0; i < pairs; i++)
        start_pair(i, &dice, rig_scaled(8000000));
    for (unsigned i = 0; i < pairs; i++)
        join_pair(i);
    uint64_t tx, rx, other_tx, other_rx;
    data_link_read_bytes(hosts[0].link, &tx, &rx);
    data_link_read_bytes(hosts[1].link, &other_tx, &other_rx);
    for (unsigned i = 0; i < pairs; i++)
        finish_pair(i);
    assert_int_equal(tx, other_rx);
    assert_int_equal(rx, other_tx);
}

// More than the connection takes at once: they wait for room, and stay in order.
static void test_messages(void **state)
{
    struct link_message message = {.type = LINK_PING};

    for (uint64_t i = 0; i < MESSAGES; i++) {
        message.ping.sequence = i;
        data_thread_send(hosts[0].thread, hosts[0].link, &message);
    }
    RUN_UNTIL(hosts[1].heard_count == MESSAGES);
    for (uint64_t i = 0; i < MESSAGES; i++)
        assert_int_equal(hosts[1].heard[i].ping.sequence, i);
}

static void test_connection_fails(void **state)
{
    make_pair(0);
    fake_cut(hosts[0].conn);
    RUN_UNTIL(hosts[0].failed && hosts[1].failed);
    assert_int_equal(hosts[0].sides[0].told, 0);
    // What is wished of its paths then is void.
    data_thread_finish_path(hosts[0].thread, &hosts[0].sides[0].path);
}

static void test_unknown_session(void **state)
{
    const struct link_message message = {.type = LINK_WATCHING, .session = {.session = 5}};

    make_pair(0);
    data_thread_send(hosts[0].thread, hosts[0].link, &message);
    RUN_UNTIL(hosts[1].failed);
    assert_null(hosts[0].failed);
}

static void test_number_beyond_all(void **state)
{
    const struct link_message message = {.type = LINK_OVER, .session = {.session = DATA_LINK_PATHS}};

    data_thread_send(hosts[0].thread, hosts[0].link, &message);
    RUN_UNTIL(hosts[1].failed);
}

static void test_malformed_message(void **state)
{
    static const unsigned char rubbish[40] = {1};

    make_pair(0);
    assert_int_equal(fabric_post_message(hosts[0].conn, rubbish, sizeof(rubbish)), 0);
    RUN_UNTIL(hosts[1].failed);
}

// A session that was never connected is over at once.
static void test_finish_unconnected(void **state)
{
    struct side *side = &hosts[0].sides[0];

    make_side(&hosts[0], side, 3);
    assert_int_equal(data_thread_add_path(hosts[0].thread, hosts[0].link, &side->path), 0);
    data_thread_finish_path(hosts[0].thread, &side->path);
    RUN_UNTIL(side->told & PATH_OVER);
}

// What a path had to say is void with its link, also if the data thread had let go of it before.
static void test_link_goes_before_its_path_was_heard(void **state)
{
    struct side *side = &hosts[0].sides[0];

    make_side(&hosts[0], side, 3);
    assert_int_equal(data_thread_add_path(hosts[0].thread, hosts[0].link, &side->path), 0);
    data_thread_finish_path(hosts[0].thread, &side->path);
    nap(50);
    data_thread_remove_link(hosts[0].thread, hosts[0].link);
    for (int i = 0; i < 10; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(side->told, 0);
    assert_int_equal(data_thread_add_link(hosts[0].thread, hosts[0].conn, &hosts[0], &hosts[0].link), 0);
}

// An application that breaks the rules is alone with it.
static void test_broken_session(void **state)
{
    struct dice dice = dice_make("broken session");

    make_pair(0);
    make_pair(1);
    start_pair(1, &dice, rig_scaled(4000000));
    atomic_store(&hosts[0].sides[0].memory->ring[1].tail, 12345);
    ring_bell(&hosts[0].sides[0]);
    RUN_UNTIL((hosts[0].sides[0].told & PATH_OVER) && (hosts[1].sides[0].told & PATH_OVER));
    assert_true(hosts[0].sides[0].told & PATH_BROKEN);
    assert_true(hosts[1].sides[0].told & PATH_BROKEN);
    join_pair(1);
    finish_pair(1);
}

static double cpu_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void test_idle_costs_nothing(void **state)
{
    double before;

    for (unsigned i = 0; i < PAIRS_MOST; i++)
        make_pair(i);
    nap(100);
    before = cpu_seconds();
    nap(500);
    assert_true(cpu_seconds() - before < 0.005);
}

// At the limit, and while it waits for it no CPU is used.
static void test_rate(void **state)
{
    struct dice dice = dice_make("rate");
    struct side *a, *b;
    uint64_t began = rig_now();
    double cpu;

    make_pair(0);
    a = &hosts[0].sides[0];
    b = &hosts[1].sides[0];
    data_thread_set_rate(hosts[0].thread, 1000000);
    a->to_send = b->to_receive = 500000;
    a->dice = b->dice = dice;
    cpu = cpu_seconds();
    start_side(a);
    start_side(b);
    join_pair(0);
    assert_in_range((rig_now() - began) / 1000000, 300, 3000);
    assert_true(cpu_seconds() - cpu < 0.25);
    finish_pair(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many_sessions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_messages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connection_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_session, setup, teardown),
        cmocka_unit_test_setup_teardown(test_number_beyond_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_malformed_message, setup, teardown),
        cmocka_unit_test_setup_teardown(test_finish_unconnected, setup, teardown),
        cmocka_unit_test_setup_teardown(test_link_goes_before_its_path_was_heard, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken_session, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle_costs_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rate, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
