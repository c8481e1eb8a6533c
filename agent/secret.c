// Keys and proofs, by libsodium.

#include "agent/secret.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>

static_assert(SECRET_KEY == crypto_auth_KEYBYTES, "the key of a proof");
static_assert(SECRET_PROOF == crypto_auth_BYTES, "a proof");

int secret_init(void)
{
    return sodium_init() < 0 ? -ENOSYS : 0;
}

void secret_key(uint8_t key[static SECRET_KEY], const void *text, size_t size)
{
    crypto_generichash(key, SECRET_KEY, text, size, NULL, 0);
}

void secret_nonce(uint8_t nonce[static SECRET_NONCE])
{
    randombytes_buf(nonce, SECRET_NONCE);
}

void secret_proof(uint8_t proof[static SECRET_PROOF], const void *bytes, size_t size,
                  const uint8_t key[static SECRET_KEY])
{
    crypto_auth(proof, bytes, size, key);
}

bool secret_verify(const uint8_t proof[static SECRET_PROOF], const void *bytes, size_t size,
                   const uint8_t key[static SECRET_KEY])
{
    return crypto_auth_verify(proof, bytes, size, key) == 0;
}

void secret_wipe(void *bytes, size_t size)
{
    sodium_memzero(bytes, size);
}
