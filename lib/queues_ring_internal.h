/* SPDX-License-Identifier: MIT
 *
 * queues_ring_internal.h - the body of a queue: items in a ring of shared memory
 * that grows with what is in it and shrinks again.
 *
 * Any process may be killed at any instruction, so whatever changes becomes true
 * by one store into one word, after all that belongs to it was written: an item is
 * there once puts counts it, and gone once gets counts it. Where the next item
 * begins stands twice, and the count says by its lowest bit which of the two
 * holds. So there is nothing to repair when a lock is inherited from the dead.
 *
 * Two locks: who puts and who gets do not wait for each other. Who wants both
 * takes put_lock first. A change of the ring itself needs both.
 */
#ifndef MP__QUEUES_RING_INTERNAL_H
#define MP__QUEUES_RING_INTERNAL_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mutex_internal.h"

#define MP__QUEUE_HEAD ((size_t)4096) /* bytes of the file before the first ring */

_Static_assert(
    ATOMIC_LLONG_LOCK_FREE == 2, "a killed process must not hold a lock of the compiler");

/*
 * How the ring lies in the file: the one of 2^log2 bytes begins at byte 2^log2, so
 * two of different sizes never overlap.
 */
typedef struct mp__queue_shape {
    uint64_t base; /* the position that lies at its first byte */
    uint64_t log2;
    _Atomic uint64_t committed; /* bytes from the first on that have memory */
} mp__queue_shape;

typedef struct mp__queue_shared {
    uint64_t magic;
    uint64_t maxsize; /* 0: none */
    uint64_t flags;

    /* Changes only with both locks held: shapes[generation & 1] holds. */
    _Atomic uint64_t generation;
    mp__queue_shape shapes[2];

    /* Who sleeps on what; each word is set by who goes to sleep and taken by who wakes. */
    alignas(64) atomic_uint getters;
    atomic_uint putters, joiners;
    atomic_uint pollers; /* somebody polls the queue's socket */
    atomic_uint arrivals, departures, finishes;
    atomic_uint inherited; /* a lock was inherited from the dead: descriptors may be left */

    alignas(128) mp__mutex put_lock;
    alignas(64) _Atomic uint64_t puts; /* items ever put */
    _Atomic uint64_t tails[2];         /* by puts: where the next one begins */
    uint64_t head_seen, gets_seen;     /* of the other side, at the last look */
    uint64_t ticket;                   /* of the last item with descriptors */

    alignas(128) mp__mutex get_lock;
    alignas(64) _Atomic uint64_t gets; /* items ever taken */
    _Atomic uint64_t heads[2];         /* by gets: where the next one begins */
    uint64_t puts_seen;

    alignas(128) _Atomic uint64_t dones; /* calls of task_done */
} mp__queue_shared;

_Static_assert(sizeof(mp__queue_shared) <= MP__QUEUE_HEAD, "the head of a queue is one page");

/* The ring as one side of one process has mapped it: guarded by the lock of that side. */
typedef struct mp__queue_view {
    _Atomic uint64_t known; /* the generation it shows, plus 1; 0: none */
    char *memory;
    size_t size;
    uint64_t base;
} mp__queue_view;

typedef struct mp__queue_ring {
    int fd;
    mp__queue_shared *shared;
    mp__queue_view put, get;
} mp__queue_ring;

/* A new one, or that of a descriptor, which is taken on success. 0 or a code. */
int mp__queue_ring_new(mp__queue_ring *ring);
int mp__queue_ring_adopt(mp__queue_ring *ring, int *fd);

/* Harmless for one whose shared is NULL. */
void mp__queue_ring_done(mp__queue_ring *ring);

/*
 * Locks one side: 0, MP_EINTR, MP_EPROTOCOL, or -EBUSY (not recorded): somebody else holds
 * it. That is waited for at least a tenth of a second, with a deadline of 0 five of them.
 */
int mp__queue_lock(mp__queue_ring *ring, mp__mutex *lock, int64_t deadline);

/* Locks one side if that is free. */
bool mp__queue_try(mp__queue_ring *ring, mp__mutex *lock);
void mp__queue_unlock(mp__mutex *lock);

/* With put_lock held: the view shows the ring, and there is room for size bytes. Or a code. */
int mp__queue_ring_room(mp__queue_ring *ring, size_t size, int64_t deadline);

/* With get_lock held: the view shows the ring. */
int mp__queue_ring_look(mp__queue_ring *ring, mp__queue_view *view);

/* Bytes at a position, which wrap. */
void mp__queue_view_write(const mp__queue_view *view, uint64_t at, const void *data, size_t size);
void mp__queue_view_read(const mp__queue_view *view, uint64_t at, void *data, size_t size);

/* Where the first item begins, seen without get_lock; and how many were taken. */
uint64_t mp__queue_ring_head(const mp__queue_shared *shared, uint64_t *gets);

/* With get_lock held: whether far less is in the ring than it has memory for. */
bool mp__queue_ring_roomy(const mp__queue_ring *ring);

/* With both locks held: gives memory back. */
void mp__queue_ring_shrink(mp__queue_ring *ring);

/* The same: memory of other rings, where somebody was killed before he gave it back. */
void mp__queue_ring_release(mp__queue_ring *ring);

#endif
