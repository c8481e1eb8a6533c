// The end of a stream that goes to another host by a ring.
//
// The FIN goes by TCP, and overtakes what is in the ring. Should the link or an agent fail then, there would be no stream
// left to send the ring again by. So as long as the other host does not have all of it (ring_shared.arrived), the agent
// is handed the socket (WIRE_KEEP): a shutdown is made by the agent, when all has arrived, or by whoever sends the ring
// again; and a close leaves the connection alive until then. Without an agent to do so the ring is left at once.
#pragma once

#include <stdbool.h>

struct sock;

// Before a shutdown for sending that leave_delays_shutdown leaves alone: true if it shall not be made now.
bool ending_delays_shutdown(struct sock *sock, int fd);

// Before the last close in this process: if the agent is gone, so is what it was handed, and the ring is to be left now.
void ending_look_for_agent(struct sock *sock);

// Before the last close by the only holder, the end being announced.
void ending_last_close(struct sock *sock, int fd);
