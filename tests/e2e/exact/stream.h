// What a stream must carry: each byte is a function of the stream's number and the byte's offset, so that a lost,
// doubled, moved or foreign byte is recognised, and named, wherever it turns up.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct stream {
    uint64_t id;
    uint64_t offset; // bytes sent, or received, so far
    uint64_t until;  // stop here for now
    uint64_t total;  // bytes until the end of the stream
};

// Writes what the stream must have at `offset`.
void stream_fill(const struct stream *stream, uint64_t offset, unsigned char *bytes, size_t count);

// Checks received bytes that belong at stream->offset; fails the program, saying what is wrong, if they differ or lie
// beyond the end. `call` names the call that received them.
void stream_check(const struct stream *stream, const unsigned char *bytes, size_t count, const char *call);

// Checks that the stream may end here.
void stream_check_end(const struct stream *stream, const char *call);

// Ends the process with a message. It names the seed, which repeats the run.
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

extern uint64_t seed;
