// The messages between the agents of two hosts. Each is one fabric message: a link_head and the fields of its type, in
// network byte order on the wire (link_message_encode, link_message_decode), in the host's here.
//
// A link is made by either side and authenticated in both directions before anything else is heard:
//
//   the one that connected           the one that accepted
//   HELLO version, host, nonce A  ->
//                                 <- HELLO version, host, nonce B
//   PROOF keyed by the shared key ->      over both hellos, and who is who
//                                 <- PROOF
//
// Then one of the two is the `major` (the one with the greater nonce; both know): it matches offers, so that two that
// are made at once end in one session. The minor forwards its offers; the major keeps them until their other half is
// offered on its own host.
//
//   minor                                  major
//   OFFER offer, addresses              ->      keeps it, until it matches or
//   WITHDRAW offer                      ->
//                                       <- OPEN offer, session, place of the rings
//   OPENED session, session, place      ->      or
//   REFUSE session, reason              ->
//                                       <- or, instead of OPEN: DECLINE offer, reason
//
// From then on each side names the session by the other's number for it, also in the immediate of writes:
//
//   WATCHING, SWITCHED at, FINISHED tail (end of stream), UNREAD (nobody will read any more), STARVED (send credit),
//   ENDED (your end's FIN has come by TCP: say FINISHED, unless it has switched),
//   OVER (this side has let go of the session: nothing is posted to it any more).
//
// SETTLED answers SWITCHED: the application there will see it before it reads on. LEAVE: an end wants TCP back. ARRIVED
// answers FINISHED, once SETTLED was said: the application there has all of it, and knows of the end.
//
// PING and PONG keep the link alive. A message that is malformed, or out of turn, ends the link.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/address.h"

#define LINK_VERSION 2
#define LINK_PORT    4792

#define LINK_NONCE 32
#define LINK_PROOF 32
#define LINK_HOST  64 // bytes of a host's name, zero at the end

enum link_message_type {
    LINK_HELLO = 1,
    LINK_PROOF_MESSAGE,
    LINK_PING,
    LINK_PONG,

    // Rendezvous: the control thread's.
    LINK_OFFER = 16,
    LINK_WITHDRAW,
    LINK_OPEN,
    LINK_OPENED,
    LINK_REFUSE,
    LINK_DECLINE,

    // Sessions: the data thread's.
    LINK_WATCHING = 32,
    LINK_SWITCHED,
    LINK_FINISHED,
    LINK_UNREAD,
    LINK_STARVED,
    LINK_ENDED,
    LINK_SETTLED,
    LINK_LEAVE,
    LINK_OVER,
    LINK_ARRIVED,
};

// Where the rings of one end lie, for the other host to write.
struct link_place {
    uint64_t address; // of the session memory
    uint32_t key;
    uint32_t zero;
    uint64_t ring_bytes;
};

struct link_message {
    uint16_t type;
    union {
        struct {
            uint32_t version;
            uint32_t features; // bits both must know; 0 for now
            char host[LINK_HOST];
            uint8_t nonce[LINK_NONCE];
        } hello;
        struct {
            uint8_t proof[LINK_PROOF];
        } proof;
        struct {
            uint64_t sequence;
        } ping; // and pong: the same number
        struct {
            uint64_t offer;       // the minor's number for it
            struct address local; // as the offering host sees them
            struct address remote;
            uint64_t ring_bytes; // that it would like
        } offer;
        struct {
            uint64_t offer;
        } withdraw;
        struct {
            uint64_t offer;
            uint32_t session; // the major's number for it
            uint32_t zero;
            struct link_place place;
            uint8_t mark[16]; // end_shared.mark of both ends
        } open;
        struct {
            uint32_t yours; // the receiver's number for the session
            uint32_t mine;  // the sender's
            struct link_place place;
        } opened;
        struct {
            uint32_t session; // the receiver's number
            uint32_t reason;  // enum wire_reason; NONE: it is not offered any more
        } refuse;
        struct {
            uint64_t offer;
            uint32_t reason; // enum wire_reason
            uint32_t zero;
        } decline;
        struct {
            uint32_t session; // the receiver's number
            uint32_t zero;
            uint64_t value; // SWITCHED: switch_at; FINISHED: the final tail; else 0
        } session;
    };
};

// Writes the wire form, at most FABRIC_MESSAGE_MAX bytes, into `to`. Returns its size.
size_t link_message_encode(const struct link_message *message, uint8_t *to);

// Reads and checks the wire form: known type, exact size, zero where zero is expected, values in their range, names
// ended and printable. Returns 0 or -EPROTO.
int link_message_decode(struct link_message *message, const void *from, size_t size);

// Whether a host may be called so: 1 to LINK_HOST - 1 visible ASCII characters.
bool link_name_is_right(const char *name);

// For people.
const char *link_message_name(uint16_t type);
