// JSON-RPC 2.0: one request, one answer. Who may ask what is decided here; what the answers are, by rpc_methods.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "agent/config.h"

struct agent;
struct json_t;

enum rpc_error {
    RPC_OK = 0,
    RPC_PARSE = -32700,
    RPC_REQUEST = -32600,
    RPC_METHOD = -32601,
    RPC_PARAMS = -32602,
    RPC_INTERNAL = -32603,
    RPC_DENIED = -32001,
    RPC_CONFIG = -32002, // the configuration on disk cannot be used
};

struct rpc_caller {
    uid_t uid;
    bool trusted; // root, or the agent's own user: sees and may do everything
};

// Long enough for any message of the configuration's.
#define RPC_MESSAGE CONFIG_ERROR

struct rpc_method {
    const char *name;
    bool changes; // only for the trusted
    bool has_params;
    // Returns RPC_OK and *result, the caller's reference, or an error and its message. `params` is an object.
    enum rpc_error (*call)(struct agent *agent, const struct rpc_caller *caller, struct json_t *params,
                           struct json_t **result, char message[static RPC_MESSAGE]);
};

// The methods, ending with a null name.
extern const struct rpc_method rpc_methods[];

// The answer to one line, with its newline; to be freed. Null if none is due (a notification), or without memory.
char *rpc_answer(struct agent *agent, uid_t uid, const char *line, size_t size);

// The answer to a line without end.
char *rpc_answer_overlong(void);
