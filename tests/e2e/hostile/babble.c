// Whatever comes to mind, to the agent's two sockets.

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/layout.h"
#include "core/wire.h"
#include "tests/e2e/hostile/hostile.h"

#define CONNECTIONS 24
#define KINDS       6

static int samples[KINDS];

static void make_samples(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        fail("pipe");
    samples[0] = ends[0];
    samples[1] = ends[1];
    samples[2] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    samples[3] = open("/dev/zero", O_RDWR | O_CLOEXEC);
    samples[4] = memfd_create("sample", MFD_CLOEXEC);
    samples[5] = eventfd(0, EFD_CLOEXEC);
}

// Well-formed up to a point.
static unsigned make_message(struct dice *dice, union wire_message *message)
{
    static const unsigned types[] = {1, 2, 3, 4, 5, 6, 65, 66, 67};
    unsigned type = types[dice_below(dice, sizeof types / sizeof types[0])];
    wire_begin(message, type);
    for (unsigned i = sizeof message->head; i < sizeof *message && dice_below(dice, 3); i++)
        ((unsigned char *)message)[i] = (unsigned char)dice_below(dice, 8);
    if (type == WIRE_HELLO && dice_below(dice, 4)) {
        message->hello.version = WIRE_VERSION;
        message->hello.layout = LAYOUT_VERSION;
    }
    if (!dice_below(dice, 6))
        message->head.size = (uint16_t)dice_next(dice);
    if (!dice_below(dice, 12))
        message->head.type = (uint16_t)dice_below(dice, 100);
    return dice_below(dice, 8) ? (unsigned)wire_size(type) : (unsigned)dice_below(dice, sizeof *message + 1);
}

static void say_to_clients_socket(int fd, struct dice *dice)
{
    union wire_message message;
    int fds[16];
    unsigned size = make_message(dice, &message);
    unsigned count = dice_below(dice, 3) ? wire_fds(message.head.type) : (unsigned)dice_below(dice, 16);
    for (unsigned i = 0; i < count && i < 16; i++)
        fds[i] = samples[dice_below(dice, KINDS)];
    agent_send(fd, &message, size, fds, count < 16 ? count : 16);
}

static void say_to_control_socket(int fd, struct dice *dice)
{
    static const char *const words[] = {
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "\n",
        "list",
        "stats",
        "limit_set",
        "jsonrpc",
        "2.0",
        "\"id\":1,",
        "params",
        "fallback",
        "\\u0000",
        "1e999",
        "\"method\"",
        "null",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"list\"}\n",
        "\xff\xfe",
        "status",
        "limit_get",
        "\"all\"",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"stats\"}\n",
    };
    char text[65536];
    size_t size = 0;
    for (uint64_t n = dice_below(dice, 40); n > 0; n--) {
        const char *word = words[dice_below(dice, sizeof words / sizeof words[0])];
        memcpy(text + size, word, strlen(word));
        size += strlen(word);
    }
    if (!dice_below(dice, 50)) {
        memset(text, '[', sizeof text);
        size = sizeof text;
    }
    int fds[2] = {samples[0], samples[4]};
    agent_send(fd, text, (unsigned)size, fds, (unsigned)dice_below(dice, 3));
}

void babble(const char *directory, double seconds, struct dice *dice)
{
    int fds[CONNECTIONS];
    unsigned long said = 0;
    make_samples();
    memset(fds, -1, sizeof fds);
    for (double until = now() + seconds; now() < until; said++) {
        unsigned i = (unsigned)dice_below(dice, CONNECTIONS);
        bool to_control = i % 6 == 0; // of which a user has only so many
        if (fds[i] < 0)
            fds[i] = agent_connect(directory, to_control ? WIRE_CONTROL : WIRE_SOCKET,
                                   to_control ? SOCK_STREAM : SOCK_SEQPACKET);
        if (fds[i] < 0)
            continue;
        to_control ? say_to_control_socket(fds[i], dice) : say_to_clients_socket(fds[i], dice);
        char answer[4096];
        while (dice_below(dice, 4) && recv(fds[i], answer, sizeof answer, MSG_DONTWAIT) > 0)
            continue;
        if (!dice_below(dice, 8)) {
            close(fds[i]);
            fds[i] = -1;
        }
    }
    printf("%lu times\n", said);
}
