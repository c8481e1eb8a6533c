// Making processes. From then on others may hold our sockets, so what tells the other end that a connection is closed
// must not be this process's close alone: each of these marks what is shared before it goes on.
//
// fork itself needs no interposer: pthread_atfork has proc_before_fork called. What a child needs is done at its first
// call (proc.h).
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "preload/export.h"
#include "preload/handover.h"
#include "preload/proc.h"
#include "preload/program.h"
#include "preload/real.h"

EXPORT pid_t _Fork(void)
{
    proc_enter();
    proc_before_fork();
    return real._Fork();
}

// vfork returns twice to its caller's frame, so nothing of ours may lie on the stack when it is called: jump to it.
__attribute__((used)) static void *before_vfork(void)
{
    proc_enter();
    proc_before_fork();
    return (void *)real.vfork;
}

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl vfork\n"
        ".type vfork, @function\n"
        "vfork:\n"
        "    .cfi_startproc\n"
        "    endbr64\n"
        "    subq $8, %rsp\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    call before_vfork\n"
        "    addq $8, %rsp\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    jmp *%rax\n"
        "    .cfi_endproc\n"
        ".size vfork, .-vfork\n"
        ".globl __vfork\n"
        ".set __vfork, vfork\n");
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl vfork\n"
        ".type vfork, %function\n"
        "vfork:\n"
        "    .cfi_startproc\n"
        "    stp x29, x30, [sp, #-16]!\n"
        "    .cfi_adjust_cfa_offset 16\n"
        "    bl before_vfork\n"
        "    ldp x29, x30, [sp], #16\n"
        "    .cfi_adjust_cfa_offset -16\n"
        "    br x0\n"
        "    .cfi_endproc\n"
        ".size vfork, .-vfork\n"
        ".globl __vfork\n"
        ".set __vfork, vfork\n");
#endif

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    proc_enter();
    proc_before_fork();
    handover_before_program(program_loads_library(path, environment), HANDOVER_TO_CHILD);
    return real.posix_spawn(pid, path, actions, attributes, arguments, environment);
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    proc_enter();
    proc_before_fork();
    handover_before_program(program_found_loads_library(file, environment), HANDOVER_TO_CHILD);
    return real.posix_spawnp(pid, file, actions, attributes, arguments, environment);
}

// What will become of the actions is not told again.
EXPORT int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *actions, int from, int to)
{
    HELD sock = sock_hold(from);
    if (sock)
        atomic_fetch_or(&sock->flags, SOCK_GIVEN);
    return real.posix_spawn_file_actions_adddup2(actions, from, to);
}

// glibc makes the children of these itself.
static void before_shell(void)
{
    proc_enter();
    proc_before_fork();
    handover_before_program(program_loads_library("/bin/sh", environ), HANDOVER_TO_CHILD);
}

EXPORT FILE *popen(const char *command, const char *mode)
{
    before_shell();
    return real.popen(command, mode);
}

EXPORT int system(const char *command)
{
    before_shell();
    return real.system(command);
}

// Its last three arguments, which may be missing, are passed on as they came.
EXPORT int clone(int (*function)(void *), void *stack, int flags, void *argument, ...)
{
    va_list list;
    va_start(list, argument);
    void *parent_tid = va_arg(list, void *), *tls = va_arg(list, void *), *child_tid = va_arg(list, void *);
    va_end(list);
    proc_enter();
    if (!(flags & CLONE_VM))
        proc_before_fork();
    return real.clone(function, stack, flags, argument, parent_tid, tls, child_tid);
}

EXPORT int __clone(int (*function)(void *), void *stack, int flags, void *argument, ...)
    __attribute__((alias("clone")));
