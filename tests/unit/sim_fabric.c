// The simulated fabric itself: what the tests that stand on it take for granted.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/fabric.h"
#include "tests/sim/sim.h"

#define PATIENCE_MS 10000
#define MEMORY      8192

// Two hosts, which are one here, and a connection from a to b.
static struct fabric *a, *b;
static struct fabric_conn *near, *far;
static struct fabric_memory *source, *target;
static _Alignas(64) uint8_t source_bytes[MEMORY], target_bytes[MEMORY];
static struct address place;
static int orders;
static char orders_path[64];

static struct fabric_event next_event(struct fabric *fabric)
{
    struct pollfd readable = {.fd = fabric_event_fd(fabric), .events = POLLIN};
    struct fabric_event event;

    assert_int_equal(poll(&readable, 1, PATIENCE_MS), 1);
    fabric_next_event(fabric, &event);
    return event;
}

static struct fabric_completion next_completion(struct fabric *fabric)
{
    struct pollfd readable = {.fd = fabric_completion_fd(fabric), .events = POLLIN};
    struct fabric_completion completion;

    if (fabric_arm(fabric) == 0)
        assert_int_equal(poll(&readable, 1, PATIENCE_MS), 1);
    assert_int_equal(fabric_poll(fabric, &completion, 1), 1);
    return completion;
}

static void order(const char *text)
{
    char answer[256] = "";

    send(orders, text, strlen(text), 0);
    assert_true(recv(orders, answer, sizeof(answer) - 1, 0) > 0);
    assert_string_not_equal(answer, "not understood");
}

static void open_orders(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    orders = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", orders_path);
    assert_int_equal(connect(orders, (struct sockaddr *)&address, sizeof(address)), 0);
}

static void listen_somewhere(void)
{
    for (unsigned port = 20000 + (unsigned)getpid() % 10000; port < 32000; port++) {
        place = (struct address){.ip = {[10] = 0xff, 0xff, 127, 0, 0, 1}, .port = (uint16_t)port};
        if (fabric_listen(b, &place) == 0)
            return;
    }
    fail_msg("no port is free");
}

static int open_both(void **state)
{
    const struct fabric_options options = {.queue_depth = 4};

    snprintf(orders_path, sizeof(orders_path), "/tmp/sim-fabric-%d", (int)getpid());
    setenv("RDMA_SIM_ORDERS", orders_path, 1);
    assert_int_equal(fabric_open(&a, &options), 0);
    unsetenv("RDMA_SIM_ORDERS");
    assert_int_equal(fabric_open(&b, &options), 0);
    open_orders();
    listen_somewhere();
    return 0;
}

static int close_both(void **state)
{
    fabric_free(a);
    fabric_free(b);
    close(orders);
    unlink(orders_path);
    return 0;
}

static struct fabric_conn *incoming(void)
{
    struct fabric_event event = next_event(b);

    assert_int_equal(event.type, FABRIC_INCOMING);
    assert_memory_equal(event.remote.ip, place.ip, sizeof(place.ip));
    assert_int_equal(event.private_size, 5);
    assert_memory_equal(event.private_data, "hello", 5);
    return event.conn;
}

static void begin_connect(void)
{
    assert_int_equal(fabric_connect(a, NULL, &place, "hello", 5, &near, &near), 0);
}

static int open_connected(void **state)
{
    struct fabric_event event;

    open_both(state);
    begin_connect();
    far = incoming();
    assert_int_equal(fabric_accept(far, &far), 0);
    event = next_event(a);
    assert_int_equal(event.type, FABRIC_READY);
    assert_ptr_equal(event.data, &near);
    assert_int_equal(next_event(b).type, FABRIC_READY);
    fabric_start(near, &near);
    fabric_start(far, &far);
    assert_int_equal(fabric_register(near, source_bytes, MEMORY, false, &source), 0);
    assert_int_equal(fabric_register(far, target_bytes, MEMORY, true, &target), 0);
    memset(target_bytes, 0, MEMORY);
    return 0;
}

static int close_connected(void **state)
{
    fabric_close(near);
    fabric_unregister(source);
    fabric_unregister(target);
    fabric_close(far);
    return close_both(state);
}

static struct fabric_write write_of(uint64_t cursor)
{
    return (struct fabric_write){
        .memory = source,
        .remote_key = fabric_memory_key(target),
        .cursor = cursor,
        .cursor_to = fabric_memory_address(target) + 8,
        .immediate = (uint32_t)cursor,
    };
}

