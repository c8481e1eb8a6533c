// Requests of the control socket, with a whole agent to answer them. The first byte of an input says who asks.
//
// What is answered is one line of JSON, with an error or a result; nothing is answered only to a notification.

#include <jansson.h>
#include <string.h>

#include "agent/rpc.h"
#include "tests/fuzz/agent_rig.h"
#include "tests/fuzz/fuzz.h"

static void check_answer(const char *answer)
{
    size_t size = strlen(answer);
    json_error_t error;

    MUST(size > 1 && strchr(answer, '\n') == answer + size - 1);
    json_t *document = json_loads(answer, 0, &error);
    MUST(json_is_object(document));
    MUST(!json_object_get(document, "error") != !json_object_get(document, "result"));
    json_decref(document);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct agent *agent = agent_rig();

    if (size < 1)
        return 0;
    char *answer = rpc_answer(agent, data[0] % 2 ? 12345 : 0, (const char *)data + 1, size - 1);
    if (answer)
        check_answer(answer);
    free(answer);
    agent_rig_run(agent);
    return 0;
}
