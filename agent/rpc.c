// The envelope of requests and answers.

#include "agent/rpc.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/control.h"

struct request {
    json_t *document; // owns the rest
    json_t *id;       // null: a notification
    const struct rpc_method *method;
    json_t *params;
    json_t *no_params; // owned
};

// With a newline, as the last step of every answer.
static char *dump(json_t *answer)
{
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    size_t size = text ? strlen(text) : 0;
    char *line = text ? realloc(text, size + 2) : NULL;

    json_decref(answer);
    if (!line) {
        free(text);
        return NULL;
    }
    strcpy(line + size, "\n");
    return line;
}

static char *answer_error(json_t *id, enum rpc_error code, const char *message)
{
    return dump(json_pack("{s:s, s:O?, s:{s:i, s:s}}", "jsonrpc", "2.0", "id", id ? id : json_null(), "error", "code",
                          code, "message", message));
}

static char *answer_result(json_t *id, json_t *result)
{
    return dump(json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id", id, "result", result));
}

static const struct rpc_method *find_method(const char *name)
{
    for (const struct rpc_method *method = rpc_methods; method->name; method++) {
        if (strcmp(method->name, name) == 0)
            return method;
    }
    return NULL;
}

static enum rpc_error check_params(const struct request *request, char message[static RPC_MESSAGE])
{
    const struct rpc_method *method = request->method;

    if (!json_is_object(request->params)) {
        snprintf(message, RPC_MESSAGE, "%s: expected an object as params", method->name);
        return RPC_PARAMS;
    }
    if (!method->has_params && json_object_size(request->params) > 0) {
        snprintf(message, RPC_MESSAGE, "%s: takes no params, found \"%s\"", method->name,
                 json_object_iter_key(json_object_iter(request->params)));
        return RPC_PARAMS;
    }
    return RPC_OK;
}

static bool id_is_sound(const json_t *id)
{
    return !id || json_is_string(id) || json_is_number(id) || json_is_null(id);
}

static enum rpc_error read_method(struct request *request, char message[static RPC_MESSAGE])
{
    const char *name = json_string_value(json_object_get(request->document, "method"));
    const char *version = json_string_value(json_object_get(request->document, "jsonrpc"));

    if (!version || strcmp(version, "2.0") != 0 || !name) {
        snprintf(message, RPC_MESSAGE, "expected {\"jsonrpc\": \"2.0\", \"id\": ..., \"method\": \"...\"}");
        return RPC_REQUEST;
    }
    request->method = find_method(name);
    if (!request->method) {
        snprintf(message, RPC_MESSAGE, "no method \"%.64s\"", name);
        return RPC_METHOD;
    }
    return RPC_OK;
}

// What is read so far holds even if there is an error.
static enum rpc_error read_request(struct request *request, const char *line, size_t size,
                                   char message[static RPC_MESSAGE])
{
    enum rpc_error error;
    json_error_t where;
    json_t *id;

    request->document = json_loadb(line, size, JSON_REJECT_DUPLICATES, &where);
    if (!request->document) {
        snprintf(message, RPC_MESSAGE, "expected one JSON object in a line: %s", where.text);
        return RPC_PARSE;
    }
    id = json_object_get(request->document, "id");
    if (!json_is_object(request->document) || !id_is_sound(id)) {
        snprintf(message, RPC_MESSAGE, "expected an object with an id that is a number or a string");
        return RPC_REQUEST;
    }
    request->id = id;
    error = read_method(request, message);
    if (error != RPC_OK)
        return error;
    request->params = json_object_get(request->document, "params");
    if (!request->params)
        request->params = request->no_params = json_object();
    return check_params(request, message);
}

static enum rpc_error call(struct agent *agent, const struct rpc_caller *caller, const struct request *request,
                           json_t **result, char message[static RPC_MESSAGE])
{
    enum rpc_error error;

    if (request->method->changes && !caller->trusted) {
        snprintf(message, RPC_MESSAGE, "permission denied: %s is for root and the agent's own user",
                 request->method->name);
        return RPC_DENIED;
    }
    error = request->method->call(agent, caller, request->params, result, message);
    if (error == RPC_OK && !*result) {
        snprintf(message, RPC_MESSAGE, "%s: no memory", request->method->name);
        return RPC_INTERNAL;
    }
    return error;
}

char *rpc_answer(struct agent *agent, uid_t uid, const char *line, size_t size)
{
    const struct rpc_caller caller = {.uid = uid, .trusted = uid == 0 || uid == geteuid()};
    struct request request = {0};
    char message[RPC_MESSAGE] = "";
    json_t *result = NULL;
    char *answer = NULL;
    enum rpc_error error = read_request(&request, line, size, message);

    if (error == RPC_OK)
        error = call(agent, &caller, &request, &result, message);
    // Requests that cannot even be told from notifications are answered.
    if (error != RPC_OK && (request.id || !request.method))
        answer = answer_error(request.id, error, message);
    else if (request.id)
        answer = answer_result(request.id, result);
    else
        json_decref(result);
    json_decref(request.no_params);
    json_decref(request.document);
    return answer;
}

char *rpc_answer_overlong(void)
{
    char message[64];

    snprintf(message, sizeof(message), "expected a line of less than %d bytes", CONTROL_LINE);
    return answer_error(NULL, RPC_REQUEST, message);
}
