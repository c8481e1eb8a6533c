#include "tests/e2e/exact/side.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PARTS    8
#define MESSAGES 4

static unsigned char *buffer(void)
{
    static _Thread_local unsigned char *bytes;
    if (!bytes && !(bytes = malloc(CALL_BYTES)))
        fail("no memory");
    return bytes;
}

static size_t smaller(size_t one, size_t other)
{
    return one < other ? one : other;
}

// Divides bytes among up to PARTS parts, some of which may be empty. Returns their number.
static int divide(struct chance *chance, unsigned char *bytes, size_t count, struct iovec *parts)
{
    int number = 1 + (int)chance_below(chance, PARTS);
    for (int i = 0; i < number; i++) {
        size_t part = i == number - 1 ? count : chance_below(chance, count + 1);
        parts[i] = (struct iovec){.iov_base = bytes, .iov_len = part};
        bytes += part;
        count -= part;
    }
    return number;
}

// The same for up to MESSAGES messages of one part each, none empty.
static unsigned divide_messages(struct chance *chance, unsigned char *bytes, size_t count, struct iovec *parts,
                                struct mmsghdr *messages)
{
    unsigned number = 0;
    while (count && number < MESSAGES) {
        size_t part = number == MESSAGES - 1 ? count : 1 + chance_below(chance, count);
        parts[number] = (struct iovec){.iov_base = bytes, .iov_len = part};
        messages[number] = (struct mmsghdr){.msg_hdr = {.msg_iov = &parts[number], .msg_iovlen = 1}};
        bytes += part;
        count -= part;
        number++;
    }
    return number;
}

static ssize_t sum_of_messages(const struct mmsghdr *messages, int number)
{
    ssize_t sum = number < 0 ? -1 : 0;
    for (int i = 0; i < number; i++)
        sum += messages[i].msg_len;
    return sum;
}

// A pipe with room for `count` bytes, or for as many as the system allows. Fails if there is none.
static void make_pipe(int ends[2], size_t count)
{
    if (pipe2(ends, O_CLOEXEC) < 0)
        fail("pipe2: %s", strerror(errno));
    fcntl(ends[1], F_SETPIPE_SZ, (int)count);
}

static void close_pipe(const int ends[2])
{
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    errno = error;
}

// Sending: each sends at most `count` bytes, which are in buffer().

static ssize_t by_write(struct side *side, size_t count)
{
    return write(side->fd, buffer(), count);
}

static ssize_t by_send(struct side *side, size_t count)
{
    return send(side->fd, buffer(), count, 0);
}

