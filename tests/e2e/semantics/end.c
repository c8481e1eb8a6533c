// How streams end: orderly, half, by reset, by the death of a process; and what the other end then sees.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/semantics/scene.h"

static void observe_poll(const char *who, int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP};
    int ready = poll(&one, 1, 0);
    say("%s polls %d: %s", who, ready, bits_of_poll((unsigned)one.revents));
}

static void observe_error(const char *who, int fd)
{
    int error = -1;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        broken("SO_ERROR");
    say("%s has error %s", who, error ? strerrorname_np(error) : "none");
}

static void close_by_reset(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    OBSERVE(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    OBSERVE(close(fd));
}

static void half_close(void)
{
    struct pair pair = scene_pair();
    give(pair.client, "last words");
    OBSERVE(shutdown(pair.client, SHUT_WR));
    observe_poll("client", pair.client);
    observe_recv("server", pair.server, 4, 0);
    observe_poll("server", pair.server);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
    observe_poll("server", pair.server);
    OBSERVE(send(pair.client, "x", 1, MSG_NOSIGNAL));
    OBSERVE(shutdown(pair.client, SHUT_WR));
    for (int i = 0; i < 3; i++) {
        give(pair.server, "answer");
        observe_recv("client", pair.client, 100, 0);
    }
    OBSERVE(shutdown(pair.server, SHUT_WR));
    nap(20);
    observe_poll("client", pair.client);
    observe_poll("server", pair.server);
    observe_recv("client", pair.client, 100, 0);
    observe_recv("server", pair.server, 100, 0);
    OBSERVE(shutdown(pair.client, SHUT_WR));
    observe_error("client", pair.client);
}

static void end_after_close(void)
{
    struct pair pair = scene_pair();
    give(pair.client, "bye");
    OBSERVE(close(pair.client));
    nap(20);
    observe_poll("server", pair.server);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
    observe_poll("server", pair.server);
    OBSERVE(send(pair.server, "to nobody", 9, MSG_NOSIGNAL));
    nap(50);
    observe_poll("server", pair.server);
    OBSERVE(send(pair.server, "to nobody", 9, MSG_NOSIGNAL));
    OBSERVE(send(pair.server, "to nobody", 9, MSG_NOSIGNAL));
    observe_recv("server", pair.server, 100, 0);
}

static void shutdown_reading(void)
{
    struct pair pair = scene_pair();
    OBSERVE(shutdown(pair.server, SHUT_RD));
    observe_poll("server", pair.server);
    observe_recv("server", pair.server, 100, 0);
    give(pair.client, "late");
    nap(20);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
    give(pair.server, "still talking");
    observe_recv("client", pair.client, 100, 0);
}

static void shutdown_reading_with_bytes_left(void)
{
    struct pair pair = scene_pair();
    give(pair.client, "before");
    OBSERVE(shutdown(pair.server, SHUT_RD));
    observe_poll("server", pair.server);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
}

static void shutdown_both(void)
{
    struct pair pair = scene_pair();
    OBSERVE(shutdown(pair.client, SHUT_RDWR));
    observe_recv("client", pair.client, 100, 0);
    OBSERVE(send(pair.client, "x", 1, MSG_NOSIGNAL));
    observe_recv("server", pair.server, 100, 0);
    observe_poll("client", pair.client);
    observe_poll("server", pair.server);
    OBSERVE(shutdown(pair.client, 7));
    close(pair.server);
    nap(20);
    observe_poll("client", pair.client);
    OBSERVE(shutdown(pair.client, SHUT_RDWR));
}

static void say_bye(int fd)
{
    give(fd, "bye");
}

static void end_after_exit(void)
{
    int fd;
    pid_t pid = scene_peer(say_bye, &fd);
    observe_recv("we", fd, 3, MSG_WAITALL);
    observe_recv("we", fd, 100, 0);
    observe_poll("we", fd);
    scene_reap(pid);
}

static void say_bye_and_wait(int fd)
{
    give(fd, "bye");
    for (;;)
        pause();
}

static void act_kill(void *pid)
{
    kill(*(pid_t *)pid, SIGKILL);
}

static void end_after_kill(void)
{
    int fd;
    struct later later;
    pid_t pid = scene_peer(say_bye_and_wait, &fd);
    scene_later(&later, 100, act_kill, &pid);
    observe_recv("we", fd, 3, MSG_WAITALL);
    observe_recv("we", fd, 100, 0);
    scene_join(&later);
    scene_reap(pid);
    OBSERVE(send(fd, "x", 1, MSG_NOSIGNAL));
    nap(50);
    OBSERVE(send(fd, "x", 1, MSG_NOSIGNAL));
}

// It is killed while bytes that it sent are still unread.
static void end_after_kill_with_bytes_left(void)
{
    int fd;
    pid_t pid = scene_peer(say_bye_and_wait, &fd);
    nap(50);
    kill(pid, SIGKILL);
    scene_reap(pid);
    observe_recv("we", fd, 100, 0);
    observe_recv("we", fd, 100, 0);
}

static void exit_with_bytes_unread(int fd)
{
    nap(100);
}

static void peer_exits_with_bytes_unread(void)
{
    int fd;
    pid_t pid = scene_peer(exit_with_bytes_unread, &fd);
    give(fd, "never read");
    observe_recv("we", fd, 100, 0);
    observe_recv("we", fd, 100, 0);
    OBSERVE(send(fd, "x", 1, MSG_NOSIGNAL));
    scene_reap(pid);
}

static void reset_by_linger(void)
{
    struct pair pair = scene_pair();
    close_by_reset(pair.client);
    nap(20);
    observe_poll("server", pair.server);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
    OBSERVE(send(pair.server, "x", 1, MSG_NOSIGNAL));
    observe_poll("server", pair.server);
}

static void reset_seen_by_send(void)
{
    struct pair pair = scene_pair();
    close_by_reset(pair.client);
    nap(20);
    OBSERVE(send(pair.server, "x", 1, MSG_NOSIGNAL));
    OBSERVE(send(pair.server, "x", 1, MSG_NOSIGNAL));
    observe_recv("server", pair.server, 100, 0);
}

static void reset_seen_by_option(void)
{
    struct pair pair = scene_pair();
    close_by_reset(pair.client);
    nap(20);
    observe_error("server", pair.server);
    observe_error("server", pair.server);
    observe_recv("server", pair.server, 100, 0);
}

static void reset_with_bytes_left(void)
{
    struct pair pair = scene_pair();
    give(pair.client, "sent before");
    nap(20);
    close_by_reset(pair.client);
    nap(20);
    observe_poll("server", pair.server);
    observe_recv("server", pair.server, 4, 0);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
}

static void close_with_bytes_unread(void)
{
    struct pair pair = scene_pair();
    give(pair.client, "never read");
    OBSERVE(close(pair.server));
    nap(20);
    observe_poll("client", pair.client);
    observe_recv("client", pair.client, 100, 0);
    observe_recv("client", pair.client, 100, 0);
    OBSERVE(send(pair.client, "x", 1, MSG_NOSIGNAL));
}

// Both: bytes of ours unread, and bytes of theirs for us, which the reset takes away or not.
static void close_with_bytes_unread_and_sent(void)
{
    struct pair pair = scene_pair();
    give(pair.client, "never read");
    give(pair.server, "an answer");
    nap(20);
    OBSERVE(close(pair.server));
    nap(20);
    observe_recv("client", pair.client, 100, 0);
    observe_recv("client", pair.client, 100, 0);
    observe_recv("client", pair.client, 100, 0);
}

static void close_with_linger_time(void)
{
    struct pair pair = scene_pair();
    struct linger linger = {.l_onoff = 1, .l_linger = 5};
    OBSERVE(setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    socklen_t size = sizeof linger;
    OBSERVE(getsockopt(pair.client, SOL_SOCKET, SO_LINGER, &linger, &size));
    say("linger %d for %d s", linger.l_onoff, linger.l_linger);
    give(pair.client, "all of it");
    double begin = now();
    OBSERVE(close(pair.client));
    say_elapsed(begin, 0);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("server", pair.server, 100, 0);
}

static void act_reset(void *saying)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    int fd = ((const struct saying *)saying)->fd;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fd);
}

