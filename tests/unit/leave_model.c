// The way back of one direction, tried exhaustively: every order of every step of a small model.
//
// The model follows preload/leave.c and resend.c step by step: a step is what happens at once as far as others can see.
// Producers are processes that share their end; any of them may be asked to leave the ring at any time, and one of them
// be killed at any step. TCP is a queue, the ring has room for all. How attaching itself goes, and who wakes whom, is
// attach_model's subject: here the consumer watches from the beginning, and everybody keeps looking. It may hand its end to
// a stranger at any time (preload/handover.h), who reads TCP and nothing else. In each state
//
//   - what a consumer takes is the next byte of its producer,
//   - end of stream is reported only if all that a producer put or sent was taken,
//   - if nobody can move, nothing is left.
//
// The last comes with the mutations: each is a mistake one could make, and must be found.

#include <stdarg.h>
#include <setjmp.h>
#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PRODUCERS 2
#define BYTES     5  // of all producers, at most
#define QUEUE     14 // units in TCP, at most
#define NOT_YET   255
#define RECORD    0xf0 // in the queue: a record, and from which byte on in its low bits

enum way { TCP, WATCH, RING, LEFT, BACK };
enum wish { NOTHING, DRAIN, RESEND, BARE };

enum mutation {
    NONE,
    LEAVE_UNSETTLED,      // the producer leaves although the consumer has not settled
    SWITCH_AFTER_FREEZE,  // who dies in leaving is not noticed by who is about to switch
    AGAIN_AFTER_LEFT_AT,  // nor by who is to send again, being asked to after it was begun
    NO_FREEZE,            // others go on producing behind the end
    TCP_BEFORE_RING,      // the consumer turns to TCP as soon as the producer has left
    NO_LOOK_AT_SWITCH,    // what TCP has is read without another look for a switch
    RECORD_UNKNOWN,       // a record is sent although the consumer may not know where it could stand
    NO_RECORD,            // none is sent although the consumer has read and freed a part
    LEFT_AT_AND_AGAIN,    // what is sent again is also said to end in the ring
    NO_SKIP,              // what was read before is read again
    COUNTED_BY_ITSELF,    // how much was sent again is counted, not asked of the kernel
    WATCHING_BEFORE_HEAD, // whether the consumer has settled is looked at before its cursor
    RECORD_FOR_STRANGER,  // a record is sent to who does not know of any
    ASKED_TOO_LATE,       // a stranger takes over although the producer leaves in another way
    ASKED_TOO_EARLY,      // ... and before it is said what was read
    MUTATIONS
};

static const char *const mutation_names[MUTATIONS] = {
    "none",
    "leave unsettled",
    "switch after freeze",
    "again after left_at",
    "no freeze",
    "TCP before ring",
    "no look again",
    "record if unknown",
    "no record",
    "left_at, too",
    "no skip",
    "counted by itself",
    "watching before head",
    "record for stranger",
    "asked too late",
    "asked too early",
};

struct plan {
    const char *name;
    uint8_t producers;
    uint8_t bytes[PRODUCERS];
    uint8_t first_wish, last_wish; // one of these comes, at any time
    uint8_t kills;
    bool stranger; // may take over from the consumer
};

// clang-format off
#define PRODUCER_STEPS(X) \
    X(P_BEGIN) \
    X(P_SEND) \
    X(P_SWITCH_LOCK) \
    X(P_POSITION) \
    X(P_SWITCH) \
    X(P_SWITCH_WAY) \
    X(P_RING_LOCK) \
    X(P_PUT) \
    X(P_PUBLISH) \
    X(P_UNLOCK) \
    X(P_LEAVE_LOCK) \
    X(P_FREEZE) \
    X(P_LEAVE_PUBLISH) \
    X(P_LEFT_AT) \
    X(P_LEFT) \
    X(P_HEAD) \
    X(P_KNOWN) \
    X(P_BACK_AT) \
    X(P_BACK) \
    X(P_AGAIN) \
    X(P_COUNT) \
    X(P_DONE) \
    X(P_DEAD)
#define CONSUMER_STEPS(X) \
    X(C_BEGIN) \
    X(C_WISH) \
    X(C_LEFT_AT) \
    X(C_SWITCH_AT) \
    X(C_PEEK) \
    X(C_LOOK_AGAIN) \
    X(C_READ) \
    X(C_SETTLED) \
    X(C_RING) \
    X(C_GET) \
    X(C_SHOW) \
    X(C_END) \
    X(C_LOOK_AT_TCP) \
    X(C_FREEZE) \
    X(C_BACK) \
    X(C_SKIP) \
    X(C_REST) \
    X(C_HAND_FREEZE) \
    X(C_HAND_SHOW) \
    X(C_HAND_ASK) \
    X(C_DONE)
