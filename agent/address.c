// Addresses in one form for both families.

#include "agent/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MAPPED_BITS 96

static const uint8_t mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};

static bool is_mapped(const uint8_t ip[16])
{
    return memcmp(ip, mapped_prefix, sizeof(mapped_prefix)) == 0;
}

static void map(uint8_t ip[16], const void *ipv4)
{
    memcpy(ip, mapped_prefix, sizeof(mapped_prefix));
    memcpy(ip + sizeof(mapped_prefix), ipv4, 4);
}

int address_from_sockaddr(struct address *address, const struct sockaddr_storage *from)
{
    const struct sockaddr_in *in = (const void *)from;
    const struct sockaddr_in6 *in6 = (const void *)from;

    memset(address, 0, sizeof(*address));
    switch (from->ss_family) {
    case AF_INET:
        map(address->ip, &in->sin_addr);
        address->port = ntohs(in->sin_port);
        return 0;
    case AF_INET6:
        memcpy(address->ip, &in6->sin6_addr, sizeof(address->ip));
        address->port = ntohs(in6->sin6_port);
        address->scope = IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr) ? in6->sin6_scope_id : 0;
        return 0;
    default:
        return -EAFNOSUPPORT;
    }
}

unsigned address_to_sockaddr(const struct address *address, struct sockaddr_storage *to)
{
    struct sockaddr_in *in = (void *)to;
    struct sockaddr_in6 *in6 = (void *)to;

    memset(to, 0, sizeof(*to));
    if (is_mapped(address->ip)) {
        in->sin_family = AF_INET;
        in->sin_port = htons(address->port);
        memcpy(&in->sin_addr, address->ip + sizeof(mapped_prefix), sizeof(in->sin_addr));
        return sizeof(*in);
    }
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(address->port);
    in6->sin6_scope_id = address->scope;
    memcpy(&in6->sin6_addr, address->ip, sizeof(in6->sin6_addr));
    return sizeof(*in6);
}

