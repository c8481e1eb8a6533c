// The messages between a client (the preload library in one process) and the agent of its host.
//
// One message is one SOCK_SEQPACKET packet: a wire_head and the fields of its type, in the host's byte order, with the
// descriptors named here and no others. The socket is RUNTIME_DIR/agent.sock. A client speaks first (HELLO); the agent
// answers WELCOME or closes. Nothing else is answered in step: ATTACH and REFUSED arrive when they may, and each is
// announced by raising the client's mail counter on the board.
//
//   client -> agent    HELLO                          -
//                      OFFER     the TCP socket       may be answered by ATTACH or REFUSED, at any later time, or never
//                      WITHDRAW                       the socket was closed, or may no longer be upgraded
//                      DECLINE                        ATTACH could not be used; the session is over
//                      LEFT                           this end of a session went back to TCP, in both directions
//                      KEEP      the TCP socket       this end of a session between hosts is at its end: see below
//                      COUNT                          why connections stayed TCP since the last report
//   agent -> client    WELCOME   the board            (WIRE_WELCOME_FDS)
//                      ATTACH    five                 (WIRE_ATTACH_FDS), in the order of enum wire_attach_fd
//                      REFUSED                        -
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION 4
#define WIRE_SOCKET  "agent.sock"
#define WIRE_CONTROL "control.sock"
#define WIRE_DIR     "/run/rdma-agent"

enum wire_type {
    WIRE_HELLO = 1,
    WIRE_OFFER = 2,
    WIRE_WITHDRAW = 3,
    WIRE_DECLINE = 4,
    WIRE_COUNT = 5,
    WIRE_LEFT = 6,
    WIRE_KEEP = 7,

    WIRE_WELCOME = 65,
    WIRE_ATTACH = 66,
    WIRE_REFUSED = 67,
};

// Why a connection is not, or no longer, in a ring. Counted by the agent, shown by `rdmactl stats`.
// wire_reason_name() has the names; new ones go at the end.
enum wire_reason {
    WIRE_REASON_NONE = 0,
    WIRE_REASON_POLICY_PORT,    // agent: the configuration excludes the port
    WIRE_REASON_POLICY_ADDRESS, // agent: ... the address
    WIRE_REASON_POLICY_USER,    // agent: ... the user
    WIRE_REASON_NAMESPACE,      // agent: the socket is of a network namespace that this agent does not serve
    WIRE_REASON_NOT_TCP,        // agent: the descriptor is not a connected TCP socket
    WIRE_REASON_LIMIT_SESSIONS, // agent: the user's sessions are used up
    WIRE_REASON_LIMIT_MEMORY,   // agent: the user's, or the agent's, ring memory is used up
    WIRE_REASON_NO_MEMORY,      // agent or stub: the kernel gave no memory or mapping
    WIRE_REASON_NO_DESCRIPTORS, // agent or stub: no descriptors to spare
    WIRE_REASON_TABLE_FULL,     // agent: too many offers wait
    WIRE_REASON_NO_AGENT,       // stub: nobody answers on the agent's socket
    WIRE_REASON_AGENT_LOST,     // stub: the agent went away or broke the protocol
    WIRE_REASON_PINNED,         // stub: something a ring cannot express is in use on the socket
    WIRE_REASON_PROTOCOL,       // stub: the other end broke the ring protocol
    WIRE_REASON_SHARED,         // agent: other processes hold the socket, and would not hear of it
    WIRE_REASON_COUNT
};

// All messages begin so. size counts the whole message.
struct wire_head {
    uint16_t type;
    uint16_t size;
    uint32_t zero;
};
static_assert(sizeof(struct wire_head) == 8, "wire layout");

struct wire_hello {
    struct wire_head head;
    uint32_t version; // WIRE_VERSION
    uint32_t layout;  // LAYOUT_VERSION
};
static_assert(sizeof(struct wire_hello) == 16, "wire layout");

struct wire_offer {
    struct wire_head head;
    uint64_t token; // chosen by the client, unique among its offers, comes back in the answer
    uint32_t flags; // WIRE_OFFER_*
    uint32_t zero;
};
static_assert(sizeof(struct wire_offer) == 24, "wire layout");

