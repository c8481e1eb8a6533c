// The client of the control socket. Everything that comes from it is checked: the directory may be somebody else's.
#include "ctl/rpc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "core/wire.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#define RPC_ANSWER_MAX (128u << 20)
#define RPC_ID         1

struct rpc {
    int sock;
    struct sockaddr_un address;
    int limit_ms;
    int64_t deadline; // CLOCK_MONOTONIC, microseconds
    char *line;       // what has been received so far
    size_t size;
    size_t room;
    struct rpc_answer *answer;
};

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

__attribute__((format(printf, 3, 4))) static enum rpc_outcome complain(struct rpc *rpc, enum rpc_outcome outcome,
                                                                       const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rpc->answer->error, sizeof(rpc->answer->error), format, arguments);
    va_end(arguments);
    return outcome;
}

static enum rpc_outcome no_agent(struct rpc *rpc, int error)
{
    rpc->answer->cure = "start one with rdma-agent, or name the directory of one that runs with --runtime-dir or "
                        "RDMA_AGENT_DIR";
    return complain(rpc, RPC_NO_AGENT, "no agent answers on %s (%s)", rpc->address.sun_path, strerror(error));
}

static enum rpc_outcome too_late(struct rpc *rpc)
{
    rpc->answer->cure = "see whether it is stopped or overloaded";
    return complain(rpc, RPC_FAILED, "the agent on %s did not answer within %g s", rpc->address.sun_path,
                    rpc->limit_ms / 1000.0);
}

static enum rpc_outcome io_failed(struct rpc *rpc, const char *what, int error)
{
    switch (error) {
    case EAGAIN:
    case EINPROGRESS:
        return too_late(rpc);
    case EINTR:
        return complain(rpc, RPC_STOPPED, "interrupted");
    case EPIPE:
    case ECONNRESET:
        return complain(rpc, RPC_FAILED, "the agent on %s closed the connection without an answer",
                        rpc->address.sun_path);
    default:
        return complain(rpc, RPC_FAILED, "%s %s: %s", what, rpc->address.sun_path, strerror(error));
    }
}

static enum rpc_outcome connect_failed(struct rpc *rpc, int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
        return no_agent(rpc, error);
    case EACCES:
    case EPERM:
        rpc->answer->cure = "let this user pass the directory (mode 0755) and write to the socket (mode 0666)";
        return complain(rpc, RPC_FAILED, "may not connect to %s: %s", rpc->address.sun_path, strerror(error));
    default:
        return io_failed(rpc, "cannot connect to", error);
    }
}

// A stopped and continued process gets EINTR from a socket with a time limit, with no handler at all: only a raised
// ctl_stop means it.
static bool try_again(int error)
{
    return error == EINTR && !ctl_stop;
}

// The kernel's limit is for one call; this makes it one for all of them together.
static int limit_time(struct rpc *rpc, int option)
{
    int64_t left = rpc->deadline - now_us();
    if (left <= 0)
        return -EAGAIN;
    struct timeval limit = {.tv_sec = left / 1000000, .tv_usec = left % 1000000};
    if (setsockopt(rpc->sock, SOL_SOCKET, option, &limit, sizeof(limit)) < 0)
        return -errno;
    return 0;
}

static int set_address(struct rpc *rpc, const char *runtime_dir)
{
    rpc->address.sun_family = AF_UNIX;
    int size = snprintf(rpc->address.sun_path, sizeof(rpc->address.sun_path), "%s/%s", runtime_dir, WIRE_CONTROL);
    return size >= (int)sizeof(rpc->address.sun_path) ? -ENAMETOOLONG : 0;
}

static int connect_socket(struct rpc *rpc)
{
    rpc->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (rpc->sock < 0)
        return -errno;
    int error;
    do {
        error = limit_time(rpc, SO_SNDTIMEO);
        if (error == 0 && connect(rpc->sock, (struct sockaddr *)&rpc->address, sizeof(rpc->address)) < 0)
            error = -errno;
    } while (try_again(-error));
    return error;
}

static enum rpc_outcome rpc_connect(struct rpc *rpc, const char *runtime_dir)
{
    if (set_address(rpc, runtime_dir) < 0)
        return complain(rpc, RPC_FAILED,
                        "the runtime directory's name is too long: expected at most %zu bytes, not %zu",
                        sizeof(rpc->address.sun_path) - sizeof("/" WIRE_CONTROL), strlen(runtime_dir));
    int error = connect_socket(rpc);
    if (error < 0)
        return connect_failed(rpc, -error);
    socklen_t size = sizeof(rpc->answer->agent);
    if (getsockopt(rpc->sock, SOL_SOCKET, SO_PEERCRED, &rpc->answer->agent, &size) < 0)
        return io_failed(rpc, "cannot tell who listens on", errno);
    return RPC_OK;
}

static int send_all(struct rpc *rpc, const char *data, size_t size)
{
    while (size > 0) {
        int error = limit_time(rpc, SO_SNDTIMEO);
        if (error < 0)
            return error;
        ssize_t sent = send(rpc->sock, data, size, MSG_NOSIGNAL);
        if (sent < 0 && !try_again(errno))
            return -errno;
        if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
        }
    }
    return 0;
}

