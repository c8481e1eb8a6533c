// Addresses and networks as people write them: what was understood is written such that it is understood again.

#include <string.h>
#include <sys/socket.h>

#include "agent/address.h"
#include "tests/fuzz/fuzz.h"

static void try_address(const char *text)
{
    struct address address, again;
    struct sockaddr_storage storage;
    char written[ADDRESS_TEXT];

    if (address_parse(&address, text, 4792) != 0)
        return;
    address_format(&address, written);
    MUST(address_parse(&again, written, 0) == 0);
    MUST(address_equal(&address, &again));
    memset(&storage, 0, sizeof storage);
    MUST(address_to_sockaddr(&address, &storage) > 0);
    MUST(address_from_sockaddr(&again, &storage) == 0);
    MUST(address_equal(&address, &again));
}

static void try_network(const char *text)
{
    struct network network, again;
    char written[ADDRESS_TEXT];

    if (network_parse(&network, text) != 0)
        return;
    MUST(network.prefix <= 128);
    network_format(&network, written);
    MUST(network_parse(&again, written) == 0);
    MUST(memcmp(&network, &again, sizeof network) == 0);
    struct address first = {0};
    memcpy(first.ip, network.ip, sizeof first.ip);
    MUST(network_contains(&network, &first));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[512];

    if (size >= sizeof text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    try_address(text);
    try_network(text);
    return 0;
}
