// Messages between agents: what is written is read back, and nothing is taken that is not right in every field.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "agent/fabric.h"
#include "agent/link_wire.h"
#include "core/layout.h"
#include "core/wire.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct {
    uint16_t type;
    size_t size;
} types[] = {
    {LINK_HELLO, 112},   {LINK_PROOF_MESSAGE, 40}, {LINK_PING, 16},   {LINK_PONG, 16},    {LINK_OFFER, 72},
    {LINK_WITHDRAW, 16}, {LINK_OPEN, 64},          {LINK_OPENED, 40}, {LINK_REFUSE, 16},  {LINK_WATCHING, 24},
    {LINK_SWITCHED, 24}, {LINK_FINISHED, 24},      {LINK_UNREAD, 24}, {LINK_STARVED, 24}, {LINK_ENDED, 24},
    {LINK_OVER, 24},     {LINK_SETTLED, 24},       {LINK_LEAVE, 24},  {LINK_ARRIVED, 24}, {LINK_DECLINE, 24},
};

// A message of this type that is right in every field.
static struct link_message make_right(uint16_t type)
{
    struct link_message message = {.type = type};
    const struct link_place place = {.address = 0x7f0011223000, .key = 0x89abcdef, .ring_bytes = RING_BYTES_MIN};
    const struct address address = {.ip = {[10] = 0xff, 0xff, 10, 0, 0, 1}, .port = 5432};

    switch (type) {
    case LINK_HELLO:
        message.hello.version = 1;
        strcpy(message.hello.host, "db1.example");
        memset(message.hello.nonce, 0x5a, LINK_NONCE);
        break;
    case LINK_OFFER:
        message.offer.offer = 0x123456789abcdef0;
        message.offer.local = message.offer.remote = address;
        message.offer.ring_bytes = RING_BYTES_MAX;
        break;
    case LINK_OPEN:
        message.open.place = place;
        message.open.session = 0x01020304;
        break;
    case LINK_OPENED:
        message.opened.place = place;
        message.opened.yours = 7;
        message.opened.mine = 8;
        break;
    case LINK_DECLINE:
        message.decline.offer = 3;
        message.decline.reason = WIRE_REASON_LIMIT_MEMORY;
        break;
    case LINK_REFUSE:
        message.refuse.reason = WIRE_REASON_NONE + 1;
        break;
    case LINK_SWITCHED:
    case LINK_FINISHED:
        message.session.value = 0xfedcba9876543210;
        break;
    default:
        break;
    }
    return message;
}

// Writes and reads a message. Returns what the reader says.
static int pass_on(const struct link_message *message, struct link_message *read)
{
    uint8_t bytes[FABRIC_MESSAGE_MAX];
    size_t size = link_message_encode(message, bytes);

    return link_message_decode(read, bytes, size);
}

static int verdict(const struct link_message *message)
{
    struct link_message read;

    return pass_on(message, &read);
}

static void test_every_type_is_read_as_it_was_written(void **state)
{
    for (size_t i = 0; i < COUNT(types); i++) {
        struct link_message message = make_right(types[i].type), read;
        assert_int_equal(pass_on(&message, &read), 0);
        assert_memory_equal(&read, &message, sizeof(message));
    }
}

static void test_sizes_are_a_promise(void **state)
{
    uint8_t bytes[FABRIC_MESSAGE_MAX];

    for (size_t i = 0; i < COUNT(types); i++) {
        struct link_message message = make_right(types[i].type);
        assert_int_equal(link_message_encode(&message, bytes), types[i].size);
    }
}

static void test_numbers_go_with_the_greater_bytes_first(void **state)
{
    static const uint8_t expected[] = {0, LINK_REFUSE, 0, 16, 0, 0, 0, 0, 0x01, 0x02, 0x03, 0x04, 0, 0, 0, 2};
    struct link_message message = {.type = LINK_REFUSE, .refuse = {.session = 0x01020304, .reason = 2}};
    uint8_t bytes[FABRIC_MESSAGE_MAX];

    assert_int_equal(link_message_encode(&message, bytes), sizeof(expected));
    assert_memory_equal(bytes, expected, sizeof(expected));
}

