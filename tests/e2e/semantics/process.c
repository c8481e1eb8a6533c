// Connections and processes: shared after fork, taken over, carried through exec, held by a child that does nothing.

#include <fcntl.h>
#include <spawn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/semantics/echo.h"
#include "tests/e2e/semantics/scene.h"

static pid_t start_child(void)
{
    pid_t pid = fork();
    if (pid < 0)
        broken("fork");
    return pid;
}

// A pipe through which two processes take turns.
static void let(const int ends[2])
{
    if (write(ends[1], "!", 1) != 1)
        broken("pipe");
}

static void await(const int ends[2])
{
    char byte;
    if (read(ends[0], &byte, 1) != 1)
        broken("pipe");
}

static void make_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) < 0)
        broken("pipe");
}

// Parent and child send on one socket and receive from the other, in turns.
static void both_use_it(void)
{
    struct pair pair = scene_pair();
    int to_child[2], to_parent[2];
    make_pipe(to_child);
    make_pipe(to_parent);
    pid_t pid = start_child();
    for (int i = 0; i < 20; i++) {
        char word[20];
        if (pid)
            let(to_child);
        await(pid ? to_parent : to_child);
        snprintf(word, sizeof word, "%s %d", pid ? "parent" : "child", i);
        give(pair.client, word);
        observe_recv(pid ? "the parent" : "the child", pair.server, 100, 0);
        if (pid == 0)
            let(to_parent);
    }
    if (pid == 0)
        _exit(0);
    scene_reap(pid);
    close(pair.client);
    observe_recv("server", pair.server, 100, 0);
}

// Neither waits for the other. All that both sent must come, in each one's order.
static void both_send_at_once(void)
{
    enum { WORDS = 20000 };
    struct pair pair = scene_pair();
    pid_t pid = start_child();
    unsigned next[2] = {0, 0}, wrong = 0;
    if (pid == 0) {
        pid_t other = start_child();
        close(pair.server);
        for (int i = 0; i < WORDS; i++) {
            unsigned char word = (unsigned char)((other ? 128 : 0) | (i & 127));
            if (send(pair.client, &word, 1, 0) != 1)
                broken("send");
        }
        if (other)
            waitpid(other, NULL, 0);
        _exit(0);
    }
    close(pair.client);
    unsigned char word;
    while (recv(pair.server, &word, 1, 0) == 1)
        wrong += (next[word >> 7]++ & 127) != (word & 127);
    say("%u and %u words, %u of them out of order", next[0], next[1], wrong);
    scene_reap(pid);
}

static void child_takes_over(void)
{
    struct pair pair = scene_pair();
    pid_t pid = start_child();
    if (pid == 0) {
        close(pair.server);
        observe_recv("the child", pair.client, 100, 0);
        give(pair.client, "from the child");
        observe_recv("the child", pair.client, 100, 0);
        _exit(0);
    }
    close(pair.client);
    nap(30);
    give(pair.server, "for the child");
    observe_recv("server", pair.server, 14, MSG_WAITALL);
    observe_recv("server", pair.server, 100, MSG_DONTWAIT);
    give(pair.server, "go");
    observe_recv("server", pair.server, 100, 0);
    scene_reap(pid);
}

// The connection is made by the parent and used by the child alone, as in every forking server.
static void child_serves(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    pid_t pid = start_child();
    if (pid == 0) {
        close(pair.client);
        char byte;
        while (recv(pair.server, &byte, 1, 0) == 1)
            give(pair.server, "!");
        say("the child sees the end");
        _exit(0);
    }
    close(pair.server);
    for (int i = 0; i < 300; i++) {
        give(pair.client, "?");
        take(pair.client, 1);
    }
    close(pair.client);
    scene_reap(pid);
}

// A snapshot child holds every socket and touches none.
static void idle_holder(void)
{
    struct pair pair = scene_pair();
    int ends[2];
    make_pipe(ends);
    pid_t pid = start_child();
    if (pid == 0) {
        await(ends);
        _exit(0);
    }
    give(pair.client, "meanwhile");
    observe_recv("server", pair.server, 100, 0);
    close(pair.client);
    nap(50);
    observe_recv("server", pair.server, 100, MSG_DONTWAIT);
    let(ends);
    close(pair.server);
    scene_reap(pid);
    struct pair other = scene_pair();
    pid = start_child();
    if (pid == 0) {
        await(ends);
        _exit(0);
    }
    close(other.client);
    nap(30);
    let(ends);
    scene_reap(pid);
    observe_recv("the other server", other.server, 100, 0);
}