static void reader_wakes(const char *how, void (*act)(void *), bool own)
{
    struct pair pair = scene_pair();
    struct later later;
    struct saying what = {.fd = own ? pair.server : pair.client};
    double begin = now();
    scene_later(&later, 100, act, &what);
    observe_recv(how, pair.server, 100, 0);
    say_elapsed(begin, 100);
    scene_join(&later);
}

static void blocked_reader_wakes(void)
{
    reader_wakes("when the peer closes, the server", act_close, false);
    reader_wakes("when the peer ends both halves, the server", act_shutdown, false);
    reader_wakes("when the peer resets, the server", act_reset, false);
    reader_wakes("when another thread ends both halves, the server", act_shutdown, true);
}

static void blocked_poller_wakes(const char *how, void (*act)(void *), bool own)
{
    struct pair pair = scene_pair();
    struct later later;
    struct saying what = {.fd = own ? pair.server : pair.client};
    struct pollfd one = {.fd = pair.server, .events = POLLIN | POLLRDHUP};
    double begin = now();
    scene_later(&later, 100, act, &what);
    int ready = poll(&one, 1, 5000);
    say("%s: %d %s", how, ready, bits_of_poll((unsigned)one.revents));
    say_elapsed(begin, 100);
    scene_join(&later);
}

static void blocked_pollers_wake(void)
{
    blocked_poller_wakes("the peer closes", act_close, false);
    blocked_poller_wakes("the peer resets", act_reset, false);
    blocked_poller_wakes("another thread ends both halves", act_shutdown, true);
}

