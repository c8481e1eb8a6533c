// A queue of posts for each direction of a connection. The bytes of a write are fetched when it takes effect, as a device
// would, so that whoever reuses them too early is found out.

#include "tests/unit/fake/fabric.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "agent/list.h"

struct fabric_memory {
    struct list link;
    struct fabric_conn *conn;
    unsigned char *address;
    size_t size;
    bool remote_write;
    uint32_t key;
};

struct post {
    struct list link;
    bool is_message;
    struct fabric_write write;
    size_t size;
    unsigned char message[FABRIC_MESSAGE_MAX];
};

struct fabric_conn {
    struct list link; // in fabric.conns
    struct fabric *fabric;
    struct fabric_conn *other;
    struct list under_way; // of struct post: of this end
    struct list arrived;   // of struct post: of the other end, to be polled
    unsigned posted;       // of this end, until they are polled
    bool wants_room, room, failed, failure_told, started;
    void *data;
    struct list memories;
    uint64_t posts, offences;
};

struct fabric {
    struct list conns;
    unsigned depth;
    bool by_hand;
    int fd;
    struct post *polled; // the message that was given out last
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // of everything here
static uint32_t last_key;

static void ring(const struct fabric *fabric)
{
    static const uint64_t one = 1;

    if (write(fabric->fd, &one, sizeof(one)) < 0)
        return;
}

struct fabric *fake_fabric(unsigned depth, bool by_hand)
{
    struct fabric *fabric = calloc(1, sizeof(*fabric));

    list_init(&fabric->conns);
    fabric->depth = depth;
    fabric->by_hand = by_hand;
    fabric->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return fabric;
}

void fabric_free(struct fabric *fabric)
{
    free(fabric->polled);
    close(fabric->fd);
    free(fabric);
}

static struct fabric_conn *make_conn(struct fabric *fabric)
{
    struct fabric_conn *conn = calloc(1, sizeof(*conn));

    conn->fabric = fabric;
    list_init(&conn->under_way);
    list_init(&conn->arrived);
    list_init(&conn->memories);
    list_append(&fabric->conns, &conn->link);
    return conn;
}

void fake_connect(struct fabric *a, struct fabric *b, struct fabric_conn *ends[static 2])
{
    ends[0] = make_conn(a);
    ends[1] = make_conn(b);
    ends[0]->other = ends[1];
    ends[1]->other = ends[0];
}

static void drop_posts(struct list *posts)
{
    list_for_each (link, posts) {
        list_remove(link);
        free(container_of(link, struct post, link));
    }
}

void fabric_close(struct fabric_conn *conn)
{
    pthread_mutex_lock(&lock);
    drop_posts(&conn->under_way);
    drop_posts(&conn->arrived);
    if (conn->other) {
        conn->other->failed = true;
        conn->other->other = NULL;
        ring(conn->other->fabric);
    }
    list_remove(&conn->link);
    pthread_mutex_unlock(&lock);
    free(conn);
}

void fake_cut(struct fabric_conn *conn)
{
    pthread_mutex_lock(&lock);
    conn->failed = true;
    drop_posts(&conn->under_way);
    ring(conn->fabric);
    if (conn->other) {
        conn->other->failed = true;
        drop_posts(&conn->other->under_way);
        ring(conn->other->fabric);
    }
    pthread_mutex_unlock(&lock);
}

uint64_t fake_posts(const struct fabric_conn *conn)
{
    return conn->posts;
}

uint64_t fake_offences(const struct fabric_conn *conn)
{
    return conn->offences;
}

// --- memory ---

int fabric_register(struct fabric_conn *conn, void *address, size_t size, bool remote_write,
                    struct fabric_memory **result)
{
    struct fabric_memory *memory = calloc(1, sizeof(*memory));

