#include "preload/epset.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "core/sys.h"
#include "preload/epset_entry.h"
#include "preload/epset_look.h"
#include "preload/epset_own.h"
#include "preload/fdtab.h"
#include "preload/real.h"
#include "preload/sock.h"

// --- references ---

static bool try_ref(struct epset *set)
{
    uint32_t refs = atomic_load_explicit(&set->refs, memory_order_acquire);
    while (refs) {
        if (sock_count_if(&set->refs, &refs, refs + 1))
            return true;
    }
    return false;
}

// As with sockets: between the look at the table and the reference the set may have become another one.
struct epset *epset_find(int epfd)
{
    uintptr_t entry = fdtab_get(epfd);
    while (fdtab_kind(entry) == FD_EPOLL) {
        struct epset *set = fdtab_object(entry);
        bool held = try_ref(set);
        uintptr_t now = fdtab_get(epfd);
        if (held && now == entry)
            return set;
        if (held)
            epset_drop(set);
        entry = now;
    }
    return NULL;
}

void epset_hold(struct epset *set)
{
    sock_count(&set->refs, 1);
}

// The kernel's set is gone with its last descriptor; what was registered in it is free again.
static void free_set(struct epset *set)
{
    atomic_store(&set->fd, -1);
    if (reg_busy_below())
        return; // a handler, in the one moment in which nothing can be freed: the set is left unused
    bool entered = epset_enter(set);
    reg_remove_all(set);
    if (entered)
        epset_leave(set);
    reg_free_set(set);
}

void epset_drop(struct epset *set)
{
    if (sock_count(&set->refs, (uint32_t)-1) == 1)
        free_set(set);
}

// A set that was made out of our sight. Anything else that a program passes for one is the kernel's to refuse.
static bool is_epoll(int fd)
{
    char path[32] = "/proc/self/fd/", link[32];
    int digits = 0;
    for (int rest = fd; rest || !digits; rest /= 10)
        digits++;
    for (int i = digits - 1, rest = fd; i >= 0; i--, rest /= 10)
        path[14 + i] = (char)('0' + rest % 10);
    long size = sys_call(SYS_readlinkat, AT_FDCWD, path, link, sizeof link);
    return size == 22 && !memcmp(link, "anon_inode:[eventpoll]", 22);
}

// With a reference for the caller; null if it is none, or there is no memory.
static struct epset *find_or_make(int epfd)
{
    struct epset *set = epset_find(epfd);
    if (set || fdtab_kind(fdtab_get(epfd)) != FD_PLAIN || !is_epoll(epfd))
        return set;
    epset_made(epfd);
    return epset_find(epfd);
}

void epset_made(int epfd)
{
    if (proc_disabled() || !proc_owns_memory())
        return;
    struct epset *set = reg_new_set(epfd);
    if (set && !fdtab_put(epfd, FD_EPOLL, set))
        epset_drop(set);
}

bool epset_converted(const struct epset *set)
{
    return atomic_load_explicit(&set->converted, memory_order_acquire) != 0;
}

// --- the lock, and work left for its holder ---

bool epset_enter(struct epset *set)
{
    return lock_enter(&set->lock);
}

static void remove_for_good(struct reg *reg)
{
    epset_entry_remove(reg);
    reg_free(reg);
}

// The socket's ways have changed, or the entry has.
static void bring_up(struct reg *reg)
{
    if (reg->closing || (reg->deleted && !epset_entry_settled(reg))) {
        remove_for_good(reg);
    } else if (!sock_in_ring(reg->sock)) {
        epset_entry_return(reg);
    } else if (!reg->deleted) {
        epset_entry_convert(reg);
        epset_look_heat(reg);
    }
}

static void do_work_left(struct epset *set)
{
    bool any = false;
    for (struct reg *reg; (reg = reg_take_todo(set)); any = true)
        bring_up(reg);
    if (any)
        epset_look_leave_to_sleepers(set);
}

static void attend_to_socks(void);

// Whoever leaves work after our last look finds the lock free, and does it.
void epset_leave(struct epset *set)
{
    do {
        do_work_left(set);
        lock_leave(&set->lock);
    } while (atomic_load(&set->todo) && lock_try(&set->lock));
    attend_to_socks();
}

static void do_work_of(struct epset *set)
{
    if (atomic_load(&set->todo) && lock_try(&set->lock))
        epset_leave(set);
}

