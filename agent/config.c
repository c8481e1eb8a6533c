// The configuration as one table of keys, from which it is read, checked and written.

#include "agent/config.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/config_peers.h"
#include "agent/config_reader.h"
#include "agent/fd.h"
#include "agent/netns.h"
#include "core/layout.h"

// Plain values that only the agent knows.

static int read_ring_size(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    uint64_t size = 0;
    int result = config_read_size(reader, key, value, &size);

    if (result < 0)
        return result;
    if (size & (size - 1))
        return config_reader_fail(reader, value, "a power of two");
    *(uint64_t *)field = size;
    return 0;
}

static const struct config_type config_type_ring_size = {read_ring_size, config_write_count, NULL};

static int read_level(struct config_reader *reader, const struct config_key *key, json_t *value, void *field)
{
    if (!json_is_string(value) || log_level_from_name(json_string_value(value), field) < 0)
        return config_reader_fail(reader, value, "one of \"error\", \"warning\", \"info\", \"debug\"");
    return 0;
}

static json_t *write_level(const struct config_key *key, const void *field)
{
    return json_string(log_level_name(*(const enum log_level *)field));
}

static const struct config_type config_type_level = {read_level, write_level, NULL};

// Items of lists.

static bool is_port(unsigned long number)
{
    return number >= 1 && number <= UINT16_MAX;
}

static int parse_ports(const char *text, struct policy_ports *ports)
{
    unsigned first, last;
    int end = 0;

    if (sscanf(text, "%5u-%5u%n", &first, &last, &end) != 2 || text[end] || strpbrk(text, " +\t"))
        return -EINVAL;
    if (!is_port(first) || !is_port(last) || first > last)
        return -EINVAL;
    *ports = (struct policy_ports){(uint16_t)first, (uint16_t)last};
    return 0;
}

static int read_ports(struct config_reader *reader, json_t *value, void *item)
{
    struct policy_ports *ports = item;
    json_int_t number = json_integer_value(value);

    if (json_is_integer(value) && number > 0 && is_port((unsigned long)number)) {
        ports->first = ports->last = (uint16_t)number;
        return 0;
    }
    if (json_is_string(value) && parse_ports(json_string_value(value), ports) == 0)
        return 0;
    return config_reader_fail(reader, value, "a port (1 to 65535) or a range such as \"8000-8999\"");
}

static json_t *write_ports(const void *item)
{
    const struct policy_ports *ports = item;

    if (ports->first == ports->last)
        return json_integer(ports->first);
    return json_sprintf("%u-%u", ports->first, ports->last);
}

static const struct config_item port_item = {sizeof(struct policy_ports), read_ports, write_ports, NULL};

static int read_user_name(struct policy_user *user, const char *name)
{
    const struct passwd *entry;

    if (strlen(name) >= sizeof(user->name))
        return -EINVAL;
    entry = getpwnam(name);
    if (!entry)
        return -ENOENT;
    user->uid = entry->pw_uid;
    strcpy(user->name, name);
    return 0;
}

static int read_user(struct config_reader *reader, json_t *value, void *item)
{
    struct policy_user *user = item;
    json_int_t number = json_integer_value(value);

    if (json_is_integer(value) && number >= 0 && number < UINT32_MAX) {
        user->uid = (uid_t)number;
        return 0;
    }
    if (json_is_string(value) && read_user_name(user, json_string_value(value)) == 0)
        return 0;
    return config_reader_fail(reader, value, "the name of a user of this host, or a user's number");
}

static json_t *write_user(const void *item)
{
    const struct policy_user *user = item;

    return *user->name ? json_string(user->name) : json_integer(user->uid);
}

static const struct config_item user_item = {sizeof(struct policy_user), read_user, write_user, NULL};

static int read_namespace(struct config_reader *reader, json_t *value, void *item)
{
    const char *path = json_string_value(value);

    if (!path || (*path != '/' && strcmp(path, NETNS_SELF) != 0))
        return config_reader_fail(reader, value, "an absolute path such as \"/run/netns/web\", or \"self\"");
    *(char **)item = strdup(path);
    return *(char **)item ? 0 : config_reader_fail_text(reader, "no memory");
}

static json_t *write_namespace(const void *item)
{
    return json_string(*(char *const *)item);
}

static void clear_namespace(void *item)
{
    free(*(char **)item);
}

static const struct config_item namespace_item = {sizeof(char *), read_namespace, write_namespace, clear_namespace};

// The keys.

static const struct config_key port_keys[] = {
    CONFIG_KEY(policy_rule, deny, list, .item = &port_item),
    CONFIG_KEY(policy_rule, allow, optional_list, .item = &port_item),
    {0},
};

static const struct config_key address_keys[] = {
    CONFIG_KEY(policy_rule, deny, list, .item = &config_item_network),
    CONFIG_KEY(policy_rule, allow, optional_list, .item = &config_item_network),
    {0},
};

static const struct config_key user_keys[] = {
    CONFIG_KEY(policy_rule, deny, list, .item = &user_item),
    CONFIG_KEY(policy_rule, allow, optional_list, .item = &user_item),
    {0},
};

static const struct config_key upgrade_keys[] = {
    CONFIG_KEY(policy, enabled, switch),
    CONFIG_KEY(policy, after_calls, count, .most = CONFIG_NUMBER_MOST),
    CONFIG_KEY(policy, after_bytes, size, .most = CONFIG_NUMBER_MOST),
    CONFIG_KEY(policy, ports, section, .keys = port_keys),
    CONFIG_KEY(policy, addresses, section, .keys = address_keys),
    CONFIG_KEY(policy, users, section, .keys = user_keys),
    {0},
};

