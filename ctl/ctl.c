#include "ctl/ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/rpc.h"

volatile sig_atomic_t ctl_stop;

__attribute__((format(printf, 2, 0))) static void complain(const struct ctl *ctl, const char *format, va_list arguments)
{
    fprintf(stderr, "rdmactl%s%s: ", *ctl->command ? " " : "", ctl->command);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

void ctl_error(const struct ctl *ctl, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    complain(ctl, format, arguments);
    va_end(arguments);
}

int ctl_usage(const struct ctl *ctl, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    complain(ctl, format, arguments);
    va_end(arguments);
    fprintf(stderr, "see: rdmactl help%s%s\n", *ctl->command ? " " : "", ctl->command);
    return CTL_USAGE;
}

// getopt_long leaves the option's letter in optopt, or, for a long one that it does not know, 0.
static int bad_option(const struct ctl *ctl, char **argv)
{
    if (optopt >= CTL_OPTION_JSON)
        return ctl_usage(ctl, "option \"%s\" takes no value", argv[optind - 1]);
    if (optopt != 0)
        return ctl_usage(ctl, "unknown option \"-%c\"", optopt);
    return ctl_usage(ctl, "unknown option \"%s\"", argv[optind - 1]);
}

int ctl_option(struct ctl *ctl, int found, char **argv)
{
    switch (found) {
    case CTL_OPTION_JSON:
        ctl->json = true;
        return 0;
    case CTL_OPTION_RUNTIME_DIR:
        return ctl_set_runtime_dir(ctl, optarg);
    case 'h':
    case CTL_OPTION_HELP:
        help_command(ctl);
        return CTL_HELPED;
    case ':':
        return ctl_usage(ctl, "option \"%s\" needs a value", argv[optind - 1]);
    default:
        return bad_option(ctl, argv);
    }
}

int ctl_no_arguments(struct ctl *ctl, int argc, char **argv)
{
    static const struct option options[] = {CTL_OPTIONS};
    int found;
    while ((found = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        int code = ctl_option(ctl, found, argv);
        if (code != 0)
            return code;
    }
    if (optind < argc)
        return ctl_usage(ctl, "expected no arguments, not \"%s\"", argv[optind]);
    return 0;
}

// Links stay unresolved: an operator may point one elsewhere while programs run.
int ctl_set_runtime_dir(struct ctl *ctl, const char *dir)
{
    if (*dir == '\0')
        return ctl_usage(ctl, "--runtime-dir: expected the name of a directory, not an empty one");
    char here[PATH_MAX] = "";
    if (*dir != '/' && !getcwd(here, sizeof(here)))
        return ctl_usage(ctl, "--runtime-dir: \"%s\" is relative, and the current directory is not known: %s", dir,
                         strerror(errno));
    int size = snprintf(ctl->runtime_dir, sizeof(ctl->runtime_dir), "%s%s%s", here, *here ? "/" : "", dir);
    if (size >= (int)sizeof(ctl->runtime_dir))
        return ctl_usage(ctl, "--runtime-dir: expected at most %zu bytes", sizeof(ctl->runtime_dir) - 1);
    while (size > 1 && ctl->runtime_dir[size - 1] == '/')
        ctl->runtime_dir[--size] = '\0';
    return 0;
}

int ctl_number(const char *text, long long min, long long max, long long *number)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < min || value > max)
        return -EINVAL;
    *number = value;
    return 0;
}

int ctl_call(const struct ctl *ctl, const char *method, json_t *params, json_t **result)
{
    struct rpc_answer answer;
    enum rpc_outcome outcome = rpc_call(ctl->runtime_dir, method, params, RPC_LIMIT_MS, &answer);
    if (outcome == RPC_OK) {
        *result = answer.result;
        return CTL_OK;
    }
    if (outcome == RPC_STOPPED)
        return CTL_FAILED;
    ctl_error(ctl, "%s%s%s", answer.error, answer.cure ? "; " : "", answer.cure ? answer.cure : "");
    return outcome == RPC_NO_AGENT ? CTL_NO_AGENT : CTL_FAILED;
}

int ctl_bad_answer(const struct ctl *ctl, const char *method, const char *expected)
{
    ctl_error(ctl, "the agent's answer to \"%s\" is malformed: expected %s", method, expected);
    return CTL_FAILED;
}

int ctl_print_json(const struct ctl *ctl, const json_t *value)
{
    if (json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) < 0) {
        ctl_error(ctl, "cannot write the answer: %s", strerror(errno));
        return CTL_FAILED;
    }
    putchar('\n');
    return CTL_OK;
}

void *ctl_memory(void *allocated)
{
    if (!allocated) {
        fputs("rdmactl: no memory left\n", stderr);
        exit(CTL_FAILED);
    }
    return allocated;
}
