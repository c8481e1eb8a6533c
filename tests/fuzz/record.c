// What may stand in a stream where a ring was left. The first 16 bytes of an input are the mark that is expected.

#include <string.h>

#include "core/record.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct record record;
    uint8_t again[RECORD_BYTES];

    if (size < RECORD_MARK)
        return 0;
    const uint8_t *from = data + RECORD_MARK;
    // Exactly as much as there is, so that the sanitizer sees a byte too many.
    size -= RECORD_MARK;
    uint8_t *bytes = malloc(size ? size : 1);
    MUST(bytes);
    memcpy(bytes, from, size);
    int what = record_read(&record, data, bytes, size);
    MUST(what == RECORD_NOT || what == RECORD_PART || what == RECORD_WHOLE);
    if (what == RECORD_PART)
        MUST(size < RECORD_BYTES && memcmp(bytes, data, size < RECORD_MARK ? size : RECORD_MARK) == 0);
    if (what == RECORD_WHOLE) {
        record_write(&record, again);
        MUST(memcmp(again, bytes, RECORD_BYTES) == 0);
    }
    free(bytes);
    return 0;
}
