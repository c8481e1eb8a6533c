// What every file of interposers needs.
#pragma once

#include "preload/calls.h"
#include "preload/sock.h"

// Seen from outside, in place of libc's function of that name. preload.map lists them all.
#define EXPORT __attribute__((visibility("default")))

static inline void export_release(struct sock **sock)
{
    if (*sock)
        sock_drop(*sock);
}

// A reference that is dropped at the end of the scope, also if the thread is cancelled within it.
#define HELD __attribute__((cleanup(export_release))) struct sock *
