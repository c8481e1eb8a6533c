#include "preload/ending.h"

#include <sys/socket.h>

#include "core/sys.h"
#include "preload/agent_link.h"
#include "preload/leave.h"
#include "preload/session.h"

// Does the ring have something that may still be lost? Nobody is to read it if the other end says so.
static bool may_be_under_way(const struct sock *sock)
{
    const struct session *session = &sock->session;
    const struct ring_shared *ring = session_ring_out(session);
    return session_is_far(sock) && atomic_load(&session->end->tx_way) == WAY_RING && !atomic_load(&ring->arrived) &&
           !atomic_load(&ring->rx_closed);
}

bool ending_delays_shutdown(struct sock *sock, int fd)
{
    if (!may_be_under_way(sock))
        return false;
    // Whoever leaves the ring shuts the connection down behind it: this end, or another holder, from now on.
    atomic_store(&sock->session.end->tx_back_fin, 1);
    if (!agent_link_keep(sock, fd, WIRE_KEEP_SHUT)) {
        leave_ask(sock, LEAVE_RESEND);
        if (leave_delays_shutdown(sock, fd))
            return true;
    }
    // Or had left before it saw that. If not, all may be over by now, also at the other end, and that is no error.
    if (atomic_load(&sock->session.end->tx_way) == WAY_LEFT) // pairs with the look at tx_back_fin in leave.c
        sys_call(SYS_shutdown, sock_fd(sock, fd), SHUT_WR);
    return true;
}

void ending_look_for_agent(struct sock *sock)
{
    if (may_be_under_way(sock) && session_agent_is_gone(sock))
        leave_ask(sock, LEAVE_RESEND);
}

void ending_last_close(struct sock *sock, int fd)
{
    if (!may_be_under_way(sock) || agent_link_keep(sock, fd, WIRE_KEEP_SOLE))
        return;
    leave_ask(sock, LEAVE_RESEND);
    leave_finish(sock, fd);
}
