// rdmactl fallback: orders sessions back to TCP in mid-stream. The programs do not notice, and the connections may be
// upgraded again.
#include <stdint.h>
#include <stdio.h>

#include "ctl/ctl.h"

enum { OPTION_ALL = 'a' };

// Returns 0 and what is asked for, or as ctl_option.
static int parse_arguments(struct ctl *ctl, int argc, char **argv, json_t *params)
{
    static const struct option options[] = {{"all", no_argument, NULL, OPTION_ALL}, CTL_OPTIONS};
    bool all = false;
    long long id;
    int found, code;
    while ((found = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (found == OPTION_ALL)
            all = true;
        else if ((code = ctl_option(ctl, found, argv)) != 0)
            return code;
    }
    if (argc - optind != (all ? 0 : 1))
        return ctl_usage(ctl, "expected the id of a session (see rdmactl list), or --all");
    if (!all && ctl_number(argv[optind], 1, INT64_MAX, &id) < 0)
        return ctl_usage(ctl, "expected the id of a session such as 17, not \"%s\"", argv[optind]);
    json_object_set_new(params, all ? "all" : "id", ctl_memory(all ? json_true() : json_integer(id)));
    return 0;
}

int fallback_main(struct ctl *ctl, int argc, char **argv)
{
    CTL_JSON params = ctl_memory(json_object());
    CTL_JSON result = NULL;
    int code = parse_arguments(ctl, argc, argv, params);
    if (code != 0)
        return code;
    code = ctl_call(ctl, "fallback", json_incref(params), &result);
    if (code != CTL_OK)
        return code;
    const json_t *recalled = json_object_get(result, "recalled");
    if (!json_is_integer(recalled))
        return ctl_bad_answer(ctl, "fallback", "\"recalled\", a number");
    if (ctl->json)
        return ctl_print_json(ctl, result);
    long long count = (long long)json_integer_value(recalled);
    printf("%lld session%s ordered back to TCP\n", count, count == 1 ? "" : "s");
    return CTL_OK;
}