// In memory of exactly its size, so that a sanitizer sees a reader that goes beyond it.
static int read_exactly(const uint8_t *bytes, size_t size)
{
    uint8_t *exact = malloc(size ? size : 1);
    struct link_message message;
    int result;

    memcpy(exact, bytes, size);
    result = link_message_decode(&message, exact, size);
    free(exact);
    return result;
}

static void test_no_other_size_is_read(void **state)
{
    uint8_t bytes[FABRIC_MESSAGE_MAX] = {0};

    for (size_t i = 0; i < COUNT(types); i++) {
        struct link_message message = make_right(types[i].type);
        link_message_encode(&message, bytes);
        for (size_t size = 0; size <= sizeof(bytes); size++) {
            assert_int_equal(read_exactly(bytes, size), size == types[i].size ? 0 : -EPROTO);
            // Nor if the message itself says so.
            bytes[2] = (uint8_t)(size >> 8);
            bytes[3] = (uint8_t)size;
            assert_int_equal(read_exactly(bytes, size), size == types[i].size ? 0 : -EPROTO);
            bytes[2] = (uint8_t)(types[i].size >> 8);
            bytes[3] = (uint8_t)types[i].size;
        }
    }
}

static bool is_type(unsigned type)
{
    for (size_t i = 0; i < COUNT(types); i++) {
        if (types[i].type == type)
            return true;
    }
    return false;
}

static void test_no_other_type_is_read(void **state)
{
    uint8_t bytes[FABRIC_MESSAGE_MAX] = {0};

    for (unsigned type = 0; type <= UINT16_MAX; type++) {
        for (size_t i = 0; i < COUNT(types) && !is_type(type); i++) {
            bytes[0] = (uint8_t)(type >> 8);
            bytes[1] = (uint8_t)type;
            bytes[3] = (uint8_t)types[i].size;
            assert_int_equal(read_exactly(bytes, types[i].size), -EPROTO);
        }
    }
}

static void test_what_must_be_zero_is_zero(void **state)
{
    struct link_message message;
    uint8_t bytes[FABRIC_MESSAGE_MAX];

    for (size_t byte = 4; byte < 8; byte++) {
        message = make_right(LINK_PING);
        link_message_encode(&message, bytes);
        bytes[byte] = 1;
        assert_int_equal(read_exactly(bytes, 16), -EPROTO);
    }
    message = make_right(LINK_OPEN), message.open.zero = 1;
    assert_int_equal(verdict(&message), -EPROTO);
    message = make_right(LINK_OPEN), message.open.place.zero = 1;
    assert_int_equal(verdict(&message), -EPROTO);
    message = make_right(LINK_OFFER), message.offer.local.zero = 1;
    assert_int_equal(verdict(&message), -EPROTO);
    message = make_right(LINK_OFFER), message.offer.remote.zero = 1;
    assert_int_equal(verdict(&message), -EPROTO);
    for (uint16_t type = LINK_WATCHING; type <= LINK_OVER; type++) {
        message = make_right(type), message.session.zero = 1;
        assert_int_equal(verdict(&message), -EPROTO);
    }
}

static int hello_named(const char *name, size_t size)
{
    struct link_message message = make_right(LINK_HELLO);

    memset(message.hello.host, 0, sizeof(message.hello.host));
    memcpy(message.hello.host, name, size);
    return verdict(&message);
}

static void test_names(void **state)
{
    char name[LINK_HOST];

    assert_int_equal(hello_named("a", 1), 0);
    assert_int_equal(hello_named("", 0), -EPROTO);
    assert_int_equal(hello_named("a b", 3), -EPROTO);
    assert_int_equal(hello_named("a\nb", 3), -EPROTO);
    assert_int_equal(hello_named("a\x7f", 2), -EPROTO);
    assert_int_equal(hello_named("a\xc3\xa4", 3), -EPROTO);
    assert_int_equal(hello_named("a\0b", 3), -EPROTO);
    memset(name, 'n', sizeof(name));
    assert_int_equal(hello_named(name, LINK_HOST - 1), 0);
    assert_int_equal(hello_named(name, LINK_HOST), -EPROTO);
}

