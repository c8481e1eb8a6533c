// Rules and accounts: which connection may have a ring, and whether there is one to have.

#include <stdarg.h>
#include <setjmp.h>
#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "agent/identity.h"
#include "agent/limits.h"
#include "agent/policy.h"

// Rules, as lists that the test owns.

#define LIST(...) \
    { \
        .count = sizeof((__VA_ARGS__)) / sizeof((__VA_ARGS__)[0]), .items = (__VA_ARGS__) \
    }

static struct network net(const char *text)
{
    struct network network;

    assert_int_equal(network_parse(&network, text), 0);
    return network;
}

static struct policy open_policy(void)
{
    return (struct policy){
        .enabled = true,
        .ports.allow.all = true,
        .addresses.allow.all = true,
        .users.allow.all = true,
    };
}

// 192.0.2.1:40000 to 198.51.100.1:5432
static struct identity connection(void)
{
    struct identity identity = {.connected = true, .local.port = 40000, .remote.port = 5432};

    assert_int_equal(inet_pton(AF_INET6, "::ffff:192.0.2.1", identity.local.ip), 1);
    assert_int_equal(inet_pton(AF_INET6, "::ffff:198.51.100.1", identity.remote.ip), 1);
    return identity;
}

static enum wire_reason judge(const struct policy *policy)
{
    struct identity identity = connection(), reversed = identity;
    enum wire_reason reason = policy_check(policy, 1000, &identity);

    // It must not matter which end asks.
    reversed.local = identity.remote;
    reversed.remote = identity.local;
    assert_int_equal(policy_check(policy, 1000, &reversed), reason);
    return reason;
}

static void test_open(void **state)
{
    struct policy policy = open_policy();

    assert_int_equal(judge(&policy), WIRE_REASON_NONE);
    policy.enabled = false;
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_USER);
}

static void test_ports(void **state)
{
    struct policy_ports server[] = {{5432, 5432}}, below[] = {{1, 5431}, {5433, 39999}, {40001, 65535}};
    struct policy_ports up_to[] = {{5000, 5432}}, from[] = {{40000, 50000}};
    struct policy policy = open_policy();

    policy.ports.deny = (struct policy_list)LIST(server);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_PORT);
    policy.ports.deny = (struct policy_list)LIST(up_to);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_PORT);
    policy.ports.deny = (struct policy_list)LIST(from);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_PORT);
    policy.ports.deny = (struct policy_list)LIST(below);
    assert_int_equal(judge(&policy), WIRE_REASON_NONE);
    policy.ports.allow = (struct policy_list)LIST(server);
    assert_int_equal(judge(&policy), WIRE_REASON_NONE);
    policy.ports.allow = (struct policy_list)LIST(below);
    policy.ports.deny = (struct policy_list){0};
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_PORT);
    policy.ports.allow = (struct policy_list){0};
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_PORT);
}

static void test_deny_wins(void **state)
{
    struct policy_ports server[] = {{5432, 5432}};
    struct network here[] = {net("192.0.2.0/24")};
    struct policy_user us[] = {{.uid = 1000}};
    struct policy policy = open_policy();

    policy.ports.deny = policy.ports.allow = (struct policy_list)LIST(server);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_PORT);
    policy = open_policy();
    policy.addresses.deny = policy.addresses.allow = (struct policy_list)LIST(here);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_ADDRESS);
    policy = open_policy();
    policy.users.deny = policy.users.allow = (struct policy_list)LIST(us);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_USER);
}

static void test_addresses(void **state)
{
    struct network here[] = {net("10.0.0.0/8"), net("192.0.2.0/24")}, there[] = {net("198.51.100.1")};
    struct network elsewhere[] = {net("fd00::/8"), net("203.0.113.0/24")};
    struct policy policy = open_policy();

    policy.addresses.deny = (struct policy_list)LIST(here);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_ADDRESS);
    policy.addresses.deny = (struct policy_list)LIST(elsewhere);
    assert_int_equal(judge(&policy), WIRE_REASON_NONE);
    policy.addresses.allow = (struct policy_list)LIST(there);
    assert_int_equal(judge(&policy), WIRE_REASON_NONE);
    policy.addresses.deny = (struct policy_list){0};
    policy.addresses.allow = (struct policy_list)LIST(elsewhere);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_ADDRESS);
}

static void test_users(void **state)
{
    struct policy_user us[] = {{.uid = 5}, {.uid = 1000}}, others[] = {{.uid = 0}, {.uid = 1001}};
    struct policy policy = open_policy();

    policy.users.deny = (struct policy_list)LIST(us);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_USER);
    policy.users.deny = (struct policy_list)LIST(others);
    assert_int_equal(judge(&policy), WIRE_REASON_NONE);
    policy.users.allow = (struct policy_list)LIST(us);
    assert_int_equal(judge(&policy), WIRE_REASON_NONE);
    policy.users.allow = (struct policy_list)LIST(others);
    assert_int_equal(judge(&policy), WIRE_REASON_POLICY_USER);
}

// Accounts.

static const struct limits limits = {
    .sessions_per_user = 3,
    .ring_memory_per_user = 1000,
    .ring_memory = 1500,
};

