// Addresses of TCP ends, and networks of them.
//
// IPv4 is kept in its IPv6-mapped form (::ffff:a.b.c.d), so that an IPv4 client and the dual-stack server that sees it
// as a mapped address name the same connection.
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

struct sockaddr_storage;

struct address {
    uint8_t ip[16];
    uint32_t scope; // the interface of a link-local address, otherwise 0
    uint16_t port;  // in the host's byte order
    uint16_t zero;
};
static_assert(sizeof(struct address) == 24, "hashed and compared as bytes: no padding");

struct network {
    uint8_t ip[16];
    uint32_t prefix; // 0 to 128; that of an IPv4 network counts from the mapped form, so it is 96 to 128
};

// "[0123:...:cdef%4294967295]:65535", "[...]/128" and the terminating zero.
#define ADDRESS_TEXT 80

// Returns 0 or -EAFNOSUPPORT for what is neither IPv4 nor IPv6.
int address_from_sockaddr(struct address *address, const struct sockaddr_storage *from);

// Returns the size of what it filled in. An IPv4 address becomes one of that family.
unsigned address_to_sockaddr(const struct address *address, struct sockaddr_storage *to);

bool address_equal(const struct address *a, const struct address *b);

// Whether it is an IPv4 address, which is in the last four bytes of `ip` then.
bool address_is_ipv4(const struct address *address);

bool address_is_loopback(const struct address *address);

// The same, apart from the ports.
bool address_same_ip(const struct address *a, const struct address *b);

// "127.0.0.1:80", "[::1]:80". Returns `text`.
char *address_format(const struct address *address, char text[static ADDRESS_TEXT]);

// "10.0.0.2", "10.0.0.2:4792", "fd00::2", "[fd00::2]:4792". Without a port it is `port`. Returns 0 or -EINVAL.
int address_parse(struct address *address, const char *text, uint16_t port);

// "10.0.0.0/8", "::1", "fe80::/10". Bits outside the prefix must be zero. Returns 0 or -EINVAL.
int network_parse(struct network *network, const char *text);

// "10.0.0.0/8". Returns `text`.
char *network_format(const struct network *network, char text[static ADDRESS_TEXT]);

bool network_contains(const struct network *network, const struct address *address);
