// Reading configurations: what is written is what holds, a mistake leaves nothing behind, differences are found.
//
// The many mistakes that there are, and how they are named, are tested on the program itself (tests/agent).

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/config.h"

static char path[] = "/tmp/rdma-config-XXXXXX";
static char error[CONFIG_ERROR];

static int setup(void **state)
{
    int fd;

    strcpy(path + sizeof(path) - 7, "XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    return 0;
}

static int teardown(void **state)
{
    return unlink(path);
}

static void write_file(const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static struct config load(const char *text)
{
    struct config config;

    write_file(text);
    assert_int_equal(config_load(&config, path, error), 0);
    return config;
}

static void test_empty_is_default(void **state)
{
    struct config config = load("{}"), fresh;
    json_t *difference;

    config_init(&fresh);
    difference = config_difference(&config, &fresh);
    assert_int_equal(json_array_size(difference), 0);
    assert_true(config.upgrade.enabled && config.upgrade.ports.allow.all && config.namespaces.all);
    assert_int_equal(config.upgrade.after_calls, 8);
    assert_int_equal(config.rings.bytes, 262144);
    assert_int_equal(config.limits.ring_memory, (uint64_t)4 << 30);
    assert_int_equal(config.log.level, LOG_LEVEL_INFO);
    json_decref(difference);
    config_deinit(&config);
    config_deinit(&fresh);
}

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {
        {"0", 0},
        {"7", 7},
        {"\"7\"", 7},
        {"\"7B\"", 7},
        {"\"7KiB\"", 7168},
        {"\"7MiB\"", 7 << 20},
        {"\"7GiB\"", (uint64_t)7 << 30},
        {"\"7TiB\"", (uint64_t)7 << 40},
    };
    char text[128];

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        snprintf(text, sizeof(text), "{\"upgrade\": {\"after_bytes\": %s}}", sizes[i].text);
        struct config config = load(text);
        assert_int_equal(config.upgrade.after_bytes, sizes[i].bytes);
        config_deinit(&config);
    }
}

static void test_lists(void **state)
{
    struct config config = load("{\"upgrade\": {\"ports\": {\"deny\": [22, \"80-90\"], \"allow\": null},"
                                "             \"users\": {\"allow\": [\"root\", 7]}},"
                                " \"namespaces\": [\"self\", \"/run/netns/web\"]}");
    const struct policy_ports *ports = config.upgrade.ports.deny.items;
    const struct policy_user *users = config.upgrade.users.allow.items;
    char *const *paths = config.namespaces.items;

    assert_int_equal(config.upgrade.ports.deny.count, 2);
    assert_int_equal(ports[0].first, 22);
    assert_int_equal(ports[0].last, 22);
    assert_int_equal(ports[1].first, 80);
    assert_int_equal(ports[1].last, 90);
    assert_true(config.upgrade.ports.allow.all);
    assert_false(config.upgrade.users.allow.all);
    assert_int_equal(users[0].uid, 0);
    assert_string_equal(users[0].name, "root");
    assert_int_equal(users[1].uid, 7);
    assert_false(config.namespaces.all);
    assert_string_equal(paths[0], "self");
    assert_string_equal(paths[1], "/run/netns/web");
    config_deinit(&config);
}

static void test_an_empty_list_is_not_all(void **state)
{
    struct config config = load("{\"upgrade\": {\"users\": {\"allow\": []}}, \"namespaces\": []}");

    assert_false(config.upgrade.users.allow.all || config.namespaces.all);
    assert_int_equal(config.upgrade.users.allow.count + config.namespaces.count, 0);
    config_deinit(&config);
}

static void check_mistake(const char *text, const char *expected)
{
    struct config config;

    write_file(text);
    assert_int_equal(config_load(&config, path, error), -EINVAL);
    assert_memory_equal(error, path, strlen(path));
    assert_string_equal(error + strlen(path), expected);
}

