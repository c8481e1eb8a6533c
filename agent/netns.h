// The network namespaces whose connections this agent serves.
//
// A local user can build a namespace with any address in it, so a connection from elsewhere proves nothing: only the
// agent's own namespace is served, unless the configuration names others. Two of those that it names may also meet each
// other, as the two ends of a veth pair do; who names both thereby says that their addresses do not overlap.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NETNS_SELF  "self"
#define NETNS_ERROR 512

struct netns_list {
    bool named; // by the configuration
    size_t count;
    uint64_t *cookies;
};

// Finds out the namespaces at `paths` (or NETNS_SELF). With `paths` null only the agent's own is served. On failure
// returns -errno and says why in `error`. Opening others than its own takes CAP_SYS_ADMIN.
int netns_list_init(struct netns_list *list, const char *const *paths, size_t count, char error[static NETNS_ERROR]);

void netns_list_deinit(struct netns_list *list);

bool netns_is_served(const struct netns_list *list, uint64_t cookie);

// Whether connections may have one end in one of these and the other end in the other. Both are served.
bool netns_may_meet(const struct netns_list *list, uint64_t a, uint64_t b);
