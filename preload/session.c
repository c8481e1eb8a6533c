#include "preload/session.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "core/memfd.h"
#include "core/position.h"
#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/ending.h"
#include "preload/epset.h"
#include "preload/leave.h"
#include "preload/nest.h"
#include "preload/wait.h"

// --- locks ---

bool session_lock(void *lock)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)lock;
    int result = pthread_mutex_lock(mutex);
    if (result == EOWNERDEAD)
        // Whatever the dead holder was doing, its last publication is whole: see ring.h, and the order of stores below.
        result = pthread_mutex_consistent(mutex);
    // EDEADLK: we are a signal handler that interrupted the holder. The ring copes with that.
    return result == 0;
}

bool session_trylock(void *lock)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)lock;
    int result = pthread_mutex_trylock(mutex);
    if (result == EOWNERDEAD)
        result = pthread_mutex_consistent(mutex);
    return result == 0;
}

void session_unlock(void *lock)
{
    pthread_mutex_unlock((pthread_mutex_t *)lock);
}

// --- mapping ---

static bool plausible(const struct session *session)
{
    return session->shared->magic == SESSION_MAGIC && session->shared->version == LAYOUT_VERSION &&
           session->shared->id == session->id && session->end->magic == END_MAGIC &&
           session->end->version == LAYOUT_VERSION && session->end->side == session->side;
}

static void unmap_memory(struct session *session)
{
    if (session->shared)
        memfd_unmap(session->shared, session_bytes(session->ring_bytes));
    if (session->end)
        memfd_unmap(session->end, END_BYTES);
    session->shared = NULL;
    session->end = NULL;
}

static enum wire_reason map_memory(struct session *session, const int *fds)
{
    void *shared = NULL, *end = NULL;
    int result = memfd_map(fds[WIRE_FD_SESSION], session_bytes(session->ring_bytes), 1, &shared);
    session->shared = shared;
    if (!result)
        result = memfd_map(fds[WIRE_FD_END], END_BYTES, 1, &end);
    session->end = end;
    if (result || !plausible(session)) {
        unmap_memory(session);
        return result == -EPROTO || !result ? WIRE_REASON_AGENT_LOST : WIRE_REASON_NO_MEMORY;
    }
    unsigned char *data = (unsigned char *)shared + SESSION_DATA;
    ring_tx_init(&session->tx, session_ring_out(session), &session->end->tx_tail,
                 data + session->side * session->ring_bytes, session->ring_bytes);
    ring_rx_init(&session->rx, session_ring_in(session), &session->end->rx_head,
                 data + (1 - session->side) * session->ring_bytes, session->ring_bytes);
    session->tx.by_device = session->rx.by_device = session->transport == TRANSPORT_RDMA;
    return WIRE_REASON_NONE;
}

static void close_own_fds(struct session *session)
{
    proc_close_own_fd(session->bell);
    proc_close_own_fd(session->peer_bell);
    proc_close_own_fd(session->lifeline);
    session->bell = session->peer_bell = session->lifeline = -1;
}

// The next session of the same socket gets another tag: ids only grow in one run of an agent.
static uint32_t tag_of(const struct end_shared *end)
{
    uint64_t mixed = end->session + end->instance;
    return (uint32_t)(mixed ^ mixed >> 31) & GATE_TAG_MASK;
}

static void announce(struct sock *sock)
{
    static _Atomic uint32_t last_in_nests;
    sock->session.tag = tag_of(sock->session.end);
    sock->session.in_nests = atomic_fetch_add(&last_in_nests, 1) + 1;
    sock->mapped = 1;
    atomic_store(&sock->attached, 1);
}

// False if the agent has meanwhile turned away somebody to whom the socket was passed: then nobody may have it.
static bool take_end(struct end_shared *end)
{
    uint32_t taken = END_OPEN;
    return atomic_compare_exchange_strong(&end->taken, &taken, END_TAKEN) || taken == END_TAKEN;
}

