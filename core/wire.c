// Messages between client and agent: their sizes, and what a received one must look like before anyone believes it.
//
// Versions are not judged here: HELLO and WELCOME of another version are well-formed, and whoever receives them has
// more to say about it than "broken".

#include "core/wire.h"

#include <errno.h>
#include <string.h>

#include "core/layout.h"

static_assert(sizeof(union wire_message) <= UINT16_MAX, "wire_head.size holds every message");

size_t wire_size(unsigned type)
{
    switch (type) {
    case WIRE_HELLO:
        return sizeof(struct wire_hello);
    case WIRE_OFFER:
        return sizeof(struct wire_offer);
    case WIRE_WITHDRAW:
        return sizeof(struct wire_withdraw);
    case WIRE_DECLINE:
        return sizeof(struct wire_decline);
    case WIRE_LEFT:
        return sizeof(struct wire_left);
    case WIRE_KEEP:
        return sizeof(struct wire_keep);
    case WIRE_COUNT:
        return sizeof(struct wire_count);
    case WIRE_WELCOME:
        return sizeof(struct wire_welcome);
    case WIRE_ATTACH:
        return sizeof(struct wire_attach);
    case WIRE_REFUSED:
        return sizeof(struct wire_refused);
    default:
        return 0;
    }
}

unsigned wire_fds(unsigned type)
{
    switch (type) {
    case WIRE_OFFER:
    case WIRE_KEEP:
        return 1;
    case WIRE_WELCOME:
        return WIRE_WELCOME_FDS;
    case WIRE_ATTACH:
        return WIRE_ATTACH_FDS;
    default:
        return 0;
    }
}

void wire_begin(union wire_message *message, enum wire_type type)
{
    memset(message, 0, sizeof(*message));
    message->head.type = (uint16_t)type;
    message->head.size = (uint16_t)wire_size(type);
}

static bool attach_is_sound(const struct wire_attach *attach)
{
    uint64_t bytes = attach->ring_bytes;
    bool power_of_two = bytes != 0 && (bytes & (bytes - 1)) == 0;

    return power_of_two && bytes >= RING_BYTES_MIN && bytes <= RING_BYTES_MAX && attach->side <= 1 &&
           (attach->transport == TRANSPORT_SHM || attach->transport == TRANSPORT_RDMA);
}

static bool fields_are_sound(const union wire_message *message)
{
    switch (message->head.type) {
    case WIRE_OFFER:
        return (message->offer.flags & ~(WIRE_OFFER_ADOPT | WIRE_OFFER_SHARED)) == 0 && message->offer.zero == 0;
    case WIRE_WITHDRAW:
        return message->withdraw.reason < WIRE_REASON_COUNT && message->withdraw.zero == 0;
    case WIRE_DECLINE:
        return message->decline.reason < WIRE_REASON_COUNT && message->decline.zero == 0;
    case WIRE_KEEP:
        return (message->keep.flags & ~(WIRE_KEEP_SHUT | WIRE_KEEP_SOLE)) == 0 && message->keep.zero == 0;
    case WIRE_WELCOME:
        return message->welcome.slot < BOARD_SLOTS && message->welcome.zero == 0;
    case WIRE_ATTACH:
        return attach_is_sound(&message->attach);
    case WIRE_REFUSED:
        return message->refused.reason < WIRE_REASON_COUNT && message->refused.zero == 0;
    default:
        return true;
    }
}

int wire_check(const union wire_message *message, size_t size, unsigned fds)
{
    if (size < sizeof(message->head) || size != message->head.size || size != wire_size(message->head.type))
        return -EPROTO;
    if (message->head.zero != 0 || fds != wire_fds(message->head.type))
        return -EPROTO;
    return fields_are_sound(message) ? 0 : -EPROTO;
}

const char *wire_reason_name(unsigned reason)
{
    static const char *const names[] = {
        [WIRE_REASON_NONE] = "none",
        [WIRE_REASON_POLICY_PORT] = "policy_port",
        [WIRE_REASON_POLICY_ADDRESS] = "policy_address",
        [WIRE_REASON_POLICY_USER] = "policy_user",
        [WIRE_REASON_NAMESPACE] = "namespace",
        [WIRE_REASON_NOT_TCP] = "not_tcp",
        [WIRE_REASON_LIMIT_SESSIONS] = "limit_sessions",
        [WIRE_REASON_LIMIT_MEMORY] = "limit_memory",
        [WIRE_REASON_NO_MEMORY] = "no_memory",
        [WIRE_REASON_NO_DESCRIPTORS] = "no_descriptors",
        [WIRE_REASON_TABLE_FULL] = "table_full",
        [WIRE_REASON_NO_AGENT] = "no_agent",
        [WIRE_REASON_AGENT_LOST] = "agent_lost",
        [WIRE_REASON_PINNED] = "pinned",
        [WIRE_REASON_PROTOCOL] = "protocol",
        [WIRE_REASON_SHARED] = "shared",
    };
    static_assert(sizeof(names) / sizeof(names[0]) == WIRE_REASON_COUNT, "every reason has a name");

    return reason < WIRE_REASON_COUNT ? names[reason] : "unknown";
}
