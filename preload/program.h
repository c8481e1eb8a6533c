// Programs that are about to be executed: will they run with this library, and with the same agent?
#pragma once

#include <stdbool.h>

// How the library is named in LD_PRELOAD, and where its agent is. Once, before any other call.
void program_init(void);

// True if the program at `path`, with this environment, will load the library and find its sessions. False if it is known
// not to, or not known to: static, of another kind of machine or libc, with privileges that LD_PRELOAD does not get, or
// with another environment. Of a program that does not exist it is true: nothing will come of it. Needs no memory, and is
// safe in a vfork child.
bool program_loads_library(const char *path, char *const environment[]);

// The same for one that is looked for in PATH, as execvp does.
bool program_found_loads_library(const char *file, char *const environment[]);
