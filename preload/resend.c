#include "preload/resend.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "core/position.h"
#include "core/record.h"
#include "core/repeat.h"
#include "core/sys.h"
#include "preload/nest.h"
#include "preload/session.h"
#include "preload/sock.h"

// --- sending ---

static void say_begun(const struct session *session)
{
    uint64_t tail = atomic_load(&session->end->tx_tail) & ~RING_FROZEN;
    proc_debug("session %llu.%u: sends bytes %llu to %llu of the ring again, by TCP", (unsigned long long)session->id,
               session->side, (unsigned long long)atomic_load(&session->end->tx_back_from), (unsigned long long)tail);
}

bool resend_step(struct sock *sock, int fd)
{
    struct session *session = &sock->session;
    struct repeat repeat = {.end = session->end, .ring = &session->tx};
    bool begins = atomic_load(&session->end->tx_way) == WAY_RING;
    int result = repeat_step(&repeat, fd);
    if (begins && atomic_load(&session->end->tx_way) == WAY_BACK)
        say_begun(session);
    if (result < 0)
        session_broken(sock);
    return result != 0;
}

// --- receiving ---

// A few bytes that could be the beginning of a record, and are not followed by more for so long (ns), are none.
#define RECORD_PATIENCE 3000000000ull

static bool still_waits(struct sock *sock, size_t size)
{
    uint64_t now = nest_now();
    if (size >= RECORD_MARK)
        return true;
    if (!sock->record_seen)
        sock->record_seen = now;
    return now - sock->record_seen < RECORD_PATIENCE;
}

// The record or the lack of one says which byte of the ring stands first; `read` of them were read from the ring.
static bool accept_repetition(struct sock *sock, int fd, uint64_t from, uint64_t record, uint64_t until)
{
    struct session *session = &sock->session;
    uint64_t at, read = atomic_fetch_or(&session->end->rx_head, RING_FROZEN) & ~RING_FROZEN;
    if (read < from || read > until || read - from > session->ring_bytes || !position_read(fd, &at)) {
        session_broken(sock);
        return false;
    }
    atomic_store(&session->end->rx_back_to, at + record + (read - from));
    atomic_store(&session->end->rx_back_end, at + record + ((record ? until : read) - from));
    atomic_store(&session->end->rx_way, WAY_BACK);
    proc_debug("session %llu.%u: the ring from byte %llu on comes by TCP; %llu bytes of that were read",
               (unsigned long long)session->id, session->side, (unsigned long long)from,
               (unsigned long long)(read - from));
    return true;
}

bool resend_found(struct sock *sock, int fd)
{
    uint8_t bytes[RECORD_BYTES];
    struct record record;
    int queued = 0;
    // With nothing to be looked at the kernel would tell of a reset, and then no more: that is for the program to hear.
    if (sys_ioctl(fd, FIONREAD, &queued) || queued == 0)
        return false;
    long n = sys_call(SYS_recvfrom, fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT, NULL, NULL);
    if (n <= 0)
        return false;
    switch (record_read(&record, sock->session.end->mark, bytes, (size_t)n)) {
    case RECORD_WHOLE:
        return accept_repetition(sock, fd, record.from, RECORD_BYTES, record.until);
    case RECORD_PART:
        if (still_waits(sock, (size_t)n)) {
            atomic_store(&sock->tcp_event, 1); // to be looked at again
            return false;
        }
    }
    return accept_repetition(sock, fd, 0, 0, UINT64_MAX);
}

int64_t resend_rest(struct sock *sock, int fd)
{
    const struct end_shared *end = sock->session.end;
    uint64_t to = atomic_load(&end->rx_back_to), until = atomic_load(&end->rx_back_end), now;
    while (position_read(fd, &now)) {
        if (now >= to)
            return now < until ? (int64_t)(until - now) : 0;
        char none;
        long n = sys_call(SYS_recvfrom, fd, &none, (size_t)(to - now), MSG_TRUNC | MSG_DONTWAIT, NULL, NULL);
        if (n == 0)
            return -ECONNRESET;
        if (n < 0)
            return -EAGAIN; // an error of the kernel's stays there for the next call
    }
    return 0;
}
