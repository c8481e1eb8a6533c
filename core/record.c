#include "core/record.h"

#include <string.h>

static void write_number(uint8_t *to, uint64_t number)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(number >> 8 * i);
}

static uint64_t read_number(const uint8_t *from)
{
    uint64_t number = 0;
    for (int i = 0; i < 8; i++)
        number |= (uint64_t)from[i] << 8 * i;
    return number;
}

void record_write(const struct record *record, uint8_t to[static RECORD_BYTES])
{
    memcpy(to, record->mark, RECORD_MARK);
    write_number(to + RECORD_MARK, record->from);
    write_number(to + RECORD_MARK + 8, record->until);
}

int record_read(struct record *record, const uint8_t mark[static RECORD_MARK], const uint8_t *from, size_t size)
{
    if (memcmp(from, mark, size < RECORD_MARK ? size : RECORD_MARK) != 0)
        return RECORD_NOT;
    if (size < RECORD_BYTES)
        return RECORD_PART;
    memcpy(record->mark, from, RECORD_MARK);
    record->from = read_number(from + RECORD_MARK);
    record->until = read_number(from + RECORD_MARK + 8);
    return RECORD_WHOLE;
}
