// Accounts of users.

#include "agent/limits.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/list.h"

int users_init(struct users *users)
{
    users->ring_bytes = 0;
    return table_init(&users->table);
}

void users_deinit(struct users *users)
{
    table_deinit(&users->table);
}

// Only the local file is asked: a directory service may take its time to answer, and the agent has none.
static void find_name(struct user *user)
{
    FILE *file = fopen("/etc/passwd", "re");
    struct passwd *entry;

    snprintf(user->name, sizeof(user->name), "%u", user->uid);
    if (!file)
        return;
    while ((entry = fgetpwent(file))) {
        if (entry->pw_uid == user->uid) {
            snprintf(user->name, sizeof(user->name), "%s", entry->pw_name);
            break;
        }
    }
    fclose(file);
}

static struct user *users_find(struct users *users, uid_t uid, uint64_t hash)
{
    for (struct table_node *node = table_first(&users->table, hash); node; node = table_next(node)) {
        struct user *user = container_of(node, struct user, node);
        if (user->uid == uid)
            return user;
    }
    return NULL;
}

struct user *users_get(struct users *users, uid_t uid)
{
    uint64_t hash = table_hash(&uid, sizeof(uid));
    struct user *user = users_find(users, uid, hash);

    if (user)
        return user;
    user = calloc(1, sizeof(*user));
    if (!user)
        return NULL;
    user->uid = uid;
    find_name(user);
    table_add(&users->table, &user->node, hash);
    return user;
}

bool users_put(struct users *users, struct user *user)
{
    if (user->clients || user->offers || user->sessions)
        return false;
    table_remove(&users->table, &user->node);
    free(user);
    return true;
}

static enum wire_reason check_user(const struct limits *limits, const struct user *user, uint64_t bytes)
{
    if (user->sessions >= limits->sessions_per_user)
        return WIRE_REASON_LIMIT_SESSIONS;
    // The first addend may exceed the limit, if that was lowered since.
    if (user->ring_bytes > limits->ring_memory_per_user || bytes > limits->ring_memory_per_user - user->ring_bytes)
        return WIRE_REASON_LIMIT_MEMORY;
    return WIRE_REASON_NONE;
}

enum wire_reason limits_check_session(const struct limits *limits, const struct users *users, const struct user *a,
                                      const struct user *b, uint64_t bytes)
{
    enum wire_reason reason = check_user(limits, a, bytes);

    if (reason == WIRE_REASON_NONE)
        reason = check_user(limits, b, bytes);
    if (reason == WIRE_REASON_NONE &&
        (users->ring_bytes > limits->ring_memory || bytes > limits->ring_memory - users->ring_bytes))
        reason = WIRE_REASON_LIMIT_MEMORY;
    return reason;
}

void users_count_session(struct users *users, struct user *a, struct user *b, uint64_t bytes)
{
    users->ring_bytes += bytes;
    a->sessions++;
    a->ring_bytes += bytes;
    if (a == b)
        return;
    b->sessions++;
    b->ring_bytes += bytes;
}

void users_uncount_session(struct users *users, struct user *a, struct user *b, uint64_t bytes)
{
    users->ring_bytes -= bytes;
    a->sessions--;
    a->ring_bytes -= bytes;
    if (a == b)
        return;
    b->sessions--;
    b->ring_bytes -= bytes;
}
