#include "preload/epset_entry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/leave.h"
#include "preload/wait.h"

#define OF_TCP_IN (EPOLLIN | EPOLLRDHUP | EPOLLPRI)

// What TCP still has to be watched for. Both directions in the ring: only the end of the connection, once.
static uint32_t tcp_interest(const struct reg *reg)
{
    bool rx_tcp = reg->sock->rx_way == WAY_TCP, tx_tcp = reg->sock->tx_way == WAY_TCP;
    uint32_t asked = reg->spent || reg->deleted ? 0 : reg->events;
    uint32_t interest = reg->end_known ? 0 : OF_TCP_IN;
    if (rx_tcp)
        interest = asked & OF_TCP_IN;
    else if (tx_tcp && (asked & EPOLLOUT) && !(asked & EPOLLIN))
        interest &= ~(uint32_t)EPOLLIN; // unasked and level-triggered, it would be reported for ever
    if (tx_tcp)
        interest |= asked & EPOLLOUT;
    else if (leave_tx_under_way(reg->sock))
        interest |= EPOLLOUT | EPOLLET; // what was in the ring is being sent again
    bool edges = (interest & EPOLLET) || (!rx_tcp && !(interest & EPOLLOUT)) || (asked & EPOLLET) || !asked;
    return interest | (edges ? (uint32_t)EPOLLET : 0);
}

int epset_entry_control(const struct epset *set, int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return (int)sys_call(SYS_epoll_ctl, set->fd, operation, fd, &event);
}

// An exclusive entry cannot be modified, only replaced.
static int replace(const struct reg *reg, uint32_t events, uint64_t data)
{
    if (reg->entry < 0)
        return -EBADF;
    int result =
        (events & EPOLLEXCLUSIVE) ? -EINVAL : epset_entry_control(reg->set, EPOLL_CTL_MOD, reg->entry, events, data);
    if (result == -EINVAL || result == -ENOENT) {
        epset_entry_control(reg->set, EPOLL_CTL_DEL, reg->entry, 0, 0);
        result = epset_entry_control(reg->set, EPOLL_CTL_ADD, reg->entry, events, data);
    }
    return result;
}

static int make_ours(const struct reg *reg)
{
    return replace(reg, tcp_interest(reg), reg_tag(reg, 0));
}

static bool entry_in_line(const char *line, int entry, bool *spent)
{
    int number;
    unsigned events;
    if (sscanf(line, "tfd: %d events: %x", &number, &events) != 2 || number != entry)
        return false;
    *spent = !(events & (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI));
    return true;
}

// Has the kernel reported this one-shot registration already, when it was still its own? Then no event is left in its
// entry, as /proc tells ("tfd: 5 events: 40000000 ...").
static bool one_shot_spent(const struct reg *reg)
{
    char path[48], text[4096 + 1];
    long kept = 0, more;
    bool found = false, spent = false;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", reg->set->fd);
    int fd = (int)sys_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && !found && (more = sys_read(fd, text + kept, sizeof text - 1 - (size_t)kept)) > 0) {
        text[kept + more] = '\0';
        char *line = text, *end;
        for (; !found && (end = strchr(line, '\n')); line = end + 1)
            found = entry_in_line(line, reg->entry, &spent);
        kept = text + kept + more - line; // the beginning of the next line
        memmove(text, line, (size_t)kept);
    }
    if (fd >= 0)
        sys_close(fd);
    return spent;
}

static void add_bell(struct reg *reg)
{
    if (reg->bell_added)
        return;
    int bell = reg->sock->session.bell;
    int result = epset_entry_control(reg->set, EPOLL_CTL_ADD, bell, EPOLLIN | EPOLLET, reg_tag(reg, TAG_BELL));
    if (result == -EEXIST) // by another descriptor of the same socket; one bell wakes for both
        result = 0;
    reg->bell_added = result == 0;
    if (!session_is_far(reg->sock))
        return;
    if (!atomic_load_explicit(&reg->set->patience.far_ns, memory_order_relaxed))
        patience_far(&reg->set->patience, agent_link_wake_ns());
    // Its other end goes with the agent.
    epset_entry_control(reg->set, EPOLL_CTL_ADD, reg->sock->session.lifeline, EPOLLET, reg_tag(reg, 0));
}

