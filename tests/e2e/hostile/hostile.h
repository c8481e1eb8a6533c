// Programs for the tests of what a hostile neighbour can do: one that is honest, and two that are not.
#pragma once

#include <stdint.h>

// Dice that can be cast again.
struct dice {
    uint64_t state;
};
uint64_t dice_next(struct dice *dice);
uint64_t dice_below(struct dice *dice, uint64_t bound);

// Ends the program, with the reason.
void fail(const char *what) __attribute__((noreturn));

double now(void);
int connect_to(unsigned port);

// An echo server on two ports, by epoll on the one and with a thread for each connection on the other. After SIGTERM it
// waits for its connections to end, and says how many there were. It minds no error of a connection.
void serve(unsigned port, unsigned threads_port);

// Owns one end of a session after the other, with the server at one of the two ports, and writes whatever the dice say
// into all that it can reach, for so many seconds. Not under the library.
void attack(const char *directory, const unsigned ports[2], double seconds, struct dice *dice);

// Says whatever the dice say to the agent's two sockets.
void babble(const char *directory, double seconds, struct dice *dice);

// A connection to the agent's `name`; -1 if it is turned away. And a packet with descriptors, sent if it can be.
int agent_connect(const char *directory, const char *name, int type);
void agent_send(int fd, const void *packet, unsigned size, const int *fds, unsigned count);
