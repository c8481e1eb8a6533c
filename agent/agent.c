// Putting the parts together, and taking them apart.

#include "agent/agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/client.h"
#include "agent/control.h"
#include "agent/data_thread.h"
#include "agent/descriptors.h"
#include "agent/fd.h"
#include "agent/foreign.h"
#include "agent/secret.h"
#include "agent/wakeup.h"
#include "core/log.h"

uint64_t agent_now_ms(const struct agent *agent)
{
    return uv_now(&agent->loop);
}

// The pool, and the time for it.

static void on_idle(uv_idle_t *idle)
{
    struct agent *agent = idle->data;

    // The loop does not sleep while this is active.
    if (!ringpool_work(&agent->pool))
        uv_idle_stop(idle);
}

void agent_want_rings(struct agent *agent, const struct user *user)
{
    // One who uses many sessions will want more soon.
    uint64_t count = user->sessions / 4;

    if (count < RINGS_KEPT_LEAST)
        count = RINGS_KEPT_LEAST;
    if (count > RINGS_KEPT_MOST)
        count = RINGS_KEPT_MOST;
    // Without memory the pool stays empty, which is no error.
    ringpool_want(&agent->pool, user->uid, (unsigned)count);
}

void agent_tend_pool(struct agent *agent)
{
    const struct config *config = &agent->config;
    uint64_t used = agent->users.ring_bytes, limit = config->limits.ring_memory;
    uint64_t left = used < limit ? limit - used : 0;

    ringpool_configure(&agent->pool, config->rings.bytes,
                       config->rings.pool_bytes < left ? config->rings.pool_bytes : left);
    uv_idle_start(&agent->chores, on_idle);
}

// The configuration.

static void publish(struct agent *agent)
{
    board_publish(&agent->board, &agent->config.upgrade, agent->config.limits.rate_per_session);
}

// Sessions with other hosts are paced here, those of this host by the library, which has it from the board.
static void pace(struct agent *agent)
{
    if (agent->links.thread)
        data_thread_set_rate(agent->links.thread, agent->config.limits.rate_per_session);
}

static void apply(struct agent *agent)
{
    enum log_level level = agent->options.level;

    log_set_level(level != LOG_LEVEL_NONE ? level : agent->config.log.level);
    publish(agent);
    agent_tend_pool(agent);
    links_configure(&agent->links);
    pace(agent);
    rendezvous_recheck(agent);
}

// Reads the file that is to be read, or takes the defaults if there need not be one.
static int read_config(const struct agent_options *options, struct config *config, const char **path,
                       char error[static CONFIG_ERROR])
{
    *path = options->config ? options->config : CONFIG_FILE;
    if (!options->config && access(CONFIG_FILE, F_OK) < 0 && errno == ENOENT) {
        *path = NULL;
        config_init(config);
        return 0;
    }
    return config_load(config, *path, error);
}

static int open_namespaces(const struct config *config, const char *path, struct netns_list *namespaces,
                           char error[static CONFIG_ERROR])
{
    const struct policy_list *paths = &config->namespaces;
    char reason[NETNS_ERROR];
    int result = netns_list_init(namespaces, paths->all ? NULL : paths->items, paths->count, reason);

    if (result < 0)
        snprintf(error, CONFIG_ERROR, "%s: namespaces: %s", path ? path : "defaults", reason);
    return result;
}

// Everything of a new configuration that can fail.
static int prepare(const struct agent_options *options, struct config *config, const char **path,
                   struct netns_list *namespaces, char error[static CONFIG_ERROR])
{
    int result = read_config(options, config, path, error);

    if (result < 0)
        return result;
    result = open_namespaces(config, *path, namespaces, error);
    if (result < 0)
        config_deinit(config);
    return result;
}

static void replace(struct agent *agent, struct config *config, const char *path, struct netns_list *namespaces)
{
    config_deinit(&agent->config);
    netns_list_deinit(&agent->namespaces);
    agent->config = *config;
    agent->config_path = path;
    agent->namespaces = *namespaces;
    apply(agent);
}