static void holder_is_killed(void)
{
    struct pair pair = scene_pair();
    pid_t pid = start_child();
    if (pid == 0) {
        for (;;)
            pause();
    }
    kill(pid, SIGKILL);
    scene_reap(pid);
    give(pair.client, "goes on");
    observe_recv("server", pair.server, 100, 0);
}

static void holder_is_killed_while_receiving(void)
{
    struct pair pair = scene_pair();
    pid_t pid = start_child();
    if (pid == 0) {
        char byte;
        recv(pair.server, &byte, 1, 0);
        _exit(1);
    }
    nap(80);
    kill(pid, SIGKILL);
    scene_reap(pid);
    give(pair.client, "for us");
    observe_recv("server", pair.server, 100, 0);
}

static void holder_is_killed_while_sending(void)
{
    struct pair pair = scene_pair();
    pid_t pid = start_child();
    if (pid == 0) {
        static char bytes[1 << 20];
        while (send(pair.client, bytes, sizeof bytes, 0) > 0)
            continue;
        _exit(1);
    }
    nap(80);
    kill(pid, SIGKILL);
    scene_reap(pid);
    say("something was sent: %s", drain(pair.server, SIZE_MAX) > 0 ? "yes" : "no");
    give(pair.client, "ours");
    observe_recv("server", pair.server, 100, 0);
}

static void talk_with_echo(struct pair pair, pid_t pid)
{
    close(pair.server);
    for (int i = 0; i < 40; i++) {
        char word[20], back[20] = "";
        snprintf(word, sizeof word, "word %02d", i);
        give(pair.client, word);
        if (recv(pair.client, back, 7, MSG_WAITALL) != 7 || strcmp(word, back) != 0)
            broken("the echo is wrong");
    }
    say("the echo is right");
    OBSERVE(shutdown(pair.client, SHUT_WR));
    observe_recv("client", pair.client, 100, 0);
    scene_reap(pid);
}

static void carried_through_exec(void)
{
    struct pair pair = scene_pair();
    pid_t pid = start_child();
    if (pid == 0) {
        close(pair.client);
        echo_exec(pair.server, environ);
    }
    talk_with_echo(pair, pid);
}

static void carried_through_vfork_and_exec(void)
{
    struct pair pair = scene_pair();
    pid_t pid = vfork();
    if (pid == 0) {
        close(pair.client);
        dup2(pair.server, 150);
        close(pair.server);
        echo_exec(150, environ);
    }
    talk_with_echo(pair, pid);
}

static void fresh_through_exec(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    pid_t pid = start_child();
    if (pid == 0) {
        close(pair.client);
        echo_exec(pair.server, environ);
    }
    talk_with_echo(pair, pid);
}

// The child of vfork lives in the parent's memory: what it closes stays open in the parent.
static void closed_by_vfork_child(void)
{
    struct pair pair = scene_pair();
    pid_t pid = vfork();
    if (pid == 0) {
        close(pair.client);
        close(pair.server);
        dup2(1, 2);
        execl("/bin/true", "true", NULL);
        _exit(127);
    }
    scene_reap(pid);
    give(pair.client, "still open");
    observe_recv("server", pair.server, 100, 0);
    pid = vfork();
    if (pid == 0) {
        close_range(3, ~0u, 0);
        _exit(3);
    }
    scene_reap(pid);
    give(pair.client, "still open");
    observe_recv("server", pair.server, 100, 0);
    close(pair.client);
    observe_recv("server", pair.server, 100, 0);
}

static void spawned(void)
{
    struct pair pair = scene_pair();
    const char *arguments[] = {"semantics", ECHO_OPTION, "151", NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pair.server, 151);
    posix_spawn_file_actions_addclose(&actions, pair.server);
    posix_spawn_file_actions_addclose(&actions, pair.client);
    OBSERVE(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, (char **)arguments, environ));
    posix_spawn_file_actions_destroy(&actions);
    talk_with_echo(pair, pid);
}

