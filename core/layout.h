// What processes share, byte by byte: the memory of a session, of one end of it, and the agent's notice board.
//
//   session memory   one memfd, mapped by both ends and by the agent: a header page, then the data of two rings.
//                    Everything the other end wrote here is hostile: load once, check the range, use the local.
//   end memory       one memfd for each end, mapped by the processes that hold that end of the connection, and by the
//                    agent. The other end cannot reach it, so it is where an end keeps what it must be able to trust.
//   board            one memfd, written by the agent, mapped read-only by its clients: policy, and a mail counter each.
//
// Only fixed-width integers; no pointers, enums or bool. Sizes and offsets are asserted, since the library and the
// agent of a running host may be of different builds. A change of any of them raises LAYOUT_VERSION.
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define LAYOUT_VERSION 8

// Fields written by different processes stay this far apart: two lines, because processors fetch lines in pairs.
#define LAYOUT_APART 128

#define LAYOUT_PAGE 4096

#define SESSION_MAGIC 0x31534d4452ULL // "RDMS1"
#define END_MAGIC     0x31454d4452ULL // "RDME1"
#define BOARD_MAGIC   0x31424d4452ULL // "RDMB1"

// Ring sizes are powers of two within these bounds, in bytes.
#define RING_BYTES_MIN (16u << 10)
#define RING_BYTES_MAX (64u << 20)

// One direction of a session. The producer is the end that sends in this direction, the consumer the one that receives.
// tail and head are counts of bytes since the ring was attached; they only grow.
struct ring_shared {
    // Written by the producer.
    _Alignas(LAYOUT_APART) _Atomic uint64_t tail; // bytes produced
    _Atomic uint64_t switch_at;                   // SWITCH_NOT_YET, or the TCP stream position where the ring begins
    _Atomic uint32_t rx_rung;                     // the rx_arm for which the producer last rang the consumer's bell
    _Atomic uint32_t tx_closed;                   // CLOSED_*: the producer is done; why
    _Atomic uint32_t cpu;                         // where the producer last ran, + 1; 0 = unknown. A hint, for waiting
    _Atomic uint64_t left_at;                     // SWITCH_NOT_YET, or where the ring ends: TCP carries what follows

    // Written by the consumer.
    _Alignas(LAYOUT_APART) _Atomic uint64_t head; // bytes consumed
    _Atomic uint32_t tx_rung;                     // the tx_arm for which the consumer last rang the producer's bell
    _Atomic uint32_t rx_closed;                   // CLOSED_*: nobody will read this ring any more

    // Written by the consumer, seldom: on lines of their own, so that the producer's look at them costs nothing.
    _Alignas(LAYOUT_APART) _Atomic uint32_t rx_arm; // raised before the consumer sleeps: bell wanted if != rx_rung
    _Atomic uint32_t watching;                      // WATCHING_*; only grows
    _Atomic uint32_t leave_wish;                    // LEAVE_*: the consumer, or the agent, wants TCP back; only grows
    _Atomic uint32_t arrived;                       // between hosts, by the agent: 1: all of it is there, and its end

    // Written by the producer, seldom.
    _Alignas(LAYOUT_APART) _Atomic uint32_t tx_arm; // raised before the producer sleeps: bell wanted if != tx_rung
};
static_assert(offsetof(struct ring_shared, tail) == 0, "shared layout");
static_assert(offsetof(struct ring_shared, switch_at) == 8, "shared layout");
static_assert(offsetof(struct ring_shared, rx_rung) == 16, "shared layout");
static_assert(offsetof(struct ring_shared, left_at) == 32, "shared layout");
static_assert(offsetof(struct ring_shared, head) == 128, "shared layout");
static_assert(offsetof(struct ring_shared, rx_arm) == 256, "shared layout");
static_assert(offsetof(struct ring_shared, leave_wish) == 264, "shared layout");
static_assert(offsetof(struct ring_shared, arrived) == 268, "shared layout");
static_assert(offsetof(struct ring_shared, tx_arm) == 384, "shared layout");
static_assert(sizeof(struct ring_shared) == 512, "shared layout");

#define SWITCH_NOT_YET UINT64_MAX