// --- sockets that a signal handler could not deal with, since it had interrupted the registry or the set concerned ---

static _Atomic(struct sock *) socks_left;

// With a reference that is the list's.
static void leave_sock(struct sock *sock)
{
    struct sock *first = atomic_load(&socks_left);
    do {
        sock->left_next = first;
    } while (!atomic_compare_exchange_weak(&socks_left, &first, sock));
}

static void attend_to_socks(void)
{
    if (__builtin_expect(!atomic_load_explicit(&socks_left, memory_order_relaxed), 1))
        return;
    struct sock *sock = atomic_exchange(&socks_left, NULL);
    for (struct sock *next; sock; sock = next) {
        next = sock->left_next;
        atomic_store(&sock->left, 0);
        epset_sock_changed(sock);
        sock_drop(sock);
    }
}

// --- a socket changes its way ---

#define SETS_AT_ONCE 16

struct sets {
    struct epset *set[SETS_AT_ONCE];
    int count;
    bool more;
};

static void leave_work(struct reg *reg, void *context)
{
    struct sets *sets = context;
    reg_leave_todo(reg);
    for (int i = 0; i < sets->count; i++) {
        if (sets->set[i] == reg->set)
            return;
    }
    if (sets->count < SETS_AT_ONCE)
        sets->set[sets->count++] = reg->set;
}

// In a set beyond the first sixteen the work is done by the next who enters it.
void epset_sock_changed(struct sock *sock)
{
    struct sets sets = {.count = 0};
    if (!atomic_load_explicit(&sock->regs, memory_order_acquire))
        return;
    if (!reg_each_of_sock(sock, leave_work, &sets)) {
        if (!atomic_exchange(&sock->left, 1)) {
            sock_ref(sock);
            leave_sock(sock);
        }
        return;
    }
    for (int i = 0; i < sets.count; i++)
        do_work_of(sets.set[i]);
}

static void needs_ring(struct reg *reg, void *context)
{
    if (reg->converted && !reg->spent)
        *(bool *)context = true;
}

bool epset_sock_needs_ring(struct sock *sock)
{
    bool needs = false;
    return !reg_each_of_sock(sock, needs_ring, &needs) || needs;
}

// --- epoll_ctl ---

static void ask_for(struct reg *reg, const struct epoll_event *event)
{
    reg->events = event->events;
    reg->data = event->data.u64;
    atomic_store_explicit(&reg->spent, 0, memory_order_relaxed); // under the lock
    reg->deleted = 0;
    reg->told = 0;
    reg->fresh = 1;
}

static void heat_for_all(struct reg *reg)
{
    epset_look_heat(reg);
    epset_look_leave_to_sleepers(reg->set);
}

static int kernel_says(const struct epset *set, int operation, int fd, struct epoll_event *event)
{
    return (int)sys_call(SYS_epoll_ctl, set->fd, operation, fd, event);
}

// Without memory to follow it, a socket that is TCP stays so.
static int add_unfollowed(struct epset *set, struct sock *sock, int fd, struct epoll_event *event)
{
    return sock_pin(sock, "no memory to follow its registration") ? kernel_says(set, EPOLL_CTL_ADD, fd, event)
                                                                  : -ENOMEM;
}

static int add_new(struct epset *set, struct sock *sock, int fd, struct epoll_event *event)
{
    struct reg *reg = reg_add(set, sock, fd);
    if (!reg)
        return add_unfollowed(set, sock, fd, event);
    bool in_ring = sock_in_ring(sock);
    reg->known_to_kernel = !in_ring;
    ask_for(reg, event);
    int result = in_ring ? epset_entry_add(reg) : kernel_says(set, EPOLL_CTL_ADD, fd, event);
    if (result)
        reg_free(reg);
    else if (in_ring)
        heat_for_all(reg);
    else if (sock_in_ring(sock))
        reg_leave_todo(reg); // it changed its way while we told the kernel
    return result;
}

// The kernel's rules about EPOLLEXCLUSIVE, which it cannot apply to entries that we changed.
static bool exclusive_misused(const struct epoll_event *event)
{
    return (event->events & EPOLLEXCLUSIVE) && (event->events & ~(uint32_t)(EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP |
                                                                            EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE));
}