    pthread_mutex_lock(&lock);
    *memory = (struct fabric_memory){
        .conn = conn, .address = address, .size = size, .remote_write = remote_write, .key = ++last_key};
    list_append(&conn->memories, &memory->link);
    pthread_mutex_unlock(&lock);
    *result = memory;
    return 0;
}

void fabric_unregister(struct fabric_memory *memory)
{
    pthread_mutex_lock(&lock);
    list_remove(&memory->link);
    pthread_mutex_unlock(&lock);
    free(memory);
}

uint32_t fabric_memory_key(const struct fabric_memory *memory)
{
    return memory->key;
}

uint64_t fabric_memory_address(const struct fabric_memory *memory)
{
    return (uint64_t)(uintptr_t)memory->address;
}

static bool lies_in(const struct fabric_memory *memory, uint64_t address, uint64_t size)
{
    uint64_t begin = (uint64_t)(uintptr_t)memory->address;

    return address >= begin && size <= memory->size && address - begin <= memory->size - size;
}

static bool may_write(const struct fabric_conn *conn, uint32_t key, uint64_t address, uint64_t size)
{
    list_for_each (link, &conn->memories) {
        const struct fabric_memory *memory = container_of(link, struct fabric_memory, link);
        if (memory->key == key)
            return memory->remote_write && lies_in(memory, address, size);
    }
    return false;
}

// --- posting ---

void fabric_start(struct fabric_conn *conn, void *data)
{
    pthread_mutex_lock(&lock);
    conn->started = true;
    conn->data = data;
    ring(conn->fabric);
    pthread_mutex_unlock(&lock);
}

void fabric_stop(struct fabric_conn *conn)
{
    pthread_mutex_lock(&lock);
    conn->started = false;
    pthread_mutex_unlock(&lock);
}

static void apply(struct fabric_conn *to, const struct fabric_write *write)
{
    bool allowed = may_write(to, write->remote_key, write->cursor_to, sizeof(uint64_t)) && write->cursor_to % 8 == 0;

    for (unsigned i = 0; i < write->spans; i++)
        allowed &= may_write(to, write->remote_key, write->span[i].to, write->span[i].size);
    if (!allowed) {
        to->offences++;
        return;
    }
    for (unsigned i = 0; i < write->spans; i++)
        memcpy((void *)(uintptr_t)write->span[i].to, write->span[i].from, write->span[i].size);
    atomic_store_explicit((_Atomic uint64_t *)(uintptr_t)write->cursor_to, write->cursor, memory_order_seq_cst);
}

static bool carry(struct fabric_conn *from)
{
    struct post *post;

    if (list_empty(&from->under_way) || !from->other)
        return false;
    post = container_of(from->under_way.next, struct post, link);
    list_remove(&post->link);
    if (!post->is_message)
        apply(from->other, &post->write);
    list_append(&from->other->arrived, &post->link);
    return true;
}

bool fake_carry(struct fabric_conn *from)
{
    bool carried;

    pthread_mutex_lock(&lock);
    carried = carry(from);
    if (carried)
        ring(from->other->fabric);
    pthread_mutex_unlock(&lock);
    return carried;
}

static int post(struct fabric_conn *conn, const struct post *what)
{
    struct post *copy;

    if (conn->failed)
        return -EPIPE;
    if (conn->posted == conn->fabric->depth) {
        conn->wants_room = true;
        return -EAGAIN;
    }
    copy = malloc(sizeof(*copy));
    *copy = *what;
    list_append(&conn->under_way, &copy->link);
    conn->posted++;
    conn->posts++;
    if (!conn->fabric->by_hand && conn->other)
        ring(conn->other->fabric);
    return 0;
}

int fabric_post_write(struct fabric_conn *conn, const struct fabric_write *write)
{
    struct post what = {.write = *write};
    int result;

    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < write->spans; i++)
        conn->offences += !lies_in(write->memory, (uint64_t)(uintptr_t)write->span[i].from, write->span[i].size);
    result = post(conn, &what);
    pthread_mutex_unlock(&lock);
    return result;
}

int fabric_post_message(struct fabric_conn *conn, const void *message, size_t size)
{
    struct post what = {.is_message = true, .size = size};
    int result;

    memcpy(what.message, message, size);
    pthread_mutex_lock(&lock);
    result = post(conn, &what);
    pthread_mutex_unlock(&lock);
    return result;
}

// --- polling ---

static void make_room(struct fabric_conn *sender)
{
    if (!sender)
        return;
    sender->posted--;
    if (sender->wants_room && sender->posted <= sender->fabric->depth / 2) {
        sender->wants_room = false;
        sender->room = true;
        ring(sender->fabric);
    }
}

static void give_out(struct fabric_conn *conn, struct fabric_completion *completion)
{
    struct post *post = container_of(conn->arrived.next, struct post, link);

    list_remove(&post->link);
    free(conn->fabric->polled);
    conn->fabric->polled = post;
    *completion = (struct fabric_completion){
        .type = post->is_message ? FABRIC_MESSAGE : FABRIC_WRITTEN,
        .data = conn->data,
        .immediate = post->write.immediate,
        .message = post->message,
        .size = post->size,
    };
    make_room(conn->other);
}

static bool poll_conn(struct fabric_conn *conn, struct fabric_completion *completion)
{
    if (!conn->fabric->by_hand && conn->other)
        carry(conn->other);
    if (!list_empty(&conn->arrived)) {
        give_out(conn, completion);
        return true;
    }
    *completion = (struct fabric_completion){.data = conn->data};
    if (conn->room) {
        conn->room = false;
        completion->type = FABRIC_ROOM;
        return true;
    }
    if (conn->failed && !conn->failure_told) {
        conn->failure_told = true;
        completion->type = FABRIC_FAILED;
        return true;
    }
    return false;
}

// One at a time: a message is valid until the next poll.
int fabric_poll(struct fabric *fabric, struct fabric_completion *completions, unsigned most)
{
    bool found = false;

    pthread_mutex_lock(&lock);
    list_for_each (link, &fabric->conns) {
        struct fabric_conn *conn = container_of(link, struct fabric_conn, link);
        found = conn->started && poll_conn(conn, completions);
        if (found) {
            list_remove(&conn->link);
            list_append(&fabric->conns, &conn->link);
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

int fabric_arm(struct fabric *fabric)
{
    uint64_t count;

    return read(fabric->fd, &count, sizeof(count)) < 0 ? 0 : -EAGAIN;
}

int fabric_completion_fd(const struct fabric *fabric)
{
    return fabric->fd;
}
