// One question to the agent: JSON-RPC 2.0 over its control socket, one object per line, one connection per question.
#pragma once

#include <jansson.h>
#include <sys/socket.h>

// How long rdmactl is ready to wait for the agent.
#define RPC_LIMIT_MS 5000

enum rpc_outcome {
    RPC_OK = 0,
    RPC_NO_AGENT, // nobody listens there
    RPC_SAID_NO,  // the agent answered with an error
    RPC_FAILED,   // no answer in time, or one that makes no sense
    RPC_STOPPED,  // ctl_stop was raised
};

struct rpc_answer {
    json_t *result;     // RPC_OK: the caller's
    struct ucred agent; // who listens; pid 0 if nobody does
    char error[1024];   // otherwise: one line for people
    const char *cure;   // static; NULL where the error says it all
};

// Asks the agent of `runtime_dir`. Takes over `params` (NULL: none). On RPC_OK, answer->result is any JSON value.
// The whole of it, from connecting to the end of the answer, takes no longer than `limit_ms`.
enum rpc_outcome rpc_call(const char *runtime_dir, const char *method, json_t *params, int limit_ms,
                          struct rpc_answer *answer);
