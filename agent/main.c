// The program: its arguments, and nothing else.

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "agent/agent.h"
#include "agent/descriptors.h"
#include "core/log.h"
#include "core/wire.h"

enum { EXIT_USAGE = 2 };

static const char usage[] = "usage: rdma-agent [--config FILE] [--runtime-dir DIR] [--log-level LEVEL]\n"
                            "\n"
                            "Serves the processes of this host whose TCP connections may move to shared memory.\n"
                            "\n"
                            "  -c, --config FILE       configuration [" CONFIG_FILE ", if it exists]\n"
                            "  -d, --runtime-dir DIR   where the sockets are made [" WIRE_DIR "]\n"
                            "  -l, --log-level LEVEL   error, warning, info or debug, whatever the configuration says\n"
                            "      --foreground        do not detach; it never does\n"
                            "      --check-config      check the configuration and exit\n"
                            "      --version           print the version and exit\n"
                            "  -h, --help              print this and exit\n"
                            "\n"
                            "SIGHUP reads the configuration again; SIGTERM and SIGINT stop. See rdma-agent(8).\n";

enum action { ACTION_RUN, ACTION_CHECK, ACTION_EXIT, ACTION_USAGE };

enum { OPTION_FOREGROUND = 256, OPTION_CHECK, OPTION_VERSION };

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"runtime-dir", required_argument, NULL, 'd'},
    {"log-level", required_argument, NULL, 'l'},
    {"foreground", no_argument, NULL, OPTION_FOREGROUND},
    {"check-config", no_argument, NULL, OPTION_CHECK},
    {"version", no_argument, NULL, OPTION_VERSION},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static enum action parse_level(const char *name, struct agent_options *options, enum action action)
{
    if (log_level_from_name(name, &options->level) == 0)
        return action;
    fprintf(stderr, "rdma-agent: --log-level: expected error, warning, info or debug, found \"%s\"\n", name);
    return ACTION_USAGE;
}

static enum action parse(int argc, char **argv, struct agent_options *options)
{
    enum action action = ACTION_RUN;
    int option;

    while (action != ACTION_USAGE && (option = getopt_long(argc, argv, "c:d:l:h", long_options, NULL)) >= 0) {
        switch (option) {
        case 'c':
            options->config = optarg;
            break;
        case 'd':
            options->runtime_dir = optarg;
            break;
        case 'l':
            action = parse_level(optarg, options, action);
            break;
        case OPTION_FOREGROUND:
            break;
        case OPTION_CHECK:
            action = ACTION_CHECK;
            break;
        case OPTION_VERSION:
            puts("rdma-agent " RDMA_VERSION);
            return ACTION_EXIT;
        case 'h':
            fputs(usage, stdout);
            return ACTION_EXIT;
        default:
            action = ACTION_USAGE;
        }
    }
    if (action == ACTION_USAGE || optind == argc)
        return action;
    fprintf(stderr, "rdma-agent: unexpected argument \"%s\"\n", argv[optind]);
    return ACTION_USAGE;
}

static int check(const struct agent_options *options)
{
    const char *path = options->config ? options->config : CONFIG_FILE;
    struct config config;
    char error[CONFIG_ERROR];

    if (config_load(&config, path, error) < 0) {
        log_error("%s", error);
        return EXIT_FAILURE;
    }
    config_deinit(&config);
    printf("%s: correct\n", path);
    return EXIT_SUCCESS;
}

static int run(const struct agent_options *options)
{
    struct agent *agent;
    char error[CONFIG_ERROR];

    // Whoever reads our log may go away.
    signal(SIGPIPE, SIG_IGN);
    descriptors_init();
    if (agent_start(&agent, options, error) < 0) {
        log_error("%s", error);
        return EXIT_FAILURE;
    }
    agent_run(agent);
    agent_free(agent);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct agent_options options = {.runtime_dir = WIRE_DIR, .level = LOG_LEVEL_NONE};

    log_init("rdma-agent", LOG_LEVEL_INFO);
    switch (parse(argc, argv, &options)) {
    case ACTION_RUN:
        return run(&options);
    case ACTION_CHECK:
        return check(&options);
    case ACTION_EXIT:
        return EXIT_SUCCESS;
    case ACTION_USAGE:
        break;
    }
    fputs("Try rdma-agent --help.\n", stderr);
    return EXIT_USAGE;
}
