#include "tests/fuzz/agent_rig.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "tests/fuzz/fuzz.h"

#define TURNS 8

static struct agent *agent;
static char directory[64];

static void stop(void)
{
    agent_free(agent);
    rmdir(directory);
}

struct agent *agent_rig(void)
{
    static char config[96];
    char error[CONFIG_ERROR];
    FILE *file;

    if (agent)
        return agent;
    strcpy(directory, "/tmp/rdma-fuzz-XXXXXX");
    MUST(mkdtemp(directory));
    snprintf(config, sizeof config, "%s.json", directory);
    file = fopen(config, "w");
    MUST(file && fputs("{\"upgrade\": {\"after_calls\": 1}}\n", file) >= 0 && fclose(file) == 0);
    struct agent_options options = {.config = config, .runtime_dir = directory, .level = LOG_LEVEL_ERROR};
    if (agent_start(&agent, &options, error) < 0) {
        fprintf(stderr, "no agent: %s\n", error);
        exit(1);
    }
    unlink(config); // what there is to reload is gone: one more thing to be told well
    atexit(stop);
    return agent;
}

void agent_rig_run(struct agent *running)
{
    for (int i = 0; i < TURNS; i++)
        uv_run(&running->loop, UV_RUN_NOWAIT);
}