static ssize_t by_send_now(struct side *side, size_t count)
{
    return send(side->fd, buffer(), count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t by_send_more(struct side *side, size_t count)
{
    return send(side->fd, buffer(), count, count < (size_t)(side_limit(side) - side->out.offset) ? MSG_MORE : 0);
}

static ssize_t by_sendto(struct side *side, size_t count)
{
    return sendto(side->fd, buffer(), count, MSG_NOSIGNAL, NULL, 0);
}

static ssize_t by_writev(struct side *side, size_t count)
{
    struct iovec parts[PARTS];
    return writev(side->fd, parts, divide(&side->out_chance, buffer(), count, parts));
}

static ssize_t by_sendmsg(struct side *side, size_t count)
{
    struct iovec parts[PARTS];
    struct msghdr message = {.msg_iov = parts};
    message.msg_iovlen = divide(&side->out_chance, buffer(), count, parts);
    return sendmsg(side->fd, &message, 0);
}

static ssize_t by_sendmmsg(struct side *side, size_t count)
{
    struct iovec parts[MESSAGES];
    struct mmsghdr messages[MESSAGES];
    unsigned number = divide_messages(&side->out_chance, buffer(), count, parts, messages);
    return sum_of_messages(messages, sendmmsg(side->fd, messages, number, 0));
}

// From a file of its own each time: the kernel sends the pages themselves, so they must not change afterwards.
static ssize_t by_sendfile(struct side *side, size_t count)
{
    int file = memfd_create("exact", MFD_CLOEXEC);
    off_t begin = (off_t)chance_below(&side->out_chance, 10000);
    if (file < 0 || pwrite(file, buffer(), count, begin) != (ssize_t)count)
        fail("memfd: %s", strerror(errno));
    bool by_position = chance_once_in(&side->out_chance, 2);
    off_t offset = begin;
    if (by_position)
        lseek(file, begin, SEEK_SET);
    ssize_t sent = sendfile(side->fd, file, by_position ? NULL : &offset, count);
    int error = errno;
    off_t end = by_position ? lseek(file, 0, SEEK_CUR) : offset;
    if (end != begin + (sent > 0 ? sent : 0))
        fail("sendfile sent %zd bytes and moved the offset by %lld", sent, (long long)(end - begin));
    close(file);
    errno = error;
    return sent;
}

// What does not fit into the socket stays in the pipe, and goes with it.
static ssize_t by_splice_out(struct side *side, size_t count)
{
    int ends[2];
    make_pipe(ends, count);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    ssize_t filled = write(ends[1], buffer(), count);
    if (filled <= 0)
        fail("a new pipe takes no bytes: %s", strerror(errno));
    unsigned flags = chance_once_in(&side->out_chance, 2) ? SPLICE_F_MOVE : 0;
    ssize_t sent = splice(ends[0], NULL, side->fd, NULL, (size_t)filled, flags);
    close_pipe(ends);
    return sent;
}

static const struct {
    const char *name;
    ssize_t (*send)(struct side *side, size_t count);
} SENDERS[] = {
    {"write", by_write},
    {"send", by_send},
    {"send MSG_DONTWAIT", by_send_now},
    {"send MSG_MORE", by_send_more},
    {"sendto", by_sendto},
    {"writev", by_writev},
    {"sendmsg", by_sendmsg},
    {"sendmmsg", by_sendmmsg},
    {"sendfile", by_sendfile},
    {"splice", by_splice_out},
};

static size_t first_sender, senders = sizeof SENDERS / sizeof SENDERS[0];

void side_send_only_by(const char *name)
{
    while (first_sender < senders && strcmp(SENDERS[first_sender].name, name) != 0)
        first_sender++;
    if (first_sender == senders)
        fail("no call for sending is named \"%s\"", name);
    senders = 1;
}

uint64_t side_limit(const struct side *side)
{
    if (!side->turn || side->in_done)
        return side->out.until;
    uint64_t limit = side->in.offset / side->turn * side->turn + (side->asks ? side->turn : 0);
    return limit < side->out.until ? limit : side->out.until;
}

enum outcome side_send(struct side *side)
{
    struct stream *out = &side->out;
    size_t count = smaller(chance_size(&side->out_chance, CALL_BYTES), (size_t)(side_limit(side) - out->offset));
    size_t choice = first_sender + chance_below(&side->out_chance, senders);
    stream_fill(out, out->offset, buffer(), count);
    ssize_t sent = SENDERS[choice].send(side, count);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR))
        return WOULD_BLOCK;
    if (sent <= 0 || (size_t)sent > count)
        fail("connection %u: %s of %zu bytes at offset %llu: %zd (%s)", side->connection, SENDERS[choice].name, count,
             (unsigned long long)out->offset, sent, sent < 0 ? strerror(errno) : "not an error");
    out->offset += (uint64_t)sent;
    return PROGRESS;
}

void side_shut(struct side *side)
{
    if (!side->shut && shutdown(side->fd, SHUT_WR) < 0)
        fail("connection %u: shutdown: %s", side->connection, strerror(errno));
    side->shut = true;
}

// Receiving: each gives at most `count` bytes, in buffer().

static ssize_t by_read(struct side *side, size_t count)
{
    return read(side->fd, buffer(), count);
}

static ssize_t by_recv(struct side *side, size_t count)
{
    return recv(side->fd, buffer(), count, 0);
}

static ssize_t by_recv_now(struct side *side, size_t count)
{
    return recv(side->fd, buffer(), count, MSG_DONTWAIT);
}

// Fills the buffer wholly, unless the stream ends or the socket does not block.
static ssize_t by_recv_all(struct side *side, size_t count)
{
    ssize_t got = recv(side->fd, buffer(), count, MSG_WAITALL);
    if (side->blocking && got >= 0 && (size_t)got < count && side->in.offset + (uint64_t)got != side->in.total)
        fail("connection %u: MSG_WAITALL gave %zd of %zu bytes at offset %llu", side->connection, got, count,
             (unsigned long long)side->in.offset);
    return got;
}

