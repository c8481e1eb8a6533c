// Messages between agents: what is accepted means one thing only, and is written as it was read.

#include <string.h>

#include "agent/link_wire.h"
#include "tests/fuzz/fuzz.h"

#define ROOM 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct link_message message;
    uint8_t again[ROOM];

    if (link_message_decode(&message, data, size) != 0)
        return 0;
    MUST(link_message_name(message.type));
    MUST(size <= sizeof again);
    MUST(link_message_encode(&message, again) == size);
    MUST(memcmp(again, data, size) == 0);
    if (message.type == LINK_HELLO)
        MUST(link_name_is_right(message.hello.host));
    return 0;
}
