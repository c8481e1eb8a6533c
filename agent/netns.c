// Cookies of namespaces, found by a thread that enters each of them: the agent itself never leaves its own.

#include "agent/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/fd.h"
#include "agent/identity.h"

struct visit {
    int fd; // of the namespace
    uint64_t cookie;
    int result;
};

static void *visit_thread(void *argument)
{
    struct visit *visit = argument;

    visit->result = setns(visit->fd, CLONE_NEWNET) < 0 ? -errno : identity_own_netns(&visit->cookie);
    return NULL;
}

static int visit_path(const char *path, uint64_t *cookie)
{
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct visit visit = {.fd = fd};
    pthread_t thread;
    int error;

    if (fd < 0)
        return -errno;
    error = pthread_create(&thread, NULL, visit_thread, &visit);
    if (error)
        return -error;
    pthread_join(thread, NULL);
    *cookie = visit.cookie;
    return visit.result;
}

static const char *cure(int result)
{
    switch (result) {
    case -ENOENT:
    case -ENOTDIR:
        return "there is no such file";
    case -EPERM:
    case -EACCES:
        return "this takes root, or CAP_SYS_ADMIN";
    case -EINVAL:
        return "it is not a network namespace";
    case -ENOPROTOOPT:
        return "Linux 5.14 or newer is needed";
    default:
        return strerror(-result);
    }
}

static int find_cookie(const char *path, uint64_t *cookie, char error[static NETNS_ERROR])
{
    int result = strcmp(path, NETNS_SELF) == 0 ? identity_own_netns(cookie) : visit_path(path, cookie);

    if (result < 0)
        snprintf(error, NETNS_ERROR, "cannot serve the network namespace \"%s\": %s", path, cure(result));
    return result;
}

int netns_list_init(struct netns_list *list, const char *const *paths, size_t count, char error[static NETNS_ERROR])
{
    static const char *const self[] = {NETNS_SELF};
    int result = 0;

    list->named = paths != NULL;
    if (!paths) {
        paths = self;
        count = 1;
    }
    list->count = 0;
    list->cookies = calloc(count ? count : 1, sizeof(*list->cookies));
    if (!list->cookies) {
        snprintf(error, NETNS_ERROR, "no memory");
        return -ENOMEM;
    }
    while (result == 0 && list->count < count) {
        result = find_cookie(paths[list->count], &list->cookies[list->count], error);
        if (result == 0)
            list->count++;
    }
    if (result < 0)
        netns_list_deinit(list);
    return result;
}

void netns_list_deinit(struct netns_list *list)
{
    free(list->cookies);
    list->cookies = NULL;
    list->count = 0;
}

bool netns_is_served(const struct netns_list *list, uint64_t cookie)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->cookies[i] == cookie)
            return true;
    }
    return false;
}

bool netns_may_meet(const struct netns_list *list, uint64_t a, uint64_t b)
{
    return a == b || list->named;
}
