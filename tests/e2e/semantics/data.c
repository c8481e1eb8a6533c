// The calls that carry data: flags, sizes, vectors, addresses, files, and what they refuse.

#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <linux/sockios.h>
#include <unistd.h>

#include "tests/e2e/semantics/scene.h"

static void peek(void)
{
    struct pair pair = scene_pair();
    give(pair.client, "0123456789");
    for (int i = 0; i < 2; i++)
        observe_recv("peek", pair.server, 4, MSG_PEEK);
    observe_recv("peek", pair.server, 100, MSG_PEEK);
    observe_recv("server", pair.server, 3, 0);
    observe_recv("peek", pair.server, 100, MSG_PEEK | MSG_DONTWAIT);
    observe_recv("server", pair.server, 100, 0);
    observe_recv("peek", pair.server, 100, MSG_PEEK | MSG_DONTWAIT);
    close(pair.client);
    observe_recv("peek", pair.server, 100, MSG_PEEK);
    observe_recv("server", pair.server, 100, 0);
}

static void waitall(void)
{
    struct pair pair = scene_pair();
    struct later later;
    struct saying rest = {pair.client, "56789"};
    give(pair.client, "01234");
    scene_later(&later, 50, act_give, &rest);
    observe_recv("server", pair.server, 10, MSG_WAITALL);
    scene_join(&later);
    give(pair.client, "abc");
    observe_recv("server", pair.server, 10, MSG_WAITALL | MSG_DONTWAIT);
    give(pair.client, "abc");
    observe_recv("peek", pair.server, 3, MSG_WAITALL | MSG_PEEK);
    observe_recv("server", pair.server, 2, MSG_WAITALL);
    struct saying end = {.fd = pair.client};
    scene_later(&later, 50, act_close, &end);
    observe_recv("server", pair.server, 10, MSG_WAITALL);
    scene_join(&later);
    observe_recv("server", pair.server, 10, MSG_WAITALL);
}

static void dontwait(void)
{
    struct pair pair = scene_pair();
    observe_recv("server", pair.server, 10, MSG_DONTWAIT);
    give(pair.client, "x");
    observe_recv("server", pair.server, 10, MSG_DONTWAIT);
    observe_recv("server", pair.server, 10, MSG_DONTWAIT);
    say("the socket itself blocks: O_NONBLOCK is %s", fcntl(pair.server, F_GETFL) & O_NONBLOCK ? "set" : "not set");
}

// On a stream, MSG_TRUNC throws away what it receives.
static void truncation(void)
{
    struct pair pair = scene_pair();
    char bytes[8] = "-------";
    give(pair.client, "0123456789");
    OBSERVE(recv(pair.server, bytes, 4, MSG_TRUNC));
    say("the buffer holds \"%s\"", bytes);
    OBSERVE(recv(pair.server, NULL, 2, MSG_TRUNC));
    OBSERVE(recv(pair.server, bytes, 3, MSG_TRUNC | MSG_PEEK));
    observe_recv("server", pair.server, 100, 0);
}

static void nothing(void)
{
    struct pair pair = scene_pair();
    char byte;
    OBSERVE(send(pair.client, &byte, 0, 0));
    OBSERVE(write(pair.client, &byte, 0));
    OBSERVE(write(pair.client, NULL, 0));
    OBSERVE(read(pair.server, &byte, 0));
    OBSERVE(recv(pair.server, &byte, 0, MSG_DONTWAIT));
    observe_recv("server", pair.server, 10, MSG_DONTWAIT);
    give(pair.client, "x");
    OBSERVE(read(pair.server, &byte, 0));
    OBSERVE(recv(pair.server, &byte, 0, 0));
    OBSERVE(recv(pair.server, NULL, 0, 0));
    observe_recv("server", pair.server, 10, 0);
    close(pair.client);
    OBSERVE(recv(pair.server, &byte, 0, 0));
    OBSERVE(recv(pair.server, &byte, 1, 0));
}

