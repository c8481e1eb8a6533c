#include "preload/wait.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "core/sys.h"
#include "core/yields.h"
#include "preload/agent_link.h"
#include "preload/leave.h"
#include "preload/session.h"

// Bounds of the budget. The upper one covers PostgreSQL, whose clients wait for 25 to 40 us; a wait that the other side
// needs much longer for than that is better slept through.
#define BUDGET_MOST  50000u
#define BUDGET_LEAST 1000u

// A sleep that ended this soon might not have been one, had both sides looked: waking up twice takes about 50 us.
#define SOON 120000u

// Misses in a row after which a wait is not begun with looking any more, but for every PROBE-th.
#define MISSES_MOST 6u
#define PROBE       32u

int wait_pauses(void)
{
    static _Atomic int known;
    int pauses = atomic_load_explicit(&known, memory_order_relaxed);
    if (__builtin_expect(pauses, 1))
        return pauses;
    enum { TRIES = 256, WANTED_NS = 500, LEAST = 1, MOST = 128 };
    uint64_t began = nest_now();
    for (int i = 0; i < TRIES; i++)
        wait_pause();
    uint64_t ns = nest_now() - began;
    pauses = ns ? (int)(WANTED_NS * TRIES / ns) : MOST;
    pauses = pauses < LEAST ? LEAST : pauses > MOST ? MOST : pauses;
    atomic_store_explicit(&known, pauses, memory_order_relaxed);
    return pauses;
}

// --- giving the CPU away ---

// A pause that took longer than this was one in which the CPU was taken away: somebody of our own priority wants it, and
// looking keeps it from him. Then waits sleep at once, for so long (ns).
#define TAKEN_AWAY  200000u
#define CROWDED_FOR 100000000u

static _Atomic uint64_t crowded_until;
static struct yields yields; // of the whole process

// Times that a thread takes to wake up: an answer for which two agents, twice, and the other program have to.
#define FAR_WAKES 16u
#define FAR_MOST  2000000u

void patience_far(struct patience *patience, uint32_t wake_ns)
{
    uint32_t most = wake_ns > FAR_MOST / FAR_WAKES ? FAR_MOST : FAR_WAKES * wake_ns;
    most = most < BUDGET_MOST ? BUDGET_MOST : most;
    atomic_store_explicit(&patience->far_ns, most, memory_order_relaxed);
    atomic_store_explicit(&patience->budget_ns, most, memory_order_relaxed);
    atomic_store_explicit(&patience->misses, 0, memory_order_relaxed);
}

uint32_t patience_budget(struct patience *patience, uint64_t now)
{
    if (now < atomic_load_explicit(&crowded_until, memory_order_relaxed))
        return 0;
    // The agent may need this CPU: looking without yielding would keep it from it.
    if (atomic_load_explicit(&patience->far_ns, memory_order_relaxed) && yields_avoided(&yields, now))
        return 0;
    uint32_t misses = atomic_load_explicit(&patience->misses, memory_order_relaxed);
    if (misses > MISSES_MOST && misses % PROBE)
        return 0;
    return atomic_load_explicit(&patience->budget_ns, memory_order_relaxed);
}

void patience_learn(struct patience *patience, uint64_t ns, bool slept)
{
    uint32_t budget = atomic_load_explicit(&patience->budget_ns, memory_order_relaxed);
    uint32_t misses = atomic_load_explicit(&patience->misses, memory_order_relaxed);
    uint32_t far = atomic_load_explicit(&patience->far_ns, memory_order_relaxed);
    uint32_t most = far ? far : BUDGET_MOST, soon = far ? 3 * far : SOON;
    if (!slept) {
        misses = 0;
        uint32_t wanted = 2 * (uint32_t)ns + BUDGET_LEAST;
        budget = wanted > budget ? wanted : budget - (budget - wanted) / 8;
    } else if (ns < soon) {
        // All may be asleep by turns, each waiting for the others to wake up: look longer, unless that did not help.
        misses = far ? 0 : misses + 1;
        budget = most;
    } else {
        misses++;
        budget -= budget / 4;
    }
    budget = budget > most ? most : budget < BUDGET_LEAST ? BUDGET_LEAST : budget;
    atomic_store_explicit(&patience->budget_ns, budget, memory_order_relaxed);
    atomic_store_explicit(&patience->misses, misses, memory_order_relaxed);
}