// What a peek shows must be what is read next.
static ssize_t by_peek(struct side *side, size_t count)
{
    ssize_t seen = recv(side->fd, buffer(), count, MSG_PEEK);
    if (seen <= 0)
        return seen;
    stream_check(&side->in, buffer(), (size_t)seen, "recv MSG_PEEK");
    memset(buffer(), 0, (size_t)seen);
    ssize_t got = recv(side->fd, buffer(), (size_t)seen, 0);
    if (got != seen)
        fail("connection %u: peeked at %zd bytes, then received %zd (%s)", side->connection, seen, got,
             got < 0 ? strerror(errno) : "not an error");
    return got;
}

static ssize_t by_recvfrom(struct side *side, size_t count)
{
    return recvfrom(side->fd, buffer(), count, 0, NULL, NULL);
}

static ssize_t by_readv(struct side *side, size_t count)
{
    struct iovec parts[PARTS];
    return readv(side->fd, parts, divide(&side->in_chance, buffer(), count, parts));
}

static ssize_t by_recvmsg(struct side *side, size_t count)
{
    struct iovec parts[PARTS];
    struct msghdr message = {.msg_iov = parts};
    message.msg_iovlen = divide(&side->in_chance, buffer(), count, parts);
    return recvmsg(side->fd, &message, 0);
}

// Several messages, each with less than it has room for: brought together before they are checked.
static ssize_t by_recvmmsg(struct side *side, size_t count)
{
    struct iovec parts[MESSAGES];
    struct mmsghdr messages[MESSAGES];
    unsigned number = divide_messages(&side->in_chance, buffer(), count, parts, messages);
    int received = recvmmsg(side->fd, messages, number, MSG_WAITFORONE, NULL);
    size_t at = 0;
    for (int i = 0; i < received; i++) {
        memmove(buffer() + at, parts[i].iov_base, messages[i].msg_len);
        at += messages[i].msg_len;
    }
    return sum_of_messages(messages, received);
}

static ssize_t by_splice_in(struct side *side, size_t count)
{
    int ends[2];
    make_pipe(ends, count);
    ssize_t got = splice(side->fd, NULL, ends[1], NULL, count, SPLICE_F_MOVE);
    for (ssize_t at = 0; at < got;) {
        ssize_t part = read(ends[0], buffer() + at, (size_t)(got - at));
        if (part <= 0)
            fail("splice gave %zd bytes, but only %zd are in the pipe", got, at);
        at += part;
    }
    close_pipe(ends);
    return got;
}

static const struct {
    const char *name;
    ssize_t (*receive)(struct side *side, size_t count);
} RECEIVERS[] = {
    {"read", by_read},
    {"recv", by_recv},
    {"recv MSG_DONTWAIT", by_recv_now},
    {"recv MSG_WAITALL", by_recv_all},
    {"recv MSG_PEEK and recv", by_peek},
    {"recvfrom", by_recvfrom},
    {"readv", by_readv},
    {"recvmsg", by_recvmsg},
    {"recvmmsg", by_recvmmsg},
    {"splice", by_splice_in},
};

static size_t first_receiver, receivers = sizeof RECEIVERS / sizeof RECEIVERS[0];

void side_receive_only_by(const char *name)
{
    while (first_receiver < receivers && strcmp(RECEIVERS[first_receiver].name, name) != 0)
        first_receiver++;
    if (first_receiver == receivers)
        fail("no call for receiving is named \"%s\"", name);
    receivers = 1;
}

enum outcome side_receive(struct side *side)
{
    struct stream *in = &side->in;
    size_t count = chance_size(&side->in_chance, CALL_BYTES);
    if (in->until < in->total)
        count = smaller(count, (size_t)(in->until - in->offset));
    if (side->turn) // what waits for all of it shall not wait for more than will come
        count = smaller(count, (size_t)(side->turn - in->offset % side->turn));
    size_t choice = first_receiver + chance_below(&side->in_chance, receivers);
    const char *name = RECEIVERS[choice].name;
    ssize_t got = RECEIVERS[choice].receive(side, count);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return WOULD_BLOCK;
    if (got < 0 || (size_t)got > count)
        fail("connection %u: %s of %zu bytes at offset %llu: %zd (%s)", side->connection, name, count,
             (unsigned long long)in->offset, got, got < 0 ? strerror(errno) : "not an error");
    if (got == 0) {
        stream_check_end(in, name);
        return ENDED;
    }
    stream_check(in, buffer(), (size_t)got, name);
    in->offset += (uint64_t)got;
    return PROGRESS;
}
