#include "preload/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/calls.h"
#include "preload/epset.h"
#include "preload/lock.h"
#include "preload/session.h"

#define SLAB_CHUNK 256
#define SLAB_MOST  (FDTAB_MAX / SLAB_CHUNK)
#define NO_PLACE   UINT32_MAX

static struct {
    struct lock lock; // held with signals held back, since a handler may close, too
    _Atomic(struct sock *) chunk[SLAB_MOST];
    uint32_t chunks;
    uint32_t free;
} slab = {.free = NO_PLACE};

struct sock *sock_at(uint32_t index)
{
    if (index / SLAB_CHUNK >= SLAB_MOST)
        return NULL;
    struct sock *chunk = atomic_load_explicit(&slab.chunk[index / SLAB_CHUNK], memory_order_acquire);
    return chunk ? &chunk[index % SLAB_CHUNK] : NULL;
}

static bool grow_slab(void)
{
    if (slab.chunks == SLAB_MOST)
        return false;
    struct sock *chunk =
        mmap(NULL, SLAB_CHUNK * sizeof *chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (chunk == MAP_FAILED)
        return false;
    for (uint32_t i = 0; i < SLAB_CHUNK; i++) {
        chunk[i].index = slab.chunks * SLAB_CHUNK + i;
        chunk[i].next_free = i + 1 < SLAB_CHUNK ? chunk[i].index + 1 : slab.free;
    }
    // In this order: another thread may fork in between.
    atomic_store_explicit(&slab.chunk[slab.chunks], chunk, memory_order_release);
    slab.free = slab.chunks++ * SLAB_CHUNK;
    return true;
}

static struct sock *take_place(void)
{
    struct lock_guarded guarded = lock_guard(&slab.lock);
    struct sock *sock = NULL;
    if (slab.free != NO_PLACE || grow_slab()) {
        sock = sock_at(slab.free);
        slab.free = sock->next_free;
    }
    lock_unguard(&slab.lock, &guarded);
    return sock;
}

static void give_place(struct sock *sock)
{
    struct lock_guarded guarded = lock_guard(&slab.lock);
    sock->next_free = slab.free;
    slab.free = sock->index;
    lock_unguard(&slab.lock, &guarded);
}

static struct sock *sock_new(void)
{
    struct sock *sock = take_place();
    if (!sock)
        return NULL;
    *sock = (struct sock){.index = sock->index,
                          .generation = sock->generation + 1,
                          .tidy_next = sock->tidy_next,
                          .tidy_queued = sock->tidy_queued,
                          .share = share_new()};
    if (!sock->share) {
        give_place(sock);
        return NULL;
    }
    sock->rx_patience.budget_ns = sock->tx_patience.budget_ns = 20000;
    sock->share->receive_low = 1;
    atomic_store_explicit(&sock->refs, 1, memory_order_release);
    return sock;
}

void sock_drop_last(struct sock *sock)
{
    int saved = errno;
    atomic_fetch_add_explicit(&sock->generation, 1, memory_order_acq_rel);
    if (!epset_sock_gone(sock)) {
        errno = saved;
        return;
    }
    agent_link_withdraw(sock, WIRE_REASON_NONE);
    int own = atomic_load(&sock->stand_in) - 1;
    if (own >= 0 && sock->attached)
        session_last_close(sock, own);
    proc_close_own_fd(own);
    if (sock->mapped)
        session_unmap(sock);
    share_free(sock->share);
    give_place(sock);
    errno = saved;
}

// Adds a reference unless the object is free.
bool sock_try_hold(struct sock *sock)
{
    uint32_t refs = atomic_load_explicit(&sock->refs, memory_order_acquire);
    while (refs) {
        // seq_cst, before any look at the session: pairs with let_go in leave.c.
        if (sock_count_if(&sock->refs, &refs, refs + 1))
            return true;
    }
    return false;
}

struct sock *sock_hold_slow(int fd, uintptr_t entry)
{
    // Between our look at the table and the reference, another thread or a signal handler may have closed the
    // descriptor, and the object may have become another socket.
    while (fdtab_kind(entry) == FD_SOCK) {
        struct sock *sock = fdtab_object(entry);
        bool held = sock_try_hold(sock);
        uintptr_t now = fdtab_get(fd);
        if (held && now == entry)
            return sock;
        if (held)
            sock_drop(sock);
        entry = now;
    }
    return NULL;
}

struct sock *sock_find(uint32_t index, uint32_t generation)
{
    struct sock *sock = sock_at(index);
    if (!sock || !sock_try_hold(sock))
        return NULL;
    if (atomic_load_explicit(&sock->generation, memory_order_acquire) == generation)
        return sock;
    sock_drop(sock);
    return NULL;
}

static void drop_from_table(struct sock *sock)
{
    atomic_fetch_sub(&sock->fds, 1);
    sock_drop(sock);
}

// Whatever stood at `fd` in the table is gone from the kernel: it was closed where we did not see it.
static void replace(int fd, enum fd_kind kind, void *object)
{
    if (kind == FD_SOCK)
        atomic_fetch_add(&((struct sock *)object)->fds, 1);
    uintptr_t before = fdtab_set(fd, kind, object);
    if (before == FDTAB_FAILED) {
        if (kind == FD_SOCK)
            drop_from_table(object);
    } else if (fdtab_kind(before) == FD_SOCK) {
        drop_from_table(fdtab_object(before));
    } else if (fdtab_kind(before) == FD_EPOLL) {
        epset_drop(fdtab_object(before));
    }
}

void sock_made(int fd, bool nonblocking)
{
    if (proc_disabled() || !proc_owns_memory())
        return;
    struct sock *sock = sock_new();
    if (!sock) {
        replace(fd, FD_PLAIN, NULL);
        return;
    }
    sock->share->nonblocking = nonblocking;
    replace(fd, FD_SOCK, sock);
}

// What the kernel copies from a listener, of what a ring must know.
static void copy_options(struct share *to, const struct share *from)
{
    to->receive_low = atomic_load(&from->receive_low);
    to->receive_timeout = atomic_load(&from->receive_timeout);
    to->send_timeout = atomic_load(&from->send_timeout);
    to->pinned = to->pinning_option = atomic_load(&from->pinning_option);
}

void sock_accepted(int listener, int fd, bool nonblocking)
{
    struct sock *from = sock_hold(listener);
    sock_made(fd, nonblocking);
    struct sock *sock = from ? sock_hold(fd) : NULL;
    if (sock) {
        copy_options(sock->share, from->share);
        sock_drop(sock);
    }
    if (from)
        sock_drop(from);
}

static bool is_tcp(int fd)
{
    int protocol = 0;
    uint32_t size = sizeof protocol;
    return sys_getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == IPPROTO_TCP;
}

static uint64_t cookie_of(int fd)
{
    uint64_t cookie = 0;
    uint32_t size = sizeof cookie;
    sys_getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size);
    return cookie;
}