// clang-format on
#define AS_CONSTANT(name) name,
#define AS_STRING(name)   #name,
enum { PRODUCER_STEPS(AS_CONSTANT) };
enum { CONSUMER_STEPS(AS_CONSTANT) };
static const char *const producer_steps[] = {PRODUCER_STEPS(AS_STRING)};
static const char *const consumer_steps[] = {CONSUMER_STEPS(AS_STRING)};

struct producer {
    uint8_t at, left, view, head, tail;
};

struct state {
    uint8_t wish, wish_taken, watching, switch_at, left_at;
    uint8_t tx_way, tx_lock, frozen, put, shown, back_at, back_from, back_record, back_sent;
    uint8_t rx_way, got, head_shown, head_frozen, back_to, back_end;
    uint8_t ring[BYTES];
    uint8_t tcp[QUEUE], sent, read, fin;
    struct producer producer[PRODUCERS];
    uint8_t consumer, seen, limit, wish_seen, left_seen;
    uint8_t taken[PRODUCERS];
    uint8_t kills;
    uint8_t handed;
};

static struct {
    const struct plan *plan;
    enum mutation mutation;
    const char *wrong;
    struct state *states;
    uint32_t *before, *table;
    uint64_t count, room, at, table_size;
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

// --- producing ---

static bool all_ended(const struct state *s)
{
    for (int i = 0; i < search.plan->producers; i++) {
        if (s->producer[i].at < P_DONE)
            return false;
    }
    return true;
}

static uint8_t next_byte(const struct state *s, int number)
{
    return (uint8_t)(number << 4 | (search.plan->bytes[number] - s->producer[number].left));
}

static void tcp_put(struct state *s, uint8_t unit)
{
    if (s->sent == QUEUE)
        abort();
    s->tcp[s->sent++] = unit;
}

// Two looks at what a dead producer left behind; either is enough against the first mistake.
static bool forgets_the_dead(void)
{
    return mutated(AGAIN_AFTER_LEFT_AT) || mutated(SWITCH_AFTER_FREEZE);
}

static bool may_leave(const struct state *s)
{
    if (s->wish == NOTHING)
        return false;
    if (s->tx_way == RING)
        return s->wish >= RESEND || s->watching == 2 || mutated(LEAVE_UNSETTLED);
    return s->tx_way == BACK || s->tx_way == TCP;
}

static void producer_begins(struct state *s, struct producer *self)
{
    if (!self->left) {
        // What is being sent again is sent to its end by somebody before the last of them closes.
        if (may_leave(s) && (s->tx_way == BACK || (s->tx_way == RING && s->wish >= RESEND))) {
            self->at = P_LEAVE_LOCK;
            return;
        }
        self->at = P_DONE;
        s->fin = all_ended(s);
    } else if (s->tx_way == LEFT && self->view != LEFT) {
        self->view = LEFT; // finds the ring frozen, or the way left, and goes along
    } else if (self->view != LEFT && may_leave(s)) {
        self->at = P_LEAVE_LOCK;
    } else if (self->view == RING) {
        self->at = P_RING_LOCK;
    } else {
        self->at = self->view == TCP && s->watching && s->wish == NOTHING ? P_SWITCH_LOCK : P_SEND;
    }
}

static bool lock(struct state *s, int number, uint8_t next)
{
    if (s->tx_lock)
        return false;
    s->tx_lock = (uint8_t)(number + 1);
    s->producer[number].at = next;
    return true;
}

static void leaves_how(struct state *s, struct producer *self)
{
    s->wish_taken |= s->tx_way != LEFT;
    if (s->tx_way == LEFT) {
        self->view = LEFT;
        self->at = P_UNLOCK;
    } else if (s->tx_way == BACK) {
        self->at = P_AGAIN;
    } else {
        self->at = P_FREEZE;
    }
}

static void send_again(struct state *s, struct producer *self)
{
    uint8_t done = mutated(COUNTED_BY_ITSELF) ? s->back_sent : (uint8_t)(s->sent - s->back_at);
    uint8_t bytes = (uint8_t)(s->put - s->back_from);

    if (done >= s->back_record + bytes) {
        self->at = P_LEFT;
        return;
    }
    tcp_put(s,
            done < s->back_record ? (uint8_t)(RECORD | s->back_from) : s->ring[s->back_from + done - s->back_record]);
    self->at = mutated(COUNTED_BY_ITSELF) ? P_COUNT : P_AGAIN;
}

static bool producer_step(struct state *s, int number)
{
    struct producer *self = &s->producer[number];

    switch (self->at) {
    case P_BEGIN:
        producer_begins(s, self);
        return true;
    case P_SEND: // gates keep kernel sends and the switch apart
        if (s->tx_way != TCP && s->tx_way != LEFT) {
            self->view = RING;
        } else if (s->tx_lock == 0 || s->tx_way == LEFT) {
            tcp_put(s, next_byte(s, number));
            self->left--;
        } else {
            return false;
        }
        self->at = P_BEGIN;
        return true;
    case P_SWITCH_LOCK:
        return lock(s, number,
                    s->tx_way == TCP && (!s->frozen || mutated(SWITCH_AFTER_FREEZE)) ? P_POSITION : P_UNLOCK);
    case P_POSITION:
        self->tail = s->sent;
        self->at = P_SWITCH;
        return true;
    case P_SWITCH:
        s->switch_at = self->tail;
        self->at = P_SWITCH_WAY;
        return true;
    case P_SWITCH_WAY:
        s->tx_way = RING;
        self->at = P_UNLOCK;
        return true;
    case P_RING_LOCK:
        return lock(s, number, P_PUT);
    case P_PUT:
        if (s->frozen && !mutated(NO_FREEZE)) {
            self->at = P_UNLOCK;
            return true;
        }
        s->ring[s->put++] = next_byte(s, number);
        self->left--;
        self->at = P_PUBLISH;
        return true;
    case P_PUBLISH:
        s->shown = s->put;
        self->at = P_UNLOCK;
        return true;
    case P_UNLOCK:
        s->tx_lock = 0;
        self->view = s->tx_way;
        self->at = P_BEGIN;
        return true;
    case P_LEAVE_LOCK:
        if (!lock(s, number, P_LEAVE_LOCK))
            return false;
        leaves_how(s, self);
        return true;
    case P_FREEZE:
        s->frozen = 1;
        self->tail = s->put;
        self->at = P_LEAVE_PUBLISH;
        return true;
    case P_LEAVE_PUBLISH:
        s->shown = s->put;
        self->at = s->wish >= RESEND && s->tx_way == RING && (s->left_at == NOT_YET || forgets_the_dead()) ? P_HEAD
                                                                                                           : P_LEFT_AT;
        return true;
    case P_LEFT_AT:
        s->left_at = s->put;
        self->at = P_LEFT;
        return true;
    case P_LEFT:
        if (mutated(LEFT_AT_AND_AGAIN) || s->wish == BARE)
            s->left_at = s->put;
        s->tx_way = LEFT;
        self->view = LEFT;
        self->at = P_UNLOCK;
        return true;
    case P_HEAD:
        self->head = mutated(WATCHING_BEFORE_HEAD) ? s->watching == 2 : s->head_shown;
        self->at = P_KNOWN;
        return true;
    case P_KNOWN: {
        bool settled = mutated(WATCHING_BEFORE_HEAD) ? self->head : self->head || s->watching == 2;
        self->head = mutated(WATCHING_BEFORE_HEAD) ? s->head_shown : self->head;
        s->back_record = mutated(NO_RECORD) ? 0 : settled || mutated(RECORD_UNKNOWN);
        if (s->wish == BARE && !mutated(RECORD_FOR_STRANGER))
            s->back_record = 0;
        s->back_from = self->head;
        self->at = P_BACK_AT;
        return true;
    }
    case P_BACK_AT:
        s->back_at = s->sent;
        self->at = P_BACK;
        return true;
    case P_BACK:
        s->tx_way = BACK;
        self->at = P_AGAIN;
        return true;
    case P_AGAIN:
        send_again(s, self);
        return true;
    case P_COUNT:
        s->back_sent++;
        self->at = P_AGAIN;
        return true;
    default:
        return false;
    }
}

// What a killed process has not put into anything is not missed.
static void kill_producer(struct state *s, int number)
{
    struct producer *self = &s->producer[number];

    if (s->tx_lock == number + 1)
        s->tx_lock = 0;
    if (self->at == P_PUBLISH)
        s->shown = s->put; // by the next holder, or the agent
    uint8_t left = self->left;
    memset(self, 0, sizeof(*self));
    self->at = P_DEAD;
    self->left = left;
    s->kills--;
    s->fin = all_ended(s);
}

// --- consuming ---

static void take(struct state *s, uint8_t byte)
{
    if (byte >= RECORD) {
        found("a record was read as data");
        return;
    }
    if ((byte & 15) != s->taken[byte >> 4])
        found("a byte was taken out of order");
    s->taken[byte >> 4]++;
}

// A killed process that was to send again what nobody can reach any more takes it along. Behind a record the consumer
// knows, and says ECONNRESET.
static bool may_be_lost(const struct state *s)
{
    return s->wish >= RESEND && search.plan->kills && s->producer[0].at == P_DEAD;
}

static void at_end(struct state *s)
{
    if (may_be_lost(s)) {
        s->consumer = C_DONE;
        return;
    }
    for (int i = 0; i < search.plan->producers; i++) {
        if (s->taken[i] != search.plan->bytes[i] - s->producer[i].left)
            found("an end of stream, and not all was taken");
    }
    s->consumer = C_DONE;
}

// Whoever leaves early relies on the second look, so that mistake is tried together with the lack of it.
static bool looks_once(void)
{
    return mutated(NO_LOOK_AT_SWITCH) || mutated(LEAVE_UNSETTLED);
}

static bool readable(const struct state *s)
{
    return s->read < s->sent;
}

static void settle(struct state *s)
{
    if (s->switch_at == NOT_YET && s->wish_seen == RESEND) {
        s->rx_way = LEFT;
        s->consumer = C_BEGIN;
    } else if (s->switch_at == NOT_YET && s->left_seen != NOT_YET) {
        s->consumer = C_SETTLED;
    } else if (s->switch_at == NOT_YET) {
        s->consumer = C_PEEK;
    } else if (s->read < s->switch_at) {
        s->limit = s->switch_at;
        s->consumer = C_READ;
    } else {
        if (s->read > s->switch_at)
            found("the consumer has read beyond the switch");
        s->consumer = C_SETTLED;
    }
}

// Looks at what stands where a repetition could begin.
static void find_repetition(struct state *s)
{
    uint8_t unit = s->tcp[s->read];
    bool record = unit >= RECORD;
    uint8_t from = record ? unit & 15 : 0;

    s->head_frozen = 1;
    if (s->got < from)
        found("the repetition begins behind what was read");
    s->back_to = (uint8_t)(s->read + record + (mutated(NO_SKIP) ? 0 : s->got - from));
    s->consumer = C_BACK;
}

// Too late, the consumer sees the producer's way to its end; or there is none, and the connection is reset.
static void ask_for_stranger(struct state *s)
{
    bool cannot_come = s->fin && s->got < s->shown && s->left_at == NOT_YET && s->tx_way == RING;

    s->handed = 1;
    s->consumer = cannot_come ? C_DONE : C_BEGIN;
    if (!s->wish_taken || mutated(ASKED_TOO_LATE)) {
        s->wish = s->wish_taken ? s->wish : BARE;
        s->rx_way = LEFT;
    } else if (s->wish == DRAIN && s->left_at != s->got) {
        s->consumer = C_DONE;
    }
}

static bool consumer_step(struct state *s)
{
    switch (s->consumer) {
    case C_BEGIN:
        if (s->rx_way == LEFT) {
            if (readable(s))
                take(s, s->tcp[s->read++]);
            else if (s->fin)
                at_end(s);
            else
                return false;
            return true;
        }
        s->consumer = s->rx_way == WATCH ? C_WISH : s->rx_way == BACK ? C_SKIP : C_RING;
        return true;
    case C_WISH:
        s->wish_seen = s->wish;
        s->consumer = C_LEFT_AT;
        return true;
    case C_LEFT_AT:
        s->left_seen = s->left_at;
        s->consumer = C_SWITCH_AT;
        return true;
    case C_SWITCH_AT:
        settle(s);
        return true;
    case C_PEEK:
        s->seen = (uint8_t)(s->sent - s->read);
        s->consumer = C_LOOK_AGAIN;
        return true;
    case C_LOOK_AGAIN:
        if (s->switch_at != NOT_YET && !looks_once()) {
            s->consumer = C_BEGIN;
        } else if (s->seen || (looks_once() && readable(s))) {
            s->limit = looks_once() ? QUEUE : (uint8_t)(s->read + s->seen);
            s->consumer = C_READ;
        } else if (s->fin && !readable(s) && s->switch_at == NOT_YET) {
            at_end(s);
        } else {
            s->consumer = C_BEGIN;
        }
        s->seen = 0;
        return true;
    case C_READ:
        if (readable(s) && s->read < s->limit)
            take(s, s->tcp[s->read++]);
        s->limit = 0;
        s->consumer = C_BEGIN;
        return true;
    case C_SETTLED:
        s->watching = 2;
        s->rx_way = RING;
        s->consumer = C_BEGIN;
        return true;
    case C_RING:
        if (s->left_at != NOT_YET && mutated(TCP_BEFORE_RING)) {
            s->rx_way = LEFT;
            s->consumer = C_BEGIN;
        } else {
            s->consumer = s->got < s->shown && !s->head_frozen ? C_GET : C_END;
        }
        return true;
    case C_GET:
        take(s, s->ring[s->got++]);
        s->consumer = C_SHOW;
        return true;
    case C_SHOW: // now and then; the one who frees all is as good as any
        s->head_shown = s->got;
        s->consumer = C_BEGIN;
        return true;
    case C_END:
        if (s->left_at != NOT_YET && s->left_at == s->got)
            s->rx_way = LEFT;
        if (s->left_at != NOT_YET && s->left_at < s->got)
            found("more was read than the ring had");
        s->consumer = s->left_at != NOT_YET ? C_BEGIN : C_LOOK_AT_TCP;
        if (s->handed && s->left_at != NOT_YET && s->left_at > s->got)
            s->consumer = C_DONE; // a reset
        return true;
    case C_LOOK_AT_TCP:
        if ((s->got < s->shown && !s->handed) || s->left_at != NOT_YET)
            s->consumer = C_BEGIN;
        else if (readable(s))
            s->consumer = C_FREEZE;
        else if (s->fin && s->handed)
            s->consumer = C_DONE; // a reset, when its patience ends
        else if (s->fin && s->got == s->shown && s->left_at == NOT_YET)
            at_end(s);
        else
            s->consumer = C_BEGIN;
        return true;
    case C_FREEZE:
        find_repetition(s);
        return true;
    case C_BACK:
        s->rx_way = BACK;
        s->consumer = C_BEGIN;
        return true;
    case C_SKIP:
        s->consumer = C_REST;
        return true;
    case C_REST:
        if (s->read < s->back_to && readable(s))
            s->read++;
        else if (s->read >= s->back_to)
            s->rx_way = LEFT;
        else if (s->fin)
            at_end(s);
        s->consumer = s->consumer == C_DONE ? C_DONE : C_BEGIN;
        return true;
    case C_HAND_FREEZE:
        s->head_frozen = 1;
        s->consumer = mutated(ASKED_TOO_EARLY) ? C_HAND_ASK : C_HAND_SHOW;
        return true;
    case C_HAND_SHOW:
        s->head_shown = s->got;
        s->consumer = C_HAND_ASK;
        return true;
    case C_HAND_ASK:
        ask_for_stranger(s);
        return true;
    default:
        return false;
    }
}

// --- the search ---

static uint64_t hash(const struct state *s)
{
    const unsigned char *byte = (const unsigned char *)s;
    uint64_t h = 14695981039346656037u;

    for (size_t i = 0; i < sizeof(*s); i++)
        h = (h ^ byte[i]) * 1099511628211u;
    return h ^ h >> 29;
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

// Returns whether the state is another than that from which it was reached.
static bool visit(const struct state *from, const struct state *s)
{
    bool moved = !from || memcmp(from, s, sizeof(*s)) != 0;

    if (search.wrong || known(s))
        return moved;
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
    return moved;
}

static void visit_wishes(const struct state *from)
{
    for (uint8_t wish = search.plan->first_wish; wish <= search.plan->last_wish; wish++) {
        struct state s = *from;
        if (wish > s.wish && (!s.wish_taken || mutated(AGAIN_AFTER_LEFT_AT))) {
            s.wish = wish;
            visit(from, &s);
        }
    }
}

static void visit_successors(const struct state *from)
{
    for (int i = 0; i < search.plan->producers; i++) {
        struct state s = *from;
        if (producer_step(&s, i))
            visit(from, &s);
        s = *from;
        if (s.kills && i == 0 && s.producer[0].at < P_DONE) {
            kill_producer(&s, 0);
            visit(from, &s);
        }
    }
    struct state s = *from;
    if (consumer_step(&s))
        visit(from, &s);
    s = *from;
    if (search.plan->stranger && !s.handed && (s.consumer == C_BEGIN || s.consumer == C_SHOW) &&
        (s.rx_way == WATCH || s.rx_way == RING)) {
        s.consumer = C_HAND_FREEZE;
        visit(from, &s);
    }
    visit_wishes(from);
}

// When all producers have ended and nothing is left to be ordered, the consumer alone must come to its end.
static void check_end(const struct state *from)
{
    struct state s = *from;

    if (!all_ended(&s) || search.wrong)
        return;
    for (int i = 0; i < 400 && s.consumer != C_DONE; i++)
        consumer_step(&s);
    if (s.consumer != C_DONE)
        found("the consumer never learns of the end");
}

static void explore(const struct plan *plan, enum mutation mutation)
{
    struct state first;

    search.plan = plan;
    search.mutation = mutation;
    search.wrong = NULL;
    search.count = search.table_size = search.at = 0;
    grow_table();
    memset(&first, 0, sizeof(first));
    first.switch_at = first.left_at = first.left_seen = NOT_YET;
    first.watching = 1;
    first.rx_way = WATCH;
    first.kills = plan->kills;
    for (int i = 0; i < plan->producers; i++)
        first.producer[i].left = plan->bytes[i];
    visit(NULL, &first);
    for (; search.at < search.count && !search.wrong; search.at++) {
        struct state s = search.states[search.at];
        visit_successors(&s);
        check_end(&s);
    }
}

static void say_path(uint64_t to)
{
    const struct state *s = &search.states[to];

    if (to)
        say_path(search.before[to]);
    fprintf(stderr, "  wish %u watching %u tcp %u>%u ring %u>%u>%u way %u %u |", s->wish, s->watching, s->sent, s->read,
            s->put, s->shown, s->got, s->tx_way, s->rx_way);
    for (int i = 0; i < search.plan->producers; i++)
        fprintf(stderr, " %s", producer_steps[s->producer[i].at]);
    fprintf(stderr, " %s\n", consumer_steps[s->consumer]);
}

static const struct plan plans[] = {
    {"one, read to the end", 1, {4}, DRAIN, DRAIN, 0, false},
    {"one, sent again", 1, {4}, RESEND, RESEND, 0, false},
    {"one, first this, then that", 1, {4}, DRAIN, RESEND, 0, false},
    {"two, read to the end", 2, {2, 2}, DRAIN, DRAIN, 0, false},
    {"two, sent again", 2, {2, 2}, RESEND, RESEND, 0, false},
    {"two, one killed, read to the end", 2, {2, 2}, DRAIN, DRAIN, 1, false},
    {"two, one killed, first this, then that", 2, {2, 1}, DRAIN, RESEND, 1, false},
    {"two, one killed, sent again", 2, {2, 2}, RESEND, RESEND, 1, false},
    {"one, to a stranger", 1, {4}, NOTHING, NOTHING, 0, true},
    {"one, read to the end, to a stranger", 1, {4}, DRAIN, DRAIN, 0, true},
    {"one, sent again, to a stranger", 1, {4}, RESEND, RESEND, 0, true},
    {"two, to a stranger", 2, {2, 2}, NOTHING, NOTHING, 0, true},
    {"two, one killed, first this, then that, to a stranger", 2, {2, 1}, DRAIN, RESEND, 1, true},
};
#define PLANS (sizeof(plans) / sizeof(plans[0]))

static void test_the_protocol(void **state)
{
    for (size_t i = 0; i < PLANS; i++) {
        explore(&plans[i], NONE);
        printf("leave_model: %s: %llu states%s%s\n", plans[i].name, (unsigned long long)search.count,
               search.wrong ? ": " : "", search.wrong ? search.wrong : "");
        if (search.wrong)
            say_path(search.at - 1);
        assert_null(search.wrong);
    }
}

static void test_each_mutation_is_found(void **state)
{
    for (enum mutation mutation = NONE + 1; mutation < MUTATIONS; mutation++) {
        size_t i = 0;
        do
            explore(&plans[i], mutation);
        while (!search.wrong && ++i < PLANS);
        printf("leave_model: %s: %s%s%s\n", mutation_names[mutation], search.wrong ? search.wrong : "not found",
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
    return cmocka_run_group_tests_name("leave_model", tests, NULL, free_memory);
}
