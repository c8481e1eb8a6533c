// Paths: two ends of a session with another host, back to back over a fake fabric, under interleavings that can be had
// again. The applications are the ring's own functions; the bytes tell where in the stream they belong.
//
// If nobody can go on although there is work left, somebody was left behind asleep, or a message was lost.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/path.h"
#include "core/end.h"
#include "core/session.h"
#include "tests/unit/fake/fabric.h"
#include "tests/unit/ring_rig.h"

#define RING      RING_BYTES_MIN
#define CALL_MOST 3000

struct side {
    struct path path;
    struct session_shared *memory;
    struct end_shared end;
    struct fabric_conn *conn;
    struct fabric_memory *target, *source;
    bool agent_asleep, gone;

    // The application.
    struct ring_tx tx;
    struct ring_rx rx;
    uint64_t to_send, sent, received;
    bool switched, closed, waits_to_send, waits_to_receive, eof;
};

struct world {
    struct fabric *fabric[2];
    struct side side[2];
    struct dice dice;
    struct path_pace pace;
};

// --- the world ---

static int bell(void)
{
    return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static bool was_rung(int fd)
{
    uint64_t count;

    return read(fd, &count, sizeof(count)) > 0;
}

static void ring_bell(int fd)
{
    static const uint64_t one = 1;

    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void make_side(struct side *side, struct fabric_conn *conn, uint32_t number)
{
    size_t bytes = session_bytes(RING);

    side->conn = conn;
    side->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(side->memory, MAP_FAILED);
    session_init(side->memory, number, TRANSPORT_RDMA, RING);
    assert_int_equal(end_init(&side->end, number, 1, 1), 0);
    unsigned char *data = (unsigned char *)side->memory + SESSION_DATA;
    fabric_register(conn, side->memory, SESSION_DATA + RING, true, &side->target);
    fabric_register(conn, data + RING, RING, false, &side->source);
    side->path = (struct path){.memory = side->memory,
                               .end = &side->end,
                               .ring_bytes = RING,
                               .source = side->source,
                               .bell = bell(),
                               .agent_bell = bell(),
                               .number = number,
                               .conn = conn};
    path_init(&side->path);
    ring_tx_init(&side->tx, &side->memory->ring[1], &side->end.tx_tail, data + RING, RING);
    ring_rx_init(&side->rx, &side->memory->ring[0], &side->end.rx_head, data, RING);
}

static void connect_side(struct side *side, const struct side *other)
{
    const struct link_place place = {
        .address = fabric_memory_address(other->target), .key = fabric_memory_key(other->target), .ring_bytes = RING};

    path_connect(&side->path, &place, other->path.number);
}

static struct world *make_world(const char *name, unsigned depth)
{
    struct world *world = calloc(1, sizeof(*world));
    struct fabric_conn *conns[2];

    world->dice = dice_make(name);
    for (int i = 0; i < 2; i++)
        world->fabric[i] = fake_fabric(depth, true);
    fake_connect(world->fabric[0], world->fabric[1], conns);
    for (int i = 0; i < 2; i++) {
        fabric_start(conns[i], &world->side[i]);
        make_side(&world->side[i], conns[i], 7 + (uint32_t)i);
    }
    for (int i = 0; i < 2; i++)
        connect_side(&world->side[i], &world->side[1 - i]);
    return world;
}

static void free_world(struct world *world)
{
    for (int i = 0; i < 2; i++) {
        struct side *side = &world->side[i];
        assert_int_equal(fake_offences(side->conn), 0);
        fabric_unregister(side->target);
        fabric_unregister(side->source);
        munmap(side->memory, session_bytes(RING));
        close(side->path.bell);
        close(side->path.agent_bell);
    }
    for (int i = 0; i < 2; i++)
        fabric_close(world->side[i].conn);
    for (int i = 0; i < 2; i++)
        fabric_free(world->fabric[i]);
    free(world);
}

// --- the applications: each returns whether there was something to do ---

static void attach(struct side *side)
{
    ring_rx_arm(&side->rx);
    atomic_store(&side->memory->ring[0].watching, 1);
    ring_bell(side->path.agent_bell);
}

static void wake_agent(struct side *side, bool wanted)
{
    if (wanted)
        ring_bell(side->path.agent_bell);
}

static bool app_switch(struct side *side)
{
    if (!atomic_load(&side->memory->ring[1].watching))
        return false;
    atomic_store(&side->memory->ring[1].switch_at, 12345);
    side->switched = true;
    wake_agent(side, true);
    return true;
}

static bool app_close(struct side *side)
{
    side->closed = true;
    atomic_store(&side->memory->ring[1].tx_closed, CLOSED_ORDERLY);
    wake_agent(side, true);
    return true;
}

static bool app_sleep_for_room(struct side *side)
{
    ring_tx_arm(&side->tx);
    side->waits_to_send = ring_room(&side->tx) < (int64_t)ring_room_wanted(&side->tx);
    return !side->waits_to_send;
}

static bool app_send(struct world *world, struct side *side)
{
    unsigned char bytes[CALL_MOST];
    uint32_t arm;

    if (side->closed || side->waits_to_send)
        return false;
    if (!side->switched)
        return app_switch(side);
    if (side->sent == side->to_send)
        return app_close(side);
    size_t n = dice_size(&world->dice, CALL_MOST);
    n = n < side->to_send - side->sent ? n : side->to_send - side->sent;
    stream_fill(bytes, side->sent, n);
    struct iovec one = {bytes, n};
    struct spans from = spans_of(&one, 1);
    ssize_t put = ring_put(&side->tx, &from);
    assert_true(put >= 0);
    if (put == 0)
        return app_sleep_for_room(side);
    side->sent += (uint64_t)put;
    if (ring_tx_wants_bell(&side->tx, &arm)) {
        ring_bell(side->path.agent_bell);
        ring_tx_rang(&side->tx, arm);
    }
    return true;
}

static bool app_sleep_for_bytes(struct side *side)
{
    ring_rx_republish(&side->rx);
    ring_rx_arm(&side->rx);
    side->waits_to_receive = ring_ready_fresh(&side->rx) == 0 && !atomic_load(&side->memory->ring[0].tx_closed);
    return !side->waits_to_receive;
}

static bool app_end(struct side *side)
{
    if (!atomic_load(&side->memory->ring[0].tx_closed) || ring_ready_fresh(&side->rx) > 0)
        return app_sleep_for_bytes(side);
    side->eof = true;
    return true;
}

static bool app_receive(struct world *world, struct side *side, uint64_t position)
{
    unsigned char bytes[CALL_MOST];
    uint32_t arm;

    if (side->eof || side->waits_to_receive || atomic_load(&side->memory->ring[0].switch_at) == SWITCH_NOT_YET)
        return false;
    struct iovec one = {bytes, dice_size(&world->dice, CALL_MOST)};
    struct spans to = spans_of(&one, 1);
    ssize_t got = ring_get(&side->rx, &to, 0, false);
    assert_true(got >= 0);
    if (got == 0)
        return app_end(side);
    assert_int_equal(stream_check(bytes, position, (size_t)got), got);
    side->received += (uint64_t)got;
    if (ring_rx_wants_bell(&side->rx, &arm)) {
        ring_bell(side->path.agent_bell);
        ring_rx_rang(&side->rx, arm);
    }
    return true;
}

static bool app_hear_bell(struct side *side)
{
    if (!was_rung(side->path.bell))
        return false;
    side->waits_to_send = side->waits_to_receive = false;
    return true;
}

// --- the agents and the wire ---

static bool agent_push(struct world *world, struct side *side)
{
    if (side->gone)
        return false;
    if (side->agent_asleep) {
        if (!was_rung(side->path.agent_bell))
            return false;
        side->agent_asleep = false;
    }
    int result = path_push(&side->path, &world->pace);
    if (result == 0 && dice_below(&world->dice, 3) == 0)
        side->agent_asleep = path_cool(&side->path, false);
    side->gone = path_is_over(&side->path);
    return result > 0;
}

static void hear(struct side *side, const struct fabric_completion *completion)
{
    struct link_message message;

    if (completion->type == FABRIC_WRITTEN) {
        assert_int_equal(completion->immediate, side->path.number);
        path_arrived(&side->path);
    } else if (completion->type == FABRIC_MESSAGE) {
        assert_int_equal(link_message_decode(&message, completion->message, completion->size), 0);
        assert_int_equal(message.session.session, side->path.number);
        assert_int_equal(path_hear(&side->path, &message), 0);
    }
}

// Completions make a path hot, as the data thread would.
static bool agent_poll(struct world *world, struct side *side)
{
    struct fabric_completion completion;
    int which = side == &world->side[1];

    if (fabric_poll(world->fabric[which], &completion, 1) == 0)
        return false;
    // There may be room for what needs it no more.
    assert_true(!side->gone || completion.type == FABRIC_ROOM);
    hear(side, &completion);
    side->agent_asleep = false;
    side->gone = path_is_over(&side->path);
    return true;
}

static bool step(struct world *world, unsigned actor)
{
    struct side *side = &world->side[actor % 2];

    switch (actor / 2) {
    case 0:
        return app_send(world, side);
    case 1:
        return app_receive(world, side, side->received);
    case 2:
        return app_hear_bell(side);
    case 3:
        return agent_push(world, side);
    case 4:
        return agent_poll(world, side);
    default:
        return fake_carry(side->conn);
    }
}

#define ACTORS 12u

// Whoever can goes on, at random, until nobody can. An agent may need some tries before it sleeps.
static void run(struct world *world)
{
    for (unsigned idle = 0; idle < 40 * ACTORS; idle++) {
        if (step(world, (unsigned)dice_below(&world->dice, ACTORS)))
            idle = 0;
    }
}

static void check_all_arrived(const struct world *world)
{
    for (int i = 0; i < 2; i++) {
        const struct side *side = &world->side[i], *other = &world->side[1 - i];
        assert_true(side->closed);
        assert_true(side->eof);
        assert_int_equal(side->received, other->to_send);
        assert_int_equal(side->end.broken, 0);
    }
}

static void finish_all(struct world *world)
{
    for (int i = 0; i < 2; i++) {
        path_finish(&world->side[i].path);
        world->side[i].agent_asleep = false;
    }
    run(world);
    for (int i = 0; i < 2; i++)
        assert_true(world->side[i].gone);
}

// --- the tests ---

static void transfer(const char *name, unsigned depth, uint64_t bytes)
{
    struct world *world = make_world(name, depth);

    for (int i = 0; i < 2; i++) {
        world->side[i].to_send = dice_below(&world->dice, bytes);
        attach(&world->side[i]);
    }
    run(world);
    check_all_arrived(world);
    finish_all(world);
    free_world(world);
}

static void test_transfer(void **state)
{
    for (uint64_t i = rig_scaled(40); i > 0; i--)
        transfer("both ways", 64, 400000);
}

static void test_narrow_connection(void **state)
{
    for (uint64_t i = rig_scaled(20); i > 0; i--)
        transfer("two posts at a time", 2, 200000);
}

// One end goes while the other still sends.
static void test_reader_goes(void **state)
{
    for (uint64_t i = rig_scaled(20); i > 0; i--) {
        struct world *world = make_world("the reader goes", 8);
        world->side[0].to_send = UINT64_MAX;
        for (int side = 0; side < 2; side++)
            attach(&world->side[side]);
        for (int steps = 0; steps < 20000; steps++)
            step(world, (unsigned)dice_below(&world->dice, ACTORS));
        path_finish(&world->side[1].path);
        world->side[1].agent_asleep = false;
        world->side[1].eof = true;
        for (int steps = 0; steps < 20000; steps++)
            step(world, (unsigned)dice_below(&world->dice, ACTORS));
        assert_int_equal(world->side[0].memory->ring[1].rx_closed, CLOSED_ORDERLY);
        assert_int_equal(world->side[0].end.broken, 0);
        assert_true(world->side[0].gone);
        assert_true(world->side[1].gone);
        free_world(world);
    }
}

// Killed between moving its cursor and showing it.
static void test_killed_before_publication(void **state)
{
    struct world *world = make_world("killed", 64);
    struct side *a = &world->side[0], *b = &world->side[1];

    attach(a);
    attach(b);
    b->to_send = 0;
    a->to_send = 5000;
    while (!a->switched)
        step(world, (unsigned)dice_below(&world->dice, ACTORS));
    stream_fill(a->tx.data, 0, 5000);
    atomic_store(&a->end.tx_tail, 5000);
    a->sent = 5000;
    a->closed = true;
    path_finish(&a->path);
    a->agent_asleep = false;
    run(world);
    assert_int_equal(b->received, 5000);
    assert_true(b->eof);
    assert_int_equal(b->end.broken, 0);
    finish_all(world);
    free_world(world);
}

// An application that breaks the rules loses its session, and the other end does not take that for its end.
static void broken_by(void (*spoil)(struct side *), const char *name)
{
    struct world *world = make_world(name, 64);
    struct side *a = &world->side[0];

    a->to_send = world->side[1].to_send = 50000;
    attach(a);
    attach(&world->side[1]);
    while (a->sent < 20000)
        step(world, (unsigned)dice_below(&world->dice, ACTORS));
    a->closed = a->eof = true; // it does nothing else any more
    spoil(a);
    ring_bell(a->path.agent_bell);
    // A cursor that cannot be is not believed at once; nothing more may come meanwhile, or it could be.
    for (unsigned i = 0; i < 2 * PATH_DOUBTS_MOST && !a->end.broken; i++)
        path_push(&a->path, &(struct path_pace){0});
    run(world);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(world->side[i].end.broken, 1);
        assert_true(world->side[i].path.events & PATH_BROKEN);
        assert_true(world->side[i].gone);
    }
    assert_false(world->side[1].eof);
    free_world(world);
}

static void spoil_tail(struct side *side)
{
    atomic_store(&side->memory->ring[1].tail, atomic_load(&side->memory->ring[1].tail) + RING + 1);
}

static void spoil_tail_backwards(struct side *side)
{
    atomic_store(&side->memory->ring[1].tail, side->path.posted - 1);
}

static void spoil_head(struct side *side)
{
    atomic_store(&side->memory->ring[0].head, side->path.credited + RING + 1);
}

static void spoil_head_a_little(struct side *side)
{
    atomic_store(&side->memory->ring[0].head, atomic_load(&side->memory->ring[0].tail) + RING / 2);
}

static void test_tail_jumps(void **state)
{
    broken_by(spoil_tail, "a tail that jumps");
}

static void test_tail_goes_back(void **state)
{
    broken_by(spoil_tail_backwards, "a tail that goes back");
}

static void test_head_jumps(void **state)
{
    broken_by(spoil_head, "a head that jumps");
}

static void test_head_overtakes(void **state)
{
    broken_by(spoil_head_a_little, "a head that overtakes");
}

static void test_produced_before_switching(void **state)
{
    struct world *world = make_world("produced before switching", 64);
    struct side *a = &world->side[0];

    atomic_store(&a->memory->ring[1].tail, 100);
    run(world);
    assert_int_equal(a->end.broken, 1);
    assert_int_equal(world->side[1].end.broken, 1);
    assert_int_equal(world->side[1].memory->ring[0].tail, 0);
    free_world(world);
}

// Of a cursor that is just being written the lowest bytes are there already, and the others not yet.
static void test_a_torn_arrival(void **state)
{
    struct world *world = make_world("a torn arrival", 64);
    struct side *a = &world->side[0];

    atomic_store(&a->memory->ring[0].tail, 300);
    path_arrived(&a->path);
    atomic_store(&a->memory->ring[0].tail, 44);
    path_arrived(&a->path);
    atomic_store(&a->memory->ring[0].tail, 600);
    path_arrived(&a->path);
    assert_int_equal(a->path.arrived, 600);
    assert_int_equal(a->path.rx_bytes, 600);
    assert_int_equal(a->end.broken, 0);
    free_world(world);
}

// What the other host writes is no more trusted.
static void test_arrival_beyond_the_ring(void **state)
{
    struct world *world = make_world("an arrival beyond the ring", 64);
    struct side *a = &world->side[0];

    // It may be one that is just being written.
    atomic_store(&a->memory->ring[0].tail, RING + 1);
    path_arrived(&a->path);
    assert_int_equal(a->end.broken, 0);
    for (unsigned i = 1; i < PATH_DOUBTS_MOST; i++)
        path_arrived(&a->path);
    assert_int_equal(a->end.broken, 1);
    run(world);
    assert_int_equal(world->side[1].end.broken, 1);
    free_world(world);
}

static int hear_type(struct side *side, enum link_message_type type, uint64_t value)
{
    const struct link_message message = {.type = (uint16_t)type,
                                         .session = {.session = side->path.number, .value = value}};

    return path_hear(&side->path, &message);
}

static void test_messages_out_of_turn(void **state)
{
    static const enum link_message_type once[] = {LINK_WATCHING, LINK_SWITCHED, LINK_FINISHED, LINK_UNREAD};

    for (size_t i = 0; i < sizeof(once) / sizeof(once[0]); i++) {
        struct world *world = make_world("twice", 64);
        assert_int_equal(hear_type(&world->side[0], once[i], 0), 0);
        assert_int_equal(hear_type(&world->side[0], once[i], 0), -EPROTO);
        free_world(world);
    }
    struct world *world = make_world("over twice", 64);
    assert_int_equal(hear_type(&world->side[0], LINK_OVER, 0), 0);
    assert_int_equal(hear_type(&world->side[0], LINK_OVER, 0), -EPROTO);
    assert_int_equal(hear_type(&world->side[0], LINK_OFFER, 0), -EPROTO);
    free_world(world);
}

// The end that is announced is not the end of what came: nothing may be taken for an end of the stream.
static void test_finished_elsewhere(void **state)
{
    struct world *world = make_world("finished elsewhere", 64);

    assert_int_equal(hear_type(&world->side[0], LINK_FINISHED, 1), 0);
    assert_int_equal(world->side[0].end.broken, 1);
    assert_int_equal(world->side[0].memory->ring[0].tx_closed, CLOSED_NOT);
    free_world(world);
}

// An end that never heard of its session sent its FIN by TCP: the other side asks, and is told.
static void test_ended_in_tcp(void **state)
{
    struct world *world = make_world("ended in TCP", 64);
    struct side *a = &world->side[0], *b = &world->side[1];

    b->closed = b->eof = true; // it knows nothing
    a->closed = true;          // it only receives
    attach(a);
    run(world);
    assert_int_equal(a->memory->ring[0].tx_closed, CLOSED_NOT);
    atomic_store(&a->end.fin_seen, 1);
    ring_bell(a->path.agent_bell);
    run(world);
    assert_int_equal(a->memory->ring[0].tx_closed, CLOSED_ORDERLY);
    assert_int_equal(a->end.broken, 0);
    // A send that raced with the FIN is no end that anybody may be told.
    atomic_store(&b->memory->ring[1].switch_at, 1000);
    ring_bell(b->path.agent_bell);
    run(world);
    assert_int_equal(a->end.broken + b->end.broken, 1);
    free_world(world);
}

// One that has switched announces its end itself.
static void test_fin_overtakes(void **state)
{
    struct world *world = make_world("a FIN that overtakes", 64);
    struct side *a = &world->side[0], *b = &world->side[1];

    attach(a);
    attach(b);
    b->to_send = UINT64_MAX;
    while (!b->switched)
        step(world, (unsigned)dice_below(&world->dice, ACTORS));
    b->to_send = b->sent + 1;
    b->closed = true; // and its announcement is still to come
    atomic_store(&a->end.fin_seen, 1);
    ring_bell(a->path.agent_bell);
    run(world);
    assert_int_equal(a->memory->ring[0].tx_closed, CLOSED_NOT);
    app_close(b);
    run(world);
    assert_int_equal(a->memory->ring[0].tx_closed, CLOSED_ORDERLY);
    free_world(world);
}

// The application at b went back to TCP without having heard that a's ring begins, while a was closed. Then a must not
// take for arrived what nobody has read. What b's agent has to say of it waits for some of what it hears.
static void test_left_as_the_other_is_closed(void **state)
{
    for (uint64_t i = rig_scaled(40); i > 0; i--) {
        struct world *world = make_world("left as the other is closed", 64);
        struct side *a = &world->side[0], *b = &world->side[1];
        attach(a);
        attach(b);
        a->to_send = 1000;
        while (!a->switched)
            step(world, (unsigned)dice_below(&world->dice, ACTORS));
        while (!a->closed)
            app_send(world, a);
        path_finish(&a->path);
        a->agent_asleep = false;
        for (uint64_t steps = dice_below(&world->dice, 100); steps > 0; steps--)
            step(world, (unsigned)dice_below(&world->dice, ACTORS));
        for (int ring = 0; ring < 2; ring++)
            ring_ask_to_leave(&b->memory->ring[ring], LEAVE_RESEND);
        bool heard = atomic_load(&b->memory->ring[0].switch_at) != SWITCH_NOT_YET;
        b->eof |= !heard;
        ring_bell(b->path.agent_bell);
        for (uint64_t steps = dice_below(&world->dice, 100); steps > 0; steps--) {
            agent_push(world, a);
            fake_carry(a->conn);
            agent_poll(world, b);
        }
        run(world);
        finish_all(world);
        assert_int_equal(b->received, heard ? 1000 : 0);
        if (!heard) {
            assert_int_equal(a->memory->ring[1].arrived, 0);
            assert_int_equal(ring_leave_wish(&a->memory->ring[1]), LEAVE_RESEND);
        }
        assert_int_equal(a->end.broken + b->end.broken, 0);
        free_world(world);
    }
}

// One that was offered and refused has no other end.
static void test_never_connected(void **state)
{
    struct world *world = make_world("never connected", 64);
    struct side *a = &world->side[0];

    a->path.connected = false;
    assert_int_equal(path_push(&a->path, &world->pace), 0);
    assert_true(path_cool(&a->path, false));
    path_finish(&a->path);
    assert_true(path_is_over(&a->path));
    free_world(world);
}

// 1 MB/s for 1 MB, with a clock of ours: it takes a second, less what may be saved up.
static void test_rate(void **state)
{
    struct world *world = make_world("rate", 64);
    struct side *a = &world->side[0], *b = &world->side[1];
    uint64_t began = 1000000000;

    world->pace = (struct path_pace){.rate = 1000000, .now = began};
    a->to_send = 1000000;
    attach(a);
    attach(b);
    while (b->received < a->to_send) {
        uint64_t before = b->received;
        run(world);
        if (before != b->received)
            continue;
        assert_true(path_paced_until(&a->path, &world->pace) > world->pace.now);
        world->pace.now += 1000000;
        a->agent_asleep = b->agent_asleep = false;
    }
    assert_in_range(world->pace.now - began, 800000000, 1000000000);
    // Asleep, it only waits for the time.
    assert_true(path_cool(&b->path, true));
    free_world(world);
}

// Everything produced since the last post goes as one.
static void test_one_post(void **state)
{
    struct world *world = make_world("one post", 64);
    struct side *a = &world->side[0];

    attach(&world->side[1]);
    while (!a->switched)
        step(world, (unsigned)dice_below(&world->dice, ACTORS));
    run(world);
    uint64_t posts = fake_posts(a->conn);
    unsigned char bytes[64];
    for (int i = 0; i < 10; i++) {
        struct iovec one = {bytes, sizeof(bytes)};
        struct spans from = spans_of(&one, 1);
        stream_fill(bytes, (uint64_t)i * sizeof(bytes), sizeof(bytes));
        assert_int_equal(ring_put(&a->tx, &from), sizeof(bytes));
    }
    assert_int_equal(path_push(&a->path, &world->pace), 1);
    assert_int_equal(path_push(&a->path, &world->pace), 0);
    assert_int_equal(fake_posts(a->conn) - posts, 1);
    free_world(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transfer),
        cmocka_unit_test(test_narrow_connection),
        cmocka_unit_test(test_reader_goes),
        cmocka_unit_test(test_killed_before_publication),
        cmocka_unit_test(test_tail_jumps),
        cmocka_unit_test(test_tail_goes_back),
        cmocka_unit_test(test_head_jumps),
        cmocka_unit_test(test_head_overtakes),
        cmocka_unit_test(test_produced_before_switching),
        cmocka_unit_test(test_a_torn_arrival),
        cmocka_unit_test(test_arrival_beyond_the_ring),
        cmocka_unit_test(test_messages_out_of_turn),
        cmocka_unit_test(test_finished_elsewhere),
        cmocka_unit_test(test_ended_in_tcp),
        cmocka_unit_test(test_fin_overtakes),
        cmocka_unit_test(test_left_as_the_other_is_closed),
        cmocka_unit_test(test_never_connected),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_one_post),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
