#include "preload/agent_link.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "core/fdpass.h"
#include "core/layout.h"
#include "core/memfd.h"
#include "core/sys.h"
#include "preload/leave.h"
#include "preload/lock.h"
#include "preload/nest.h"
#include "preload/session.h"
#include "preload/sock.h"

// Before the board is seen. The agent's defaults are the same.
#define DEFAULT_AFTER_CALLS 8
#define DEFAULT_AFTER_BYTES (64u << 10)

// After a failure, how long (ns) to leave the agent alone: doubled each time up to the most.
#define RETRY_LEAST 200000000ull
#define RETRY_MOST  1000000000ull

// As long as the agent has not greeted us there is no mail counter, and its socket itself is looked at: at every call
// in the beginning, then at every 64th.
#define GREETING_LOOKS 64u

static struct {
    struct lock lock; // one thread at a time speaks, listens, connects
    struct sockaddr_un address;
    bool address_given;
    _Atomic int fd;                      // -1: no connection
    _Atomic uint32_t number;             // of the connection; offers made by an earlier one are void
    _Atomic uint32_t greeted;            // WELCOME came on this connection
    _Atomic(const struct board *) board; // the newest we know; kept when the connection is lost, and over fork
    _Atomic uint32_t slot;
    _Atomic uint32_t mail_seen;
    _Atomic uint32_t looks;
    _Atomic uint64_t retry_at; // ns, coarse
    _Atomic uint64_t look_at;  // ns, coarse
    _Atomic uint32_t recalls_seen;
    uint64_t retry_delay;
    struct wire_count counts; // not yet reported
    uint32_t uncounted;
} conn = {.fd = -1};

static uint64_t coarse_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void agent_link_init(void)
{
    const char *dir = getenv("RDMA_AGENT_DIR");
    conn.address_given = dir && *dir;
    conn.address.sun_family = AF_UNIX;
    int size = snprintf(conn.address.sun_path, sizeof conn.address.sun_path, "%s/%s",
                        conn.address_given ? dir : WIRE_DIR, WIRE_SOCKET);
    if (size >= (int)sizeof conn.address.sun_path)
        conn.address.sun_path[0] = '\0';
    conn.retry_delay = RETRY_LEAST;
}

// The connection is the parent's. Its board remains a good source for the policy.
void agent_link_forked(void)
{
    conn.lock = (struct lock){0};
    proc_close_own_fd(conn.fd);
    conn.fd = -1;
    conn.greeted = 0;
    conn.number++;
    conn.retry_at = 0;
    conn.retry_delay = RETRY_LEAST;
    memset(&conn.counts, 0, sizeof conn.counts);
    conn.uncounted = 0;
}

bool agent_link_moved(int from, int to)
{
    return atomic_compare_exchange_strong(&conn.fd, &from, to);
}

// --- the connection ---

