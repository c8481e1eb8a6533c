// Two sides of a fabric, and waiting for what they have to say.

#include "tests/fabric/rig.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#define PATIENCE_MS 5000
#define QUIET_MS    50
#define FIRST_PORT  18515

static struct address host;
static uint16_t last_port = FIRST_PORT;

void rig_set_host(const char *name)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(name, "1", &hints, &found);
    struct sockaddr_storage address = {0};

    if (error) {
        fprintf(stderr, "%s: %s\n", name, gai_strerror(error));
        exit(2);
    }
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    assert_int_equal(address_from_sockaddr(&host, &address), 0);
}

struct address rig_address(void)
{
    struct address at = host;

    at.port = ++last_port;
    return at;
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

// Memory as an agent has it: shared.
static unsigned char *buffer_new(void)
{
    void *buffer = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(buffer, MAP_FAILED);
    return buffer;
}

static void side_open(struct side *side, const char *name, const struct fabric_options *options)
{
    *side = (struct side){.name = name, .buffer = buffer_new(), .source_buffer = buffer_new()};
    assert_int_equal(fabric_open(&side->fabric, options), 0);
    for (size_t i = 0; i < BUFFER_SIZE; i++)
        side->source_buffer[i] = (unsigned char)(i * 31 + i / 251);
}

void pair_open_deaf(struct pair *pair, const struct fabric_options *options)
{
    side_open(&pair->a, "a", options);
    side_open(&pair->b, "b", options);
    pair->a.other = &pair->b;
    pair->b.other = &pair->a;
    pair->at = rig_address();
}

void pair_open(struct pair *pair, const struct fabric_options *options)
{
    pair_open_deaf(pair, options);
    assert_int_equal(fabric_listen(pair->b.fabric, &pair->at), 0);
}

void side_close(struct side *side)
{
    if (side->conn) {
        fabric_stop(side->conn);
        fabric_close(side->conn);
    }
    if (side->target)
        fabric_unregister(side->target);
    if (side->source)
        fabric_unregister(side->source);
    side->conn = NULL;
    side->target = side->source = NULL;
}

static void side_free(struct side *side)
{
    side_close(side);
    fabric_free(side->fabric);
    munmap(side->buffer, BUFFER_SIZE);
    munmap(side->source_buffer, BUFFER_SIZE);
}

void pair_close(struct pair *pair)
{
    side_free(&pair->a);
    side_free(&pair->b);
}

static void collect(struct side *side)
{
    struct fabric_event event;

    for (fabric_next_event(side->fabric, &event); event.type != FABRIC_NOTHING;
         fabric_next_event(side->fabric, &event)) {
        assert_in_range(side->event_count, 0, EVENTS_MAX - 1);
        side->events[side->event_count++] = event;
    }
}

bool side_has_event(struct side *side, struct fabric_event *event)
{
    collect(side->other);
    collect(side);
    if (side->event_count == 0)
        return false;
    *event = side->events[0];
    memmove(side->events, side->events + 1, --side->event_count * sizeof(*event));
    return true;
}

static bool wait_for_event(struct side *side, struct fabric_event *event, uint64_t limit_ms)
{
    uint64_t deadline = now_ms() + limit_ms, now;

    while (!side_has_event(side, event)) {
        struct pollfd readable[] = {
            {.fd = fabric_event_fd(side->fabric), .events = POLLIN},
            {.fd = fabric_event_fd(side->other->fabric), .events = POLLIN},
        };

        now = now_ms();
        if (now >= deadline)
            return false;
        poll(readable, 2, (int)(deadline - now));
    }
    return true;
}

struct fabric_event side_event_any(struct side *side)
{
    struct fabric_event event;

    if (!wait_for_event(side, &event, PATIENCE_MS))
        fail_msg("%s: no event", side->name);
    return event;
}

struct fabric_event side_event(struct side *side, enum fabric_event_type type)
{
    struct fabric_event event = side_event_any(side);

