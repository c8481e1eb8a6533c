// The attach protocol of one direction, tried exhaustively: every order of every step of a small model.
//
// The model follows preload/session.c, xfer_recv.c, xfer_send.c and wait.c step by step: a step is what happens at once
// as far as others can see. Senders and receivers are processes that share their end: each has its own view of how far it has come. TCP
// is a queue with bytes still on their way; the ring has room for all; bells and TCP readiness are edges in the nest
// of each receiver. All states that can be reached are visited, and in each of them
//
//   - what a receiver takes is the next byte of its sender,
//   - end of stream is reported only if all has been taken,
//   - nobody finds the protocol broken, or a call failing,
//   - if nobody can move, nothing is left that a receiver waits for.
//
// The last comes with the mutations: each is a mistake one could make, and must be found. A model that finds nothing
// wrong with them would prove nothing.

#include <stdarg.h>
#include <setjmp.h>
#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PARTIES 2 // senders, and receivers, at most
#define BYTES   6 // sent in all, at most
#define NOT_YET 255
#define NOBODY  0

enum way { TCP, WATCH, RING };

enum mutation {
    NONE,
    WATCH_WITHOUT_GATE,      // the receiver watches while another is inside a kernel receive
    SWITCH_WITHOUT_GATE,     // the sender switches while another is inside a kernel send
    POSITION_BEFORE_GATE,    // the sender's position is taken before its gate is closed
    SWITCH_WITHOUT_WATCHER,  // the sender switches before the receiver watches
    RING_BEFORE_TCP_IS_READ, // the receiver turns to the ring as soon as the sender has switched
    NO_SECOND_SWITCH_LOOK,   // TCP's answer is believed without another look whether the sender has switched
    NO_SECOND_RING_LOOK,     // end of stream is believed without another look at the ring
    NO_RECEIVE_LOCK,         // receivers that watch do not take turns
    ARM_AFTER_LOOK,          // the receiver looks, then declares that it sleeps
    NO_LOOK_AFTER_ARM,       // the receiver declares that it sleeps, and does
    BELL_DRAINED_LATE,       // the receiver silences the bell after its last look
    END_READ_IN_SILENCE,     // TCP's end was read, and is not noted for the other threads
    END_SEEN_IN_SILENCE,     // it was noted, and those are not woken who went to sleep just before
    PUBLISH_AFTER_BELL,      // the sender decides about the bell before it publishes
    RUNG_BEFORE_BELL,        // the bell is said to have been rung before it is
    MUTATIONS
};

static const char *const mutation_names[MUTATIONS] = {
    "none",
    "watch without gate",
    "switch without gate",
    "position before gate",
    "switch without watcher",
    "ring before TCP is read",
    "no second look for a switch",
    "no second look at the ring",
    "no receive lock",
    "arm after look",
    "no look after arm",
    "bell drained late",
    "end read in silence",
    "end seen in silence",
    "publish after bell",
    "rung before bell",
};

struct plan {
    const char *name;
    uint8_t senders, receivers;
    uint8_t bytes[PARTIES]; // of each sender
    bool closes;            // the senders close the connection in the end
    bool in_turn;           // the second sender only begins when the first has ended
    bool threads;           // the parties of an end are threads of one process, not processes
    uint8_t leaves_after;   // so many bytes, the second receiver: it wants no more; 0: it stays
    uint8_t sender_kills, receiver_kills;
};

// Where a sender stands: what it does next.
#define SENDER_STEPS(X) \
    X(S_BEGIN) \
    X(S_LOCK) \
    X(S_CLOSE_GATE) \
    X(S_POSITION) \
    X(S_PUBLISH_SWITCH) \
    X(S_WAY) \
    X(S_SWITCHED) \
    X(S_ENTER) \
    X(S_IN_KERNEL) \
    X(S_LEAVE) \
    X(S_RING_LOCK) \
    X(S_PUT) \
    X(S_PUBLISH) \
    X(S_LOOK_ARM) \
    X(S_BELL) \
    X(S_RUNG) \
    X(S_RING_UNLOCK) \
    X(S_DONE) \
    X(S_DEAD)

#define AS_CONSTANT(name) name,
#define AS_STRING(name)   #name,
enum { SENDER_STEPS(AS_CONSTANT) };
static const char *const sender_steps[] = {SENDER_STEPS(AS_STRING)};