bool address_equal(const struct address *a, const struct address *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

bool address_is_ipv4(const struct address *address)
{
    return is_mapped(address->ip);
}

bool address_is_loopback(const struct address *address)
{
    static const uint8_t ipv6[16] = {[15] = 1};

    return is_mapped(address->ip) ? address->ip[12] == 127 : memcmp(address->ip, ipv6, sizeof(ipv6)) == 0;
}

bool address_same_ip(const struct address *a, const struct address *b)
{
    return memcmp(a->ip, b->ip, sizeof(a->ip)) == 0 && a->scope == b->scope;
}

static const char *ip_format(const uint8_t ip[16], char text[static INET6_ADDRSTRLEN])
{
    if (is_mapped(ip))
        return inet_ntop(AF_INET, ip + sizeof(mapped_prefix), text, INET6_ADDRSTRLEN);
    return inet_ntop(AF_INET6, ip, text, INET6_ADDRSTRLEN);
}

char *address_format(const struct address *address, char text[static ADDRESS_TEXT])
{
    char ip[INET6_ADDRSTRLEN];

    ip_format(address->ip, ip);
    if (is_mapped(address->ip))
        snprintf(text, ADDRESS_TEXT, "%s:%u", ip, address->port);
    else if (address->scope)
        snprintf(text, ADDRESS_TEXT, "[%s%%%u]:%u", ip, address->scope, address->port);
    else
        snprintf(text, ADDRESS_TEXT, "[%s]:%u", ip, address->port);
    return text;
}

// Splits "IP", "IP:port", "[IP]:port" into the address and what stands behind the colon, if there is one.
static int split_port(const char *text, char ip[static INET6_ADDRSTRLEN], const char **port)
{
    const char *begin = text, *end, *colon = strchr(text, ':');

    *port = NULL;
    if (*text == '[') {
        begin = text + 1;
        end = strchrnul(begin, ']');
        if (*end && end[1] == ':')
            *port = end + 2;
        else if (!*end || end[1])
            return -EINVAL;
    } else if (colon && !strchr(colon + 1, ':')) {
        end = colon;
        *port = colon + 1;
    } else {
        end = strchr(text, '\0');
    }
    if (end - begin >= INET6_ADDRSTRLEN)
        return -EINVAL;
    memcpy(ip, begin, (size_t)(end - begin));
    ip[end - begin] = '\0';
    return 0;
}

static int parse_port(const char *text, uint16_t *port)
{
    unsigned long value;
    char *end;

    if (*text < '0' || *text > '9')
        return -EINVAL;
    value = strtoul(text, &end, 10);
    if (*end || value < 1 || value > UINT16_MAX)
        return -EINVAL;
    *port = (uint16_t)value;
    return 0;
}

int address_parse(struct address *address, const char *text, uint16_t port)
{
    char ip[INET6_ADDRSTRLEN];
    const char *port_text;
    uint8_t ipv4[4];

    if (split_port(text, ip, &port_text) < 0)
        return -EINVAL;
    memset(address, 0, sizeof(*address));
    address->port = port;
    if (port_text && parse_port(port_text, &address->port) < 0)
        return -EINVAL;
    if (inet_pton(AF_INET, ip, ipv4) == 1) {
        map(address->ip, ipv4);
        return 0;
    }
    return inet_pton(AF_INET6, ip, address->ip) == 1 ? 0 : -EINVAL;
}

// Bytes as one number would be masked: whether all bits from `prefix` on are zero.
static bool tail_is_zero(const uint8_t ip[16], uint32_t prefix)
{
    for (uint32_t bit = prefix; bit < 128; bit++) {
        if (ip[bit / 8] & (0x80u >> bit % 8))
            return false;
    }
    return true;
}

static int parse_prefix(const char *text, uint32_t most, uint32_t *prefix)
{
    char *end;
    unsigned long value;

    if (*text < '0' || *text > '9')
        return -EINVAL;
    value = strtoul(text, &end, 10);
    if (*end || value > most)
        return -EINVAL;
    *prefix = (uint32_t)value;
    return 0;
}

int network_parse(struct network *network, const char *text)
{
    char ip[INET6_ADDRSTRLEN];
    uint8_t ipv4[4];
    uint32_t prefix, most;
    const char *slash = strchrnul(text, '/');

    if ((size_t)(slash - text) >= sizeof(ip))
        return -EINVAL;
    memcpy(ip, text, (size_t)(slash - text));
    ip[slash - text] = '\0';
    if (inet_pton(AF_INET, ip, ipv4) == 1) {
        map(network->ip, ipv4);
        most = 32;
    } else if (inet_pton(AF_INET6, ip, network->ip) == 1) {
        most = 128;
    } else {
        return -EINVAL;
    }
    prefix = most;
    if (*slash && parse_prefix(slash + 1, most, &prefix) < 0)
        return -EINVAL;
    network->prefix = most == 32 ? MAPPED_BITS + prefix : prefix;
    return tail_is_zero(network->ip, network->prefix) ? 0 : -EINVAL;
}

char *network_format(const struct network *network, char text[static ADDRESS_TEXT])
{
    char ip[INET6_ADDRSTRLEN];
    bool ipv4 = is_mapped(network->ip) && network->prefix >= MAPPED_BITS;

    ip_format(network->ip, ip);
    snprintf(text, ADDRESS_TEXT, "%s/%u", ip, ipv4 ? network->prefix - MAPPED_BITS : network->prefix);
    return text;
}

bool network_contains(const struct network *network, const struct address *address)
{
    uint32_t whole = network->prefix / 8, rest = network->prefix % 8;

    if (memcmp(network->ip, address->ip, whole) != 0)
        return false;
    return rest == 0 || ((network->ip[whole] ^ address->ip[whole]) >> (8 - rest)) == 0;
}