void sock_inherited(int fd)
{
    uint64_t cookie = is_tcp(fd) ? cookie_of(fd) : 0;
    for (int other = cookie ? fdtab_next(0) : -1; other >= 0; other = fdtab_next(other + 1)) {
        uintptr_t entry = fdtab_get(other);
        if (fdtab_kind(entry) == FD_SOCK && ((struct sock *)fdtab_object(entry))->cookie == cookie) {
            sock_duplicated(other, fd);
            return;
        }
    }
    sock_found(fd, SOCK_INHERITED);
}

void sock_found(int fd, enum sock_flags flags)
{
    if (proc_disabled() || !is_tcp(fd) || !proc_owns_memory())
        return;
    struct sock *sock = sock_new();
    if (!sock)
        return;
    sock->flags = flags;
    sock->cookie = cookie_of(fd);
    sock->share->nonblocking = (sys_fcntl(fd, F_GETFL, 0) & O_NONBLOCK) != 0;
    session_read_options(sock, fd);
    replace(fd, FD_SOCK, sock);
}

void sock_duplicated(int from, int to)
{
    uintptr_t entry = fdtab_get(from);
    if (fdtab_kind(entry) == FD_SOCK) {
        struct sock *sock = sock_hold(from);
        if (sock)
            replace(to, FD_SOCK, sock);
    } else if (fdtab_kind(entry) == FD_EPOLL) {
        epset_hold(fdtab_object(entry));
        replace(to, FD_EPOLL, fdtab_object(entry));
    }
}

int sock_descriptor(const struct sock *sock)
{
    int fd = fdtab_next(0);
    while (fd >= 0 && fdtab_get(fd) != ((uintptr_t)sock | FD_SOCK))
        fd = fdtab_next(fd + 1);
    return fd;
}

