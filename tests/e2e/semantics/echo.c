#include "tests/e2e/semantics/echo.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/semantics/scene.h"

static int echo_on(int fd)
{
    char bytes[4096];
    ssize_t got;
    while ((got = recv(fd, bytes, sizeof bytes, 0)) > 0) {
        if (send(fd, bytes, (size_t)got, MSG_NOSIGNAL) != got)
            return 1;
    }
    return got < 0;
}

int echo_main(const char *number)
{
    return echo_on(atoi(number));
}

int echo_received_main(const char *number)
{
    return echo_on(scene_receive_passed(atoi(number)));
}

int echo_alternate_main(const char *number)
{
    char word[32], byte;
    for (int i = 0; i < ECHO_WORDS; i++) {
        snprintf(word, sizeof word, "word %03d", i);
        if (send(atoi(number) + i % 2, word, 8, MSG_NOSIGNAL) != 8 || recv(atoi(number), &byte, 1, 0) != 1)
            return 1;
    }
    return 0;
}

void echo_exec(int fd, char *const environment[])
{
    char number[16];
    snprintf(number, sizeof number, "%d", fd);
    const char *arguments[] = {"semantics", ECHO_OPTION, number, NULL};
    execve("/proc/self/exe", (char **)arguments, environment);
    _exit(127);
}
