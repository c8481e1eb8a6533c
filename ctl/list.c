// rdmactl list: every end of a session on this host, and every connection that is offered and waits for its other half.
#include <stdint.h>
#include <stdio.h>

#include "ctl/ctl.h"
#include "ctl/sessions.h"
#include "ctl/table.h"
#include "ctl/units.h"

static const struct table_column columns[] = {
    {"ID", TABLE_RIGHT, 0},     {"TRANSPORT", TABLE_LEFT, 0}, {"STATE", TABLE_LEFT, 0}, {"PID", TABLE_RIGHT, 0},
    {"COMMAND", TABLE_LEFT, 8}, {"USER", TABLE_LEFT, 6},      {"LOCAL", TABLE_LEFT, 0}, {"REMOTE", TABLE_LEFT, 0},
    {"TX", TABLE_RIGHT, 0},     {"RX", TABLE_RIGHT, 0},       {"AGE", TABLE_RIGHT, 0},
};

static void add_row(struct table *table, const json_t *row)
{
    static const char *const as_text[] = {"transport", "state", "pid", "command", "user", "local", "remote"};
    char room[UNITS_TEXT];
    table_cell(table, sessions_integer(row, "id", 0) == 0 ? NULL : sessions_text(row, "id", room));
    for (size_t i = 0; i < sizeof(as_text) / sizeof(as_text[0]); i++)
        table_cell(table, sessions_text(row, as_text[i], room));
    table_cell(table, sessions_bytes(row, "tx_bytes", room));
    table_cell(table, sessions_bytes(row, "rx_bytes", room));
    double age = sessions_real(row, "age_s", -1);
    units_age(room, age);
    table_cell(table, age < 0 ? NULL : room);
}

static int print_rows(const json_t *rows)
{
    if (json_array_size(rows) == 0) {
        puts("no sessions");
        return CTL_OK;
    }
    struct table *table = table_new(columns, sizeof(columns) / sizeof(columns[0]));
    for (size_t i = 0; i < json_array_size(rows); i++)
        add_row(table, json_array_get(rows, i));
    table_print(table, stdout, table_width(stdout), SIZE_MAX);
    table_free(table);
    return CTL_OK;
}

static int parse_options(struct ctl *ctl, int argc, char **argv, struct sessions_filter *filter)
{
    static const struct option options[] = {
        {"pid", required_argument, NULL, 'p'}, {"port", required_argument, NULL, 'P'}, CTL_OPTIONS};
    int found, code;
    while ((found = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (found == 'p') {
            if (ctl_number(optarg, 1, INT32_MAX, &filter->pid) < 0)
                return ctl_usage(ctl, "--pid: expected a process id, not \"%s\"", optarg);
        } else if (found == 'P') {
            if (ctl_number(optarg, 1, UINT16_MAX, &filter->port) < 0)
                return ctl_usage(ctl, "--port: expected a number from 1 to 65535, not \"%s\"", optarg);
        } else if ((code = ctl_option(ctl, found, argv)) != 0) {
            return code;
        }
    }
    if (optind < argc)
        return ctl_usage(ctl, "expected no arguments, not \"%s\"; choose with --pid or --port", argv[optind]);
    return 0;
}

int list_main(struct ctl *ctl, int argc, char **argv)
{
    struct sessions_filter filter = {0};
    int code = parse_options(ctl, argc, argv, &filter);
    if (code != 0)
        return code;
    CTL_JSON rows = NULL;
    code = sessions_fetch(ctl, &filter, &rows);
    if (code != CTL_OK)
        return code;
    return ctl->json ? ctl_print_json(ctl, rows) : print_rows(rows);
}