static void test_versions(void **state)
{
    struct link_message message = make_right(LINK_HELLO);

    // Another version, and features that we do not know, are for the greeting to judge.
    message.hello.version = UINT32_MAX, message.hello.features = UINT32_MAX;
    assert_int_equal(verdict(&message), 0);
    message.hello.version = 0;
    assert_int_equal(verdict(&message), -EPROTO);
}

static void test_addresses(void **state)
{
    struct link_message message = make_right(LINK_OFFER);

    message.offer.local.port = 0;
    assert_int_equal(verdict(&message), -EPROTO);
    message = make_right(LINK_OFFER), message.offer.remote.port = 0;
    assert_int_equal(verdict(&message), -EPROTO);
    message = make_right(LINK_OFFER), message.offer.remote.scope = 2;
    assert_int_equal(verdict(&message), -EPROTO);
    message.offer.remote.ip[0] = 0xfe, message.offer.remote.ip[1] = 0x80;
    assert_int_equal(verdict(&message), 0);
}

static int opened_with(uint64_t address, uint64_t ring_bytes)
{
    struct link_message message = make_right(LINK_OPENED);

    message.opened.place.address = address;
    message.opened.place.ring_bytes = ring_bytes;
    return verdict(&message);
}

static void test_places(void **state)
{
    uint64_t last = UINT64_MAX - session_bytes(RING_BYTES_MIN);

    assert_int_equal(opened_with(0, RING_BYTES_MIN), 0);
    assert_int_equal(opened_with(0x1000, RING_BYTES_MAX), 0);
    assert_int_equal(opened_with(0x1000, RING_BYTES_MIN / 2), -EPROTO);
    assert_int_equal(opened_with(0x1000, (uint64_t)RING_BYTES_MAX * 2), -EPROTO);
    assert_int_equal(opened_with(0x1000, RING_BYTES_MIN + 1), -EPROTO);
    assert_int_equal(opened_with(0x1000, 0), -EPROTO);
    assert_int_equal(opened_with(0x1004, RING_BYTES_MIN), -EPROTO);
    assert_int_equal(opened_with(last / 8 * 8, RING_BYTES_MIN), 0);
    assert_int_equal(opened_with(last / 8 * 8 + 8, RING_BYTES_MIN), -EPROTO);
}

static void test_reasons(void **state)
{
    struct link_message message = make_right(LINK_REFUSE);

    for (uint32_t reason = 0; reason < 100; reason++) {
        message.refuse.reason = reason;
        assert_int_equal(verdict(&message), reason < WIRE_REASON_COUNT ? 0 : -EPROTO);
    }
    message.refuse.reason = UINT32_MAX;
    assert_int_equal(verdict(&message), -EPROTO);
}

static void test_values_only_where_they_mean_something(void **state)
{
    static const uint16_t bare[] = {LINK_WATCHING, LINK_UNREAD, LINK_STARVED, LINK_ENDED,
                                    LINK_SETTLED,  LINK_LEAVE,  LINK_OVER,    LINK_ARRIVED};
    struct link_message message;

    for (size_t i = 0; i < COUNT(bare); i++) {
        message = make_right(bare[i]), message.session.value = 1;
        assert_int_equal(verdict(&message), -EPROTO);
    }
    message = make_right(LINK_SWITCHED), message.session.value = SWITCH_NOT_YET;
    assert_int_equal(verdict(&message), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_is_read_as_it_was_written),
        cmocka_unit_test(test_sizes_are_a_promise),
        cmocka_unit_test(test_numbers_go_with_the_greater_bytes_first),
        cmocka_unit_test(test_no_other_size_is_read),
        cmocka_unit_test(test_no_other_type_is_read),
        cmocka_unit_test(test_what_must_be_zero_is_zero),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_values_only_where_they_mean_something),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
