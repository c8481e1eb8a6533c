// The RDMA devices of this host: which there are, for people, and when they come and go.

#include "agent/fabric_verbs.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEVICES_DIRECTORY "/sys/class/infiniband"

// The kernel's own group of device events; there is another, of udev's.
#define KERNEL_EVENTS 1
#define EVENT_MAX     8192

// A port has hundreds of places for addresses, of which the first few are used.
#define ADDRESSES_LOOKED_AT 32

bool devices_exist(void)
{
    DIR *directory = opendir(DEVICES_DIRECTORY);
    bool found = false;

    if (!directory)
        return false;
    for (struct dirent *entry; !found && (entry = readdir(directory));)
        found = entry->d_name[0] != '.';
    closedir(directory);
    return found;
}

int devices_watch(void)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = KERNEL_EVENTS};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    int error;

    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    error = -errno;
    close(fd);
    return error;
}

// An event is lines that end in zero, the first of them ACTION@PATH.
static bool concerns_devices(const char *event, size_t size)
{
    for (const char *line = event; line < event + size; line += strlen(line) + 1) {
        if (strcmp(line, "SUBSYSTEM=infiniband") == 0)
            return true;
    }
    return false;
}

bool devices_changed(int news)
{
    char event[EVENT_MAX + 1];
    bool changed = false;

    for (;;) {
        ssize_t size = recv(news, event, EVENT_MAX, 0);

        if (size < 0 && errno == ENOBUFS) {
            changed = true; // some were lost
            continue;
        }
        if (size <= 0)
            return changed;
        event[size] = '\0';
        changed |= concerns_devices(event, (size_t)size);
    }
}

// librdmacm keeps a device open to its end, and with drivers that have no way to take it from its users (soft-RoCE), the
// kernel waits for them. What librdmacm has from now on is a descriptor that it may close.
void devices_release(struct ibv_context *device)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (nothing < 0)
        return;
    dup3(nothing, device->async_fd, O_CLOEXEC);
    dup3(nothing, device->cmd_fd, O_CLOEXEC);
    close(nothing);
}

// For people.

static const char *link_name(uint8_t layer)
{
    return layer == IBV_LINK_LAYER_ETHERNET ? "ethernet" : "infiniband";
}

static const char *state_name(enum ibv_port_state state)
{
    switch (state) {
    case IBV_PORT_ACTIVE:
        return "active";
    case IBV_PORT_INIT:
    case IBV_PORT_ARMED:
        return "starting";
    case IBV_PORT_DOWN:
        return "down";
    default:
        return "not ready";
    }
}

static bool is_listed(const char *addresses, const char *text)
{
    size_t size = strlen(text);

    for (const char *at = addresses; (at = strstr(at, text)); at += size) {
        if ((at == addresses || at[-1] == ' ') && (at[size] == ' ' || !at[size]))
            return true;
    }
    return false;
}

static void add_address(struct fabric_device *device, const union ibv_gid *gid)
{
    struct in6_addr address;
    char text[INET6_ADDRSTRLEN];
    size_t used = strlen(device->addresses);

    memcpy(&address, gid->raw, sizeof(address));
    if (IN6_IS_ADDR_V4MAPPED(&address))
        inet_ntop(AF_INET, &address.s6_addr[12], text, sizeof(text));
    else
        inet_ntop(AF_INET6, &address, text, sizeof(text));
    // The same address stands there once for each version of the protocol.
    if (!is_listed(device->addresses, text) && used + strlen(text) + 2 <= sizeof(device->addresses))
        sprintf(device->addresses + used, "%s%s", used ? " " : "", text);
}

static void read_addresses(struct ibv_context *context, uint8_t port, int places, struct fabric_device *device)
{
    static const union ibv_gid none;

    for (int i = 0; i < places && i < ADDRESSES_LOOKED_AT; i++) {
        union ibv_gid gid;

        if (ibv_query_gid(context, port, i, &gid) == 0 && memcmp(&gid, &none, sizeof(none)) != 0)
            add_address(device, &gid);
    }
}

// A device with one active port is active.
static void read_ports(struct ibv_context *context, struct fabric_device *device)
{
    for (uint32_t port = 1; port <= device->ports; port++) {
        struct ibv_port_attr attributes;

        if (ibv_query_port(context, (uint8_t)port, &attributes) != 0)
            continue;
        if (!device->link[0] || attributes.state == IBV_PORT_ACTIVE) {
            snprintf(device->state, sizeof(device->state), "%s", state_name(attributes.state));
            snprintf(device->link, sizeof(device->link), "%s", link_name(attributes.link_layer));
        }
        read_addresses(context, (uint8_t)port, attributes.gid_tbl_len, device);
    }
}

static void read_device(struct ibv_device *found, struct fabric_device *device)
{
    struct ibv_context *context = ibv_open_device(found);
    struct ibv_device_attr attributes;

    memset(device, 0, sizeof(*device));
    snprintf(device->name, sizeof(device->name), "%s", ibv_get_device_name(found));
    snprintf(device->state, sizeof(device->state), "cannot be opened");
    if (!context)
        return;
    if (ibv_query_device(context, &attributes) == 0)
        device->ports = attributes.phys_port_cnt;
    read_ports(context, device);
    ibv_close_device(context);
}

int fabric_list_devices(struct fabric *fabric, struct fabric_device *devices, unsigned most)
{
    struct ibv_device **found;
    int count;

    if (!devices_exist())
        return 0;
    found = ibv_get_device_list(&count);
    if (!found)
        return errno == ENOSYS || errno == ENODEV ? 0 : -errno;
    for (int i = 0; i < count && (unsigned)i < most; i++)
        read_device(found[i], &devices[i]);
    ibv_free_device_list(found);
    return count;
}
