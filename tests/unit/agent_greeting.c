// The greeting: who has the key is believed, in both directions, and nobody else.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "agent/greeting.h"

static const uint8_t key[SECRET_KEY] = {1, 2, 3}, other_key[SECRET_KEY] = {1, 2, 4};

static char error[GREETING_ERROR];

// Two hosts that have said hello to each other.
static void meet(struct greeting *near, struct greeting *far)
{
    greeting_init(near, true, "db1");
    greeting_init(far, false, "db2");
    assert_int_equal(greeting_hear(far, greeting_hello(near), error), 0);
    assert_int_equal(greeting_hear(near, greeting_hello(far), error), 0);
}

static struct link_message proof_of(const struct greeting *greeting, const uint8_t with[static SECRET_KEY])
{
    struct link_message proof;

    greeting_prove(greeting, with, &proof);
    assert_int_equal(proof.type, LINK_PROOF_MESSAGE);
    return proof;
}

static void test_both_prove_themselves(void **state)
{
    struct greeting near, far;
    struct link_message near_proof, far_proof;

    meet(&near, &far);
    near_proof = proof_of(&near, key), far_proof = proof_of(&far, key);
    assert_true(greeting_verify(&far, key, &near_proof));
    assert_true(greeting_verify(&near, key, &far_proof));
    assert_string_equal(greeting_other(&near)->hello.host, "db2");
    assert_string_equal(greeting_other(&far)->hello.host, "db1");
}

static void test_exactly_one_is_the_major(void **state)
{
    unsigned majors = 0;

    for (int i = 0; i < 100; i++) {
        struct greeting near, far;
        meet(&near, &far);
        assert_true(greeting_is_major(&near) != greeting_is_major(&far));
        majors += greeting_is_major(&near);
    }
    // Chance decides, not who connected.
    assert_true(majors > 0 && majors < 100);
}

static void test_another_key_proves_nothing(void **state)
{
    struct greeting near, far;
    struct link_message proof;

    meet(&near, &far);
    proof = proof_of(&near, other_key);
    assert_false(greeting_verify(&far, key, &proof));
    proof = proof_of(&near, key);
    assert_false(greeting_verify(&far, other_key, &proof));
}

static void test_every_bit_of_a_proof_counts(void **state)
{
    struct greeting near, far;

    meet(&near, &far);
    for (unsigned bit = 0; bit < LINK_PROOF * 8; bit++) {
        struct link_message proof = proof_of(&near, key);
        proof.proof.proof[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_false(greeting_verify(&far, key, &proof));
    }
}

static void test_a_reflected_proof_fails(void **state)
{
    struct greeting near, far;
    struct link_message proof;

    meet(&near, &far);
    proof = proof_of(&near, key);
    assert_false(greeting_verify(&near, key, &proof));
    proof = proof_of(&far, key);
    assert_false(greeting_verify(&far, key, &proof));
}

static void test_a_replayed_proof_fails(void **state)
{
    struct greeting near, far, again;
    struct link_message hello, proof;

    meet(&near, &far);
    hello = *greeting_hello(&near), proof = proof_of(&near, key);
    // The same words to a new connection.
    greeting_init(&again, false, "db2");
    assert_int_equal(greeting_hear(&again, &hello, error), 0);
    assert_false(greeting_verify(&again, key, &proof));
}

// Connects the other way round, with what the first connection was told.
static void test_a_proof_for_the_other_role_fails(void **state)
{
    struct greeting near, far, turned;
    struct link_message proof;

    meet(&near, &far);
    turned = (struct greeting){.ours = false, .heard = true, .hello = {near.hello[1], near.hello[0]}};
    proof = proof_of(&turned, key);
    assert_false(greeting_verify(&far, key, &proof));
}

static void test_what_was_said_cannot_be_changed(void **state)
{
    struct greeting near, far;
    struct link_message proof;

    meet(&near, &far);
    proof = proof_of(&near, key);
    far.hello[0].hello.host[0] ^= 1;
    assert_false(greeting_verify(&far, key, &proof));
    meet(&near, &far);
    proof = proof_of(&near, key);
    far.hello[0].hello.features ^= 1;
    assert_false(greeting_verify(&far, key, &proof));
    meet(&near, &far);
    proof = proof_of(&near, key);
    far.hello[1].hello.version ^= 2;
    assert_false(greeting_verify(&far, key, &proof));
}

static void test_our_own_hello_is_no_answer(void **state)
{
    struct greeting near;
    struct link_message hello;

    greeting_init(&near, true, "db1");
    hello = *greeting_hello(&near);
    assert_int_equal(greeting_hear(&near, &hello, error), -EPROTO);
    assert_string_equal(error, "it sent our own hello back");
}

static void test_a_second_hello_is_out_of_turn(void **state)
{
    struct greeting near, far;

    meet(&near, &far);
    assert_int_equal(greeting_hear(&far, greeting_hello(&near), error), -EPROTO);
}

static void expect_mismatch(uint32_t version, uint32_t features, const char *expected)
{
    struct greeting near, far;
    struct link_message hello;

    greeting_init(&near, true, "db1");
    greeting_init(&far, false, "db2");
    hello = *greeting_hello(&near);
    hello.hello.version = version;
    hello.hello.features = features;
    assert_int_equal(greeting_hear(&far, &hello, error), -EPROTO);
    assert_non_null(strstr(error, expected));
    assert_false(far.heard);
}

static void test_mismatches_are_explained(void **state)
{
    char later[120];

    snprintf(later, sizeof(later), "it speaks version %u of the link protocol, and this agent version %u: this %s",
             LINK_VERSION + 1u, LINK_VERSION + 0u, "agent needs an update");
    expect_mismatch(LINK_VERSION + 1, 0, later);
    expect_mismatch(0, 0, "its agent needs an update");
    expect_mismatch(LINK_VERSION, 0x80, "it wants features 0x80 of the link protocol, of which this agent knows 0x0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_prove_themselves),
        cmocka_unit_test(test_exactly_one_is_the_major),
        cmocka_unit_test(test_another_key_proves_nothing),
        cmocka_unit_test(test_every_bit_of_a_proof_counts),
        cmocka_unit_test(test_a_reflected_proof_fails),
        cmocka_unit_test(test_a_replayed_proof_fails),
        cmocka_unit_test(test_a_proof_for_the_other_role_fails),
        cmocka_unit_test(test_what_was_said_cannot_be_changed),
        cmocka_unit_test(test_our_own_hello_is_no_answer),
        cmocka_unit_test(test_a_second_hello_is_out_of_turn),
        cmocka_unit_test(test_mismatches_are_explained),
    };

    return secret_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