#define RECEIVER_STEPS(X) \
    X(R_BEGIN) \
    X(R_ENTER) \
    X(R_IN_KERNEL) \
    X(R_LEAVE) \
    X(R_LEAVE_AT_END) \
    X(R_WATCH_WAY) \
    X(R_WATCH_ARM) \
    X(R_WATCHING) \
    X(R_WATCHED) \
    X(R_TAKE) \
    X(R_SETTLE) \
    X(R_CLEAR_EVENT) \
    X(R_READ_TCP) \
    X(R_SET_EVENT) \
    X(R_LOOK_FOR_SWITCH) \
    X(R_GET) \
    X(R_EXAMINE_TCP) \
    X(R_POLL_TCP) \
    X(R_OWN_BELL) \
    X(R_LOOK_AGAIN) \
    X(R_ASK_KERNEL) \
    X(R_NEST) \
    X(R_ARM) \
    X(R_LOOK) \
    X(R_LOOK_AT_RING) \
    X(R_LOOK_AT_TCP) \
    X(R_DRAIN) \
    X(R_SLEEP) \
    X(R_DONE) \
    X(R_DEAD)

enum { RECEIVER_STEPS(AS_CONSTANT) };
static const char *const receiver_steps[] = {RECEIVER_STEPS(AS_STRING)};

// How far a process has gone along with its end, which may be further.
struct view {
    uint8_t way, attached;
    uint8_t tcp_event; // receivers: the kernel may have something to say
};

struct sender {
    uint8_t at, left;
    uint8_t bell_wanted;   // by its last look at the arm counter
    uint8_t arm_is_latest; // nobody has armed since that look
    uint8_t position;
};

struct receiver {
    uint8_t at;
    uint8_t in_nest, bell_edge, tcp_edge;
    uint8_t answer;  // of the kernel: see below
    uint8_t limited; // to what was sent before the switch
    uint8_t locked;
    uint8_t got; // bytes, if it leaves after some
};

enum { ANSWER_NOTHING, ANSWER_BYTE, ANSWER_END };

struct state {
    // The senders' end.
    uint8_t tx_inside, tx_closed, tx_way, tx_lock;
    // The receivers' end.
    uint8_t rx_inside, rx_closed, rx_way, rx_lock, fin_seen;
    // Shared by both.
    uint8_t watching, switch_at, armed, bell_ever;
    // TCP: the senders of its bytes, in order.
    uint8_t tcp[BYTES], tcp_sent, tcp_arrived, tcp_read, fin_sent, fin_arrived;
    // The ring.
    uint8_t ring[BYTES], ring_put, ring_shown, ring_got;
    struct sender sender[PARTIES];
    struct receiver receiver[PARTIES];
    struct view tx_view[PARTIES], rx_view[PARTIES];
    uint8_t taken[PARTIES]; // bytes of each sender
    uint8_t kills_of_senders, kills_of_receivers;
    uint8_t excused; // a sender was killed between putting and ringing, and nobody has put after it
    uint8_t fill[4];
};
static_assert(sizeof(struct state) % 8 == 0, "states are hashed by words; all are bytes, so there is no padding");

static struct {
    const struct plan *plan;
    enum mutation mutation;
    const char *wrong; // what was found
    struct state *states;
    uint32_t *before; // of each state: the one that it was first reached from
    uint64_t count, room, at;
    uint32_t *table; // of states, by their hash: index + 1
    uint64_t table_size, steps;
} search;

static bool mutated(enum mutation mutation)
{
    return search.mutation == mutation;
}

static void found(const char *wrong)
{
    if (!search.wrong)
        search.wrong = wrong;
}

// --- what can be seen ---

static bool all_senders_ended(const struct state *s)
{
    for (int i = 0; i < search.plan->senders; i++) {
        if (s->sender[i].at < S_DONE)
            return false;
    }
    return true;
}

static bool tcp_readable(const struct state *s)
{
    return s->tcp_read < s->tcp_arrived || s->fin_arrived;
}

static bool at_tcp_end(const struct state *s)
{
    return s->fin_arrived && s->tcp_read == s->tcp_arrived;
}

static bool all_taken(const struct state *s)
{
    return s->tcp_read == s->tcp_sent && s->ring_got == s->ring_put;
}

static struct view *tx_view(struct state *s, int number)
{
    return &s->tx_view[search.plan->threads ? 0 : number];
}

