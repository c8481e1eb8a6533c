// What each user may use of the agent, and what is in use.
//
// A session counts against both users of its ends, once if they are the same.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/table.h"
#include "core/wire.h"

struct limits {
    uint64_t sessions_per_user;
    uint64_t ring_memory_per_user; // bytes
    uint64_t ring_memory;          // bytes, of the whole agent
    uint64_t rate_per_session;     // bytes per second; 0 = unlimited. The library keeps to it, not the agent
    uint64_t clients_per_user;
    uint64_t offers_per_user;
};

#define USER_NAME 64

struct user {
    struct table_node node; // in users.table
    uid_t uid;
    char name[USER_NAME]; // of /etc/passwd; otherwise the number
    uint64_t clients;
    uint64_t offers; // that wait
    uint64_t sessions;
    uint64_t ring_bytes;
};

struct users {
    struct table table;
    uint64_t ring_bytes; // of all sessions
};

// Returns 0 or -ENOMEM.
int users_init(struct users *users);

void users_deinit(struct users *users);

// The user of this id, made if need be; null without memory. To be followed by counting something for it.
struct user *users_get(struct users *users, uid_t uid);

// To be called after uncounting: frees a user for which nothing is counted any more. Returns whether it did.
bool users_put(struct users *users, struct user *user);

// Whether a session of `bytes` between these two may be opened: WIRE_REASON_NONE, _LIMIT_SESSIONS or _LIMIT_MEMORY.
enum wire_reason limits_check_session(const struct limits *limits, const struct users *users, const struct user *a,
                                      const struct user *b, uint64_t bytes);

void users_count_session(struct users *users, struct user *a, struct user *b, uint64_t bytes);

// Does not free the users: see users_put.
void users_uncount_session(struct users *users, struct user *a, struct user *b, uint64_t bytes);
