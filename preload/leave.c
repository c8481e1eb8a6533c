#include "preload/leave.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/epset.h"
#include "preload/nest.h"
#include "preload/resend.h"

// --- sessions that are over ---

static bool over(const struct session *session)
{
    return atomic_load(&session->end->tx_way) == WAY_LEFT && atomic_load(&session->end->rx_way) == WAY_LEFT;
}

// Sockets whose sessions are over, but not yet let go of: a list of their places in the slab, + 1.
_Atomic uint32_t leave_untidy;

static void queue(struct sock *sock)
{
    if (atomic_exchange(&sock->tidy_queued, 1))
        return;
    uint32_t first = atomic_load(&leave_untidy);
    do
        atomic_store(&sock->tidy_next, first);
    while (!atomic_compare_exchange_weak(&leave_untidy, &first, sock->index + 1));
}

// The other holders of this end sleep by its bell, in this process and in others.
static void note_way_back(struct sock *sock)
{
    epset_sock_changed(sock);
    session_ring_own_bell(sock);
    if (over(&sock->session))
        queue(sock);
}

// --- one direction ---

static void ring_peer_bell(const struct session *session)
{
    uint64_t one = 1;
    sys_write(session->peer_bell, &one, sizeof one);
}

static uint32_t wish_of(const struct session *session)
{
    return ring_leave_wish(session_ring_out(session));
}

static bool repeats_if(const struct session *session, uint32_t wish)
{
    return session->transport == TRANSPORT_RDMA || wish >= LEAVE_RESEND;
}

static bool repeats(const struct session *session)
{
    return repeats_if(session, wish_of(session));
}

static bool tcp_has_room(const struct sock *sock, int fd)
{
    struct pollfd poll = {.fd = sock_fd(sock, fd), .events = POLLOUT};
    struct timespec none = {0, 0};
    return sys_ppoll(&poll, 1, &none) > 0;
}

bool leave_tx_wished(const struct sock *sock, int fd)
{
    const struct session *session = &sock->session;
    switch (atomic_load_explicit(&session->end->tx_way, memory_order_acquire)) {
    case WAY_TCP:
        return true;
    case WAY_RING:
        return repeats(session) ||
               atomic_load_explicit(&session_ring_out(session)->watching, memory_order_seq_cst) == WATCHING_SETTLED;
    case WAY_BACK:
        return tcp_has_room(sock, fd);
    default: // another holder has left
        return atomic_load_explicit(&sock->tx_way, memory_order_relaxed) != WAY_TCP;
    }
}

static bool frozen(const struct session *session)
{
    return atomic_load_explicit(&session->end->tx_tail, memory_order_acquire) & RING_FROZEN;
}

// Under tx_lock. A holder that was killed in the middle of this has done nothing that may not be done again. True when
// the direction has been left.
static bool do_leave_tx(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    uint32_t way = atomic_load(&session->end->tx_way);
    if (way == WAY_LEFT)
        return true;
    uint32_t wish = ring_take_wish(session_ring_out(session));
    // A holder that was killed may have said already where the ring ends: then it shall be read to its end.
    bool said = atomic_load(&session->tx.shared->left_at) != SWITCH_NOT_YET;
    bool again = way == WAY_BACK || (way == WAY_RING && repeats_if(session, wish) && !said);
    if (again && !resend_step(sock, sock_fd(sock, fd)))
        return false;
    // Where the ring is sent again, left_at stays unsaid: the other end shall not read on in the ring, and then TCP. Unless
    // it does not read the ring any more, and waits for nothing but this.
    if (!again || wish == LEAVE_BARE)
        ring_tx_leave(&session->tx);
    atomic_store(&session->end->tx_way, WAY_LEFT);
    if (again && atomic_load(&session->end->tx_back_fin))
        sys_call(SYS_shutdown, sock_fd(sock, fd), SHUT_WR);
    proc_debug("session %llu.%u: sends by TCP again", (unsigned long long)session->id, session->side);
    return true;
}

