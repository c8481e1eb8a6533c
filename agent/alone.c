#include "agent/alone.h"

#include <stdlib.h>

#include "agent/agent.h"
#include "agent/client.h"
#include "agent/holders.h"
#include "agent/rendezvous.h"

// Who passes a socket on usually closes it at once. One who keeps it may keep it for ever.
#define SOON_MS 5u
#define LATE_MS 5000u

// The agent spends no more than this part of its time on looking.
#define TIME_PART 10u

static void on_timer(uv_timer_t *timer);

static void start_timer(struct agent *agent, uint64_t ms)
{
    struct alone *alone = &agent->rendezvous.alone;
    uint64_t now = agent_now_ms(agent);

    if (now + ms < alone->not_before_ms)
        ms = alone->not_before_ms - now;
    uv_timer_start(&alone->timer, on_timer, ms, 0);
}

static size_t count_waiting(const struct alone *alone)
{
    size_t count = 0;

    list_for_each (link, &alone->waiting)
        count++;
    return count;
}

static void ask(const struct alone *alone, struct holders_question *questions, size_t count)
{
    size_t i = 0;

    list_for_each (link, &alone->waiting) {
        struct offer *offer = container_of(link, struct offer, in_alone);
        questions[i++] =
            (struct holders_question){.inode = offer->identity.inode, .pid = offer->client->pid, .asker = offer};
    }
    holders_ask(questions, count);
}

// Those that are alone are told so only when all that are have been taken out: two of them may be each other's half, and
// the one takes the other with it.
static void let_go(struct agent *agent, const struct holders_question *questions, size_t count)
{
    struct list proven;

    list_init(&proven);
    for (size_t i = 0; i < count; i++) {
        struct offer *offer = questions[i].asker;
        if (!questions[i].held || questions[i].shared)
            continue;
        alone_forget(offer);
        offer->unproven = false;
        list_append(&proven, &offer->in_alone);
    }
    while (!list_empty(&proven)) {
        struct offer *offer = container_of(proven.next, struct offer, in_alone);
        alone_forget(offer);
        rendezvous_seek(agent, offer);
    }
}

// No memory: it is tried again later.
static void look(struct agent *agent)
{
    struct alone *alone = &agent->rendezvous.alone;
    size_t count = count_waiting(alone);
    struct holders_question *questions = calloc(count, sizeof(*questions));
    uint64_t began = uv_hrtime(), took_ms;

    if (questions) {
        ask(alone, questions, count);
        let_go(agent, questions, count);
    }
    free(questions);
    took_ms = (uv_hrtime() - began) / 1000000;
    uv_update_time(&agent->loop);
    alone->not_before_ms = agent_now_ms(agent) + took_ms * TIME_PART;
}

static void on_timer(uv_timer_t *timer)
{
    struct agent *agent = timer->data;
    struct alone *alone = &agent->rendezvous.alone;

    if (list_empty(&alone->waiting))
        return;
    look(agent);
    alone->interval_ms = alone->interval_ms * 2 > LATE_MS ? LATE_MS : alone->interval_ms * 2;
    if (!list_empty(&alone->waiting))
        start_timer(agent, alone->interval_ms);
}

void alone_init(struct alone *alone)
{
    *alone = (struct alone){.interval_ms = SOON_MS};
    list_init(&alone->waiting);
}

void alone_start(struct agent *agent)
{
    uv_timer_init(&agent->loop, &agent->rendezvous.alone.timer);
    agent->rendezvous.alone.timer.data = agent;
}

void alone_stop(struct alone *alone)
{
    uv_close((uv_handle_t *)&alone->timer, NULL);
}

void alone_wait(struct agent *agent, struct offer *offer)
{
    struct alone *alone = &agent->rendezvous.alone;

    offer->unproven = true;
    list_append(&alone->waiting, &offer->in_alone);
    alone->interval_ms = SOON_MS;
    start_timer(agent, SOON_MS);
}

void alone_forget(struct offer *offer)
{
    list_remove(&offer->in_alone);
}
