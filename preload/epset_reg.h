// What epoll sets are made of: registrations, and the sets that hold them. Only for the files of epset.
//
// A registration belongs to one set and one socket. The set's lock guards all its fields but those that say otherwise;
// the links between a socket and its registrations, and the store of free ones, have a lock of their own (the registry),
// which is taken last and held shortly. Neither registrations nor sets are ever given back to the system: a pointer to
// one may be stale, but never wild.
//
// A thread that holds one set's lock never waits for another's. What it finds out that concerns other sets (a socket's
// direction has changed its way) is left for them as work to do (TODO), and so is what a signal handler finds that
// interrupted the holder; whoever gives a lock back does first what was left meanwhile.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "preload/lock.h"
#include "preload/sock.h"

// One registration of a TCP socket, by one of its descriptors, in one set.
struct reg {
    struct reg *of_sock;      // next in sock->regs; registry
    struct reg *of_bucket;    // next in the set's table
    struct reg *hot_next;     // in the set's hot list
    struct reg *todo_next;    // in the set's list of work
    _Atomic uint32_t todo;    // stands in that list
    _Atomic uint32_t removed; // while it stood there; whoever takes it out frees it
    struct epset *set;
    struct sock *sock;
    int fd;                    // under which the program knows it
    _Atomic int entry;         // under which the kernel has it: fd, or one of our own once fd was closed; -1: no longer
    _Atomic int via;           // a descriptor of the same socket that is open
    uint32_t events;           // as the program asked
    uint64_t data;             // the program's own
    uint32_t index;            // its place in the store ...
    uint32_t generation;       // ... how often that was used ...
    uint32_t name;             // ... and what it is called in the kernel's set: see reg_tag
    uint32_t from_tcp;         // events that the kernel reported of TCP, not yet passed on
    uint32_t blocked_seen;     // sock->tx_blocked when EPOLLOUT was last reported
    uint32_t told;             // of the events that end a connection: those that were reported
    uint64_t tail_seen;        // the producer's cursor when EPOLLIN was last reported
    uint32_t idle;             // looks in a row that found nothing
    _Atomic uint8_t closing;   // the program has closed the socket
    uint8_t known_to_kernel;   // with the program's own data: before it was converted
    _Atomic uint8_t converted; // the kernel's entry is ours
    uint8_t bell_added;
    uint8_t hot;
    _Atomic uint8_t spent; // EPOLLONESHOT was reported
    uint8_t fresh;         // just added or modified: what is ready now is an edge
    uint8_t deleted;       // by the program; the kernel still has it
    uint8_t end_known;     // TCP's end was seen, and is not watched for any more
};

#define EPSET_FEW 8u

struct epset {
    _Atomic uint32_t refs; // descriptors of it, and calls under way; 0: free
    struct lock lock;
    _Atomic(struct reg *) todo; // registrations with work left for them
    _Atomic int fd;             // a descriptor of it, while there is one
    _Atomic uint32_t converted; // 1: our tags are or were in the kernel's set, where one may outlast its registration
    struct reg *hot;
    uint32_t hot_count;
    struct reg **buckets; // by the socket's index
    struct reg *few[EPSET_FEW];
    uint32_t bucket_count; // a power of two
    uint32_t reg_count;
    uint32_t served;           // waits in a row answered without asking the kernel
    uint32_t turn;             // of the hot ones, how many were reported since the kernel was asked
    bool full;                 // the last answer had no room for more
    _Atomic uint32_t sleepers; // threads inside the kernel with this set
    _Atomic uint32_t nested;   // watched by another set
    struct patience patience;
    struct epset *next_free;
};

// Nearly always it is known already, and a store would cost more than all the rest.
static inline void epset_known_as(struct epset *set, int epfd)
{
    if (atomic_load_explicit(&set->fd, memory_order_relaxed) != epfd)
        atomic_store(&set->fd, epfd);
}

// --- registrations; with the set's lock ---

// A new one, or null without memory.
struct reg *reg_add(struct epset *set, struct sock *sock, int fd);
void reg_free(struct reg *reg);
struct reg *reg_find(const struct epset *set, const struct sock *sock, int fd);

// The first of the socket's registrations in the set, and the next after one; null if there are no more.
struct reg *reg_first(const struct epset *set, const struct sock *sock);
struct reg *reg_next(const struct reg *reg);

void reg_make_hot(struct reg *reg);
void reg_leave_hot(struct reg *reg);

// --- names in the kernel's set ---

// Our user data. The upper 16 bits make it a pointer that no program can have, and a descriptor that no program can
// have; a program that uses just these bits keeps its sockets on TCP.
#define TAG_BELL 0x80000000u
uint64_t reg_tag(const struct reg *reg, uint32_t kind);
bool reg_tagged(uint64_t data);

// The registration of that name, if this process has it in that set.
struct reg *reg_of_tag(const struct epset *set, uint64_t data);

// Names given by this forked child are not its relatives'.
void reg_forked(void);

// --- across sets; no lock is needed ---

// Is this a signal handler that interrupted this thread inside the registry? Then nothing can be added or freed.
bool reg_busy_below(void);

// Calls `each` for the socket's registrations, with the registry locked and signals held back. False if this thread is
// inside the registry already, and nothing was done.
bool reg_each_of_sock(struct sock *sock, void (*each)(struct reg *reg, void *context), void *context);

// Leaves work at the registration. In `each` of the above, so that it cannot go away meanwhile.
void reg_leave_todo(struct reg *reg);

// Takes one registration out of the list of work, or null. With the set's lock.
struct reg *reg_take_todo(struct epset *set);

// --- sets ---

// A new set with one reference, or null without memory; and a set without references given back.
struct epset *reg_new_set(int fd);
void reg_free_set(struct epset *set);

void reg_remove_all(struct epset *set);
