// A fresh session end.

#include "core/end.h"

#include <pthread.h>

#include "core/layout.h"

static_assert(sizeof(pthread_mutex_t) <= END_LOCK_BYTES, "a lock fits into its place");
static_assert(offsetof(struct end_shared, tx_lock) % _Alignof(pthread_mutex_t) == 0, "a lock is aligned");
static_assert(offsetof(struct end_shared, rx_lock) % _Alignof(pthread_mutex_t) == 0, "a lock is aligned");

static int lock_init(unsigned char place[static END_LOCK_BYTES])
{
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);

    if (error)
        return -error;
    error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (!error)
        error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (!error)
        error = pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    if (!error)
        error = pthread_mutex_init((pthread_mutex_t *)(void *)place, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return -error;
}

int end_init(struct end_shared *end, uint64_t session, uint64_t instance, uint32_t side)
{
    int result = lock_init(end->tx_lock);

    if (result == 0)
        result = lock_init(end->rx_lock);
    if (result < 0)
        return result;
    end->magic = END_MAGIC;
    end->version = LAYOUT_VERSION;
    end->session = session;
    end->instance = instance;
    end->side = side;
    atomic_store_explicit(&end->tx_way, WAY_TCP, memory_order_relaxed);
    atomic_store_explicit(&end->rx_way, WAY_TCP, memory_order_relaxed);
    return 0;
}