static const struct config_key ring_keys[] = {
    CONFIG_KEY(config_rings, bytes, ring_size, .least = RING_BYTES_MIN, .most = RING_BYTES_MAX),
    CONFIG_KEY(config_rings, pool_bytes, size, .most = CONFIG_NUMBER_MOST),
    {0},
};

static const struct config_key limit_keys[] = {
    CONFIG_KEY(limits, sessions_per_user, count, .least = 1, .most = CONFIG_NUMBER_MOST),
    CONFIG_KEY(limits, ring_memory_per_user, size, .least = 1, .most = CONFIG_NUMBER_MOST),
    CONFIG_KEY(limits, ring_memory, size, .least = 1, .most = CONFIG_NUMBER_MOST),
    CONFIG_KEY(limits, rate_per_session, size, .most = CONFIG_NUMBER_MOST),
    CONFIG_KEY(limits, clients_per_user, count, .least = 1, .most = CONFIG_NUMBER_MOST),
    CONFIG_KEY(limits, offers_per_user, count, .least = 1, .most = CONFIG_NUMBER_MOST),
    {0},
};

static const struct config_key log_keys[] = {
    CONFIG_KEY(config_log, level, level),
    {0},
};

static const struct config_key root_keys[] = {
    CONFIG_KEY(config, upgrade, section, .keys = upgrade_keys),
    CONFIG_KEY(config, rings, section, .keys = ring_keys),
    CONFIG_KEY(config, limits, section, .keys = limit_keys),
    CONFIG_KEY(config, namespaces, optional_list, .item = &namespace_item),
    CONFIG_KEY(config, peers, list, .item = &config_item_peer),
    CONFIG_KEY(config, rdma, section, .keys = config_rdma_keys),
    CONFIG_KEY(config, log, section, .keys = log_keys),
    {0},
};

static const struct config_key root = {.keys = root_keys};

// The whole.

static void allow_all(struct policy_rule *rule)
{
    rule->allow.all = true;
}

void config_init(struct config *config)
{
    *config = (struct config){
        .upgrade = {.enabled = true, .after_calls = 8, .after_bytes = 64 << 10},
        .rings = {.bytes = 256 << 10, .pool_bytes = 64 << 20},
        .limits =
            {
                .sessions_per_user = 4096,
                .ring_memory_per_user = (uint64_t)1 << 30,
                .ring_memory = (uint64_t)4 << 30,
                .rate_per_session = 0,
                .clients_per_user = 4096,
                .offers_per_user = 16384,
            },
        .namespaces = {.all = true},
        .log = {.level = LOG_LEVEL_INFO},
    };
    allow_all(&config->upgrade.ports);
    allow_all(&config->upgrade.addresses);
    allow_all(&config->upgrade.users);
    config_rdma_init(&config->rdma);
}

void config_deinit(struct config *config)
{
    config_clear_section(&root, config);
}

static FILE *open_regular(const char *path)
{
    // A FIFO or a device could keep the agent waiting.
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    FILE *file;

    if (fd < 0 || fstat(fd, &status) < 0)
        return NULL;
    if (!S_ISREG(status.st_mode)) {
        errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
        return NULL;
    }
    file = fdopen(fd, "r");
    if (file)
        fd_steal(&fd);
    return file;
}

static int load_document(const char *path, json_t **document, char error[static CONFIG_ERROR])
{
    FILE *file = open_regular(path);
    json_error_t where;

    if (!file) {
        int result = -errno;
        snprintf(error, CONFIG_ERROR, "%s: cannot be read: %s", path,
                 result == -EINVAL ? "it is not a regular file" : strerror(-result));
        return result;
    }
    *document = json_loadf(file, JSON_REJECT_DUPLICATES, &where);
    fclose(file);
    if (*document)
        return 0;
    snprintf(error, CONFIG_ERROR, "%s: line %d, column %d: expected JSON: %s", path, where.line, where.column,
             where.text);
    return -EINVAL;
}

int config_load(struct config *config, const char *path, char error[static CONFIG_ERROR])
{
    struct config_reader reader = {.file = path, .error = error};
    json_t *document = NULL;
    int result = load_document(path, &document, error);

    if (result < 0)
        return result;
    config_init(config);
    result = config_read_section(&reader, &root, document, config);
    if (result == 0)
        result = config_check_peers(&reader, config);
    json_decref(document);
    if (result < 0)
        config_deinit(config);
    return result;
}

int config_set_limits(struct limits *limits, json_t *object, char error[static CONFIG_ERROR])
{
    static const struct config_key section = {.keys = limit_keys};
    struct config_reader reader = {.file = "", .error = error, .key = "limits"};
    struct limits changed = *limits;
    int result = config_read_section(&reader, &section, object, &changed);

    if (result == 0)
        *limits = changed;
    return result;
}

json_t *config_to_json(const struct config *config)
{
    return config_write_section(&root, config);
}

static int append_difference(json_t *keys, const char *prefix, const json_t *a, const json_t *b)
{
    const char *name;
    json_t *value;
    int result = 0;

    json_object_foreach ((json_t *)a, name, value) {
        const json_t *other = json_object_get(b, name);
        char key[256];
        snprintf(key, sizeof(key), "%s%s%s", prefix, *prefix ? "." : "", name);
        if (json_is_object(value))
            result = append_difference(keys, key, value, other);
        else if (!json_equal(value, other))
            result = json_array_append_new(keys, json_string(key));
        if (result < 0)
            return result;
    }
    return 0;
}

json_t *config_difference(const struct config *a, const struct config *b)
{
    json_t *before = config_to_json(a), *after = config_to_json(b);
    json_t *keys = before && after ? json_array() : NULL;

    if (keys && append_difference(keys, "", before, after) < 0) {
        json_decref(keys);
        keys = NULL;
    }
    json_decref(before);
    json_decref(after);
    return keys;
}