// An end that does not send through the ring any more has no use for receiving from it, if it has not begun to.
static void give_up_receiving(struct session *session)
{
    uint32_t way = WAY_TCP, wish = wish_of(session);
    atomic_compare_exchange_strong(&session->end->rx_way, &way, WAY_LEFT);
    // That the other end's readers know nothing of rings says nothing of ours.
    ring_ask_to_leave(session_ring_in(session), wish == LEAVE_BARE ? LEAVE_DRAIN : wish);
}

bool leave_tx(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    uint32_t before = atomic_load(&session->end->tx_way);
    bool locked = session_lock(session->end->tx_lock);
    // Without the lock we are a signal handler above its holder, who may be just here: what it has begun is finished,
    // unless that takes sending.
    if (!locked && (!frozen(session) || repeats(session)))
        return false;
    bool left = do_leave_tx(sock, fd);
    if (left) {
        gate_open(&sock->share->tx_gate, session->tag);
        atomic_store_explicit(&sock->tx_way, WAY_TCP, memory_order_release);
    }
    if (locked)
        session_unlock(session->end->tx_lock);
    give_up_receiving(session);
    if (left || before != WAY_BACK) {
        ring_peer_bell(session);
        note_way_back(sock);
    }
    return left;
}

static void rx_is_left(struct sock *sock)
{
    struct session *session = &sock->session;
    atomic_store(&session->end->rx_way, WAY_LEFT);
    gate_open(&sock->share->rx_gate, session->tag);
    atomic_store_explicit(&sock->tcp_event, 1, memory_order_relaxed);
    atomic_store_explicit(&sock->rx_way, WAY_TCP, memory_order_release);
    proc_debug("session %llu.%u: receives by TCP again", (unsigned long long)session->id, session->side);
    note_way_back(sock);
}

bool leave_rx(struct sock *sock)
{
    int left = ring_rx_left(&sock->session.rx);
    if (left < 0)
        session_broken(sock);
    if (left > 0)
        rx_is_left(sock);
    return left > 0;
}

void leave_rx_now(struct sock *sock)
{
    rx_is_left(sock);
}

static bool still_in_ring(struct session *session)
{
    return atomic_load(&session->end->rx_way) == WAY_RING &&
           atomic_load(&session->rx.shared->left_at) == SWITCH_NOT_YET;
}

void leave_rx_finish(struct sock *sock, int fd)
{
    if (atomic_load(&session_ring_in(&sock->session)->leave_wish) != (LEAVE_RESEND | LEAVE_TAKEN) ||
        !leave_rx_repeated(sock, fd) || !session_trylock(sock->session.end->rx_lock))
        return;
    leave_rx_rest(sock, fd);
    session_unlock(sock->session.end->rx_lock);
}

// With rx_lock. True if it is found just now.
static bool look_for_repetition(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    // What is in the ring here is taken from it: what a poll or a peek has shown must not be gone again for a while.
    bool drained = ring_ready_fresh(&session->rx) <= 0;
    if (!drained)
        atomic_store(&sock->repeat_due, 1);
    return drained && still_in_ring(session) && resend_found(sock, sock_fd(sock, fd));
}

// Whoever sends the ring again does not trust it any more.
static void note_repetition(struct sock *sock)
{
    struct session *session = &sock->session;
    atomic_store_explicit(&sock->tcp_event, 1, memory_order_relaxed);
    ring_ask_to_leave(session_ring_in(session), LEAVE_RESEND);
    ring_ask_to_leave(session_ring_out(session), LEAVE_RESEND);
    epset_sock_changed(sock);
    session_ring_own_bell(sock);
}

