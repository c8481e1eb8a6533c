// The kernel's answers about a socket.

#include "agent/identity.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/fd.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static int get_option(int fd, int level, int option, void *value, socklen_t size)
{
    return getsockopt(fd, level, option, value, &size) < 0 ? -errno : 0;
}

static int check_tcp(int fd)
{
    int protocol;
    int result = get_option(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, sizeof(protocol));

    if (result < 0)
        return result == -ENOTSOCK ? result : -EPROTOTYPE;
    return protocol == IPPROTO_TCP ? 0 : -EPROTOTYPE;
}

// Data can still flow one way or the other.
static bool state_is_open(unsigned state)
{
    return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2;
}

static bool is_open(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);

    // tcpi_state is the first field: short answers do.
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && size > 0 && state_is_open(info.tcpi_state);
}

static bool read_addresses(int fd, struct identity *identity)
{
    struct sockaddr_storage local, remote;
    socklen_t size = sizeof(local);

    if (getsockname(fd, (struct sockaddr *)&local, &size) < 0)
        return false;
    size = sizeof(remote);
    if (getpeername(fd, (struct sockaddr *)&remote, &size) < 0)
        return false;
    return address_from_sockaddr(&identity->local, &local) == 0 &&
           address_from_sockaddr(&identity->remote, &remote) == 0;
}

int identity_read(int fd, struct identity *identity)
{
    int result = check_tcp(fd);
    struct stat file;
    int device = 0;

    if (result < 0)
        return result;
    memset(identity, 0, sizeof(*identity));
    if (get_option(fd, SOL_SOCKET, SO_COOKIE, &identity->cookie, sizeof(identity->cookie)) < 0 ||
        get_option(fd, SOL_SOCKET, SO_NETNS_COOKIE, &identity->netns, sizeof(identity->netns)) < 0)
        return -EPROTOTYPE;
    if (get_option(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &device, sizeof(device)) == 0)
        identity->device = (uint32_t)device;
    if (fstat(fd, &file) == 0)
        identity->inode = file.st_ino;
    identity->connected = is_open(fd) && read_addresses(fd, identity);
    return 0;
}

// One end of a connection may be bound to an interface and the other not; bound to different ones they are two.
static bool same_device(const struct identity *a, const struct identity *b)
{
    return a->device == b->device || a->device == 0 || b->device == 0 || a->netns != b->netns;
}

bool identity_is_peer(const struct identity *a, const struct identity *b)
{
    return address_equal(&a->local, &b->remote) && address_equal(&a->remote, &b->local) && same_device(a, b);
}

bool identity_may_leave_netns(const struct identity *identity)
{
    return !address_is_loopback(&identity->local) && !address_is_loopback(&identity->remote) &&
           !address_same_ip(&identity->local, &identity->remote);
}

bool identity_is_same_end(const struct identity *a, const struct identity *b)
{
    return a->netns == b->netns && a->device == b->device && address_equal(&a->local, &b->local) &&
           address_equal(&a->remote, &b->remote);
}

int identity_own_netns(uint64_t *netns)
{
    _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    return get_option(fd, SOL_SOCKET, SO_NETNS_COOKIE, netns, sizeof(*netns));
}
