// Deny wins over allow; a port or address matches if that of either end does.

#include "agent/policy.h"

#include "agent/identity.h"

static bool list_has_port(const struct policy_list *list, uint16_t port)
{
    const struct policy_ports *ports = list->items;

    for (size_t i = 0; i < list->count; i++) {
        if (port >= ports[i].first && port <= ports[i].last)
            return true;
    }
    return list->all;
}

static bool list_has_address(const struct policy_list *list, const struct address *address)
{
    const struct network *networks = list->items;

    for (size_t i = 0; i < list->count; i++) {
        if (network_contains(&networks[i], address))
            return true;
    }
    return list->all;
}

static bool list_has_user(const struct policy_list *list, uid_t uid)
{
    const struct policy_user *users = list->items;

    for (size_t i = 0; i < list->count; i++) {
        if (users[i].uid == uid)
            return true;
    }
    return list->all;
}

static bool ports_permit(const struct policy_rule *rule, uint16_t a, uint16_t b)
{
    if (list_has_port(&rule->deny, a) || list_has_port(&rule->deny, b))
        return false;
    return list_has_port(&rule->allow, a) || list_has_port(&rule->allow, b);
}

static bool addresses_permit(const struct policy_rule *rule, const struct address *a, const struct address *b)
{
    if (list_has_address(&rule->deny, a) || list_has_address(&rule->deny, b))
        return false;
    return list_has_address(&rule->allow, a) || list_has_address(&rule->allow, b);
}

static bool users_permit(const struct policy_rule *rule, uid_t uid)
{
    return !list_has_user(&rule->deny, uid) && list_has_user(&rule->allow, uid);
}

enum wire_reason policy_check(const struct policy *policy, uid_t uid, const struct identity *identity)
{
    // Switched off is: for every user.
    if (!policy->enabled || !users_permit(&policy->users, uid))
        return WIRE_REASON_POLICY_USER;
    if (!ports_permit(&policy->ports, identity->local.port, identity->remote.port))
        return WIRE_REASON_POLICY_PORT;
    if (!addresses_permit(&policy->addresses, &identity->local, &identity->remote))
        return WIRE_REASON_POLICY_ADDRESS;
    return WIRE_REASON_NONE;
}
