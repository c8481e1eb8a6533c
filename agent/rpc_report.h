// What the agent knows, as JSON. All return a new reference, or null without memory.
#pragma once

struct agent;
struct json_t;
struct rpc_caller;

// One row for each session end on this host and for each offer that waits; the caller's own, unless it is trusted.
struct json_t *rpc_report_list(const struct agent *agent, const struct rpc_caller *caller);

struct json_t *rpc_report_stats(const struct agent *agent, const struct rpc_caller *caller);

// Peers, and the links with them.
struct json_t *rpc_report_peers(const struct agent *agent);

struct json_t *rpc_report_status(const struct agent *agent);

struct json_t *rpc_report_limits(const struct agent *agent);