// An agent in the place that every program trusts must be root's or our own user's: it is handed our sockets.
// One that the user named is the user's choice.
static bool trustworthy(int fd)
{
    struct ucred peer;
    uint32_t size = sizeof peer;
    if (sys_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
        return false;
    return conn.address_given || peer.uid == 0 || peer.uid == (uid_t)sys_call(SYS_geteuid);
}

static int connect_socket(void)
{
    if (!conn.address.sun_path[0])
        return -ENAMETOOLONG;
    int fd = (int)sys_call(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fd;
    int result = (int)sys_call(SYS_connect, fd, &conn.address, sizeof conn.address);
    if (result == 0 && trustworthy(fd))
        return proc_own_fd(fd);
    sys_close(fd);
    return result ? result : -EPERM;
}

static void count(enum wire_reason reason)
{
    conn.counts.count[reason]++;
    conn.uncounted++;
}

static bool leaves_already(const struct sock *sock)
{
    return atomic_load(&session_ring_out(&sock->session)->leave_wish) == LEAVE_RESEND &&
           atomic_load(&session_ring_in(&sock->session)->leave_wish) == LEAVE_RESEND;
}

// Sessions with other hosts are nothing without the agent that carries them. Those within this host are.
static void leave_far(bool hangs)
{
    struct sock *sock;
    for (uint32_t i = 0; (sock = sock_at(i)); i++) {
        if (!atomic_load_explicit(&sock->attached, memory_order_relaxed) || !sock_try_hold(sock))
            continue;
        if (atomic_load(&sock->attached) && session_is_far(sock) && !leaves_already(sock) &&
            (hangs || session_agent_is_gone(sock)))
            leave_ask(sock, LEAVE_RESEND);
        sock_drop(sock);
    }
}

static void lost(enum wire_reason reason)
{
    if (reason)
        count(reason);
    proc_close_own_fd(conn.fd);
    conn.fd = -1;
    conn.greeted = 0;
    conn.number++;
    conn.retry_at = coarse_now() + conn.retry_delay;
    conn.retry_delay = conn.retry_delay * 2 > RETRY_MOST ? RETRY_MOST : conn.retry_delay * 2;
    proc_debug("no agent for now: %s", wire_reason_name(reason));
    leave_far(false);
}

static bool send_message(union wire_message *message, const int *fds, unsigned count_fds)
{
    int result = fdpass_send(conn.fd, message, fds, count_fds);
    if (result && result != -EAGAIN)
        lost(WIRE_REASON_AGENT_LOST);
    return result == 0;
}

static void report_counts(void)
{
    union wire_message message;
    if (!conn.uncounted)
        return;
    wire_begin(&message, WIRE_COUNT);
    memcpy(message.count.count, conn.counts.count, sizeof conn.counts.count);
    if (!send_message(&message, NULL, 0))
        return;
    memset(&conn.counts, 0, sizeof conn.counts);
    conn.uncounted = 0;
}

// With the lock. True if there is a connection, greeted or not.
static bool connected(void)
{
    if (conn.fd >= 0)
        return true;
    if (coarse_now() < conn.retry_at)
        return false;
    int fd = connect_socket();
    if (fd < 0) {
        lost(WIRE_REASON_NO_AGENT);
        return false;
    }
    conn.fd = fd;
    conn.number++;
    conn.looks = 0;
    union wire_message hello;
    wire_begin(&hello, WIRE_HELLO);
    hello.hello.version = WIRE_VERSION;
    hello.hello.layout = LAYOUT_VERSION;
    return send_message(&hello, NULL, 0);
}

// --- what the agent sends ---

static void leave_older(uint64_t instance)
{
    struct sock *sock;
    for (uint32_t i = 0; (sock = sock_at(i)); i++) {
        if (!atomic_load_explicit(&sock->attached, memory_order_relaxed) || !sock_try_hold(sock))
            continue;
        if (atomic_load(&sock->attached) && sock->session.end->instance != instance)
            leave_ask(sock, LEAVE_DRAIN);
        sock_drop(sock);
    }
}

static void welcome(const struct wire_welcome *message, int fd)
{
    void *board = NULL;
    int result = memfd_map(fd, BOARD_BYTES, 0, &board);
    sys_close(fd);
    if (!result && (((struct board *)board)->magic != BOARD_MAGIC || message->version != WIRE_VERSION ||
                    message->layout != LAYOUT_VERSION))
        result = -EPROTO;
    if (result) {
        lost(WIRE_REASON_AGENT_LOST);
        return;
    }
    // The board before it stays mapped: other threads may be reading it. There is one for each run of an agent.
    conn.slot = message->slot;
    atomic_store(&conn.mail_seen, 0);
    atomic_store_explicit(&conn.board, (const struct board *)board, memory_order_release);
    atomic_store_explicit(&conn.greeted, 1, memory_order_release);
    conn.retry_delay = RETRY_LEAST;
    report_counts();
    leave_older(message->instance);
}

static void close_all(const int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        sys_close(fds[i]);
}

static void decline(const struct wire_attach *attach, enum wire_reason reason)
{
    union wire_message message;
    wire_begin(&message, WIRE_DECLINE);
    message.decline.token = attach->token;
    message.decline.session = attach->session;
    message.decline.reason = reason;
    send_message(&message, NULL, 0);
}

static struct sock *sock_of_token(uint64_t token)
{
    struct sock *sock = sock_find((uint32_t)token, (uint32_t)(token >> 32));
    if (sock && (atomic_load(&sock->offer) != OFFER_MADE || atomic_load(&sock->token) != token)) {
        sock_drop(sock);
        return NULL;
    }
    return sock;
}

// How long (ns) until a connection is offered again for which there was no memory, or which others held.
#define ROOM_LATER  1000000000ull
#define ALONE_LATER 100000000ull

static void offer_later(struct sock *sock, enum wire_reason reason)
{
    sock->not_before = coarse_now() + (reason == WIRE_REASON_SHARED ? ALONE_LATER : ROOM_LATER);
    atomic_store_explicit(&sock->calls, 0, memory_order_relaxed);
    atomic_store_explicit(&sock->bytes, 0, memory_order_relaxed);
    atomic_store(&sock->offer, OFFER_NONE);
}

// Why a session that was offered for is not wanted any more.
static enum wire_reason unwanted(const struct sock *sock)
{
    if (!sock || sock->mapped || sock_pinned(sock))
        return WIRE_REASON_PINNED;
    // If it was passed on since the offer, the agent may have looked before that whether it is in other hands.
    return sock->offered_passed != atomic_load(&sock->share->passed) ? WIRE_REASON_SHARED : WIRE_REASON_NONE;
}

static void attach(const struct wire_attach *message, int *fds)
{
    struct sock *sock = sock_of_token(message->token);
    enum wire_reason reason = unwanted(sock);
    if (!reason) {
        sock->attached_at = coarse_now(); // before other threads know of the session, and may leave it
        reason = session_map(sock, message, fds);
        proc_debug("session %llu: %s", (unsigned long long)message->session,
                   reason ? wire_reason_name(reason) : "attached");
    } else {
        close_all(fds, WIRE_ATTACH_FDS);
    }
    if (reason)
        decline(message, reason);
    if (sock) {
        atomic_store(&sock->offer, reason ? OFFER_REFUSED : OFFER_NONE);
        if (reason == WIRE_REASON_SHARED)
            offer_later(sock, reason);
        sock_drop(sock);
    }
}

static void refused(const struct wire_refused *message)
{
    struct sock *sock = sock_of_token(message->token);
    if (!sock)
        return;
    const struct board *board = conn.board;
    sock->refused_policy = board ? atomic_load(&board->policy_generation) : 0;
    // There may be room later, for a connection that is busy then; it may be in no other hands; or be connected at last.
    if (message->reason == WIRE_REASON_LIMIT_MEMORY || message->reason == WIRE_REASON_SHARED ||
        message->reason == WIRE_REASON_NOT_TCP)
        offer_later(sock, message->reason);
    else
        atomic_store(&sock->offer, OFFER_REFUSED);
    proc_debug("offer refused: %s", wire_reason_name(message->reason));
    sock_drop(sock);
}

static void take_in(const union wire_message *message, int *fds)
{
    switch (message->head.type) {
    case WIRE_WELCOME:
        welcome(&message->welcome, fds[0]);
        break;
    case WIRE_ATTACH:
        attach(&message->attach, fds);
        break;
    case WIRE_REFUSED:
        refused(&message->refused);
        break;
    default: // a message that only a client sends; it has no descriptors
        lost(WIRE_REASON_AGENT_LOST);
    }
}

static void read_mail(void)
{
    while (conn.fd >= 0) {
        // The counter before the messages: one that comes later than our last look is announced by another raise.
        const struct board *board = conn.greeted ? conn.board : NULL;
        uint32_t mail = board ? atomic_load_explicit(&board->slot[conn.slot].mail, memory_order_acquire) : 0;
        union wire_message message;
        int fds[WIRE_FDS_MAX];
        unsigned n;
        int result = fdpass_recv(conn.fd, &message, fds, &n);
        if (result == 1) {
            take_in(&message, fds);
            continue;
        }
        if (result == -EMFILE)
            continue; // no descriptors to spare: this message's are gone, and its offer stays unanswered
        if (result < 0)
            lost(WIRE_REASON_AGENT_LOST);
        else if (board)
            atomic_store(&conn.mail_seen, mail);
        return;
    }
}

// Asked without the lock. While a new agent greets us, the slot may be that of the one before: then there seems to be mail
// where there is none, or none where there is some, until the next call.
static bool has_mail(void)
{
    if (conn.fd < 0)
        return false;
    if (!atomic_load_explicit(&conn.greeted, memory_order_acquire)) {
        uint32_t looks = atomic_fetch_add_explicit(&conn.looks, 1, memory_order_relaxed);
        return looks < GREETING_LOOKS || looks % GREETING_LOOKS == 0;
    }
    const struct board *board = atomic_load_explicit(&conn.board, memory_order_acquire);
    uint32_t slot = atomic_load_explicit(&conn.slot, memory_order_relaxed);
    return atomic_load_explicit(&board->slot[slot].mail, memory_order_acquire) !=
           atomic_load_explicit(&conn.mail_seen, memory_order_relaxed);
}

// --- offers ---

static bool offer(struct sock *sock, int fd, uint32_t flags)
{
    union wire_message message;
    wire_begin(&message, WIRE_OFFER);
    message.offer.token = (uint64_t)sock->generation << 32 | sock->index;
    sock->offered_passed = atomic_load(&sock->share->passed);
    message.offer.flags = flags | (sock->offered_passed ? WIRE_OFFER_SHARED : 0);
    atomic_store(&sock->token, message.offer.token);
    sock->offer_link = conn.number;
    atomic_store(&sock->offer, OFFER_MADE);
    if (send_message(&message, &fd, 1))
        return true;
    atomic_store(&sock->offer, OFFER_NONE);
    return false;
}

static bool threshold_reached(const struct sock *sock, const struct board *board)
{
    uint64_t calls = atomic_load_explicit(&sock->calls, memory_order_relaxed);
    uint64_t bytes = atomic_load_explicit(&sock->bytes, memory_order_relaxed);
    if (!board)
        return calls >= DEFAULT_AFTER_CALLS || bytes >= DEFAULT_AFTER_BYTES;
    return atomic_load_explicit(&board->upgrade_enabled, memory_order_relaxed) &&
           (calls >= atomic_load_explicit(&board->after_calls, memory_order_relaxed) ||
            bytes >= atomic_load_explicit(&board->after_bytes, memory_order_relaxed));
}

// Does stdio use the descriptor? Then it may do so again, out of sight.
static bool used_by_stdio(int fd)
{
    FILE *files[] = {stdin, stdout, stderr};
    bool used = false;
    for (size_t i = 0; i < sizeof files / sizeof *files && fd <= STDERR_FILENO; i++)
        used |= files[i] && fileno_unlocked(files[i]) == fd && __fbufsize(files[i]) > 0;
    return used;
}

// May this socket be offered now, as far as earlier answers go? Asked without the lock, by calls that will mostly be told
// no: each word is atomic, and what they say together may be out of date. Then it is asked once more, with the lock, under
// which all of it is written.
static bool open_to_offer(const struct sock *sock, const struct board *board)
{
    uint32_t state = atomic_load_explicit(&sock->offer, memory_order_relaxed);
    uint32_t link = atomic_load_explicit(&sock->offer_link, memory_order_relaxed);
    if (sock->mapped || sock_pinned(sock))
        return false;
    if (sock->not_before && coarse_now() < sock->not_before)
        return false;
    if (state == OFFER_NONE || link != atomic_load_explicit(&conn.number, memory_order_relaxed))
        return true;
    return state == OFFER_REFUSED && board &&
           atomic_load_explicit(&sock->refused_policy, memory_order_relaxed) !=
               atomic_load_explicit(&board->policy_generation, memory_order_relaxed);
}

static void offer_unless_seen_elsewhere(struct sock *sock, int fd)
{
    if (used_by_stdio(fd))
        sock_pin(sock, "stdio uses it");
    else
        offer(sock, fd, 0);
}

void agent_link_visit(struct sock *sock, int fd)
{
    uint64_t calls = atomic_load_explicit(&sock->calls, memory_order_relaxed) + 1;
    atomic_store_explicit(&sock->calls, calls, memory_order_relaxed);
    // One that was refused has nothing to expect but another policy: that may wait for a few calls.
    if (atomic_load_explicit(&sock->offer, memory_order_relaxed) == OFFER_REFUSED && calls % 16)
        return;
    const struct board *board = atomic_load_explicit(&conn.board, memory_order_acquire);
    bool first = !board && conn.fd < 0;
    bool mail = has_mail();
    bool wanted = threshold_reached(sock, board) && open_to_offer(sock, board);
    if (__builtin_expect(!first && !mail && !wanted, 1))
        return;
    int saved = errno;
    // Without an agent, every call would come here: the coarse clock decides whether it is time to try again.
    if ((mail || conn.fd >= 0 || coarse_now() >= conn.retry_at) && lock_try(&conn.lock)) {
        if (connected()) {
            read_mail();
            if (wanted && conn.fd >= 0 && open_to_offer(sock, conn.board) && threshold_reached(sock, conn.board))
                offer_unless_seen_elsewhere(sock, fd);
        }
        lock_leave(&conn.lock);
    }
    errno = saved;
}

#define LOOK_EVERY  100000000ull // ns
#define SLEEP_MOST  500000000ull // ns
#define HANGS_AFTER 2000ull      // ms

// An agent that has not been at work for so long cannot be counted on. It may be that it has only been kept from it: then
// connections will come back to it.
static bool agent_hangs(uint64_t now)
{
    uint64_t beat = atomic_load_explicit(&conn.board->beat, memory_order_relaxed);
    return beat && now / 1000000 > beat + HANGS_AFTER;
}

// As read_mail, if there is a connection; an end of it has no mail to announce it.
static void look(void)
{
    if (connected())
        read_mail();
}

void agent_link_look(void)
{
    uint64_t now = coarse_now();
    if (now < atomic_load_explicit(&conn.look_at, memory_order_relaxed) || !conn.board)
        return;
    atomic_store_explicit(&conn.look_at, now + LOOK_EVERY, memory_order_relaxed);
    int saved = errno;
    uint32_t recalls = atomic_load(&conn.board->recalls);
    if (atomic_exchange(&conn.recalls_seen, recalls) != recalls)
        leave_mind_all();
    // Again and again: what it sent before it hung may only be read now.
    if (agent_hangs(now))
        leave_far(true);
    if (lock_try(&conn.lock)) {
        look();
        lock_leave(&conn.lock);
    }
    errno = saved;
}

uint64_t agent_link_sleep_until(uint64_t deadline)
{
    const struct board *board = atomic_load_explicit(&conn.board, memory_order_acquire);
    if (!board || !atomic_load_explicit(&board->beat, memory_order_relaxed))
        return deadline;
    uint64_t until = nest_now() + SLEEP_MOST;
    return deadline && deadline < until ? deadline : until;
}

void agent_link_expect(void)
{
    if (conn.board || conn.fd >= 0 || proc_disabled() || coarse_now() < conn.retry_at)
        return;
    int saved = errno;
    if (lock_try(&conn.lock)) {
        connected();
        lock_leave(&conn.lock);
    }
    errno = saved;
}

uint32_t agent_link_wake_ns(void)
{
    const struct board *board = atomic_load_explicit(&conn.board, memory_order_acquire);
    return board ? atomic_load_explicit(&board->wake_ns, memory_order_relaxed) : 0;
}

static void wait_for_mail(int milliseconds)
{
    struct pollfd poll = {.fd = conn.fd, .events = POLLIN};
    struct timespec timeout = {0, milliseconds * 1000000l};
    sys_ppoll(&poll, 1, &timeout);
}

#define ADOPT_PATIENCE 1000000000ull

bool agent_link_adopt(struct sock *sock, int fd)
{
    uint64_t until = nest_now() + ADOPT_PATIENCE;
    if (!lock_enter(&conn.lock))
        return sock->attached;
    if (connected() && !sock->mapped && offer(sock, fd, WIRE_OFFER_ADOPT)) {
        while (conn.fd >= 0 && atomic_load(&sock->offer) == OFFER_MADE && nest_now() < until) {
            wait_for_mail(50);
            read_mail();
        }
        // Not to be refused for good: it may be offered as any other when the time comes.
        if (!sock->attached)
            atomic_store(&sock->offer, OFFER_NONE);
    }
    lock_leave(&conn.lock);
    return sock->attached;
}

// How long (ns) a connection that left a ring stays TCP at least: doubled each time, so that nothing thrashes, unless it
// was in the ring for long. A new agent is another matter.
#define HOLD_OFF_LEAST  100000000ull
#define HOLD_OFF_DOUBLE 7u
#define LONG_IN_RING    10000000000ull

static uint64_t hold_off(struct sock *sock)
{
    const struct board *board = conn.board;
    if (board && board->instance != sock->session.end->instance)
        return 0;
    uint64_t now = coarse_now();
    uint32_t times = now - sock->attached_at > LONG_IN_RING ? 0 : sock->held_off;
    sock->held_off = times < HOLD_OFF_DOUBLE ? times + 1 : times;
    return now + (HOLD_OFF_LEAST << times);
}

// Left unsaid if the connection is busy: the end memory says it too.
void agent_link_left(struct sock *sock)
{
    union wire_message message;
    const struct board *board = conn.board;
    sock->not_before = hold_off(sock);
    atomic_store(&sock->offer, OFFER_NONE);
    atomic_store_explicit(&sock->calls, 0, memory_order_relaxed);
    atomic_store_explicit(&sock->bytes, 0, memory_order_relaxed);
    if (!board || board->instance != sock->session.end->instance || !lock_try(&conn.lock))
        return;
    wire_begin(&message, WIRE_LEFT);
    message.left.session = sock->session.id;
    if (conn.fd >= 0 && conn.greeted)
        send_message(&message, NULL, 0);
    lock_leave(&conn.lock);
}

bool agent_link_keep(struct sock *sock, int fd, uint32_t flags)
{
    union wire_message message;
    bool kept = false;
    wire_begin(&message, WIRE_KEEP);
    message.keep.session = sock->session.id;
    message.keep.flags = flags;
    if (!lock_enter(&conn.lock))
        return false;
    // A forked child may be the first to speak since, and its board its parent's: only the lifeline tells a later agent
    // from the one that knows the session.
    if (connected() && !session_agent_is_gone(sock))
        kept = send_message(&message, &fd, 1);
    lock_leave(&conn.lock);
    return kept;
}

void agent_link_withdraw(struct sock *sock, enum wire_reason reason)
{
    if (reason)
        agent_link_count(reason);
    if (atomic_load(&sock->offer) != OFFER_MADE || sock->offer_link != conn.number || conn.fd < 0)
        return;
    // Within a call that holds the lock already, or a signal handler that interrupted one, it is left unsaid: the agent
    // tells a stale offer by the socket's cookie, or by our DECLINE.
    int saved = errno;
    if (!lock_enter(&conn.lock))
        return;
    if (conn.fd >= 0) {
        union wire_message message;
        wire_begin(&message, WIRE_WITHDRAW);
        message.withdraw.token = sock->token;
        message.withdraw.reason = reason;
        send_message(&message, NULL, 0);
    }
    atomic_store(&sock->offer, OFFER_NONE);
    lock_leave(&conn.lock);
    errno = saved;
}

void agent_link_count(enum wire_reason reason)
{
    if (!lock_try(&conn.lock))
        return;
    count(reason);
    if (conn.fd >= 0 && conn.greeted)
        report_counts();
    lock_leave(&conn.lock);
}

// --- rate ---

void agent_link_pace(struct sock *sock, size_t size)
{
    const struct board *board = atomic_load_explicit(&conn.board, memory_order_acquire);
    uint64_t rate = board ? atomic_load_explicit(&board->rate_bytes_per_s, memory_order_relaxed) : 0;
    // Between hosts it is the agent that sends, and keeps to it.
    if (__builtin_expect(!rate, 1) || session_is_far(sock))
        return;
    // `paid_until` is when all that was sent so far may have been sent. A tenth of a second may be saved up.
    uint64_t now = nest_now();
    uint64_t paid = atomic_load_explicit(&sock->paid_until, memory_order_relaxed);
    paid = paid + 100000000u < now ? now - 100000000u : paid;
    if (paid > now) {
        struct timespec wait = {(time_t)((paid - now) / 1000000000u), (long)((paid - now) % 1000000000u)};
        sys_ppoll(NULL, 0, &wait);
    }
    atomic_store_explicit(&sock->paid_until, paid + (uint64_t)((double)size * 1e9 / (double)rate),
                          memory_order_relaxed);
}
