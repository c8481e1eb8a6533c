// rdmactl run: puts the preload library into a program, and becomes it.
//
// Whatever is missing for that, the program runs: it stays TCP, and one line on stderr for each cause says why.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/library.h"
#include "ctl/program.h"
#include "ctl/rpc.h"

#define INTERPRETERS_MAX 5 // the kernel follows no more

// A program's start is not to wait long for an agent that hangs.
#define RUN_LIMIT_MS 1000

// As the shell has it.
enum { RUN_NOT_EXECUTABLE = 126, RUN_NOT_FOUND = 127 };

static void warn_no_agent(const struct ctl *ctl)
{
    struct rpc_answer answer;
    enum rpc_outcome outcome = rpc_call(ctl->runtime_dir, "status", NULL, RUN_LIMIT_MS, &answer);
    if (outcome == RPC_OK)
        json_decref(answer.result);
    else if (outcome != RPC_SAID_NO)
        ctl_error(ctl, "connections stay TCP: %s%s%s", answer.error, answer.cure ? "; " : "",
                  answer.cure ? answer.cure : "");
}

static void warn_obstacles(const struct ctl *ctl, const struct program *program)
{
    unsigned obstacles = program_obstacles_now(program);
    size_t count;
    const struct program_text *texts = program_texts(&count);
    for (size_t i = 0; i < count; i++) {
        if (obstacles & texts[i].obstacle)
            ctl_error(ctl, "connections stay TCP: %s %s; cure: %s", program->path, texts[i].what, texts[i].cure);
    }
}

// A script's sockets are those of its interpreter. What cannot be read is left to exec to complain about.
static void warn_program(const struct ctl *ctl, const char *name)
{
    char path[PATH_MAX];
    struct program program;
    int found = program_find(name, path) == 0;
    for (int i = 0; i < INTERPRETERS_MAX && found == 1; i++) {
        if (program_inspect(path, &program) < 0)
            return;
        warn_obstacles(ctl, &program);
        found = program_next(&program, path);
    }
}

static void no_library(const struct ctl *ctl, const char *path, int error)
{
    char places[3 * PATH_MAX];
    library_places(places, sizeof(places));
    if (error == -ENOENT)
        ctl_error(ctl,
                  "connections stay TCP: the preload library is not there: looked for %s; install it, or name it "
                  "in $" LIBRARY_VARIABLE,
                  places);
    else
        ctl_error(ctl, "connections stay TCP: the preload library %s cannot be used: %s", path, strerror(-error));
}

static void set_preload(const struct ctl *ctl)
{
    char path[PATH_MAX];
    int error = library_find(path);
    if (error < 0)
        no_library(ctl, path, error);
    else if (!library_can_preload(path))
        ctl_error(ctl,
                  "connections stay TCP: \"%s\" contains a space or a colon, which LD_PRELOAD cannot hold; move "
                  "the library",
                  path);
    else if ((error = library_set_preload(path)) < 0)
        ctl_error(ctl, "connections stay TCP: cannot set LD_PRELOAD: %s", strerror(-error));
}

static void set_variable(const struct ctl *ctl, const char *name, const char *value)
{
    if (setenv(name, value, 1) < 0)
        ctl_error(ctl, "cannot set %s: %s", name, strerror(errno));
}

static void set_environment(const struct ctl *ctl, bool debug)
{
    set_preload(ctl);
    set_variable(ctl, "RDMA_AGENT_DIR", ctl->runtime_dir);
    if (debug)
        set_variable(ctl, "RDMA_AGENT_DEBUG", "1");
}

static int execute(const struct ctl *ctl, char **argv)
{
    execvp(argv[0], argv);
    int error = errno;
    ctl_error(ctl, "cannot run \"%s\": %s", argv[0], strerror(error));
    return error == ENOENT || error == ENOTDIR ? RUN_NOT_FOUND : RUN_NOT_EXECUTABLE;
}

int run_main(struct ctl *ctl, int argc, char **argv)
{
    static const struct option options[] = {{"debug", no_argument, NULL, 'D'}, CTL_OPTIONS};
    bool debug = false;
    int found, code;
    while ((found = getopt_long(argc, argv, "+:h", options, NULL)) != -1) {
        if (found == 'D')
            debug = true;
        else if ((code = ctl_option(ctl, found, argv)) != 0)
            return code;
    }
    if (optind == argc)
        return ctl_usage(ctl, "expected a program to run: rdmactl run [--debug] -- PROGRAM [ARGS...]");
    warn_no_agent(ctl);
    set_environment(ctl, debug);
    warn_program(ctl, argv[optind]);
    return execute(ctl, argv + optind);
}