static void vectors(void)
{
    struct pair pair = scene_pair();
    char one[4] = "", two[4] = "";
    struct iovec out[] = {{(char *)"ab", 2}, {NULL, 0}, {(char *)"cde", 3}, {(char *)"f", 0}, {(char *)"g", 1}};
    struct iovec in[] = {{one, 2}, {NULL, 0}, {two, 3}};
    OBSERVE(writev(pair.client, out, 5));
    OBSERVE(readv(pair.server, in, 3));
    say("\"%s\" and \"%s\"", one, two);
    observe_recv("server", pair.server, 10, 0);
    OBSERVE(writev(pair.client, out, 0));
    OBSERVE(readv(pair.server, in, 0));
    OBSERVE(writev(pair.client, out, minus_one()));
    OBSERVE(readv(pair.server, in, minus_one()));
    OBSERVE(writev(pair.client, NULL, 0));
}

static void too_many_vectors(void)
{
    struct pair pair = scene_pair();
    static struct iovec many[IOV_MAX + 1];
    static char bytes[IOV_MAX + 1];
    for (int i = 0; i <= IOV_MAX; i++)
        many[i] = (struct iovec){bytes + i, 1};
    struct msghdr message = {.msg_iov = many, .msg_iovlen = IOV_MAX + 1};
    OBSERVE(writev(pair.client, many, IOV_MAX + 1));
    OBSERVE(sendmsg(pair.client, &message, 0));
    OBSERVE(writev(pair.client, many, IOV_MAX));
    OBSERVE(readv(pair.server, many, IOV_MAX + 1));
    OBSERVE(recvmsg(pair.server, &message, 0));
    OBSERVE(readv(pair.server, many, IOV_MAX));
    many[0].iov_len = (size_t)-1;
    OBSERVE(writev(pair.client, many, 1));
    observe_recv("server", pair.server, 10, MSG_DONTWAIT);
}

static void bad_pointers(void)
{
    struct pair pair = scene_pair();
    struct iovec part = {nowhere(), 10};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    OBSERVE(send(pair.client, nowhere(), 10, 0));
    OBSERVE(write(pair.client, no_buffer(), 10));
    OBSERVE(writev(pair.client, &part, 1));
    OBSERVE(sendmsg(pair.client, &message, 0));
    OBSERVE(sendmsg(pair.client, nowhere(), 0));
    OBSERVE(writev(pair.client, nowhere(), 2));
    give(pair.client, "kept");
    OBSERVE(recv(pair.server, nowhere(), 10, 0));
    OBSERVE(read(pair.server, no_buffer(), 10));
    OBSERVE(readv(pair.server, &part, 1));
    OBSERVE(recvmsg(pair.server, &message, 0));
    OBSERVE(recvmsg(pair.server, nowhere(), 0));
    OBSERVE(readv(pair.server, nowhere(), 2));
    observe_recv("server", pair.server, 10, 0);
    give(pair.client, "goes on");
    observe_recv("server", pair.server, 10, 0);
}

static void message_fields(void)
{
    struct pair pair = scene_pair();
    char bytes[10], control[200], name[100];
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_name = name,
                             .msg_namelen = sizeof name,
                             .msg_control = control,
                             .msg_controllen = sizeof control,
                             .msg_flags = -1};
    give(pair.client, "0123456789abc");
    OBSERVE(recvmsg(pair.server, &message, 0));
    say("namelen %u, controllen %zu, flags 0x%x", message.msg_namelen, message.msg_controllen, message.msg_flags);
    message = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1, .msg_name = name, .msg_namelen = sizeof name};
    OBSERVE(recvmsg(pair.server, &message, MSG_PEEK | MSG_CMSG_CLOEXEC));
    say("namelen %u, flags 0x%x", message.msg_namelen, message.msg_flags);
    OBSERVE(recvmsg(pair.server, &message, MSG_DONTWAIT));
    OBSERVE(recvmsg(pair.server, &message, MSG_DONTWAIT));
    message = (struct msghdr){0};
    OBSERVE(recvmsg(pair.server, &message, MSG_DONTWAIT));
    OBSERVE(sendmsg(pair.client, &message, 0));
}