enum wire_reason session_map(struct sock *sock, const struct wire_attach *attach, int fds[static WIRE_ATTACH_FDS])
{
    struct session *session = &sock->session;
    *session = (struct session){
        .id = attach->session, .side = attach->side, .transport = attach->transport, .ring_bytes = attach->ring_bytes};
    enum wire_reason reason = map_memory(session, fds);
    session->bell = proc_own_fd(fds[WIRE_FD_BELL]);
    session->peer_bell = proc_own_fd(fds[WIRE_FD_PEER_BELL]);
    session->lifeline = proc_own_fd(fds[WIRE_FD_LIFELINE]);
    sys_close(fds[WIRE_FD_SESSION]);
    sys_close(fds[WIRE_FD_END]);
    if (!reason && (session->bell < 0 || session->peer_bell < 0 || session->lifeline < 0)) {
        unmap_memory(session);
        reason = WIRE_REASON_NO_DESCRIPTORS;
    }
    if (!reason && !take_end(session->end)) {
        unmap_memory(session);
        reason = WIRE_REASON_SHARED;
    }
    if (reason) {
        close_own_fds(session);
        return reason;
    }
    if (session_is_far(sock)) {
        patience_far(&sock->rx_patience, agent_link_wake_ns());
        patience_far(&sock->tx_patience, agent_link_wake_ns());
    }
    announce(sock);
    return reason;
}

void session_unmap(struct sock *sock)
{
    sock->attached = 0;
    unmap_memory(&sock->session);
    close_own_fds(&sock->session);
    sock->mapped = 0;
}

// --- options ---

static uint64_t timeout_option(int fd, int option)
{
    struct timeval value = {0, 0};
    uint32_t size = sizeof value;
    sys_getsockopt(fd, SOL_SOCKET, option, &value, &size);
    return (uint64_t)value.tv_sec * 1000000000u + (uint64_t)value.tv_usec * 1000u;
}

void session_read_options(struct sock *sock, int fd)
{
    int low = 1;
    uint32_t size = sizeof low;
    sys_getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, &size);
    sock->share->receive_low = (uint32_t)(low > 0 ? low : 1);
    sock->share->receive_timeout = timeout_option(fd, SO_RCVTIMEO);
    sock->share->send_timeout = timeout_option(fd, SO_SNDTIMEO);
}

// Idle for so long (s), the connection is probed.
#define KEEPALIVE_IDLE 240

static int int_option(int fd, int level, int option)
{
    int value = 0;
    uint32_t size = sizeof value;
    sys_getsockopt(fd, level, option, &value, &size);
    return value;
}

static void set_int_option(int fd, int level, int option, int value)
{
    sys_setsockopt(fd, level, option, &value, sizeof value);
}

static void keep_alive(struct sock *sock, int fd)
{
    if (atomic_load(&sock->share->keepalive_hidden) || int_option(fd, SOL_SOCKET, SO_KEEPALIVE))
        return;
    atomic_store(&sock->share->keepalive_idle, (uint32_t)int_option(fd, IPPROTO_TCP, TCP_KEEPIDLE));
    set_int_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE);
    set_int_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    atomic_store(&sock->share->keepalive_hidden, 1);
}

bool session_keepalive_get(const struct sock *sock, int level, int option, int *value)
{
    if (!atomic_load(&sock->share->keepalive_hidden))
        return false;
    if (level == SOL_SOCKET && option == SO_KEEPALIVE)
        *value = 0;
    else if (level == IPPROTO_TCP && option == TCP_KEEPIDLE)
        *value = (int)atomic_load(&sock->share->keepalive_idle);
    else
        return false;
    return true;
}

void session_keepalive_set(struct sock *sock, int fd, int level, int option, int value)
{
    struct share *share = sock->share;
    if (!atomic_load(&share->keepalive_hidden))
        return;
    if (level == IPPROTO_TCP && option == TCP_KEEPIDLE) {
        atomic_store(&share->keepalive_idle, (uint32_t)value);
        set_int_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE);
    } else if (level == SOL_SOCKET && option == SO_KEEPALIVE && value) {
        // The program wants it itself, with its own time.
        atomic_store(&share->keepalive_hidden, 0);
        set_int_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)atomic_load(&share->keepalive_idle));
    } else if (level == SOL_SOCKET && option == SO_KEEPALIVE) {
        set_int_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    }
}

// --- the receiving direction ---

// Declares that this end watches the ring. Nobody is inside a kernel receive now, and nobody can enter one.
// False if this direction has been left already.
static bool rx_watch(struct sock *sock)
{
    struct session *session = &sock->session;
    uint32_t way = WAY_TCP, watching = WATCHING_NOT;
    atomic_compare_exchange_strong(&session->end->rx_way, &way, WAY_WATCH);
    if (way == WAY_LEFT)
        return false;
    ring_rx_arm(&session->rx);
    // seq_cst, after the gate was closed: pairs with the sender's load in tx_may_switch.
    atomic_compare_exchange_strong(&session_ring_in(session)->watching, &watching, WATCHING_YES);
    session_tell_agent(sock);
    atomic_store_explicit(&sock->tcp_event, 1, memory_order_relaxed);
    atomic_store_explicit(&sock->rx_way, WAY_WATCH, memory_order_release);
    epset_sock_changed(sock);
    proc_debug("session %llu.%u: receiving side watches the ring", (unsigned long long)session->id, session->side);
    return true;
}

