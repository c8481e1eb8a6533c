// Several threads send on one socket, and one or several receive from it, without locks of their own.
#pragma once

// Runs the test on so many connections, one after the other; fails the program if a byte is lost or doubled.
void shared_run(unsigned connections, unsigned receivers);