void epset_entry_convert(struct reg *reg)
{
    if (!reg->converted && (reg->events & EPOLLONESHOT) && reg->known_to_kernel)
        reg->spent = one_shot_spent(reg);
    // Before our tag is in the kernel's set, so that whoever gets it knows what it is.
    atomic_store_explicit(&reg->set->converted, 1, memory_order_release);
    reg->converted = 1;
    make_ours(reg);
    add_bell(reg);
    reg->fresh = 1;
}

int epset_entry_add(struct reg *reg)
{
    atomic_store_explicit(&reg->set->converted, 1, memory_order_release);
    // The kernel is the judge of whether this may be added at all; errors are its own.
    int result = epset_entry_control(reg->set, EPOLL_CTL_ADD, reg->entry, tcp_interest(reg), reg_tag(reg, 0));
    if (result == 0)
        epset_entry_convert(reg);
    return result;
}

void epset_entry_remove_bell(struct reg *reg)
{
    if (!reg->bell_added)
        return;
    reg->bell_added = 0;
    for (struct reg *other = reg_first(reg->set, reg->sock); other; other = reg_next(other)) {
        if (other->bell_added)
            return;
    }
    // A forked relative may still need it there.
    if (!share_forked(reg->sock->share))
        epset_entry_control(reg->set, EPOLL_CTL_DEL, reg->sock->session.bell, 0, 0);
    epset_entry_control(reg->set, EPOLL_CTL_DEL, reg->sock->session.lifeline, 0, 0);
}

// A modified entry is looked at anew by the kernel: what is ready is reported, also to an edge-triggered one. One that
// was reported once and for all stays ours, and silent, until the program asks for it again: the kernel knows no other
// way to make an entry that reports nothing.
void epset_entry_return(struct reg *reg)
{
    if (!reg->converted)
        return;
    if (reg->hot)
        reg_leave_hot(reg);
    epset_entry_remove_bell(reg);
    reg->from_tcp = 0;
    reg->end_known = 0;
    if (reg->spent) {
        make_ours(reg);
        return;
    }
    if (replace(reg, reg->events, reg->data))
        return;
    reg->converted = 0;
    reg->known_to_kernel = 1;
}

int epset_entry_ask(struct reg *reg)
{
    return epset_entry_settled(reg) || reg->entry < 0 ? 0 : make_ours(reg);
}

void epset_entry_end_known(struct reg *reg)
{
    reg->end_known = 1;
    make_ours(reg);
}

int epset_entry_remove(struct reg *reg)
{
    int result = reg->entry < 0 ? -ENOENT : epset_entry_control(reg->set, EPOLL_CTL_DEL, reg->entry, 0, 0);
    epset_entry_remove_bell(reg);
    return result;
}

bool epset_entry_settled(const struct reg *reg)
{
    return reg->converted && reg->bell_added && reg->sock->rx_way != WAY_TCP && reg->sock->tx_way != WAY_TCP;
}

// The interest is brought up by the work that is left. Without a descriptor to spare it cannot be named any more: it
// goes on as it is.
void epset_entry_keep(struct reg *reg)
{
    int closing = reg->entry;
    int own = reg->deleted ? -1 : proc_own_fd(sys_fcntl(closing, F_DUPFD_CLOEXEC, 0));
    if (own >= 0 && epset_entry_control(reg->set, EPOLL_CTL_ADD, own, EPOLLET, reg_tag(reg, 0))) {
        proc_close_own_fd(own);
        own = -1;
    }
    if (own >= 0 || reg->deleted)
        epset_entry_control(reg->set, EPOLL_CTL_DEL, closing, 0, 0);
    atomic_store(&reg->entry, own);
    reg_leave_todo(reg);
}
