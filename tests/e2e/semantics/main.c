// How upgraded connections behave, case by case: every case writes what it observes (results, errno, readiness, bytes)
// to standard output. The test runs it with the library and without, and compares.
//
//   semantics --list     the names of the cases
//   semantics CASE       runs one of them; RDMA_E2E_SECONDS says how long it may take

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/semantics/scene.h"
#include "tests/e2e/semantics/echo.h"

#define CASE_SECONDS 12

static const struct scene_case *const all[] = {
    data_cases, descriptor_cases, end_cases,  epoll_cases,   handover_cases,
    pin_cases,  option_cases,     poll_cases, process_cases, signal_cases,
};

static const struct scene_case *find(const char *name)
{
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        for (const struct scene_case *one = all[i]; one->name; one++) {
            if (strcmp(one->name, name) == 0)
                return one;
        }
    }
    return NULL;
}

static void list(void)
{
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        for (const struct scene_case *one = all[i]; one->name; one++)
            puts(one->name);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        list();
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], ECHO_OPTION) == 0)
        return echo_main(argv[2]);
    if (argc == 3 && strcmp(argv[1], RECEIVE_OPTION) == 0)
        return echo_received_main(argv[2]);
    if (argc == 3 && strcmp(argv[1], ALTERNATE_OPTION) == 0)
        return echo_alternate_main(argv[2]);
    const struct scene_case *one = argc == 2 ? find(argv[1]) : NULL;
    if (!one) {
        fprintf(stderr, "usage: semantics --list | semantics CASE\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    const char *seconds = getenv("RDMA_E2E_SECONDS");
    alarm(seconds ? (unsigned)atoi(seconds) : CASE_SECONDS);
    one->run();
    say("the case is over");
    return 0;
}