    if (event.type != type)
        fail_msg("%s: event %d (%s), expected %d", side->name, event.type, strerror(-event.error), type);
    return event;
}

void side_expect_no_event(struct side *side)
{
    struct fabric_event event;

    if (wait_for_event(side, &event, QUIET_MS))
        fail_msg("%s: event %d (%s), expected none", side->name, event.type, strerror(-event.error));
}

void pair_connect_another(struct pair *pair, struct fabric_conn **a, struct fabric_conn **b)
{
    struct fabric_event event;

    assert_int_equal(fabric_connect(pair->a.fabric, NULL, &pair->at, "hello", 5, pair, a), 0);
    event = side_event(&pair->b, FABRIC_INCOMING);
    assert_int_equal(event.private_size, 5);
    assert_memory_equal(event.private_data, "hello", 5);
    *b = event.conn;
    assert_int_equal(fabric_accept(*b, &pair->b), 0);
    assert_ptr_equal(side_event(&pair->a, FABRIC_READY).data, pair);
    assert_ptr_equal(side_event(&pair->b, FABRIC_READY).data, &pair->b);
}

void side_register(struct side *side)
{
    assert_int_equal(fabric_register(side->conn, side->buffer, BUFFER_SIZE, true, &side->target), 0);
    assert_int_equal(fabric_register(side->conn, side->source_buffer, BUFFER_SIZE, false, &side->source), 0);
}

void pair_connect(struct pair *pair)
{
    pair_connect_another(pair, &pair->a.conn, &pair->b.conn);
    fabric_start(pair->a.conn, &pair->a);
    fabric_start(pair->b.conn, &pair->b);
    side_register(&pair->a);
    side_register(&pair->b);
}

// One at a time, which is the hardest for the fabric.
bool side_has_completion(struct side *side, struct fabric_completion *completion)
{
    int count = fabric_poll(side->fabric, completion, 1);

    assert_in_range(count, 0, 1);
    return count == 1;
}

struct fabric_completion side_completion(struct side *side, enum fabric_completion_type type)
{
    struct fabric_completion completion;
    uint64_t deadline = now_ms() + PATIENCE_MS;

    while (!side_has_completion(side, &completion)) {
        if (now_ms() > deadline)
            fail_msg("%s: no completion, expected %d", side->name, type);
        sched_yield();
    }
    if (completion.type != type)
        fail_msg("%s: completion %d, expected %d", side->name, completion.type, type);
    assert_ptr_equal(completion.data, side);
    return completion;
}

struct fabric_write rig_write(const struct side *from, const struct side *to, size_t offset, size_t size, size_t split,
                              uint64_t cursor)
{
    uint64_t target = fabric_memory_address(to->target);
    struct fabric_write write = {
        .memory = from->source,
        .remote_key = fabric_memory_key(to->target),
        .cursor = cursor,
        .cursor_to = target + BUFFER_SIZE - sizeof(cursor),
        .immediate = (uint32_t)cursor,
    };

    if (size) {
        write.span[write.spans].from = from->source_buffer + offset;
        write.span[write.spans].to = target + offset;
        write.span[write.spans++].size = (uint32_t)(split ? split : size);
    }
    if (split) {
        write.span[write.spans].from = from->source_buffer + offset + split;
        write.span[write.spans].to = target + offset + split;
        write.span[write.spans++].size = (uint32_t)(size - split);
    }
    return write;
}

uint64_t side_cursor(const struct side *side)
{
    return __atomic_load_n((uint64_t *)(void *)(side->buffer + BUFFER_SIZE - sizeof(uint64_t)), __ATOMIC_ACQUIRE);
}

void side_post(struct side *side, const struct fabric_write *write)
{
    int result = fabric_post_write(side->conn, write);

    while (result == -EAGAIN) {
        side_completion(side, FABRIC_ROOM);
        result = fabric_post_write(side->conn, write);
    }
    assert_int_equal(result, 0);
}
