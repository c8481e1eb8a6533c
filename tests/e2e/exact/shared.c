#include "tests/e2e/exact/shared.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/exact/chance.h"
#include "tests/e2e/exact/stream.h"

#define SENDERS 4
#define BYTES   65536 // of each sender

// Each byte tells its sender and, modulo 64, its place among that sender's bytes. One byte at a time is sent, so that
// there is nothing to tear apart; how the receivers share them is left to chance, but together they see each once.
struct shared {
    int sending, receiving;
    atomic_uint begun;
    _Atomic unsigned seen[256];
};

static void *send_bytes(void *argument)
{
    struct shared *shared = argument;
    unsigned me = atomic_fetch_add(&shared->begun, 1);
    for (unsigned i = 0; i < BYTES; i++) {
        unsigned char byte = (unsigned char)(me << 6 | (i & 63));
        if (send(shared->sending, &byte, 1, 0) != 1)
            fail("shared send: %s", strerror(errno));
    }
    return NULL;
}

static void *receive_bytes(void *argument)
{
    struct shared *shared = argument;
    unsigned char bytes[100];
    for (;;) {
        ssize_t got = recv(shared->receiving, bytes, sizeof bytes, 0);
        if (got < 0)
            fail("shared recv: %s", strerror(errno));
        if (got == 0)
            return NULL;
        for (ssize_t i = 0; i < got; i++)
            atomic_fetch_add(&shared->seen[bytes[i]], 1);
    }
}

static void connect_pair(struct shared *shared)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    shared->sending = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0 ||
        connect(shared->sending, (struct sockaddr *)&address, size) < 0 ||
        (shared->receiving = accept(listener, NULL, NULL)) < 0)
        fail("shared: no connection: %s", strerror(errno));
    close(listener);
}

static void one_connection(unsigned receivers)
{
    struct shared *shared = calloc(1, sizeof *shared);
    pthread_t senders[SENDERS], *receiving = calloc(receivers, sizeof *receiving);
    connect_pair(shared);
    for (unsigned i = 0; i < receivers; i++)
        pthread_create(&receiving[i], NULL, receive_bytes, shared);
    for (int i = 0; i < SENDERS; i++)
        pthread_create(&senders[i], NULL, send_bytes, shared);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(senders[i], NULL);
    shutdown(shared->sending, SHUT_WR);
    for (unsigned i = 0; i < receivers; i++)
        pthread_join(receiving[i], NULL);
    for (unsigned byte = 0; byte < 256; byte++) {
        if (shared->seen[byte] != BYTES / 64)
            fail("shared: byte %u of sender %u was received %u times instead of %u", byte & 63, byte >> 6,
                 shared->seen[byte], BYTES / 64);
    }
    close(shared->sending);
    close(shared->receiving);
    free(receiving);
    free(shared);
}

void shared_run(unsigned connections, unsigned receivers)
{
    for (unsigned i = 0; i < connections; i++)
        one_connection(receivers);
}
