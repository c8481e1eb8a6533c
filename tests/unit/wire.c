// Messages: what is taken, and that nothing else is.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "core/layout.h"
#include "core/wire.h"

static const enum wire_type types[] = {
    WIRE_HELLO, WIRE_OFFER, WIRE_WITHDRAW, WIRE_DECLINE, WIRE_COUNT,
    WIRE_LEFT,  WIRE_KEEP,  WIRE_WELCOME,  WIRE_ATTACH,  WIRE_REFUSED,
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

// A message of this type that is right in every field.
static void make_sound(union wire_message *message, enum wire_type type)
{
    wire_begin(message, type);
    if (type == WIRE_ATTACH) {
        message->attach.ring_bytes = RING_BYTES_MIN;
        message->attach.transport = TRANSPORT_SHM;
    }
}

static int check(const union wire_message *message)
{
    return wire_check(message, message->head.size, wire_fds(message->head.type));
}

static void test_begin_fills_the_head_and_clears_the_rest(void **state)
{
    for (size_t i = 0; i < COUNT(types); i++) {
        union wire_message message, expected;

        memset(&message, 0xa5, sizeof(message));
        memset(&expected, 0, sizeof(expected));
        expected.head.type = (uint16_t)types[i];
        expected.head.size = (uint16_t)wire_size(types[i]);
        wire_begin(&message, types[i]);
        assert_memory_equal(&message, &expected, sizeof(message));
    }
}

static void test_every_type_passes_when_it_is_sound(void **state)
{
    for (size_t i = 0; i < COUNT(types); i++) {
        union wire_message message;

        make_sound(&message, types[i]);
        assert_int_equal(check(&message), 0);
    }
}

static void test_no_other_type_passes(void **state)
{
    for (unsigned type = 0; type <= UINT16_MAX; type++) {
        union wire_message message;
        bool known = false;

        for (size_t i = 0; i < COUNT(types); i++)
            known |= type == types[i];
        if (known)
            continue;
        assert_int_equal(wire_size(type), 0);
        assert_int_equal(wire_fds(type), 0);
        memset(&message, 0, sizeof(message));
        message.head.type = (uint16_t)type;
        assert_int_equal(wire_check(&message, 0, 0), -EPROTO);
        message.head.size = sizeof(message.head);
        assert_int_equal(check(&message), -EPROTO);
    }
}

static void test_size_must_be_exact(void **state)
{
    for (size_t i = 0; i < COUNT(types); i++) {
        union wire_message message;
        size_t size = wire_size(types[i]);
        unsigned fds = wire_fds(types[i]);

        make_sound(&message, types[i]);
        for (size_t received = 0; received <= sizeof(message) + 8; received++)
            assert_int_equal(wire_check(&message, received, fds), received == size ? 0 : -EPROTO);

        // A head that tells the truth about a wrong size, and one that does not about a right one.
        message.head.size = (uint16_t)(size - 1);
        assert_int_equal(wire_check(&message, size - 1, fds), -EPROTO);
        assert_int_equal(wire_check(&message, size, fds), -EPROTO);
    }
}

static void test_descriptors_must_be_as_many_as_the_type_says(void **state)
{
    for (size_t i = 0; i < COUNT(types); i++) {
        union wire_message message;
        unsigned expected = wire_fds(types[i]);

        assert_true(expected <= WIRE_FDS_MAX);
        make_sound(&message, types[i]);
        for (unsigned fds = 0; fds <= WIRE_FDS_MAX + 1; fds++)
            assert_int_equal(wire_check(&message, message.head.size, fds), fds == expected ? 0 : -EPROTO);
    }
    assert_int_equal(wire_fds(WIRE_OFFER), 1);
    assert_int_equal(wire_fds(WIRE_WELCOME), 1);
    assert_int_equal(wire_fds(WIRE_ATTACH), 5);
}

// Any 32-bit word of a sound message that must be zero and is not.
static void test_zero_means_zero(void **state)
{
    static const struct {
        enum wire_type type;
        size_t offset;
    } places[] = {
        {WIRE_HELLO, offsetof(struct wire_hello, head.zero)},  {WIRE_COUNT, offsetof(struct wire_count, head.zero)},
        {WIRE_OFFER, offsetof(struct wire_offer, head.zero)},  {WIRE_OFFER, offsetof(struct wire_offer, zero)},
        {WIRE_WITHDRAW, offsetof(struct wire_withdraw, zero)}, {WIRE_DECLINE, offsetof(struct wire_decline, zero)},
        {WIRE_WELCOME, offsetof(struct wire_welcome, zero)},   {WIRE_ATTACH, offsetof(struct wire_attach, head.zero)},
        {WIRE_REFUSED, offsetof(struct wire_refused, zero)},
    };

    for (size_t i = 0; i < COUNT(places); i++) {
        for (unsigned bit = 0; bit < 32; bit++) {
            union wire_message message;

            make_sound(&message, places[i].type);
            ((unsigned char *)&message)[places[i].offset + bit / 8] = (unsigned char)(1u << bit % 8);
            assert_int_equal(check(&message), -EPROTO);
        }
    }
}

static void test_offer_flags(void **state)
{
    union wire_message message;

    make_sound(&message, WIRE_OFFER);
    message.offer.token = UINT64_MAX;
    message.offer.flags = WIRE_OFFER_ADOPT;
    assert_int_equal(check(&message), 0);
    message.offer.flags = WIRE_OFFER_SHARED << 1;
    assert_int_equal(check(&message), -EPROTO);
}

static void check_reason_of(enum wire_type type, size_t offset)
{
    union wire_message message;
    const uint32_t bad[] = {WIRE_REASON_COUNT, WIRE_REASON_COUNT + 1, 1u << 31, UINT32_MAX};

    make_sound(&message, type);
    for (uint32_t reason = 0; reason < WIRE_REASON_COUNT; reason++) {
        memcpy((char *)&message + offset, &reason, sizeof(reason));
        assert_int_equal(check(&message), 0);
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        memcpy((char *)&message + offset, &bad[i], sizeof(bad[i]));
        assert_int_equal(check(&message), -EPROTO);
    }
}

static void test_reasons_are_in_range(void **state)
{
    check_reason_of(WIRE_WITHDRAW, offsetof(struct wire_withdraw, reason));
    check_reason_of(WIRE_DECLINE, offsetof(struct wire_decline, reason));
    check_reason_of(WIRE_REFUSED, offsetof(struct wire_refused, reason));
}

static void test_welcome_slot_is_on_the_board(void **state)
{
    union wire_message message;

    make_sound(&message, WIRE_WELCOME);
    message.welcome.slot = BOARD_SLOTS - 1;
    assert_int_equal(check(&message), 0);
    message.welcome.slot = BOARD_SLOTS;
    assert_int_equal(check(&message), -EPROTO);
    message.welcome.slot = UINT32_MAX;
    assert_int_equal(check(&message), -EPROTO);
}

static int check_attach(uint64_t ring_bytes, uint32_t side, uint32_t transport)
{
    union wire_message message;

    wire_begin(&message, WIRE_ATTACH);
    message.attach.ring_bytes = ring_bytes;
    message.attach.side = side;
    message.attach.transport = transport;
    return check(&message);
}

static void test_attach_geometry(void **state)
{
    for (unsigned shift = 0; shift < 64; shift++) {
        uint64_t bytes = 1ULL << shift;
        bool allowed = bytes >= RING_BYTES_MIN && bytes <= RING_BYTES_MAX;

        assert_int_equal(check_attach(bytes, 0, TRANSPORT_SHM), allowed ? 0 : -EPROTO);
        assert_int_equal(check_attach(bytes + 1, 0, TRANSPORT_SHM), -EPROTO);
        assert_int_equal(check_attach(bytes - 1, 0, TRANSPORT_SHM), -EPROTO);
    }
    assert_int_equal(check_attach(0, 0, TRANSPORT_SHM), -EPROTO);
    assert_int_equal(check_attach(RING_BYTES_MIN + RING_BYTES_MIN / 2, 0, TRANSPORT_SHM), -EPROTO);
}

static void test_attach_side_and_transport(void **state)
{
    assert_int_equal(check_attach(RING_BYTES_MIN, 1, TRANSPORT_SHM), 0);
    assert_int_equal(check_attach(RING_BYTES_MIN, 2, TRANSPORT_SHM), -EPROTO);
    assert_int_equal(check_attach(RING_BYTES_MIN, 0, TRANSPORT_RDMA), 0);
    assert_int_equal(check_attach(RING_BYTES_MIN, 0, TRANSPORT_TCP), -EPROTO);
    assert_int_equal(check_attach(RING_BYTES_MIN, 0, TRANSPORT_RDMA + 1), -EPROTO);
}

static void test_reasons_have_names_of_their_own(void **state)
{
    for (unsigned i = 0; i < WIRE_REASON_COUNT; i++) {
        assert_non_null(wire_reason_name(i));
        assert_string_not_equal(wire_reason_name(i), "unknown");
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(wire_reason_name(i), wire_reason_name(j));
    }
    assert_string_equal(wire_reason_name(WIRE_REASON_POLICY_PORT), "policy_port");
    assert_string_equal(wire_reason_name(WIRE_REASON_PROTOCOL), "protocol");
    assert_string_equal(wire_reason_name(WIRE_REASON_COUNT), "unknown");
    assert_string_equal(wire_reason_name(UINT32_MAX), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin_fills_the_head_and_clears_the_rest),
        cmocka_unit_test(test_every_type_passes_when_it_is_sound),
        cmocka_unit_test(test_no_other_type_passes),
        cmocka_unit_test(test_size_must_be_exact),
        cmocka_unit_test(test_descriptors_must_be_as_many_as_the_type_says),
        cmocka_unit_test(test_zero_means_zero),
        cmocka_unit_test(test_offer_flags),
        cmocka_unit_test(test_reasons_are_in_range),
        cmocka_unit_test(test_welcome_slot_is_on_the_board),
        cmocka_unit_test(test_attach_geometry),
        cmocka_unit_test(test_attach_side_and_transport),
        cmocka_unit_test(test_reasons_have_names_of_their_own),
    };
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
