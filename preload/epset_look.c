#include "preload/epset_look.h"

#include "preload/epset_entry.h"
#include "preload/leave.h"
#include "preload/session.h"
#include "preload/xfer.h"

#define ENDS   (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)
#define ALWAYS (EPOLLERR | EPOLLHUP)
#define ASKED  (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLRDNORM | EPOLLWRNORM)

// --- one registration ---

// News of the kernel's: of bytes or room if those may be TCP's; of an end if it was not told before.
static bool tcp_edge(const struct reg *reg, uint32_t ready)
{
    bool bytes = reg->sock->rx_way != WAY_RING || leave_rx_under_way(reg->sock);
    return (bytes && (reg->from_tcp & EPOLLIN)) || (reg->sock->tx_way == WAY_TCP && (reg->from_tcp & EPOLLOUT)) ||
           (ready & ENDS & ~reg->told);
}

// Is there anything that an edge-triggered registration has not been told? `tail` and `blocked` are from before the look
// that found `ready`: what came in after it is news for the next.
static bool is_edge(struct reg *reg, uint32_t ready, uint64_t tail, uint32_t blocked)
{
    bool edge = reg->fresh || tcp_edge(reg, ready) || ((ready & EPOLLIN) && tail != reg->tail_seen) ||
                ((ready & EPOLLOUT) && blocked != reg->blocked_seen);
    if (edge && (ready & EPOLLIN))
        reg->tail_seen = tail;
    if (edge && (ready & EPOLLOUT))
        reg->blocked_seen = blocked;
    return edge;
}

// What is ready of what was asked for; 0 also if an edge-triggered registration was told of it. poll's and epoll's bits
// have the same values.
static uint32_t look(struct reg *reg)
{
    if (reg->spent || reg->deleted)
        return 0;
    struct sock *sock = reg->sock;
    // The announced end counts as one more byte: it is news, too.
    const struct ring_shared *in = sock->session.rx.shared;
    uint64_t tail = atomic_load_explicit(&in->tail, memory_order_acquire) +
                    (atomic_load_explicit(&in->tx_closed, memory_order_acquire) != CLOSED_NOT);
    uint32_t blocked = atomic_load_explicit(&sock->tx_blocked, memory_order_acquire);
    uint32_t wanted = (reg->events & ASKED) | ALWAYS;
    uint32_t ready = (uint32_t)(unsigned short)xfer_events(sock, reg->via, (short)(wanted & ~ALWAYS)) & wanted;
    if ((wanted & EPOLLOUT) && !(ready & EPOLLOUT))
        reg->blocked_seen = blocked - 1; // as with the kernel's poll: whoever saw no room is told of the next
    if ((reg->events & EPOLLET) && ready && !is_edge(reg, ready, tail, blocked))
        ready = 0;
    reg->from_tcp = 0;
    if (!reg->end_known && sock->rx_way != WAY_TCP && sock->session.end->fin_seen)
        epset_entry_end_known(reg);
    return ready;
}

// Events to report now, 0 for none.
static uint32_t report(struct reg *reg)
{
    uint32_t ready = look(reg);
    if (!ready)
        return 0;
    reg->told |= ready & ENDS;
    reg->fresh = 0;
    // Last: from then on the session is not needed any more.
    if (reg->events & EPOLLONESHOT)
        atomic_store_explicit(&reg->spent, 1, memory_order_release);
    return ready;
}

// Without taking note: what is found will be found again.
static bool peek(struct reg *reg)
{
    uint32_t from_tcp = reg->from_tcp, blocked_seen = reg->blocked_seen;
    uint64_t tail_seen = reg->tail_seen;
    bool ready = look(reg) != 0;
    reg->from_tcp = from_tcp;
    reg->tail_seen = tail_seen;
    reg->blocked_seen = blocked_seen;
    return ready;
}

static void arm(struct reg *reg)
{
    struct session *session = &reg->sock->session;
    if (reg->spent || reg->deleted)
        return;
    if (reg->sock->rx_way != WAY_TCP && (reg->events & (EPOLLIN | EPOLLRDNORM))) {
        ring_rx_republish(&session->rx);
        ring_rx_arm(&session->rx);
    }
    if (reg->sock->tx_way != WAY_TCP && (reg->events & (EPOLLOUT | EPOLLWRNORM)))
        ring_tx_arm(&session->tx);
}

// --- all the hot ---

void epset_look_heat(struct reg *reg)
{
    for (struct reg *each = reg_first(reg->set, reg->sock); each; each = reg_next(each)) {
        if (each->converted && !each->deleted && !each->spent)
            reg_make_hot(each);
    }
}

void epset_look_leave_to_sleepers(struct epset *set)
{
    if (!set->nested && !set->sleepers)
        return;
    for (struct reg *reg = set->hot, *next; reg; reg = next) {
        next = reg->hot_next;
        arm(reg);
        if (peek(reg))
            session_ring_own_bell(reg->sock);
        reg_leave_hot(reg);
    }
}

// Looks in a row without anything, while others were served, after which a registration goes cold.
#define IDLE_MOST 128u

// Begins behind it next time, so that a small `most` does not starve the rest.
static void rotate_behind(struct epset *set, struct reg *last_reported)
{
    if (!last_reported->hot || !last_reported->hot_next)
        return;
    struct reg *first = last_reported->hot_next, *last = first;
    while (last->hot_next)
        last = last->hot_next;
    last->hot_next = set->hot;
    last_reported->hot_next = NULL;
    set->hot = first;
}

int epset_look_at_hot(struct epset *set, struct epoll_event *events, int most)
{
    int n = 0;
    struct reg *last_reported = NULL;
    for (struct reg *reg = set->hot, *next; reg && n < most; reg = next) {
        next = reg->hot_next;
        uint32_t ready = report(reg);
        if (!ready && ++reg->idle > IDLE_MOST) {
            arm(reg);
            ready = report(reg);
            if (!ready)
                reg_leave_hot(reg);
        }
        if (ready) {
            reg->idle = 0;
            events[n].events = ready;
            events[n++].data.u64 = reg->data;
            last_reported = reg;
        }
    }
    set->turn += (uint32_t)n;
    if (last_reported && n == most)
        rotate_behind(set, last_reported);
    return n;
}

// A single one may take so many turns before the kernel has its own.
#define ALONE_MOST 16u

bool epset_look_kernels_turn(const struct epset *set)
{
    return set->turn >= (set->hot_count > 1 ? set->hot_count : ALONE_MOST);
}

int epset_look_and_arm(struct epset *set, struct epoll_event *events, int most)
{
    for (struct reg *reg = set->hot; reg; reg = reg->hot_next)
        arm(reg);
    int n = epset_look_at_hot(set, events, most);
    while (n == 0 && set->hot)
        reg_leave_hot(set->hot);
    return n;
}

bool epset_look_ready(struct epset *set)
{
    bool ready = false;
    for (struct reg *reg = set->hot, *next; reg; reg = next) {
        next = reg->hot_next;
        arm(reg);
        if (peek(reg))
            ready = true;
        else
            reg_leave_hot(reg);
    }
    return ready;
}

int epset_look_translate(struct epset *set, struct epoll_event *events, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (!reg_tagged(events[i].data.u64)) {
            events[kept++] = events[i];
            continue;
        }
        struct reg *reg = reg_of_tag(set, events[i].data.u64);
        if (!reg)
            continue;
        if (!((uint32_t)events[i].data.u64 & TAG_BELL)) {
            reg->from_tcp |= events[i].events;
            atomic_store_explicit(&reg->sock->tcp_event, 1, memory_order_release);
        }
        epset_look_heat(reg);
    }
    return kept;
}
