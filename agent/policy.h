// Which connections may be moved to a ring: the operator's rules, as the configuration states them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/address.h"
#include "core/wire.h"

struct identity;

#define POLICY_USER_NAME 64

struct policy_ports {
    uint16_t first;
    uint16_t last;
};

struct policy_user {
    uid_t uid;
    char name[POLICY_USER_NAME]; // as it was written; empty if it was a number
};

// A list from the configuration. `all` stands for the absent list that excludes nothing.
struct policy_list {
    bool all;
    size_t count;
    void *items;
};

struct policy_rule {
    struct policy_list deny;
    struct policy_list allow;
};

struct policy {
    bool enabled;
    uint64_t after_calls;
    uint64_t after_bytes;
    struct policy_rule ports;     // of struct policy_ports
    struct policy_rule addresses; // of struct network
    struct policy_rule users;     // of struct policy_user
};

// Why this user's connection must stay TCP, or WIRE_REASON_NONE. The identity must be that of a connection.
enum wire_reason policy_check(const struct policy *policy, uid_t uid, const struct identity *identity);