uint64_t wait_between_looks(uint64_t now, bool shares_cpu)
{
    if (yields_avoided(&yields, now) && !shares_cpu) {
        for (int i = wait_pauses(); i > 0; i--)
            wait_pause();
        uint64_t after = nest_now();
        if (after - now > TAKEN_AWAY)
            atomic_store_explicit(&crowded_until, after + CROWDED_FOR, memory_order_relaxed);
        return after;
    }
    sys_sched_yield();
    uint64_t after = nest_now();
    yields_note(&yields, after, after - now);
    return after;
}

// --- waiting for one ring ---

struct wait {
    struct sock *sock;
    int fd;
    enum wait_for what;
    uint64_t least;
};

static bool tcp_ready(const struct wait *wait)
{
    struct pollfd poll = {.fd = sock_fd(wait->sock, wait->fd), .events = POLLIN | POLLRDHUP};
    struct timespec none = {0, 0};
    if (sys_ppoll(&poll, 1, &none) <= 0)
        return false;
    // An end that is early (see tcp.h) is not waited for: its announcement rings the bell.
    int queued = 1;
    if ((poll.revents & POLLRDHUP) && !(poll.revents & POLLERR) && session_is_far(wait->sock) &&
        !atomic_load_explicit(&wait->sock->session.rx.shared->tx_closed, memory_order_acquire))
        sys_ioctl(poll.fd, FIONREAD, &queued);
    return queued > 0;
}

// The ring is frozen: while it is sent again, TCP tells of what there is; otherwise that is over, or about to be.
static bool frozen_there(const struct wait *wait)
{
    return wait->what == WAIT_READ ? !leave_rx_under_way(wait->sock) : !leave_tx_under_way(wait->sock);
}

// Something to be looked at: bytes or room, a protocol error, or news on the TCP connection.
static bool there(const struct wait *wait)
{
    struct session *session = &wait->sock->session;
    if (atomic_load_explicit(&wait->sock->tcp_event, memory_order_acquire))
        return true;
    int64_t n = wait->what == WAIT_READ ? ring_ready_fresh(&session->rx) : ring_room(&session->tx);
    if ((n < 0 && n != -ESTALE) || leave_tx_due(wait->sock, wait->fd) ||
        (n == 0 && wait->what == WAIT_READ && (leave_rx_due(wait->sock) || atomic_load(&wait->sock->repeat_due))))
        return true;
    if (n == -ESTALE)
        return frozen_there(wait);
    if (wait->what == WAIT_READ)
        return (uint64_t)n >= wait->least ||
               (n > 0 && atomic_load_explicit(&wait->sock->rx_way, memory_order_relaxed) == WAY_WATCH);
    return (uint64_t)n >= ring_room_wanted(&session->tx) ||
           atomic_load_explicit(&session->tx.shared->rx_closed, memory_order_acquire);
}

// While TCP may still carry data, the kernel is asked too, between yields.
static bool there_or_tcp(const struct wait *wait)
{
    if (there(wait))
        return true;
    return wait->what == WAIT_READ &&
           (atomic_load_explicit(&wait->sock->rx_way, memory_order_relaxed) == WAY_WATCH ||
            leave_rx_under_way(wait->sock)) &&
           tcp_ready(wait);
}

static bool look_briefly(const struct wait *wait)
{
    for (int i = wait_pauses(); i > 0; i--) {
        if (there(wait))
            return true;
        wait_pause();
    }
    return false;
}

static bool look_until(const struct wait *wait, uint64_t now, uint64_t until)
{
    do {
        if (there_or_tcp(wait))
            return true;
        now = wait_between_looks(now, wait_shares_cpu(wait->sock));
    } while (now < until);
    return there_or_tcp(wait);
}

// Declares sleep, and looks once more: see ring.h.
static bool arm_and_look(const struct wait *wait)
{
    if (wait->what == WAIT_READ) {
        ring_rx_republish(&wait->sock->session.rx);
        ring_rx_arm(&wait->sock->session.rx);
    } else {
        ring_tx_arm(&wait->sock->session.tx);
    }
    return there_or_tcp(wait);
}