// Another holder has upgraded this connection: answer at once, with its session or REFUSED, and make no new one. May have
// the token of an offer that waits, and then takes its place.
#define WIRE_OFFER_ADOPT 1u
// Processes may hold this socket, too, that would not hear of a session: make one only if there are none.
#define WIRE_OFFER_SHARED 2u

struct wire_withdraw {
    struct wire_head head;
    uint64_t token;
    uint32_t reason; // enum wire_reason
    uint32_t zero;
};
static_assert(sizeof(struct wire_withdraw) == 24, "wire layout");

struct wire_decline {
    struct wire_head head;
    uint64_t token;
    uint64_t session;
    uint32_t reason;
    uint32_t zero;
};
static_assert(sizeof(struct wire_decline) == 32, "wire layout");

// The end memory says so too: a holder that has nothing to say of it may be gone.
struct wire_left {
    struct wire_head head;
    uint64_t session;
};
static_assert(sizeof(struct wire_left) == 16, "wire layout");

// The connection's FIN shall not overtake what is in the ring: the agent holds the socket until all of that has arrived
// at the other host, or was sent by TCP.
struct wire_keep {
    struct wire_head head;
    uint64_t session;
    uint32_t flags; // WIRE_KEEP_*
    uint32_t zero;
};
static_assert(sizeof(struct wire_keep) == 24, "wire layout");

#define WIRE_KEEP_SHUT 1u // the connection is shut down for sending: the agent is to do that then
#define WIRE_KEEP_SOLE 2u // nobody else holds it: when the client closes its lifeline, this end is over

struct wire_count {
    struct wire_head head;
    uint64_t count[WIRE_REASON_COUNT];
};

struct wire_welcome {
    struct wire_head head;
    uint32_t version; // WIRE_VERSION
    uint32_t layout;  // LAYOUT_VERSION
    uint32_t slot;    // the client's place on the board, < BOARD_SLOTS
    uint32_t zero;
    uint64_t instance; // the same as on the board
};
static_assert(sizeof(struct wire_welcome) == 32, "wire layout");

#define WIRE_WELCOME_FDS 1

struct wire_attach {
    struct wire_head head;
    uint64_t token;
    uint64_t session;
    uint64_t ring_bytes; // of each of the two rings
    uint32_t side;       // 0 or 1
    uint32_t transport;  // TRANSPORT_SHM; TRANSPORT_RDMA: the other side of the rings is the agent
};
static_assert(sizeof(struct wire_attach) == 40, "wire layout");

enum wire_attach_fd {
    WIRE_FD_SESSION,   // session memory
    WIRE_FD_END,       // this end's memory
    WIRE_FD_BELL,      // epoll set: becomes readable, edge-triggered, whenever this end is woken
    WIRE_FD_PEER_BELL, // eventfd: to wake the other end
    WIRE_FD_LIFELINE,  // held open, never used, by every process that holds this end
    WIRE_ATTACH_FDS
};

struct wire_refused {
    struct wire_head head;
    uint64_t token;
    uint32_t reason; // enum wire_reason
    uint32_t zero;
};
static_assert(sizeof(struct wire_refused) == 24, "wire layout");

union wire_message {
    struct wire_head head;
    struct wire_hello hello;
    struct wire_offer offer;
    struct wire_withdraw withdraw;
    struct wire_decline decline;
    struct wire_left left;
    struct wire_keep keep;
    struct wire_count count;
    struct wire_welcome welcome;
    struct wire_attach attach;
    struct wire_refused refused;
};

#define WIRE_FDS_MAX WIRE_ATTACH_FDS

// Fills in the head of a message of `type` and clears the rest of it. The type must be one of enum wire_type.
void wire_begin(union wire_message *message, enum wire_type type);

// Bytes of a whole message of `type`; 0 for a type that does not exist.
size_t wire_size(unsigned type);

// Descriptors that a message of `type` carries.
unsigned wire_fds(unsigned type);

// Checks a packet of `size` bytes with `fds` descriptors that came from the other side: known type, exact size, the
// right number of descriptors, fields within their ranges, zero where zero is expected. Returns 0 or -EPROTO.
int wire_check(const union wire_message *message, size_t size, unsigned fds);

// A stable name, as it appears in `rdmactl stats`: "policy_port". "unknown" outside the range.
const char *wire_reason_name(unsigned reason);
