#include "ctl/sessions.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"
#include "ctl/units.h"

int64_t sessions_integer(const json_t *row, const char *field, int64_t missing)
{
    const json_t *value = json_object_get(row, field);
    return json_is_integer(value) ? json_integer_value(value) : missing;
}

double sessions_real(const json_t *row, const char *field, double missing)
{
    const json_t *value = json_object_get(row, field);
    return json_is_number(value) ? json_number_value(value) : missing;
}

const char *sessions_text(const json_t *row, const char *field, char room[static 32])
{
    const json_t *value = json_object_get(row, field);
    if (json_is_string(value))
        return json_string_value(value);
    if (!json_is_integer(value))
        return NULL;
    snprintf(room, 32, "%lld", (long long)json_integer_value(value));
    return room;
}

const char *sessions_bytes(const json_t *row, const char *field, char room[static 32])
{
    const json_t *value = json_object_get(row, field);
    if (!json_is_integer(value))
        return NULL;
    units_short(room, json_integer_value(value));
    return room;
}

static bool has_port(const json_t *row, const char *field, long long port)
{
    const char *address = json_string_value(json_object_get(row, field));
    const char *colon = address ? strrchr(address, ':') : NULL;
    return colon && strtoll(colon + 1, NULL, 10) == port;
}

static bool passes(const json_t *row, const struct sessions_filter *filter)
{
    if (filter->pid != 0 && sessions_integer(row, "pid", 0) != filter->pid)
        return false;
    return filter->port == 0 || has_port(row, "local", filter->port) || has_port(row, "remote", filter->port);
}

static int compare_text(const json_t *a, const json_t *b, const char *field)
{
    const char *left = json_string_value(json_object_get(a, field));
    const char *right = json_string_value(json_object_get(b, field));
    return strcmp(left ? left : "", right ? right : "");
}

// An offer that waits has the id 0, which as an unsigned number minus one is the greatest.
static int compare_rows(const void *left, const void *right)
{
    const json_t *a = *(json_t *const *)left;
    const json_t *b = *(json_t *const *)right;
    uint64_t id_a = (uint64_t)sessions_integer(a, "id", 0) - 1;
    uint64_t id_b = (uint64_t)sessions_integer(b, "id", 0) - 1;
    if (id_a != id_b)
        return id_a < id_b ? -1 : 1;
    int order = compare_text(a, b, "local");
    return order != 0 ? order : compare_text(a, b, "remote");
}

static json_t *select_rows(json_t *all, const struct sessions_filter *filter)
{
    json_t **chosen = ctl_memory(calloc(json_array_size(all) + 1, sizeof(json_t *)));
    size_t count = 0;
    for (size_t i = 0; i < json_array_size(all); i++) {
        json_t *row = json_array_get(all, i);
        if (passes(row, filter))
            chosen[count++] = row;
    }
    qsort(chosen, count, sizeof(json_t *), compare_rows);
    json_t *rows = ctl_memory(json_array());
    for (size_t i = 0; i < count; i++)
        json_array_append(rows, chosen[i]);
    free(chosen);
    return rows;
}

static bool all_objects(const json_t *array)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        if (!json_is_object(json_array_get(array, i)))
            return false;
    }
    return json_is_array(array);
}

int sessions_fetch(const struct ctl *ctl, const struct sessions_filter *filter, json_t **rows)
{
    CTL_JSON result = NULL;
    int code = ctl_call(ctl, "list", NULL, &result);
    if (code != CTL_OK)
        return code;
    json_t *all = json_object_get(result, "sessions");
    if (!all_objects(all))
        return ctl_bad_answer(ctl, "list", "\"sessions\", an array of objects");
    *rows = select_rows(all, filter);
    return CTL_OK;
}
