// The messages between agents, as bytes: one description of each, by which it is written and read.

#include "agent/link_wire.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "core/layout.h"
#include "core/wire.h"

// The head of every message: its type, its whole size, and four bytes of zero.
#define HEAD_SIZE 8

// Passes over a message's bytes, either way. Numbers are written with the greater bytes first.
struct codec {
    bool reading;
    uint8_t *bytes; // not written while reading
    size_t at;
    size_t size; // while reading: of what there is
};

static bool fits(const struct codec *codec, size_t size)
{
    return !codec->reading || (codec->at <= codec->size && size <= codec->size - codec->at);
}

// Takes a field on. What is not there reads as zero, and shows in the size at the end.
static uint64_t pass_number(struct codec *codec, uint64_t number, unsigned size)
{
    uint64_t read = 0;

    for (unsigned i = 0; i < size && fits(codec, size); i++) {
        uint8_t *byte = codec->bytes + codec->at + i;
        if (codec->reading)
            read = read << 8 | *byte;
        else
            *byte = (uint8_t)(number >> 8 * (size - 1 - i));
    }
    codec->at += size;
    return codec->reading ? read : number;
}

static void pass_16(struct codec *codec, uint16_t *field)
{
    *field = (uint16_t)pass_number(codec, *field, 2);
}

static void pass_32(struct codec *codec, uint32_t *field)
{
    *field = (uint32_t)pass_number(codec, *field, 4);
}

static void pass_64(struct codec *codec, uint64_t *field)
{
    *field = pass_number(codec, *field, 8);
}

static void pass_bytes(struct codec *codec, void *field, size_t size)
{
    if (codec->reading && fits(codec, size))
        memcpy(field, codec->bytes + codec->at, size);
    else if (!codec->reading)
        memcpy(codec->bytes + codec->at, field, size);
    codec->at += size;
}

static void pass_address(struct codec *codec, struct address *address)
{
    pass_bytes(codec, address->ip, sizeof(address->ip));
    pass_32(codec, &address->scope);
    pass_16(codec, &address->port);
    pass_16(codec, &address->zero);
}

static void pass_place(struct codec *codec, struct link_place *place)
{
    pass_64(codec, &place->address);
    pass_32(codec, &place->key);
    pass_32(codec, &place->zero);
    pass_64(codec, &place->ring_bytes);
}

static void pass_hello(struct codec *codec, struct link_message *message)
{
    pass_32(codec, &message->hello.version);
    pass_32(codec, &message->hello.features);
    pass_bytes(codec, message->hello.host, sizeof(message->hello.host));
    pass_bytes(codec, message->hello.nonce, sizeof(message->hello.nonce));
}

static void pass_proof(struct codec *codec, struct link_message *message)
{
    pass_bytes(codec, message->proof.proof, sizeof(message->proof.proof));
}

static void pass_ping(struct codec *codec, struct link_message *message)
{
    pass_64(codec, &message->ping.sequence);
}

static void pass_offer(struct codec *codec, struct link_message *message)
{
    pass_64(codec, &message->offer.offer);
    pass_address(codec, &message->offer.local);
    pass_address(codec, &message->offer.remote);
    pass_64(codec, &message->offer.ring_bytes);
}

static void pass_withdraw(struct codec *codec, struct link_message *message)
{
    pass_64(codec, &message->withdraw.offer);
}

static void pass_open(struct codec *codec, struct link_message *message)
{
    pass_64(codec, &message->open.offer);
    pass_32(codec, &message->open.session);
    pass_32(codec, &message->open.zero);
    pass_place(codec, &message->open.place);
    pass_bytes(codec, message->open.mark, sizeof(message->open.mark));
}

static void pass_opened(struct codec *codec, struct link_message *message)
{
    pass_32(codec, &message->opened.yours);
    pass_32(codec, &message->opened.mine);
    pass_place(codec, &message->opened.place);
}

static void pass_refuse(struct codec *codec, struct link_message *message)
{
    pass_32(codec, &message->refuse.session);
    pass_32(codec, &message->refuse.reason);
}

static void pass_decline(struct codec *codec, struct link_message *message)
{
    pass_64(codec, &message->decline.offer);
    pass_32(codec, &message->decline.reason);
    pass_32(codec, &message->decline.zero);
}

static void pass_session(struct codec *codec, struct link_message *message)
{
    pass_32(codec, &message->session.session);
    pass_32(codec, &message->session.zero);
    pass_64(codec, &message->session.value);
}

// What each may say.

static bool is_right_address(const struct address *address)
{
    bool link_local = address->ip[0] == 0xfe && (address->ip[1] & 0xc0) == 0x80;

    return address->port != 0 && address->zero == 0 && (link_local || address->scope == 0);
}

static bool is_right_ring(uint64_t bytes)
{
    return bytes >= RING_BYTES_MIN && bytes <= RING_BYTES_MAX && (bytes & (bytes - 1)) == 0;
}

// Cursors lie at multiples of eight bytes, and everything in one piece.
static bool is_right_place(const struct link_place *place)
{
    return place->zero == 0 && place->address % 8 == 0 && is_right_ring(place->ring_bytes) &&
           place->address <= UINT64_MAX - session_bytes(place->ring_bytes);
}

bool link_name_is_right(const char *name)
{
    size_t length = 0;

    while (length < LINK_HOST && name[length] > ' ' && name[length] <= '~')
        length++;
    return length > 0 && length < LINK_HOST && name[length] == '\0';
}

