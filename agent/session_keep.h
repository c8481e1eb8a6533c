// The end of a stream between hosts: sockets that are kept until it has arrived.
//
// The bytes go by the ring, the FIN by TCP, and if the link failed when the FIN is out, TCP could not carry what was still
// in the ring. So the program that shuts its connection down, or closes it for good, hands the socket to the agent (KEEP),
// which lets go of it when the other host has said that it has all (PATH_ARRIVED). Until then the connection is alive:
//
//   the link fails, and a program holds the end     the program sends the ring once more, and ends the stream itself
//   the link fails, and nobody does                 the agent does that: the end lingers
//
// The same if the other end goes back to TCP, of which is not known whether it has read the ring.
// An end that lingers stays in its session until the other host has acknowledged what was sent, or for LINGER_MS.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/wire.h"

struct client;
struct lingering;
struct session;
struct session_end;

// What an end has of it.
struct kept {
    int fd;    // -1: none
    uid_t uid; // who sent it
    uint32_t flags;
    struct lingering *linger; // null unless the end lingers
};

// A KEEP came, with a descriptor that is to be closed here in any case. Without effect unless it is the socket of that
// session.
void session_keep(struct client *client, const struct wire_keep *message, int fd);

// All has arrived at the other host.
void session_keep_arrived(struct session_end *end);

// Lets go of the socket, if any. For the end's end.
void session_keep_drop(struct session_end *end);

// When the session is over for both of its ends: whether this one lingers. Then session_close follows later.
bool session_keep_lingers(struct session_end *end);
