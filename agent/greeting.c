// Hellos and proofs.

#include "agent/greeting.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/fabric.h"

static_assert(LINK_NONCE == SECRET_NONCE && LINK_PROOF == SECRET_PROOF, "what messages carry");

// What a proof is made over: these words, who gives it, and both hellos as they were on the wire.
#define PURPOSE "rdma-agent link proof 1"

struct statement {
    uint8_t bytes[sizeof(PURPOSE) + 1 + 2 * FABRIC_MESSAGE_MAX];
    size_t size;
};

void greeting_init(struct greeting *greeting, bool ours, const char *host)
{
    struct link_message *hello = &greeting->hello[ours ? 0 : 1];

    *greeting = (struct greeting){.ours = ours};
    hello->type = LINK_HELLO;
    hello->hello.version = LINK_VERSION;
    snprintf(hello->hello.host, sizeof(hello->hello.host), "%s", host);
    secret_nonce(hello->hello.nonce);
}

const struct link_message *greeting_hello(const struct greeting *greeting)
{
    return &greeting->hello[greeting->ours ? 0 : 1];
}

const struct link_message *greeting_other(const struct greeting *greeting)
{
    return &greeting->hello[greeting->ours ? 1 : 0];
}

static int fail_version(const struct link_message *hello, char error[static GREETING_ERROR])
{
    snprintf(error, GREETING_ERROR,
             "it speaks version %u of the link protocol, and this agent version %u: %s needs an "
             "update",
             (unsigned)hello->hello.version, (unsigned)LINK_VERSION,
             hello->hello.version < LINK_VERSION ? "its agent" : "this agent");
    return -EPROTO;
}

static int fail_features(const struct link_message *hello, char error[static GREETING_ERROR])
{
    snprintf(error, GREETING_ERROR,
             "it wants features 0x%x of the link protocol, of which this agent knows 0x%x: this "
             "agent needs an update",
             (unsigned)hello->hello.features, (unsigned)GREETING_FEATURES);
    return -EPROTO;
}

int greeting_hear(struct greeting *greeting, const struct link_message *hello, char error[static GREETING_ERROR])
{
    const struct link_message *own = greeting_hello(greeting);

    if (greeting->heard) {
        snprintf(error, GREETING_ERROR, "it said hello twice");
        return -EPROTO;
    }
    if (hello->hello.version != LINK_VERSION)
        return fail_version(hello, error);
    if (hello->hello.features & ~(uint32_t)GREETING_FEATURES)
        return fail_features(hello, error);
    if (memcmp(hello->hello.nonce, own->hello.nonce, LINK_NONCE) == 0) {
        snprintf(error, GREETING_ERROR, "it sent our own hello back");
        return -EPROTO;
    }
    greeting->hello[greeting->ours ? 1 : 0] = *hello;
    greeting->heard = true;
    return 0;
}

static void state(struct statement *statement, const struct greeting *greeting, bool of_connector)
{
    memcpy(statement->bytes, PURPOSE, sizeof(PURPOSE));
    statement->size = sizeof(PURPOSE);
    statement->bytes[statement->size++] = of_connector ? 1 : 2;
    for (int i = 0; i < 2; i++)
        statement->size += link_message_encode(&greeting->hello[i], statement->bytes + statement->size);
}

void greeting_prove(const struct greeting *greeting, const uint8_t key[static SECRET_KEY], struct link_message *proof)
{
    struct statement statement;

    state(&statement, greeting, greeting->ours);
    *proof = (struct link_message){.type = LINK_PROOF_MESSAGE};
    secret_proof(proof->proof.proof, statement.bytes, statement.size, key);
}

bool greeting_verify(const struct greeting *greeting, const uint8_t key[static SECRET_KEY],
                     const struct link_message *proof)
{
    struct statement statement;

    state(&statement, greeting, !greeting->ours);
    return secret_verify(proof->proof.proof, statement.bytes, statement.size, key);
}

bool greeting_is_major(const struct greeting *greeting)
{
    const struct link_message *own = greeting_hello(greeting), *other = greeting_other(greeting);

    return memcmp(own->hello.nonce, other->hello.nonce, LINK_NONCE) > 0;
}
