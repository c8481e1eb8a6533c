// Connections in a ring that come into the hands of somebody who does not know of rings: programs without the library,
// however they are executed, and stdio. With bytes in the ring that nobody has read, in part or at all, and with another
// end that does nothing for a while.

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/semantics/echo.h"
#include "tests/e2e/semantics/scene.h"

// Bytes of which each tells its place, so that none can be missing.
#define MUCH 60000

static unsigned char byte_at(size_t place)
{
    return (unsigned char)(place * 31 + place / 251);
}

static void give_much(int fd, size_t from, size_t until)
{
    static unsigned char bytes[MUCH];
    for (size_t i = from; i < until; i++)
        bytes[i - from] = byte_at(i);
    if (send(fd, bytes, until - from, MSG_NOSIGNAL) != (ssize_t)(until - from))
        broken("send");
}

// Receives what was sent from a place on, and says how much of it came before anything else.
static void take_much(int fd, size_t from, size_t until)
{
    static unsigned char bytes[MUCH];
    size_t at = from;
    ssize_t got;
    while (at < until && (got = recv(fd, bytes, until - at, 0)) > 0) {
        for (ssize_t i = 0; i < got; i++, at++) {
            if (bytes[i] != byte_at(at)) {
                say("byte %zu is another", at);
                return;
            }
        }
    }
    say("bytes %zu to %zu came", from, at);
}

static pid_t start_child(void)
{
    pid_t pid = fork();
    if (pid < 0)
        broken("fork");
    return pid;
}

static void observe_end(int fd, pid_t pid)
{
    OBSERVE(shutdown(fd, SHUT_WR));
    observe_recv("client", fd, 100, 0);
    scene_reap(pid);
}

static char *nothing[] = {NULL};

// --- what is unread ---

// The child's program finds `unread` bytes that were sent before, and echoes them, and what comes after.
static void exec_behind(size_t read, int other_end_sleeps)
{
    struct pair pair = scene_pair();
    give_much(pair.client, 0, MUCH / 2);
    take_much(pair.server, 0, read);
    pid_t pid = start_child();
    if (pid == 0) {
        close(pair.client);
        echo_exec(pair.server, nothing);
    }
    close(pair.server);
    nap(other_end_sleeps);
    take_much(pair.client, read, MUCH / 2);
    give_much(pair.client, MUCH / 2, MUCH);
    take_much(pair.client, MUCH / 2, MUCH);
    observe_end(pair.client, pid);
}

static void program_behind_unread(void)
{
    exec_behind(0, 0);
}

static void program_behind_half_read(void)
{
    exec_behind(10000, 0);
}

static void program_while_other_end_sleeps(void)
{
    exec_behind(10000, 1000);
}

// What the other end has sent is received when that is gone, too.
static void program_outlives_other_end(void)
{
    struct pair pair = scene_pair();
    int ends[2];
    if (pipe(ends) < 0)
        broken("pipe");
    give_much(pair.client, 0, MUCH);
    take_much(pair.server, 0, 1000);
    pid_t pid = start_child();
    if (pid == 0) {
        close(pair.client);
        dup2(pair.server, 0);
        dup2(ends[1], 1);
        execle("/usr/bin/wc", "wc", "-c", NULL, nothing);
        _exit(127);
    }
    nap(100);
    close(pair.server);
    close(pair.client);
    scene_reap(pid);
    char text[100] = "";
    if (read(ends[0], text, sizeof text - 1) < 0)
        broken("read");
    say("%.20s", text);
}

static void stdio_behind_unread(void)
{
    struct pair pair = scene_pair();
    char line[100] = "";
    give(pair.client, "of which this is read: line one\nline two\n");
    take(pair.server, 23);
    FILE *server = fdopen(pair.server, "r+");
    give(pair.client, "line three\n");
    for (int i = 0; i < 3 && fgets(line, sizeof line, server); i++)
        say("%.20s", line);
    fprintf(server, "an answer");
    fflush(server);
    observe_recv("client", pair.client, 100, 0);
    give(pair.client, "not a line");
    close(pair.client);
    say("%s", fgets(line, sizeof line, server) ? line : "nothing");
    fclose(server);
}

// A program that runs with the library, if there is one, but reads and writes its standard files by stdio.
static void stdio_of_a_program(void)
{
    struct pair pair = scene_pair();
    const char *arguments[] = {"sed", "-u", "s/^/got /", NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    give(pair.client, "read\none\ntwo\n");
    take(pair.server, 5);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pair.server, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, pair.server, STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, pair.client);
    OBSERVE(posix_spawnp(&pid, "sed", &actions, NULL, (char **)arguments, environ));
    posix_spawn_file_actions_destroy(&actions);
    give(pair.client, "three\n");
    close(pair.server);
    observe_recv("client", pair.client, 26, MSG_WAITALL);
    observe_end(pair.client, pid);
}