static enum rpc_outcome rpc_send(struct rpc *rpc, const char *method, json_t *params)
{
    CTL_JSON request = ctl_memory(
        json_pack("{s:s, s:i, s:s, s:O}", "jsonrpc", "2.0", "id", RPC_ID, "method", method, "params", params));
    char *line = ctl_memory(json_dumps(request, JSON_COMPACT));
    int error = send_all(rpc, line, strlen(line));
    if (error == 0)
        error = send_all(rpc, "\n", 1);
    free(line);
    return error < 0 ? io_failed(rpc, "cannot write to", -error) : RPC_OK;
}

// Returns the bytes received, 0 at end of stream, or -errno.
static ssize_t receive_some(struct rpc *rpc)
{
    if (rpc->room - rpc->size < 4096) {
        rpc->room = rpc->room == 0 ? 65536 : rpc->room * 2;
        rpc->line = ctl_memory(realloc(rpc->line, rpc->room));
    }
    ssize_t got;
    do {
        int error = limit_time(rpc, SO_RCVTIMEO);
        if (error < 0)
            return error;
        got = recv(rpc->sock, rpc->line + rpc->size, rpc->room - rpc->size, 0);
    } while (got < 0 && try_again(errno));
    if (got < 0)
        return -errno;
    rpc->size += (size_t)got;
    return got;
}

// Receives up to the first newline, and sets *length to what stands before it.
static enum rpc_outcome rpc_receive(struct rpc *rpc, size_t *length)
{
    for (;;) {
        ssize_t got = receive_some(rpc);
        if (got < 0)
            return io_failed(rpc, "cannot read from", (int)-got);
        if (got == 0 && rpc->size == 0)
            return io_failed(rpc, "cannot read from", ECONNRESET);
        if (got == 0)
            return complain(rpc, RPC_FAILED, "the agent on %s closed the connection in the middle of its answer",
                            rpc->address.sun_path);
        const char *end = memchr(rpc->line + rpc->size - got, '\n', (size_t)got);
        if (end) {
            *length = (size_t)(end - rpc->line);
            return RPC_OK;
        }
        if (rpc->size > RPC_ANSWER_MAX)
            return complain(rpc, RPC_FAILED, "the agent's answer is longer than %u MiB", RPC_ANSWER_MAX >> 20);
    }
}

static enum rpc_outcome malformed(struct rpc *rpc, const char *why)
{
    rpc->answer->cure = "see whether it is an rdma-agent of this version that listens there";
    return complain(rpc, RPC_FAILED, "the answer from %s is malformed: %s", rpc->address.sun_path, why);
}

static enum rpc_outcome said_no(struct rpc *rpc, const json_t *error)
{
    const char *message = json_string_value(json_object_get(error, "message"));
    if (!message)
        return malformed(rpc, "expected an error with a \"message\"");
    text_clean(rpc->answer->error, sizeof(rpc->answer->error), message);
    return RPC_SAID_NO;
}

static enum rpc_outcome rpc_parse(struct rpc *rpc, size_t length)
{
    json_error_t why;
    CTL_JSON root = json_loadb(rpc->line, length, 0, &why);
    if (!root) {
        char clean[JSON_ERROR_TEXT_LENGTH];
        text_clean(clean, sizeof(clean), why.text);
        return malformed(rpc, clean);
    }
    const char *version = json_string_value(json_object_get(root, "jsonrpc"));
    if (!version || strcmp(version, "2.0") != 0)
        return malformed(rpc, "expected an object with \"jsonrpc\": \"2.0\"");
    const json_t *error = json_object_get(root, "error");
    if (error && !json_is_null(error))
        return said_no(rpc, error);
    if (json_integer_value(json_object_get(root, "id")) != RPC_ID)
        return malformed(rpc, "expected the \"id\" of the question");
    rpc->answer->result = json_incref(json_object_get(root, "result"));
    return rpc->answer->result ? RPC_OK : malformed(rpc, "expected a \"result\" or an \"error\"");
}

static enum rpc_outcome rpc_ask(struct rpc *rpc, const char *runtime_dir, const char *method, json_t *params)
{
    size_t length = 0;
    enum rpc_outcome outcome = rpc_connect(rpc, runtime_dir);
    if (outcome == RPC_OK)
        outcome = rpc_send(rpc, method, params);
    if (outcome == RPC_OK)
        outcome = rpc_receive(rpc, &length);
    if (outcome == RPC_OK)
        outcome = rpc_parse(rpc, length);
    return outcome;
}

enum rpc_outcome rpc_call(const char *runtime_dir, const char *method, json_t *params, int limit_ms,
                          struct rpc_answer *answer)
{
    CTL_JSON given = params ? params : ctl_memory(json_object());
    *answer = (struct rpc_answer){0};
    struct rpc rpc = {.sock = -1, .limit_ms = limit_ms, .answer = answer};
    rpc.deadline = now_us() + limit_ms * 1000LL;
    enum rpc_outcome outcome = rpc_ask(&rpc, runtime_dir, method, given);
    if (rpc.sock >= 0)
        close(rpc.sock);
    free(rpc.line);
    return outcome;
}