int agent_reload(struct agent *agent, struct json_t **changed, char error[static CONFIG_ERROR])
{
    struct config config;
    struct netns_list namespaces;
    const char *path;
    int result = prepare(&agent->options, &config, &path, &namespaces, error);

    if (result < 0) {
        log_error("the configuration stays as it was: %s", error);
        return result;
    }
    if (changed)
        *changed = config_difference(&agent->config, &config);
    replace(agent, &config, path, &namespaces);
    log_info("the configuration was read again (%s)", path ? path : "defaults");
    return 0;
}

void agent_set_limits(struct agent *agent, const struct limits *limits)
{
    agent->config.limits = *limits;
    publish(agent);
    pace(agent);
    agent_tend_pool(agent);
}

// Signals.

static void on_signal(uv_signal_t *handle, int number)
{
    struct agent *agent = handle->data;
    char error[CONFIG_ERROR];

    if (number == SIGHUP) {
        agent_reload(agent, NULL, error);
        return;
    }
    log_info("stopping: signal %d", number);
    agent_stop(agent);
}

static void start_signals(struct agent *agent)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        uv_signal_init(&agent->loop, &agent->signals[i]);
        agent->signals[i].data = agent;
        uv_signal_start(&agent->signals[i], on_signal, numbers[i]);
    }
}

// The parts without the outside world.

static int init_tables(struct agent *agent)
{
    if (users_init(&agent->users) < 0)
        return -ENOMEM;
    if (ringpool_init(&agent->pool) < 0)
        goto free_users;
    if (rendezvous_init(&agent->rendezvous) < 0)
        goto free_pool;
    if (remote_init(&agent->remote) < 0)
        goto free_rendezvous;
    if (sessions_init(&agent->sessions) < 0)
        goto free_remote;
    list_init(&agent->clients);
    list_init(&agent->controls);
    links_init(&agent->links, agent, &remote_events);
    return 0;
free_remote:
    remote_deinit(&agent->remote);
free_rendezvous:
    rendezvous_deinit(&agent->rendezvous);
free_pool:
    ringpool_deinit(&agent->pool);
free_users:
    users_deinit(&agent->users);
    return -ENOMEM;
}

static void deinit_tables(struct agent *agent)
{
    sessions_deinit(&agent->sessions);
    remote_deinit(&agent->remote);
    rendezvous_deinit(&agent->rendezvous);
    ringpool_deinit(&agent->pool);
    users_deinit(&agent->users);
}

static int init_loop(struct agent *agent)
{
    int result = uv_loop_init(&agent->loop);

    if (result < 0)
        return result;
    agent->started_ms = agent_now_ms(agent);
    uv_idle_init(&agent->loop, &agent->chores);
    agent->chores.data = agent;
    result = watch_set_init(&agent->watches, &agent->loop);
    if (result < 0) {
        uv_close((uv_handle_t *)&agent->chores, NULL);
        uv_run(&agent->loop, UV_RUN_DEFAULT);
        uv_loop_close(&agent->loop);
        return result;
    }
    sessions_start(&agent->sessions, &agent->loop);
    alone_start(agent);
    links_start(&agent->links, &agent->loop);
    start_signals(agent);
    return 0;
}

static void deinit_loop(struct agent *agent)
{
    for (size_t i = 0; i < sizeof(agent->signals) / sizeof(agent->signals[0]); i++)
        uv_close((uv_handle_t *)&agent->signals[i], NULL);
    uv_close((uv_handle_t *)&agent->chores, NULL);
    sessions_stop(&agent->sessions);
    alone_stop(&agent->rendezvous.alone);
    watch_set_deinit(&agent->watches);
    uv_run(&agent->loop, UV_RUN_DEFAULT);
    uv_loop_close(&agent->loop);
}

// The doors: the directory and the sockets in it.

static int open_door(struct agent *agent, struct listener *listener, const struct sockaddr_un *address, int type,
                     void (*accepted)(struct listener *, int), char error[static CONFIG_ERROR])
{
    int fd = rundir_listen(address, type, error);
    int result = fd < 0 ? fd : listener_start(listener, &agent->loop, fd, accepted, agent);

    if (fd >= 0 && result < 0)
        snprintf(error, CONFIG_ERROR, "cannot listen at %s: %s", address->sun_path, strerror(-result));
    return result;
}

