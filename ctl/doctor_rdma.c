// Can this host reach others over RDMA? Without peers in the agent's configuration it need not.
//
// All of it is read from sysfs and from /proc, so that rdmactl needs no library of RDMA's. SYSFS_PATH names another
// sysfs, as it does for libibverbs.
#include <arpa/inet.h>
#include <dirent.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/doctor.h"
#include "ctl/units.h"

#define CAP_IPC_LOCK_BIT 14

#define WORD_MAX      128
#define ADDRESSES_MAX 256

// A port has hundreds of places for addresses, of which the first few are used.
#define ADDRESSES_LOOKED_AT 32

#define SOFT_ROCE_CURE \
    "load the driver of the adapter; or without one, soft-RoCE over any network card: modprobe rdma_rxe, then " \
    "rdma link add rxe0 type rxe netdev CARD"

static const char *sysfs(void)
{
    const char *path = getenv("SYSFS_PATH");
    return path && *path ? path : "/sys";
}

// Reads the first line of a file below sysfs, without its end. Returns whether there is one.
static bool read_line(char line[static WORD_MAX], const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool read_line(char line[static WORD_MAX], const char *format, ...)
{
    char path[PATH_MAX];
    va_list arguments;
    int used = snprintf(path, sizeof(path), "%s/class/", sysfs());
    va_start(arguments, format);
    vsnprintf(path + used, sizeof(path) - (size_t)used, format, arguments);
    va_end(arguments);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool found = fgets(line, WORD_MAX, file) != NULL;
    fclose(file);
    if (found)
        line[strcspn(line, "\n")] = '\0';
    return found;
}

static DIR *open_class(const char *name)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/class/%s", sysfs(), name);
    return opendir(path);
}

// The next entry that is not hidden, or NULL.
static const char *next_entry(DIR *directory)
{
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        if (entry->d_name[0] != '.')
            return entry->d_name;
    }
    return NULL;
}

static bool has_peers(const struct doctor *doctor)
{
    return json_array_size(json_object_get(json_object_get(doctor->agent, "policy"), "peers")) > 0;
}

// What is missing is a failure only to those who want it.
static enum doctor_status missing(const struct doctor *doctor)
{
    return has_peers(doctor) ? DOCTOR_FAIL : DOCTOR_OK;
}

// The addresses of a port, each once.

static void add_address(char list[static ADDRESSES_MAX], const char *gid)
{
    struct in6_addr address;
    char text[INET6_ADDRSTRLEN + 2] = " ", padded[ADDRESSES_MAX + 2];
    if (inet_pton(AF_INET6, gid, &address) != 1 || IN6_IS_ADDR_UNSPECIFIED(&address))
        return;
    if (IN6_IS_ADDR_V4MAPPED(&address))
        inet_ntop(AF_INET, &address.s6_addr[12], text + 1, INET6_ADDRSTRLEN);
    else
        inet_ntop(AF_INET6, &address, text + 1, INET6_ADDRSTRLEN);
    snprintf(padded, sizeof(padded), "%s ", list);
    size_t used = strlen(list), size = strlen(text);
    const char *found = strstr(padded, text);
    if (!(found && found[size] == ' ') && used + size < ADDRESSES_MAX)
        strcpy(list + used, text);
}

static void read_addresses(char list[static ADDRESSES_MAX], const char *device, const char *port)
{
    char gid[WORD_MAX];
    list[0] = '\0';
    for (int i = 0; i < ADDRESSES_LOOKED_AT; i++) {
        if (read_line(gid, "infiniband/%s/ports/%s/gids/%d", device, port, i))
            add_address(list, gid);
    }
}

static void report_port(struct doctor *doctor, const char *device, const char *port)
{
    char state[WORD_MAX] = "", link[WORD_MAX] = "unknown link", addresses[ADDRESSES_MAX];
    read_line(state, "infiniband/%s/ports/%s/state", device, port); // "4: ACTIVE"
    read_line(link, "infiniband/%s/ports/%s/link_layer", device, port);
    read_addresses(addresses, device, port);
    const char *name = strchr(state, ' ') ? strchr(state, ' ') + 1 : "unknown";
    if (strcmp(name, "ACTIVE") != 0)
        doctor_report(doctor, DOCTOR_WARN, "see the cable, and whether its network card is up (ip link, rdma link)",
                      "RDMA device %s, port %s (%s) is %s", device, port, link, name);
    else if (!addresses[0])
        doctor_report(doctor, DOCTOR_WARN, "give its network card an address",
                      "RDMA device %s, port %s (%s) has no address", device, port, link);
    else
        doctor_report(doctor, DOCTOR_OK, NULL, "RDMA device %s, port %s (%s) is active, at%s", device, port, link,
                      addresses);
}

