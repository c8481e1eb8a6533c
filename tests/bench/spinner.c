// spinner: keeps CPUs from halting, at the lowest priority there is, until it is killed or its parent ends.
//
//   cpus=A,B      prints {"ready":1} once it runs
//
// A halted virtual CPU is woken by the hypervisor, which costs more than everything else in a round trip. With this the
// CPU is never halted, which is the nearest thing to bare metal that a virtual machine offers.

#include <err.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tests/bench/bench.h"

static void spin(void *context)
{
    struct sched_param none = {0};
    if (sched_setscheduler(0, SCHED_IDLE, &none))
        err(1, "SCHED_IDLE");
    for (;;)
        bench_relax();
}

int main(int argc, char **argv)
{
    bench_arguments(argc, argv, "cpus");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    for (const char *at = bench_text("cpus", "0"); *at;) {
        char cpu[16];
        int used;
        if (sscanf(at, "%15[0-9]%n", cpu, &used) != 1)
            errx(2, "cpus=%s: expected a list of CPUs", at);
        bench_start(spin, NULL, cpu);
        at += used + (at[used] == ',');
    }
    printf("{\"ready\":1}\n");
    fflush(stdout);
    for (;;)
        pause();
}
