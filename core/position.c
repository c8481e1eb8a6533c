#include "core/position.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/sys.h"

static bool tcp_info(int fd, struct tcp_info *info)
{
    uint32_t size = sizeof *info;
    memset(info, 0, sizeof *info);
    return sys_getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0 &&
           size >= offsetof(struct tcp_info, tcpi_bytes_retrans) + sizeof info->tcpi_bytes_retrans;
}

// The states by number (they are in the kernel's net/tcp_states.h, and in TCP_INFO's documentation).
enum { STATE_ESTABLISHED = 1, STATE_CLOSE = 7, STATE_CLOSE_WAIT = 8 };

bool position_sent(int fd, uint64_t *position)
{
    struct tcp_info info;
    if (!tcp_info(fd, &info) || (info.tcpi_state != STATE_ESTABLISHED && info.tcpi_state != STATE_CLOSE_WAIT))
        return false;
    *position = info.tcpi_bytes_sent - info.tcpi_bytes_retrans + info.tcpi_notsent_bytes;
    return true;
}

// A FIN that was received counts as a byte in tcpi_bytes_received. The states in which one was: those after
// ESTABLISHED in which the other side has closed (CLOSE_WAIT, LAST_ACK, CLOSING, TIME_WAIT, CLOSE).
static bool fin_received(unsigned state)
{
    return state == 6 || state == STATE_CLOSE || state == STATE_CLOSE_WAIT || state == 9 || state == 11;
}

// The two counters are read again until nothing arrived in between.
bool position_read(int fd, uint64_t *position)
{
    for (int tries = 0; tries < 1000; tries++) {
        struct tcp_info before, after;
        int queued = 0;
        if (!tcp_info(fd, &before) || sys_ioctl(fd, SIOCINQ, &queued) || !tcp_info(fd, &after))
            return false;
        if (before.tcpi_bytes_received == after.tcpi_bytes_received && before.tcpi_state == after.tcpi_state) {
            *position = after.tcpi_bytes_received - fin_received(after.tcpi_state) - (uint64_t)queued;
            return true;
        }
    }
    return false;
}
