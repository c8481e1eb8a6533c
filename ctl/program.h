// What of a program's file decides whether the preload library gets into it, and sees its sockets.
#pragma once

#include <limits.h>
#include <stddef.h>

// What keeps the library out. A program may have several.
enum program_obstacle {
    PROGRAM_STATIC = 1 << 0,  // no dynamic loader runs
    PROGRAM_GO = 1 << 1,      // Go calls the kernel itself
    PROGRAM_BITS = 1 << 2,    // 32-bit
    PROGRAM_MACHINE = 1 << 3, // for another processor
    PROGRAM_LOADER = 1 << 4,  // another C library's loader
    PROGRAM_SET_ID = 1 << 5,  // setuid or setgid
    PROGRAM_CAPABLE = 1 << 6, // file capabilities
};

enum program_kind {
    PROGRAM_OTHER, // neither of the two: the shell, or binfmt_misc, may run it
    PROGRAM_ELF,
    PROGRAM_SCRIPT, // "#!": the interpreter matters, see program_next
};

struct program {
    char path[PATH_MAX];
    enum program_kind kind;
    unsigned obstacles;         // PROGRAM_*
    unsigned owner, group;      // st_uid, st_gid
    unsigned mode;              // st_mode
    char interpreter[PATH_MAX]; // ELF: the dynamic loader, "" if static; script: the interpreter
    char argument[PATH_MAX];    // script: what follows the interpreter
};

// Finds what execvp would run: `name` itself if it has a slash, else the first executable of that name in PATH.
// Returns 0 and `path`; -ENOENT; -EACCES if something of that name is not executable; another -errno.
int program_find(const char *name, char path[static PATH_MAX]);

// Reads what there is to know of the file at `path`. Believes nothing in it. Returns 0; -errno; -ENOEXEC for a
// damaged ELF file or a script that names no interpreter (program->kind says which).
int program_inspect(const char *path, struct program *program);

// For a script: finds its interpreter, the one behind `env` if it is that. Returns 1 and `path`; 0 if the program is
// not a script; -errno if there is no such interpreter, whose name then stands in `path`.
int program_next(const struct program *program, char path[static PATH_MAX]);

// The obstacles that hold when this very process executes the program: setuid, setgid and capabilities only where the
// kernel would really raise privileges.
unsigned program_obstacles_now(const struct program *program);

// The obstacles in words, one entry for each.
struct program_text {
    unsigned obstacle;
    const char *what; // "is statically linked"
    const char *cure;
};
const struct program_text *program_texts(size_t *count);
