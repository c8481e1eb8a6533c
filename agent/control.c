// Lines of a control connection.

#include "agent/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/descriptors.h"
#include "agent/rpc.h"
#include "core/log.h"

// Answered at one go, so that others get their turn.
#define REQUESTS_PER_TURN 8

static const char *find_newline(const struct control *control)
{
    return memchr(control->line, '\n', control->line_size);
}

static void set_answer(struct control *control, char *answer)
{
    control->answer = answer;
    control->answer_size = answer ? strlen(answer) : 0;
    control->sent = 0;
}

// Answers the first line in the buffer and takes it out.
static void answer_line(struct control *control, const char *newline)
{
    size_t size = (size_t)(newline - control->line);

    set_answer(control, rpc_answer(control->agent, control->uid, control->line, size));
    control->line_size -= size + 1;
    memmove(control->line, newline + 1, control->line_size);
}

static void answer_overlong(struct control *control)
{
    set_answer(control, rpc_answer_overlong());
    control->closing = true;
}

// Returns 0 when all is sent, 1 when the rest must wait, or -errno.
static int send_answer(struct control *control)
{
    while (control->sent < control->answer_size) {
        ssize_t sent = send(control->fd, control->answer + control->sent, control->answer_size - control->sent,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN ? 1 : -errno;
        control->sent += (size_t)sent;
    }
    free(control->answer);
    set_answer(control, NULL);
    return control->closing ? -EPIPE : 0;
}

// Answers what is in the buffer. Returns 0 when that is done, 1 when the rest must wait, or -errno.
static int answer_lines(struct control *control)
{
    int result = send_answer(control);
    const char *newline;

    for (int i = 0; result == 0 && (newline = find_newline(control)); i++) {
        if (i == REQUESTS_PER_TURN)
            return 1;
        answer_line(control, newline);
        result = send_answer(control);
    }
    if (result == 0 && control->line_size == sizeof(control->line)) {
        answer_overlong(control);
        result = send_answer(control);
    }
    return result;
}

// Returns 0, 1 if there is nothing to read yet, or -errno; -EPIPE at the end.
static int read_more(struct control *control)
{
    ssize_t size =
        recv(control->fd, control->line + control->line_size, sizeof(control->line) - control->line_size, MSG_DONTWAIT);

    if (size < 0)
        return errno == EAGAIN || errno == EINTR ? 1 : -errno;
    if (size == 0)
        return -EPIPE;
    control->line_size += (size_t)size;
    return 0;
}

static void on_ready(struct watch *watch, uint32_t events)
{
    struct control *control = container_of(watch, struct control, watch);
    int result = 0;

    // Only what could not be answered before is waited for by EPOLLOUT.
    if (!(events & EPOLLOUT))
        result = read_more(control);
    if (result == 0)
        result = answer_lines(control);
    else if (result == 1)
        return;
    if (result < 0)
        control_drop(control);
    else
        watch_change(&control->agent->watches, &control->watch, result == 1 ? EPOLLOUT : EPOLLIN);
}

static unsigned count_of_user(const struct agent *agent, uid_t uid)
{
    unsigned count = 0;

    list_for_each (link, &agent->controls)
        count += container_of(link, struct control, link)->uid == uid;
    return count;
}

static int admit(struct agent *agent, int fd, uid_t uid)
{
    struct control *control;
    int result;

    if (descriptors_scarce(fd, RESERVE_FOR_CONTROL))
        return -EMFILE;
    if (agent->control_count >= CONTROLS_MOST || count_of_user(agent, uid) >= CONTROLS_PER_USER_MOST)
        return -EDQUOT;
    control = calloc(1, sizeof(*control));
    if (!control)
        return -ENOMEM;
    control->agent = agent;
    control->fd = fd;
    control->uid = uid;
    result = watch_start(&agent->watches, &control->watch, fd, EPOLLIN, on_ready);
    if (result < 0) {
        free(control);
        return result;
    }
    list_append(&agent->controls, &control->link);
    agent->control_count++;
    return 0;
}

void control_accept(struct listener *listener, int fd)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    int result = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ? -errno : 0;

    if (result == 0)
        result = admit(listener->data, fd, peer.uid);
    if (result == 0)
        return;
    log_seldom(LOG_LEVEL_WARNING, "turned a control connection away: %s", strerror(-result));
    close(fd);
}

void control_drop(struct control *control)
{
    watch_stop(&control->agent->watches, &control->watch);
    list_remove(&control->link);
    control->agent->control_count--;
    close(control->fd);
    free(control->answer);
    free(control);
}
