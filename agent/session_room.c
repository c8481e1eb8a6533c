// Room for new sessions: ring memory is a cache over connections. When it is short, those that have carried nothing for a
// while go back to TCP, and come again when they are busy.

#include "agent/session_parts.h"

#include "agent/agent.h"

#define LOOK_MS     1000 // between two looks at all sessions
#define IDLE_MS     2000 // a session that carried anything within is not recalled
#define RECALL_MOST 128  // at one look

static void look_at_activity(struct session *session, uint64_t now)
{
    struct session_figures figures[2];
    uint64_t bytes;

    session_read_figures(session, figures);
    bytes = stats_sum(stats_sum(figures[0].rx_bytes, figures[1].rx_bytes), figures[1].tx_bytes);
    if (bytes == session->seen_bytes)
        return;
    session->seen_bytes = bytes;
    session->active_ms = now;
}

static struct session *least_active(const struct sessions *sessions, const struct user *user, uint64_t before_ms)
{
    struct session *found = NULL;

    list_for_each (link, &sessions->all) {
        struct session *session = container_of(link, struct session, link);
        bool counts = !user || session->end[0].user == user || session->end[1].user == user;
        if (counts && !session->recalled && session->active_ms < before_ms &&
            (!found || session->active_ms < found->active_ms))
            found = session;
    }
    return found;
}

// Those of this user, or of any (null).
static void recall_idle(struct agent *agent, const struct user *user)
{
    struct sessions *sessions = &agent->sessions;
    uint64_t now = agent_now_ms(agent);
    struct session *idle;

    if (now - sessions->looked_ms < LOOK_MS)
        return;
    sessions->looked_ms = now;
    list_for_each (link, &sessions->all)
        look_at_activity(container_of(link, struct session, link), now);
    for (int i = 0; i < RECALL_MOST && now > IDLE_MS && (idle = least_active(sessions, user, now - IDLE_MS)); i++)
        session_recall(idle, LEAVE_DRAIN);
}

void session_make_room(struct agent *agent, const struct user *a, const struct user *b, uint64_t bytes)
{
    const struct limits *limits = &agent->config.limits;
    bool all_short = agent->users.ring_bytes + bytes > limits->ring_memory;

    recall_idle(agent, all_short ? NULL : a->ring_bytes + bytes > limits->ring_memory_per_user ? a : b);
}
