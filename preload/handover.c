#include "preload/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "core/sys.h"
#include "preload/export.h"
#include "preload/leave.h"
#include "preload/nest.h"
#include "preload/resend.h"
#include "preload/session.h"

// As long as a direction may take (ms) that needs the other end, or room in TCP.
#define HANDOVER_PATIENCE 10000

// As long as other ends are waited for (ms) when they can also come later: until then nothing but their own lives keeps
// what they have in the ring.
#define PEER_PATIENCE 200

static void nap(void)
{
    struct timespec a_while = {0, 1000000};
    sys_ppoll(NULL, 0, &a_while);
}

// --- receiving ---

// The producer had begun before we asked: it drains, or repeats behind a record. Under rx_lock. True when what TCP has
// is the rest of the stream.
static bool see_to_the_end(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    if (ring_rx_left(&session->rx) > 0)
        return true;
    if (atomic_load(&session->end->rx_way) == WAY_WATCH && session_rx_settle(sock, fd) != 0)
        return atomic_load(&session->end->rx_way) == WAY_LEFT;
    if (!leave_rx_under_way(sock) && !resend_found(sock, fd))
        return false;
    int64_t rest = resend_rest(sock, fd);
    return rest >= 0;
}

static bool ask_for_bare(struct sock *sock)
{
    struct session *session = &sock->session;
    ring_rx_freeze(&session->rx);
    return !session_is_far(sock) && ring_ask_to_leave(session_ring_in(session), LEAVE_BARE);
}

// One try. True when the direction is TCP's.
static bool receive_by_tcp(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    if (!session_lock(session->end->rx_lock))
        return false;
    uint32_t way = atomic_load(&session->end->rx_way);
    bool left = way == WAY_LEFT;
    if (!left && ((way != WAY_BACK && ask_for_bare(sock)) || way == WAY_TCP || see_to_the_end(sock, fd))) {
        leave_rx_now(sock);
        left = true;
    }
    session_unlock(session->end->rx_lock);
    return left;
}

// --- both ---

static bool send_by_tcp(struct sock *sock, int fd)
{
    return atomic_load(&sock->session.end->tx_way) == WAY_LEFT || leave_tx(sock, fd);
}

// TCP bears so much, also if the other end reads nothing.
#define SURELY_FITS (128u << 10)

// What the other end has not read yet is sent again, rather than left in the ring: it may be about to be handed over, too,
// to somebody who cannot read it there.
static void ask_both(struct sock *sock)
{
    const struct session *session = &sock->session;
    bool settled = atomic_load(&session_ring_out(session)->watching) == WATCHING_SETTLED;
    uint64_t unread = ring_tx_unread(&session->tx);
    bool drain = settled && !session_is_far(sock) && (unread == 0 || unread > SURELY_FITS);
    leave_ask(sock, drain ? LEAVE_DRAIN : LEAVE_RESEND);
}

static bool peer_has_left(const struct sock *sock)
{
    const struct session *session = &sock->session;
    uint64_t unread = atomic_load(&session->rx.shared->tail) - atomic_load(&session->rx.shared->head);
    return unread == 0 || atomic_load(&session->rx.shared->left_at) != SWITCH_NOT_YET;
}

// The other end may be in this process, too.
static void let_others_leave(void)
{
    if (proc_owns_memory())
        leave_mind_all();
}

static uint64_t peers_until(void)
{
    return nest_now() + PEER_PATIENCE * 1000000ull;
}

static void wait_for_peer(const struct sock *sock, uint64_t until)
{
    while (!session_is_far(sock) && !peer_has_left(sock) && nest_now() < until) {
        let_others_leave();
        nap();
    }
}

// What is in the ring, and comes behind the FIN, no TCP carries any more.
static bool end_came_first(const struct sock *sock, int fd)
{
    struct pollfd poll = {.fd = fd, .events = POLLRDHUP};
    struct timespec none = {0, 0};
    return !session_is_far(sock) && !peer_has_left(sock) && sys_ppoll(&poll, 1, &none) > 0;
}

static bool go_by_tcp(struct sock *sock, int fd)
{
    uint64_t until = nest_now() + HANDOVER_PATIENCE * 1000000ull;
    // Receiving first: what the other end is asked for when it learns that we have left is not what is wanted.
    bool received = receive_by_tcp(sock, fd);
    ask_both(sock);
    bool sent = send_by_tcp(sock, fd);
    while (!(received && sent) && nest_now() < until) {
        let_others_leave();
        nap();
        received = received || receive_by_tcp(sock, fd);
        sent = sent || send_by_tcp(sock, fd);
    }
    return received && sent;
}

