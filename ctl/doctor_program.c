// Would the library get into this program, and see its sockets?
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ctl/doctor.h"
#include "ctl/program.h"

#define INTERPRETERS_MAX 5

static void report_missing(struct doctor *doctor, const char *name, int error)
{
    if (error == -ENOENT || error == -ENOTDIR)
        doctor_report(doctor, DOCTOR_FAIL, "check the name, or give the whole path", "there is no program \"%s\"",
                      name);
    else
        doctor_report(doctor, DOCTOR_FAIL, "make it a regular file that this user may execute",
                      "\"%s\" cannot be run: %s", name, strerror(-error));
}

static void report_unreadable(struct doctor *doctor, const struct program *program, int error)
{
    const char *path = program->path;
    if (error == -ENOEXEC && program->kind == PROGRAM_SCRIPT)
        doctor_report(doctor, DOCTOR_FAIL, "begin it with a line such as #!/bin/sh",
                      "%s names no interpreter in its "
                      "\"#!\" line",
                      path);
    else if (error == -ENOEXEC)
        doctor_report(doctor, DOCTOR_FAIL, "install the program again", "%s is damaged: its ELF headers make no sense",
                      path);
    else
        doctor_report(doctor, DOCTOR_WARN, "run the doctor as a user who may read it", "%s cannot be examined: %s",
                      path, strerror(-error));
}

static void report_elf(struct doctor *doctor, const struct program *program)
{
    size_t count;
    const struct program_text *texts = program_texts(&count);
    for (size_t i = 0; i < count; i++) {
        if (program->obstacles & texts[i].obstacle)
            doctor_report(doctor, DOCTOR_FAIL, texts[i].cure, "%s %s", program->path, texts[i].what);
    }
    if (program->obstacles == 0)
        doctor_report(doctor, DOCTOR_OK, NULL, "%s can be preloaded", program->path);
}

static void report_program(struct doctor *doctor, const struct program *program)
{
    switch (program->kind) {
    case PROGRAM_ELF:
        report_elf(doctor, program);
        break;
    case PROGRAM_SCRIPT:
        doctor_report(doctor, DOCTOR_OK, NULL, "%s is a script, run by %s%s%s", program->path, program->interpreter,
                      *program->argument ? " " : "", program->argument);
        break;
    case PROGRAM_OTHER:
        doctor_report(doctor, DOCTOR_WARN, "if it is a shell script, begin it with a line such as #!/bin/sh",
                      "%s is neither an ELF program nor a script with a \"#!\" line", program->path);
        break;
    }
}

void doctor_check_program(struct doctor *doctor)
{
    if (!doctor->program)
        return;
    char path[PATH_MAX];
    struct program program;
    int found = program_find(doctor->program, path);
    if (found < 0) {
        report_missing(doctor, doctor->program, found);
        return;
    }
    for (int i = 0; i < INTERPRETERS_MAX; i++) {
        int error = program_inspect(path, &program);
        if (error < 0) {
            report_unreadable(doctor, &program, error);
            return;
        }
        report_program(doctor, &program);
        found = program_next(&program, path);
        if (found < 0)
            report_missing(doctor, path, found);
        if (found <= 0)
            return;
    }
}