static void report_ports(struct doctor *doctor, const char *device)
{
    char path[PATH_MAX];
    const char *port;
    snprintf(path, sizeof(path), "infiniband/%s/ports", device);
    DIR *directory = open_class(path);
    while (directory && (port = next_entry(directory)))
        report_port(doctor, device, port);
    if (directory)
        closedir(directory);
}

static bool has_entries(const char *class)
{
    DIR *directory = open_class(class);
    bool found = directory && next_entry(directory);
    if (directory)
        closedir(directory);
    return found;
}

void doctor_check_devices(struct doctor *doctor)
{
    DIR *directory = open_class("infiniband");
    const char *device;
    bool found = false;
    while (directory && (device = next_entry(directory))) {
        found = true;
        report_ports(doctor, device);
    }
    if (directory)
        closedir(directory);
    if (!found && has_peers(doctor))
        doctor_report(doctor, DOCTOR_FAIL, SOFT_ROCE_CURE,
                      "no RDMA device: connections to the peers of the configuration stay TCP");
    else if (!found)
        doctor_report(doctor, DOCTOR_OK, NULL, "no RDMA device, and no peers that would need one");
}

// Without a device they need not be there.
void doctor_check_modules(struct doctor *doctor)
{
    char word[WORD_MAX];
    bool verbs = has_entries("infiniband_verbs"), cm = read_line(word, "misc/rdma_cm/dev");
    if (!has_entries("infiniband"))
        return;
    if (verbs && cm)
        doctor_report(doctor, DOCTOR_OK, NULL, "programs can use RDMA devices (ib_uverbs, rdma_ucm)");
    if (!verbs)
        doctor_report(doctor, missing(doctor), has_peers(doctor) ? "modprobe ib_uverbs" : NULL,
                      "programs cannot use RDMA devices: the module ib_uverbs is not loaded");
    if (!cm)
        doctor_report(doctor, missing(doctor), has_peers(doctor) ? "modprobe rdma_ucm" : NULL,
                      "programs cannot connect over RDMA: the module rdma_ucm is not loaded");
}

// The limit of the agent.

static FILE *open_process_file(const struct doctor *doctor, const char *name)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", doctor->agent_user.pid, name);
    return fopen(path, "re");
}

// Whether the agent may lock as much as it likes.
static bool is_privileged(const struct doctor *doctor)
{
    char line[256];
    unsigned long long capabilities = 0;
    FILE *file = open_process_file(doctor, "status");
    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "CapEff: %llx", &capabilities) == 1)
            break;
    }
    if (file)
        fclose(file);
    return capabilities >> CAP_IPC_LOCK_BIT & 1;
}

// Returns INT64_MAX if there is no limit, or it cannot be read.
static int64_t locked_memory_limit(const struct doctor *doctor)
{
    char line[256];
    long long limit, found = INT64_MAX;
    FILE *file = open_process_file(doctor, "limits");
    while (file && fgets(line, sizeof(line), file)) {
        if (sscanf(line, "Max locked memory %lld", &limit) == 1)
            found = limit;
    }
    if (file)
        fclose(file);
    return found;
}

// Memory that another host writes is locked, and charged to the agent.
void doctor_check_memlock(struct doctor *doctor)
{
    const json_t *rdma = json_object_get(json_object_get(doctor->agent, "policy"), "rdma");
    int64_t wanted = json_integer_value(json_object_get(rdma, "registered_memory"));
    int64_t limit = locked_memory_limit(doctor);
    char asked[UNITS_TEXT], had[UNITS_TEXT];
    if (!has_peers(doctor) || wanted <= 0)
        return;
    units_long(asked, wanted);
    units_long(had, limit);
    if (limit < wanted && !is_privileged(doctor))
        doctor_report(
            doctor, DOCTOR_WARN, "raise the limit of the agent: LimitMEMLOCK=infinity of systemd, ulimit -l unlimited",
            "connections with other hosts may take %s of locked memory, and the agent may lock %s", asked, had);
    else
        doctor_report(doctor, DOCTOR_OK, NULL, "the agent may lock the %s that connections with other hosts may take",
                      asked);
}
