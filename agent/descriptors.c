// The limit of open files, as it was when the agent began.

#include "agent/descriptors.h"

#include <limits.h>
#include <sys/resource.h>

static unsigned long limit; // 0: not known yet

void descriptors_init(void)
{
    struct rlimit files = {0};

    getrlimit(RLIMIT_NOFILE, &files);
    limit = files.rlim_cur;
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) == 0)
        limit = files.rlim_max;
    if (limit > INT_MAX)
        limit = INT_MAX;
}

bool descriptors_scarce(int fd, enum descriptors_reserve reserve)
{
    return limit > 0 && (unsigned long)fd + reserve >= limit;
}

unsigned long descriptors_limit(void)
{
    return limit;
}