bool leave_rx_repeated(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    if (!still_in_ring(session) || !session_trylock(session->end->rx_lock))
        return leave_rx_under_way(sock);
    bool found = look_for_repetition(sock, fd);
    session_unlock(session->end->rx_lock);
    if (found)
        note_repetition(sock);
    return found || leave_rx_under_way(sock);
}

int leave_rx_ended(struct sock *sock, int fd)
{
    struct end_shared *end = sock->session.end;
    if (!session_lock(end->rx_lock))
        return -EINTR;
    bool found = look_for_repetition(sock, fd);
    uint32_t way = atomic_load(&end->rx_way);
    session_unlock(end->rx_lock);
    if (found)
        note_repetition(sock);
    if (way == WAY_LEFT) // another holder has come to its end
        atomic_store_explicit(&sock->rx_way, WAY_TCP, memory_order_release);
    return way != WAY_RING;
}

int64_t leave_rx_rest(struct sock *sock, int fd)
{
    if (!leave_rx_under_way(sock)) { // another holder has come to its end
        atomic_store_explicit(&sock->rx_way, WAY_TCP, memory_order_release);
        return 0;
    }
    int64_t rest = resend_rest(sock, sock_fd(sock, fd));
    if (rest == -ECONNRESET)
        session_broken(sock);
    if (rest == 0)
        rx_is_left(sock);
    return rest;
}

void leave_mind(struct sock *sock, int fd)
{
    if (leave_rx_due(sock) && atomic_load(&sock->rx_way) == WAY_RING)
        leave_rx(sock);
    if (leave_tx_due(sock, fd))
        leave_tx(sock, fd);
}

// As long as a call waits (ms) for what was in the ring to be sent again, before it goes on without.
#define AT_ONCE 1000

void leave_for_good(struct sock *sock, int fd)
{
    atomic_store(&sock->share->pinned, 1);
    if (!atomic_load(&sock->attached))
        return;
    const struct session *session = &sock->session;
    bool settled = atomic_load(&session_ring_out(session)->watching) == WATCHING_SETTLED;
    leave_ask(sock, settled ? LEAVE_DRAIN : LEAVE_RESEND);
    struct timespec a_while = {0, 1000000};
    for (int i = 0; i < AT_ONCE && atomic_load(&sock->tx_way) != WAY_TCP && !leave_tx(sock, fd); i++)
        sys_ppoll(NULL, 0, &a_while);
    leave_mind(sock, fd);
}

bool leave_or_pin(struct sock *sock, int fd, const char *why)
{
    sock_pin(sock, why);
    bool attached = atomic_load(&sock->attached);
    leave_for_good(sock, fd);
    return attached;
}

void leave_dissolved(struct sock *sock, int fd)
{
    leave_ask(sock, LEAVE_DRAIN);
    leave_tx(sock, fd);
    if (atomic_load(&sock->session.end->rx_way) == WAY_LEFT)
        return;
    ring_rx_freeze(&sock->session.rx);
    rx_is_left(sock);
}

// Calls `act` for the sockets that were asked to leave.
static void each_asked(void (*act)(struct sock *sock, int fd))
{
    struct sock *sock;
    for (uint32_t i = 0; (sock = sock_at(i)); i++) {
        if (!atomic_load_explicit(&sock->attached, memory_order_relaxed) || !sock_try_hold(sock))
            continue;
        int fd = -1;
        bool asked = atomic_load(&sock->attached) && wish_of(&sock->session) != LEAVE_NOT;
        // What is sent again is sent by a descriptor.
        if (asked && (!repeats(&sock->session) || (fd = sock_descriptor(sock)) >= 0))
            act(sock, fd);
        sock_drop(sock);
    }
    leave_tidy(NULL);
}

void leave_mind_all(void)
{
    each_asked(leave_mind);
}

// As long as a close, or the end of the process, waits (ms) for the peer's host to take in what is left.
#define FINISH_PATIENCE 10000

static uint64_t finish_until(void)
{
    return nest_now() + FINISH_PATIENCE * 1000000ull;
}