static struct fabric_write write_wrapped(void)
{
    struct fabric_write write = write_of(77);
    const uint64_t at = fabric_memory_address(target);

    write.spans = 2;
    write.span[0].from = source_bytes + 4000, write.span[0].to = at + MEMORY - 100, write.span[0].size = 100;
    write.span[1].from = source_bytes + 100, write.span[1].to = at + 4096, write.span[1].size = 200;
    return write;
}

static void expect_failure(void)
{
    assert_int_equal(next_event(a).type, FABRIC_GONE);
    assert_int_equal(next_event(b).type, FABRIC_GONE);
    assert_int_equal(next_completion(a).type, FABRIC_FAILED);
    assert_int_equal(fabric_post_message(near, "x", 1), -EPIPE);
}

static uint64_t cursor_there(void)
{
    uint64_t cursor;

    memcpy(&cursor, target_bytes + 8, sizeof(cursor));
    return cursor;
}

static void test_a_write_takes_place(void **state)
{
    struct fabric_write write = write_wrapped();
    struct fabric_completion completion;

    for (size_t i = 0; i < MEMORY; i++)
        source_bytes[i] = (uint8_t)(i * 7 + 1);
    assert_int_equal(fabric_post_write(near, &write), 0);
    completion = next_completion(b);
    assert_int_equal(completion.type, FABRIC_WRITTEN);
    assert_int_equal(completion.immediate, 77);
    assert_ptr_equal(completion.data, &far);
    assert_int_equal(cursor_there(), 77);
    assert_memory_equal(target_bytes + MEMORY - 100, source_bytes + 4000, 100);
    assert_memory_equal(target_bytes + 4096, source_bytes + 100, 200);
    assert_int_equal(target_bytes[4095], 0);
    assert_int_equal(target_bytes[4096 + 200], 0);
}

static void test_messages_stay_behind_writes(void **state)
{
    order("delay 100 5000");
    for (unsigned i = 1; i <= 20; i++) {
        struct fabric_write write = write_of(i);
        struct fabric_completion completion;
        while (fabric_post_write(near, &write) == -EAGAIN)
            assert_int_equal(next_completion(a).type, FABRIC_ROOM);
        while (fabric_post_message(near, &i, sizeof(i)) == -EAGAIN)
            assert_int_equal(next_completion(a).type, FABRIC_ROOM);
        completion = next_completion(b);
        assert_int_equal(completion.type, FABRIC_WRITTEN);
        assert_int_equal(completion.immediate, i);
        completion = next_completion(b);
        assert_int_equal(completion.type, FABRIC_MESSAGE);
        assert_int_equal(completion.size, sizeof(i));
        assert_memory_equal(completion.message, &i, sizeof(i));
    }
}

static void test_a_full_queue_says_when_there_is_room(void **state)
{
    order("silent on");
    for (int i = 0; i < 4; i++)
        assert_int_equal(fabric_post_message(near, "x", 1), 0);
    assert_int_equal(fabric_post_message(near, "x", 1), -EAGAIN);
    order("silent off");
    assert_int_equal(next_completion(a).type, FABRIC_ROOM);
    assert_int_equal(fabric_post_message(near, "x", 1), 0);
}

static void test_a_wrong_key_fails(void **state)
{
    struct fabric_write write = write_of(1);

    write.remote_key++;
    assert_int_equal(fabric_post_write(near, &write), 0);
    expect_failure();
    assert_int_equal(cursor_there(), 0);
}

static void test_outside_of_the_memory_fails(void **state)
{
    struct fabric_write write = write_wrapped();

    write.span[1].to = fabric_memory_address(target) + MEMORY - 199;
    assert_int_equal(fabric_post_write(near, &write), 0);
    expect_failure();
}

static void test_memory_of_another_connection_is_out_of_reach(void **state)
{
    struct fabric_conn *first = far;
    struct fabric_write write = write_of(1);
    struct fabric_conn *other;

    assert_int_equal(fabric_connect(a, NULL, &place, "hello", 5, &near, &other), 0);
    far = incoming();
    assert_int_equal(fabric_accept(far, &far), 0);
    assert_int_equal(next_event(a).type, FABRIC_READY);
    assert_int_equal(next_event(b).type, FABRIC_READY);
    assert_int_equal(fabric_post_write(other, &write), 0);
    assert_int_equal(next_event(b).conn == far, true);
    assert_int_equal(next_event(a).conn == other, true);
    fabric_close(other);
    fabric_close(far);
    far = first;
    assert_int_equal(fabric_post_write(near, &write), 0);
    assert_int_equal(next_completion(b).type, FABRIC_WRITTEN);
}

