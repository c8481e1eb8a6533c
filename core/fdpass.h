// Whole packets with descriptors over a Unix SEQPACKET socket. Shared by the agent and the preload library.
#pragma once

#include <stddef.h>

#include "core/wire.h"

// Sends one message and, with it, copies of `fds` (the caller keeps its own). Never blocks, never raises SIGPIPE.
// Returns 0; -EAGAIN if the receiver's queue is full; another -errno if the connection is of no more use.
int fdpass_send(int sock, const union wire_message *message, const int *fds, unsigned count);

// Receives one message if there is one; never blocks. On 1 the message has been checked (wire_check) and `fds` holds
// its *count descriptors, close-on-exec, which are the caller's now.
// Returns 1; 0 if there is nothing yet; -EPIPE at end of stream; -EPROTO for a message that breaks the protocol, whose
// descriptors have been closed; another -errno.
int fdpass_recv(int sock, union wire_message *message, int fds[static WIRE_FDS_MAX], unsigned *count);

// The same, but the *count descriptors are the caller's however it ends: closing what a stranger sent may block.
int fdpass_take(int sock, union wire_message *message, int fds[static WIRE_FDS_MAX], unsigned *count);