static _Thread_local bool all_finished __attribute__((tls_model("initial-exec")));

static bool finish_step(struct sock *sock, int fd)
{
    return !leave_tx_in_ring(sock) || !repeats(&sock->session) || !wish_of(&sock->session) || leave_tx(sock, fd);
}

static void step_of_all(struct sock *sock, int fd)
{
    all_finished &= finish_step(sock, fd);
}

// All at once: one that is stuck shall not add its wait to the others'.
void leave_finish_all(void)
{
    uint64_t until = finish_until();
    struct timespec a_while = {0, 5000000};
    do {
        all_finished = true;
        each_asked(step_of_all);
    } while (!all_finished && nest_now() < until && sys_ppoll(NULL, 0, &a_while) <= 0);
}

void leave_ask(struct sock *sock, uint32_t wish)
{
    ring_ask_to_leave(session_ring_in(&sock->session), wish);
    ring_ask_to_leave(session_ring_out(&sock->session), wish);
    ring_peer_bell(&sock->session);
    session_ring_own_bell(sock);
}

bool leave_delays_shutdown(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    if (!leave_tx_in_ring(sock) || !repeats(session) || wish_of(session) == LEAVE_NOT)
        return false;
    atomic_store(&session->end->tx_back_fin, 1);
    if (leave_tx(sock, fd))
        sys_call(SYS_shutdown, sock_fd(sock, fd), SHUT_WR); // another holder may have done it without knowing
    return true;
}

void leave_finish(struct sock *sock, int fd)
{
    uint64_t until = finish_until();
    struct timespec a_while = {0, 100000000};
    while (!finish_step(sock, fd) && nest_now() < until) {
        struct pollfd poll = {.fd = fd, .events = POLLOUT};
        sys_ppoll(&poll, 1, &a_while);
    }
}

// --- letting go ---

static void take_back(struct sock *sock)
{
    struct session *session = &sock->session;
    gate_open(&sock->share->rx_gate, session->tag);
    gate_open(&sock->share->tx_gate, session->tag);
    atomic_store(&sock->rx_way, WAY_TCP);
    atomic_store(&sock->tx_way, WAY_TCP);
    atomic_store(&sock->attached, 0);
    epset_sock_changed(sock);
    agent_link_left(sock);
    proc_debug("session %llu.%u: over at this end", (unsigned long long)session->id, session->side);
}

// Descriptors of the socket, and so many calls of the caller's own: are there no others?
static bool nobody_else_inside(const struct sock *sock, uint32_t own)
{
    return atomic_load(&sock->refs) == atomic_load(&sock->fds) + own;
}

// The caller has `own` references. What cannot be let go of now is left to the socket's own next call.
static void let_go(struct sock *sock, uint32_t own)
{
    if (atomic_exchange(&sock->tidying, 1))
        return;
    if (sock->attached && over(&sock->session))
        take_back(sock);
    if (!sock->attached && sock->mapped && nobody_else_inside(sock, own) && !epset_sock_needs_ring(sock))
        session_unmap(sock);
    atomic_store(&sock->tidying, 0);
}

bool leave_forget(struct sock *sock)
{
    if (sock->mapped)
        let_go(sock, 1);
    return !sock->mapped;
}

void leave_tidy_slow(const struct sock *held)
{
    uint32_t first = atomic_exchange(&leave_untidy, 0);
    while (first) {
        struct sock *sock = sock_at(first - 1);
        first = atomic_load(&sock->tidy_next);
        atomic_store(&sock->tidy_queued, 0);
        if (!sock_try_hold(sock))
            continue; // closed since, and its session with it
        if (sock->mapped)
            let_go(sock, 1 + (sock == held));
        if (sock->mapped && !sock->attached && epset_sock_needs_ring(sock))
            queue(sock); // somebody is just taking it out of an epoll set
        sock_drop(sock);
    }
}
