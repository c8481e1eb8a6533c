// What a ring cannot express: stdio, urgent bytes, zero copy, signals for readiness, programs that do not know of rings.
// Most cases come twice: used before there is anything to upgrade, which keeps the connection on TCP, and afterwards.

#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/semantics/echo.h"
#include "tests/e2e/semantics/scene.h"

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY  60
#define MSG_ZEROCOPY 0x4000000
#endif

// Enough words that an upgrade would have come.
static void talk(struct pair pair)
{
    for (int i = 0; i < 100; i++) {
        give(pair.client, "?");
        take(pair.server, 1);
        give(pair.server, "!");
        take(pair.client, 1);
        if (i % 20 == 0)
            nap(5);
    }
}

static void use_stdio(struct pair pair)
{
    char line[50] = "";
    FILE *client = fdopen(dup(pair.client), "r+"), *server = fdopen(pair.server, "r+");
    setvbuf(client, NULL, _IOLBF, 0);
    setvbuf(server, NULL, _IOLBF, 0);
    for (int i = 0; i < 50; i++) {
        fprintf(client, "question %d\n", i);
        fflush(client);
        if (!fgets(line, sizeof line, server))
            broken("fgets");
        fprintf(server, "answer to %s", line);
        fflush(server);
        if (!fgets(line, sizeof line, client))
            broken("fgets");
    }
    say("the last: %.20s", line);
    OBSERVE(fclose(client));
    close(pair.client);
    say("%s", fgets(line, sizeof line, server) ? "a line where the end should be" : "the end");
    OBSERVE(fclose(server));
}

static void stdio_before(void)
{
    use_stdio(scene_fresh_pair(AF_INET));
}

static void stdio_after(void)
{
    use_stdio(scene_pair());
}

static void use_dprintf(struct pair pair)
{
    for (int i = 0; i < 30; i++) {
        OBSERVE(dprintf(pair.client, "line %d", i) > 0);
        observe_recv("server", pair.server, 100, 0);
        give(pair.server, "read");
        observe_recv("client", pair.client, 100, 0);
    }
}

static void dprintf_before(void)
{
    use_dprintf(scene_fresh_pair(AF_INET));
}

static void dprintf_after(void)
{
    use_dprintf(scene_pair());
}

static volatile sig_atomic_t urgent, readiness;

static void count_urgent(int number)
{
    urgent++;
}

static void count_readiness(int number)
{
    readiness++;
}

static void use_urgent_bytes(struct pair pair)
{
    struct pollfd one = {.fd = pair.server, .events = POLLPRI};
    int mark = -1;
    signal(SIGURG, count_urgent);
    OBSERVE(fcntl(pair.server, F_SETOWN, getpid()));
    give(pair.client, "before");
    OBSERVE(send(pair.client, "!", 1, MSG_OOB));
    give(pair.client, "after");
    OBSERVE(poll(&one, 1, 1000));
    say("revents %s, %d signals", bits_of_poll((unsigned)one.revents), (int)urgent);
    observe_recv("server", pair.server, 100, 0);
    OBSERVE(ioctl(pair.server, SIOCATMARK, &mark));
    say("mark %d", mark);
    observe_recv("server, urgently,", pair.server, 1, MSG_OOB);
    observe_recv("server", pair.server, 100, 0);
    talk(pair);
}

static void urgent_bytes_before(void)
{
    use_urgent_bytes(scene_fresh_pair(AF_INET));
}

static void urgent_bytes_after(void)
{
    use_urgent_bytes(scene_pair());
}

static void use_zero_copy(struct pair pair)
{
    int on = 1;
    char control[200];
    struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
    struct pollfd one = {.fd = pair.client};
    OBSERVE(setsockopt(pair.client, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on));
    OBSERVE(send(pair.client, "zero copies", 11, MSG_ZEROCOPY));
    observe_recv("server", pair.server, 100, 0);
    OBSERVE(poll(&one, 1, 1000));
    say("revents %s", bits_of_poll((unsigned)one.revents));
    OBSERVE(recvmsg(pair.client, &message, MSG_ERRQUEUE));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    struct sock_extended_err *told = header ? (struct sock_extended_err *)CMSG_DATA(header) : NULL;
    say("told of calls %u to %u", told ? told->ee_info : 99, told ? told->ee_data : 99);
    talk(pair);
}

static void zero_copy_before(void)
{
    use_zero_copy(scene_fresh_pair(AF_INET));
}

static void zero_copy_after(void)
{
    use_zero_copy(scene_pair());
}

