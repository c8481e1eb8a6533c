// rdmactl doctor: what on this host, or in a program, keeps connections from being accelerated, each with its cure.
#include "ctl/doctor.h"

#include <stdarg.h>
#include <stdio.h>

#include "ctl/ctl.h"
#include "ctl/text.h"

struct check {
    const char *name; // in --json
    void (*run)(struct doctor *doctor);
};

// In this order: the first asks the agent, on whose answer others rely.
static const struct check checks[] = {
    {"agent", doctor_check_agent},     {"version", doctor_check_version},         {"owner", doctor_check_owner},
    {"clients", doctor_check_clients}, {"policy", doctor_check_policy},           {"namespace", doctor_check_namespace},
    {"library", doctor_check_library}, {"kernel", doctor_check_kernel},           {"tcp", doctor_check_tcp},
    {"memfd", doctor_check_memfd},     {"descriptors", doctor_check_descriptors}, {"memory", doctor_check_memory},
    {"cpus", doctor_check_cpus},       {"devices", doctor_check_devices},         {"modules", doctor_check_modules},
    {"memlock", doctor_check_memlock}, {"program", doctor_check_program},
};

static const char *const status_names[] = {[DOCTOR_OK] = "ok", [DOCTOR_WARN] = "warn", [DOCTOR_FAIL] = "fail"};

static void add_finding(struct doctor *doctor, const char *status, const char *what, const char *cure)
{
    json_array_append_new(doctor->findings, ctl_memory(json_pack("{s:s, s:s, s:s, s:s?}", "check", doctor->check,
                                                                 "status", status, "what", what, "cure", cure)));
}

void doctor_report(struct doctor *doctor, enum doctor_status status, const char *cure, const char *format, ...)
{
    char text[2 * PATH_MAX], what[2 * PATH_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    text_clean(what, sizeof(what), text);
    if (status == DOCTOR_FAIL)
        doctor->failures++;
    if (doctor->ctl->json)
        add_finding(doctor, status_names[status], what, cure);
    else
        printf("%-4s  %s%s%s\n", status_names[status], what, cure ? "  - " : "", cure ? cure : "");
}

static int finish(const struct doctor *doctor)
{
    int code = doctor->failures > 0 ? CTL_FAILED : CTL_OK;
    if (!doctor->ctl->json)
        return code;
    CTL_JSON report = ctl_memory(json_pack("{s:b, s:O}", "ok", doctor->failures == 0, "checks", doctor->findings));
    int printed = ctl_print_json(doctor->ctl, report);
    return printed != CTL_OK ? printed : code;
}

static int examine(const struct ctl *ctl, const char *program)
{
    struct doctor doctor = {.ctl = ctl, .program = program, .findings = ctl_memory(json_array())};
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
        doctor.check = checks[i].name;
        checks[i].run(&doctor);
        fflush(stdout);
    }
    int code = finish(&doctor);
    json_decref(doctor.findings);
    json_decref(doctor.agent);
    return code;
}

int doctor_main(struct ctl *ctl, int argc, char **argv)
{
    static const struct option options[] = {CTL_OPTIONS};
    int found, code;
    while ((found = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if ((code = ctl_option(ctl, found, argv)) != 0)
            return code;
    }
    if (optind + 1 < argc)
        return ctl_usage(ctl, "expected one program, not \"%s\" as well (its arguments do not matter)",
                         argv[optind + 1]);
    return examine(ctl, argv[optind]);
}
