// rdmactl: the command table and its dispatch.
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire.h"
#include "ctl/ctl.h"

struct command {
    const char *name;
    int (*run)(struct ctl *ctl, int argc, char **argv);
    const char *arguments;
    const char *summary;
    const char *details;
};

static const struct command commands[] = {
    {"list", list_main, "[--pid N] [--port N]", "show the accelerated connections and those that wait",
     "One line for each end of a session on this host, and for each connection whose other half is not there (yet).\n"
     "  --pid N     only those of this process\n"
     "  --port N    only those with this local or remote port\n"},
    {"stats", stats_main, "", "show the agent's counters, and why connections stayed TCP", ""},
    {"limit", limit_main, "[KEY=VALUE...]", "show the limits, or change them until the next reload",
     "Counts: sessions_per_user, clients_per_user, offers_per_user.\n"
     "Sizes: ring_memory, ring_memory_per_user; in bytes, or with KiB, MiB, GiB, TiB.\n"
     "Rate: rate_per_session, bytes per second that one end may send; also with /s; 0 or \"unlimited\" lifts it.\n"},
    {"fallback", fallback_main, "ID|--all", "order sessions back to TCP in mid-stream",
     "The programs do not notice. Connections that stay busy are upgraded again after a while.\n"
     "  --all       every session\n"},
    {"peers", peers_main, "[--connect [NAME]]", "show the other hosts, and the links with them",
     "One line for each peer of the configuration, and what last went wrong with its link.\n"
     "  --connect   have the links made, or that with the peer NAME, and wait for them;\n"
     "              exit code 1 if one cannot be made\n"},
    {"reload", reload_main, "", "make the agent read its configuration again",
     "An invalid file changes nothing; the agent says what is wrong with it.\n"},
    {"top", top_main, "[-d SECONDS] [-n COUNT]", "show the sessions by current throughput, again and again",
     "  -d, --delay SECONDS    between two refreshes (2)\n"
     "  -n, --count COUNT      end after so many refreshes (0: when interrupted)\n"
     "With --json: one object on one line for each refresh.\n"},
    {"doctor", doctor_main, "[PROGRAM]",
     "find out what keeps connections of this host, or PROGRAM, from being accelerated",
     "Prints a line for each check, with the cure where there is one. Exit code 1 if any check fails.\n"},
    {"run", run_main, "[--debug] [--] PROGRAM [ARGS...]", "run a program under the preload library",
     "The program replaces rdmactl. With no agent to talk to it runs all the same, over TCP.\n"
     "  --debug     the library reports what it does on stderr\n"},
    {"version", version_main, "", "print the version", ""},
    {"help", help_main, "[COMMAND]", "print this, or the help of a command", ""},
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static void print_usage(FILE *out)
{
    fputs("usage: rdmactl [--runtime-dir DIR] [--json] COMMAND [ARGS...]\n\n", out);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
    fputs("\n"
          "  --runtime-dir DIR   the agent's directory ($RDMA_AGENT_DIR, or " WIRE_DIR ")\n"
          "  --json              answers for programs; before or after the command\n\n"
          "rdmactl help COMMAND says more; rdmactl(1) says all.\n",
          out);
}

static void print_command(const struct command *command)
{
    printf("usage: rdmactl %s%s%s [--json] [--runtime-dir DIR]\n\n%s\n%s", command->name,
           *command->arguments ? " " : "", command->arguments, command->summary, command->details);
}

void help_command(const struct ctl *ctl)
{
    const struct command *command = find_command(ctl->command);
    if (command)
        print_command(command);
    else
        print_usage(stdout);
}

static int help_json(const struct ctl *ctl)
{
    CTL_JSON array = ctl_memory(json_array());
    for (size_t i = 0; i < COMMANDS; i++)
        json_array_append_new(array, ctl_memory(json_pack("{s:s, s:s, s:s}", "command", commands[i].name, "arguments",
                                                          commands[i].arguments, "summary", commands[i].summary)));
    return ctl_print_json(ctl, array);
}

int help_main(struct ctl *ctl, int argc, char **argv)
{
    static const struct option options[] = {CTL_OPTIONS};
    int found, code;
    while ((found = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if ((code = ctl_option(ctl, found, argv)) != 0)
            return code;
    }
    if (optind + 1 < argc)
        return ctl_usage(ctl, "expected one command, not \"%s\" as well", argv[optind + 1]);
    if (optind == argc) {
        if (ctl->json)
            return help_json(ctl);
        print_usage(stdout);
        return CTL_OK;
    }
    const struct command *command = find_command(argv[optind]);
    if (!command)
        return ctl_usage(ctl, "there is no command \"%s\"", argv[optind]);
    print_command(command);
    return CTL_OK;
}

static int print_version(const struct ctl *ctl)
{
    if (!ctl->json) {
        puts("rdmactl " RDMA_VERSION);
        return CTL_OK;
    }
    CTL_JSON version = ctl_memory(json_pack("{s:s}", "version", RDMA_VERSION));
    return ctl_print_json(ctl, version);
}

int version_main(struct ctl *ctl, int argc, char **argv)
{
    int code = ctl_no_arguments(ctl, argc, argv);
    return code != 0 ? code : print_version(ctl);
}

// The options before the command. Returns 0, CTL_HELPED with the version or help printed, or CTL_USAGE.
static int parse_options(struct ctl *ctl, int argc, char **argv)
{
    static const struct option options[] = {{"version", no_argument, NULL, CTL_OPTION_VERSION}, CTL_OPTIONS};
    int found, code;
    while ((found = getopt_long(argc, argv, "+:hV", options, NULL)) != -1) {
        if (found == 'V' || found == CTL_OPTION_VERSION) {
            print_version(ctl);
            return CTL_HELPED;
        }
        if ((code = ctl_option(ctl, found, argv)) != 0)
            return code;
    }
    return 0;
}

static int set_default_dir(struct ctl *ctl)
{
    const char *dir = getenv("RDMA_AGENT_DIR");
    return ctl_set_runtime_dir(ctl, dir && *dir ? dir : WIRE_DIR);
}

static int dispatch(struct ctl *ctl, int argc, char **argv)
{
    int code = set_default_dir(ctl);
    if (code == 0)
        code = parse_options(ctl, argc, argv);
    if (code != 0)
        return code;
    if (optind == argc) {
        print_usage(stderr);
        return CTL_USAGE;
    }
    const struct command *command = find_command(argv[optind]);
    if (!command)
        return ctl_usage(ctl, "there is no command \"%s\"", argv[optind]);
    ctl->command = command->name;
    argc -= optind;
    argv += optind;
    optind = 0; // glibc's way to begin anew, with another "+"
    return command->run(ctl, argc, argv);
}

// What was printed may still be in stdio's buffer, and a full disk or a closed pipe shows only now.
static int flush(const struct ctl *ctl, int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    ctl_error(ctl, "cannot write the answer: %s", strerror(errno));
    return code == CTL_OK ? CTL_FAILED : code;
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    opterr = 0;
    struct ctl ctl = {.command = ""};
    int code = dispatch(&ctl, argc, argv);
    return flush(&ctl, code == CTL_HELPED ? CTL_OK : code);
}
