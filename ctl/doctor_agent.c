// Is there an agent, does it hear this user, and would it take a connection of this process?
#include <errno.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/wire.h"
#include "ctl/ctl.h"
#include "ctl/doctor.h"
#include "ctl/rpc.h"

#define SYSTEM_USERS_END 1000

void doctor_check_agent(struct doctor *doctor)
{
    struct rpc_answer answer;
    enum rpc_outcome outcome = rpc_call(doctor->ctl->runtime_dir, "status", NULL, RPC_LIMIT_MS, &answer);
    doctor->agent_user = answer.agent;
    if (outcome != RPC_OK) {
        doctor_report(doctor, DOCTOR_FAIL, answer.cure ? answer.cure : "see rdma-agent(8)", "%s", answer.error);
        return;
    }
    doctor->agent = answer.result;
    doctor_report(doctor, DOCTOR_OK, NULL, "an agent answers in %s (pid %d)", doctor->ctl->runtime_dir,
                  answer.agent.pid);
}

void doctor_check_version(struct doctor *doctor)
{
    if (!doctor->agent)
        return;
    const char *version = json_string_value(json_object_get(doctor->agent, "version"));
    if (version && strcmp(version, RDMA_VERSION) == 0)
        doctor_report(doctor, DOCTOR_OK, NULL, "agent and rdmactl are both version %s", version);
    else
        doctor_report(doctor, DOCTOR_WARN, "restart the agent, or install one version of everything",
                      "the agent is version %s, rdmactl is " RDMA_VERSION, version ? version : "unknown");
}

static const char *user_name(uid_t uid, char room[static 64])
{
    const struct passwd *user = getpwuid(uid);
    snprintf(room, 64, "%s", user ? user->pw_name : "unknown");
    return room;
}

// A program hands its sockets to the agent, so it matters whose that is.
void doctor_check_owner(struct doctor *doctor)
{
    if (doctor->agent_user.pid == 0)
        return;
    uid_t uid = doctor->agent_user.uid;
    char name[64];
    bool trusted = uid == geteuid() || uid < SYSTEM_USERS_END;
    doctor_report(doctor, trusted ? DOCTOR_OK : DOCTOR_WARN,
                  trusted ? NULL : "use an agent of the system's or your own: it gets the sockets of your programs",
                  "the agent runs as %s (uid %u)", user_name(uid, name), uid);
}

static int try_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >= (int)sizeof(address.sun_path))
        return -ENAMETOOLONG;
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock < 0)
        return -errno;
    int error = connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    close(sock);
    return error;
}

// Without an agent this is no finding of its own.
void doctor_check_clients(struct doctor *doctor)
{
    if (!doctor->agent)
        return;
    char path[PATH_MAX + sizeof(WIRE_SOCKET) + 1];
    snprintf(path, sizeof(path), "%s/%s", doctor->ctl->runtime_dir, WIRE_SOCKET);
    int error = try_socket(path);
    if (error == 0)
        doctor_report(doctor, DOCTOR_OK, NULL, "programs of this user can reach the agent");
    else if (error == -EAGAIN)
        doctor_report(doctor, DOCTOR_WARN, "see whether the agent is stopped or overloaded",
                      "too many programs wait to be heard on %s", path);
    else
        doctor_report(doctor, DOCTOR_FAIL,
                      "let this user pass the directory and write to the socket (modes 0755, 0666)",
                      "programs of this user cannot connect to %s: %s", path, strerror(-error));
}

// What the agent may say besides is its configuration's business; this is the one switch that turns everything off.
void doctor_check_policy(struct doctor *doctor)
{
    const json_t *policy = json_object_get(doctor->agent, "policy");
    const json_t *enabled = json_object_get(json_object_get(policy, "upgrade"), "enabled");
    if (json_is_false(enabled))
        doctor_report(doctor, DOCTOR_FAIL, "set it to true and run rdmactl reload",
                      "acceleration is switched off in the agent's configuration (upgrade.enabled)");
    else if (json_is_true(enabled))
        doctor_report(doctor, DOCTOR_OK, NULL, "acceleration is switched on");
}

// A namespace is known by the file that stands for it.
enum sameness { SAME, OTHER, UNKNOWN };

static enum sameness compare_namespace(const char *path)
{
    struct stat own, other;
    if (stat("/proc/self/ns/net", &own) < 0 || stat(path, &other) < 0)
        return UNKNOWN;
    return own.st_dev == other.st_dev && own.st_ino == other.st_ino ? SAME : OTHER;
}

// "self" is the agent's own, which only root and the agent's user may look at. In another process namespace than ours
// the agent has no number here.
static enum sameness compare_served(const struct doctor *doctor, const char *served)
{
    char path[64];
    if (strcmp(served, "self") != 0)
        return compare_namespace(served);
    snprintf(path, sizeof(path), "/proc/%d/ns/net", doctor->agent_user.pid);
    return doctor->agent_user.pid > 0 ? compare_namespace(path) : UNKNOWN;
}

// What cannot be found out is no finding.
void doctor_check_namespace(struct doctor *doctor)
{
    const json_t *namespaces = json_object_get(doctor->agent, "namespaces");
    size_t others = 0;
    for (size_t i = 0; i < json_array_size(namespaces); i++) {
        const char *served = json_string_value(json_array_get(namespaces, i));
        enum sameness sameness = served ? compare_served(doctor, served) : UNKNOWN;
        if (sameness == SAME) {
            doctor_report(doctor, DOCTOR_OK, NULL, "the agent serves this network namespace");
            return;
        }
        others += sameness == OTHER;
    }
    if (json_is_array(namespaces) && others == json_array_size(namespaces))
        doctor_report(doctor, DOCTOR_FAIL,
                      "name it in the agent's configuration (\"namespaces\"), or run an agent in it",
                      "the agent does not serve this network namespace");
}
