// Log lines: whole, on standard error, unforgeable.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/log.h"

// While a test runs, standard error is one end of a packet socket: what arrives as one packet was one write.
struct fixture {
    int saved, reader;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    int pair[2];

    assert_non_null(fixture);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    assert_true((fixture->saved = dup(2)) >= 0);
    assert_int_equal(dup2(pair[1], 2), 2);
    close(pair[1]);
    fixture->reader = pair[0];
    unsetenv("JOURNAL_STREAM");
    log_init("test", LOG_LEVEL_INFO);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    dup2(fixture->saved, 2);
    close(fixture->saved);
    close(fixture->reader);
    free(fixture);
    return 0;
}

// Returns the next line in a static buffer; "" if there is none.
static const char *next_line(struct fixture *fixture)
{
    static char line[8192];
    ssize_t size = read(fixture->reader, line, sizeof(line) - 1);

    line[size > 0 ? size : 0] = 0;
    return line;
}

static void test_a_line_is_one_write(void **state)
{
    log_warning("%s is %d", "answer", 42);
    assert_string_equal(next_line(*state), "test: warning: answer is 42\n");
    assert_string_equal(next_line(*state), "");
}

static void test_levels(void **state)
{
    for (int threshold = LOG_LEVEL_NONE; threshold <= LOG_LEVEL_DEBUG; threshold++) {
        log_set_level((enum log_level)threshold);
        for (int level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++) {
            log_at((enum log_level)level, "x");
            assert_int_equal(next_line(*state)[0] != 0, level <= threshold);
            assert_int_equal(log_enabled((enum log_level)level), level <= threshold);
        }
    }
}

static int evaluations;

static int evaluate(void)
{
    return ++evaluations;
}

static void test_arguments_of_an_unsaid_line_are_not_evaluated(void **state)
{
    evaluations = 0;
    log_debug("%d", evaluate());
    assert_int_equal(evaluations, 0);
    log_error("%d", evaluate());
    assert_int_equal(evaluations, 1);
    assert_string_equal(next_line(*state), "test: error: 1\n");
}

static void test_level_names(void **state)
{
    for (int i = LOG_LEVEL_ERROR; i <= LOG_LEVEL_DEBUG; i++) {
        enum log_level level = LOG_LEVEL_NONE;

        assert_int_equal(log_level_from_name(log_level_name((enum log_level)i), &level), 0);
        assert_int_equal(level, i);
    }
    enum log_level untouched = LOG_LEVEL_INFO;
    assert_int_equal(log_level_from_name("loud", &untouched), -EINVAL);
    assert_int_equal(log_level_from_name("", &untouched), -EINVAL);
    assert_int_equal(log_level_from_name("none", &untouched), -EINVAL);
    assert_int_equal(untouched, LOG_LEVEL_INFO);
}

static void test_long_lines_are_cut(void **state)
{
    for (int length = 900; length < 2100; length++) {
        log_info("%0*d", length, 7);
        const char *line = next_line(*state);
        size_t size = strlen(line);
        size_t whole = strlen("test: info: ") + (size_t)length + 1;

        assert_int_equal(line[size - 1], '\n');
        if (whole <= 1024) {
            assert_int_equal(size, whole);
            assert_int_equal(line[size - 2], '7');
        } else {
            assert_int_equal(size, 1024);
            assert_memory_equal(line + size - 4, "...\n", 4);
        }
    }
}

static void test_control_characters_forge_no_line(void **state)
{
    log_info("command %s", "evil\n<0>test: error: forged\033[2J\x7f\tok");
    assert_string_equal(next_line(*state), "test: info: command evil?<0>test: error: forged?[2J??ok\n");
    log_info("%s", "na\xc3\xafve");
    assert_string_equal(next_line(*state), "test: info: na\xc3\xafve\n");
}

static void test_errno_is_left_alone(void **state)
{
    struct fixture *fixture = *state;

    errno = EXDEV;
    log_info("x");
    assert_int_equal(errno, EXDEV);
    close(2);
    errno = EXDEV;
    log_info("nowhere to go");
    log_init("test", LOG_LEVEL_INFO);
    assert_int_equal(errno, EXDEV);
    assert_int_equal(dup2(fixture->saved, 2), 2);
}

static void set_journal(unsigned long long inode_offset)
{
    struct stat status;
    char stream[64];

    assert_int_equal(fstat(2, &status), 0);
    snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)status.st_dev,
             (unsigned long long)status.st_ino + inode_offset);
    setenv("JOURNAL_STREAM", stream, 1);
    log_init("test", LOG_LEVEL_DEBUG);
}

static void test_journal_gets_priorities(void **state)
{
    set_journal(0);
    log_error("a");
    assert_string_equal(next_line(*state), "<3>a\n");
    log_warning("b");
    assert_string_equal(next_line(*state), "<4>b\n");
    log_info("c");
    assert_string_equal(next_line(*state), "<6>c\n");
    log_debug("d");
    assert_string_equal(next_line(*state), "<7>d\n");
}

static void test_a_redirected_child_of_a_unit_is_not_the_journal(void **state)
{
    set_journal(1);
    log_error("a");
    assert_string_equal(next_line(*state), "test: error: a\n");
}

static void test_nothing_is_said_seldom_at_the_wrong_level(void **state)
{
    for (int i = 0; i < 20; i++)
        log_seldom(LOG_LEVEL_DEBUG, "x");
    assert_string_equal(next_line(*state), "");
}

static void test_repeated_lines_grow_seldom(void **state)
{
    unsigned lines = 0;

    for (int i = 1; i <= 2500; i++) {
        log_seldom(LOG_LEVEL_WARNING, "dropped %s", "client");
        const char *line = next_line(*state);
        if (i == 1)
            assert_string_equal(line, "test: warning: dropped client\n");
        if (i == 1000)
            assert_string_equal(line, "test: warning: dropped client (1000 times so far)\n");
        lines += line[0] != 0;
    }
    assert_int_equal(lines, 4);

    // Another place in the code counts for itself.
    log_seldom(LOG_LEVEL_WARNING, "other");
    assert_string_equal(next_line(*state), "test: warning: other\n");
}

static void test_counter_at_its_end(void **state)
{
    _Atomic uint64_t counter = UINT64_MAX - 1;
    uint64_t times;

    assert_false(log_is_due(&counter, &times));
    assert_int_equal(times, UINT64_MAX);
    counter = 10000000000000000000ULL - 1;
    assert_true(log_is_due(&counter, &times));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_line_is_one_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_levels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_arguments_of_an_unsaid_line_are_not_evaluated, setup, teardown),
        cmocka_unit_test(test_level_names),
        cmocka_unit_test_setup_teardown(test_long_lines_are_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_control_characters_forge_no_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errno_is_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_journal_gets_priorities, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_redirected_child_of_a_unit_is_not_the_journal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_said_seldom_at_the_wrong_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_repeated_lines_grow_seldom, setup, teardown),
        cmocka_unit_test(test_counter_at_its_end),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
