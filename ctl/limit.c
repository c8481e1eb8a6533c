// rdmactl limit: shows the agent's limits, or changes some of them until it reads its configuration again.
//
// The agent knows which values make sense and says so; here is only known how people write them.
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"
#include "ctl/table.h"
#include "ctl/units.h"

enum limit_kind { LIMIT_COUNT, LIMIT_BYTES, LIMIT_RATE };

struct limit {
    const char *key;
    enum limit_kind kind;
};

static const struct limit limits[] = {
    {"sessions_per_user", LIMIT_COUNT}, {"ring_memory_per_user", LIMIT_BYTES}, {"ring_memory", LIMIT_BYTES},
    {"rate_per_session", LIMIT_RATE},   {"clients_per_user", LIMIT_COUNT},     {"offers_per_user", LIMIT_COUNT},
};

#define LIMITS (sizeof(limits) / sizeof(limits[0]))

static const char *const expectations[] = {
    [LIMIT_COUNT] = "a whole number such as 4096",
    [LIMIT_BYTES] = "a size such as 512MiB or 536870912 (KiB, MiB, GiB, TiB)",
    [LIMIT_RATE] = "bytes per second such as 100MiB, 100MiB/s, 104857600, or \"unlimited\"",
};

static const struct limit *find_limit(const char *key, size_t length)
{
    for (size_t i = 0; i < LIMITS; i++) {
        if (strlen(limits[i].key) == length && memcmp(limits[i].key, key, length) == 0)
            return &limits[i];
    }
    return NULL;
}

static int bad_key(const struct ctl *ctl, const char *argument, int length)
{
    char known[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < LIMITS; i++)
        used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "", limits[i].key);
    return ctl_usage(ctl, "there is no limit \"%.*s\"; expected one of: %s", length, argument, known);
}

static int parse_rate(const char *text, int64_t *value)
{
    if (strcmp(text, "unlimited") == 0) {
        *value = 0;
        return 0;
    }
    char number[UNITS_TEXT];
    size_t length = strlen(text);
    if (length > 2 && strcmp(text + length - 2, "/s") == 0)
        length -= 2;
    if (length >= sizeof(number))
        return -EINVAL;
    memcpy(number, text, length);
    number[length] = '\0';
    return units_parse(number, value);
}

static int parse_value(enum limit_kind kind, const char *text, int64_t *value)
{
    switch (kind) {
    case LIMIT_COUNT: {
        long long number;
        int error = ctl_number(text, 0, INT64_MAX, &number);
        *value = number;
        return error;
    }
    case LIMIT_BYTES:
        return units_parse(text, value);
    case LIMIT_RATE:
        return parse_rate(text, value);
    }
    return -EINVAL;
}

static int add_setting(const struct ctl *ctl, const char *argument, json_t *params)
{
    const char *equals = strchr(argument, '=');
    if (!equals)
        return ctl_usage(ctl, "expected KEY=VALUE, not \"%s\"", argument);
    const struct limit *limit = find_limit(argument, (size_t)(equals - argument));
    if (!limit)
        return bad_key(ctl, argument, (int)(equals - argument));
    if (json_object_get(params, limit->key))
        return ctl_usage(ctl, "%s is given twice", limit->key);
    int64_t value = 0;
    if (parse_value(limit->kind, equals + 1, &value) < 0)
        return ctl_usage(ctl, "%s: expected %s, not \"%s\"", limit->key, expectations[limit->kind], equals + 1);
    json_object_set_new(params, limit->key, ctl_memory(json_integer(value)));
    return 0;
}

static void format_value(char out[2 * UNITS_TEXT], enum limit_kind kind, int64_t value)
{
    char number[UNITS_TEXT];
    units_exact(number, value);
    if (kind == LIMIT_RATE && value == 0)
        strcpy(out, "unlimited");
    else if (kind == LIMIT_RATE)
        snprintf(out, 2 * UNITS_TEXT, "%s/s", number);
    else if (kind == LIMIT_BYTES)
        snprintf(out, 2 * UNITS_TEXT, "%s", number);
    else
        snprintf(out, 2 * UNITS_TEXT, "%lld", (long long)value);
}

static void add_row(struct table *table, const char *key, const json_t *value)
{
    const struct limit *limit = find_limit(key, strlen(key));
    char text[2 * UNITS_TEXT];
    format_value(text, limit ? limit->kind : LIMIT_COUNT, json_integer_value(value));
    table_cell(table, key);
    table_cell(table, json_is_integer(value) ? text : NULL);
}

// In the order of our own table; what a newer agent has besides comes after.
static int print_limits(json_t *values)
{
    static const struct table_column columns[] = {{"LIMIT", TABLE_LEFT, 0}, {"VALUE", TABLE_RIGHT, 0}};
    struct table *table = table_new(columns, 2);
    for (size_t i = 0; i < LIMITS; i++) {
        if (json_object_get(values, limits[i].key))
            add_row(table, limits[i].key, json_object_get(values, limits[i].key));
    }
    for (void *limit = json_object_iter(values); limit; limit = json_object_iter_next(values, limit)) {
        const char *key = json_object_iter_key(limit);
        if (!find_limit(key, strlen(key)))
            add_row(table, key, json_object_iter_value(limit));
    }
    table_print(table, stdout, table_width(stdout), SIZE_MAX);
    table_free(table);
    return CTL_OK;
}

// Returns 0 and the settings asked for, or as ctl_option.
static int parse_arguments(struct ctl *ctl, int argc, char **argv, json_t *params)
{
    static const struct option options[] = {CTL_OPTIONS};
    int found, code;
    while ((found = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if ((code = ctl_option(ctl, found, argv)) != 0)
            return code;
    }
    for (int i = optind; i < argc; i++) {
        if ((code = add_setting(ctl, argv[i], params)) != 0)
            return code;
    }
    return 0;
}

int limit_main(struct ctl *ctl, int argc, char **argv)
{
    CTL_JSON params = ctl_memory(json_object());
    int code = parse_arguments(ctl, argc, argv, params);
    if (code != 0)
        return code;
    CTL_JSON result = NULL;
    const char *method = json_object_size(params) > 0 ? "limit.set" : "limit.get";
    code = ctl_call(ctl, method, json_incref(params), &result);
    if (code != CTL_OK)
        return code;
    json_t *values = json_object_get(result, "limits");
    if (!json_is_object(values))
        return ctl_bad_answer(ctl, method, "\"limits\", an object");
    return ctl->json ? ctl_print_json(ctl, result) : print_limits(values);
}
