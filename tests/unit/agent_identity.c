// What the kernel says of a socket, in one form for both families; and which two are ends of one connection.

#include <stdarg.h>
#include <setjmp.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/identity.h"

struct pair {
    int near; // connected
    int far;  // accepted
};

static int listen_at(int family, const struct sockaddr *address, socklen_t size, struct sockaddr_storage *bound)
{
    socklen_t length = sizeof(*bound);
    int off = 0, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    if (family == AF_INET6)
        assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)), 0);
    assert_int_equal(bind(fd, address, size), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)bound, &length), 0);
    return fd;
}

static struct pair connect_to(int listener, int family, const void *address, socklen_t size)
{
    struct pair pair = {.near = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)};

    assert_int_equal(connect(pair.near, address, size), 0);
    pair.far = accept(listener, NULL, NULL);
    assert_true(pair.far >= 0);
    close(listener);
    return pair;
}

static struct pair pair_v4(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_storage bound;
    int listener = listen_at(AF_INET, (struct sockaddr *)&any, sizeof(any), &bound);

    return connect_to(listener, AF_INET, &bound, sizeof(struct sockaddr_in));
}

static struct pair pair_v6(void)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_storage bound;
    int listener = listen_at(AF_INET6, (struct sockaddr *)&any, sizeof(any), &bound);

    return connect_to(listener, AF_INET6, &bound, sizeof(struct sockaddr_in6));
}

// An IPv4 client of a dual-stack server, which sees it as a mapped IPv6 address.
static struct pair pair_mapped(void)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_storage bound;
    int listener = listen_at(AF_INET6, (struct sockaddr *)&any, sizeof(any), &bound);
    struct sockaddr_in to = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = ((struct sockaddr_in6 *)&bound)->sin6_port,
    };

    return connect_to(listener, AF_INET, &to, sizeof(to));
}

static void check_pair(struct pair pair, const char *expected)
{
    struct identity near, far;
    char text[ADDRESS_TEXT];

    assert_int_equal(identity_read(pair.near, &near), 0);
    assert_int_equal(identity_read(pair.far, &far), 0);
    assert_true(near.connected && far.connected);
    assert_true(identity_is_peer(&near, &far) && identity_is_peer(&far, &near));
    assert_false(identity_is_peer(&near, &near));
    assert_true(identity_is_same_end(&near, &near));
    assert_false(identity_is_same_end(&near, &far));
    assert_true(near.cookie != 0 && near.cookie != far.cookie);
    assert_true(near.netns != 0 && near.netns == far.netns);
    address_format(&near.remote, text);
    assert_memory_equal(text, expected, strlen(expected));
    close(pair.near);
    close(pair.far);
}

static void test_both_ends_of_a_connection(void **state)
{
    check_pair(pair_v4(), "127.0.0.1:");
    check_pair(pair_v6(), "[::1]:");
    check_pair(pair_mapped(), "127.0.0.1:");
}

static void test_a_copy_has_the_same_identity(void **state)
{
    struct pair pair = pair_v4();
    int copy = dup(pair.near);
    struct identity one, two;

    assert_int_equal(identity_read(pair.near, &one), 0);
    assert_int_equal(identity_read(copy, &two), 0);
    assert_memory_equal(&one, &two, sizeof(one));
    close(copy);
    close(pair.near);
    close(pair.far);
}

static void test_own_namespace(void **state)
{
    struct pair pair = pair_v4();
    struct identity identity;
    uint64_t own = 0;

    assert_int_equal(identity_own_netns(&own), 0);
    assert_int_equal(identity_read(pair.near, &identity), 0);
    assert_int_equal(identity.netns, own);
    close(pair.near);
    close(pair.far);
}

static void check_refused(int fd, int expected)
{
    struct identity identity;

    assert_true(fd >= 0);
    assert_int_equal(identity_read(fd, &identity), expected);
    close(fd);
}

static void test_what_is_no_tcp_socket(void **state)
{
    int fds[2];

    check_refused(socket(AF_INET, SOCK_DGRAM, 0), -EPROTOTYPE);
    check_refused(socket(AF_UNIX, SOCK_STREAM, 0), -EPROTOTYPE);
    assert_int_equal(pipe(fds), 0);
    check_refused(fds[0], -ENOTSOCK);
    check_refused(fds[1], -ENOTSOCK);
}

static void test_what_is_not_connected(void **state)
{
    struct identity identity;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(identity_read(fd, &identity), 0);
    assert_false(identity.connected);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(identity_read(fd, &identity), 0);
    assert_false(identity.connected);
    close(fd);
}

static void check_connected(int fd, bool expected)
{
    struct identity identity;

    assert_int_equal(identity_read(fd, &identity), 0);
    assert_int_equal(identity.connected, expected);
}

static void test_half_closed_is_connected_and_closed_is_not(void **state)
{
    struct pair pair = pair_v4();

    assert_int_equal(shutdown(pair.near, SHUT_WR), 0);
    check_connected(pair.near, true);
    check_connected(pair.far, true);
    assert_int_equal(shutdown(pair.far, SHUT_WR), 0);
    check_connected(pair.near, false);
    check_connected(pair.far, false);
    close(pair.near);
    close(pair.far);
}

static struct identity made_up(const char *local, uint16_t local_port, const char *remote, uint16_t remote_port)
{
    struct identity identity = {.netns = 1, .connected = true};

    assert_int_equal(inet_pton(AF_INET6, local, identity.local.ip), 1);
    assert_int_equal(inet_pton(AF_INET6, remote, identity.remote.ip), 1);
    identity.local.port = local_port;
    identity.remote.port = remote_port;
    return identity;
}

