// One agent: everything it knows, in one loop and one thread.
#pragma once

#include <stdint.h>
#include <uv.h>

#include "agent/board.h"
#include "agent/config.h"
#include "agent/limits.h"
#include "agent/links.h"
#include "agent/list.h"
#include "agent/listener.h"
#include "agent/netns.h"
#include "agent/remote.h"
#include "agent/rendezvous.h"
#include "agent/ringpool.h"
#include "agent/rundir.h"
#include "agent/session.h"
#include "agent/stats.h"
#include "agent/watch.h"

struct json_t;

struct agent_options {
    const char *config; // a file that must exist; null: CONFIG_FILE, if it exists
    const char *runtime_dir;
    enum log_level level; // LOG_LEVEL_NONE: what the configuration says
};

struct agent {
    struct agent_options options;
    const char *config_path; // what was read last; null: nothing, the defaults hold
    struct config config;
    struct netns_list namespaces;
    struct rundir rundir;
    struct listener clients_listener;
    struct listener control_listener;

    uint32_t wake_ns; // what a thread takes to wake up here; 0: not known
    struct agent_board board;
    struct users users;
    struct ringpool pool;
    struct rendezvous rendezvous;
    struct sessions sessions;
    struct links links;
    struct remote remote;
    struct stats stats;
    struct list clients; // of struct client
    uint64_t client_count;
    struct list controls; // of struct control
    uint64_t control_count;

    struct watch_set watches;
    uv_idle_t chores; // active only while there are some
    uv_signal_t signals[3];
    uint64_t started_ms;
    uv_loop_t loop;
};

// Reads the configuration, takes the runtime directory, and listens. On failure says why in `error`, gives everything
// up again, and returns -errno.
int agent_start(struct agent **agent, const struct agent_options *options, char error[static CONFIG_ERROR]);

// Serves until SIGTERM or SIGINT, or agent_stop.
void agent_run(struct agent *agent);

// Makes agent_run return.
void agent_stop(struct agent *agent);

// Gives everything up. Sessions go on without the agent: their memory and bells are held by those who use them.
void agent_free(struct agent *agent);

// Reads the configuration again and applies it, wholly or not at all. Returns 0 and the keys that changed (the caller's
// reference; may be null to begin with), or -errno with `error`.
int agent_reload(struct agent *agent, struct json_t **changed, char error[static CONFIG_ERROR]);

// Replaces the limits until the next reload.
void agent_set_limits(struct agent *agent, const struct limits *limits);

// Has rings kept ready for this user, who has clients.
void agent_want_rings(struct agent *agent, const struct user *user);

// To be called when the ring pool may have something to do, or the memory of sessions changed: the pool may hold what
// they leave of the limit.
void agent_tend_pool(struct agent *agent);

// Milliseconds of the loop's clock, for ages.
uint64_t agent_now_ms(const struct agent *agent);