static struct view *rx_view(struct state *s, int number)
{
    return &s->rx_view[search.plan->threads ? 0 : number];
}

// --- moves that all make ---

static void take(struct state *s, uint8_t byte)
{
    int sender = byte >> 4;

    if ((byte & 15) != s->taken[sender])
        found("a byte was taken out of order");
    s->taken[sender]++;
}

static uint8_t next_byte(const struct state *s, int number)
{
    return (uint8_t)(number << 4 | (search.plan->bytes[number] - s->sender[number].left));
}

static void take_from_tcp(struct state *s)
{
    take(s, s->tcp[s->tcp_read++]);
}

// After a byte, a receiver goes on, or wants no more.
static uint8_t go_on(struct state *s, int number, uint8_t at)
{
    if (number == 0 || !search.plan->leaves_after)
        return at;
    return ++s->receiver[number].got == search.plan->leaves_after ? R_DONE : at;
}

static void tcp_edge(struct state *s)
{
    for (int i = 0; i < search.plan->receivers; i++)
        s->receiver[i].tcp_edge |= s->receiver[i].in_nest;
}

static void ring_bell(struct state *s)
{
    s->bell_ever = 1;
    for (int i = 0; i < search.plan->receivers; i++)
        s->receiver[i].bell_edge |= s->receiver[i].in_nest;
}

static void arm(struct state *s)
{
    s->armed = 1;
    for (int i = 0; i < search.plan->senders; i++)
        s->sender[i].arm_is_latest = 0;
}

static bool close_gate(uint8_t *closed, uint8_t inside, bool ignore_inside)
{
    if (*closed || (inside && !ignore_inside))
        return *closed;
    *closed = 1;
    return true;
}

// --- sending ---

static void call_ends(struct sender *self)
{
    self->left--;
    self->bell_wanted = self->arm_is_latest = 0;
    self->at = S_BEGIN;
}

static bool may_switch(struct state *s, int number)
{
    return tx_view(s, number)->attached && (s->watching || mutated(SWITCH_WITHOUT_WATCHER));
}

static bool sender_begins(struct state *s, int number)
{
    struct sender *self = &s->sender[number];

    if (search.plan->in_turn && number && s->sender[0].at < S_DONE)
        return false;
    if (!self->left) {
        self->at = S_DONE;
        s->fin_sent = search.plan->closes && all_senders_ended(s);
    } else if (tx_view(s, number)->way == RING) {
        self->at = S_RING_LOCK;
    } else {
        self->at = may_switch(s, number) ? S_LOCK : S_ENTER;
    }
    return true;
}

static bool sender_locks(struct state *s, int number)
{
    struct sender *self = &s->sender[number];

    if (s->tx_lock)
        return false;
    s->tx_lock = (uint8_t)(number + 1);
    if (mutated(POSITION_BEFORE_GATE))
        self->position = s->tcp_sent;
    self->at = S_CLOSE_GATE;
    return true;
}

static void sender_closes_gate(struct state *s, struct sender *self)
{
    if (!close_gate(&s->tx_closed, s->tx_inside, mutated(SWITCH_WITHOUT_GATE))) {
        s->tx_lock = NOBODY;
        self->position = 0;
        self->at = S_ENTER;
    } else if (s->tx_way == RING) {
        self->at = S_SWITCHED;
    } else {
        self->at = mutated(POSITION_BEFORE_GATE) ? S_PUBLISH_SWITCH : S_POSITION;
    }
}

static void sender_enters(struct state *s, int number)
{
    struct sender *self = &s->sender[number];

    if (!s->tx_closed) {
        s->tx_inside++;
        self->at = S_IN_KERNEL;
        return;
    }
    tx_view(s, number)->attached = 1; // it asks the agent for the session that another has made
    if (!may_switch(s, number))
        found("a send found its gate closed, and no ring");
    self->at = S_LOCK;
}

static bool sender_locks_ring(struct state *s, int number)
{
    if (s->tx_lock)
        return false;
    s->tx_lock = (uint8_t)(number + 1);
    s->sender[number].at = S_PUT;
    return true;
}

static void look_at_arm(struct state *s, struct sender *self)
{
    self->bell_wanted = s->armed;
    self->arm_is_latest = 1;
}

// What the arm counters are compared for: after a stale store of an old one the bell is wanted again.
static void store_rung(struct state *s, const struct sender *self)
{
    s->armed = !self->arm_is_latest;
}