static int sleep_for(const struct wait *wait, uint64_t deadline, bool interruptible, const nest_mask *mask)
{
    int result = nest_add(wait->sock, wait->fd);
    if (result < 0)
        return nest_do_without(deadline, interruptible, mask);
    if (arm_and_look(wait))
        return 0;
    struct end_shared *end = wait->sock->session.end;
    atomic_store_explicit(&end->sleeps, atomic_load_explicit(&end->sleeps, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    return nest_sleep(deadline, interruptible, mask);
}

// One that receives and receives, and sends nothing, is at the end of a stream. Looking at every cache line as it is
// written keeps taking it away from the writer, and both become slow: give it time to write some more, and the more time
// the longer little has come of it at once. This delays what would be a first byte by some microseconds at the most.
#define GATHER_MOST   8 // times half a microsecond
#define GATHER_ENOUGH 8192

static void pause_for(unsigned times)
{
    for (int i = wait_pauses() * (int)times; i > 0; i--)
        wait_pause();
}

static void let_stream_gather(struct sock *sock)
{
    uint64_t sent = atomic_load_explicit(&sock->session.end->tx_calls, memory_order_relaxed);
    bool only_receives = sent == atomic_load_explicit(&sock->tx_calls_seen, memory_order_relaxed);
    unsigned times = atomic_load_explicit(&sock->gather, memory_order_relaxed);
    atomic_store_explicit(&sock->tx_calls_seen, sent, memory_order_relaxed);
    if (!only_receives || !atomic_load_explicit(&sock->waited_briefly, memory_order_relaxed)) {
        atomic_store_explicit(&sock->gather, 1, memory_order_relaxed);
        return;
    }
    pause_for(times);
    int64_t came = ring_ready_fresh(&sock->session.rx);
    times = came <= 0 ? 1 : came < GATHER_ENOUGH ? times * 2 : times;
    atomic_store_explicit(&sock->gather, (uint8_t)(times > GATHER_MOST ? GATHER_MOST : times), memory_order_relaxed);
}

static bool look_briefly_at(struct sock *sock, const struct wait *wait)
{
    if (wait_shares_cpu(sock))
        return false;
    if (wait->what == WAIT_READ)
        let_stream_gather(sock);
    bool found = look_briefly(wait);
    atomic_store_explicit(&sock->waited_briefly, found, memory_order_relaxed);
    return found;
}

static void hold_signals(struct waiting *waiting, uint64_t now)
{
    if (!waiting->held)
        nest_block_handled(&waiting->before, now);
    waiting->held = true;
}

void wait_done(struct waiting *waiting)
{
    if (waiting->held)
        nest_restore_signals(&waiting->before);
    waiting->held = false;
}

int wait_over(struct waiting *waiting, bool interruptible)
{
    int result = waiting->held ? nest_hear_signals(interruptible, &waiting->before) : 0;
    wait_done(waiting);
    return result;
}

// Looks for as long as it may pay, then sleeps. Signals are held back.
static int look_or_sleep(const struct wait *wait, struct patience *patience, struct waiting *waiting, uint64_t began,
                         bool interruptible, bool *slept)
{
    uint32_t budget = wait_shares_cpu(wait->sock) ? 0 : patience_budget(patience, began);
    uint64_t deadline = waiting->deadline, until = began + budget;
    if (deadline && until > deadline)
        until = deadline;
    *slept = !(budget && look_until(wait, began, until));
    return *slept ? sleep_for(wait, deadline, interruptible, &waiting->before) : 0;
}

int wait_ring(struct sock *sock, int fd, enum wait_for what, uint64_t least, struct waiting *waiting,
              bool interruptible)
{
    struct wait wait = {.sock = sock,
                        .fd = fd,
                        .what = what,
                        .least = least < sock->session.rx.size / 2 ? least : sock->session.rx.size / 2};
    int result = waiting->held ? nest_hear_signals(interruptible, &waiting->before) : 0;
    if (result || look_briefly_at(sock, &wait))
        return result;
    pthread_testcancel();
    agent_link_look();
    bool slept, held = waiting->held;
    uint64_t began = nest_now();
    hold_signals(waiting, began);
    struct patience *patience = what == WAIT_READ ? &sock->rx_patience : &sock->tx_patience;
    result = look_or_sleep(&wait, patience, waiting, began, interruptible, &slept);
    if (result == 0)
        patience_learn(patience, nest_now() - began, slept);
    if (!slept && !held)
        wait_done(waiting);
    return result;
}
