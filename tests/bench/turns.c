// What the agent's data thread executes for one small message: the thread's own code, over a fabric that does nothing.
//
//   turn=post       a message that the application has just produced is posted to the other host
//        receive    a completion says that a message has come: its application is awake
//        wake       the same for one that sleeps: its bell is rung (a system call, of which only this side counts)
//        look       there is nothing to do
//   sessions=1      on the link; all but the one that is measured are idle
//
//   -> {"ns": per turn, "instructions": of one turn in user space, "turns"}
//
// A turn looks for commands, completions, and at the hot sessions. Instructions are counted one by one: the turn is taken
// in a child that is stepped through it, by way of PTRACE_SINGLESTEP, which needs no counters of the processor.

#include "agent/data_loop.c"

#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/end.h"
#include "core/session.h"

#define RING       (256u << 10)
#define MESSAGE    64
#define TURNS      20000u
#define STEPS_MOST 100000

// --- a fabric that does nothing ---

static bool completion_due;

int fabric_poll(struct fabric *fabric, struct fabric_completion *completions, unsigned most)
{
    if (!completion_due)
        return 0;
    completion_due = false;
    completions[0] = (struct fabric_completion){.type = FABRIC_WRITTEN, .data = fabric, .immediate = 0};
    return 1;
}

int fabric_post_write(struct fabric_conn *conn, const struct fabric_write *write)
{
    return 0;
}

int fabric_post_message(struct fabric_conn *conn, const void *message, size_t size)
{
    return 0;
}

int fabric_arm(struct fabric *fabric)
{
    return 0;
}

void fabric_start(struct fabric_conn *conn, void *data)
{
}

void fabric_stop(struct fabric_conn *conn)
{
}

// --- one data thread, without its thread ---

static struct data_thread thread;
static struct data_link data_link;
static struct path *paths;

static void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        err(1, "memory for a session");
    return memory;
}

static void make_path(struct path *path, uint32_t number)
{
    const struct link_place place = {.address = 0x10000, .key = 1, .ring_bytes = RING};

    *path = (struct path){
        .memory = shared_memory(session_bytes(RING)),
        .end = shared_memory(END_BYTES),
        .ring_bytes = RING,
        .bell = eventfd(0, EFD_NONBLOCK),
        .agent_bell = eventfd(0, EFD_NONBLOCK),
        .number = number,
    };
    session_init(path->memory, number, TRANSPORT_RDMA, RING);
    if (end_init(path->end, number, 0, 1) < 0 || path->bell < 0 || path->agent_bell < 0)
        errx(1, "cannot make session %u", number);
    path_init(path);
    path->link = &data_link;
    add_path(&thread, path);
    path_connect(path, &place, number);
    atomic_store(&path->memory->ring[0].watching, 1);
    atomic_store(&path->memory->ring[1].switch_at, 1);
}

static void make_thread(unsigned sessions)
{
    thread.epoll = epoll_create1(0);
    list_init(&thread.hot);
    list_init(&thread.commands);
    list_init(&thread.wishes);
    list_init(&thread.events);
    list_init(&thread.path_events);
    thread.fabric = (struct fabric *)(void *)&data_link;
    data_link.paths = calloc(DATA_LINK_PATHS, sizeof(struct path *));
    list_init(&data_link.members);
    list_init(&data_link.queue);
    paths = calloc(sessions, sizeof(*paths));
    for (unsigned i = 0; i < sessions; i++)
        make_path(&paths[i], i);
    // Until everything is said, and all but the first are cold.
    for (unsigned i = 0; i < 200 * sessions; i++)
        take_turn(&thread);
    for (unsigned i = 1; i < sessions; i++) {
        if (path_cool(&paths[i], false))
            chill(&thread, &paths[i]);
    }
    if (thread.hot_count > 1)
        errx(1, "%u sessions are still hot", thread.hot_count);
    heat(&thread, &paths[0]);
}

// --- what goes before a turn ---

static void produce(void)
{
    struct ring_shared *ring = &paths[0].memory->ring[1];

    atomic_fetch_add(&ring->tail, MESSAGE);
    atomic_fetch_add(&ring->head, MESSAGE);
}

static void arrive(void)
{
    struct ring_shared *ring = &paths[0].memory->ring[0];

    atomic_fetch_add(&ring->tail, MESSAGE);
    paths[0].credited += MESSAGE; // as if it had been read, and that been said
    atomic_fetch_add(&ring->head, MESSAGE);
    completion_due = true;
}

static void arrive_asleep(void)
{
    arrive();
    atomic_fetch_add(&paths[0].memory->ring[0].rx_arm, 1);
}

static void nothing(void)
{
    paths[0].idle = 0;
}

static const struct kind {
    const char *name;
    void (*prepare)(void);
} kinds[] = {{"post", produce}, {"receive", arrive}, {"wake", arrive_asleep}, {"look", nothing}};

// Bells are looked at in every so many turns only: not in one that is counted.
static void before_bells_are_due(void)
{
    thread.turn = 0;
}

// --- measuring ---

static uint64_t time_of(const struct kind *kind, bool with_turn)
{
    uint64_t began = now_ns();

    for (unsigned i = 0; i < TURNS; i++) {
        kind->prepare();
        before_bells_are_due();
        if (with_turn)
            take_turn(&thread);
    }
    return now_ns() - began;
}

// The best of some: whatever else runs on the machine only adds.
static double ns_per_turn(const struct kind *kind)
{
    double best = 1e9;

    for (int i = 0; i < 20; i++) {
        double ns = ((double)time_of(kind, true) - (double)time_of(&kinds[3], false)) / TURNS;
        best = ns < best ? ns : best;
    }
    return best;
}

static void stop(void)
{
    raise(SIGSTOP);
}

static void be_stepped(const struct kind *kind, bool with_turn)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    for (int i = 0; i < 10; i++) {
        kind->prepare();
        take_turn(&thread);
    }
    kind->prepare();
    before_bells_are_due();
    stop();
    if (with_turn)
        take_turn(&thread);
    stop();
    _exit(0);
}

// Instructions from one stop to the next.
static long steps_of(const struct kind *kind, bool with_turn)
{
    pid_t child = fork();
    int status;
    long steps = 0;

    if (child == 0)
        be_stepped(kind, with_turn);
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
        errx(1, "cannot step through a turn");
    do {
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) < 0 || waitpid(child, &status, 0) != child)
            err(1, "cannot step through a turn");
        steps++;
    } while (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP && steps < STEPS_MOST);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return steps;
}

static const struct kind *find_kind(const char *name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    }
    errx(2, "turn: expected post, receive, wake or look, found \"%s\"", name);
}

int main(int argc, char **argv)
{
    const struct kind *kind = &kinds[0];
    unsigned sessions = 1;

    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "turn=", 5) == 0)
            kind = find_kind(argv[i] + 5);
        else if (sscanf(argv[i], "sessions=%u", &sessions) != 1 || sessions < 1 || sessions > DATA_LINK_PATHS)
            errx(2, "expected turn=KIND and sessions=NUMBER, found \"%s\"", argv[i]);
    }
    make_thread(sessions);
    double ns = ns_per_turn(kind);
    long instructions = steps_of(kind, true) - steps_of(kind, false);
    printf("{\"ns\": %.1f, \"instructions\": %ld, \"turns\": %u}\n", ns, instructions, TURNS);
    return 0;
}