static void after_look(struct sender *self)
{
    self->at = !self->bell_wanted ? S_RING_UNLOCK : mutated(RUNG_BEFORE_BELL) ? S_RUNG : S_BELL;
}

static bool sender_step(struct state *s, int number)
{
    struct sender *self = &s->sender[number];

    switch (self->at) {
    case S_BEGIN:
        return sender_begins(s, number);
    case S_LOCK:
        return sender_locks(s, number);
    case S_CLOSE_GATE:
        sender_closes_gate(s, self);
        return true;
    case S_POSITION:
        self->position = s->tcp_sent;
        self->at = S_PUBLISH_SWITCH;
        return true;
    case S_PUBLISH_SWITCH:
        s->switch_at = self->position;
        self->at = S_WAY;
        return true;
    case S_WAY:
        s->tx_way = RING;
        self->at = S_SWITCHED;
        return true;
    case S_SWITCHED:
        self->position = 0;
        tx_view(s, number)->way = RING;
        s->tx_lock = NOBODY;
        self->at = S_BEGIN;
        return true;
    case S_ENTER:
        sender_enters(s, number);
        return true;
    case S_IN_KERNEL:
        s->tcp[s->tcp_sent++] = next_byte(s, number);
        self->at = S_LEAVE;
        return true;
    case S_LEAVE:
        s->tx_inside--;
        call_ends(self);
        return true;
    case S_RING_LOCK:
        return sender_locks_ring(s, number);
    case S_PUT:
        s->ring[s->ring_put++] = next_byte(s, number);
        self->at = mutated(PUBLISH_AFTER_BELL) ? S_LOOK_ARM : S_PUBLISH;
        return true;
    case S_PUBLISH:
        s->ring_shown = s->ring_put;
        if (mutated(PUBLISH_AFTER_BELL))
            after_look(self);
        else
            self->at = S_LOOK_ARM;
        return true;
    case S_LOOK_ARM:
        look_at_arm(s, self);
        if (mutated(PUBLISH_AFTER_BELL))
            self->at = S_PUBLISH;
        else
            after_look(self);
        return true;
    case S_BELL:
        ring_bell(s);
        self->at = mutated(RUNG_BEFORE_BELL) ? S_RING_UNLOCK : S_RUNG;
        return true;
    case S_RUNG:
        store_rung(s, self);
        self->at = mutated(RUNG_BEFORE_BELL) ? S_BELL : S_RING_UNLOCK;
        return true;
    case S_RING_UNLOCK:
        s->tx_lock = NOBODY;
        s->excused = 0;
        call_ends(self);
        return true;
    default:
        return false;
    }
}

// A robust lock is let go; a gate is not, and so its direction stays TCP.
static void kill_sender(struct state *s, int number)
{
    struct sender *self = &s->sender[number];

    if (self->at > S_PUT && self->at < S_RING_UNLOCK)
        s->excused = 1;
    if (s->tx_lock == number + 1)
        s->tx_lock = NOBODY;
    uint8_t left = self->left;
    memset(self, 0, sizeof(*self));
    self->at = S_DEAD;
    self->left = left;
    s->kills_of_senders--;
    s->fin_sent = search.plan->closes && all_senders_ended(s);
}

// --- receiving ---

static void unlock(struct state *s, struct receiver *self)
{
    if (self->locked)
        s->rx_lock = NOBODY;
    self->locked = 0;
}

static void at_end(struct state *s, struct receiver *self)
{
    bool taken = s->excused ? s->ring_got == s->ring_shown : all_taken(s);

    if (!taken || !all_senders_ended(s))
        found("end of stream was reported too early");
    unlock(s, self);
    self->at = R_DONE;
}

static void receiver_attaches(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];
    bool closed = rx_view(s, number)->attached && close_gate(&s->rx_closed, s->rx_inside, mutated(WATCH_WITHOUT_GATE));

    self->at = closed ? R_WATCH_WAY : R_ENTER;
}

static void receiver_enters(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    if (!s->rx_closed) {
        s->rx_inside++;
        self->at = R_IN_KERNEL;
        return;
    }
    rx_view(s, number)->attached = 1; // it asks the agent for the session that another has made
    self->at = R_WATCH_WAY;
}

