// The way back when the other end may not be able to read the ring any more: its link or its agent is lost. What is not
// known to have been read is sent again over TCP, behind a record (core/record.h), and the other end skips what it has
// read.
//
// The sender freezes its tail and repeats the ring from the consumer's published head on: space is reclaimed only as the
// consumer's side has told, so all of that is still there. How much of it has gone out is told by the kernel's own
// position in the stream, so a holder that is killed in the middle doubles nothing.
//
// Where the consumer's side is not known to have heard of switch_at (WATCHING_SETTLED), nothing tells it where a record
// might stand. Then there is no record, and the whole of the ring follows, which for a consumer that never heard is TCP
// as it always was. One that did hear, meanwhile, sees that what stands there is no record, and skips what it has read.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct sock;

// With tx_lock: one step of the sending direction, from WAY_RING or WAY_BACK on. Sends without waiting. True when all is
// out, or the connection cannot send any more.
bool resend_step(struct sock *sock, int fd);

// With rx_lock, in WAY_RING, when TCP has something to read: looks whether that is a repetition of the ring. Then the
// direction is in WAY_BACK: true. False if nothing can be said yet.
bool resend_found(struct sock *sock, int fd);

// With rx_lock, in WAY_BACK: skips what was read before. Returns how many bytes of the repetition are to be read from TCP,
// 0 when it is over, -EAGAIN while there is something to skip that has not come, or -ECONNRESET: the stream has ended in
// the midst of it.
int64_t resend_rest(struct sock *sock, int fd);