enum { CLOSED_NOT = 0, CLOSED_ORDERLY = 1, CLOSED_RESET = 2 };

// WATCHING_YES: the consumer reads this ring after switch_at. WATCHING_SETTLED: it has read TCP up to there, and so tells
// bytes that came by TCP before the ring from those that come after it: only now may the producer leave.
enum { WATCHING_NOT = 0, WATCHING_YES = 1, WATCHING_SETTLED = 2 };

// LEAVE_DRAIN: the producer goes on over TCP, and says in left_at where the ring ends. LEAVE_RESEND: the consumer may not
// be able to read the ring any more; what it is not known to have read is sent again over TCP, behind a record that says
// from where on (core/record.h). LEAVE_BARE: the same without a record, and from the consumer's published head exactly, for
// who reads TCP from now on knows nothing of rings. LEAVE_TAKEN is added by the producer when it begins to leave: what was
// wished for by then holds, and is not raised any more.
enum { LEAVE_NOT = 0, LEAVE_DRAIN = 1, LEAVE_RESEND = 2, LEAVE_BARE = 3, LEAVE_TAKEN = 4 };

// The first page of session memory. The data of ring 0 begins at SESSION_DATA, that of ring 1 at SESSION_DATA +
// ring_bytes. Side 0 produces into ring 0 and consumes ring 1; side 1 the other way round.
struct session_shared {
    uint64_t magic;      // agent, before anyone maps it
    uint32_t version;    // agent
    uint32_t transport;  // agent: TRANSPORT_*
    uint64_t id;         // agent
    uint64_t ring_bytes; // agent; for people: a client takes the size from ATTACH and its own mapping
    _Alignas(LAYOUT_APART) struct ring_shared ring[2];
};
static_assert(offsetof(struct session_shared, ring) == 128, "shared layout");
static_assert(sizeof(struct session_shared) <= LAYOUT_PAGE, "shared layout");

#define SESSION_DATA LAYOUT_PAGE

static inline uint64_t session_bytes(uint64_t ring_bytes)
{
    return SESSION_DATA + 2 * ring_bytes;
}

enum { TRANSPORT_TCP = 0, TRANSPORT_SHM = 1, TRANSPORT_RDMA = 2 };

// How far a direction has come at this end. It only moves forward: LEFT is TCP again, for good, as far as this session is
// concerned.
//   receiving: TCP -> WATCH (reads TCP, looks for switch_at) -> RING (-> BACK: skips what was read before) -> LEFT
//   sending:   TCP -> RING (-> BACK: sends again what may not have been read) -> LEFT
enum { WAY_TCP = 0, WAY_WATCH = 1, WAY_RING = 2, WAY_LEFT = 3, WAY_BACK = 4 };

// Set in tx_tail and rx_head when that direction is over: whoever is about to move the cursor fails, and sees it.
#define RING_FROZEN (1ull << 63)

#define END_LOCK_BYTES 64

// A holder that has not yet mapped the end it is given may find that it passed the socket on, and decline. Until it is
// known which, no process that the socket was passed to can have the end.
#define END_OPEN    0u
#define END_TAKEN   1u
#define END_REFUSED 2u

struct end_shared {
    uint64_t magic;         // agent
    uint32_t version;       // agent
    uint32_t side;          // agent: 0 or 1
    uint64_t session;       // agent
    uint64_t instance;      // agent: which run of it, as on its board
    uint8_t mark[16];       // agent: random, the same at both ends, and known to nobody else
    _Atomic uint32_t taken; // END_*, decided once: by the first holder that maps it, or by the agent

    // Sending. tx_tail is the truth of which ring_shared.tail is the publication.
    _Alignas(LAYOUT_APART) _Atomic uint64_t tx_tail;
    _Atomic uint32_t tx_way;         // WAY_*
    _Atomic uint32_t tx_shut;        // 1: shutdown(SHUT_WR) was called, or the last holder closed
    _Atomic uint64_t tx_back_at;     // WAY_BACK: where in the TCP stream it begins
    _Atomic uint64_t tx_back_from;   // ... the first byte of the ring that is sent again
    _Atomic uint32_t tx_back_record; // ... bytes of the record before it: RECORD_BYTES or 0
    _Atomic uint32_t tx_back_fin;    // ... 1: and then the connection is to be shut down for sending

