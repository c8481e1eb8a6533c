// Lines to standard error.

#include "core/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/sys.h"

#define LINE_BYTES 1024

static const char *const names[] = {
    [LOG_LEVEL_NONE] = "none", [LOG_LEVEL_ERROR] = "error", [LOG_LEVEL_WARNING] = "warning",
    [LOG_LEVEL_INFO] = "info", [LOG_LEVEL_DEBUG] = "debug",
};

// syslog's priorities, as the journal reads them.
static const char priorities[] = {
    [LOG_LEVEL_ERROR] = '3', [LOG_LEVEL_WARNING] = '4', [LOG_LEVEL_INFO] = '6', [LOG_LEVEL_DEBUG] = '7'};

static const char *program = "rdma";
static _Atomic int threshold = LOG_LEVEL_NONE;
static bool to_journal;

// JOURNAL_STREAM is inherited by children whose standard error goes elsewhere, so its device and inode must match.
static bool is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    char own[64];
    struct stat status;

    if (!stream || fstat(2, &status) < 0)
        return false;
    snprintf(own, sizeof(own), "%llu:%llu", (unsigned long long)status.st_dev, (unsigned long long)status.st_ino);
    return strcmp(stream, own) == 0;
}

void log_init(const char *program_name, enum log_level level)
{
    int saved = errno;

    program = program_name;
    to_journal = is_journal();
    log_set_level(level);
    errno = saved;
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&threshold, (int)level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&threshold, memory_order_relaxed);
}

const char *log_level_name(enum log_level level)
{
    return names[level];
}

int log_level_from_name(const char *name, enum log_level *level)
{
    for (int i = LOG_LEVEL_ERROR; i <= LOG_LEVEL_DEBUG; i++) {
        if (strcmp(name, names[i]) == 0) {
            *level = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

static void hide_control_characters(char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
    }
}

// Returns the length of what stands in front of the message.
static size_t begin_line(char line[static LINE_BYTES], enum log_level level)
{
    if (to_journal)
        return (size_t)snprintf(line, LINE_BYTES, "<%c>", priorities[level]);
    return (size_t)snprintf(line, LINE_BYTES, "%.64s: %s: ", program, names[level]);
}

void log_line(enum log_level level, const char *format, ...)
{
    int saved = errno;
    char line[LINE_BYTES];
    size_t begin = begin_line(line, level);
    va_list arguments;

    va_start(arguments, format);
    int wanted = vsnprintf(line + begin, sizeof(line) - begin, format, arguments);
    va_end(arguments);
    hide_control_characters(line + begin);
    if (wanted >= 0 && begin + (size_t)wanted >= sizeof(line))
        memcpy(line + sizeof(line) - 4, "...", 4);

    size_t length = strlen(line);
    line[length] = '\n'; // in place of the terminator, which a write does not need
    sys_write(2, line, length + 1);
    errno = saved;
}

bool log_is_due(_Atomic uint64_t *counter, uint64_t *times)
{
    uint64_t power = 1;

    *times = atomic_fetch_add_explicit(counter, 1, memory_order_relaxed) + 1;
    while (power < *times && power <= UINT64_MAX / 10)
        power *= 10;
    return power == *times;
}
