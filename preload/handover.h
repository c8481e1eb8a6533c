// Handing connections to somebody who does not know of rings: a program without the library, or code in this process that
// reads and writes where nobody sees it (stdio, io_uring, the kernel itself).
//
// Going back to TCP (leave.h) needs both ends, and a receiver that knows what it has read of the ring. A stranger does
// not. So the receiving direction goes another way: the consumer freezes its cursor, says exactly how far it is, and asks
// the producer to send everything from there on by TCP, without a record (LEAVE_BARE). From then on whoever reads TCP
// reads the stream, whenever the producer comes to do it, be it much later. The sending direction goes as it always does.
//
// There is one agreement to be kept. A producer that has begun to leave in another way has taken the wish (LEAVE_TAKEN),
// and then the consumer must see that way to its end itself: it waits for the record, and skips what it has read. A
// session with another host always goes so. If that cannot be had within HANDOVER_PATIENCE, the connection is reset: that
// is an error that the stranger sees, unlike a gap in its stream. So it is if the other end has shut down already, and
// what it sent before has not been read: nothing can be sent behind a FIN.
#pragma once

#include <stdbool.h>

#include "preload/sock.h"

// The socket is TCP from now on, for good, in both directions, and may be used out of sight. Waits, though not for what
// the program at the other end does, with the exceptions above. errno is kept.
void handover_to_stranger(struct sock *sock, int fd);

// A TCP socket is, or has become, one of the standard files, which stdio may use out of sight: it leaves the session that
// it may have from before. It may be upgraded again once the program reads or writes by itself.
void handover_to_stdio(int fd);

// Before a program is executed, which will load this library or not (preload/program.h): the sockets that it inherits are
// handed over, or known to be in other hands from now on. HANDOVER_TO_SELF: the calling process becomes that program, be
// it a vfork child; HANDOVER_TO_CHILD: a child that is made for it, and may be given what is SOCK_GIVEN, too. errno is kept.
enum handover_who { HANDOVER_TO_SELF, HANDOVER_TO_CHILD };
void handover_before_program(bool loads_library, enum handover_who who);
