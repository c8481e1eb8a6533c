// A place in a list of buffers: what is left to send, or to fill.
#pragma once

#include <stddef.h>
#include <string.h>
#include <sys/uio.h>

struct spans {
    const struct iovec *iov; // the buffer we are in
    size_t count;            // buffers left, this one included
    size_t offset;           // into the first of them
};

static inline struct spans spans_of(const struct iovec *iov, size_t count)
{
    return (struct spans){.iov = iov, .count = count, .offset = 0};
}

// Bytes left, in all.
static inline size_t spans_left(const struct spans *spans)
{
    if (spans->count == 1)
        return spans->iov->iov_len - spans->offset;
    size_t left = 0;
    for (size_t i = 0; i < spans->count; i++)
        left += spans->iov[i].iov_len;
    return left - (spans->count ? spans->offset : 0);
}

static inline void spans_skip_empty(struct spans *spans)
{
    while (spans->count && spans->offset == spans->iov->iov_len) {
        spans->iov++;
        spans->count--;
        spans->offset = 0;
    }
}

// Moves on by `n` bytes, at most spans_left().
static inline void spans_skip(struct spans *spans, size_t n)
{
    while (n) {
        size_t here = spans->iov->iov_len - spans->offset;
        size_t step = n < here ? n : here;
        spans->offset += step;
        n -= step;
        spans_skip_empty(spans);
    }
}

// Copies the next `n` bytes out of the buffers, and moves on. n <= spans_left().
static inline void spans_gather(struct spans *spans, void *to, size_t n)
{
    unsigned char *out = (unsigned char *)to;
    while (n) {
        size_t here = spans->iov->iov_len - spans->offset;
        size_t step = n < here ? n : here;
        memcpy(out, (const unsigned char *)spans->iov->iov_base + spans->offset, step);
        out += step;
        n -= step;
        spans->offset += step;
        spans_skip_empty(spans);
    }
}

// Copies `n` bytes into the buffers, and moves on. n <= spans_left().
static inline void spans_scatter(struct spans *spans, const void *from, size_t n)
{
    const unsigned char *in = (const unsigned char *)from;
    while (n) {
        size_t here = spans->iov->iov_len - spans->offset;
        size_t step = n < here ? n : here;
        memcpy((unsigned char *)spans->iov->iov_base + spans->offset, in, step);
        in += step;
        n -= step;
        spans->offset += step;
        spans_skip_empty(spans);
    }
}
