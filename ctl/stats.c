// rdmactl stats: the agent's counters.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "ctl/ctl.h"
#include "ctl/sessions.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "ctl/units.h"

#define LABEL 14

static const json_t *at(const json_t *value, const char *group, const char *key)
{
    return json_object_get(json_object_get(value, group), key);
}

// "-" stands for a counter that this agent does not have.
static const char *count(const json_t *value, char room[UNITS_TEXT])
{
    if (!json_is_integer(value))
        return "-";
    snprintf(room, UNITS_TEXT, "%lld", (long long)json_integer_value(value));
    return room;
}

static const char *bytes(const json_t *value, char room[UNITS_TEXT])
{
    if (!json_is_integer(value))
        return "-";
    units_long(room, json_integer_value(value));
    return room;
}

static void print_label(const char *label)
{
    printf("%-*s  ", LABEL, label);
}

static void print_string(const json_t *value, const char *missing)
{
    text_print(stdout, json_is_string(value) ? json_string_value(value) : missing);
}

static void print_agent(const json_t *stats)
{
    char room[UNITS_TEXT];
    print_label("agent");
    print_string(at(stats, "agent", "version"), "-");
    printf(", pid %s", count(at(stats, "agent", "pid"), room));
    units_age(room, json_number_value(at(stats, "agent", "uptime_s")));
    printf(", up %s\n", room);
    print_label("directory");
    print_string(at(stats, "agent", "runtime_dir"), "-");
    putchar('\n');
    print_label("configuration");
    print_string(at(stats, "agent", "config"), "defaults");
    putchar('\n');
}

// "KEY N, KEY N" for the named counters of a group.
static void print_counts(const json_t *stats, const char *label, const char *group, const char *const *keys, size_t n)
{
    char room[UNITS_TEXT];
    print_label(label);
    for (size_t i = 0; i < n; i++)
        printf("%s%s %s", i > 0 ? ", " : "", keys[i], count(at(stats, group, keys[i]), room));
    putchar('\n');
}

static void print_traffic(const json_t *stats)
{
    static const char *const sessions[] = {"shm", "rdma", "total", "declined", "recalled", "ends_left"};
    static const char *const offers[] = {"waiting", "total", "refused", "withdrawn", "replaced"};
    static const char *const links[] = {"up", "peers", "refused"};
    char one[UNITS_TEXT], two[UNITS_TEXT], three[UNITS_TEXT];
    print_label("clients");
    printf("%s now, refused %s\n", count(json_object_get(stats, "clients"), one),
           count(json_object_get(stats, "clients_refused"), two));
    print_counts(stats, "sessions", "sessions", sessions, sizeof(sessions) / sizeof(sessions[0]));
    print_counts(stats, "offers", "offers", offers, sizeof(offers) / sizeof(offers[0]));
    print_counts(stats, "links", "links", links, sizeof(links) / sizeof(links[0]));
    print_label("ring memory");
    printf("%s of at most %s; %s pooled\n", bytes(at(stats, "ring_memory", "bytes"), one),
           bytes(at(stats, "ring_memory", "limit_bytes"), two), bytes(at(stats, "ring_memory", "pooled_bytes"), three));
    print_label("through rings");
    printf("sent %s, received %s\n", bytes(at(stats, "bytes", "tx"), one), bytes(at(stats, "bytes", "rx"), two));
    print_label("bad messages");
    puts(count(json_object_get(stats, "protocol_errors"), one));
}

static void print_reasons(json_t *reasons)
{
    bool any = false;
    char room[UNITS_TEXT];
    for (void *counter = json_object_iter(reasons); counter; counter = json_object_iter_next(reasons, counter)) {
        const json_t *value = json_object_iter_value(counter);
        if (json_integer_value(value) == 0)
            continue;
        print_label(any ? "" : "stayed TCP");
        text_print(stdout, json_object_iter_key(counter));
        printf(" %s\n", count(value, room));
        any = true;
    }
    if (!any) {
        print_label("stayed TCP");
        puts("none");
    }
}

static void print_users(const json_t *users)
{
    static const struct table_column columns[] = {
        {"USER", TABLE_LEFT, 0}, {"UID", TABLE_RIGHT, 0}, {"SESSIONS", TABLE_RIGHT, 0}, {"RINGS", TABLE_RIGHT, 0}};
    if (json_array_size(users) == 0)
        return;
    struct table *table = table_new(columns, sizeof(columns) / sizeof(columns[0]));
    char room[UNITS_TEXT];
    for (size_t i = 0; i < json_array_size(users); i++) {
        json_t *user = json_array_get(users, i);
        table_cell(table, sessions_text(user, "user", room));
        table_cell(table, sessions_text(user, "uid", room));
        table_cell(table, sessions_text(user, "sessions", room));
        table_cell(table, sessions_bytes(user, "ring_bytes", room));
    }
    putchar('\n');
    table_print(table, stdout, table_width(stdout), SIZE_MAX);
    table_free(table);
}

int stats_main(struct ctl *ctl, int argc, char **argv)
{
    int code = ctl_no_arguments(ctl, argc, argv);
    if (code != 0)
        return code;
    CTL_JSON stats = NULL;
    code = ctl_call(ctl, "stats", NULL, &stats);
    if (code != CTL_OK)
        return code;
    if (!json_is_object(json_object_get(stats, "agent")))
        return ctl_bad_answer(ctl, "stats", "\"agent\", an object");
    if (ctl->json)
        return ctl_print_json(ctl, stats);
    print_agent(stats);
    print_traffic(stats);
    print_reasons(json_object_get(stats, "reasons"));
    print_users(json_object_get(stats, "users"));
    return CTL_OK;
}
