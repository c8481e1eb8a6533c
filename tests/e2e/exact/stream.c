#include "tests/e2e/exact/stream.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/exact/chance.h"

// How far from its place a stray byte is looked for.
#define SEARCH (8 << 20)

// As many equal bytes are no coincidence.
#define CERTAIN 12

uint64_t seed;

void fail(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dprintf(STDERR_FILENO, "not ok (seed %llu, pid %d): %s\n", (unsigned long long)seed, getpid(), text);
    _exit(1);
}

static uint64_t word_at(uint64_t id, uint64_t offset)
{
    return mix(id * 0x9e3779b97f4a7c15ULL + offset / 8);
}

static unsigned char byte_at(uint64_t id, uint64_t offset)
{
    return (unsigned char)(word_at(id, offset) >> (8 * (offset % 8)));
}

void stream_fill(const struct stream *stream, uint64_t offset, unsigned char *bytes, size_t count)
{
    size_t at = 0;
    while (at < count && (offset + at) % 8) {
        bytes[at] = byte_at(stream->id, offset + at);
        at++;
    }
    for (; at + 8 <= count; at += 8) {
        uint64_t word = word_at(stream->id, offset + at);
        memcpy(bytes + at, &word, 8);
    }
    for (; at < count; at++)
        bytes[at] = byte_at(stream->id, offset + at);
}

static size_t first_difference(const struct stream *stream, uint64_t offset, const unsigned char *bytes, size_t count)
{
    size_t at = 0;
    while (at < count && bytes[at] == byte_at(stream->id, offset + at))
        at++;
    return at;
}

static int belongs_at(uint64_t id, uint64_t offset, const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != byte_at(id, offset + i))
            return 0;
    }
    return 1;
}

// Says where the bytes that stand at `offset` come from.
static void explain(const struct stream *stream, uint64_t offset, const unsigned char *bytes, size_t count, char *text,
                    size_t size)
{
    size_t sample = count < CERTAIN ? count : CERTAIN;
    for (uint64_t distance = 1; sample == CERTAIN && distance < SEARCH; distance++) {
        if (belongs_at(stream->id, offset + distance, bytes, sample)) {
            snprintf(text, size, "%llu bytes are missing", (unsigned long long)distance);
            return;
        }
        if (distance <= offset && belongs_at(stream->id, offset - distance, bytes, sample)) {
            snprintf(text, size, "the bytes of offset %llu again", (unsigned long long)(offset - distance));
            return;
        }
    }
    for (uint64_t other = 0; sample == CERTAIN && other < 4096; other++) {
        if (belongs_at(other, offset, bytes, sample)) {
            snprintf(text, size, "bytes of stream %llu", (unsigned long long)other);
            return;
        }
    }
    int length = snprintf(text, size, "unknown bytes");
    for (size_t i = 0; i < sample; i++)
        length += snprintf(text + length, size - length, " %02x", bytes[i]);
}

void stream_check(const struct stream *stream, const unsigned char *bytes, size_t count, const char *call)
{
    static _Thread_local unsigned char expected[65536];
    if (stream->offset + count > stream->total)
        fail("stream %llu: %s gave %zu bytes at offset %llu, beyond the end at %llu", (unsigned long long)stream->id,
             call, count, (unsigned long long)stream->offset, (unsigned long long)stream->total);
    for (size_t at = 0; at < count; at += sizeof expected) {
        size_t part = count - at < sizeof expected ? count - at : sizeof expected;
        stream_fill(stream, stream->offset + at, expected, part);
        if (memcmp(expected, bytes + at, part) == 0)
            continue;
        char text[256];
        size_t wrong = at + first_difference(stream, stream->offset + at, bytes + at, part);
        explain(stream, stream->offset + wrong, bytes + wrong, count - wrong, text, sizeof text);
        fail("stream %llu: wrong from offset %llu, byte %zu of %zu that %s gave: %s", (unsigned long long)stream->id,
             (unsigned long long)(stream->offset + wrong), wrong, count, call, text);
    }
}

void stream_check_end(const struct stream *stream, const char *call)
{
    if (stream->offset != stream->total)
        fail("stream %llu: %s says that it ends at offset %llu instead of %llu", (unsigned long long)stream->id, call,
             (unsigned long long)stream->offset, (unsigned long long)stream->total);
}
