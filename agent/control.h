// One connection to the control socket: lines in, lines out, one request at a time.
//
// A connection is not read from while its answer has not been taken, so that none can pile up answers here.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "agent/list.h"
#include "agent/watch.h"

struct agent;
struct listener;

// A request longer than this is none.
#define CONTROL_LINE 65536

#define CONTROLS_MOST          256
#define CONTROLS_PER_USER_MOST 32

struct control {
    struct list link; // in agent.controls
    struct agent *agent;
    struct watch watch;
    int fd;
    uid_t uid;
    char *answer; // what is left to send begins at answer + sent; null: nothing
    size_t answer_size;
    size_t sent;
    size_t line_size; // received of the next request
    bool closing;     // once the answer is sent
    char line[CONTROL_LINE];
};

// A listener's callback, its data being the agent.
void control_accept(struct listener *listener, int fd);

void control_drop(struct control *control);