static bool receiver_in_kernel(struct state *s, struct receiver *self)
{
    if (!tcp_readable(s))
        return false;
    self->at = at_tcp_end(s) ? R_LEAVE_AT_END : R_LEAVE;
    if (!at_tcp_end(s))
        take_from_tcp(s);
    return true;
}

static bool receiver_takes(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    if (rx_view(s, number)->way == RING) {
        self->at = R_GET;
        return true;
    }
    if (!mutated(NO_RECEIVE_LOCK)) {
        if (s->rx_lock)
            return false;
        s->rx_lock = (uint8_t)(number + 1);
        self->locked = 1;
    }
    self->at = R_SETTLE;
    return true;
}

static void settles_in_ring(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    s->rx_way = RING;
    rx_view(s, number)->way = RING;
    unlock(s, self);
    self->at = R_GET;
}

static void reads_tcp(struct receiver *self, bool limited)
{
    self->limited = limited;
    self->at = R_CLEAR_EVENT;
}

static void receiver_settles(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    if (s->rx_way == RING || (s->switch_at != NOT_YET && mutated(RING_BEFORE_TCP_IS_READ)))
        settles_in_ring(s, number);
    else if (s->switch_at == NOT_YET || s->tcp_read < s->switch_at)
        reads_tcp(self, s->switch_at != NOT_YET);
    else if (s->tcp_read == s->switch_at)
        settles_in_ring(s, number);
    else
        found("more was read from TCP than had been sent before the switch");
}

static void receiver_reads_tcp(struct state *s, struct receiver *self)
{
    if (s->tcp_read < s->tcp_arrived) {
        take_from_tcp(s);
        self->answer = ANSWER_BYTE;
    } else {
        self->answer = at_tcp_end(s) ? ANSWER_END : ANSWER_NOTHING;
    }
    self->at = R_SET_EVENT;
}

static void receiver_sets_event(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    if (self->answer == ANSWER_BYTE || (self->answer == ANSWER_END && !mutated(END_READ_IN_SILENCE)))
        rx_view(s, number)->tcp_event = 1;
    self->at = R_LOOK_FOR_SWITCH;
}

static void receiver_looks_for_switch(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];
    uint8_t answer = self->answer;
    bool settle = answer != ANSWER_BYTE && !self->limited && s->switch_at != NOT_YET && !mutated(NO_SECOND_SWITCH_LOOK);

    self->answer = self->limited = 0;
    if (settle) {
        self->at = R_SETTLE;
    } else if (answer == ANSWER_END) {
        at_end(s, self);
    } else {
        unlock(s, self);
        self->at = answer == ANSWER_BYTE ? go_on(s, number, R_TAKE) : R_NEST;
    }
}

static void receiver_gets(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    if (s->ring_got < s->ring_shown) {
        take(s, s->ring[s->ring_got++]);
        self->at = go_on(s, number, R_GET);
    } else {
        self->at = R_EXAMINE_TCP;
    }
}

static void believe_fin_seen(struct state *s, struct receiver *self)
{
    self->at = !s->fin_seen ? R_NEST : mutated(NO_SECOND_RING_LOOK) ? R_ASK_KERNEL : R_LOOK_AGAIN;
}

static void receiver_examines(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    if (rx_view(s, number)->tcp_event)
        self->at = R_POLL_TCP;
    else
        believe_fin_seen(s, self);
    rx_view(s, number)->tcp_event = 0;
}

static void receiver_polls_tcp(struct state *s, struct receiver *self)
{
    bool news = s->fin_arrived && !s->fin_seen;

    s->fin_seen |= s->fin_arrived;
    if (news && !mutated(END_SEEN_IN_SILENCE))
        self->at = R_OWN_BELL;
    else
        believe_fin_seen(s, self);
}

static void receiver_asks_kernel(struct state *s, struct receiver *self)
{
    if (s->tcp_read < s->tcp_arrived)
        found("there were bytes on TCP that nobody should have sent");
    at_end(s, self);
}

// The first time, whatever is already there counts as an edge.
static void receiver_nests(struct state *s, struct receiver *self)
{
    if (!self->in_nest) {
        self->in_nest = 1;
        self->bell_edge = s->bell_ever;
        self->tcp_edge = tcp_readable(s);
    }
    self->at = mutated(ARM_AFTER_LOOK) ? R_LOOK : R_ARM;
}

static void falls_asleep(struct receiver *self)
{
    self->at = mutated(ARM_AFTER_LOOK) ? R_ARM : mutated(BELL_DRAINED_LATE) ? R_DRAIN : R_SLEEP;
}

