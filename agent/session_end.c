// One end of a session on this host: what it is made of, what its memory says, and what the other end is told of it.

#include "agent/session_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/fd.h"
#include "agent/ringpool.h"
#include "core/end.h"
#include "core/log.h"
#include "core/memfd.h"

static int init_memory(int fd, const struct session *session, uint32_t side)
{
    struct end_shared *end;
    void *address;
    int result = memfd_map(fd, END_BYTES, 1, &address);

    if (result < 0)
        return result;
    end = address;
    result = end_init(end, session->id, session->agent->board.shared->instance, side);
    memcpy(end->mark, session->mark, sizeof(end->mark));
    memfd_unmap(address, END_BYTES);
    return result;
}

static int make_memory(const struct session *session, uint32_t side)
{
    _cleanup_fd_ int fd = memfd_make("rdma-end", END_BYTES);
    int result;

    if (fd < 0)
        return fd;
    // Nor may a holder add seals of its own, which would keep others from mapping it.
    result = fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) < 0 ? -errno : init_memory(fd, session, side);
    return result < 0 ? result : fd_steal(&fd);
}

void session_end_prepare(struct session_end *end, struct session *session, uint32_t side)
{
    end->session = session;
    end->side = side;
    end->memory = end->lifeline = end->lifeline_given = -1;
    bell_init(&end->bell);
    end->watch.fd = -1;
    end->kept.fd = -1;
    list_init(&end->drift);
    list_init(&end->holders);
}

void session_end_deinit(struct session_end *end)
{
    watch_stop(&end->session->agent->watches, &end->watch);
    list_remove(&end->drift);
    session_keep_drop(end);
    fd_close(&end->memory);
    bell_deinit(&end->bell);
    fd_close(&end->lifeline);
    fd_close(&end->lifeline_given);
}

int session_end_make(struct session_end *end)
{
    int result;

    end->memory = make_memory(end->session, end->side);
    if (end->memory < 0)
        return end->memory;
    result = bell_make(&end->bell);
    return result < 0 ? result : session_lifeline_make(end);
}

void session_end_introduce(struct session_end *end, const struct session_half *half)
{
    end->identity = *half->identity;
    end->user = half->client->user;
    end->pid = half->client->pid;
    memcpy(end->command, half->client->command, sizeof(end->command));
}

void session_end_read(const struct session_end *end, struct end_shared *copy)
{
    if (pread(end->memory, copy, sizeof(*copy), 0) != sizeof(*copy))
        memset(copy, 0, sizeof(*copy));
}

uint32_t session_end_tx_way(const struct session_end *end)
{
    struct end_shared copy;

    session_end_read(end, &copy);
    return copy.tx_way;
}

bool session_end_has_left(struct session_end *end)
{
    struct end_shared copy;

    if (end->left)
        return true;
    session_end_read(end, &copy);
    if (copy.tx_way != WAY_LEFT || copy.rx_way != WAY_LEFT)
        return false;
    end->left = true;
    end->session->agent->stats.ends_left++;
    table_remove(&end->session->agent->sessions.ends, &end->by_cookie);
    log_debug("session %llu: process %d went back to TCP", (unsigned long long)end->session->id, end->pid);
    return true;
}

// Pairs with the loads before which the other end declares itself asleep.
static bool set_mark(_Atomic uint32_t *mark, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong(mark, &from, to);
}

void session_end_tell_closed(struct session_end *end)
{
    struct ring_shared *ring = end->session->ring->header->ring;

    if (end->session->transport == TRANSPORT_RDMA) {
        session_far_finish(end->session);
        return;
    }
    end->told_tx |= set_mark(&ring[end->side].tx_closed, CLOSED_NOT, CLOSED_ORDERLY);
    end->told_rx |= set_mark(&ring[1 - end->side].rx_closed, CLOSED_NOT, CLOSED_ORDERLY);
    bell_ring(&session_peer(end)->bell);
}

void session_end_take_back_closed(struct session_end *end)
{
    struct ring_shared *ring = end->session->ring->header->ring;

    if (end->told_tx)
        set_mark(&ring[end->side].tx_closed, CLOSED_ORDERLY, CLOSED_NOT);
    if (end->told_rx)
        set_mark(&ring[1 - end->side].rx_closed, CLOSED_ORDERLY, CLOSED_NOT);
    end->told_tx = end->told_rx = false;
    bell_ring(&session_peer(end)->bell);
}

void session_end_closed(struct session_end *end)
{
    watch_stop(&end->session->agent->watches, &end->watch);
    list_remove(&end->drift);
    end->closed = true;
    if (session_peer(end)->closed)
        session_over(end->session);
    else if (!end->left || end->session->far)
        session_end_tell_closed(end);
}
