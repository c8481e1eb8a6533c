// rdmactl top: the sessions by current throughput, refreshed until interrupted.
//
// Throughput is measured here, from the byte counts of two refreshes and the time between them. For the first refresh,
// which has no predecessor, it is the average over the session's life.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/sessions.h"
#include "ctl/table.h"
#include "ctl/units.h"

#define TOP_RATE_MAX    1e18 // two of them still fit in 64 bits
#define TOP_TITLE_LINES 3    // the summary, the column titles, and the line the cursor is left on

struct top {
    double delay_s;
    long long count; // 0: until interrupted
    bool terminal;
    json_t *before;   // rows of the refresh before, by key; NULL at the first
    double elapsed_s; // since then
    struct timespec taken;
    sigset_t unblocked; // the signal mask while waiting
};

static void on_signal(int number)
{
    (void)number;
    ctl_stop = 1;
}

// Without SA_RESTART: a request under way is to end too. While nothing is under way the signals are blocked and let in
// by ppoll, so that one cannot arrive between the look at ctl_stop and the wait.
static void catch_signals(struct top *top)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t blocked;
    sigemptyset(&blocked);
    static const int numbers[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        sigaction(numbers[i], &action, NULL);
        sigaddset(&blocked, numbers[i]);
    }
    sigprocmask(SIG_BLOCK, &blocked, &top->unblocked);
    sigdelset(&top->unblocked, SIGINT);
    sigdelset(&top->unblocked, SIGTERM);
}

static void wait_for_next(const struct top *top)
{
    struct timespec delay = {.tv_sec = (time_t)top->delay_s};
    delay.tv_nsec = (long)((top->delay_s - (double)delay.tv_sec) * 1e9);
    if (!ctl_stop)
        ppoll(NULL, 0, &delay, &top->unblocked);
}

// The two ends of a session have its id in common, but never both addresses.
static void row_key(char key[256], const json_t *row)
{
    const char *local = json_string_value(json_object_get(row, "local"));
    const char *remote = json_string_value(json_object_get(row, "remote"));
    snprintf(key, 256, "%lld %s %s", (long long)sessions_integer(row, "id", 0), local ? local : "",
             remote ? remote : "");
}

static int64_t capped(double rate)
{
    return rate < TOP_RATE_MAX ? (int64_t)rate : (int64_t)TOP_RATE_MAX;
}

// Bytes per second in one direction. A session that is younger than the refresh before began at 0.
// Reckoned in floating point, which no counter that an agent may report can make overflow.
static int64_t rate(const struct top *top, const json_t *row, const json_t *before, const char *field)
{
    double bytes = sessions_real(row, field, 0) - sessions_real(before, field, 0);
    double seconds = top->before ? top->elapsed_s : sessions_real(row, "age_s", 0);
    return bytes > 0 && seconds > 0.001 ? capped(bytes / seconds) : 0;
}

static void add_rates(const struct top *top, json_t *rows)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        json_t *row = json_array_get(rows, i);
        char key[256];
        row_key(key, row);
        const json_t *before = json_object_get(top->before, key);
        json_object_set_new(row, "tx_rate", ctl_memory(json_integer(rate(top, row, before, "tx_bytes"))));
        json_object_set_new(row, "rx_rate", ctl_memory(json_integer(rate(top, row, before, "rx_bytes"))));
    }
}

static void remember(struct top *top, json_t *rows)
{
    json_t *all = ctl_memory(json_object());
    for (size_t i = 0; i < json_array_size(rows); i++) {
        json_t *row = json_array_get(rows, i);
        char key[256];
        row_key(key, row);
        json_object_set(all, key, row);
    }
    json_decref(top->before);
    top->before = all;
}

static int64_t both_rates(const json_t *row)
{
    return sessions_integer(row, "tx_rate", 0) + sessions_integer(row, "rx_rate", 0);
}

struct ranked {
    json_t *row;
    size_t rank; // where the list had it: equals keep their order
};

static int compare_ranked(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    int64_t rate_a = both_rates(a->row), rate_b = both_rates(b->row);
    if (rate_a != rate_b)
        return rate_a > rate_b ? -1 : 1;
    return a->rank < b->rank ? -1 : 1;
}

static json_t *by_rate(const json_t *rows)
{
    size_t count = json_array_size(rows);
    struct ranked *ranked = ctl_memory(calloc(count + 1, sizeof(*ranked)));
    for (size_t i = 0; i < count; i++)
        ranked[i] = (struct ranked){json_array_get(rows, i), i};
    qsort(ranked, count, sizeof(*ranked), compare_ranked);
    json_t *sorted = ctl_memory(json_array());
    for (size_t i = 0; i < count; i++)
        json_array_append(sorted, ranked[i].row);
    free(ranked);
    return sorted;
}

static int print_json(const struct ctl *ctl, const json_t *rows)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double time = (double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1000;
    CTL_JSON object = ctl_memory(json_pack("{s:f, s:O}", "time", time, "sessions", rows));
    if (json_dumpf(object, stdout, JSON_COMPACT) < 0) {
        ctl_error(ctl, "cannot write: %s", strerror(errno));
        return CTL_FAILED;
    }
    putchar('\n');
    return CTL_OK;
}

static void rate_cell(struct table *table, const json_t *row, const char *field)
{
    char text[UNITS_TEXT];
    units_short(text, sessions_integer(row, field, 0));
    table_cell(table, text);
}

