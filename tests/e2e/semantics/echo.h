// What a case executes when it hands a connection to another program: this one, again.
#pragma once

#define ECHO_OPTION "--echo"

// Echoes what comes on the descriptor of this number until the end of the stream. Returns an exit code.
int echo_main(const char *number);

#define RECEIVE_OPTION "--receive"

// The same on the descriptor that is sent to it through the Unix socket of this number.
int echo_received_main(const char *number);

#define ECHO_WORDS       400
#define ALTERNATE_OPTION "--alternate"

// Sends 8 bytes through the descriptor of this number and through the next one by turns, and awaits a byte for each.
int echo_alternate_main(const char *number);

// Replaces this process by that. `environment` as for execve.
void echo_exec(int fd, char *const environment[]) __attribute__((noreturn));