static void receiver_looks_at_tcp(struct state *s, int number)
{
    if (rx_view(s, number)->way == WATCH && tcp_readable(s))
        s->receiver[number].at = R_TAKE;
    else
        falls_asleep(&s->receiver[number]);
}

static bool receiver_sleeps(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    if (!self->bell_edge && !self->tcp_edge)
        return false;
    rx_view(s, number)->tcp_event |= self->tcp_edge;
    self->bell_edge = self->tcp_edge = 0;
    self->at = R_TAKE;
    return true;
}

static bool receiver_step(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    switch (self->at) {
    case R_BEGIN:
        if (rx_view(s, number)->way == TCP)
            receiver_attaches(s, number);
        else
            self->at = R_TAKE;
        return true;
    case R_ENTER:
        receiver_enters(s, number);
        return true;
    case R_IN_KERNEL:
        return receiver_in_kernel(s, self);
    case R_LEAVE:
        s->rx_inside--;
        self->at = go_on(s, number, R_BEGIN);
        return true;
    case R_LEAVE_AT_END:
        s->rx_inside--;
        at_end(s, self);
        return true;
    case R_WATCH_WAY:
        s->rx_way = s->rx_way == TCP ? WATCH : s->rx_way;
        self->at = R_WATCH_ARM;
        return true;
    case R_WATCH_ARM:
        arm(s);
        self->at = R_WATCHING;
        return true;
    case R_WATCHING:
        s->watching = 1;
        self->at = R_WATCHED;
        return true;
    case R_WATCHED:
        rx_view(s, number)->tcp_event = 1;
        rx_view(s, number)->way = s->rx_way;
        self->at = R_TAKE;
        return true;
    case R_TAKE:
        return receiver_takes(s, number);
    case R_SETTLE:
        receiver_settles(s, number);
        return true;
    case R_CLEAR_EVENT:
        rx_view(s, number)->tcp_event = 0;
        self->at = R_READ_TCP;
        return true;
    case R_READ_TCP:
        receiver_reads_tcp(s, self);
        return true;
    case R_SET_EVENT:
        receiver_sets_event(s, number);
        return true;
    case R_LOOK_FOR_SWITCH:
        receiver_looks_for_switch(s, number);
        return true;
    case R_GET:
        receiver_gets(s, number);
        return true;
    case R_EXAMINE_TCP:
        receiver_examines(s, number);
        return true;
    case R_POLL_TCP:
        receiver_polls_tcp(s, self);
        return true;
    case R_OWN_BELL:
        ring_bell(s);
        believe_fin_seen(s, self);
        return true;
    case R_LOOK_AGAIN:
        self->at = s->ring_got < s->ring_shown ? R_GET : R_ASK_KERNEL;
        return true;
    case R_ASK_KERNEL:
        receiver_asks_kernel(s, self);
        return true;
    case R_NEST:
        receiver_nests(s, self);
        return true;
    case R_ARM:
        arm(s);
        self->at = mutated(ARM_AFTER_LOOK) || mutated(NO_LOOK_AFTER_ARM) ? R_SLEEP : R_LOOK;
        return true;
    case R_LOOK:
        self->at = rx_view(s, number)->tcp_event ? R_TAKE : R_LOOK_AT_RING;
        return true;
    case R_LOOK_AT_RING:
        self->at = s->ring_got < s->ring_shown ? R_TAKE : R_LOOK_AT_TCP;
        return true;
    case R_LOOK_AT_TCP:
        receiver_looks_at_tcp(s, number);
        return true;
    case R_DRAIN:
        self->bell_edge = self->tcp_edge = 0;
        self->at = R_SLEEP;
        return true;
    case R_SLEEP:
        return receiver_sleeps(s, number);
    default:
        return false;
    }
}

static void kill_receiver(struct state *s, int number)
{
    struct receiver *self = &s->receiver[number];

    unlock(s, self);
    memset(self, 0, sizeof(*self));
    self->at = R_DEAD;
    s->kills_of_receivers--;
}

// --- the network, and the agent ---

static bool network_step(struct state *s)
{
    if (s->tcp_arrived < s->tcp_sent)
        s->tcp_arrived++;
    else if (s->fin_sent && !s->fin_arrived)
        s->fin_arrived = 1;
    else
        return false;
    tcp_edge(s);
    return true;
}

