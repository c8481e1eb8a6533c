// Sealed memory: what cannot be done to it, and what is not taken for it.

#include <stdarg.h>
#include <setjmp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/memfd.h"

#define BYTES 12288

static int make(void)
{
    int fd = memfd_make("test", BYTES);

    assert_true(fd >= 0);
    return fd;
}

static void test_made_memory_is_zero_named_and_private(void **state)
{
    int fd = make();
    char path[64], target[128] = "", zeros[BYTES] = {0};
    struct stat status;
    void *memory;

    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(status.st_size, BYTES);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    assert_true(readlink(path, target, sizeof(target) - 1) > 0);
    assert_non_null(strstr(target, "memfd:test"));
    assert_int_equal(memfd_map(fd, BYTES, 0, &memory), 0);
    assert_memory_equal(memory, zeros, BYTES);
    memfd_unmap(memory, BYTES);
    close(fd);
}

static void test_size_is_sealed(void **state)
{
    int fd = make();

    assert_int_equal(ftruncate(fd, BYTES - 4096), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(fd, BYTES + 4096), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(pwrite(fd, "x", 1, BYTES), -1);
    assert_int_equal(errno, EPERM);
    close(fd);
}

static void test_mappings_are_shared(void **state)
{
    int fd = make();
    void *one, *other;

    assert_int_equal(memfd_map(fd, BYTES, 1, &one), 0);
    assert_int_equal(memfd_map(fd, BYTES, 0, &other), 0);
    strcpy((char *)one + BYTES - 8, "shared");
    assert_string_equal((char *)other + BYTES - 8, "shared");
    memfd_unmap(one, BYTES);
    memfd_unmap(other, BYTES);
    close(fd);
}

static void test_a_part_may_be_mapped_but_no_more_than_there_is(void **state)
{
    int fd = make();
    void *memory;

    assert_int_equal(memfd_map(fd, 4096, 1, &memory), 0);
    memfd_unmap(memory, 4096);
    assert_int_equal(memfd_map(fd, BYTES + 1, 1, &memory), -EPROTO);
    assert_int_equal(memfd_map(fd, UINT64_MAX, 1, &memory), -EPROTO);
    assert_int_equal(memfd_map(fd, 0, 1, &memory), -EINVAL);
    close(fd);
}

static void test_readers_are_readers_after_sealing(void **state)
{
    int fd = make();
    void *writable, *memory;

    assert_int_equal(memfd_map(fd, BYTES, 1, &writable), 0);
    assert_int_equal(memfd_seal_readers(fd), 0);
    assert_int_equal(memfd_map(fd, BYTES, 1, &memory), -EPERM);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(memfd_map(fd, BYTES, 0, &memory), 0);
    assert_int_equal(mprotect(memory, BYTES, PROT_READ | PROT_WRITE), -1);
    strcpy(writable, "still");
    assert_string_equal(memory, "still");
    memfd_unmap(writable, BYTES);
    memfd_unmap(memory, BYTES);
    close(fd);
}

// Foreign memory with these seals: only both of them will do.
static void test_half_sealed_memory_is_refused(void **state)
{
    static const int seals[] = {0, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SHRINK | F_SEAL_GROW};

    for (size_t i = 0; i < sizeof(seals) / sizeof(seals[0]); i++) {
        int fd = memfd_create("foreign", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        void *memory = NULL;

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, BYTES), 0);
        assert_int_equal(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
        assert_int_equal(memfd_map(fd, BYTES, 1, &memory), i == 3 ? 0 : -EPROTO);
        if (memory)
            memfd_unmap(memory, BYTES);
        close(fd);
    }
}

static void test_what_is_not_a_memfd_is_refused(void **state)
{
    char path[] = "/tmp/memfd-test-XXXXXX";
    int file = mkstemp(path), pipes[2];
    void *memory;

    assert_true(file >= 0);
    unlink(path);
    assert_int_equal(ftruncate(file, BYTES), 0);
    assert_int_equal(memfd_map(file, BYTES, 1, &memory), -EPROTO);
    close(file);
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(memfd_map(pipes[0], BYTES, 0, &memory), -EPROTO);
    close(pipes[0]);
    close(pipes[1]);
    assert_int_equal(memfd_map(-1, BYTES, 0, &memory), -EPROTO);
    assert_int_equal(memfd_seal_readers(-1), -EBADF);
}

static void test_impossible_sizes(void **state)
{
    assert_true(memfd_make("test", UINT64_MAX) < 0);
    assert_true(memfd_make("test", (uint64_t)INT64_MAX + 1) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_memory_is_zero_named_and_private),
        cmocka_unit_test(test_size_is_sealed),
        cmocka_unit_test(test_mappings_are_shared),
        cmocka_unit_test(test_a_part_may_be_mapped_but_no_more_than_there_is),
        cmocka_unit_test(test_readers_are_readers_after_sealing),
        cmocka_unit_test(test_half_sealed_memory_is_refused),
        cmocka_unit_test(test_what_is_not_a_memfd_is_refused),
        cmocka_unit_test(test_impossible_sizes),
    };
    return cmocka_run_group_tests_name("memfd", tests, NULL, NULL);
}
