// rdmactl reload: the agent reads its configuration again, wholly or not at all.
#include <stdio.h>

#include "ctl/ctl.h"
#include "ctl/text.h"

static int print_changes(const json_t *result, const json_t *changed)
{
    const char *path = json_string_value(json_object_get(result, "config"));
    text_print(stdout, path ? path : "no configuration file, defaults");
    fputs(json_array_size(changed) == 0 ? ": nothing changed" : ": changed", stdout);
    for (size_t i = 0; i < json_array_size(changed); i++) {
        json_t *key = json_array_get(changed, i);
        fputs(i == 0 ? " " : ", ", stdout);
        text_print(stdout, json_is_string(key) ? json_string_value(key) : "?");
    }
    putchar('\n');
    return CTL_OK;
}

int reload_main(struct ctl *ctl, int argc, char **argv)
{
    int code = ctl_no_arguments(ctl, argc, argv);
    if (code != 0)
        return code;
    CTL_JSON result = NULL;
    code = ctl_call(ctl, "reload", NULL, &result);
    if (code != CTL_OK)
        return code;
    const json_t *changed = json_object_get(result, "changed");
    if (!json_is_array(changed))
        return ctl_bad_answer(ctl, "reload", "\"changed\", an array of keys");
    return ctl->json ? ctl_print_json(ctl, result) : print_changes(result, changed);
}
