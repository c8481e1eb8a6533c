// Which connection a socket is, read off the socket itself.
//
// Holding the socket is the proof: nothing that a client says about a connection is believed, only what the kernel says
// of the descriptor that it sent.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/address.h"

struct identity {
    uint64_t cookie; // SO_COOKIE: of this socket and no other, for as long as the machine runs
    uint64_t netns;  // SO_NETNS_COOKIE
    struct address local;
    struct address remote;
    uint64_t inode;  // of the socket, by which /proc names it
    uint32_t device; // the interface to which the socket is bound, or 0
    bool connected;  // established, and so the addresses are those of a connection; otherwise they are not set
};

// Reads the identity of a TCP socket. Returns 0, -ENOTSOCK, or -EPROTOTYPE for a socket that is not TCP.
int identity_read(int fd, struct identity *identity);

// Whether two sockets, taken to be in one network namespace, are the two ends of one connection.
bool identity_is_peer(const struct identity *a, const struct identity *b);

// Whether the other end of the connection may be in another network namespace. Those between addresses of one host are
// within one, and each namespace has its own of the same addresses.
bool identity_may_leave_netns(const struct identity *identity);

// Whether two sockets name the same end of the same connection. Two that exist at the same time never do.
bool identity_is_same_end(const struct identity *a, const struct identity *b);

// The cookie of the network namespace of the calling thread. Returns 0 or -errno; -ENOPROTOOPT before Linux 5.14.
int identity_own_netns(uint64_t *netns);
