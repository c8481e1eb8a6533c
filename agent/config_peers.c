// The configuration of what concerns other hosts.

#include "agent/config_peers.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/address.h"
#include "agent/peer.h"

// Names of hosts.

static int read_name(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    const char *name = json_string_value(value);

    if (!name || json_string_length(value) != strlen(name) || !link_name_is_right(name))
        return config_reader_fail(reader, value, "a host's name of 1 to %d visible ASCII characters", LINK_HOST - 1);
    memset(field, 0, LINK_HOST);
    strcpy(field, name);
    return 0;
}

static json_t *write_name(const struct config_key *key, const void *field)
{
    return json_string(field);
}

static const struct config_type config_type_name = {read_name, write_name, NULL};

// Null stands for the name that the host has anyway.
static int read_own_name(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    if (!json_is_null(value))
        return read_name(reader, key, value, field);
    memset(field, 0, LINK_HOST);
    return 0;
}

static json_t *write_own_name(const struct config_key *key, const void *field)
{
    return *(const char *)field ? json_string(field) : json_null();
}

static const struct config_type config_type_own_name = {read_own_name, write_own_name, NULL};

// Addresses. That of a peer has a port, that to listen at need not.

static int fail_address(struct config_reader *reader, json_t *value)
{
    return config_reader_fail(reader, value,
                              "an address such as \"10.0.0.2\", \"10.0.0.2:4792\" or \"[fd00::2]:4792\"");
}

static json_t *write_plain_address(const struct address *address)
{
    // A host's network of one address is written as the address with its prefix.
    const struct network alone = {.prefix = 128};
    struct network network = alone;
    char text[ADDRESS_TEXT];

    if (address->port)
        return json_string(address_format(address, text));
    memcpy(network.ip, address->ip, sizeof(network.ip));
    network_format(&network, text);
    *strchrnul(text, '/') = '\0';
    return json_string(text);
}

static int read_address(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    if (json_is_string(value) && address_parse(field, json_string_value(value), LINK_PORT) == 0)
        return 0;
    return fail_address(reader, value);
}

static json_t *write_address(const struct config_key *key, const void *field)
{
    return write_plain_address(field);
}

static const struct config_type config_type_address = {read_address, write_address, NULL};

static int read_listen(struct config_reader *reader, json_t *value, void *item)
{
    if (json_is_string(value) && address_parse(item, json_string_value(value), 0) == 0)
        return 0;
    return fail_address(reader, value);
}

static json_t *write_listen(const void *item)
{
    return write_plain_address(item);
}

static const struct config_item listen_item = {sizeof(struct address), read_listen, write_listen, NULL};

// Paths.

static int read_path(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    const char *path = json_string_value(value);

    if (!path || *path != '/')
        return config_reader_fail(reader, value, "an absolute path such as \"/etc/rdma-agent/db2.key\"");
    free(*(char **)field);
    *(char **)field = strdup(path);
    return *(char **)field ? 0 : config_reader_fail_text(reader, "no memory");
}

static json_t *write_path(const struct config_key *key, const void *field)
{
    return json_string(*(char *const *)field);
}

static void clear_path(const struct config_key *key, void *field)
{
    free(*(char **)field);
    *(char **)field = NULL;
}

static const struct config_type config_type_path = {read_path, write_path, clear_path};

// A peer.

static const struct config_key peer_keys[] = {
    CONFIG_KEY(peer, name, name),
    CONFIG_KEY(peer, address, address),
    CONFIG_KEY(peer, networks, list, .item = &config_item_network),
    CONFIG_KEY(peer, key_file, path),
    {0},
};

static const struct config_key peer_section = {.keys = peer_keys};

static int check_required(struct config_reader *reader, json_t *value)
{
    static const char *const required[] = {"name", "address", "key_file"};

    for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++) {
        if (!json_object_get(value, required[i]))
            return config_reader_fail(reader, value,
                                      "a peer with \"name\", \"address\" and \"key_file\", one without "
                                      "\"%s\"",
                                      required[i]);
    }
    return 0;
}

// Its own address, if nothing else is said.
static int default_networks(struct config_reader *reader, struct peer *peer)
{
    struct network *network = calloc(1, sizeof(*network));

    if (!network)
        return config_reader_fail_text(reader, "no memory");
    memcpy(network->ip, peer->address.ip, sizeof(network->ip));
    network->prefix = 128;
    peer->networks = (struct policy_list){.count = 1, .items = network};
    return 0;
}

static int read_key(struct config_reader *reader, struct peer *peer)
{
    char error[PEER_ERROR];
    size_t up = config_reader_descend(reader, ".key_file");

    if (peer_read_key(peer, error) < 0)
        return config_reader_fail_text(reader, error);
    config_reader_ascend(reader, up);
    return 0;
}

static void clear_peer(void *item)
{
    peer_clear(item);
}

static int read_peer(struct config_reader *reader, json_t *value, void *item)
{
    struct peer *peer = item;
    int result = config_read_section(reader, &peer_section, value, peer);

    if (result == 0)
        result = check_required(reader, value);
    if (result == 0 && peer->networks.count == 0)
        result = default_networks(reader, peer);
    if (result == 0)
        result = read_key(reader, peer);
    if (result < 0)
        peer_clear(peer);
    return result;
}

static json_t *write_peer(const void *item)
{
    return config_write_section(&peer_section, item);
}

const struct config_item config_item_peer = {sizeof(struct peer), read_peer, write_peer, clear_peer};

static int fail_twice(struct config_reader *reader, size_t index, const char *key, size_t other)
{
    config_reader_descend(reader, "peers[%zu].%s", index, key);
    return config_reader_fail(reader, json_null(), "another %s than that of peers[%zu]", key, other);
}

int config_check_peers(struct config_reader *reader, const struct config *config)
{
    const struct peer *peers = config->peers.items;
    char own[LINK_HOST];

    config_rdma_host(&config->rdma, own);
    for (size_t i = 0; i < config->peers.count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (strcmp(peers[i].name, peers[j].name) == 0)
                return fail_twice(reader, i, "name", j);
            if (address_equal(&peers[i].address, &peers[j].address))
                return fail_twice(reader, i, "address", j);
        }
        if (strcmp(peers[i].name, own) == 0) {
            config_reader_descend(reader, "peers[%zu].name", i);
            return config_reader_fail_text(reader, "expected another name than this host's own (which \"rdma\": "
                                                   "{\"name\": ...} can change)");
        }
    }
    return 0;
}

// "rdma".

const struct config_key config_rdma_keys[] = {
    CONFIG_KEY(config_rdma, listen, list, .item = &listen_item),
    CONFIG_KEY(config_rdma, port, count, .least = 1, .most = UINT16_MAX),
    CONFIG_KEY(config_rdma, registered_memory, size, .least = 1, .most = CONFIG_NUMBER_MOST),
    CONFIG_KEY(config_rdma, name, own_name),
    {0},
};

void config_rdma_init(struct config_rdma *rdma)
{
    *rdma = (struct config_rdma){.port = LINK_PORT, .registered_memory = (uint64_t)1 << 30};
}

void config_rdma_host(const struct config_rdma *rdma, char name[static LINK_HOST])
{
    memcpy(name, rdma->name, LINK_HOST);
    if (*name)
        return;
    if (gethostname(name, LINK_HOST - 1) < 0 || !link_name_is_right(name))
        strcpy(name, "localhost");
}