// --- the search ---

static uint64_t hash(const struct state *s)
{
    uint64_t words[sizeof(*s) / 8], h = 0;

    memcpy(words, s, sizeof(words));
    for (size_t i = 0; i < sizeof(*s) / 8; i++)
        h = (h ^ words[i] ^ h >> 32) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static void *grow(void *memory, size_t size)
{
    memory = realloc(memory, size);
    assert_non_null(memory);
    return memory;
}

static void enter_in_table(uint64_t index)
{
    uint64_t at = hash(&search.states[index]) & (search.table_size - 1);

    while (search.table[at])
        at = (at + 1) & (search.table_size - 1);
    search.table[at] = (uint32_t)index + 1;
}

static void grow_table(void)
{
    search.table_size = search.table_size ? 2 * search.table_size : 1 << 16;
    free(search.table);
    search.table = calloc(search.table_size, sizeof(*search.table));
    assert_non_null(search.table);
    for (uint64_t i = 0; i < search.count; i++)
        enter_in_table(i);
}

static bool known(const struct state *s)
{
    uint64_t at = hash(s) & (search.table_size - 1);

    for (; search.table[at]; at = (at + 1) & (search.table_size - 1)) {
        if (memcmp(&search.states[search.table[at] - 1], s, sizeof(*s)) == 0)
            return true;
    }
    return false;
}

static void visit(const struct state *s)
{
    search.steps++;
    if (search.wrong || known(s))
        return;
    if (search.count == search.room) {
        search.room = search.room ? 2 * search.room : 1 << 14;
        search.states = grow(search.states, search.room * sizeof(*s));
        search.before = grow(search.before, search.room * sizeof(*search.before));
    }
    search.before[search.count] = (uint32_t)search.at;
    search.states[search.count++] = *s;
    if (2 * search.count > search.table_size)
        grow_table();
    else
        enter_in_table(search.count - 1);
}

static struct state first_state(void)
{
    struct state s;

    memset(&s, 0, sizeof(s));
    s.switch_at = NOT_YET;
    s.kills_of_senders = search.plan->sender_kills;
    s.kills_of_receivers = search.plan->receiver_kills;
    for (int i = 0; i < search.plan->senders; i++)
        s.sender[i].left = search.plan->bytes[i];
    return s;
}

static bool someone_waits(const struct state *s)
{
    for (int i = 0; i < search.plan->receivers; i++) {
        if (s->receiver[i].at < R_DONE)
            return true;
    }
    return false;
}

static void check_standstill(const struct state *s)
{
    if (!someone_waits(s))
        return;
    if (!all_senders_ended(s))
        found("a sender is stuck");
    if (search.plan->closes)
        found("a receiver was left behind, and never learns of the end");
    if (!all_taken(s) && !s->excused)
        found("a receiver was left behind, and there is something for it");
}

// All that may happen next in state `from`. Returns whether anything but a kill, or a word of the agent, may.
static bool visit_successors(const struct state *from)
{
    bool moved = false;

    for (int i = 0; i < search.plan->senders; i++) {
        struct state s = *from;
        if (sender_step(&s, i)) {
            visit(&s);
            moved = true;
        }
    }
    for (int i = 0; i < search.plan->receivers; i++) {
        struct state s = *from;
        if (receiver_step(&s, i)) {
            visit(&s);
            moved = true;
        }
    }
    struct state s = *from;
    if (network_step(&s)) {
        visit(&s);
        moved = true;
    }
    return moved;
}

// The agent's word comes to each process when it comes.
static void visit_attached(const struct state *from)
{
    for (int i = 0; i < search.plan->senders; i++) {
        struct state s = *from;
        struct view *view = tx_view(&s, i);
        if (from->sender[i].at < S_DONE && !view->attached) {
            view->attached = 1;
            visit(&s);
        }
    }
    for (int i = 0; i < search.plan->receivers; i++) {
        struct state s = *from;
        struct view *view = rx_view(&s, i);
        if (from->receiver[i].at < R_DONE && !view->attached) {
            view->attached = 1;
            visit(&s);
        }
    }
}

// Only the first of each kind is ever killed: the others are no different.
static void visit_killed(const struct state *from)
{
    if (from->kills_of_senders && from->sender[0].at < S_DONE) {
        struct state s = *from;
        kill_sender(&s, 0);
        visit(&s);
    }
    if (from->kills_of_receivers && from->receiver[0].at < R_DONE) {
        struct state s = *from;
        kill_receiver(&s, 0);
        visit(&s);
    }
}

static void explore(const struct plan *plan, enum mutation mutation)
{
    search.plan = plan;
    search.mutation = mutation;
    search.wrong = NULL;
    search.count = search.steps = search.table_size = search.at = 0;
    grow_table();
    struct state first = first_state();
    visit(&first);
    for (; search.at < search.count && !search.wrong; search.at++) {
        struct state s = search.states[search.at];
        if (!visit_successors(&s))
            check_standstill(&s);
        visit_attached(&s);
        visit_killed(&s);
    }
}

// --- telling ---

static void say_state(const struct state *s)
{
    fprintf(stderr, "  tcp %u>%u>%u%s ring %u>%u>%u%s%s%s|", s->tcp_sent, s->tcp_arrived, s->tcp_read,
            s->fin_arrived ? " fin" : "", s->ring_put, s->ring_shown, s->ring_got, s->watching ? " watching" : "",
            s->switch_at == NOT_YET ? "" : " switched", s->armed ? " armed" : "");
    for (int i = 0; i < search.plan->senders; i++)
        fprintf(stderr, " %s", sender_steps[s->sender[i].at]);
    for (int i = 0; i < search.plan->receivers; i++)
        fprintf(stderr, " %s%s%s%s", receiver_steps[s->receiver[i].at], s->receiver[i].bell_edge ? " bell" : "",
                s->receiver[i].tcp_edge ? " tcp" : "", s->rx_view[i].tcp_event ? " event" : "");
    fprintf(stderr, "\n");
}

// How the search came to what is wrong: states are visited in the order of their distance, so there is no shorter way.
static void say_path(uint64_t to)
{
    if (to)
        say_path(search.before[to]);
    say_state(&search.states[to]);
}

// --- tests ---

static const struct plan plans[] = {
    {"one of each", 1, 1, {5}, .closes = true},
    {"one of each, open", 1, 1, {5}, .closes = false},
    {"two sending threads", 2, 1, {2, 1}, .threads = true},
    {"two receiving threads", 1, 2, {2}, .closes = true, .threads = true},
    {"two receiving threads, one leaves", 1, 2, {2}, .closes = true, .threads = true, .leaves_after = 1},
    {"two senders", 2, 1, {2, 1}, .closes = true},
    {"two receivers", 1, 2, {2}, .closes = true},
    {"two receivers, open", 1, 2, {2}, .closes = false},
    {"a sender killed", 2, 1, {2, 1}, .closes = true, .sender_kills = 1},
    {"a sender killed, another goes on", 2, 1, {2, 2}, .in_turn = true, .sender_kills = 1},
    {"a receiver killed", 1, 2, {2}, .closes = true, .receiver_kills = 1},
    {"two of each", 2, 2, {1, 1}, .closes = true, .threads = true},
};
#define PLANS (sizeof(plans) / sizeof(plans[0]))

static void test_the_protocol(void **state)
{
    uint64_t states = 0;

    for (size_t i = 0; i < PLANS; i++) {
        explore(&plans[i], NONE);
        printf("attach_model: %s: %llu states, %llu steps%s%s\n", plans[i].name, (unsigned long long)search.count,
               (unsigned long long)search.steps, search.wrong ? ": " : "", search.wrong ? search.wrong : "");
        if (search.wrong)
            say_path(search.at - 1);
        assert_null(search.wrong);
        states += search.count;
    }
    printf("attach_model: %llu states in all\n", (unsigned long long)states);
}

static void test_each_mutation_is_found(void **state)
{
    for (enum mutation mutation = NONE + 1; mutation < MUTATIONS; mutation++) {
        size_t i = 0;
        do
            explore(&plans[i], mutation);
        while (!search.wrong && ++i < PLANS);
        printf("attach_model: %s: %s%s%s\n", mutation_names[mutation], search.wrong ? search.wrong : "not found",
               search.wrong ? ", with " : "", search.wrong ? plans[i].name : "");
        assert_non_null(search.wrong);
    }
}

static int free_memory(void **state)
{
    free(search.states);
    free(search.before);
    free(search.table);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_protocol),
        cmocka_unit_test(test_each_mutation_is_found),
    };
    return cmocka_run_group_tests_name("attach_model", tests, NULL, free_memory);
}