static void addresses(void)
{
    struct pair pair = scene_pair();
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    char bytes[10];
    memset(&address, 0x55, sizeof address);
    give(pair.client, "0123456789");
    OBSERVE(recvfrom(pair.server, bytes, 2, 0, (struct sockaddr *)&address, &size));
    say("address length %u, family 0x%x", size, address.sin_family);
    size = 0;
    OBSERVE(recvfrom(pair.server, bytes, 2, 0, (struct sockaddr *)&address, &size));
    say("address length %u", size);
    OBSERVE(recvfrom(pair.server, bytes, 2, 0, (struct sockaddr *)&address, NULL));
    OBSERVE(recvfrom(pair.server, bytes, 2, 0, NULL, NULL));
    OBSERVE(recvfrom(pair.server, bytes, 2, 0, NULL, &size));
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = 9, .sin_addr.s_addr = 0x01020304};
    OBSERVE(sendto(pair.client, "elsewhere", 9, 0, (struct sockaddr *)&address, sizeof address));
    struct iovec part = {(char *)"again", 5};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_name = &address, .msg_namelen = sizeof address};
    OBSERVE(sendmsg(pair.client, &message, 0));
    observe_recv("server", pair.server, 14, MSG_WAITALL);
}

static void full(void)
{
    struct pair pair = scene_pair();
    set_nonblocking(pair.client, true);
    size_t sent = fill(pair.client);
    say("a full socket takes nothing more: %s", sent > 0 ? "it took some" : "it took none");
    OBSERVE(send(pair.client, "x", 1, 0));
    OBSERVE(write(pair.client, "x", 1));
    struct pollfd one = {.fd = pair.client, .events = POLLOUT};
    OBSERVE(poll(&one, 1, 20));
    size_t received = drain(pair.server, sent);
    say("all that was sent is received: %s", received == sent ? "yes" : "no");
    OBSERVE(poll(&one, 1, 1000));
    say("revents %s", bits_of_poll((unsigned)one.revents));
    OBSERVE(send(pair.client, "more", 4, 0));
    observe_recv("server", pair.server, 10, 0);
    set_nonblocking(pair.client, false);
}

static void act_drain(void *argument)
{
    const size_t *what = argument;
    say("the reader got %s", drain((int)what[0], what[1]) == what[1] ? "everything" : "less");
}

static void large_blocking_write(void)
{
    enum { SIZE = 16 << 20 };
    struct pair pair = scene_pair();
    size_t what[] = {(size_t)pair.server, SIZE};
    struct later later;
    char *bytes = calloc(1, SIZE);
    scene_later(&later, 30, act_drain, what);
    ssize_t written = write(pair.client, bytes, SIZE);
    scene_join(&later);
    say("%zd bytes were written", written);
    free(bytes);
}

static void waiting_bytes(void)
{
    struct pair pair = scene_pair();
    int count = -1;
    OBSERVE(ioctl(pair.server, FIONREAD, &count));
    say("%d bytes wait", count);
    give(pair.client, "0123456789");
    OBSERVE(ioctl(pair.server, FIONREAD, &count));
    say("%d bytes wait", count);
    observe_recv("server", pair.server, 4, 0);
    OBSERVE(ioctl(pair.server, SIOCINQ, &count));
    say("%d bytes wait", count);
    close(pair.client);
    nap(20);
    OBSERVE(ioctl(pair.server, FIONREAD, &count));
    say("%d bytes wait", count);
    observe_recv("server", pair.server, 10, 0);
    OBSERVE(ioctl(pair.server, FIONREAD, &count));
    say("%d bytes wait", count);
    OBSERVE(ioctl(pair.server, FIONREAD, NULL));
}

static void unsent_bytes(void)
{
    struct pair pair = scene_pair();
    int count = -1;
    give(pair.client, "0123456789");
    take(pair.server, 10);
    for (int i = 0; i < 100 && count; i++) {
        if (ioctl(pair.client, SIOCOUTQ, &count) < 0)
            broken("SIOCOUTQ");
        nap(5);
    }
    say("%d bytes on their way after all were received", count);
    set_nonblocking(pair.client, true);
    fill(pair.client);
    OBSERVE(ioctl(pair.client, SIOCOUTQ, &count));
    say("%s on their way in a full socket", count > 0 ? "bytes are" : "none are");
}

static int file_with(const char *text)
{
    int file = memfd_create("text", 0);
    if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text) || lseek(file, 0, SEEK_SET) != 0)
        broken("memfd");
    return file;
}