static void test_spans_outside_of_the_source_are_refused(void **state)
{
    struct fabric_write write = write_wrapped();

    write.span[0].from = source_bytes + MEMORY - 99;
    assert_int_equal(fabric_post_write(near, &write), -EINVAL);
}

static void test_a_cut(void **state)
{
    order("cut");
    expect_failure();
}

static void test_the_second_post_fails(void **state)
{
    order("fail 2");
    assert_int_equal(fabric_post_message(near, "x", 1), 0);
    assert_int_equal(next_completion(b).type, FABRIC_MESSAGE);
    assert_int_equal(fabric_post_message(near, "x", 1), 0);
    expect_failure();
    assert_int_equal(next_completion(b).type, FABRIC_FAILED);
}

static void test_a_torn_write(void **state)
{
    struct fabric_write write = write_wrapped();

    memset(source_bytes, 1, MEMORY);
    order("tear 1");
    assert_int_equal(fabric_post_write(near, &write), 0);
    expect_failure();
    assert_int_equal(target_bytes[4096 + 99], 1);
    assert_int_equal(target_bytes[4096 + 100], 0);
    assert_int_equal(cursor_there(), 0);
}

static void test_the_other_side_closes(void **state)
{
    fabric_close(far);
    assert_int_equal(next_event(a).type, FABRIC_GONE);
    assert_int_equal(next_completion(a).type, FABRIC_FAILED);
    begin_connect();
    far = incoming();
}

static void test_unregistering_under_a_write_fails_it(void **state)
{
    struct fabric_write write = write_wrapped();

    order("delay 1000000");
    assert_int_equal(fabric_post_write(near, &write), 0);
    fabric_unregister(source);
    assert_int_equal(next_event(a).type, FABRIC_GONE);
    assert_int_equal(fabric_register(near, source_bytes, MEMORY, false, &source), 0);
}

static void test_rejecting(void **state)
{
    struct fabric_event event;

    begin_connect();
    fabric_reject(incoming());
    event = next_event(a);
    assert_int_equal(event.type, FABRIC_REFUSED);
    assert_int_equal(event.error, -ECONNREFUSED);
    assert_ptr_equal(event.data, &near);
    fabric_close(near);
}

static void test_nobody_listens(void **state)
{
    place.ip[15] = 2;
    begin_connect();
    assert_int_equal(next_event(a).type, FABRIC_REFUSED);
    fabric_close(near);
}

static void test_closing_while_connecting(void **state)
{
    struct fabric_event event;

    begin_connect();
    fabric_close(near);
    begin_connect();
    far = incoming();
    fabric_close(near);
    assert_int_equal(fabric_accept(far, &far), 0);
    // It may have heard of the first, too, and then of the second only now.
    for (event = next_event(b); event.type == FABRIC_INCOMING; event = next_event(b))
        fabric_close(event.conn);
    assert_int_equal(event.type, FABRIC_GONE);
    assert_ptr_equal(event.conn, far);
    fabric_close(far);
}

static void test_no_device(void **state)
{
    order("device off");
    assert_int_equal(next_event(a).type, FABRIC_DEVICES);
    assert_int_equal(fabric_connect(a, NULL, &place, "hello", 5, &near, &near), -ENODEV);
    assert_int_equal(fabric_list_devices(a, NULL, 0), 0);
    order("device on");
    assert_int_equal(next_event(a).type, FABRIC_DEVICES);
    begin_connect();
    fabric_reject(incoming());
    fabric_close(near);
}

#define CONNECTED(test) cmocka_unit_test_setup_teardown(test, open_connected, close_connected)
#define APART(test)     cmocka_unit_test_setup_teardown(test, open_both, close_both)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONNECTED(test_a_write_takes_place),
        CONNECTED(test_messages_stay_behind_writes),
        CONNECTED(test_a_full_queue_says_when_there_is_room),
        CONNECTED(test_a_wrong_key_fails),
        CONNECTED(test_outside_of_the_memory_fails),
        CONNECTED(test_memory_of_another_connection_is_out_of_reach),
        CONNECTED(test_spans_outside_of_the_source_are_refused),
        CONNECTED(test_a_cut),
        CONNECTED(test_the_second_post_fails),
        CONNECTED(test_a_torn_write),
        CONNECTED(test_the_other_side_closes),
        CONNECTED(test_unregistering_under_a_write_fails_it),
        APART(test_rejecting),
        APART(test_nobody_listens),
        APART(test_closing_while_connecting),
        APART(test_no_device),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