// --- to another process ---

static void passed(size_t read, char **environment)
{
    struct pair pair = scene_pair();
    int ends[2];
    char number[16];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        broken("socketpair");
    snprintf(number, sizeof number, "%d", ends[1]);
    const char *arguments[] = {"semantics", RECEIVE_OPTION, number, NULL};
    pid_t pid = start_child();
    if (pid == 0) {
        close(pair.server);
        close(pair.client);
        execve("/proc/self/exe", (char **)arguments, environment);
        _exit(127);
    }
    give_much(pair.client, 0, MUCH / 2);
    take_much(pair.server, 0, read);
    scene_pass(ends[0], pair.server);
    close(pair.server);
    take_much(pair.client, read, MUCH / 2);
    give_much(pair.client, MUCH / 2, MUCH);
    take_much(pair.client, MUCH / 2, MUCH);
    observe_end(pair.client, pid);
}

static void passed_to_program_without_library(void)
{
    passed(0, nothing);
    passed(1000, nothing);
}

static void passed_to_program_with_library(void)
{
    passed(0, environ);
    passed(1000, environ);
}

// --- all the ways to execute a program ---

static char own_file[4096], own_option[] = ECHO_OPTION;
static char *own_arguments[] = {own_file, own_option, NULL, NULL};

static void by_execv(void)
{
    environ = nothing;
    execv(own_file, own_arguments);
}

static void by_execvp(void)
{
    environ = nothing;
    execvp(own_file, own_arguments);
}

static void by_execvpe(void)
{
    execvpe(own_file, own_arguments, nothing);
}

static void by_execl(void)
{
    environ = nothing;
    execl(own_file, own_arguments[0], own_arguments[1], own_arguments[2], NULL);
}

static void by_execlp(void)
{
    environ = nothing;
    execlp(own_file, own_arguments[0], own_arguments[1], own_arguments[2], NULL);
}

static void by_execle(void)
{
    execle(own_file, own_arguments[0], own_arguments[1], own_arguments[2], NULL, nothing);
}

static void by_fexecve(void)
{
    fexecve(open(own_file, O_RDONLY), own_arguments, nothing);
}

static void by_execveat(void)
{
    execveat(open(own_file, O_PATH), "", own_arguments, nothing, AT_EMPTY_PATH);
}

static void by_syscall(void)
{
    syscall(SYS_execve, own_file, own_arguments, nothing);
}

// The program is found by the library to be loaded, but is told that it is switched off.
static void by_disabling(void)
{
    setenv("RDMA_AGENT_DISABLE", "1", 1);
    execv(own_file, own_arguments);
}

static void execute(const char *name, void (*way)(void))
{
    struct pair pair = scene_pair();
    char number[16];
    snprintf(number, sizeof number, "%d", pair.server);
    own_arguments[2] = number;
    give(pair.client, "unread");
    pid_t pid = start_child();
    if (pid == 0) {
        close(pair.client);
        way();
        _exit(127);
    }
    close(pair.server);
    observe_recv(name, pair.client, 6, MSG_WAITALL);
    observe_end(pair.client, pid);
    close(pair.client);
}

static void executed_in_all_ways(void)
{
    static const struct {
        const char *name;
        void (*way)(void);
    } ways[] = {
        {"execv", by_execv},     {"execvp", by_execvp},
        {"execvpe", by_execvpe}, {"execl", by_execl},
        {"execlp", by_execlp},   {"execle", by_execle},
        {"fexecve", by_fexecve}, {"execveat", by_execveat},
        {"syscall", by_syscall}, {"execv, disabled", by_disabling},
    };
    if (readlink("/proc/self/exe", own_file, sizeof own_file - 1) < 0)
        broken("readlink");
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        execute(ways[i].name, ways[i].way);
}

// The child lives in its parent's memory, and gives the socket another number.
static void vforked_program_without_library(void)
{
    struct pair pair = scene_pair();
    give_much(pair.client, 0, MUCH / 2);
    take_much(pair.server, 0, 1000);
    pid_t pid = vfork();
    if (pid == 0) {
        close(pair.client);
        dup2(pair.server, 150);
        close(pair.server);
        echo_exec(150, nothing);
    }
    close(pair.server);
    take_much(pair.client, 1000, MUCH / 2);
    observe_end(pair.client, pid);
}

static void spawned_program_without_library(void)
{
    struct pair pair = scene_pair();
    const char *arguments[] = {"semantics", ECHO_OPTION, "151", NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    fcntl(pair.client, F_SETFD, FD_CLOEXEC);
    fcntl(pair.server, F_SETFD, FD_CLOEXEC);
    give_much(pair.client, 0, MUCH / 2);
    take_much(pair.server, 0, 1000);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pair.server, 151);
    OBSERVE(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, (char **)arguments, nothing));
    posix_spawn_file_actions_destroy(&actions);
    close(pair.server);
    take_much(pair.client, 1000, MUCH / 2);
    observe_end(pair.client, pid);
}