static void use_readiness_signals(struct pair pair)
{
    signal(SIGIO, count_readiness);
    OBSERVE(fcntl(pair.server, F_SETOWN, getpid()));
    OBSERVE(fcntl(pair.server, F_SETFL, O_ASYNC | O_NONBLOCK));
    say("O_ASYNC is %s", fcntl(pair.server, F_GETFL) & O_ASYNC ? "set" : "not set");
    for (int i = 0; i < 30; i++) {
        readiness = 0;
        give(pair.client, "x");
        for (int j = 0; j < 200 && !readiness; j++)
            nap(1);
        if (!readiness)
            say("no signal for word %d", i);
        take(pair.server, 1);
    }
    OBSERVE(fcntl(pair.server, F_SETFL, 0));
    talk(pair);
}

static void readiness_signals_before(void)
{
    use_readiness_signals(scene_fresh_pair(AF_INET));
}

static void readiness_signals_after(void)
{
    use_readiness_signals(scene_pair());
}

static void use_timestamps(struct pair pair)
{
    int flags = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
    char bytes[10], control[200];
    struct iovec part = {bytes, sizeof bytes};
    OBSERVE(setsockopt(pair.server, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof flags));
    nap(100); // the kernel takes a while to begin
    for (int i = 0; i < 30; i++) {
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        give(pair.client, "x");
        if (recvmsg(pair.server, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
            say("no time stamp with word %d", i);
    }
    talk(pair);
}

static void timestamps_before(void)
{
    use_timestamps(scene_fresh_pair(AF_INET));
}

static void timestamps_after(void)
{
    use_timestamps(scene_pair());
}

// A child whose standard output is the connection, and which writes to it through stdio.
static void spawn_writer(struct pair pair)
{
    const char *arguments[] = {"echo", "written by a child", NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pair.server, STDOUT_FILENO);
    OBSERVE(posix_spawn(&pid, "/bin/echo", &actions, NULL, (char **)arguments, environ));
    posix_spawn_file_actions_destroy(&actions);
    scene_reap(pid);
    observe_recv("client", pair.client, 18, MSG_WAITALL);
    observe_recv("client", pair.client, 100, 0);
    talk(pair);
}

static void spawned_writer_before(void)
{
    spawn_writer(scene_fresh_pair(AF_INET));
}

static void spawned_writer_after(void)
{
    spawn_writer(scene_pair());
}

// A child that runs without the library.
static void exec_plainly(struct pair pair)
{
    char *nothing[] = {NULL};
    pid_t pid = fork();
    if (pid == 0) {
        close(pair.client);
        echo_exec(pair.server, nothing);
    }
    close(pair.server);
    for (int i = 0; i < 100; i++) {
        give(pair.client, "?");
        take(pair.client, 1);
    }
    OBSERVE(shutdown(pair.client, SHUT_WR));
    observe_recv("client", pair.client, 100, 0);
    scene_reap(pid);
}

static void program_without_library_before(void)
{
    exec_plainly(scene_fresh_pair(AF_INET));
}

static void program_without_library_after(void)
{
    exec_plainly(scene_pair());
}

// The other ends, with bytes unread, are held by a child that is stopped. To wait for one after the other would take long.
static void program_beside_many(void)
{
    enum { MANY = 10 };
    struct pair pairs[MANY];
    const char *arguments[] = {"true", NULL};
    char *nothing[] = {NULL};
    pid_t program, child;
    int status;
    for (int i = 0; i < MANY; i++)
        pairs[i] = scene_pair();
    child = fork();
    for (int i = 0; i < MANY; i++)
        close(child ? pairs[i].server : pairs[i].client);
    for (int i = 0; i < MANY && child == 0; i++)
        give(pairs[i].server, "unread");
    if (child == 0) {
        raise(SIGSTOP);
        closefrom(STDERR_FILENO + 1);
        _exit(0);
    }
    waitpid(child, &status, WUNTRACED);
    double begin = now();
    OBSERVE(posix_spawn(&program, "/bin/true", NULL, NULL, (char **)arguments, nothing));
    say("it took %s", now() - begin < 1200 ? "no time" : "a while");
    scene_reap(program);
    kill(child, SIGCONT);
    scene_reap(child);
    for (int i = 0; i < MANY; i++)
        observe_recv("client", pairs[i].client, 6, MSG_WAITALL);
}

const struct scene_case pin_cases[] = {
    {"stdio_before", stdio_before},
    {"stdio_after", stdio_after},
    {"dprintf_before", dprintf_before},
    {"dprintf_after", dprintf_after},
    {"urgent_bytes_before", urgent_bytes_before},
    {"urgent_bytes_after", urgent_bytes_after},
    {"zero_copy_before", zero_copy_before},
    {"zero_copy_after", zero_copy_after},
    {"readiness_signals_before", readiness_signals_before},
    {"readiness_signals_after", readiness_signals_after},
    {"timestamps_before", timestamps_before},
    {"timestamps_after", timestamps_after},
    {"spawned_writer_before", spawned_writer_before},
    {"spawned_writer_after", spawned_writer_after},
    {"program_beside_many", program_beside_many},
    {"program_without_library_before", program_without_library_before},
    {"program_without_library_after", program_without_library_after},
    {NULL, NULL},
};
