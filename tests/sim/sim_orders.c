// Faults to order: a SOCK_SEQPACKET socket at the path that RDMA_SIM_ORDERS names. Each message is an order, answered
// when it holds. RDMA_SIM_BEGIN has orders that hold from the beginning, separated by semicolons.
//
//   cut                  every connection fails
//   delay LEAST [MOST]   what is posted from now on is sent so many microseconds later, in order
//   fail N | fail-late N the Nth post from now on fails, without having taken place, or having
//   tear N               of the Nth write from now on only half takes place, and not the cursor
//   refuse on|off        connections are rejected
//   silent on|off        nothing is sent or received: a dead host
//   device on|off        there is a device
//   memory on|off        memory can be registered
//   count                answers "connections N memories N writes N messages N bytes N"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/fd.h"
#include "tests/sim/sim.h"

#define ORDER_MOST  256
#define GIVERS_MOST 16

struct giver {
    struct list link;
    struct sim_source source;
};

static int parse_switch(const char *argument, bool *on)
{
    if (strcmp(argument, "on") != 0 && strcmp(argument, "off") != 0)
        return -EINVAL;
    *on = strcmp(argument, "on") == 0;
    return 0;
}

static void cut(struct fabric *fabric)
{
    list_for_each (link, &fabric->conns)
        sim_conn_fail(container_of(link, struct fabric_conn, link), -EIO);
}

static int order_delay(struct fabric *fabric, const char *argument)
{
    unsigned long least = 0, most = 0;

    if (sscanf(argument, "%lu %lu", &least, &most) < 1)
        return -EINVAL;
    fabric->faults.delay_least_us = least;
    fabric->faults.delay_most_us = most;
    return 0;
}

static int order_device(struct fabric *fabric, const char *argument)
{
    struct sim_event *told;
    bool on;

    if (parse_switch(argument, &on) < 0)
        return -EINVAL;
    fabric->faults.absent = !on;
    if (!on)
        cut(fabric);
    told = calloc(1, sizeof(*told));
    if (!told)
        return -ENOMEM;
    told->event.type = FABRIC_DEVICES;
    list_append(&fabric->events, &told->link);
    eventfd_write(fabric->event_fd, 1);
    return 0;
}

static int order_memory(struct fabric *fabric, const char *argument)
{
    bool on;

    if (parse_switch(argument, &on) < 0)
        return -EINVAL;
    fabric->faults.no_memory = !on;
    return 0;
}

static int order_fail(struct fabric *fabric, const char *argument, bool late)
{
    fabric->faults.fail_in = strtoul(argument, NULL, 10);
    fabric->faults.fail_late = late;
    return fabric->faults.fail_in ? 0 : -EINVAL;
}

static int order_tear(struct fabric *fabric, const char *argument)
{
    fabric->faults.tear_in = strtoul(argument, NULL, 10);
    return fabric->faults.tear_in ? 0 : -EINVAL;
}

static int carry_out(struct fabric *fabric, const char *order)
{
    char name[16] = "", argument[64] = "";

    sscanf(order, " %15s %63[^\n]", name, argument);
    if (strcmp(name, "cut") == 0) {
        cut(fabric);
        return 0;
    }
    if (strcmp(name, "delay") == 0)
        return order_delay(fabric, argument);
    if (strcmp(name, "fail") == 0 || strcmp(name, "fail-late") == 0)
        return order_fail(fabric, argument, strcmp(name, "fail-late") == 0);
    if (strcmp(name, "tear") == 0)
        return order_tear(fabric, argument);
    if (strcmp(name, "refuse") == 0)
        return parse_switch(argument, &fabric->faults.refuse);
    if (strcmp(name, "silent") == 0)
        return parse_switch(argument, &fabric->faults.silent);
    if (strcmp(name, "device") == 0)
        return order_device(fabric, argument);
    if (strcmp(name, "memory") == 0)
        return order_memory(fabric, argument);
    return strcmp(name, "count") == 0 ? 0 : -EINVAL;
}

static int say_counts(const struct fabric *fabric, char *answer, size_t size)
{
    unsigned connections = 0, memories = 0;

    list_for_each (link, &fabric->conns) {
        const struct fabric_conn *conn = container_of(link, struct fabric_conn, link);
        connections += conn->state == SIM_STATE_READY;
        list_for_each (memory, &conn->memories)
            memories++;
    }
    return snprintf(answer, size, "connections %u memories %u writes %llu messages %llu bytes %llu", connections,
                    memories, (unsigned long long)fabric->counts.writes, (unsigned long long)fabric->counts.messages,
                    (unsigned long long)fabric->counts.bytes);
}

static void drop_giver(struct fabric *fabric, struct giver *giver)
{
    sim_watch(fabric, &giver->source, 0);
    fd_close(&giver->source.fd);
    list_remove(&giver->link);
    free(giver);
}

static void on_order(struct fabric *fabric, struct sim_source *source, uint32_t events)
{
    struct giver *giver = container_of(source, struct giver, source);
    char order[ORDER_MOST], answer[ORDER_MOST];
    ssize_t size = recv(source->fd, order, sizeof(order) - 1, 0);

    if (size <= 0) {
        if (size == 0 || errno != EAGAIN)
            drop_giver(fabric, giver);
        return;
    }
    order[size] = '\0';
    if (carry_out(fabric, order) < 0)
        snprintf(answer, sizeof(answer), "not understood");
    else
        say_counts(fabric, answer, sizeof(answer));
    send(source->fd, answer, strlen(answer), MSG_NOSIGNAL);
}

static void on_giver(struct fabric *fabric, struct sim_source *source, uint32_t events)
{
    struct giver *giver = calloc(1, sizeof(*giver));
    int fd = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (!giver || fd < 0) {
        free(giver);
        fd_close(&fd);
        return;
    }
    giver->source = (struct sim_source){.fd = fd, .ready = on_order};
    list_append(&fabric->order_givers, &giver->link);
    sim_watch(fabric, &giver->source, EPOLLIN);
}

static void carry_out_first(struct fabric *fabric)
{
    const char *orders = getenv("RDMA_SIM_BEGIN");
    char *copy = orders ? strdup(orders) : NULL, *rest = copy;

    for (char *order; rest && (order = strsep(&rest, ";"));) {
        if (!*order)
            continue;
        if (carry_out(fabric, order) < 0)
            fprintf(stderr, "RDMA_SIM_BEGIN: order \"%s\" is not understood\n", order);
    }
    free(copy);
}

int sim_orders_start(struct fabric *fabric)
{
    const char *path = getenv("RDMA_SIM_ORDERS");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _cleanup_fd_ int fd = -1;

    carry_out_first(fabric);
    if (!path)
        return 0;
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    unlink(path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, GIVERS_MOST) < 0)
        return -errno;
    fabric->orders = (struct sim_source){.fd = fd_steal(&fd), .ready = on_giver};
    sim_watch(fabric, &fabric->orders, EPOLLIN);
    return 0;
}

void sim_orders_stop(struct fabric *fabric)
{
    list_for_each (link, &fabric->order_givers)
        drop_giver(fabric, container_of(link, struct giver, link));
    sim_watch(fabric, &fabric->orders, 0);
    fd_close(&fabric->orders.fd);
}
