// Messages for people, one line each, to standard error.
//
// Each line is one write, so that those of several processes do not mix. Nothing here allocates or uses stdio. Under the
// journal (JOURNAL_STREAM) a line begins with its priority, otherwise with the program's name and its level.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_NONE, LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

// Names the program (the string is kept, not copied) and sets how much it says. Before that, nothing is said at all.
void log_init(const char *program, enum log_level level);

void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);

// "error", "warning", "info", "debug". log_level_from_name returns 0 and *level, or -EINVAL.
const char *log_level_name(enum log_level level);
int log_level_from_name(const char *name, enum log_level *level);

// Use the macros below. Long lines end in "..."; control characters show as '?', so that no text from elsewhere can
// forge a line. errno is left alone.
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Counts one more occurrence and tells whether it should be said: the 1st, 10th, 100th, ... *times is which it was.
bool log_is_due(_Atomic uint64_t *counter, uint64_t *times);

#define log_at(level, ...) \
    do { \
        if (log_enabled(level)) \
            log_line(level, __VA_ARGS__); \
    } while (0)

#define log_error(...)   log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

// For what a client can cause as often as it likes: each place in the code says it the first time, and then ever more
// seldom, with the count. The format must be a string literal.
#define log_seldom(level, format, ...) \
    do { \
        static _Atomic uint64_t log_counter; \
        uint64_t log_times; \
        if (log_is_due(&log_counter, &log_times)) { \
            if (log_times == 1) \
                log_at(level, format, ##__VA_ARGS__); \
            else \
                log_at(level, format " (%llu times so far)", ##__VA_ARGS__, (unsigned long long)log_times); \
        } \
    } while (0)
