// What goes out: at each turn one of a beginning, a credit, bytes, an end. What comes in: stored, and the bell rung.

#include "agent/path.h"

#include <errno.h>
#include <unistd.h>

// A tenth of a second of the rate limit may be saved up, and is sent at one go at the most.
#define SAVED_NS 100000000u

static struct ring_shared *ring_in(const struct path *path)
{
    return &path->memory->ring[0];
}

static struct ring_shared *ring_out(const struct path *path)
{
    return &path->memory->ring[1];
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void path_init(struct path *path)
{
    path->in = (struct ring_tx){.shared = ring_in(path), .size = path->ring_bytes};
    path->out = (struct ring_rx){.shared = ring_out(path), .size = path->ring_bytes};
    list_init(&path->turn);
    list_init(&path->in_link);
    list_init(&path->in_events);
    list_init(&path->in_wishes);
}

void path_connect(struct path *path, const struct link_place *place, uint32_t remote)
{
    path->place = *place;
    path->remote = remote;
    path->connected = true;
}

bool path_is_over(const struct path *path)
{
    if (!path->connected)
        return path->finishing;
    return path->over_said == 2 && path->over_heard == 2;
}

// --- the application's bell ---

static void ring_bell(const struct path *path)
{
    static const uint64_t one = 1;

    // A full counter wakes nobody: that is its owner's own doing.
    if (write(path->bell, &one, sizeof(one)) < 0)
        return;
}

// As a producer after producing, and a consumer after consuming: see core/ring.h. The other side's writes are in memory
// when their completion is seen, and so before the looks at the arm counters here.
static void wake(struct path *path)
{
    uint32_t rx_arm, tx_arm;
    bool rx = ring_tx_wants_bell(&path->in, &rx_arm), tx = ring_rx_wants_bell(&path->out, &tx_arm);

    if (!rx && !tx)
        return;
    ring_bell(path);
    if (rx)
        ring_tx_rang(&path->in, rx_arm);
    if (tx)
        ring_rx_rang(&path->out, tx_arm);
}

// The session cannot go on, and the application must not take that for the end of its stream.
static void break_up(struct path *path)
{
    if (path->broken)
        return;
    path->broken = true;
    path->events |= PATH_BROKEN;
    atomic_store_explicit(&path->end->broken, 1, memory_order_seq_cst);
    ring_bell(path);
}

// A cursor that cannot be may be one that is just being written, see core/ring.c: it is looked at again at some other
// time. Returns whether the session was broken up over it.
static bool doubt(struct path *path)
{
    if (++path->doubts < PATH_DOUBTS_MOST)
        return false;
    break_up(path);
    return true;
}

// --- going out ---

static int say(struct path *path, enum link_message_type type, uint64_t value)
{
    const struct link_message message = {.type = (uint16_t)type, .session = {.session = path->remote, .value = value}};
    uint8_t wire[FABRIC_MESSAGE_MAX];
    int result = fabric_post_message(path->conn, wire, link_message_encode(&message, wire));

    return result < 0 ? result : 1;
}

// Says it if it was not said before.
static int say_once(struct path *path, enum path_said what, enum link_message_type type, uint64_t value)
{
    int result = say(path, type, value);

    if (result > 0)
        path->said |= what;
    return result;
}

// That the application watches ring 0, and where its own stream goes over into ring 1.
static int say_beginning(struct path *path)
{
    uint64_t switch_at;

    if (!(path->said & SAID_WATCHING) && atomic_load_explicit(&ring_in(path)->watching, memory_order_seq_cst))
        return say_once(path, SAID_WATCHING, LINK_WATCHING, 0);
    if (path->said & SAID_SWITCHED)
        return 0;
    switch_at = atomic_load_explicit(&ring_out(path)->switch_at, memory_order_seq_cst);
    if (switch_at == SWITCH_NOT_YET)
        return 0;
    // A send that raced with the shutdown: its bytes would come behind the end.
    if ((path->said & SAID_FINISHED) && (path->heard & SAID_ENDED)) {
        break_up(path);
        return 1;
    }
    return say_once(path, SAID_SWITCHED, LINK_SWITCHED, switch_at);
}

static bool wants_tcp(const struct path *path)
{
    return atomic_load_explicit(&ring_in(path)->leave_wish, memory_order_seq_cst) != LEAVE_NOT;
}

// switch_at was stored before this look at the wish, which the application stores before it looks at switch_at.
static bool may_settle(const struct path *path)
{
    return (path->heard & SAID_SWITCHED) && !(path->said & SAID_SETTLED) && !wants_tcp(path);
}

static int say_leaving(struct path *path)
{
    if (may_settle(path))
        return say_once(path, SAID_SETTLED, LINK_SETTLED, 0);
    if (!(path->said & SAID_LEAVE) && wants_tcp(path))
        return say_once(path, SAID_LEAVE, LINK_LEAVE, 0);
    return 0;
}

// The application saw that the ring begins before it wanted TCP back, if it does: so it reads the ring to its end.
static bool may_say_arrived(const struct path *path)
{
    const uint32_t heard = SAID_SWITCHED | SAID_FINISHED;

    return !path->broken && !path->over_said && (path->heard & heard) == heard && (path->said & SAID_SETTLED) &&
           !(path->said & SAID_ARRIVED);
}

// The cursor. Pairs with the stores in core/ring.c.
static uint64_t credit_due(const struct path *path)
{
    return atomic_load_explicit(&ring_in(path)->head, memory_order_seq_cst) - path->credited;
}

static bool wants_credit(const struct path *path, uint64_t due)
{
    return due >= path->ring_bytes / 4 || (due > 0 && path->starved);
}

// Nobody can have consumed more than has come, nor that be more than a ring.
static bool credit_is_plausible(const struct path *path, uint64_t due)
{
    uint64_t come = atomic_load_explicit(&ring_in(path)->tail, memory_order_acquire) - path->credited;

    return due <= come && come <= path->ring_bytes;
}

static int give_credit(struct path *path)
{
    uint64_t due = credit_due(path);
    struct fabric_write write = {
        .remote_key = path->place.key,
        .cursor_to = path->place.address + offsetof(struct session_shared, ring[1].head),
        .immediate = path->remote,
    };
    int result;

    if (!wants_credit(path, due))
        return 0;
    if (!credit_is_plausible(path, due))
        return doubt(path);
    path->doubts = 0;
    write.cursor = path->credited + due;
    result = fabric_post_write(path->conn, &write);
    if (result < 0)
        return result;
    path->credited += due;
    path->starved = false;
    return 1;
}

// Bytes that the application has produced and that were not posted. Pairs with publish_tail in core/ring.c.
static uint64_t bytes_due(const struct path *path)
{
    uint64_t tail = path->finishing ? path->final : atomic_load_explicit(&ring_out(path)->tail, memory_order_seq_cst);

    return tail - path->posted;
}

uint64_t path_paced_until(const struct path *path, const struct path_pace *pace)
{
    return pace->rate && path->paid_until > pace->now ? path->paid_until : 0;
}

// How many of `n` bytes may go at one go.
static uint64_t allowed(const struct path *path, uint64_t n, const struct path_pace *pace)
{
    uint64_t most = PATH_POST_MOST;

    if (!pace->rate)
        return smaller(n, most);
    if (path_paced_until(path, pace))
        return 0;
    most = smaller(most, pace->rate / (1000000000u / SAVED_NS) + 1);
    return smaller(n, most);
}

static void pay(struct path *path, uint64_t n, const struct path_pace *pace)
{
    if (!pace->rate)
        return;
    if (path->paid_until + SAVED_NS < pace->now)
        path->paid_until = pace->now - SAVED_NS;
    path->paid_until += (uint64_t)((double)n * 1e9 / (double)pace->rate);
}

static void put_spans(const struct path *path, uint64_t n, struct fabric_write *write)
{
    const unsigned char *data = (const unsigned char *)path->memory + SESSION_DATA + path->ring_bytes;
    uint64_t place = path->place.address + SESSION_DATA, at = path->posted & (path->ring_bytes - 1);
    uint32_t first = (uint32_t)smaller(n, path->ring_bytes - at);

    write->span[0].from = data + at;
    write->span[0].to = place + at;
    write->span[0].size = first;
    write->spans = 1;
    if (first == n)
        return;
    write->span[1].from = data;
    write->span[1].to = place;
    write->span[1].size = (uint32_t)n - first;
    write->spans = 2;
}

static int post_bytes(struct path *path, uint64_t n)
{
    struct fabric_write write;

    put_spans(path, n, &write);
    write.memory = path->source;
    write.remote_key = path->place.key;
    write.cursor = path->posted + n;
    write.cursor_to = path->place.address + offsetof(struct session_shared, ring[0].tail);
    write.immediate = path->remote;
    return fabric_post_write(path->conn, &write);
}

static bool bytes_are_plausible(const struct path *path, uint64_t due)
{
    // switch_at is stored before the first byte is produced, and is looked at after it here.
    return due <= path->ring_bytes &&
           ((path->said & SAID_SWITCHED) ||
            atomic_load_explicit(&ring_out(path)->switch_at, memory_order_seq_cst) != SWITCH_NOT_YET);
}

static int send_bytes(struct path *path, const struct path_pace *pace)
{
    uint64_t due = bytes_due(path), n;
    int result;

    if (due == 0)
        return 0;
    if (!bytes_are_plausible(path, due)) {
        break_up(path);
        return 1;
    }
    if (!(path->said & SAID_SWITCHED))
        return say_beginning(path);
    n = allowed(path, due, pace);
    if (n == 0)
        return 0;
    result = post_bytes(path, n);
    if (result < 0)
        return result;
    path->posted += n;
    path->tx_bytes += n;
    pay(path, n, pace);
    return 1;
}

// The application saw the other end's FIN, and has not been told of an end.
static bool may_ask(const struct path *path)
{
    const uint32_t known = SAID_SWITCHED | SAID_FINISHED;

    return !(path->said & SAID_ENDED) && !(path->heard & known) &&
           atomic_load_explicit(&path->end->fin_seen, memory_order_seq_cst);
}

// The other side saw this end's FIN, and it has not switched: it cannot do so any more.
static bool ended_in_tcp(const struct path *path)
{
    return (path->heard & SAID_ENDED) &&
           atomic_load_explicit(&ring_out(path)->switch_at, memory_order_seq_cst) == SWITCH_NOT_YET;
}

static bool is_closed(const struct path *path, const _Atomic uint32_t *mark)
{
    return path->finishing || atomic_load_explicit(mark, memory_order_seq_cst) != CLOSED_NOT;
}

static bool is_finished(const struct path *path)
{
    return !(path->said & SAID_FINISHED) && (is_closed(path, &ring_out(path)->tx_closed) || ended_in_tcp(path)) &&
           bytes_due(path) == 0;
}

// Behind the last byte: the mark is stored after that was published, so a look at the tail after it shows all.
static int say_end(struct path *path)
{
    if (is_finished(path))
        return say_once(path, SAID_FINISHED, LINK_FINISHED, path->posted);
    if (may_ask(path))
        return say_once(path, SAID_ENDED, LINK_ENDED, 0);
    if (!(path->said & SAID_UNREAD) && is_closed(path, &ring_in(path)->rx_closed))
        return say_once(path, SAID_UNREAD, LINK_UNREAD, 0);
    return 0;
}

// The application sends by TCP again, what was in the ring, too.
static bool has_left(const struct path *path)
{
    return atomic_load_explicit(&path->end->tx_way, memory_order_acquire) == WAY_LEFT;
}

static bool is_done(const struct path *path)
{
    const uint32_t ends = SAID_FINISHED | SAID_UNREAD;

    return path->broken || path->over_heard || (path->finishing && ((path->said & ends) == ends || has_left(path)));
}

// Before OVER: without it, the end there would be broken up for want of an end of the stream. And where that is over
// already, its agent would take all for arrived, while the application here may have left without reading the ring.
static bool must_say_leave(const struct path *path)
{
    return (path->finishing || path->over_heard) && !path->over_said && !path->broken && !(path->said & SAID_LEAVE) &&
           wants_tcp(path);
}

static int say_over(struct path *path)
{
    int result;

    if (path->over_said == 0 ? !is_done(path) : path->over_said == 2 || !path->over_heard)
        return 0;
    result = say(path, LINK_OVER, 0);
    if (result > 0)
        path->over_said++;
    return result;
}

int path_push(struct path *path, const struct path_pace *pace)
{
    int result = 0;

    if (!path->connected || path->failed)
        return 0;
    if (may_say_arrived(path))
        return say_once(path, SAID_ARRIVED, LINK_ARRIVED, 0);
    if (must_say_leave(path))
        return say_once(path, SAID_LEAVE, LINK_LEAVE, 0);
    if (path->over_said || is_done(path))
        return say_over(path);
    if ((path->said & (SAID_WATCHING | SAID_SWITCHED)) != (SAID_WATCHING | SAID_SWITCHED))
        result = say_beginning(path);
    if (result == 0)
        result = say_leaving(path);
    if (result == 0)
        result = give_credit(path);
    if (result == 0)
        result = send_bytes(path, pace);
    if (result == 0)
        result = say_end(path);
    return result;
}

// What the application produced and did not live to publish counts, too.
void path_finish(struct path *path)
{
    uint64_t produced = atomic_load_explicit(&path->end->tx_tail, memory_order_acquire) & ~RING_FROZEN;
    uint64_t shown = atomic_load_explicit(&ring_out(path)->tail, memory_order_acquire);

    if (path->finishing)
        return;
    path->finishing = true;
    path->final = produced - path->posted <= path->ring_bytes ? produced : shown;
}

// --- cooling ---

// A beginning or an end to be said.
static bool has_news(const struct path *path)
{
    if (may_settle(path) || (!(path->said & SAID_LEAVE) && wants_tcp(path)))
        return true;
    if (!(path->said & SAID_WATCHING) && atomic_load_explicit(&ring_in(path)->watching, memory_order_seq_cst))
        return true;
    if (!(path->said & SAID_SWITCHED) &&
        atomic_load_explicit(&ring_out(path)->switch_at, memory_order_seq_cst) != SWITCH_NOT_YET)
        return true;
    if (is_finished(path) || may_ask(path))
        return true;
    return !(path->said & SAID_UNREAD) && is_closed(path, &ring_in(path)->rx_closed);
}

// Whatever path_push would find.
static bool has_something(const struct path *path, bool paced)
{
    if (!path->connected || path->failed)
        return false;
    if (may_say_arrived(path) || must_say_leave(path))
        return true;
    if (path->over_said || is_done(path))
        return path->over_said == 0 || (path->over_said == 1 && path->over_heard);
    return has_news(path) || (!paced && bytes_due(path) != 0) || wants_credit(path, credit_due(path));
}

// The application waits for room: whatever it was not told of what was consumed is of interest now.
static bool is_starved(const struct path *path)
{
    uint32_t arm = atomic_load_explicit(&ring_out(path)->tx_arm, memory_order_relaxed);

    return path->connected && !path->over_said &&
           arm != atomic_load_explicit(&ring_out(path)->tx_rung, memory_order_relaxed);
}

// Once for each time that there was news.
static void say_starved(struct path *path)
{
    if (!(path->said & SAID_STARVED) && is_starved(path))
        say_once(path, SAID_STARVED, LINK_STARVED, 0);
}

// Could a credit become due by consuming what has come so far? What comes later is seen by itself.
static bool may_owe_credit(const struct path *path)
{
    return wants_credit(path, atomic_load_explicit(&ring_in(path)->tail, memory_order_acquire) - path->credited);
}

bool path_cool(struct path *path, bool paced)
{
    if (has_something(path, paced))
        return false;
    say_starved(path);
    // As any consumer and producer before sleeping, see core/ring.h. Also if armed as it seems: the application may have
    // rung already, and not yet have said so.
    ring_rx_arm(&path->out);
    if (may_owe_credit(path))
        ring_tx_arm(&path->in);
    return !has_something(path, paced);
}

// --- coming in ---

void path_arrived(struct path *path)
{
    uint64_t tail = atomic_load_explicit(&ring_in(path)->tail, memory_order_acquire);

    // The other side may be ahead of what was consumed by a ring. The application checks for itself, too. If the next
    // cursor is on its way already, its completion comes behind it.
    if (tail - path->credited > path->ring_bytes || tail - path->arrived > path->ring_bytes) {
        doubt(path);
    } else {
        path->rx_bytes += tail - path->arrived;
        path->arrived = tail;
        path->doubts = 0;
    }
    path->said &= ~(uint32_t)SAID_STARVED;
    wake(path);
}

static void hear_switched(struct path *path, uint64_t at)
{
    atomic_store_explicit(&ring_in(path)->switch_at, at, memory_order_seq_cst);
    wake(path);
}

static void hear_finished(struct path *path, uint64_t tail)
{
    if (tail != atomic_load_explicit(&ring_in(path)->tail, memory_order_acquire)) {
        break_up(path);
        return;
    }
    atomic_store_explicit(&ring_in(path)->tx_closed, CLOSED_ORDERLY, memory_order_seq_cst);
    ring_bell(path);
}

static void hear_unread(struct path *path)
{
    atomic_store_explicit(&ring_out(path)->rx_closed, CLOSED_ORDERLY, memory_order_seq_cst);
    ring_bell(path);
}

static void wish_for_tcp(struct ring_shared *ring)
{
    uint32_t wish = LEAVE_NOT;

    atomic_compare_exchange_strong(&ring->leave_wish, &wish, LEAVE_RESEND);
}

static void hear_leave(struct path *path)
{
    path->said |= SAID_LEAVE; // it knows
    wish_for_tcp(ring_in(path));
    wish_for_tcp(ring_out(path));
    ring_bell(path);
}

// seq_cst, before the owner hears of it: see core/repeat.c.
static void hear_arrived(struct path *path)
{
    atomic_store_explicit(&ring_out(path)->arrived, 1, memory_order_seq_cst);
    path->events |= PATH_ARRIVED;
}

static int hear_over(struct path *path)
{
    // The second is the answer to ours.
    if (path->over_heard == 2 || (path->over_heard == 1 && path->over_said == 0))
        return -EPROTO;
    path->over_heard++;
    // It broke up there: no end of the stream was reached.
    if (!(path->heard & SAID_FINISHED) && !path->finishing && !wants_tcp(path))
        break_up(path);
    return 0;
}

// Each of these comes once. Returns whether it is the first.
static bool hear_once(struct path *path, enum path_said what)
{
    bool first = !(path->heard & what);

    path->heard |= what;
    return first;
}

static int hear_state(struct path *path, enum path_said what, uint64_t value)
{
    if (!hear_once(path, what) || path->over_heard)
        return -EPROTO;
    switch (what) {
    case SAID_WATCHING:
        atomic_store_explicit(&ring_out(path)->watching, WATCHING_YES, memory_order_seq_cst);
        break;
    case SAID_SWITCHED:
        hear_switched(path, value);
        break;
    case SAID_FINISHED:
        hear_finished(path, value);
        break;
    case SAID_ENDED:
        break;
    case SAID_SETTLED:
        atomic_store_explicit(&ring_out(path)->watching, WATCHING_SETTLED, memory_order_seq_cst);
        break;
    case SAID_LEAVE:
        hear_leave(path);
        break;
    case SAID_ARRIVED:
        hear_arrived(path);
        break;
    default:
        hear_unread(path);
    }
    return 0;
}

int path_hear(struct path *path, const struct link_message *message)
{
    switch (message->type) {
    case LINK_WATCHING:
        return hear_state(path, SAID_WATCHING, 0);
    case LINK_SWITCHED:
        return hear_state(path, SAID_SWITCHED, message->session.value);
    case LINK_FINISHED:
        return hear_state(path, SAID_FINISHED, message->session.value);
    case LINK_UNREAD:
        return hear_state(path, SAID_UNREAD, 0);
    case LINK_ENDED:
        return hear_state(path, SAID_ENDED, 0);
    case LINK_SETTLED:
        return hear_state(path, SAID_SETTLED, 0);
    case LINK_LEAVE:
        return hear_state(path, SAID_LEAVE, 0);
    case LINK_ARRIVED:
        return path->said & SAID_FINISHED ? hear_state(path, SAID_ARRIVED, 0) : -EPROTO;
    case LINK_STARVED:
        path->starved = true;
        return 0;
    case LINK_OVER:
        return hear_over(path);
    default:
        return -EPROTO;
    }
}