static void sending_files(void)
{
    struct pair pair = scene_pair();
    int file = file_with("0123456789");
    off_t offset = 4;
    OBSERVE(sendfile(pair.client, file, &offset, 3));
    say("offset %ld, position %ld", (long)offset, (long)lseek(file, 0, SEEK_CUR));
    OBSERVE(sendfile(pair.client, file, NULL, 2));
    say("position %ld", (long)lseek(file, 0, SEEK_CUR));
    OBSERVE(sendfile(pair.client, file, NULL, 100));
    OBSERVE(sendfile(pair.client, file, NULL, 100));
    observe_recv("server", pair.server, 13, MSG_WAITALL);
    offset = 100;
    OBSERVE(sendfile(pair.client, file, &offset, 10));
    OBSERVE(sendfile(pair.client, file, NULL, 0));
    offset = -1;
    OBSERVE(sendfile(pair.client, file, &offset, 10));
    OBSERVE(sendfile(pair.client, pair.server, NULL, 10));
    OBSERVE(sendfile(pair.client, -1, NULL, 10));
    OBSERVE(sendfile(file, pair.server, NULL, 10));
    int writing = open("/dev/null", O_WRONLY);
    OBSERVE(sendfile(pair.client, writing, NULL, 10));
    int zero = open("/dev/zero", O_RDONLY);
    OBSERVE(sendfile(pair.client, zero, NULL, 1000));
    say("%zu bytes received", drain(pair.server, 1000));
}

static void splicing(void)
{
    struct pair pair = scene_pair();
    int ends[2];
    loff_t offset = 0;
    char bytes[20] = "";
    if (pipe(ends) < 0)
        broken("pipe");
    OBSERVE(write(ends[1], "0123456789", 10));
    OBSERVE(splice(ends[0], NULL, pair.client, NULL, 4, 0));
    OBSERVE(splice(ends[0], NULL, pair.client, NULL, 100, SPLICE_F_MORE));
    OBSERVE(splice(ends[0], NULL, pair.client, NULL, 100, SPLICE_F_NONBLOCK));
    for (ssize_t moved = 0, part; moved < 10; moved += part) {
        if ((part = splice(pair.server, NULL, ends[1], NULL, 7, SPLICE_F_MOVE)) <= 0)
            broken("splice");
    }
    set_nonblocking(pair.server, true);
    OBSERVE(splice(pair.server, NULL, ends[1], NULL, 100, 0));
    set_nonblocking(pair.server, false);
    OBSERVE(read(ends[0], bytes, sizeof bytes));
    say("\"%s\"", bytes);
    OBSERVE(splice(pair.server, &offset, ends[1], NULL, 10, 0));
    OBSERVE(splice(ends[0], NULL, pair.client, &offset, 10, 0));
    OBSERVE(splice(pair.server, NULL, pair.client, NULL, 10, 0));
    OBSERVE(splice(ends[0], NULL, pair.client, NULL, 0, 0));
    close(pair.client);
    OBSERVE(splice(pair.server, NULL, ends[1], NULL, 10, 0));
}

static void positions(void)
{
    struct pair pair = scene_pair();
    char byte;
    struct iovec part = {&byte, 1};
    give(pair.client, "xy");
    OBSERVE(pread(pair.server, &byte, 1, 0));
    OBSERVE(pwrite(pair.client, "z", 1, 0));
    OBSERVE(preadv(pair.server, &part, 1, 0));
    OBSERVE(pwritev(pair.client, &part, 1, 0));
    OBSERVE(preadv2(pair.server, &part, 1, 0, 0));
    OBSERVE(preadv2(pair.server, &part, 1, -1, 0));
    OBSERVE(pwritev2(pair.client, &part, 1, -1, 0));
    OBSERVE(lseek(pair.server, 0, SEEK_CUR));
    OBSERVE(fsync(pair.server));
    OBSERVE(ftruncate(pair.server, 0));
    OBSERVE(posix_fadvise(pair.server, 0, 0, 0));
    OBSERVE(fallocate(pair.server, 0, 0, 10));
    OBSERVE(mmap(NULL, 4096, PROT_READ, MAP_SHARED, pair.server, 0) == MAP_FAILED);
    observe_recv("server", pair.server, 2, MSG_WAITALL);
}