// Ours says it is there. If the kernel does not agree, it knows better.
static int add_known(struct epset *set, struct reg *reg, struct epoll_event *event)
{
    struct sock *sock = reg->sock;
    int fd = reg->fd;
    if (reg->entry != fd)
        return -EEXIST; // under a name of ours, since that number was closed once
    int result = kernel_says(set, EPOLL_CTL_ADD, fd, event);
    if (result)
        return result;
    kernel_says(set, EPOLL_CTL_DEL, fd, NULL);
    reg_free(reg);
    return add_new(set, sock, fd, event);
}

static int add(struct epset *set, struct sock *sock, int fd, struct epoll_event *event)
{
    if (exclusive_misused(event))
        return -EINVAL;
    struct reg *reg = reg_find(set, sock, fd);
    if (!reg)
        return add_new(set, sock, fd, event);
    if (!reg->deleted)
        return add_known(set, reg, event);
    ask_for(reg, event);
    heat_for_all(reg);
    return 0;
}

static int modify_unconverted(struct epset *set, struct sock *sock, int fd, struct epoll_event *event)
{
    struct reg *reg = reg_find(set, sock, fd);
    int result = kernel_says(set, EPOLL_CTL_MOD, reg ? reg->entry : fd, event);
    if (result == 0 && !reg && !(reg = reg_add(set, sock, fd))) // registered where we did not see it
        sock_pin(sock, "no memory to follow its registration");
    if (result || !reg)
        return result;
    ask_for(reg, event);
    reg->known_to_kernel = 1;
    if (sock_in_ring(sock))
        reg_leave_todo(reg);
    return 0;
}

static int modify(struct epset *set, struct sock *sock, int fd, struct epoll_event *event)
{
    struct reg *reg = reg_find(set, sock, fd);
    if (!reg || !reg->converted)
        return modify_unconverted(set, sock, fd, event);
    if (reg->deleted)
        return -ENOENT;
    if ((reg->events | event->events) & EPOLLEXCLUSIVE)
        return -EINVAL;
    ask_for(reg, event);
    if (!sock_in_ring(sock)) {
        epset_entry_return(reg);
        return 0;
    }
    epset_look_heat(reg);
    int result = epset_entry_ask(reg);
    epset_look_leave_to_sleepers(set);
    return result;
}

// Some programs (redis-benchmark) delete and add a registration for each message. While both directions are in the ring
// the kernel's entries stay, silent as they are, and a deleted registration is only marked so.
static int delete (struct epset *set, struct sock *sock, int fd, struct epoll_event *event)
{
    struct reg *reg = reg_find(set, sock, fd);
    if (!reg)
        return kernel_says(set, EPOLL_CTL_DEL, fd, event);
    if (reg->deleted)
        return -ENOENT;
    if (epset_entry_settled(reg) && reg->entry == fd) {
        reg->deleted = 1;
        if (reg->hot)
            reg_leave_hot(reg);
        return 0;
    }
    int result = epset_entry_remove(reg);
    if (result == 0 || result == -ENOENT)
        reg_free(reg);
    return result;
}

static int control(struct epset *set, int operation, struct sock *sock, int fd, struct epoll_event *event)
{
    if (operation == EPOLL_CTL_ADD)
        return add(set, sock, fd, event);
    if (operation == EPOLL_CTL_MOD)
        return modify(set, sock, fd, event);
    if (operation == EPOLL_CTL_DEL)
        return delete (set, sock, fd, event);
    return kernel_says(set, operation, fd, event);
}

static int control_in_set(int epfd, int operation, struct sock *sock, int fd, struct epoll_event *event)
{
    struct epset *set = event || operation == EPOLL_CTL_DEL ? find_or_make(epfd) : NULL;
    if (!set) {
        if (operation == EPOLL_CTL_ADD && event && is_epoll(epfd))
            sock_pin(sock, "no memory to follow its epoll set");
        return (int)sys_call(SYS_epoll_ctl, epfd, operation, fd, event);
    }
    // A signal handler in the middle of its own thread's work on this very set cannot be served.
    int result = -ENOMEM;
    if (!reg_busy_below() && epset_enter(set)) {
        epset_known_as(set, epfd);
        result = control(set, operation, sock, fd, event);
        epset_leave(set);
    }
    epset_drop(set);
    return result;
}

int epset_control(int epfd, int operation, struct sock *sock, int fd, struct epoll_event *event)
{
    if (operation != EPOLL_CTL_DEL && event && reg_tagged(event->data.u64))
        sock_pin(sock, "epoll user data of the library's own kind");
    int result = control_in_set(epfd, operation, sock, fd, event);
    if (result >= 0)
        return 0;
    errno = -result;
    return -1;
}