static void reset_connection(int fd)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    sys_call(SYS_connect, fd, &none, sizeof none);
}

static void leave_session(struct sock *sock, int fd, uint64_t until)
{
    if (!atomic_load(&sock->attached))
        return;
    proc_debug("session %llu.%u: is left for somebody who does not see it", (unsigned long long)sock->session.id,
               sock->session.side);
    bool gone = go_by_tcp(sock, fd);
    wait_for_peer(sock, until);
    if (!gone || end_came_first(sock, fd))
        reset_connection(fd);
}

static void hand_over(struct sock *sock, int fd, uint64_t until)
{
    int saved = errno;
    if (sock_unresolved(sock))
        session_resolve(sock, fd);
    sock_pin(sock, "it is used out of sight");
    atomic_store(&sock->share->pinned, 1);
    leave_session(sock, fd, until);
    errno = saved;
}

void handover_to_stranger(struct sock *sock, int fd)
{
    hand_over(sock, fd, peers_until());
}

void handover_to_stdio(int fd)
{
    HELD sock = sock_hold(fd);
    if (!sock)
        return;
    session_resolve(sock, fd);
    leave_session(sock, fd, peers_until());
}

// --- before a program is executed ---

// The other ends of all that a program inherits are waited for together. Should two threads execute programs at once, one
// waits as long as the other.
static _Atomic uint64_t programs_peers_until;

static void give(struct sock *sock, int fd, bool loads_library)
{
    atomic_fetch_add(&sock->share->passed, 1);
    if (!loads_library)
        hand_over(sock, fd, atomic_load(&programs_peers_until));
}

static bool survives_exec(int fd)
{
    int flags = sys_fcntl(fd, F_GETFD, 0);
    return flags >= 0 && !(flags & FD_CLOEXEC);
}

static void give_from_table(bool loads_library, bool given)
{
    for (int fd = fdtab_next(0); fd >= 0; fd = fdtab_next(fd + 1)) {
        struct sock *sock = sock_hold(fd);
        if (!sock)
            continue;
        if (survives_exec(fd) || (given && (sock->flags & SOCK_GIVEN)))
            give(sock, fd, loads_library);
        sock_drop(sock);
    }
}

// "socket:[12345]"; 0 if it is none.
#define FILE_NAME 64

static long name_of(long pid, int fd, char name[static FILE_NAME])
{
    char path[FILE_NAME];
    snprintf(path, sizeof path, "/proc/%ld/fd/%d", pid, fd);
    long n = sys_call(SYS_readlinkat, AT_FDCWD, path, name, FILE_NAME - 1);
    name[n > 0 ? n : 0] = '\0';
    return n > 7 && strncmp(name, "socket:", 7) == 0;
}

static bool is_parents(int fd, const char *name)
{
    char theirs[FILE_NAME];
    return fdtab_kind(fdtab_get(fd)) == FD_SOCK && name_of(sys_call(SYS_getppid), fd, theirs) &&
           strcmp(name, theirs) == 0;
}

// What a descriptor of a vfork child is in the memory that it shares with its parent: the child may have given it another
// number, unseen.
static struct sock *sock_of_parent(int fd)
{
    char name[FILE_NAME];
    if (!name_of(sys_call(SYS_getpid), fd, name))
        return NULL;
    if (is_parents(fd, name))
        return sock_hold(fd);
    for (int theirs = fdtab_next(0); theirs >= 0; theirs = fdtab_next(theirs + 1)) {
        if (is_parents(theirs, name))
            return sock_hold(theirs);
    }
    return NULL;
}

static void give_as_vfork_child(int fd, bool loads_library)
{
    struct sock *sock = survives_exec(fd) ? sock_of_parent(fd) : NULL;
    if (!sock)
        return;
    give(sock, fd, loads_library);
    sock_drop(sock);
}

static void give_to_library(int fd)
{
    give_as_vfork_child(fd, true);
}

static void give_to_stranger(int fd)
{
    give_as_vfork_child(fd, false);
}

void handover_before_program(bool loads_library, enum handover_who who)
{
    int saved = errno;
    if (proc_disabled())
        return;
    atomic_store(&programs_peers_until, peers_until());
    if (proc_owns_memory())
        give_from_table(loads_library, who == HANDOVER_TO_CHILD);
    else
        proc_each_fd(loads_library ? give_to_library : give_to_stranger);
    errno = saved;
}
