// The configuration: a JSON file whose every mistake is named, applied wholly or not at all.
#pragma once

#include <stdint.h>

#include "agent/limits.h"
#include "agent/link_wire.h"
#include "agent/policy.h"
#include "core/log.h"

#define CONFIG_FILE "/etc/rdma-agent/agent.json"

// Long enough for a path, a key, what was expected and what was found.
#define CONFIG_ERROR 2048

struct json_t;

struct config_rings {
    uint64_t bytes; // of each direction; a power of two
    uint64_t pool_bytes;
};

struct config_log {
    enum log_level level;
};

struct config_rdma {
    struct policy_list listen;  // of struct address, port 0 for `port`; empty: any address
    uint64_t port;              // of this host
    uint64_t registered_memory; // bytes, at the most, that other hosts may write
    char name[LINK_HOST];       // that this host has for its peers; empty: the host's own
};

// Named as in the file.
struct config {
    struct policy upgrade;
    struct config_rings rings;
    struct limits limits;
    struct policy_list namespaces; // of char *; `all` stands for "only its own"
    struct policy_list peers;      // of struct peer
    struct config_rdma rdma;
    struct config_log log;
};

// What holds without a file.
void config_init(struct config *config);

void config_deinit(struct config *config);

// Reads a file into `config`, which is then the caller's to deinit. On failure `config` holds nothing, and `error` the
// file, the key, what was expected and what was found. Returns 0 or -errno.
int config_load(struct config *config, const char *path, char error[static CONFIG_ERROR]);

// The name that this host has for its peers.
void config_rdma_host(const struct config_rdma *rdma, char name[static LINK_HOST]);

// Sets limits from an object such as the configuration's "limits", all or none. Returns 0 or -EINVAL with `error`.
int config_set_limits(struct limits *limits, struct json_t *object, char error[static CONFIG_ERROR]);

// The whole configuration as JSON, as a file could state it. Null without memory; the caller's reference.
struct json_t *config_to_json(const struct config *config);

// The keys ("upgrade.after_calls") in which two configurations differ, as a JSON array. Null without memory; the
// caller's reference.
struct json_t *config_difference(const struct config *a, const struct config *b);