void epset_nested(int inner)
{
    struct epset *set = epset_find(inner);
    if (!set)
        return;
    if (epset_enter(set)) {
        set->nested = 1;
        epset_look_leave_to_sleepers(set);
        epset_leave(set);
    }
    epset_drop(set);
}

// --- leaving ---

void epset_epfd_gone(struct epset *set, int epfd)
{
    int gone = epfd;
    for (int other = fdtab_next(0); atomic_load(&set->fd) == epfd && other >= 0; other = fdtab_next(other + 1)) {
        if (other != epfd && fdtab_get(other) == ((uintptr_t)set | FD_EPOLL))
            atomic_compare_exchange_strong(&set->fd, &gone, other);
    }
}

static int other_descriptor(const struct sock *sock)
{
    for (int fd = fdtab_next(0); fd >= 0; fd = fdtab_next(fd + 1)) {
        if (fdtab_get(fd) == ((uintptr_t)sock | FD_SOCK))
            return fd;
    }
    return -1;
}

struct closing {
    int fd;
    int other; // another descriptor of the socket
    bool pin;
};

static void lose_descriptor(struct reg *reg, void *context)
{
    struct closing *closing = context;
    if (reg->via == closing->fd)
        atomic_store(&reg->via, closing->other);
    if (reg->entry != closing->fd)
        return;
    if (reg->converted || sock_in_ring(reg->sock))
        epset_entry_keep(reg);
    else
        closing->pin = true;
}

// The kernel keeps a registration until the open file is gone, under the number that it was made with, and so do we: it
// is found again should the number become a descriptor of the same socket again. Meanwhile neither we nor the program
// could name the kernel's entry; so one that is the program's own shall stay that.
void epset_fd_gone(struct sock *sock, int fd)
{
    if (!atomic_load_explicit(&sock->regs, memory_order_acquire))
        return;
    struct closing closing = {.fd = fd, .other = other_descriptor(sock)};
    if (reg_each_of_sock(sock, lose_descriptor, &closing) && closing.pin)
        sock_pin(sock, "registered with epoll under a number that was closed");
}

static void close_entry(struct reg *reg, void *context)
{
    int entry = atomic_exchange(&reg->entry, -1);
    epset_entry_control(reg->set, EPOLL_CTL_DEL, entry, 0, 0);
    if (entry != reg->fd)
        proc_close_own_fd(entry);
    atomic_store(&reg->closing, 1);
    leave_work(reg, context);
}

void epset_sock_closing(struct sock *sock)
{
    struct sets sets = {.count = 0};
    if (!atomic_load_explicit(&sock->regs, memory_order_acquire))
        return;
    reg_each_of_sock(sock, close_entry, &sets);
    for (int i = 0; i < sets.count; i++)
        do_work_of(sets.set[i]);
}

static void note_set(struct reg *reg, void *context)
{
    *(struct epset **)context = reg->set;
}

// Which set it is may have changed until its lock is ours: then there is nothing of the socket's in it.
static void leave_set(struct epset *set, struct sock *sock)
{
    for (struct reg *reg; (reg = reg_first(set, sock));) {
        epset_entry_remove_bell(reg);
        reg_free(reg);
    }
}

// The kernel drops its entry for the TCP socket if no other process has it; the bell, which the other end holds too, is
// taken out by hand, unless a forked relative may still need it there.
bool epset_sock_gone(struct sock *sock)
{
    while (atomic_load_explicit(&sock->regs, memory_order_acquire)) {
        struct epset *set = NULL;
        if (!reg_each_of_sock(sock, note_set, &set) || (set && !epset_enter(set))) {
            atomic_store(&sock->refs, 1);
            leave_sock(sock);
            return false;
        }
        if (set) {
            leave_set(set, sock);
            epset_leave(set);
        }
    }
    return true;
}

void epset_forked(void)
{
    reg_forked();
    for (int fd = fdtab_next(0); fd >= 0; fd = fdtab_next(fd + 1)) {
        uintptr_t entry = fdtab_get(fd);
        if (fdtab_kind(entry) == FD_EPOLL) {
            struct epset *set = fdtab_object(entry);
            set->lock = (struct lock){0};
            set->sleepers = 0;
        }
    }
}
