// Nothing here waits: an end that lingers has its turn at each tick of a timer.

#include "agent/session_keep.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "agent/agent.h"
#include "agent/foreign.h"
#include "agent/ringpool.h"
#include "agent/session_parts.h"
#include "core/log.h"
#include "core/memfd.h"
#include "core/repeat.h"
#include "core/sys.h"

#define LINGER_MS      10000
#define LINGER_TICK_MS 20

// Of what comes in meanwhile, for nobody to read.
#define DISCARD_MOST (1u << 20)

struct lingering {
    struct list link; // in sessions.lingering
    struct session_end *of;
    struct session_shared *memory;
    uint64_t bytes; // of the memory
    struct end_shared *end;
    struct ring_tx ring;
    uint64_t until_ms;
    bool sent;
};

// --- keeping ---

// The socket is what proves the right to its session: also of a process that was forked, and never asked for it.
static struct session_end *end_of(struct agent *agent, const struct wire_keep *message, int fd)
{
    struct identity identity;
    struct session_end *end = identity_read(fd, &identity) == 0 ? session_find_end(&agent->sessions, &identity) : NULL;

    if (!end || end->session->id != message->session || end->session->transport != TRANSPORT_RDMA)
        return NULL;
    return end;
}

static bool has_arrived(const struct session_end *end)
{
    return atomic_load(&end->session->ring->header->ring[end->side].arrived);
}

void session_keep(struct client *client, const struct wire_keep *message, int fd)
{
    struct session_end *end = end_of(client->agent, message, fd);

    // An end that lingers has its socket, and only its timer ends it.
    if (!end || end->kept.linger) {
        foreign_close(fd, client->uid);
        return;
    }
    session_keep_drop(end);
    end->kept.fd = fd;
    end->kept.uid = client->uid;
    end->kept.flags |= message->flags;
    if (has_arrived(end))
        session_keep_arrived(end);
    // Its lifeline was found closed before this was read.
    if ((end->kept.flags & WIRE_KEEP_SOLE) && session_end_drifts(end))
        session_end_closed(end);
}

void session_keep_drop(struct session_end *end)
{
    struct lingering *linger = end->kept.linger;

    if (linger) {
        list_remove(&linger->link);
        memfd_unmap(linger->memory, linger->bytes);
        memfd_unmap(linger->end, END_BYTES);
        free(linger);
    }
    end->kept.linger = NULL;
    if (end->kept.fd >= 0)
        foreign_close(end->kept.fd, end->kept.uid);
    end->kept.fd = -1;
}

// A program that sends the ring again ends the stream behind it: it has said so before it looked whether all has arrived.
void session_keep_arrived(struct session_end *end)
{
    if (end->kept.fd < 0)
        return;
    if ((end->kept.flags & WIRE_KEEP_SHUT) && session_end_tx_way(end) != WAY_BACK)
        shutdown(end->kept.fd, SHUT_WR);
    session_keep_drop(end);
}

// --- lingering ---

static void discard(int fd)
{
    for (size_t all = 0; all < DISCARD_MOST;) {
        ssize_t n = sys_call(SYS_recvfrom, fd, NULL, DISCARD_MOST, MSG_TRUNC | MSG_DONTWAIT, NULL, NULL);
        if (n <= 0)
            return;
        all += (size_t)n;
    }
}

// Closing while there is something to be read would reset the connection, and what it still has to carry would be lost.
static bool is_acknowledged(int fd)
{
    int unsent = 0;

    return ioctl(fd, SIOCOUTQ, &unsent) < 0 || unsent == 0;
}

// Returns whether it is done.
static bool take_turn(struct lingering *linger, uint64_t now)
{
    int fd = linger->of->kept.fd;
    struct repeat repeat = {.end = linger->end, .ring = &linger->ring};

    // Others may hold the socket who read it, and know nothing of the session.
    if (linger->of->kept.flags & WIRE_KEEP_SOLE)
        discard(fd);
    if (!linger->sent && repeat_step(&repeat, fd) != 0) {
        linger->sent = true;
        shutdown(fd, SHUT_WR);
    }
    return (linger->sent && is_acknowledged(fd)) || now >= linger->until_ms;
}

static void on_timer(uv_timer_t *timer)
{
    struct sessions *sessions = container_of(timer, struct sessions, linger_timer);

    list_for_each (link, &sessions->lingering) {
        struct lingering *linger = container_of(link, struct lingering, link);
        if (take_turn(linger, uv_now(timer->loop)))
            session_close(linger->of->session);
    }
    if (list_empty(&sessions->lingering))
        uv_timer_stop(timer);
}

static int map(struct lingering *linger, const struct session *session)
{
    void *memory, *end;
    int result;

    linger->bytes = session_bytes(session->ring->ring_bytes);
    result = memfd_map(session->ring->fd, linger->bytes, 1, &memory);
    if (result < 0)
        return result;
    result = memfd_map(linger->of->memory, END_BYTES, 1, &end);
    if (result < 0) {
        memfd_unmap(memory, linger->bytes);
        return result;
    }
    linger->memory = memory;
    linger->end = end;
    return 0;
}

// No device writes to it any more (ring_tx.by_device): the link is gone.
static void set_ring(struct lingering *linger, const struct session *session)
{
    uint64_t ring_bytes = session->ring->ring_bytes;
    uint32_t side = linger->of->side;
    unsigned char *data = (unsigned char *)linger->memory + SESSION_DATA;

    ring_tx_init(&linger->ring, &linger->memory->ring[side], &linger->end->tx_tail, data + side * ring_bytes,
                 ring_bytes);
}

static int begin(struct session_end *end)
{
    struct sessions *sessions = &end->session->agent->sessions;
    struct lingering *linger = calloc(1, sizeof(*linger));
    int result;

    if (!linger)
        return -ENOMEM;
    linger->of = end;
    result = map(linger, end->session);
    if (result < 0) {
        free(linger);
        return result;
    }
    set_ring(linger, end->session);
    linger->until_ms = agent_now_ms(end->session->agent) + LINGER_MS;
    end->kept.linger = linger;
    list_append(&sessions->lingering, &linger->link);
    uv_timer_start(&sessions->linger_timer, on_timer, 0, LINGER_TICK_MS);
    return 0;
}

bool session_keep_lingers(struct session_end *end)
{
    uint32_t way = end->kept.fd >= 0 ? session_end_tx_way(end) : WAY_LEFT;

    if (end->kept.linger)
        return true;
    if ((way != WAY_RING && way != WAY_BACK) || has_arrived(end) || begin(end) < 0)
        return false;
    log_debug("session %llu: sends what process %d left in the ring by TCP", (unsigned long long)end->session->id,
              end->pid);
    return true;
}
