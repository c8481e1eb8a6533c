// One memfd, written here alone.

#include "agent/board.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "agent/fd.h"
#include "agent/policy.h"
#include "core/memfd.h"

static int random_instance(uint64_t *instance)
{
    ssize_t got = getrandom(instance, sizeof(*instance), 0);

    if (got < 0)
        return -errno;
    return got == sizeof(*instance) ? 0 : -EIO;
}

static void fill_in(struct agent_board *board, uint64_t instance)
{
    board->shared->magic = BOARD_MAGIC;
    board->shared->version = LAYOUT_VERSION;
    board->shared->slots = BOARD_SLOTS;
    board->shared->instance = instance;
    // The lowest slots are used first and most, so that few pages of the board are ever touched.
    board->free_count = BOARD_SLOTS;
    for (uint32_t i = 0; i < BOARD_SLOTS; i++)
        board->free[i] = (uint16_t)(BOARD_SLOTS - 1 - i);
}

int board_init(struct agent_board *board)
{
    _cleanup_fd_ int fd = memfd_make("rdma-board", BOARD_BYTES);
    uint64_t instance;
    void *address;
    int result;

    board->fd = -1;
    board->shared = NULL;
    if (fd < 0)
        return fd;
    result = random_instance(&instance);
    if (result == 0)
        result = memfd_map(fd, BOARD_BYTES, 1, &address);
    if (result < 0)
        return result;
    board->shared = address;
    result = memfd_seal_readers(fd);
    if (result < 0) {
        board_deinit(board);
        return result;
    }
    fill_in(board, instance);
    board->fd = fd_steal(&fd);
    return 0;
}

void board_deinit(struct agent_board *board)
{
    if (board->shared)
        memfd_unmap(board->shared, BOARD_BYTES);
    board->shared = NULL;
    fd_close(&board->fd);
}

int board_take_slot(struct agent_board *board)
{
    if (board->free_count == 0)
        return -ENOSPC;
    return board->free[--board->free_count];
}

void board_give_slot(struct agent_board *board, uint32_t slot)
{
    board->free[board->free_count++] = (uint16_t)slot;
}

void board_raise_mail(struct agent_board *board, uint32_t slot)
{
    // Pairs with the client's look at its counter: the message was sent before.
    atomic_fetch_add_explicit(&board->shared->slot[slot].mail, 1, memory_order_release);
}

void board_beat(struct agent_board *board, uint64_t now_ms)
{
    atomic_store_explicit(&board->shared->beat, now_ms, memory_order_relaxed);
}

void board_publish(struct agent_board *board, const struct policy *policy, uint64_t rate)
{
    struct board *shared = board->shared;

    atomic_store_explicit(&shared->upgrade_enabled, policy->enabled, memory_order_relaxed);
    atomic_store_explicit(&shared->after_bytes, policy->after_bytes, memory_order_relaxed);
    atomic_store_explicit(&shared->after_calls, policy->after_calls, memory_order_relaxed);
    atomic_store_explicit(&shared->rate_bytes_per_s, rate, memory_order_relaxed);
    // Pairs with the client's load of the generation: who sees the new one sees the fields above.
    atomic_fetch_add_explicit(&shared->policy_generation, 1, memory_order_release);
}
