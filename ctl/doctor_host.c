// Does this host have what the agent and the preload library rely on? What can be tried is tried.
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <linux/sockios.h>
#include <linux/tcp.h>

#include "core/memfd.h"
#include "ctl/ctl.h"
#include "ctl/doctor.h"
#include "ctl/units.h"

// Newer than some C libraries.
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

// What the preload library allows itself: a quarter of the descriptors, three for each session.
#define OWN_DESCRIPTORS_PART 4
#define SESSION_DESCRIPTORS  3
#define DESCRIPTORS_FEW      1024

#define TRIAL_BYTES   100
#define TRIAL_READ    40
#define TRIAL_WAIT_MS 1000

static int try_cookie(void)
{
    uint64_t cookie;
    socklen_t size = sizeof(cookie);
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return -errno;
    int error = getsockopt(sock, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) < 0 ? -errno : 0;
    close(sock);
    return error;
}

void doctor_check_kernel(struct doctor *doctor)
{
    struct utsname system;
    uname(&system);
    int error = try_cookie();
    if (error == 0)
        doctor_report(doctor, DOCTOR_OK, NULL, "the kernel (%s) can tell network namespaces apart", system.release);
    else
        doctor_report(doctor, DOCTOR_FAIL, "use Linux 5.14 or newer, outside of sandboxes that imitate it",
                      "the kernel (%s) has no SO_NETNS_COOKIE: %s", system.release, strerror(-error));
}

// Makes two connected sockets over the loopback interface. Returns 0 or -errno, with nothing left open.
static int connect_pair(int listener, int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        return -errno;
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (pair[0] < 0)
        return -errno;
    if (connect(pair[0], (struct sockaddr *)&address, size) == 0)
        pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (pair[1] >= 0)
        return 0;
    int error = -errno;
    close(pair[0]);
    return error;
}

static int make_pair(int pair[2])
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        return -errno;
    pair[0] = pair[1] = -1;
    int error = connect_pair(listener, pair);
    close(listener);
    return error;
}

static bool get_info(int sock, struct tcp_info *info)
{
    socklen_t size = sizeof(*info);
    memset(info, 0, sizeof(*info));
    return getsockopt(sock, IPPROTO_TCP, TCP_INFO, info, &size) == 0 &&
           size >= offsetof(struct tcp_info, tcpi_bytes_retrans) + sizeof(info->tcpi_bytes_retrans);
}

// The kernel's counts of sent and received bytes say at which byte a connection enters a ring: they must be exact.
static bool counts_exact(const int pair[2])
{
    char bytes[TRIAL_BYTES] = "";
    struct tcp_info sender, receiver;
    struct pollfd readable = {.fd = pair[1], .events = POLLIN};
    int queued;
    if (send(pair[0], bytes, TRIAL_BYTES, MSG_NOSIGNAL) != TRIAL_BYTES || poll(&readable, 1, TRIAL_WAIT_MS) != 1 ||
        recv(pair[1], bytes, TRIAL_READ, 0) != TRIAL_READ)
        return false;
    if (!get_info(pair[0], &sender) || !get_info(pair[1], &receiver) || ioctl(pair[1], SIOCINQ, &queued) < 0)
        return false;
    return sender.tcpi_bytes_sent - sender.tcpi_bytes_retrans + sender.tcpi_notsent_bytes == TRIAL_BYTES &&
           receiver.tcpi_bytes_received - (uint64_t)queued == TRIAL_READ;
}

void doctor_check_tcp(struct doctor *doctor)
{
    int pair[2];
    int error = make_pair(pair);
    if (error < 0) {
        doctor_report(doctor, DOCTOR_WARN, "bring the interface up: ip link set lo up",
                      "no TCP over the loopback interface: %s", strerror(-error));
        return;
    }
    if (counts_exact(pair))
        doctor_report(doctor, DOCTOR_OK, NULL, "TCP counts its bytes exactly");
    else
        doctor_report(doctor, DOCTOR_FAIL, "use a real Linux kernel, not a sandbox that imitates it",
                      "TCP_INFO does not count the bytes of a connection exactly");
    close(pair[0]);
    close(pair[1]);
}

// What the agent does to make a ring, and what a program does to use it.
static int try_memfd(void)
{
    void *address;
    int fd = memfd_make("rdmactl-doctor", (uint64_t)sysconf(_SC_PAGESIZE));
    if (fd < 0)
        return fd;
    int error = memfd_map(fd, 1, 1, &address);
    if (error == 0) {
        memfd_unmap(address, 1);
        error = memfd_seal_readers(fd);
    }
    close(fd);
    return error;
}