// With zeros behind it.
static bool is_right_host(const char host[static LINK_HOST])
{
    if (!link_name_is_right(host))
        return false;
    for (size_t i = strlen(host); i < LINK_HOST; i++) {
        if (host[i] != '\0')
            return false;
    }
    return true;
}

static bool check_hello(const struct link_message *message)
{
    return message->hello.version > 0 && is_right_host(message->hello.host);
}

static bool check_offer(const struct link_message *message)
{
    return is_right_address(&message->offer.local) && is_right_address(&message->offer.remote) &&
           is_right_ring(message->offer.ring_bytes);
}

static bool check_open(const struct link_message *message)
{
    return message->open.zero == 0 && is_right_place(&message->open.place);
}

static bool check_opened(const struct link_message *message)
{
    return is_right_place(&message->opened.place);
}

static bool check_refuse(const struct link_message *message)
{
    return message->refuse.reason < WIRE_REASON_COUNT;
}

static bool check_decline(const struct link_message *message)
{
    return message->decline.zero == 0 && message->decline.reason != WIRE_REASON_NONE &&
           message->decline.reason < WIRE_REASON_COUNT;
}

static bool check_bare(const struct link_message *message)
{
    return message->session.zero == 0 && message->session.value == 0;
}

static bool check_switched(const struct link_message *message)
{
    return message->session.zero == 0 && message->session.value != SWITCH_NOT_YET;
}

static bool check_finished(const struct link_message *message)
{
    return message->session.zero == 0;
}

static const struct description {
    void (*pass)(struct codec *codec, struct link_message *message);
    bool (*check)(const struct link_message *message); // null: all that can be said is right
} descriptions[] = {
    [LINK_HELLO] = {pass_hello, check_hello},
    [LINK_PROOF_MESSAGE] = {pass_proof, NULL},
    [LINK_PING] = {pass_ping, NULL},
    [LINK_PONG] = {pass_ping, NULL},
    [LINK_OFFER] = {pass_offer, check_offer},
    [LINK_WITHDRAW] = {pass_withdraw, NULL},
    [LINK_OPEN] = {pass_open, check_open},
    [LINK_OPENED] = {pass_opened, check_opened},
    [LINK_REFUSE] = {pass_refuse, check_refuse},
    [LINK_DECLINE] = {pass_decline, check_decline},
    [LINK_WATCHING] = {pass_session, check_bare},
    [LINK_SWITCHED] = {pass_session, check_switched},
    [LINK_FINISHED] = {pass_session, check_finished},
    [LINK_UNREAD] = {pass_session, check_bare},
    [LINK_STARVED] = {pass_session, check_bare},
    [LINK_ENDED] = {pass_session, check_bare},
    [LINK_SETTLED] = {pass_session, check_bare},
    [LINK_LEAVE] = {pass_session, check_bare},
    [LINK_OVER] = {pass_session, check_bare},
    [LINK_ARRIVED] = {pass_session, check_bare},
};

static const struct description *describe(uint16_t type)
{
    if (type >= sizeof(descriptions) / sizeof(descriptions[0]) || !descriptions[type].pass)
        return NULL;
    return &descriptions[type];
}

static void pass_head(struct codec *codec, uint16_t *type, uint16_t *size, uint32_t *zero)
{
    pass_16(codec, type);
    pass_16(codec, size);
    pass_32(codec, zero);
}

size_t link_message_encode(const struct link_message *message, uint8_t *to)
{
    struct link_message copy = *message;
    struct codec codec = {.bytes = to, .at = HEAD_SIZE}, head = {.bytes = to};
    uint32_t zero = 0;
    uint16_t size;

    describe(message->type)->pass(&codec, &copy);
    size = (uint16_t)codec.at;
    pass_head(&head, &copy.type, &size, &zero);
    return codec.at;
}

int link_message_decode(struct link_message *message, const void *from, size_t size)
{
    struct codec codec = {.reading = true, .bytes = (uint8_t *)from, .size = size};
    const struct description *description;
    uint32_t zero;
    uint16_t said;

    memset(message, 0, sizeof(*message));
    pass_head(&codec, &message->type, &said, &zero);
    description = describe(message->type);
    if (!description || said != size || zero != 0)
        return -EPROTO;
    description->pass(&codec, message);
    if (codec.at != size || (description->check && !description->check(message)))
        return -EPROTO;
    return 0;
}

const char *link_message_name(uint16_t type)
{
    static const char *const names[] = {
        [LINK_HELLO] = "HELLO",       [LINK_PROOF_MESSAGE] = "PROOF", [LINK_PING] = "PING",
        [LINK_PONG] = "PONG",         [LINK_OFFER] = "OFFER",         [LINK_WITHDRAW] = "WITHDRAW",
        [LINK_OPEN] = "OPEN",         [LINK_OPENED] = "OPENED",       [LINK_REFUSE] = "REFUSE",
        [LINK_WATCHING] = "WATCHING", [LINK_SWITCHED] = "SWITCHED",   [LINK_FINISHED] = "FINISHED",
        [LINK_UNREAD] = "UNREAD",     [LINK_STARVED] = "STARVED",     [LINK_ENDED] = "ENDED",
        [LINK_SETTLED] = "SETTLED",   [LINK_LEAVE] = "LEAVE",         [LINK_OVER] = "OVER",
        [LINK_ARRIVED] = "ARRIVED",   [LINK_DECLINE] = "DECLINE",
    };

    return type < sizeof(names) / sizeof(names[0]) && names[type] ? names[type] : "unknown";
}