static void add_row(struct table *table, const json_t *row)
{
    static const char *const as_text[] = {"transport", "pid", "command", "local", "remote"};
    char room[UNITS_TEXT];
    rate_cell(table, row, "tx_rate");
    rate_cell(table, row, "rx_rate");
    table_cell(table, sessions_integer(row, "id", 0) == 0 ? NULL : sessions_text(row, "id", room));
    for (size_t i = 0; i < sizeof(as_text) / sizeof(as_text[0]); i++)
        table_cell(table, sessions_text(row, as_text[i], room));
    table_cell(table, sessions_bytes(row, "tx_bytes", room));
    table_cell(table, sessions_bytes(row, "rx_bytes", room));
}

static void print_summary(const json_t *rows)
{
    double tx = 0, rx = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        json_t *row = json_array_get(rows, i);
        tx += sessions_real(row, "tx_rate", 0);
        rx += sessions_real(row, "rx_rate", 0);
    }
    char clock[16], sent[UNITS_TEXT], received[UNITS_TEXT];
    time_t now = time(NULL);
    struct tm local;
    strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&now, &local));
    units_long(sent, capped(tx));
    units_long(received, capped(rx));
    printf("%s  %zu ends, sent %s/s, received %s/s\n", clock, json_array_size(rows), sent, received);
}

static size_t rows_shown(const struct top *top)
{
    struct winsize size;
    if (!top->terminal || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_row <= TOP_TITLE_LINES)
        return SIZE_MAX;
    return size.ws_row - TOP_TITLE_LINES;
}

static int print_table(const struct top *top, const json_t *rows)
{
    static const struct table_column columns[] = {
        {"TX/s", TABLE_RIGHT, 0}, {"RX/s", TABLE_RIGHT, 0},   {"ID", TABLE_RIGHT, 0},   {"TRANSPORT", TABLE_LEFT, 0},
        {"PID", TABLE_RIGHT, 0},  {"COMMAND", TABLE_LEFT, 8}, {"LOCAL", TABLE_LEFT, 0}, {"REMOTE", TABLE_LEFT, 0},
        {"TX", TABLE_RIGHT, 0},   {"RX", TABLE_RIGHT, 0},
    };
    if (top->terminal)
        fputs("\033[H\033[J", stdout);
    print_summary(rows);
    struct table *table = table_new(columns, sizeof(columns) / sizeof(columns[0]));
    for (size_t i = 0; i < json_array_size(rows); i++)
        add_row(table, json_array_get(rows, i));
    table_print(table, stdout, table_width(stdout), rows_shown(top));
    table_free(table);
    if (!top->terminal)
        putchar('\n');
    return CTL_OK;
}

static void take_time(struct top *top)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    top->elapsed_s = (double)(now.tv_sec - top->taken.tv_sec) + (double)(now.tv_nsec - top->taken.tv_nsec) / 1e9;
    top->taken = now;
}

// Signals come in only here and in the wait: rpc.c gives up when one does.
static int fetch(const struct ctl *ctl, struct top *top, json_t **rows)
{
    static const struct sessions_filter all;
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, &top->unblocked, &blocked);
    int code = sessions_fetch(ctl, &all, rows);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    take_time(top);
    return code;
}

static int refresh(const struct ctl *ctl, struct top *top)
{
    CTL_JSON rows = NULL;
    int code = fetch(ctl, top, &rows);
    if (code != CTL_OK)
        return code;
    add_rates(top, rows);
    remember(top, rows);
    CTL_JSON sorted = by_rate(rows);
    code = ctl->json ? print_json(ctl, sorted) : print_table(top, sorted);
    if (fflush(stdout) != 0) // main complains
        return CTL_FAILED;
    return code;
}

static int repeat(const struct ctl *ctl, struct top *top)
{
    int code = CTL_OK;
    for (long long n = 1; code == CTL_OK; n++) {
        code = refresh(ctl, top);
        if (code != CTL_OK || n == top->count)
            break;
        wait_for_next(top);
        if (ctl_stop)
            break;
    }
    json_decref(top->before);
    return ctl_stop ? CTL_OK : code;
}

static int parse_delay(const struct ctl *ctl, struct top *top)
{
    char *end;
    double seconds = strtod(optarg, &end);
    if (end == optarg || *end != '\0' || !(seconds >= 0.1 && seconds <= 86400))
        return ctl_usage(ctl, "--delay: expected seconds from 0.1 to 86400, not \"%s\"", optarg);
    top->delay_s = seconds;
    return 0;
}

static int parse_option(struct ctl *ctl, struct top *top, int found, char **argv)
{
    if (found == 'd')
        return parse_delay(ctl, top);
    if (found != 'n')
        return ctl_option(ctl, found, argv);
    if (ctl_number(optarg, 0, INT64_MAX, &top->count) < 0)
        return ctl_usage(ctl, "--count: expected a whole number, not \"%s\"", optarg);
    return 0;
}

int top_main(struct ctl *ctl, int argc, char **argv)
{
    static const struct option options[] = {
        {"delay", required_argument, NULL, 'd'}, {"count", required_argument, NULL, 'n'}, CTL_OPTIONS};
    struct top top = {.delay_s = 2, .terminal = isatty(STDOUT_FILENO) == 1};
    int found, code;
    while ((found = getopt_long(argc, argv, ":hd:n:", options, NULL)) != -1) {
        if ((code = parse_option(ctl, &top, found, argv)) != 0)
            return code;
    }
    if (optind < argc)
        return ctl_usage(ctl, "expected no arguments, not \"%s\"", argv[optind]);
    catch_signals(&top);
    return repeat(ctl, &top);
}
