#include "preload/tcp.h"

#include <poll.h>

#include "core/sys.h"

uint32_t tcp_note(struct sock *sock, uint32_t seen)
{
    if (!seen)
        return atomic_load_explicit(&sock->session.end->fin_seen, memory_order_relaxed);
    uint32_t before = atomic_fetch_or(&sock->session.end->fin_seen, seen);
    if (!before)
        session_tell_agent(sock);
    return before | seen;
}

uint32_t tcp_examine(struct sock *sock, int fd)
{
    fd = sock_fd(sock, fd);
    atomic_store_explicit(&sock->tcp_event, 0, memory_order_relaxed);
    struct pollfd polls[2] = {{.fd = fd, .events = POLLIN | POLLRDHUP},
                              {.fd = session_is_far(sock) ? sock->session.lifeline : -1}};
    struct timespec none = {0, 0};
    uint32_t seen = 0;
    if (sys_ppoll(polls, 2, &none) > 0) {
        if (polls[1].revents & POLLERR)
            leave_ask(sock, LEAVE_RESEND); // its agent is gone
        if ((polls[0].revents & POLLIN) && atomic_load(&sock->rx_way) == WAY_RING)
            leave_rx_repeated(sock, fd);
        seen |= polls[0].revents & (POLLRDHUP | POLLHUP) ? SEEN_END : 0;
        seen |= polls[0].revents & (POLLERR | POLLHUP | POLLNVAL) ? SEEN_END | SEEN_ERROR : 0;
        seen |= polls[0].revents & POLLERR ? SEEN_RESET : 0;
    }
    return tcp_note(sock, seen);
}

short tcp_events(int fd, short wanted)
{
    struct pollfd poll = {.fd = fd, .events = wanted};
    struct timespec none = {0, 0};
    return sys_ppoll(&poll, 1, &none) > 0 ? poll.revents : 0;
}