static void ring_peer_bell(const struct session *session)
{
    uint64_t one = 1;
    sys_write(session->peer_bell, &one, sizeof one);
}

// From now on the sender may leave. If it has been asked to, it waits for this: seq_cst, pairs with leave_tx_due.
static void rx_settled(struct sock *sock)
{
    struct session *session = &sock->session;
    atomic_store_explicit(&session_ring_in(session)->watching, WATCHING_SETTLED, memory_order_seq_cst);
    if (atomic_load_explicit(&session_ring_in(session)->leave_wish, memory_order_seq_cst) != LEAVE_NOT)
        ring_peer_bell(session);
    atomic_store(&session->end->rx_way, WAY_RING);
    atomic_store_explicit(&sock->rx_way, WAY_RING, memory_order_release);
    epset_sock_changed(sock);
}

// The news of the switch came later than what was sent again for want of a link that carries it: all of the ring, without
// a record. A record would not have been sent before that news was known here.
static void was_sent_again(struct sock *sock, uint64_t switch_at)
{
    proc_debug("session %llu.%u: the ring came by TCP from byte %llu on", (unsigned long long)sock->session.id,
               sock->session.side, (unsigned long long)switch_at);
    leave_ask(sock, LEAVE_RESEND);
    leave_rx_now(sock);
}

// No TCP connection has that much under way.
#define SWITCH_AHEAD_MOST (1ull << 40)

int64_t session_rx_settle(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    struct end_shared *end = session->end;
    // Another holder may have come further. From the ring to TCP, as what follows will find; or without ever having come to
    // the ring, which nothing in it would tell.
    uint32_t way = atomic_load(&end->rx_way);
    if (way == WAY_LEFT) {
        leave_rx_now(sock);
        return 0;
    }
    if (way == WAY_RING || way == WAY_BACK) {
        atomic_store_explicit(&sock->rx_way, WAY_RING, memory_order_release);
        return 0;
    }
    // Nor does a sender switch, or the agent tell of it, who sees that it is to send again what was in the ring: if it
    // has done so nevertheless, all of the ring comes by TCP. seq_cst, and before switch_at.
    uint32_t wish = ring_leave_wish(session_ring_in(session));
    // The sender may leave without ever having switched. Looked at before switch_at, which is never set after it.
    uint64_t left_at = atomic_load_explicit(&session_ring_in(session)->left_at, memory_order_seq_cst);
    // Acquire: pairs with the store in tx_switch.
    uint64_t switch_at = atomic_load_explicit(&session_ring_in(session)->switch_at, memory_order_acquire);
    if (switch_at == SWITCH_NOT_YET && left_at != SWITCH_NOT_YET) {
        rx_settled(sock);
        return 0;
    }
    if (switch_at == SWITCH_NOT_YET && wish == LEAVE_RESEND) {
        leave_rx_now(sock);
        return 0;
    }
    if (switch_at == SWITCH_NOT_YET)
        return SESSION_TCP_ALL;
    uint64_t position;
    if (!position_read(fd, &position))
        return -ECONNRESET;
    if (position < switch_at && switch_at - position < SWITCH_AHEAD_MOST)
        return (int64_t)(switch_at - position);
    if (position > switch_at && session_is_far(sock)) {
        was_sent_again(sock, switch_at);
        return 0;
    }
    if (position != switch_at) {
        session_broken(sock);
        return -ECONNRESET;
    }
    rx_settled(sock);
    proc_debug("session %llu.%u: receiving from the ring from byte %llu on", (unsigned long long)session->id,
               session->side, (unsigned long long)switch_at);
    return 0;
}

static bool rx_attach(struct sock *sock)
{
    if (!atomic_load(&sock->attached))
        return false;
    struct session *session = &sock->session;
    uint32_t way = atomic_load(&session->end->rx_way);
    bool left = way == WAY_LEFT;
    if (way == WAY_TCP && sock_pinned(sock))
        return false;
    if (!left && !gate_close(&sock->share->rx_gate, session->tag))
        return false;
    if (!left && rx_watch(sock))
        return true;
    gate_open(&sock->share->rx_gate, session->tag);
    return false;
}

// --- the sending direction ---