    // Receiving. rx_head is the truth of which ring_shared.head is the (lazy) publication.
    _Alignas(LAYOUT_APART) _Atomic uint64_t rx_head;
    _Atomic uint32_t rx_way;      // WAY_*
    _Atomic uint32_t rx_shut;     // 1: shutdown(SHUT_RD) was called
    _Atomic uint32_t fin_seen;    // 1: the kernel reported end of stream or an error on the TCP connection
    _Atomic uint32_t broken;      // 1: the other end broke the protocol; reads and writes fail with ECONNRESET
    _Atomic uint64_t rx_tcp_left; // in WAY_WATCH after switch_at is known: bytes still to be read from TCP
    _Atomic uint64_t rx_back_to;  // WAY_BACK: where in the TCP stream the bytes begin that were not read yet
    _Atomic uint64_t rx_back_end; // ... and where those of the ring end: before that, no end of stream is one

    // Counted by whoever holds this end, read by the agent for `rdmactl stats`. Relaxed; may lose a count.
    _Alignas(LAYOUT_APART) _Atomic uint64_t tx_calls;
    _Atomic uint64_t rx_calls;
    _Atomic uint64_t sleeps;  // waits that ended in the kernel
    _Atomic uint64_t bells;   // times this end rang the other's bell
    _Atomic uint64_t tx_full; // times a sender found no room

    // Robust process-shared mutexes (pthread_mutex_t in room to spare), made by the agent.
    _Alignas(LAYOUT_APART) unsigned char tx_lock[END_LOCK_BYTES]; // senders, where there may be several
    unsigned char rx_lock[END_LOCK_BYTES];                        // receivers in WAY_WATCH
};
static_assert(offsetof(struct end_shared, mark) == 32, "shared layout");
static_assert(offsetof(struct end_shared, tx_tail) == 128, "shared layout");
static_assert(offsetof(struct end_shared, rx_head) == 256, "shared layout");
static_assert(offsetof(struct end_shared, tx_calls) == 384, "shared layout");
static_assert(offsetof(struct end_shared, tx_lock) == 512, "shared layout");
static_assert(sizeof(struct end_shared) <= LAYOUT_PAGE, "shared layout");

#define END_BYTES LAYOUT_PAGE

// The notice board. The agent maps it writable, then seals it against future writable mappings.
#define BOARD_SLOTS 16384

struct board_slot {
    _Alignas(64) _Atomic uint32_t mail; // raised after each message that the agent sends to this client
};

struct board {
    uint64_t magic;
    uint32_t version;
    uint32_t slots;                     // BOARD_SLOTS
    uint64_t instance;                  // random: tells one run of an agent from the next
    _Atomic uint32_t policy_generation; // raised when the fields below changed: refused offers may be made again
    _Atomic uint32_t upgrade_enabled;   // 0: make no new offers
    _Atomic uint64_t after_bytes;       // offer a connection once so many bytes went through it at this end ...
    _Atomic uint64_t after_calls;       // ... or so many data calls were made on it
    _Atomic uint64_t rate_bytes_per_s;  // 0 = unlimited: what one end may send through its ring
    _Atomic uint32_t wake_ns;           // what it takes here to wake a thread that sleeps, one way; 0 = not known
    _Atomic uint32_t recalls;           // raised after sessions were ordered back to TCP, idle ones among them
    _Atomic uint64_t beat;              // ms of CLOCK_MONOTONIC at which the agent last was at work; 0: it does not say
    _Alignas(LAYOUT_PAGE) struct board_slot slot[BOARD_SLOTS];
};
static_assert(offsetof(struct board, policy_generation) == 24, "shared layout");
static_assert(offsetof(struct board, after_bytes) == 32, "shared layout");
static_assert(offsetof(struct board, slot) == LAYOUT_PAGE, "shared layout");
static_assert(sizeof(struct board_slot) == 64, "shared layout");

#define BOARD_BYTES sizeof(struct board)
