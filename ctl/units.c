#include "ctl/units.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const suffixes[] = {"", "KiB", "MiB", "GiB", "TiB"};

#define SUFFIXES (sizeof(suffixes) / sizeof(suffixes[0]))

// Scales to below 1024. The limit stands a little lower, so that rounding never yields "1024K".
static double scale(int64_t bytes, unsigned *power)
{
    double value = (double)bytes;
    *power = 0;
    while (value >= 1023.5 && *power + 1 < SUFFIXES) {
        value /= 1024;
        (*power)++;
    }
    return value;
}

static int digits_after_point(double value, unsigned power)
{
    return power > 0 && value < 9.95 ? 1 : 0;
}

void units_short(char out[UNITS_TEXT], int64_t bytes)
{
    unsigned power;
    double value = scale(bytes, &power);
    snprintf(out, UNITS_TEXT, "%.*f%.1s", digits_after_point(value, power), value, suffixes[power]);
}

void units_long(char out[UNITS_TEXT], int64_t bytes)
{
    unsigned power;
    double value = scale(bytes, &power);
    snprintf(out, UNITS_TEXT, "%.*f %s", digits_after_point(value, power), value, power ? suffixes[power] : "B");
}

void units_exact(char out[UNITS_TEXT], int64_t bytes)
{
    unsigned power = 0;
    while (bytes != 0 && bytes % 1024 == 0 && power + 1 < SUFFIXES) {
        bytes /= 1024;
        power++;
    }
    snprintf(out, UNITS_TEXT, "%lld%s", (long long)bytes, suffixes[power]);
}

void units_age(char out[UNITS_TEXT], double seconds)
{
    long long whole = seconds > 0 && seconds < 1e12 ? (long long)seconds : 0;
    if (whole < 60)
        snprintf(out, UNITS_TEXT, "%llds", whole);
    else if (whole < 3600)
        snprintf(out, UNITS_TEXT, "%lldm%02llds", whole / 60, whole % 60);
    else if (whole < 86400)
        snprintf(out, UNITS_TEXT, "%lldh%02lldm", whole / 3600, whole / 60 % 60);
    else
        snprintf(out, UNITS_TEXT, "%lldd%02lldh", whole / 86400, whole / 3600 % 24);
}

static int parse_suffix(const char *text, unsigned *power)
{
    while (*text == ' ')
        text++;
    for (*power = 0; *power < SUFFIXES; (*power)++) {
        if (strcmp(text, suffixes[*power]) == 0)
            return 0;
    }
    return -EINVAL;
}

int units_parse(const char *text, int64_t *bytes)
{
    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0)
        return -ERANGE;
    unsigned power;
    if (parse_suffix(end, &power) < 0)
        return -EINVAL;
    if (value > INT64_MAX >> (10 * power))
        return -ERANGE;
    *bytes = (int64_t)value << (10 * power);
    return 0;
}