static bool tx_may_switch(const struct sock *sock)
{
    return atomic_load(&sock->attached) &&
           atomic_load_explicit(&session_ring_out(&sock->session)->watching, memory_order_seq_cst) != WATCHING_NOT;
}

// Under tx_lock, the gate closed: no kernel send is under way, in any holder. A holder that dies here leaves the gate
// closed and the way TCP: whoever comes next does it again.
static int tx_switch(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    // A holder may have been killed in the middle of leaving.
    if (atomic_load(&session->end->tx_way) == WAY_LEFT || (atomic_load(&session->end->tx_tail) & RING_FROZEN))
        return -ESTALE;
    if (atomic_load(&session->end->tx_way) == WAY_TCP) {
        uint64_t position;
        if (!position_sent(fd, &position))
            return -EPIPE;
        // The receiver believes the ring only from this store on. Release: before it, the ring is empty and whole.
        atomic_store_explicit(&session_ring_out(session)->switch_at, position, memory_order_seq_cst);
        session_tell_agent(sock);
        atomic_store(&session->end->tx_way, WAY_RING);
        keep_alive(sock, fd);
        proc_debug("session %llu.%u: sending through the ring from byte %llu on", (unsigned long long)session->id,
                   session->side, (unsigned long long)position);
    }
    atomic_store_explicit(&sock->tx_way, WAY_RING, memory_order_release);
    epset_sock_changed(sock);
    return 0;
}

static bool tx_attach(struct sock *sock, int fd)
{
    struct share *share = sock->share;
    if (!tx_may_switch(sock) || atomic_load(&sock->session.end->tx_shut) ||
        (sock_pinned(sock) && atomic_load(&sock->session.end->tx_way) == WAY_TCP) ||
        atomic_load(&session_ring_out(&sock->session)->leave_wish) != LEAVE_NOT)
        return false;
    void *lock = sock->session.end->tx_lock;
    if (!session_lock(lock))
        return false;
    uint32_t tag = sock->session.tag;
    bool switched = gate_close(&share->tx_gate, tag) && tx_switch(sock, fd) == 0;
    // No longer able to send, and the kernel shall say why; or left again.
    if (!switched && atomic_load(&sock->session.end->tx_way) != WAY_RING)
        gate_open(&share->tx_gate, tag);
    session_unlock(lock);
    return switched;
}

// --- entering and leaving kernel calls ---

static void session_resolve_if_inherited(struct sock *sock, int fd)
{
    if (__builtin_expect(atomic_load_explicit(&sock->flags, memory_order_relaxed) & SOCK_INHERITED, 0))
        session_resolve(sock, fd);
}

// The gate is closed. Another holder of this socket has upgraded it, and we have not been told, or know of an older
// session: ask the agent for the session. For a moment a gate may also be closed in vain.
static void join(struct sock *sock, int fd)
{
    if (!atomic_load(&sock->attached) && leave_forget(sock) && agent_link_adopt(sock, fd))
        return;
    sys_sched_yield();
}

// As long as a gate that is closed may find its session.
#define JOIN_PATIENCE 3000000000ull

static bool join_within(uint64_t *until, struct sock *sock, int fd)
{
    uint64_t now = nest_now();
    *until = *until ? *until : now + JOIN_PATIENCE;
    if (now > *until) {
        errno = ECONNRESET;
        return false;
    }
    join(sock, fd);
    return true;
}

// What is over is let go of, and what is to be left is left, even by calls that go to the kernel.
static void begin(struct sock *sock, int fd)
{
    session_resolve_if_inherited(sock, fd);
    if (atomic_load(&sock->attached))
        leave_mind(sock, fd);
    leave_tidy(sock);
    if (sock->mapped && !atomic_load(&sock->attached))
        leave_forget(sock);
    agent_link_visit(sock, fd);
}

int session_rx_enter(struct sock *sock, int fd)
{
    uint64_t until = 0;
    begin(sock, fd);
    do {
        if (rx_attach(sock))
            return SESSION_RING;
        if (gate_enter(sock->share, &sock->share->rx_gate))
            return SESSION_KERNEL;
    } while (join_within(&until, sock, fd));
    return SESSION_FAILED;
}

int session_tx_enter(struct sock *sock, int fd)
{
    uint64_t until = 0;
    begin(sock, fd);
    do {
        if (tx_attach(sock, fd))
            return SESSION_RING;
        if (gate_enter(sock->share, &sock->share->tx_gate))
            return SESSION_KERNEL;
    } while (join_within(&until, sock, fd));
    return SESSION_FAILED;
}

