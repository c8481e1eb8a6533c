// Descriptors of a connection: copied, moved, replaced, closed in bulk, passed on. The connection ends with the last.

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/e2e/semantics/scene.h"

static void both_ways(const char *how, int client, int server)
{
    say("%s:", how);
    give(client, "forth");
    observe_recv("server", server, 100, 0);
    give(server, "back");
    observe_recv("client", client, 100, 0);
}

static void copies(void)
{
    struct pair pair = scene_pair();
    int copy = dup(pair.client);
    both_ways("by dup", copy, pair.server);
    OBSERVE(close(pair.client));
    both_ways("the first is closed", copy, pair.server);
    int second = fcntl(copy, F_DUPFD, 200);
    OBSERVE(second);
    int third = fcntl(copy, F_DUPFD_CLOEXEC, 300);
    OBSERVE(third);
    OBSERVE(fcntl(second, F_GETFD));
    OBSERVE(fcntl(third, F_GETFD));
    close(copy);
    both_ways("by F_DUPFD", second, pair.server);
    close(second);
    both_ways("by F_DUPFD_CLOEXEC", third, pair.server);
    OBSERVE(dup2(third, 400));
    close(third);
    both_ways("by dup2", 400, pair.server);
    OBSERVE(dup3(400, 401, O_CLOEXEC));
    close(400);
    OBSERVE(fcntl(401, F_GETFD));
    both_ways("by dup3", 401, pair.server);
    observe_recv("server", pair.server, 10, MSG_DONTWAIT);
    close(401);
    observe_recv("server", pair.server, 10, 0);
}

static void copied_before_the_upgrade(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    int copy = dup(pair.client);
    scene_upgrade(pair);
    both_ways("the copy", copy, pair.server);
    both_ways("the first", pair.client, pair.server);
    close(pair.client);
    both_ways("the copy, alone", copy, pair.server);
    close(copy);
    observe_recv("server", pair.server, 10, 0);
}

// Two names of one socket share their place in the stream.
static void copies_share_the_stream(void)
{
    struct pair pair = scene_pair();
    int out = dup(pair.client), in = dup(pair.server);
    for (int i = 0; i < 4; i++) {
        char word[2] = {(char)('0' + i), 0};
        give(i % 2 ? out : pair.client, word);
    }
    observe_recv("server", pair.server, 1, 0);
    observe_recv("the copy", in, 1, 0);
    observe_recv("server", pair.server, 1, 0);
    observe_recv("the copy", in, 1, 0);
}

static void replaced(void)
{
    struct pair pair = scene_pair();
    int null = open("/dev/null", O_RDWR);
    char byte;
    OBSERVE(dup2(null, pair.client) == pair.client);
    observe_recv("server", pair.server, 10, 0);
    OBSERVE(write(pair.client, "away", 4));
    OBSERVE(read(pair.client, &byte, 1));
    OBSERVE(send(pair.client, "x", 1, 0));
    observe_recv("server", pair.server, 10, MSG_DONTWAIT);
}

static void copied_onto_itself(void)
{
    struct pair pair = scene_pair();
    OBSERVE(dup2(pair.client, pair.client) == pair.client);
    OBSERVE(dup3(pair.client, pair.client, 0));
    OBSERVE(dup2(pair.client, -1));
    OBSERVE(dup2(999, pair.client));
    both_ways("it is still there", pair.client, pair.server);
}

static void replaced_by_another(void)
{
    struct pair one = scene_pair(), two = scene_pair();
    OBSERVE(dup2(one.client, two.client) == two.client);
    observe_recv("the other server", two.server, 10, 0);
    both_ways("by the number of the other", two.client, one.server);
    close(one.client);
    both_ways("alone", two.client, one.server);
    close(two.client);
    observe_recv("server", one.server, 10, 0);
}

static void replaced_by_a_pipe(void)
{
    struct pair pair = scene_pair();
    int ends[2];
    char text[10] = "";
    if (pipe(ends) < 0)
        broken("pipe");
    OBSERVE(dup3(ends[1], pair.client, O_CLOEXEC) == pair.client);
    OBSERVE(write(pair.client, "pipe", 4));
    OBSERVE(read(ends[0], text, sizeof text));
    say("\"%s\"", text);
    observe_recv("server", pair.server, 10, 0);
}

static void number_used_again(void)
{
    struct pair pair = scene_pair();
    int number = pair.client;
    char text[10] = "";
    close(pair.client);
    int file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    say("the file has the number of the socket: %s", file == number ? "yes" : "no");
    OBSERVE(write(file, "file", 4));
    OBSERVE(lseek(file, 0, SEEK_SET));
    OBSERVE(read(file, text, sizeof text));
    say("\"%s\"", text);
    observe_recv("server", pair.server, 10, 0);
}

