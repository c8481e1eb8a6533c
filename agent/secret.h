// What a link proves itself with: the key that two hosts share, numbers used once, proofs. The cryptography is
// libsodium's, and nothing else of the agent includes it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECRET_KEY   32
#define SECRET_NONCE 32
#define SECRET_PROOF 32

// What a key file must have, and may have, in bytes.
#define SECRET_LEAST 16
#define SECRET_MOST  4096

// Returns 0 or -ENOSYS.
int secret_init(void);

// Makes a key of what a key file says.
void secret_key(uint8_t key[static SECRET_KEY], const void *text, size_t size);

void secret_nonce(uint8_t nonce[static SECRET_NONCE]);

// Of these bytes, which nobody can make without the key.
void secret_proof(uint8_t proof[static SECRET_PROOF], const void *bytes, size_t size,
                  const uint8_t key[static SECRET_KEY]);

// In a time that does not tell where it differs.
bool secret_verify(const uint8_t proof[static SECRET_PROOF], const void *bytes, size_t size,
                   const uint8_t key[static SECRET_KEY]);

// Forgets it, so that no dead memory has it.
void secret_wipe(void *bytes, size_t size);