// What a child without the connection does leaves it alone.
static void other_children(void)
{
    struct pair pair = scene_pair();
    char line[100] = "";
    fcntl(pair.client, F_SETFD, FD_CLOEXEC);
    fcntl(pair.server, F_SETFD, FD_CLOEXEC);
    FILE *output = popen("echo from a shell", "r");
    if (!output || !fgets(line, sizeof line, output))
        broken("popen");
    OBSERVE(pclose(output));
    say("%.12s", line);
    OBSERVE(system("exit 3") >> 8);
    OBSERVE(system("cat < /dev/null > /dev/null"));
    give(pair.client, "undisturbed");
    observe_recv("server", pair.server, 100, 0);
    close(pair.client);
    observe_recv("server", pair.server, 100, 0);
}

// The shell inherits the connection, and must not keep it.
static void inherited_by_a_shell(void)
{
    struct pair pair = scene_pair();
    OBSERVE(system("sleep 0.05"));
    give(pair.client, "undisturbed");
    observe_recv("server", pair.server, 100, 0);
    close(pair.client);
    observe_recv("server", pair.server, 100, 0);
}

// In the manner of daemons: two forks, a session of its own, all else closed.
static void daemonized(void)
{
    struct pair pair = scene_pair();
    pid_t pid = start_child();
    if (pid == 0) {
        setsid();
        if (start_child() != 0)
            _exit(0);
        for (int fd = 0; fd < 1000; fd++) {
            if (fd != pair.server)
                close(fd);
        }
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        dup2(null, 2);
        char byte;
        while (recv(pair.server, &byte, 1, 0) == 1)
            give(pair.server, "!");
        _exit(0);
    }
    scene_reap(pid);
    close(pair.server);
    for (int i = 0; i < 100; i++) {
        give(pair.client, "?");
        take(pair.client, 1);
    }
    OBSERVE(shutdown(pair.client, SHUT_WR));
    observe_recv("client", pair.client, 100, 0);
}

struct reading {
    int fd;
};

static void act_read(void *argument)
{
    observe_recv("the thread", ((struct reading *)argument)->fd, 100, 0);
}

// A thread is in a receive, with whatever it holds, when another one forks.
static void forked_among_threads(void)
{
    struct pair pair = scene_pair();
    struct reading reading = {pair.server};
    struct later later;
    scene_later(&later, 0, act_read, &reading);
    nap(60);
    pid_t pid = start_child();
    if (pid == 0) {
        give(pair.server, "from the child");
        _exit(0);
    }
    observe_recv("client", pair.client, 100, 0);
    scene_reap(pid);
    give(pair.client, "for the thread");
    scene_join(&later);
}

static void generations(void)
{
    struct pair pair = scene_pair();
    pid_t pid = start_child();
    if (pid == 0) {
        pid_t grandchild = start_child();
        if (grandchild == 0) {
            observe_recv("the grandchild", pair.server, 100, 0);
            give(pair.server, "from the grandchild");
            _exit(0);
        }
        waitpid(grandchild, NULL, 0);
        give(pair.server, "from the child");
        _exit(0);
    }
    give(pair.client, "for the grandchild");
    observe_recv("client", pair.client, 19, MSG_WAITALL);
    observe_recv("client", pair.client, 100, 0);
    scene_reap(pid);
    give(pair.server, "from us");
    observe_recv("client", pair.client, 100, 0);
}

const struct scene_case process_cases[] = {
    {"both_use_it", both_use_it},
    {"both_send_at_once", both_send_at_once},
    {"child_takes_over", child_takes_over},
    {"child_serves", child_serves},
    {"idle_holder", idle_holder},
    {"holder_is_killed", holder_is_killed},
    {"holder_is_killed_while_receiving", holder_is_killed_while_receiving},
    {"holder_is_killed_while_sending", holder_is_killed_while_sending},
    {"carried_through_exec", carried_through_exec},
    {"carried_through_vfork_and_exec", carried_through_vfork_and_exec},
    {"fresh_through_exec", fresh_through_exec},
    {"closed_by_vfork_child", closed_by_vfork_child},
    {"spawned", spawned},
    {"other_children", other_children},
    {"inherited_by_a_shell", inherited_by_a_shell},
    {"daemonized", daemonized},
    {"forked_among_threads", forked_among_threads},
    {"generations", generations},
    {NULL, NULL},
};
