// What can be asked and ordered.

#include "agent/rpc.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "agent/agent.h"
#include "agent/rpc_report.h"

static enum rpc_error call_list(struct agent *agent, const struct rpc_caller *caller, json_t *params, json_t **result,
                                char message[static RPC_MESSAGE])
{
    *result = rpc_report_list(agent, caller);
    return RPC_OK;
}

static enum rpc_error call_stats(struct agent *agent, const struct rpc_caller *caller, json_t *params, json_t **result,
                                 char message[static RPC_MESSAGE])
{
    *result = rpc_report_stats(agent, caller);
    return RPC_OK;
}

static enum rpc_error call_peers(struct agent *agent, const struct rpc_caller *caller, json_t *params, json_t **result,
                                 char message[static RPC_MESSAGE])
{
    *result = rpc_report_peers(agent);
    return RPC_OK;
}

// Has the links made that are not up: of one peer, or of all.
static enum rpc_error call_peers_connect(struct agent *agent, const struct rpc_caller *caller, json_t *params,
                                         json_t **result, char message[static RPC_MESSAGE])
{
    const char *name = NULL;
    struct link *link;

    if (json_unpack(params, "{s?s !}", "name", &name) < 0) {
        snprintf(message, RPC_MESSAGE, "expected nothing, or \"name\", a peer's name");
        return RPC_PARAMS;
    }
    link = name ? links_find_named(&agent->links, name) : links_next(&agent->links, NULL);
    if (name && !link) {
        snprintf(message, RPC_MESSAGE, "there is no peer \"%.*s\" in the configuration", LINK_HOST, name);
        return RPC_PARAMS;
    }
    for (; link; link = name ? NULL : links_next(&agent->links, link))
        link_want(link);
    *result = rpc_report_peers(agent);
    return RPC_OK;
}

static enum rpc_error call_status(struct agent *agent, const struct rpc_caller *caller, json_t *params, json_t **result,
                                  char message[static RPC_MESSAGE])
{
    *result = rpc_report_status(agent);
    return RPC_OK;
}

static enum rpc_error call_limit_get(struct agent *agent, const struct rpc_caller *caller, json_t *params,
                                     json_t **result, char message[static RPC_MESSAGE])
{
    *result = rpc_report_limits(agent);
    return RPC_OK;
}

static enum rpc_error call_limit_set(struct agent *agent, const struct rpc_caller *caller, json_t *params,
                                     json_t **result, char message[static RPC_MESSAGE])
{
    struct limits limits = agent->config.limits;

    if (config_set_limits(&limits, params, message) < 0)
        return RPC_PARAMS;
    agent_set_limits(agent, &limits);
    *result = rpc_report_limits(agent);
    return RPC_OK;
}

static enum rpc_error call_reload(struct agent *agent, const struct rpc_caller *caller, json_t *params, json_t **result,
                                  char message[static RPC_MESSAGE])
{
    json_t *changed = NULL;

    if (agent_reload(agent, &changed, message) < 0)
        return RPC_CONFIG;
    *result = json_pack("{s:s?, s:o}", "config", agent->config_path, "changed", changed ? changed : json_array());
    return RPC_OK;
}

// {"id": ID} or {"all": true}. With "resend": true as if the ends could not reach each other's memory any more.
static enum rpc_error call_fallback(struct agent *agent, const struct rpc_caller *caller, json_t *params,
                                    json_t **result, char message[static RPC_MESSAGE])
{
    const json_t *id = json_object_get(params, "id"), *all = json_object_get(params, "all");
    const json_t *resend = json_object_get(params, "resend");
    uint32_t how = json_is_true(resend) ? LEAVE_RESEND : LEAVE_DRAIN;
    json_int_t count = 0;

    if (json_object_size(params) != (resend ? 2 : 1) || (resend && !json_is_boolean(resend)) ||
        (!json_is_integer(id) && !json_is_true(all))) {
        snprintf(message, RPC_MESSAGE, "expected \"id\", the number of a session, or \"all\": true");
        return RPC_PARAMS;
    }
    list_for_each (link, &agent->sessions.all) {
        struct session *session = container_of(link, struct session, link);
        if (id && session->id != (uint64_t)json_integer_value(id))
            continue;
        session_recall(session, how);
        count++;
    }
    if (id && !count) {
        snprintf(message, RPC_MESSAGE, "there is no session %" JSON_INTEGER_FORMAT " (see rdmactl list)",
                 json_integer_value(id));
        return RPC_PARAMS;
    }
    *result = json_pack("{s:I}", "recalled", count);
    return RPC_OK;
}

const struct rpc_method rpc_methods[] = {
    {.name = "list", .call = call_list},
    {.name = "stats", .call = call_stats},
    {.name = "peers", .call = call_peers},
    {.name = "peers.connect", .changes = true, .has_params = true, .call = call_peers_connect},
    {.name = "status", .call = call_status},
    {.name = "limit.get", .call = call_limit_get},
    {.name = "limit.set", .changes = true, .has_params = true, .call = call_limit_set},
    {.name = "fallback", .changes = true, .has_params = true, .call = call_fallback},
    {.name = "reload", .changes = true, .call = call_reload},
    {0},
};
