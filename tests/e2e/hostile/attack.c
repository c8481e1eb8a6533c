// One end of a session, in bad faith.

#define FALLOC_FL_KEEP_SIZE  1
#define FALLOC_FL_PUNCH_HOLE 2
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/fdpass.h"
#include "core/layout.h"
#include "core/record.h"
#include "core/ring.h"
#include "core/wire.h"
#include "tests/e2e/hostile/hostile.h"

struct victim {
    int socket;
    int agent;
    int fds[WIRE_ATTACH_FDS];
    uint64_t token, session, ring_bytes, side;
    uint64_t sent; // by TCP
    unsigned char *memory, *end;
    struct dice *dice;
};

// --- coming by a session ---

static int greet(const char *directory)
{
    union wire_message hello, welcome;
    int fds[WIRE_FDS_MAX], agent = agent_connect(directory, WIRE_SOCKET, SOCK_SEQPACKET);
    unsigned count;
    if (agent < 0)
        fail("no agent");
    wire_begin(&hello, WIRE_HELLO);
    hello.hello.version = WIRE_VERSION;
    hello.hello.layout = LAYOUT_VERSION;
    agent_send(agent, &hello, hello.head.size, NULL, 0);
    struct pollfd ready = {.fd = agent, .events = POLLIN};
    if (poll(&ready, 1, 5000) != 1 || fdpass_recv(agent, &welcome, fds, &count) != 1)
        fail("no welcome");
    close(fds[0]);
    return agent;
}

// A word and its echo, by TCP: so the server offers its half, too.
static bool talk(struct victim *victim)
{
    char word[16] = "honest so far";
    struct pollfd ready = {.fd = victim->socket, .events = POLLIN};
    if (send(victim->socket, word, sizeof word, MSG_NOSIGNAL) != sizeof word)
        return false;
    victim->sent += sizeof word;
    for (size_t got = 0; got < sizeof word;) {
        ssize_t n = poll(&ready, 1, 200) == 1 ? recv(victim->socket, word, sizeof word - got, 0) : -1;
        if (n <= 0)
            return false;
        got += (size_t)n;
    }
    return true;
}

static bool attached(struct victim *victim)
{
    union wire_message message;
    unsigned count;
    while (fdpass_recv(victim->agent, &message, victim->fds, &count) == 1) {
        if (message.head.type != WIRE_ATTACH)
            continue;
        victim->session = message.attach.session;
        victim->ring_bytes = message.attach.ring_bytes;
        victim->side = message.attach.side;
        if (message.attach.token == victim->token)
            return true;
        for (unsigned i = 0; i < count; i++)
            close(victim->fds[i]);
    }
    return false;
}

static bool come_by_session(struct victim *victim)
{
    union wire_message offer;
    wire_begin(&offer, WIRE_OFFER);
    offer.offer.token = victim->token;
    agent_send(victim->agent, &offer, offer.head.size, &victim->socket, 1);
    for (int i = 0; i < 20; i++) {
        if (!talk(victim))
            return false;
        if (attached(victim))
            return true;
    }
    return false;
}

static void *map(int fd, size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    return memory;
}

// --- what can be written to ---

static struct ring_shared *ring(const struct victim *victim, uint64_t side)
{
    return &((struct session_shared *)victim->memory)->ring[side];
}

// As an honest end would begin: from here on both directions are, or come, into the rings.
static void begin_honestly(struct victim *victim)
{
    atomic_store(&ring(victim, 1 - victim->side)->watching, 1);
    atomic_store(&ring(victim, victim->side)->switch_at, victim->sent);
}

// Anything, but mostly what might be believed.
static uint64_t value(struct victim *victim, uint64_t old)
{
    uint64_t size = victim->ring_bytes;
    switch (dice_below(victim->dice, 10)) {
    case 0:
        return dice_next(victim->dice);
    case 1:
        return dice_below(victim->dice, 4);
    case 2:
        return old - 1 - dice_below(victim->dice, 4);
    case 3:
        return old + size + dice_below(victim->dice, 3) - 1;
    case 4:
        return old - size;
    case 5:
        return old ^ 1ull << dice_below(victim->dice, 64);
    case 6:
        return UINT64_MAX - dice_below(victim->dice, 3);
    default:
        return old + dice_below(victim->dice, size);
    }
}

