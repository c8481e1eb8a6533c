// The examinations of rdmactl doctor. A check looks at one thing and reports one finding or several; the table of them
// is in doctor.c.
#pragma once

#include <jansson.h>
#include <sys/socket.h>

struct ctl;

enum doctor_status { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };

struct doctor {
    const struct ctl *ctl;
    const char *program;     // NULL: only the host is examined
    json_t *agent;           // the result of `status`; NULL if there is no agent to answer
    struct ucred agent_user; // who runs it; pid 0 if nobody does
    const char *check;       // the check under way
    json_t *findings;        // for --json: an array
    int failures;
};

// Reports a finding of the check under way. `cure` may be NULL; it is needed where the status is not DOCTOR_OK.
void doctor_report(struct doctor *doctor, enum doctor_status status, const char *cure, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// doctor_agent.c. The first of them asks the agent; the others rely on its answer.
void doctor_check_agent(struct doctor *doctor);
void doctor_check_version(struct doctor *doctor);
void doctor_check_owner(struct doctor *doctor);
void doctor_check_clients(struct doctor *doctor);
void doctor_check_policy(struct doctor *doctor);
void doctor_check_namespace(struct doctor *doctor);

// doctor_library.c
void doctor_check_library(struct doctor *doctor);

// doctor_host.c
void doctor_check_kernel(struct doctor *doctor);
void doctor_check_tcp(struct doctor *doctor);
void doctor_check_memfd(struct doctor *doctor);
void doctor_check_descriptors(struct doctor *doctor);
void doctor_check_memory(struct doctor *doctor);
void doctor_check_cpus(struct doctor *doctor);

// doctor_rdma.c
void doctor_check_devices(struct doctor *doctor);
void doctor_check_modules(struct doctor *doctor);
void doctor_check_memlock(struct doctor *doctor);

// doctor_program.c
void doctor_check_program(struct doctor *doctor);