static void shell_without_library(void)
{
    struct pair pair = scene_pair();
    char command[100];
    unsetenv("LD_PRELOAD");
    give(pair.client, "a line\n");
    snprintf(command, sizeof command, "read line <&%d; echo got $line >&%d", pair.server, pair.server);
    OBSERVE(system(command));
    observe_recv("client", pair.client, 11, MSG_WAITALL);
    give(pair.server, "from us");
    observe_recv("client", pair.client, 100, 0);
    give(pair.client, "for us");
    observe_recv("server", pair.server, 100, 0);
}

// Of a connection that is closed on exec nothing is to be noticed.
static void program_without_the_connection(void)
{
    struct pair pair = scene_pair();
    fcntl(pair.client, F_SETFD, FD_CLOEXEC);
    fcntl(pair.server, F_SETFD, FD_CLOEXEC);
    give(pair.client, "unread");
    pid_t pid = start_child();
    if (pid == 0) {
        execle("/bin/true", "true", NULL, nothing);
        _exit(127);
    }
    scene_reap(pid);
    observe_recv("server", pair.server, 100, 0);
    scene_upgrade(pair);
}

// Two descriptors of one connection, which a program begins with.
static void inherited_twice(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    char word[32], expected[32];
    int wrong = 0;
    pid_t pid = start_child();
    if (pid == 0) {
        close(pair.client);
        dup2(pair.server, 150);
        dup2(pair.server, 151);
        close(pair.server);
        execl("/proc/self/exe", "semantics", ALTERNATE_OPTION, "150", NULL);
        _exit(127);
    }
    close(pair.server);
    for (int i = 0; i < ECHO_WORDS; i++) {
        snprintf(expected, sizeof expected, "word %03d", i);
        if (recv(pair.client, word, 8, MSG_WAITALL) != 8)
            broken("recv");
        wrong += memcmp(word, expected, 8) != 0;
        if (i % 20 == 0)
            nap(10);
        give(pair.client, "!");
    }
    say("%d words are wrong", wrong);
    observe_recv("client", pair.client, 100, 0);
    scene_reap(pid);
}

static void send_and_go_to_stdio(int fd)
{
    static char much[130000];
    int small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    // Where it blocks, it is stopped in the middle, and returns what it has sent by then.
    for (size_t sent = 0; sent < sizeof much;) {
        ssize_t n = send(fd, much + sent, sizeof much - sent, MSG_NOSIGNAL);
        if (n <= 0)
            broken("send");
        sent += (size_t)n;
    }
    FILE *file = fdopen(fd, "w");
    fclose(file);
}

// What was not read is sent again, and that is stuck halfway: who receives meanwhile has its timeout.
static void timeout_while_sent_again(void)
{
    struct timeval time = {0, 200000};
    static char bytes[4096];
    size_t got = 0;
    ssize_t n;
    int fd, small = 2048;
    pid_t pid = scene_peer(send_and_go_to_stdio, &fd);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    nap(300);
    kill(pid, SIGSTOP);
    while ((n = recv(fd, bytes, sizeof bytes, 0)) > 0)
        got += (size_t)n;
    say("while the other end stands still: %s", n < 0 ? strerrorname_np(errno) : "the end");
    kill(pid, SIGCONT);
    while ((n = recv(fd, bytes, sizeof bytes, 0)) > 0 || (n < 0 && errno == EAGAIN))
        got += n > 0 ? (size_t)n : 0;
    say("%zu bytes, then %s", got, n < 0 ? strerrorname_np(errno) : "the end");
    scene_reap(pid);
}

const struct scene_case handover_cases[] = {
    {"timeout_while_sent_again", timeout_while_sent_again},
    {"program_behind_unread", program_behind_unread},
    {"program_behind_half_read", program_behind_half_read},
    {"program_while_other_end_sleeps", program_while_other_end_sleeps},
    {"program_outlives_other_end", program_outlives_other_end},
    {"stdio_behind_unread", stdio_behind_unread},
    {"stdio_of_a_program", stdio_of_a_program},
    {"passed_to_program_without_library", passed_to_program_without_library},
    {"passed_to_program_with_library", passed_to_program_with_library},
    {"executed_in_all_ways", executed_in_all_ways},
    {"vforked_program_without_library", vforked_program_without_library},
    {"spawned_program_without_library", spawned_program_without_library},
    {"shell_without_library", shell_without_library},
    {"inherited_twice", inherited_twice},
    {"program_without_the_connection", program_without_the_connection},
    {NULL, NULL},
};
