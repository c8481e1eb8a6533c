#include "preload/real.h"

#include <dlfcn.h>

struct real real;

void real_load(void)
{
    // A name that this libc does not have (epoll_pwait2, closefrom, _Fork are recent) stays null: nobody who runs with
    // this libc can have been linked against it.
#define REAL_LOOKUP(type, name, parameters) *(void **)&real.name = dlsym(RTLD_NEXT, #name);
    REAL_FUNCTIONS(REAL_LOOKUP)
#undef REAL_LOOKUP
}
