// One question to the kernel, of which nothing is waited for: it answers within the send.

#include "agent/alive.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/fd.h"

// The states of the kernel's net/tcp_states.h in which a process can still use the connection.
enum { ESTABLISHED = 1, FIN_WAIT1 = 4, FIN_WAIT2 = 5, CLOSE_WAIT = 8 };

union answer {
    struct nlmsghdr head;
    char room[1024];
};

struct question {
    struct nlmsghdr head;
    struct inet_diag_req_v2 body;
};

// An IPv4 address is the last four bytes of its mapped form. A dual-stack socket is found by it too.
static void put_addresses(struct inet_diag_req_v2 *body, const struct identity *identity)
{
    bool v4 = address_is_ipv4(&identity->local);
    const uint8_t *source = identity->local.ip + (v4 ? 12 : 0), *destination = identity->remote.ip + (v4 ? 12 : 0);
    size_t size = v4 ? 4 : 16;

    body->sdiag_family = v4 ? AF_INET : AF_INET6;
    memcpy(body->id.idiag_src, source, size);
    memcpy(body->id.idiag_dst, destination, size);
}

static struct question make_question(const struct identity *identity, uint32_t sequence)
{
    struct question question = {
        .head =
            {
                .nlmsg_len = sizeof(question),
                .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                .nlmsg_flags = NLM_F_REQUEST,
                .nlmsg_seq = sequence,
            },
        .body = {.sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0u},
    };

    put_addresses(&question.body, identity);
    question.body.id.idiag_sport = htons(identity->local.port);
    question.body.id.idiag_dport = htons(identity->remote.port);
    question.body.id.idiag_if = identity->local.scope ? identity->local.scope : identity->device;
    // The cookie makes it this socket and not a successor with the same addresses.
    question.body.id.idiag_cookie[0] = (uint32_t)identity->cookie;
    question.body.id.idiag_cookie[1] = (uint32_t)(identity->cookie >> 32);
    return question;
}

static bool is_held(const struct inet_diag_msg *found)
{
    bool usable = found->idiag_state == ESTABLISHED || found->idiag_state == FIN_WAIT1 ||
                  found->idiag_state == FIN_WAIT2 || found->idiag_state == CLOSE_WAIT;
    // An orphan, which the kernel takes down by itself, has no inode.
    return usable && found->idiag_inode != 0;
}

// Receives the answer to the last question, skipping what older ones may have left. Returns null if there is none.
static const struct inet_diag_msg *receive(const struct alive *alive, union answer *answer)
{
    ssize_t size;

    do
        size = recv(alive->sock, answer, sizeof(*answer), MSG_DONTWAIT);
    while (size >= (ssize_t)sizeof(answer->head) && answer->head.nlmsg_seq != alive->sequence);
    if (size < (ssize_t)NLMSG_LENGTH(sizeof(struct inet_diag_msg)) || !NLMSG_OK(&answer->head, (size_t)size) ||
        answer->head.nlmsg_type != SOCK_DIAG_BY_FAMILY)
        return NULL;
    return NLMSG_DATA(&answer->head);
}

bool alive_is_held(struct alive *alive, const struct identity *identity)
{
    struct question question = make_question(identity, ++alive->sequence);
    const struct inet_diag_msg *found;
    union answer answer;

    if (alive->sock < 0 || identity->netns != alive->netns ||
        send(alive->sock, &question, sizeof(question), MSG_DONTWAIT) != sizeof(question))
        return false;
    found = receive(alive, &answer);
    return found && is_held(found);
}

void alive_init(struct alive *alive)
{
    alive->sequence = 0;
    alive->sock = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (identity_own_netns(&alive->netns) < 0)
        fd_close(&alive->sock);
}

void alive_deinit(struct alive *alive)
{
    fd_close(&alive->sock);
}