void doctor_check_memfd(struct doctor *doctor)
{
    int error = try_memfd();
    if (error == 0)
        doctor_report(doctor, DOCTOR_OK, NULL, "sealed shared memory (memfd_create) works");
    else
        doctor_report(doctor, DOCTOR_FAIL, "allow memfd_create and F_ADD_SEALS in the container's seccomp profile",
                      "sealed shared memory (memfd_create) does not work: %s", strerror(-error));
}

void doctor_check_descriptors(struct doctor *doctor)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    unsigned long long soft = limit.rlim_cur;
    bool few = soft < DESCRIPTORS_FEW;
    doctor_report(doctor, few ? DOCTOR_WARN : DOCTOR_OK,
                  few ? "raise the limit: ulimit -n, LimitNOFILE= of systemd" : NULL,
                  "programs may open %llu descriptors, enough for %llu accelerated connections each", soft,
                  soft / OWN_DESCRIPTORS_PART / SESSION_DESCRIPTORS);
}

// A file with one number. Returns INT64_MAX if there is none ("max"), or no such file.
static int64_t read_limit(const char *path)
{
    long long value;
    FILE *file = fopen(path, "re");
    if (!file)
        return INT64_MAX;
    if (fscanf(file, "%lld", &value) != 1)
        value = INT64_MAX;
    fclose(file);
    return value;
}

// The least limit of a group and the groups it is in. Cuts `group` down to "".
static int64_t group_limit(const char *root, char *group, const char *name)
{
    int64_t least = INT64_MAX;
    for (;;) {
        char path[2 * PATH_MAX];
        snprintf(path, sizeof(path), "%s%s/%s", root, group, name);
        int64_t limit = read_limit(path);
        least = limit < least ? limit : least;
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

// The lines of /proc/PID/cgroup: "0::GROUP" for the unified hierarchy, "N:CONTROLLERS:GROUP" for the older ones.
static int64_t line_limit(char *line)
{
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return INT64_MAX;
    *controllers++ = *group++ = '\0';
    if (*controllers == '\0')
        return group_limit("/sys/fs/cgroup", group, "memory.max");
    if (strcmp(controllers, "memory") == 0)
        return group_limit("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
    return INT64_MAX;
}

static int64_t process_limit(pid_t pid)
{
    char path[64], line[PATH_MAX];
    int64_t least = INT64_MAX;
    snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return INT64_MAX;
    while (fgets(line, sizeof(line), file)) {
        int64_t limit = line_limit(line);
        least = limit < least ? limit : least;
    }
    fclose(file);
    return least;
}

// Rings are charged to the agent, which makes them. (The size of /dev/shm does not matter to a memfd.)
void doctor_check_memory(struct doctor *doctor)
{
    const json_t *limits = json_object_get(json_object_get(doctor->agent, "policy"), "limits");
    int64_t rings = json_integer_value(json_object_get(limits, "ring_memory"));
    int64_t host = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    int64_t group = process_limit(doctor->agent_user.pid);
    char asked[UNITS_TEXT], had[UNITS_TEXT];
    if (rings <= 0)
        return;
    units_long(asked, rings);
    units_long(had, group < host ? group : host);
    if (rings > host)
        doctor_report(doctor, DOCTOR_WARN, "lower limits.ring_memory in the agent's configuration",
                      "rings may take %s, and the host has %s", asked, had);
    else if (rings > group)
        doctor_report(doctor, DOCTOR_WARN,
                      "raise the group's limit (MemoryMax= of systemd), or lower "
                      "limits.ring_memory in the agent's configuration",
                      "rings may take %s, and the agent's memory cgroup allows %s", asked, had);
    else
        doctor_report(doctor, DOCTOR_OK, NULL, "rings may take %s of %s", asked, had);
}

void doctor_check_cpus(struct doctor *doctor)
{
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
        return;
    int count = CPU_COUNT(&cpus);
    if (count > 1)
        doctor_report(doctor, DOCTOR_OK, NULL, "%d CPUs", count);
    else
        doctor_report(doctor, DOCTOR_OK, NULL,
                      "one CPU: nobody can spin while the other end works, so round trips gain "
                      "less");
}