static int open_doors(struct agent *agent, char error[static CONFIG_ERROR])
{
    int result = rundir_init(&agent->rundir, agent->options.runtime_dir, error);

    if (result < 0)
        return result;
    result = open_door(agent, &agent->clients_listener, &agent->rundir.clients, SOCK_SEQPACKET, client_accept, error);
    if (result < 0)
        goto close_rundir;
    result = open_door(agent, &agent->control_listener, &agent->rundir.control, SOCK_STREAM, control_accept, error);
    if (result < 0)
        goto stop_clients;
    return 0;
stop_clients:
    listener_stop(&agent->clients_listener);
close_rundir:
    rundir_deinit(&agent->rundir);
    return result;
}

static void close_doors(struct agent *agent)
{
    // The sockets' names first: whoever comes now finds no agent, rather than one that does not answer.
    rundir_deinit(&agent->rundir);
    listener_stop(&agent->clients_listener);
    listener_stop(&agent->control_listener);
}

// The whole.

static int init_board(struct agent *agent)
{
    int result = board_init(&agent->board);

    if (result < 0)
        return result;
    agent->wake_ns = wakeup_measure();
    atomic_store_explicit(&agent->board.shared->wake_ns, agent->wake_ns, memory_order_relaxed);
    log_debug("a thread takes %u us here to wake up", agent->wake_ns / 1000);
    return 0;
}

static int init_parts(struct agent *agent, char error[static CONFIG_ERROR])
{
    int result = foreign_init();

    if (result == 0)
        result = secret_init();
    if (result == 0)
        result = init_board(agent);
    if (result < 0)
        goto fail;
    result = init_tables(agent);
    if (result < 0)
        goto free_board;
    result = init_loop(agent);
    if (result < 0)
        goto free_tables;
    return 0;
free_tables:
    deinit_tables(agent);
free_board:
    board_deinit(&agent->board);
fail:
    snprintf(error, CONFIG_ERROR, "cannot start: %s", strerror(-result));
    return result;
}

static void deinit_parts(struct agent *agent)
{
    links_stop(&agent->links);
    deinit_tables(agent);
    deinit_loop(agent);
    board_deinit(&agent->board);
}

static void deinit_config(struct agent *agent)
{
    config_deinit(&agent->config);
    netns_list_deinit(&agent->namespaces);
}

int agent_start(struct agent **result_agent, const struct agent_options *options, char error[static CONFIG_ERROR])
{
    struct agent *agent = calloc(1, sizeof(*agent));
    int result;

    if (!agent) {
        snprintf(error, CONFIG_ERROR, "cannot start: no memory");
        return -ENOMEM;
    }
    agent->options = *options;
    result = prepare(options, &agent->config, &agent->config_path, &agent->namespaces, error);
    if (result < 0)
        goto free_agent;
    result = init_parts(agent, error);
    if (result < 0)
        goto free_config;
    apply(agent);
    result = open_doors(agent, error);
    if (result < 0)
        goto free_parts;
    *result_agent = agent;
    return 0;
free_parts:
    deinit_parts(agent);
free_config:
    deinit_config(agent);
free_agent:
    free(agent);
    return result;
}

void agent_run(struct agent *agent)
{
    log_info("serving %s (configuration: %s)", agent->options.runtime_dir,
             agent->config_path ? agent->config_path : "defaults");
    uv_run(&agent->loop, UV_RUN_DEFAULT);
}

void agent_stop(struct agent *agent)
{
    uv_stop(&agent->loop);
}

void agent_free(struct agent *agent)
{
    close_doors(agent);
    list_for_each (link, &agent->controls)
        control_drop(container_of(link, struct control, link));
    list_for_each (client_link, &agent->clients)
        client_drop(container_of(client_link, struct client, link));
    deinit_parts(agent);
    deinit_config(agent);
    free(agent);
}
