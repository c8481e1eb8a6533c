// One end of a connection under test: what it must send and receive, and one call at a time to do so.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "tests/e2e/exact/chance.h"
#include "tests/e2e/exact/stream.h"

// The largest buffer that a call is given.
#define CALL_BYTES (1 << 20)

enum outcome { PROGRESS, WOULD_BLOCK, ENDED };

struct side {
    int fd;
    unsigned connection;
    bool blocking; // the socket's mode
    struct stream out, in;
    uint64_t turn; // 0, or the size of a request and of a reply: the other one's is waited for between our own
    bool asks;     // makes the requests
    struct chance out_chance, in_chance;
    bool out_done, in_done;  // nothing more to do in this direction, for now or in this process
    bool shut;               // the sending half is ended
    bool ended;              // both are, and the socket is to be closed
    bool readable, writable; // what the loop knows
};

// Restricts the calls to the one of this name, to find out which one is at fault. Fails if there is none.
void side_send_only_by(const char *name);
void side_receive_only_by(const char *name);

// Sends some of what is left until out.until, by a call chosen at random. Does not return ENDED.
enum outcome side_send(struct side *side);

// Receives something, at most until in.until, by a call chosen at random, and checks it. ENDED at the end of stream.
enum outcome side_receive(struct side *side);

// How far may be sent before more is received: out.until where nobody waits for anybody.
uint64_t side_limit(const struct side *side);

// Ends the sending half, once.
void side_shut(struct side *side);
