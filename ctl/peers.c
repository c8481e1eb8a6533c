// rdmactl peers: the other hosts of the agent's configuration, and the links with them. With --connect it has the links
// made, and waits for them: so keys and network can be tried before a program depends on them.
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ctl/ctl.h"
#include "ctl/sessions.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "ctl/units.h"

// How long links may take to be made. An attempt that nobody answers ends after half of it.
#define LOOKS   100
#define LOOK_NS 100000000L

enum { OPTION_CONNECT = 'c' };

static const struct table_column columns[] = {
    {"PEER", TABLE_LEFT, 8},      {"ADDRESS", TABLE_LEFT, 0}, {"STATE", TABLE_LEFT, 0},
    {"FOR", TABLE_RIGHT, 0},      {"DEVICE", TABLE_LEFT, 0},  {"RTT", TABLE_RIGHT, 0},
    {"SESSIONS", TABLE_RIGHT, 0}, {"TX", TABLE_RIGHT, 0},     {"RX", TABLE_RIGHT, 0},
};

static void add_row(struct table *table, const json_t *peer)
{
    static const char *const as_text[] = {"name", "address", "state"};
    char room[UNITS_TEXT];
    for (size_t i = 0; i < sizeof(as_text) / sizeof(as_text[0]); i++)
        table_cell(table, sessions_text(peer, as_text[i], room));
    double since = sessions_real(peer, "since_s", -1);
    units_age(room, since);
    table_cell(table, since < 0 ? NULL : room);
    table_cell(table, sessions_text(peer, "device", room));
    int64_t rtt = sessions_integer(peer, "rtt_us", 0);
    snprintf(room, sizeof(room), "%lld us", (long long)rtt);
    table_cell(table, rtt > 0 ? room : NULL);
    table_cell(table, sessions_text(peer, "sessions", room));
    table_cell(table, sessions_bytes(peer, "tx_bytes", room));
    table_cell(table, sessions_bytes(peer, "rx_bytes", room));
}

static void print_errors(const json_t *peers)
{
    for (size_t i = 0; i < json_array_size(peers); i++) {
        const json_t *peer = json_array_get(peers, i);
        char room[UNITS_TEXT];
        const char *error = sessions_text(peer, "error", room);
        if (!error)
            continue;
        text_print(stdout, sessions_text(peer, "name", room));
        fputs(": ", stdout);
        text_print(stdout, error);
        putchar('\n');
    }
}

static void print_peers(const json_t *peers)
{
    if (json_array_size(peers) == 0) {
        puts("no peers");
        return;
    }
    struct table *table = table_new(columns, sizeof(columns) / sizeof(columns[0]));
    for (size_t i = 0; i < json_array_size(peers); i++)
        add_row(table, json_array_get(peers, i));
    table_print(table, stdout, table_width(stdout), SIZE_MAX);
    table_free(table);
    print_errors(peers);
}

static bool is_right(const json_t *peers)
{
    for (size_t i = 0; i < json_array_size(peers); i++) {
        if (!json_is_string(json_object_get(json_array_get(peers, i), "name")))
            return false;
    }
    return json_is_array(peers);
}

// Asks, and checks the answer. Returns 0 and *result, the caller's, or an exit code.
static int ask(struct ctl *ctl, const char *method, json_t *params, json_t **result)
{
    json_t *answer = NULL;
    int code = ctl_call(ctl, method, params, &answer);
    if (code != CTL_OK)
        return code;
    if (!is_right(json_object_get(answer, "peers"))) {
        json_decref(answer);
        return ctl_bad_answer(ctl, method, "\"peers\", an array of objects");
    }
    json_decref(*result);
    *result = answer;
    return CTL_OK;
}

// Of one peer, or of all.
static bool are_up(const json_t *result, const char *name)
{
    const json_t *peers = json_object_get(result, "peers");
    for (size_t i = 0; i < json_array_size(peers); i++) {
        const json_t *peer = json_array_get(peers, i);
        const char *state = json_string_value(json_object_get(peer, "state"));
        if (name && strcmp(json_string_value(json_object_get(peer, "name")), name) != 0)
            continue;
        if (!state || strcmp(state, "up") != 0)
            return false;
    }
    return true;
}

static int connect_links(struct ctl *ctl, const char *name, json_t **result)
{
    static const struct timespec pause = {.tv_nsec = LOOK_NS};
    json_t *params = ctl_memory(json_object());
    if (name)
        json_object_set_new(params, "name", ctl_memory(json_string(name)));
    int code = ask(ctl, "peers.connect", params, result);
    for (int i = 0; code == CTL_OK && i < LOOKS && !are_up(*result, name); i++) {
        nanosleep(&pause, NULL);
        code = ask(ctl, "peers", NULL, result);
    }
    return code;
}

// Returns 0 and what is asked for, or as ctl_option.
static int parse_arguments(struct ctl *ctl, int argc, char **argv, bool *connect, const char **name)
{
    static const struct option options[] = {{"connect", no_argument, NULL, OPTION_CONNECT}, CTL_OPTIONS};
    int found, code;
    while ((found = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (found == OPTION_CONNECT)
            *connect = true;
        else if ((code = ctl_option(ctl, found, argv)) != 0)
            return code;
    }
    if (optind < argc && !*connect)
        return ctl_usage(ctl, "expected no arguments, not \"%s\"; --connect takes a peer's name", argv[optind]);
    if (argc - optind > 1)
        return ctl_usage(ctl, "expected one peer, not \"%s\" as well", argv[optind + 1]);
    *name = optind < argc ? argv[optind] : NULL;
    return 0;
}

int peers_main(struct ctl *ctl, int argc, char **argv)
{
    bool connect = false;
    const char *name = NULL;
    CTL_JSON result = NULL;
    int code = parse_arguments(ctl, argc, argv, &connect, &name);
    if (code != 0)
        return code;
    code = connect ? connect_links(ctl, name, &result) : ask(ctl, "peers", NULL, &result);
    if (code != CTL_OK)
        return code;
    if (ctl->json)
        code = ctl_print_json(ctl, result);
    else
        print_peers(json_object_get(result, "peers"));
    return code == CTL_OK && connect && !are_up(result, name) ? CTL_FAILED : code;
}
