// Whether an end is still held: its lifeline, and what has become of its socket when that is closed.
//
// An end of which nobody who knows of the session has the lifeline any more, while somebody has its socket, *drifts*: the
// socket is on its way to another process, or its process became another program. Whoever has it will ask for the session,
// or close it: the kernel is asked again in a while.

#include "agent/session_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "agent/agent.h"
#include "core/ring.h"

#define DRIFT_LOOK_MS     20
#define DRIFT_LOOK_MAX_MS 1000

bool session_end_drifts(const struct session_end *end)
{
    return !list_empty(&end->drift);
}

// Nothing arrives any more, or it is not known whether it does, since the other end may have left without reading it.
static bool nothing_may_arrive(const struct session_end *end)
{
    return session_peer(end)->closed || ring_leave_wish(&end->session->ring->header->ring[end->side]) != LEAVE_NOT;
}

// What is kept here is a holder, too. It is waited for, unless that is in vain.
static bool is_held(struct session_end *end)
{
    if (end->kept.fd >= 0 && ((end->kept.flags & WIRE_KEEP_SOLE) || nothing_may_arrive(end)))
        return false;
    return alive_is_held(&end->session->agent->sessions.alive, &end->identity);
}

static void on_drift_timer(uv_timer_t *timer);

static void look_at_drifting_in(struct sessions *sessions, uint64_t ms)
{
    sessions->drift_ms = ms;
    uv_timer_start(&sessions->drift_timer, on_drift_timer, ms, 0);
}

static void end_drifts(struct session_end *end)
{
    struct sessions *sessions = &end->session->agent->sessions;

    watch_stop(&end->session->agent->watches, &end->watch);
    list_append(&sessions->drifting, &end->drift);
    // A look that is due soon is not put off, or a stream of these could put it off for ever.
    if (!uv_is_active((uv_handle_t *)&sessions->drift_timer) || sessions->drift_ms > DRIFT_LOOK_MS)
        look_at_drifting_in(sessions, DRIFT_LOOK_MS);
}

static uint64_t later(uint64_t ms)
{
    return ms * 2 < DRIFT_LOOK_MAX_MS ? ms * 2 : DRIFT_LOOK_MAX_MS;
}

static void on_drift_timer(uv_timer_t *timer)
{
    struct sessions *sessions = container_of(timer, struct sessions, drift_timer);
    struct list now;

    // Closing one end may end its session, and take the other end out of the list, so it is emptied from the front.
    list_init(&now);
    while (!list_empty(&sessions->drifting)) {
        struct session_end *end = container_of(sessions->drifting.next, struct session_end, drift);
        list_remove(&end->drift);
        if (is_held(end))
            list_append(&now, &end->drift);
        else
            session_end_closed(end);
    }
    while (!list_empty(&now)) {
        struct list *link = now.next;
        list_remove(link);
        list_append(&sessions->drifting, link);
    }
    if (!list_empty(&sessions->drifting))
        look_at_drifting_in(sessions, later(sessions->drift_ms));
}

// A session that one end declined carries nothing for the other to come back for.
static bool is_in_use(const struct session_end *end)
{
    const struct session *session = end->session;

    return session->end[0].declined == WIRE_REASON_NONE && session->end[1].declined == WIRE_REASON_NONE;
}

static void on_lifeline(struct watch *watch, uint32_t events)
{
    struct session_end *end = container_of(watch, struct session_end, watch);
    struct pollfd now = {.fd = end->lifeline};

    // The event may be older than a join that was handled in the same turn.
    if (poll(&now, 1, 0) <= 0 || !(now.revents & POLLHUP))
        return;
    if (session_end_has_left(end))
        session_end_closed(end);
    else if (is_in_use(end) && is_held(end))
        end_drifts(end);
    else
        session_end_closed(end);
}

int session_lifeline_watch(struct session_end *end)
{
    // No events: what a client writes into it is of no interest, only that it is closed.
    return watch_start(&end->session->agent->watches, &end->watch, end->lifeline, 0, on_lifeline);
}

int session_lifeline_make(struct session_end *end)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    end->lifeline = fds[0];
    end->lifeline_given = fds[1];
    return session_lifeline_watch(end);
}

// A pipe can be opened by its own name.
int session_lifeline_reopen(const struct session_end *end)
{
    char name[32];
    int fd;

    snprintf(name, sizeof(name), "/proc/self/fd/%d", end->lifeline);
    fd = open(name, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}
