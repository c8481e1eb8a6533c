// What wakes the processes of one session end.
//
// Whoever holds an eventfd can make the next one who rings it wait (a full counter, and O_NONBLOCK taken away: flags are
// the file's, not the descriptor's). So nobody is given what another must be able to ring: the other end rings an eventfd,
// and the end itself gets an epoll set in which that stands, to sleep with.
#pragma once

struct bell {
    int sleep; // for the end itself: becomes readable, edge-triggered, at each ring
    int rope;  // an eventfd, for the other end to ring
    int agent; // another, nobody else's; made when the agent first rings
};

// Without descriptors.
void bell_init(struct bell *bell);
void bell_deinit(struct bell *bell);

// Returns 0 or -errno; what is made by then bell_deinit takes back.
int bell_make(struct bell *bell);

// By the agent, whoever has the rope. Never waits.
void bell_ring(struct bell *bell);