static void closed_in_ranges(void)
{
    struct pair one = scene_pair(), two = scene_pair(), three = scene_pair();
    dup2(one.client, 501);
    dup2(two.client, 502);
    dup2(three.client, 503);
    close(one.client);
    close(two.client);
    close(three.client);
    OBSERVE(close_range(501, 502, CLOSE_RANGE_CLOEXEC));
    OBSERVE(fcntl(501, F_GETFD));
    OBSERVE(fcntl(503, F_GETFD));
    both_ways("marked", 501, one.server);
    OBSERVE(close_range(501, 502, 0));
    observe_recv("one", one.server, 10, 0);
    observe_recv("two", two.server, 10, 0);
    both_ways("outside the range", 503, three.server);
    OBSERVE(close_range(10, 9, 0));
    OBSERVE(close_range(503, ~0u, 0));
    observe_recv("three", three.server, 10, 0);
    OBSERVE(fcntl(503, F_GETFD));
}

static void closed_from(void)
{
    struct pair pair = scene_pair();
    dup2(pair.server, 10);
    dup2(pair.client, 11);
    closefrom(11);
    OBSERVE(fcntl(11, F_GETFD));
    OBSERVE(fcntl(10, F_GETFD));
    close(pair.client);
    close(pair.server);
    observe_recv("server", 10, 10, 0);
    close(10);
    struct pair next = scene_pair();
    both_ways("another connection", next.client, next.server);
}

// As daemons do. What is not the program's own must not show.
static void all_closed_one_by_one(void)
{
    struct pair pair = scene_pair();
    int closed = 0;
    for (int fd = 3; fd < 70000; fd++) {
        if (fd != pair.server)
            closed += close(fd) == 0;
    }
    say("%d were open", closed);
    observe_recv("server", pair.server, 10, 0);
    close(pair.server);
    struct pair next = scene_pair();
    both_ways("another connection", next.client, next.server);
}

static void all_closed_while_talking(void)
{
    struct pair pair = scene_pair();
    dup2(pair.client, 20);
    dup2(pair.server, 21);
    OBSERVE(close_range(3, 19, 0));
    OBSERVE(close_range(22, ~0u, 0));
    both_ways("the connection goes on", 20, 21);
    struct pair next = scene_pair();
    both_ways("another connection", next.client, next.server);
}

// The raw call, as libuv makes it.
static void closed_by_syscall(void)
{
    struct pair pair = scene_pair();
    OBSERVE(syscall(SYS_close, pair.client));
    observe_recv("server", pair.server, 10, 0);
    int number = pair.client;
    struct pair next = scene_pair();
    say("the next has the same number: %s", next.client == number ? "yes" : "no");
    char text[10] = "";
    OBSERVE(syscall(SYS_write, next.client, "raw", 3));
    OBSERVE(syscall(SYS_read, next.server, text, sizeof text));
    say("\"%s\"", text);
    OBSERVE(syscall(SYS_dup2, next.client, 600));
    both_ways("copied by syscall", 600, next.server);
    OBSERVE(syscall(SYS_sendto, next.client, "sendto", 6, 0, NULL, 0));
    OBSERVE(syscall(SYS_recvfrom, next.server, text, sizeof text, 0, NULL, NULL));
    say("\"%s\"", text);
}

static void on_standard_numbers(void)
{
    struct pair pair = scene_pair();
    char text[10] = "";
    dup2(pair.server, STDIN_FILENO);
    close(pair.server);
    give(pair.client, "input");
    OBSERVE(read(STDIN_FILENO, text, sizeof text));
    say("\"%s\"", text);
    OBSERVE(write(STDIN_FILENO, "output", 6));
    observe_recv("client", pair.client, 10, 0);
    int null = open("/dev/null", O_RDWR);
    OBSERVE(dup2(null, STDIN_FILENO));
    observe_recv("client", pair.client, 10, 0);
}

// stdio writes to its files by itself, whatever they have become.
static void stdio_on_standard_number(void)
{
    struct pair pair = scene_pair();
    int before = dup(STDOUT_FILENO);
    dup2(pair.server, STDOUT_FILENO);
    printf("by stdio");
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    struct pollfd one = {.fd = pair.client, .events = POLLIN};
    OBSERVE(poll(&one, 1, 1000));
    observe_recv("client", pair.client, 100, MSG_DONTWAIT);
    both_ways("afterwards", pair.client, pair.server);
}