static void several_messages(void)
{
    struct pair pair = scene_pair();
    char one[3] = "", two[5] = "", three[5] = "";
    struct iovec out[] = {{(char *)"ab", 2}, {(char *)"cdef", 4}}, in[] = {{one, 2}, {two, 3}, {three, 4}};
    struct mmsghdr sending[2] = {{.msg_hdr = {.msg_iov = &out[0], .msg_iovlen = 1}},
                                 {.msg_hdr = {.msg_iov = &out[1], .msg_iovlen = 1}}};
    struct mmsghdr receiving[3] = {{.msg_hdr = {.msg_iov = &in[0], .msg_iovlen = 1}},
                                   {.msg_hdr = {.msg_iov = &in[1], .msg_iovlen = 1}},
                                   {.msg_hdr = {.msg_iov = &in[2], .msg_iovlen = 1}}};
    OBSERVE(sendmmsg(pair.client, sending, 2, 0));
    say("lengths %u and %u", sending[0].msg_len, sending[1].msg_len);
    OBSERVE(recvmmsg(pair.server, receiving, 3, 0, NULL));
    say("lengths %u, %u, %u: \"%s\" \"%s\" \"%s\"", receiving[0].msg_len, receiving[1].msg_len, receiving[2].msg_len,
        one, two, three);
    OBSERVE(recvmmsg(pair.server, receiving, 3, MSG_DONTWAIT, NULL));
    give(pair.client, "xy");
    OBSERVE(recvmmsg(pair.server, receiving, 3, MSG_WAITFORONE, NULL));
    give(pair.client, "z");
    struct timespec soon = {0, 50000000};
    OBSERVE(recvmmsg(pair.server, receiving, 1, 0, &soon));
    OBSERVE(sendmmsg(pair.client, sending, 0, 0));
    OBSERVE(recvmmsg(pair.server, receiving, 0, 0, NULL));
    close(pair.client);
    OBSERVE(recvmmsg(pair.server, receiving, 3, 0, NULL));
    say("lengths %u and %u", receiving[0].msg_len, receiving[1].msg_len);
}

// A message that the socket takes in part is the last one of its call: the next would follow a gap.
static void several_messages_into_little_room(void)
{
    enum { SIZE = 1 << 20, MESSAGES = 8 };
    struct pair pair = scene_pair();
    static char bytes[SIZE];
    struct iovec part = {bytes, SIZE};
    struct mmsghdr messages[MESSAGES];
    set_nonblocking(pair.client, true);
    for (size_t round = 0, wrong = 0; round < 50; round++) {
        for (int i = 0; i < MESSAGES; i++)
            messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
        part.iov_len = 1000 + round * 20000;
        int sent = sendmmsg(pair.client, messages, MESSAGES, 0);
        size_t sum = 0;
        for (int i = 0; i < sent; i++) {
            sum += messages[i].msg_len;
            wrong += i < sent - 1 && messages[i].msg_len != part.iov_len;
        }
        wrong += drain(pair.server, sum) != sum;
        if (round == 49)
            say("%zu messages were followed by others though they were not sent wholly", wrong);
    }
}

// Nothing reads while a thread sends: the reader must not begin before the socket is full.
static void several_messages_blocking(void)
{
    enum { SIZE = 3 << 20, MESSAGES = 4 };
    struct pair pair = scene_pair();
    static char bytes[SIZE];
    struct iovec part = {bytes, SIZE};
    struct mmsghdr messages[MESSAGES];
    struct later later;
    size_t what[] = {(size_t)pair.server, (size_t)MESSAGES * SIZE};
    for (int i = 0; i < MESSAGES; i++)
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
    scene_later(&later, 50, act_drain, what);
    int sent = sendmmsg(pair.client, messages, MESSAGES, 0);
    scene_join(&later);
    say("%d messages were sent, the last of %u bytes", sent, messages[MESSAGES - 1].msg_len);
}

