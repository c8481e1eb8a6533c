// Peers: their keys, and what they may speak for.

#include "agent/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/fd.h"

void peer_clear(struct peer *peer)
{
    free(peer->networks.items);
    free(peer->key_file);
    secret_wipe(peer->key, sizeof(peer->key));
    peer->networks = (struct policy_list){0};
    peer->key_file = NULL;
}

int peer_copy(struct peer *copy, const struct peer *peer)
{
    size_t bytes = peer->networks.count * sizeof(struct network);

    *copy = *peer;
    copy->key_file = peer->key_file ? strdup(peer->key_file) : NULL;
    copy->networks.items = malloc(bytes ? bytes : 1);
    if (!copy->networks.items || (peer->key_file && !copy->key_file)) {
        peer_clear(copy);
        return -ENOMEM;
    }
    if (bytes)
        memcpy(copy->networks.items, peer->networks.items, bytes);
    return 0;
}

static bool same_networks(const struct policy_list *a, const struct policy_list *b)
{
    return a->count == b->count &&
           (a->count == 0 || memcmp(a->items, b->items, a->count * sizeof(struct network)) == 0);
}

bool peer_equal(const struct peer *a, const struct peer *b)
{
    return strcmp(a->name, b->name) == 0 && address_equal(&a->address, &b->address) &&
           same_networks(&a->networks, &b->networks) && memcmp(a->key, b->key, sizeof(a->key)) == 0;
}

// The key file.

__attribute__((format(printf, 3, 4))) static int fail(char *error, int result, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(error, PEER_ERROR, format, arguments);
    va_end(arguments);
    return result;
}

static int check_file(const char *path, const struct stat *status, char *error)
{
    if (!S_ISREG(status->st_mode))
        return fail(error, -EINVAL, "%s: expected a regular file", path);
    if (status->st_mode & 077)
        return fail(error, -EPERM,
                    "%s: expected a file that only its owner can read or write, found mode %04o (chmod 600 %s, and "
                    "make a new key if others could read it)",
                    path, status->st_mode & 07777, path);
    if (status->st_uid != 0 && status->st_uid != geteuid())
        return fail(error, -EPERM, "%s: expected a file of root's or of the agent's own user, found one of user %u's",
                    path, (unsigned)status->st_uid);
    return 0;
}

// Reads up to `size` bytes. Returns how many, or -errno.
static ssize_t read_all(int fd, char *text, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t count = read(fd, text + done, size - done);
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count == 0)
            break;
        done += count > 0 ? (size_t)count : 0;
    }
    return (ssize_t)done;
}

// An editor's line end is not part of the key.
static size_t trimmed(const char *text, size_t size)
{
    while (size > 0 && (text[size - 1] == '\n' || text[size - 1] == '\r'))
        size--;
    return size;
}

int peer_read_key(struct peer *peer, char error[static PEER_ERROR])
{
    const char *path = peer->key_file;
    // A FIFO could keep the agent waiting.
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char text[SECRET_MOST + 1];
    struct stat status;
    ssize_t size;
    int result;

    if (fd < 0 || fstat(fd, &status) < 0)
        return fail(error, -errno, "%s: cannot be read: %s", path, strerror(errno));
    result = check_file(path, &status, error);
    if (result < 0)
        return result;
    size = read_all(fd, text, sizeof(text));
    if (size < 0)
        return fail(error, (int)size, "%s: cannot be read: %s", path, strerror((int)-size));
    if (size <= SECRET_MOST)
        size = (ssize_t)trimmed(text, (size_t)size);
    if (size < SECRET_LEAST || size > SECRET_MOST)
        result = fail(error, -EINVAL,
                      "%s: expected a key of %d to %d bytes, found %zd%s (make one: openssl rand "
                      "-base64 32)",
                      path, SECRET_LEAST, SECRET_MOST, size, size > SECRET_MOST ? " or more" : "");
    else
        secret_key(peer->key, text, (size_t)size);
    secret_wipe(text, sizeof(text));
    return result;
}

int peer_speaks_for(const struct peer *peer, const struct address *address)
{
    const struct network *networks = peer->networks.items;
    int most = -1;

    for (size_t i = 0; i < peer->networks.count; i++) {
        if (network_contains(&networks[i], address) && (int)networks[i].prefix > most)
            most = (int)networks[i].prefix;
    }
    return most;
}

bool peer_may_come_from(const struct peer *peer, const struct address *address)
{
    return memcmp(peer->address.ip, address->ip, sizeof(address->ip)) == 0 || peer_speaks_for(peer, address) >= 0;
}
