#include "ctl/library.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/ctl.h"

#ifndef RDMA_PRELOAD_PATH
#error "the build defines RDMA_PRELOAD_PATH: where the preload library is installed"
#endif

#define PLACES 3

struct places {
    char path[PLACES][PATH_MAX];
};

static const char *given(void)
{
    const char *path = getenv(LIBRARY_VARIABLE);
    return path && *path ? path : NULL;
}

// The directory of this program's file, without the slash; "" if it is not known.
static void own_directory(char directory[static PATH_MAX])
{
    ssize_t size = readlink("/proc/self/exe", directory, PATH_MAX - 1);
    directory[size > 0 ? size : 0] = '\0';
    char *slash = strrchr(directory, '/');
    if (slash)
        *slash = '\0';
}

static void list_places(struct places *places)
{
    char own[PATH_MAX];
    own_directory(own);
    *places = (struct places){0};
    snprintf(places->path[0], PATH_MAX, "%.*s/" LIBRARY_NAME, PATH_MAX / 2, own);
    snprintf(places->path[1], PATH_MAX, "%.*s/../lib/rdma-agent/" LIBRARY_NAME, PATH_MAX / 2, own);
    snprintf(places->path[2], PATH_MAX, "%s", RDMA_PRELOAD_PATH);
}

static int check_file(const char *path)
{
    struct stat file;
    if (stat(path, &file) < 0)
        return -errno;
    if (!S_ISREG(file.st_mode))
        return -EINVAL;
    return access(path, R_OK) < 0 ? -errno : 0;
}

// Makes `path` absolute and free of "..", for programs that change their directory.
static int settle(const char *found, char path[static PATH_MAX])
{
    char whole[PATH_MAX];
    if (!realpath(found, whole))
        snprintf(whole, sizeof(whole), "%s", found);
    memcpy(path, whole, PATH_MAX);
    return check_file(whole);
}

int library_find(char path[static PATH_MAX])
{
    if (given())
        return settle(given(), path);
    struct places places;
    list_places(&places);
    for (size_t i = 0; i < PLACES; i++) {
        if (check_file(places.path[i]) != -ENOENT)
            return settle(places.path[i], path);
    }
    return -ENOENT;
}

void library_places(char *text, size_t size)
{
    if (given()) {
        snprintf(text, size, "%s ($" LIBRARY_VARIABLE ")", given());
        return;
    }
    struct places places;
    list_places(&places);
    snprintf(text, size, "%s, %s, %s", places.path[0], places.path[1], places.path[2]);
}

bool library_can_preload(const char *path)
{
    return strpbrk(path, " :") == NULL;
}

static bool has_entry(const char *list, const char *path)
{
    size_t wanted = strlen(path);
    while (*list) {
        size_t length = strcspn(list, " :");
        if (length == wanted && memcmp(list, path, length) == 0)
            return true;
        list += length + (list[length] != '\0');
    }
    return false;
}

int library_set_preload(const char *path)
{
    const char *before = getenv("LD_PRELOAD");
    if (!before || *before == '\0')
        return setenv("LD_PRELOAD", path, 1) < 0 ? -errno : 0;
    if (has_entry(before, path))
        return 0;
    char *list;
    if (asprintf(&list, "%s:%s", path, before) < 0)
        return -ENOMEM;
    int error = setenv("LD_PRELOAD", list, 1) < 0 ? -errno : 0;
    free(list);
    return error;
}