// Also after lists were read, whose memory a sanitizer would miss.
static void test_mistakes(void **state)
{
    check_mistake(
        "{\"upgrade\": {\"ports\": {\"deny\": [1, 2, \"x\"]}}}",
        ": upgrade.ports.deny[2]: expected a port (1 to 65535) or a range such as \"8000-8999\", found \"x\"");
    check_mistake("{\"namespaces\": [\"/a\", \"/b\", 3]}",
                  ": namespaces[2]: expected an absolute path such as \"/run/netns/web\", or \"self\", found 3");
    check_mistake(
        "{\"namespaces\": [\"/a\"], \"upgrade\": {\"users\": {\"deny\": [1]}, \"on\": true}}",
        ": upgrade.on: unknown key, expected one of enabled, after_calls, after_bytes, ports, addresses, users");
    check_mistake("{\"rings\": {\"bytes\": 0}}",
                  ": rings.bytes: expected a number of bytes from 16384 to 67108864, or a string such as \"256KiB\", "
                  "found 0");
    check_mistake("7", ": line 1, column 1: expected JSON: '[' or '{' expected near '7'");
}

static void test_no_file(void **state)
{
    struct config config;

    assert_int_equal(config_load(&config, "/no/such/file", error), -ENOENT);
    assert_string_equal(error, "/no/such/file: cannot be read: No such file or directory");
}

static void test_writing_and_reading_again(void **state)
{
    struct config config = load("{\"upgrade\": {\"enabled\": false, \"ports\": {\"deny\": [\"1-5\"], \"allow\": [9]},"
                                "  \"addresses\": {\"deny\": [\"fd00::/8\", \"10.0.0.0/8\"]}},"
                                " \"limits\": {\"rate_per_session\": \"1MiB\"}, \"log\": {\"level\": \"error\"}}");
    json_t *document = config_to_json(&config), *difference;
    char *text = json_dumps(document, 0);
    struct config again = load(text);

    difference = config_difference(&config, &again);
    assert_int_equal(json_array_size(difference), 0);
    json_decref(difference);
    json_decref(document);
    free(text);
    config_deinit(&config);
    config_deinit(&again);
}

static void test_differences(void **state)
{
    struct config before = load("{}"), after = load("{\"upgrade\": {\"after_calls\": 9, \"ports\": {\"deny\": [1]}},"
                                                    " \"namespaces\": [], \"log\": {\"level\": \"info\"}}");
    json_t *difference = config_difference(&before, &after);
    char *text = json_dumps(difference, JSON_COMPACT);

    assert_string_equal(text, "[\"upgrade.after_calls\",\"upgrade.ports.deny\",\"namespaces\"]");
    free(text);
    json_decref(difference);
    config_deinit(&before);
    config_deinit(&after);
}

static void test_limits(void **state)
{
    struct limits limits = {.sessions_per_user = 1, .ring_memory = 2};
    json_t *good = json_pack("{s:i, s:s}", "sessions_per_user", 5, "rate_per_session", "1KiB");
    json_t *bad = json_pack("{s:i, s:i}", "sessions_per_user", 6, "ring_memory", 0);

    assert_int_equal(config_set_limits(&limits, good, error), 0);
    assert_int_equal(limits.sessions_per_user, 5);
    assert_int_equal(limits.rate_per_session, 1024);
    assert_int_equal(limits.ring_memory, 2);
    assert_int_equal(config_set_limits(&limits, bad, error), -EINVAL);
    assert_memory_equal(error, "limits.ring_memory: expected", 28);
    assert_int_equal(limits.sessions_per_user, 5);
    json_decref(good);
    json_decref(bad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_empty_is_default, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lists, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_empty_list_is_not_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mistakes, setup, teardown),
        cmocka_unit_test(test_no_file),
        cmocka_unit_test_setup_teardown(test_writing_and_reading_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_differences, setup, teardown),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