static void corked(void)
{
    struct pair pair = scene_pair();
    int on = 1, off = 0;
    OBSERVE(setsockopt(pair.client, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
    give(pair.client, "held ");
    give(pair.client, "back");
    OBSERVE(setsockopt(pair.client, IPPROTO_TCP, TCP_CORK, &off, sizeof off));
    observe_recv("server", pair.server, 9, MSG_WAITALL);
    OBSERVE(send(pair.client, "more ", 5, MSG_MORE));
    OBSERVE(send(pair.client, "and more", 8, 0));
    observe_recv("server", pair.server, 13, MSG_WAITALL);
}

static void flags_without_effect(void)
{
    struct pair pair = scene_pair();
    OBSERVE(send(pair.client, "a", 1, MSG_EOR));
    OBSERVE(send(pair.client, "b", 1, MSG_CONFIRM));
    OBSERVE(send(pair.client, "c", 1, MSG_DONTROUTE));
    observe_recv("server", pair.server, 3, MSG_WAITALL);
    observe_recv("server", pair.server, 3, MSG_ERRQUEUE | MSG_DONTWAIT);
    observe_recv("server", pair.server, 3, MSG_OOB | MSG_DONTWAIT);
    give(pair.client, "d");
    observe_recv("server", pair.server, 3, MSG_OOB | MSG_DONTWAIT);
    observe_recv("server", pair.server, 3, MSG_ERRQUEUE);
    observe_recv("server", pair.server, 3, 0);
}

static void wrong_descriptors(void)
{
    struct pair pair = scene_pair();
    char byte;
    int client = pair.client;
    close(client);
    OBSERVE(send(client, "x", 1, 0));
    OBSERVE(recv(client, &byte, 1, 0));
    OBSERVE(read(client, &byte, 1));
    OBSERVE(close(client));
    OBSERVE(shutdown(client, SHUT_WR));
    OBSERVE(send(-1, "x", 1, 0));
    OBSERVE(recv(1 << 29, &byte, 1, 0));
    int file = file_with("file");
    OBSERVE(recv(file, &byte, 1, 0));
    OBSERVE(send(file, &byte, 1, 0));
    OBSERVE(shutdown(file, SHUT_WR));
}

// More than a ring's worth in calls of all sizes, each followed by its answer.
static void conversation(void)
{
    struct pair pair = scene_pair();
    static char out[70000], in[70000];
    size_t wrong = 0;
    for (size_t round = 0; round < 200; round++) {
        size_t size = 1 + round * 349 % sizeof out;
        memset(out, (int)round, size);
        if (send(pair.client, out, size, 0) != (ssize_t)size ||
            recv(pair.server, in, size, MSG_WAITALL) != (ssize_t)size)
            broken("conversation");
        wrong += memcmp(out, in, size) != 0;
    }
    say("%zu of 200 messages are wrong", wrong);
}

static void ipv6(void)
{
    struct pair pair = scene_fresh_pair(AF_INET6);
    scene_upgrade(pair);
    give(pair.client, "over IPv6");
    observe_recv("server", pair.server, 100, 0);
}

// A server of both families, as most are; its client speaks IPv4 only.
static void ipv4_in_ipv6(void)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof any;
    int listener = socket(AF_INET6, SOCK_STREAM, 0);
    struct pair pair = {.client = socket(AF_INET, SOCK_STREAM, 0)};
    if (bind(listener, (struct sockaddr *)&any, size) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&any, &size) < 0)
        broken("listen");
    four.sin_port = any.sin6_port;
    if (connect(pair.client, (struct sockaddr *)&four, sizeof four) < 0 ||
        (pair.server = accept(listener, NULL, NULL)) < 0)
        broken("connect");
    scene_upgrade(pair);
    give(pair.client, "over both");
    observe_recv("server", pair.server, 100, 0);
}

const struct scene_case data_cases[] = {
    {"peek", peek},
    {"waitall", waitall},
    {"dontwait", dontwait},
    {"truncation", truncation},
    {"nothing", nothing},
    {"vectors", vectors},
    {"too_many_vectors", too_many_vectors},
    {"bad_pointers", bad_pointers},
    {"message_fields", message_fields},
    {"addresses", addresses},
    {"full", full},
    {"large_blocking_write", large_blocking_write},
    {"waiting_bytes", waiting_bytes},
    {"unsent_bytes", unsent_bytes},
    {"sending_files", sending_files},
    {"splicing", splicing},
    {"positions", positions},
    {"several_messages", several_messages},
    {"several_messages_into_little_room", several_messages_into_little_room},
    {"several_messages_blocking", several_messages_blocking},
    {"corked", corked},
    {"flags_without_effect", flags_without_effect},
    {"wrong_descriptors", wrong_descriptors},
    {"conversation", conversation},
    {"ipv6", ipv6},
    {"ipv4_in_ipv6", ipv4_in_ipv6},
    {NULL, NULL},
};
