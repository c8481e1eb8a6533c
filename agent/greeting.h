// The greeting on a new connection: two hosts say who they are and prove it to each other. Pure: what to send is
// answered, and sent by others.
//
// A proof is a keyed hash over both hellos, whole, and over which of the two gives it. Both hellos have a number that
// was never used before, so that no proof fits another connection; they have names and versions, so that none of those
// can be changed on the way; and the two proofs of one connection differ, so that none can be sent back as the answer.
// Whoever accepted a connection proves nothing before the other side has.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/link_wire.h"
#include "agent/secret.h"

// Features of the protocol that this agent knows: those that the other side wants to be known must be among them.
#define GREETING_FEATURES 0

#define GREETING_ERROR 160

struct greeting {
    bool ours;                    // we connected
    struct link_message hello[2]; // of the one that connected, of the one that accepted
    bool heard;                   // the other's hello is there
};

void greeting_init(struct greeting *greeting, bool ours, const char *host);

// What we say first.
const struct link_message *greeting_hello(const struct greeting *greeting);

// What the other side has said, once it has.
const struct link_message *greeting_other(const struct greeting *greeting);

// Takes the other's hello. Returns 0, or -EPROTO with `error` if it cannot be talked to, or this was not its turn.
int greeting_hear(struct greeting *greeting, const struct link_message *hello, char error[static GREETING_ERROR]);

// Makes our proof. Both hellos must be there.
void greeting_prove(const struct greeting *greeting, const uint8_t key[static SECRET_KEY], struct link_message *proof);

// Whether this is the other's proof.
bool greeting_verify(const struct greeting *greeting, const uint8_t key[static SECRET_KEY],
                     const struct link_message *proof);

// Whether we are the major: both sides come to the same answer.
bool greeting_is_major(const struct greeting *greeting);