static void spoil_field(struct victim *victim)
{
    static const size_t fields[] = {
        offsetof(struct ring_shared, tail),      offsetof(struct ring_shared, switch_at),
        offsetof(struct ring_shared, rx_rung),   offsetof(struct ring_shared, tx_closed),
        offsetof(struct ring_shared, cpu),       offsetof(struct ring_shared, left_at),
        offsetof(struct ring_shared, head),      offsetof(struct ring_shared, tx_rung),
        offsetof(struct ring_shared, rx_closed), offsetof(struct ring_shared, rx_arm),
        offsetof(struct ring_shared, watching),  offsetof(struct ring_shared, leave_wish),
        offsetof(struct ring_shared, tx_arm),
    };
    size_t field = fields[dice_below(victim->dice, sizeof fields / sizeof fields[0])];
    unsigned char *place = (unsigned char *)ring(victim, dice_below(victim->dice, 2)) + field;
    bool wide = field == offsetof(struct ring_shared, tail) || field == offsetof(struct ring_shared, switch_at) ||
                field == offsetof(struct ring_shared, left_at) || field == offsetof(struct ring_shared, head);
    if (wide)
        atomic_store((_Atomic uint64_t *)place, value(victim, atomic_load((_Atomic uint64_t *)place)));
    else
        atomic_store((_Atomic uint32_t *)place, (uint32_t)value(victim, atomic_load((_Atomic uint32_t *)place)));
}

static void spoil_bytes(struct victim *victim, unsigned char *memory, size_t size)
{
    size_t at = dice_below(victim->dice, size), n = dice_below(victim->dice, 256);
    for (size_t i = at; i < at + n && i < size; i++)
        memory[i] = (unsigned char)dice_next(victim->dice);
}

static void produce(struct victim *victim)
{
    _Atomic uint64_t *tail = &ring(victim, victim->side)->tail;
    atomic_store(tail, atomic_load(tail) + dice_below(victim->dice, victim->ring_bytes / 4));
}

static void consume(struct victim *victim)
{
    struct ring_shared *in = ring(victim, 1 - victim->side);
    atomic_store(&in->head, atomic_load(&in->tail));
}

// With flags and counts that make the next ring of a bell wait, if it can.
static void spoil_bell(struct victim *victim, int bell)
{
    uint64_t count = dice_below(victim->dice, 2) ? UINT64_MAX - 1 : dice_below(victim->dice, 3);
    fcntl(bell, F_SETFL, O_NONBLOCK);
    if (dice_below(victim->dice, 2) && read(bell, &count, sizeof count) < 0)
        return;
    if (write(bell, &count, sizeof count) < 0 && errno == EBADF)
        return;
    fcntl(bell, F_SETFL, dice_below(victim->dice, 2) ? 0 : O_NONBLOCK);
}

static void ring_bell(int bell)
{
    uint64_t one = 1;
    fcntl(bell, F_SETFL, O_NONBLOCK);
    if (write(bell, &one, sizeof one) < 0)
        return;
}

static void tell_agent(struct victim *victim)
{
    static const enum wire_type types[] = {WIRE_DECLINE, WIRE_LEFT, WIRE_WITHDRAW, WIRE_COUNT, WIRE_OFFER};
    union wire_message message;
    enum wire_type type = types[dice_below(victim->dice, 5)];
    wire_begin(&message, type);
    if (type == WIRE_DECLINE) {
        message.decline.token = victim->token;
        message.decline.session = victim->session + dice_below(victim->dice, 2);
    } else if (type == WIRE_LEFT) {
        message.left.session = victim->session + dice_below(victim->dice, 2);
    } else if (type != WIRE_COUNT) {
        message.offer.token = victim->token + dice_below(victim->dice, 2);
    }
    agent_send(victim->agent, &message, message.head.size, &victim->socket, type == WIRE_OFFER);
}