// What the kernel refuses is not looked at first.
static void passed_in_parts_of_wrong_size(void)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec part = {(char *)"!", 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    size_t sizes[] = {0, 8, 1 << 24};
    int through[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, through) < 0)
        broken("socketpair");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        control.align = (struct cmsghdr){sizes[i], SOL_SOCKET, SCM_RIGHTS};
        OBSERVE(sendmsg(through[0], &message, 0));
    }
}

// A process that takes it from another one's table.
static void fetched(void)
{
    struct pair pair = scene_pair();
    int start[2];
    if (pipe(start) < 0)
        broken("pipe");
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(pair.client);
        close(pair.server);
        if (read(start[0], &byte, 1) != 1)
            _exit(1);
        int parent = (int)syscall(SYS_pidfd_open, getppid(), 0);
        int fetched = pidfd_getfd(parent, pair.server, 0);
        say("it was fetched: %s", fetched >= 0 ? "yes" : strerrorname_np(errno));
        struct pollfd one = {.fd = fetched, .events = POLLIN};
        OBSERVE(poll(&one, 1, 2000));
        observe_recv("the child", fetched, 100, MSG_DONTWAIT);
        give(fetched, "from the child");
        _exit(0);
    }
    give(pair.client, "to whom it concerns");
    if (write(start[1], "!", 1) != 1)
        broken("pipe");
    observe_recv("client", pair.client, 100, 0);
    scene_reap(pid);
}

static void passed_to_itself(void)
{
    struct pair pair = scene_pair();
    int through[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, through) < 0)
        broken("socketpair");
    scene_pass(through[0], pair.client);
    int passed = scene_receive_passed(through[1]);
    both_ways("the passed one", passed, pair.server);
    both_ways("the first", pair.client, pair.server);
    OBSERVE(close(pair.client));
    both_ways("the passed one, alone", passed, pair.server);
    OBSERVE(close(passed));
    observe_recv("server", pair.server, 10, 0);
}

// It is in nobody's hands for a while, only on its way.
static void passed_and_closed(void)
{
    struct pair pair = scene_pair();
    int through[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, through) < 0)
        broken("socketpair");
    scene_pass(through[0], pair.client);
    close(pair.client);
    give(pair.server, "while on its way");
    nap(50);
    observe_recv("server", pair.server, 10, MSG_DONTWAIT);
    int passed = scene_receive_passed(through[1]);
    observe_recv("the passed one", passed, 100, 0);
    both_ways("the passed one", passed, pair.server);
    scene_pass(through[0], passed);
    close(passed);
    close(through[0]);
    close(through[1]); // with the message goes the last holder
    observe_recv("server", pair.server, 10, 0);
}

static void passed_to_a_child(void)
{
    struct pair pair = scene_fresh_pair(AF_INET);
    int through[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, through) < 0)
        broken("socketpair");
    pid_t pid = fork();
    if (pid == 0) {
        close(pair.client);
        close(pair.server);
        int passed = scene_receive_passed(through[1]);
        observe_recv("the child", passed, 100, 0);
        give(passed, "from the child");
        char byte;
        _exit(recv(passed, &byte, 1, 0) != 0);
    }
    scene_upgrade(pair);
    give(pair.server, "to whom it concerns");
    scene_pass(through[0], pair.client);
    close(pair.client);
    observe_recv("server", pair.server, 100, 0);
    close(pair.server);
    scene_reap(pid);
}

const struct scene_case descriptor_cases[] = {
    {"copies", copies},
    {"copied_before_the_upgrade", copied_before_the_upgrade},
    {"copies_share_the_stream", copies_share_the_stream},
    {"replaced", replaced},
    {"copied_onto_itself", copied_onto_itself},
    {"replaced_by_another", replaced_by_another},
    {"replaced_by_a_pipe", replaced_by_a_pipe},
    {"number_used_again", number_used_again},
    {"closed_in_ranges", closed_in_ranges},
    {"closed_from", closed_from},
    {"all_closed_one_by_one", all_closed_one_by_one},
    {"all_closed_while_talking", all_closed_while_talking},
    {"closed_by_syscall", closed_by_syscall},
    {"on_standard_numbers", on_standard_numbers},
    {"stdio_on_standard_number", stdio_on_standard_number},
    {"passed_in_parts_of_wrong_size", passed_in_parts_of_wrong_size},
    {"fetched", fetched},
    {"passed_to_itself", passed_to_itself},
    {"passed_and_closed", passed_and_closed},
    {"passed_to_a_child", passed_to_a_child},
    {NULL, NULL},
};
