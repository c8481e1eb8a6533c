// A client that says anything to a whole agent: packets in any order, with any descriptors.
//
// An input is a row of packets: a byte with the kinds of the descriptors that go along (two bits for each of up to
// three; 0 ends them), a byte for the size, and the bytes. A HELLO gets the versions of today, unless the first bit is
// set, so that kept inputs do not grow old. The agent must not be harmed, and must forget the client.

#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/layout.h"
#include "core/wire.h"
#include "tests/fuzz/agent_rig.h"
#include "tests/fuzz/fuzz.h"

#define PACKETS_MOST 32

// By kind: the two ends of a TCP connection, and something else.
static int sample[4] = {-1, -1, -1, -1};
static int lowest_free;

static void make_samples(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    MUST(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0);
    MUST(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
    sample[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(connect(sample[1], (struct sockaddr *)&address, size) == 0);
    sample[2] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    sample[3] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    MUST(sample[2] >= 0 && sample[3] >= 0);
    close(listener);
}

static int connect_to(const struct agent *agent)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", agent->options.runtime_dir, WIRE_SOCKET);
    MUST(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static void send_packet(int client, unsigned kinds, const uint8_t *from, size_t size)
{
    union {
        uint8_t bytes[UINT8_MAX];
        union wire_message message;
    } packet;
    memcpy(packet.bytes, from, size);
    if (!(kinds & 0x80) && size == sizeof packet.message.hello && packet.message.head.type == WIRE_HELLO) {
        packet.message.hello.version = WIRE_VERSION;
        packet.message.hello.layout = LAYOUT_VERSION;
    }
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(3 * sizeof(int))];
    } control = {.room = {0}};
    struct iovec bytes = {packet.bytes, size};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    unsigned count = 0;

    for (; kinds & 3 && count < 3; kinds >>= 2)
        memcpy(CMSG_DATA(&control.head) + count++ * sizeof(int), &sample[kinds & 3], sizeof(int));
    if (count) {
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    }
    sendmsg(client, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int next_free(void)
{
    int fd = dup(sample[3]);
    close(fd);
    return fd;
}

// What strangers sent is closed by threads that have time for it, and rings are kept ready.
#define LEEWAY 200

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct agent *agent = agent_rig();

    if (sample[1] < 0)
        make_samples();
    int client = connect_to(agent);
    agent_rig_run(agent);
    for (int i = 0; i < PACKETS_MOST && size >= 2; i++) {
        unsigned kinds = data[0];
        size_t length = data[1] < size - 2 ? data[1] : size - 2;
        send_packet(client, kinds, data + 2, length);
        data += 2 + length;
        size -= 2 + length;
        agent_rig_run(agent);
    }
    close(client);
    for (int i = 0; agent->client_count > 0; i++) {
        MUST(i < 1000);
        agent_rig_run(agent);
    }
    if (!lowest_free)
        lowest_free = next_free();
    MUST(next_free() < lowest_free + LEEWAY);
    return 0;
}