static struct users users;

static int setup(void **state)
{
    return users_init(&users);
}

static int teardown(void **state)
{
    assert_int_equal(users.table.count, 0);
    assert_int_equal(users.ring_bytes, 0);
    users_deinit(&users);
    return 0;
}

static void open_sessions(struct user *a, struct user *b, unsigned count, uint64_t bytes)
{
    while (count--)
        users_count_session(&users, a, b, bytes);
}

static void close_sessions(struct user *a, struct user *b, unsigned count, uint64_t bytes)
{
    while (count--)
        users_uncount_session(&users, a, b, bytes);
}

static void test_users_are_found_again(void **state)
{
    struct user *root = users_get(&users, 0), *nobody = users_get(&users, 65534),
                *none = users_get(&users, 4000000000u);

    assert_ptr_equal(users_get(&users, 0), root);
    assert_string_equal(root->name, "root");
    assert_string_equal(nobody->name, "nobody");
    assert_string_equal(none->name, "4000000000");
    root->clients = 1;
    assert_false(users_put(&users, root));
    root->clients = 0;
    assert_true(users_put(&users, root));
    assert_true(users_put(&users, nobody));
    assert_true(users_put(&users, none));
}

static void test_sessions(void **state)
{
    struct user *a = users_get(&users, 1), *b = users_get(&users, 2);

    open_sessions(a, a, 2, 10);
    assert_int_equal(a->sessions, 2);
    assert_int_equal(a->ring_bytes, 20);
    assert_int_equal(limits_check_session(&limits, &users, a, b, 10), WIRE_REASON_NONE);
    open_sessions(a, b, 1, 10);
    assert_int_equal(users.ring_bytes, 30);
    assert_int_equal(b->sessions, 1);
    // Either user's account counts.
    assert_int_equal(limits_check_session(&limits, &users, a, b, 10), WIRE_REASON_LIMIT_SESSIONS);
    assert_int_equal(limits_check_session(&limits, &users, b, a, 10), WIRE_REASON_LIMIT_SESSIONS);
    assert_int_equal(limits_check_session(&limits, &users, b, b, 10), WIRE_REASON_NONE);
    close_sessions(a, a, 2, 10);
    assert_false(users_put(&users, a));
    close_sessions(a, b, 1, 10);
    assert_true(users_put(&users, a));
    assert_true(users_put(&users, b));
}

static void test_memory(void **state)
{
    struct user *a = users_get(&users, 1), *b = users_get(&users, 2);

    assert_int_equal(limits_check_session(&limits, &users, a, a, 1000), WIRE_REASON_NONE);
    assert_int_equal(limits_check_session(&limits, &users, a, a, 1001), WIRE_REASON_LIMIT_MEMORY);
    open_sessions(a, a, 1, 600);
    assert_int_equal(limits_check_session(&limits, &users, a, a, 400), WIRE_REASON_NONE);
    assert_int_equal(limits_check_session(&limits, &users, a, a, 401), WIRE_REASON_LIMIT_MEMORY);
    assert_int_equal(limits_check_session(&limits, &users, b, a, 401), WIRE_REASON_LIMIT_MEMORY);
    // The whole agent's.
    assert_int_equal(limits_check_session(&limits, &users, b, b, 900), WIRE_REASON_NONE);
    assert_int_equal(limits_check_session(&limits, &users, b, b, 901), WIRE_REASON_LIMIT_MEMORY);
    assert_int_equal(limits_check_session(&limits, &users, b, b, UINT64_MAX), WIRE_REASON_LIMIT_MEMORY);
    close_sessions(a, a, 1, 600);
    assert_true(users_put(&users, a));
    assert_true(users_put(&users, b));
}

static void test_limits_below_what_is_used(void **state)
{
    const struct limits low = {.sessions_per_user = 100, .ring_memory_per_user = 5, .ring_memory = 5};
    const struct limits low_in_all = {.sessions_per_user = 100, .ring_memory_per_user = 5000, .ring_memory = 5};
    struct user *a = users_get(&users, 1);

    open_sessions(a, a, 1, 600);
    assert_int_equal(limits_check_session(&low, &users, a, a, 1), WIRE_REASON_LIMIT_MEMORY);
    assert_int_equal(limits_check_session(&low_in_all, &users, a, a, 1), WIRE_REASON_LIMIT_MEMORY);
    close_sessions(a, a, 1, 600);
    assert_true(users_put(&users, a));
}

static void test_many_users(void **state)
{
    struct user *all[1000];

    for (uid_t uid = 0; uid < 1000; uid++) {
        all[uid] = users_get(&users, uid);
        all[uid]->clients = 1;
    }
    for (uid_t uid = 0; uid < 1000; uid++) {
        assert_ptr_equal(users_get(&users, uid), all[uid]);
        assert_int_equal(all[uid]->uid, uid);
    }
    for (uid_t uid = 0; uid < 1000; uid++) {
        all[uid]->clients = 0;
        assert_true(users_put(&users, all[uid]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_ports),
        cmocka_unit_test(test_deny_wins),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_users),
        cmocka_unit_test_setup_teardown(test_users_are_found_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sessions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits_below_what_is_used, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_users, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