static void test_devices_and_scopes(void **state)
{
    struct identity a = made_up("fe80::1", 1000, "fe80::2", 80), b = made_up("fe80::2", 80, "fe80::1", 1000);

    assert_true(identity_is_peer(&a, &b));
    // Bound to an interface on one side only: they may well be one connection. To two interfaces: they are not.
    a.device = 3;
    assert_true(identity_is_peer(&a, &b));
    b.device = 4;
    assert_false(identity_is_peer(&a, &b));
    b.device = 3;
    assert_true(identity_is_peer(&a, &b));
    // Numbers of interfaces mean nothing in another namespace.
    b.device = 4;
    b.netns = 2;
    assert_true(identity_is_peer(&a, &b));
    // The same link-local addresses on two links are two connections.
    a.local.scope = a.remote.scope = 7;
    assert_false(identity_is_peer(&a, &b));
    b.local.scope = b.remote.scope = 7;
    assert_true(identity_is_peer(&a, &b));
}

static void test_the_same_end(void **state)
{
    struct identity a = made_up("::1", 1000, "::1", 80), b = a;

    b.cookie = 99;
    assert_true(identity_is_same_end(&a, &b));
    b.netns = 2;
    assert_false(identity_is_same_end(&a, &b));
    b = a;
    b.device = 1;
    assert_false(identity_is_same_end(&a, &b));
    b = made_up("::1", 1000, "::1", 81);
    assert_false(identity_is_same_end(&a, &b));
}

// Addresses and networks.

static struct address address_of(const char *text)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr_in *in = (void *)&storage;
    struct sockaddr_in6 *in6 = (void *)&storage;
    struct address address;

    if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &in6->sin6_addr), 1);
        in6->sin6_family = AF_INET6;
    }
    assert_int_equal(address_from_sockaddr(&address, &storage), 0);
    return address;
}

static void test_mapped_is_v4(void **state)
{
    struct address plain = address_of("192.0.2.1"), mapped = address_of("::ffff:192.0.2.1");

    assert_true(address_equal(&plain, &mapped));
    plain.port = 1;
    assert_false(address_equal(&plain, &mapped));
}

static void test_other_families(void **state)
{
    struct sockaddr_storage storage = {.ss_family = AF_UNIX};
    struct address address;

    assert_int_equal(address_from_sockaddr(&address, &storage), -EAFNOSUPPORT);
}

static void test_formats(void **state)
{
    struct address v4 = address_of("10.1.2.3"), v6 = address_of("2001:db8::1"), local = address_of("fe80::1");
    char text[ADDRESS_TEXT];

    v4.port = v6.port = 65535;
    local.scope = 4294967295u;
    assert_string_equal(address_format(&v4, text), "10.1.2.3:65535");
    assert_string_equal(address_format(&v6, text), "[2001:db8::1]:65535");
    assert_string_equal(address_format(&local, text), "[fe80::1%4294967295]:0");
}

static void check_network(const char *network_text, const char *address_text, bool expected)
{
    struct network network;
    struct address address = address_of(address_text);

    assert_int_equal(network_parse(&network, network_text), 0);
    assert_int_equal(network_contains(&network, &address), expected);
}

static void test_networks(void **state)
{
    check_network("10.0.0.0/8", "10.255.0.1", true);
    check_network("10.0.0.0/8", "11.0.0.0", false);
    check_network("10.0.0.0/8", "::ffff:10.0.0.1", true);
    check_network("10.0.0.0/8", "::a00:1", false);
    check_network("192.0.2.128/25", "192.0.2.128", true);
    check_network("192.0.2.128/25", "192.0.2.127", false);
    check_network("192.0.2.1", "192.0.2.1", true);
    check_network("192.0.2.1", "192.0.2.0", false);
    check_network("0.0.0.0/0", "255.255.255.255", true);
    check_network("0.0.0.0/0", "::1", false);
    check_network("::/0", "::1", true);
    check_network("::/0", "10.0.0.1", true);
    check_network("fe80::/10", "febf::1", true);
    check_network("fe80::/10", "fec0::1", false);
    check_network("2001:db8::/127", "2001:db8::1", true);
    check_network("2001:db8::/127", "2001:db8::2", false);
    check_network("::1", "::1", true);
}

static void test_bad_networks(void **state)
{
    static const char *const bad[] = {"",
                                      "/",
                                      "/8",
                                      "10.0.0.0/",
                                      "10.0.0.0/33",
                                      "10.0.0.0/-1",
                                      "10.0.0.0/8/8",
                                      "10.0.0.0/8 ",
                                      "10.0.0.0/+8",
                                      "10.0.0/8",
                                      "10.0.0.1/31",
                                      "::1/127",
                                      "::/129",
                                      "fe80::1%lo",
                                      "localhost",
                                      "::g",
                                      "10.0.0.0/99999999999999999999",
                                      "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000"};
    struct network network;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(network_parse(&network, bad[i]), -EINVAL);
}

static void test_network_formats(void **state)
{
    static const char *const same[] = {"10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "::/0", "::1/128", "fe80::/10"};
    struct network network;
    char text[ADDRESS_TEXT];

    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        assert_int_equal(network_parse(&network, same[i]), 0);
        assert_string_equal(network_format(&network, text), same[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ends_of_a_connection),
        cmocka_unit_test(test_a_copy_has_the_same_identity),
        cmocka_unit_test(test_own_namespace),
        cmocka_unit_test(test_what_is_no_tcp_socket),
        cmocka_unit_test(test_what_is_not_connected),
        cmocka_unit_test(test_half_closed_is_connected_and_closed_is_not),
        cmocka_unit_test(test_devices_and_scopes),
        cmocka_unit_test(test_the_same_end),
        cmocka_unit_test(test_mapped_is_v4),
        cmocka_unit_test(test_other_families),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_bad_networks),
        cmocka_unit_test(test_network_formats),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
