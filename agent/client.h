// One process that uses the library: a connection to the agent's socket.
//
// Everything it sends is checked; a client that breaks the protocol is dropped. Nothing waits for a client either: the
// agent reads from it only while there is room for the answers in its queue.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/list.h"
#include "agent/watch.h"
#include "core/wire.h"

struct agent;
struct listener;
struct user;

// As long as the kernel's name of a process.
#define CLIENT_COMMAND 16

struct client {
    struct list link; // in agent.clients
    struct agent *agent;
    struct user *user;
    int fd;
    struct watch watch;
    bool greeted; // HELLO came; `slot` is taken
    bool full;    // no room in its queue: not read from until there is
    uint32_t slot;
    pid_t pid;
    uid_t uid;
    char command[CLIENT_COMMAND];
    struct list offers;  // of struct offer: waiting
    struct list held;    // of struct offer: the other half is there, but this client's queue was full
    struct list holders; // of struct session_holder: the session ends that were attached here
};

// A listener's callback, its data being the agent.
void client_accept(struct listener *listener, int fd);

// Disconnects. Its offers are dropped; its sessions live as long as their lifelines are held.
void client_drop(struct client *client);

// Whether its queue has room for answers to a few messages. If not, it is looked at again when it has.
bool client_has_room(struct client *client);

// Sends a message and announces it on the board. Returns 0 or -errno; a failure is the message's end, not the client's.
int client_send(struct client *client, const union wire_message *message, const int *fds, unsigned count);