// Another holder's ways are this one's too.
static void follow_holder(struct sock *sock)
{
    struct end_shared *end = sock->session.end;
    if (atomic_load(&end->rx_way) != WAY_TCP)
        rx_attach(sock);
    if (atomic_load(&end->tx_way) == WAY_RING && gate_close(&sock->share->tx_gate, sock->session.tag)) {
        atomic_store_explicit(&sock->tx_way, WAY_RING, memory_order_release);
        epset_sock_changed(sock);
    }
}

void session_resolve(struct sock *sock, int fd)
{
    if (!(atomic_fetch_and(&sock->flags, ~(uint32_t)SOCK_INHERITED) & SOCK_INHERITED))
        return;
    int saved = errno;
    atomic_fetch_add(&sock->share->passed, 1); // others may hold it; they do not share our gates
    if (agent_link_adopt(sock, fd))
        follow_holder(sock);
    errno = saved;
}

void session_follow(struct sock *sock, int fd)
{
    uint64_t gates = atomic_load(&sock->share->rx_gate) | atomic_load(&sock->share->tx_gate);
    if (sock_unresolved(sock))
        session_resolve(sock, fd);
    else if ((gates & GATE_CLOSED) && !sock->attached && agent_link_adopt(sock, fd))
        follow_holder(sock);
}

static void count_bytes(struct sock *sock, ssize_t result)
{
    if (result > 0)
        atomic_store_explicit(&sock->bytes, atomic_load_explicit(&sock->bytes, memory_order_relaxed) + (uint64_t)result,
                              memory_order_relaxed);
}

void session_rx_leave(struct sock *sock, ssize_t result)
{
    gate_leave(sock->share, &sock->share->rx_gate);
    count_bytes(sock, result);
}

void session_tx_leave(struct sock *sock, ssize_t result)
{
    gate_leave(sock->share, &sock->share->tx_gate);
    count_bytes(sock, result);
}

// --- the end ---

static bool held_elsewhere(const struct sock *sock)
{
    return share_forked(sock->share) || atomic_load(&sock->share->passed) || (sock->flags & SOCK_INHERITED);
}

// The kernel answers data that nobody will read with a reset. So must a ring.
static bool reset_if_unread(struct sock *sock, int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    if (atomic_load(&sock->rx_way) == WAY_TCP || ring_ready_fresh(&sock->session.rx) <= 0)
        return false;
    sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    return true;
}

// If others hold the socket too, the agent sees by the lifeline when the last is gone.
void session_last_close(struct sock *sock, int fd)
{
    ending_look_for_agent(sock);
    leave_finish(sock, fd);
    leave_rx_finish(sock, fd);
    if (held_elsewhere(sock))
        return;
    struct session *session = &sock->session;
    bool resets = reset_if_unread(sock, fd);
    ring_tx_republish(&session->tx);
    atomic_store(&session_ring_out(session)->tx_closed, CLOSED_ORDERLY);
    atomic_store(&session_ring_in(session)->rx_closed, CLOSED_ORDERLY);
    session_tell_agent(sock);
    if (!resets)
        ending_last_close(sock, fd);
}

void session_broken(struct sock *sock)
{
    if (atomic_exchange(&sock->session.end->broken, 1))
        return;
    proc_debug("session %llu: the other end broke the ring protocol", (unsigned long long)sock->session.id);
    agent_link_count(WIRE_REASON_PROTOCOL);
    session_ring_own_bell(sock);
}

// The bell is a set that we cannot ring ourselves, other than by putting something into it that is ready: the lifeline
// is, since nobody writes into it. A bell that is a bare eventfd has no other holder who could be in our way.
void session_ring_own_bell(struct sock *sock)
{
    const struct session *session = &sock->session;
    struct epoll_event ready = {.events = EPOLLOUT | EPOLLET};
    uint64_t one = 1;
    sys_call(SYS_epoll_ctl, session->bell, EPOLL_CTL_DEL, session->lifeline, &ready);
    if (sys_call(SYS_epoll_ctl, session->bell, EPOLL_CTL_ADD, session->lifeline, &ready) == -EINVAL)
        sys_write(session->bell, &one, sizeof one);
}

void session_tell_agent(struct sock *sock)
{
    if (session_is_far(sock))
        ring_peer_bell(&sock->session);
}

bool session_agent_is_gone(const struct sock *sock)
{
    struct pollfd poll = {.fd = sock->session.lifeline};
    struct timespec none = {0, 0};
    return sys_ppoll(&poll, 1, &none) > 0 && (poll.revents & POLLERR);
}
