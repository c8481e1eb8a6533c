// Configuration files: refused with a message, or understood such that what is written of them is understood the same.

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/config.h"
#include "core/log.h"
#include "tests/fuzz/fuzz.h"

static int load(struct config *config, const void *text, size_t size)
{
    char path[64], error[CONFIG_ERROR] = "";
    int fd = memfd_create("config", MFD_CLOEXEC);

    MUST(fd >= 0);
    MUST(write(fd, text, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int result = config_load(config, path, error);
    if (result != 0)
        MUST(error[0] && strlen(error) < sizeof error);
    close(fd);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config, again;

    log_set_level(LOG_LEVEL_NONE);
    if (load(&config, data, size) != 0)
        return 0;
    json_t *document = config_to_json(&config);
    char *text = json_dumps(document, 0);
    MUST(text);
    MUST(load(&again, text, strlen(text)) == 0);
    json_t *difference = config_difference(&config, &again);
    MUST(json_array_size(difference) == 0);
    json_decref(difference);
    json_decref(document);
    free(text);
    config_deinit(&again);
    config_deinit(&config);
    return 0;
}