// Or with a reset: one that was asked for, or because there is something that nobody has read.
static bool ends_with_fin(int fd)
{
    struct linger linger = {0, 0};
    uint32_t size = sizeof linger;
    int unread = 0;
    return sys_getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && !linger.l_onoff &&
           sys_ioctl(fd, FIONREAD, &unread) == 0 && unread == 0;
}

// What the agent was sent is another holder of the socket, until the agent has let go of it; which takes long if it
// hangs. Meanwhile the socket shall look closed to all others: its end is sent, and epoll does not tell of it.
static void last_descriptor_closing(struct sock *sock, int fd)
{
    if (share_forked(sock->share) || !(sock->attached || atomic_load(&sock->token)))
        return;
    epset_sock_closing(sock);
    bool offered = atomic_load(&sock->offer) == OFFER_MADE && !sock->attached;
    if (offered && !atomic_load(&sock->share->passed) && !(sock->flags & SOCK_INHERITED) && ends_with_fin(fd))
        sys_call(SYS_shutdown, fd, SHUT_RDWR);
}

void sock_closing(int fd, uint32_t held)
{
    uintptr_t entry = fdtab_get(fd);
    enum fd_kind kind = fdtab_kind(entry);
    if (kind == FD_PLAIN || kind == FD_OWN || !proc_owns_memory())
        return;
    if (!fdtab_clear(fd, entry))
        return;
    if (kind == FD_EPOLL) {
        epset_epfd_gone(fdtab_object(entry), fd);
        epset_drop(fdtab_object(entry));
        return;
    }
    struct sock *sock = fdtab_object(entry);
    if (atomic_load(&sock->fds) > 1)
        epset_fd_gone(sock, fd);
    else
        last_descriptor_closing(sock, fd);
    // The only other reference left is the one that the table had: this is the last close in the process.
    bool last = atomic_load_explicit(&sock->refs, memory_order_acquire) == held + 1;
    if (sock->attached && last)
        session_last_close(sock, fd);
    else if (sock->attached && sock_descriptor(sock) < 0)
        atomic_store(&sock->stand_in, proc_own_fd(sys_fcntl(fd, F_DUPFD_CLOEXEC, 0)) + 1);
    drop_from_table(sock);
}

bool sock_pin(struct sock *sock, const char *why)
{
    if (sock_in_ring(sock))
        return false;
    if (!atomic_exchange(&sock->share->pinned, 1)) {
        proc_debug("a socket stays TCP: %s", why);
        agent_link_withdraw(sock, WIRE_REASON_PINNED);
    }
    return true;
}

static bool move_if(_Atomic int *place, int from, int to)
{
    return atomic_compare_exchange_strong(place, &from, to);
}

bool sock_own_fd_moved(int from, int to)
{
    for (uint32_t i = 0; i < slab.chunks * SLAB_CHUNK; i++) {
        struct sock *sock = sock_at(i);
        if (sock->refs && sock->attached &&
            (move_if(&sock->session.bell, from, to) || move_if(&sock->session.peer_bell, from, to) ||
             move_if(&sock->session.lifeline, from, to)))
            return true;
    }
    return false;
}

// The references of our parent's other threads are nobody's here: what counts is what stands in the table.
static void count_references(void)
{
    for (uint32_t i = 0; i < slab.chunks * SLAB_CHUNK; i++) {
        struct sock *sock = sock_at(i);
        if (sock->refs)
            sock->refs = 1;
        sock->fds = 0;
        sock->tidying = 0;
    }
    for (int fd = fdtab_next(0); fd >= 0; fd = fdtab_next(fd + 1)) {
        uintptr_t entry = fdtab_get(fd);
        if (fdtab_kind(entry) != FD_SOCK)
            continue;
        ((struct sock *)fdtab_object(entry))->refs++;
        ((struct sock *)fdtab_object(entry))->fds++;
    }
    calls_count_again();
    for (uint32_t i = 0; i < slab.chunks * SLAB_CHUNK; i++) {
        struct sock *sock = sock_at(i);
        if (sock->refs)
            sock_drop(sock);
    }
}

void sock_forked(void)
{
    slab.lock = (struct lock){0};
    share_after_fork();
    // Should the fork have been made out of our sight: the mark is in shared memory, for the parent too.
    share_before_fork();
    count_references();
}