// As if it sent again what was in the ring, with a mark that is right.
static void send_record(struct victim *victim)
{
    uint8_t bytes[RECORD_BYTES];
    struct ring_shared *out = ring(victim, victim->side);
    uint64_t tail = atomic_load(&out->tail), head = atomic_load(&out->head);
    struct record record = {.from = dice_below(victim->dice, 2) ? head : value(victim, head),
                            .until = dice_below(victim->dice, 2) ? tail : value(victim, tail)};
    memcpy(record.mark, ((struct end_shared *)victim->end)->mark, RECORD_MARK);
    record_write(&record, bytes);
    send(victim->socket, bytes, dice_below(victim->dice, 4) ? sizeof bytes : dice_below(victim->dice, sizeof bytes) + 1,
         MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void use_tcp(struct victim *victim)
{
    char bytes[512] = {0};
    switch (dice_below(victim->dice, 12)) {
    case 3:
    case 4:
        send_record(victim);
        break;
    case 0:
        shutdown(victim->socket, (int)dice_below(victim->dice, 3));
        break;
    case 1:
    case 2:
        send(victim->socket, bytes, 1 + dice_below(victim->dice, sizeof bytes - 1), MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    default:
        recv(victim->socket, bytes, sizeof bytes, MSG_DONTWAIT);
    }
}

static void punch_hole(struct victim *victim)
{
    fallocate(victim->fds[WIRE_FD_SESSION], FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
              (off_t)dice_below(victim->dice, 3) * 4096, 4096);
    ftruncate(victim->fds[WIRE_FD_SESSION], (off_t)dice_below(victim->dice, 8192)) < 0 ? (void)0 : fail("truncated");
}

static void act(struct victim *victim)
{
    switch (dice_below(victim->dice, 24)) {
    case 0:
        spoil_bytes(victim, victim->memory, session_bytes(victim->ring_bytes));
        break;
    case 1:
        spoil_bytes(victim, victim->end, END_BYTES);
        break;
    case 2:
        use_tcp(victim);
        break;
    case 3:
        tell_agent(victim);
        break;
    case 4:
        spoil_bell(victim, victim->fds[WIRE_FD_BELL]);
        break;
    case 5:
        spoil_bell(victim, victim->fds[WIRE_FD_PEER_BELL]);
        break;
    case 6:
        dice_below(victim->dice, 10) ? (void)0 : punch_hole(victim);
        break;
    case 7:
    case 8:
    case 9:
    case 10:
        spoil_field(victim);
        break;
    case 11:
    case 12:
    case 13:
    case 14:
        produce(victim);
        break;
    case 15:
    case 16:
    case 17:
        consume(victim);
        break;
    default:
        ring_bell(victim->fds[WIRE_FD_PEER_BELL]);
    }
}

// --- one session after the other ---

static void rage(struct victim *victim)
{
    victim->memory = map(victim->fds[WIRE_FD_SESSION], session_bytes(victim->ring_bytes));
    victim->end = map(victim->fds[WIRE_FD_END], END_BYTES);
    if (dice_below(victim->dice, 8))
        begin_honestly(victim);
    for (uint64_t i = 1 + dice_below(victim->dice, 300); i > 0; i--) {
        act(victim);
        if (!dice_below(victim->dice, 4))
            usleep((useconds_t)dice_below(victim->dice, 500));
    }
    munmap(victim->memory, session_bytes(victim->ring_bytes));
    munmap(victim->end, END_BYTES);
    for (int i = 0; i < WIRE_ATTACH_FDS; i++)
        close(victim->fds[i]);
}

void attack(const char *directory, const unsigned ports[2], double seconds, struct dice *dice)
{
    double until = now() + seconds;
    unsigned long tried = 0, raged = 0;
    int agent = greet(directory);
    for (; now() < until; tried++) {
        struct victim victim = {.agent = agent, .token = tried + 1, .dice = dice};
        victim.socket = connect_to(ports[dice_below(dice, 2)]);
        if (come_by_session(&victim)) {
            rage(&victim);
            raged++;
        }
        close(victim.socket);
        if (tried % 64 == 63) { // a client that is dropped for what it says may come back
            close(agent);
            agent = greet(directory);
        }
    }
    printf("%lu sessions of %lu connections\n", raged, tried);
}