// A blocked sender: the room is used up, nobody reads.
static void sender_wakes(const char *how, void (*act)(void *), bool own)
{
    enum { SIZE = 64 << 20 };
    struct pair pair = scene_pair();
    struct later later;
    struct saying what = {.fd = own ? pair.client : pair.server};
    char *bytes = calloc(1, SIZE);
    scene_later(&later, 200, act, &what);
    ssize_t sent = send(pair.client, bytes, SIZE, MSG_NOSIGNAL);
    say("%s: the sender %s", how, sent > 0 && sent < SIZE ? "sent a part" : "did not send a part");
    scene_join(&later);
    OBSERVE(send(pair.client, bytes, 10, MSG_NOSIGNAL));
    OBSERVE(send(pair.client, bytes, 10, MSG_NOSIGNAL));
    free(bytes);
}

static void blocked_sender_wakes(void)
{
    sender_wakes("when the peer closes", act_close, false);
    sender_wakes("when the peer resets", act_reset, false);
    sender_wakes("when another thread ends both halves", act_shutdown, true);
}

static volatile sig_atomic_t pipes;

static void count_pipe(int number)
{
    pipes++;
}

static void say_pipes(const char *call)
{
    say("%s: %d signals", call, (int)pipes);
    pipes = 0;
}

static void broken_pipe_signals(void)
{
    struct pair pair = scene_pair();
    struct iovec part = {(char *)"x", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    struct mmsghdr messages = {.msg_hdr = message};
    int file = memfd_create("file", 0), ends[2];
    if (write(file, "x", 1) != 1 || pipe(ends) < 0 || write(ends[1], "x", 1) != 1)
        broken("file and pipe");
    off_t offset = 0;
    signal(SIGPIPE, count_pipe);
    OBSERVE(shutdown(pair.client, SHUT_WR));
    OBSERVE(send(pair.client, "x", 1, 0));
    say_pipes("send");
    OBSERVE(send(pair.client, "x", 1, MSG_NOSIGNAL));
    say_pipes("send, MSG_NOSIGNAL");
    OBSERVE(write(pair.client, "x", 1));
    say_pipes("write");
    OBSERVE(writev(pair.client, &part, 1));
    say_pipes("writev");
    OBSERVE(sendto(pair.client, "x", 1, 0, NULL, 0));
    say_pipes("sendto");
    OBSERVE(sendmsg(pair.client, &message, 0));
    say_pipes("sendmsg");
    OBSERVE(sendmsg(pair.client, &message, MSG_NOSIGNAL));
    say_pipes("sendmsg, MSG_NOSIGNAL");
    OBSERVE(sendmmsg(pair.client, &messages, 1, 0));
    say_pipes("sendmmsg");
    OBSERVE(sendfile(pair.client, file, &offset, 1));
    say_pipes("sendfile");
    OBSERVE(splice(ends[0], NULL, pair.client, NULL, 1, 0));
    say_pipes("splice");
    OBSERVE(send(pair.client, "x", 0, 0));
    say_pipes("send of nothing");
}

static void write_into_nothing(int fd)
{
    signal(SIGPIPE, SIG_DFL);
    shutdown(fd, SHUT_WR);
    ssize_t sent = write(fd, "x", 1);
    say("this process should be gone: %zd", sent);
}

static void broken_pipe_kills(void)
{
    int fd;
    pid_t pid = scene_peer(write_into_nothing, &fd);
    observe_recv("we", fd, 100, 0);
    scene_reap(pid);
}

// The end comes while most of the stream has not been read yet, and must not overtake it.
static void end_behind_much(void)
{
    enum { SIZE = 3 << 20 };
    struct pair pair = scene_pair();
    set_nonblocking(pair.client, true);
    size_t sent = fill(pair.client);
    OBSERVE(shutdown(pair.client, SHUT_WR));
    nap(50);
    observe_poll("server", pair.server);
    say("all came before the end: %s", drain(pair.server, SIZE_MAX) == sent ? "yes" : "no");
    observe_recv("server", pair.server, 10, 0);
}

const struct scene_case end_cases[] = {
    {"half_close", half_close},
    {"end_after_close", end_after_close},
    {"shutdown_reading", shutdown_reading},
    {"shutdown_reading_with_bytes_left", shutdown_reading_with_bytes_left},
    {"shutdown_both", shutdown_both},
    {"end_after_exit", end_after_exit},
    {"end_after_kill", end_after_kill},
    {"end_after_kill_with_bytes_left", end_after_kill_with_bytes_left},
    {"peer_exits_with_bytes_unread", peer_exits_with_bytes_unread},
    {"reset_by_linger", reset_by_linger},
    {"reset_seen_by_send", reset_seen_by_send},
    {"reset_seen_by_option", reset_seen_by_option},
    {"reset_with_bytes_left", reset_with_bytes_left},
    {"close_with_bytes_unread", close_with_bytes_unread},
    {"close_with_bytes_unread_and_sent", close_with_bytes_unread_and_sent},
    {"close_with_linger_time", close_with_linger_time},
    {"blocked_reader_wakes", blocked_reader_wakes},
    {"blocked_pollers_wake", blocked_pollers_wake},
    {"blocked_sender_wakes", blocked_sender_wakes},
    {"broken_pipe_signals", broken_pipe_signals},
    {"broken_pipe_kills", broken_pipe_kills},
    {"end_behind_much", end_behind_much},
    {NULL, NULL},
};
