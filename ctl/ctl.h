// What every command of rdmactl has in common: its context, its exit codes, its way of complaining and of asking the
// agent.
//
// A command is a function that gets its own arguments (argv[0] is its name) and returns an exit code. What it prints
// for people goes through table.h; with --json it prints what the agent answered, and nothing else, on stdout.
// Complaints go to stderr as one line of text, also with --json.
#pragma once

#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>

struct rpc_answer;

enum ctl_exit {
    CTL_OK = 0,
    CTL_FAILED = 1, // the agent said no, or something failed; `doctor`: a check failed
    CTL_USAGE = 2,
    CTL_NO_AGENT = 3,
};

struct ctl {
    const char *command;        // the command's name, for complaints; "" before it is known
    char runtime_dir[PATH_MAX]; // absolute
    bool json;
};

// Set by the signal handler of a command that wants to end cleanly; a request under way then gives up.
extern volatile sig_atomic_t ctl_stop;

// Prints "rdmactl [COMMAND]: ..." on stderr.
void ctl_error(const struct ctl *ctl, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The same, and where to find help. Returns CTL_USAGE.
int ctl_usage(const struct ctl *ctl, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The options that each command understands besides its own; to stand at the end of its getopt_long table.
enum { CTL_OPTION_JSON = 1000, CTL_OPTION_RUNTIME_DIR, CTL_OPTION_HELP, CTL_OPTION_VERSION };
#define CTL_OPTIONS \
    {"json", no_argument, NULL, CTL_OPTION_JSON}, {"runtime-dir", required_argument, NULL, CTL_OPTION_RUNTIME_DIR}, \
        {"help", no_argument, NULL, CTL_OPTION_HELP}, \
    { \
        0 \
    }

// A command has nothing more to do: it printed its help.
#define CTL_HELPED (-1)

// Handles what getopt_long returned and the command does not know: a common option, or a mistake. Short options must
// begin with ":" or "+:". Returns 0 to go on, CTL_HELPED, or CTL_USAGE after a complaint.
int ctl_option(struct ctl *ctl, int found, char **argv);

// Reads the options of a command that has none of its own and takes no arguments. Returns as ctl_option.
int ctl_no_arguments(struct ctl *ctl, int argc, char **argv);

// Makes `dir` the runtime directory, absolute without resolving links. Returns 0, or CTL_USAGE after a complaint.
int ctl_set_runtime_dir(struct ctl *ctl, const char *dir);

// A whole decimal number from min to max. Returns 0, or -EINVAL (and prints nothing).
int ctl_number(const char *text, long long min, long long max, long long *number);

// Asks the agent. Takes over `params` (NULL: none). Returns 0 and *result, the caller's; or an exit code after a
// complaint. Blocks for the time limit of rpc.h at most.
int ctl_call(const struct ctl *ctl, const char *method, json_t *params, json_t **result);

// Complains about an answer that is not as the protocol has it. Returns CTL_FAILED.
int ctl_bad_answer(const struct ctl *ctl, const char *method, const char *expected);

// Prints a JSON value, indented, and a newline. Returns an exit code.
int ctl_print_json(const struct ctl *ctl, const json_t *value);

// For allocations too small to fail while the machine lives: NULL ends the program with a message.
void *ctl_memory(void *allocated);

static inline void ctl_json_free(json_t **value)
{
    json_decref(*value);
}
#define CTL_JSON __attribute__((cleanup(ctl_json_free))) json_t *

int list_main(struct ctl *ctl, int argc, char **argv);
int stats_main(struct ctl *ctl, int argc, char **argv);
int limit_main(struct ctl *ctl, int argc, char **argv);
int fallback_main(struct ctl *ctl, int argc, char **argv);
int peers_main(struct ctl *ctl, int argc, char **argv);
int reload_main(struct ctl *ctl, int argc, char **argv);
int top_main(struct ctl *ctl, int argc, char **argv);
int doctor_main(struct ctl *ctl, int argc, char **argv);
int run_main(struct ctl *ctl, int argc, char **argv);
int version_main(struct ctl *ctl, int argc, char **argv);
int help_main(struct ctl *ctl, int argc, char **argv);

// Prints the help of ctl->command. For ctl_option.
void help_command(const struct ctl *ctl);
