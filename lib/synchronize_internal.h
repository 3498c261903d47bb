/* SPDX-License-Identifier: MIT
 *
 * synchronize_internal.h - what locks, semaphores, conditions, events and
 * barriers share: a body in shared memory that says what it is, and seats for
 * those that wait.
 */
#ifndef MP__SYNCHRONIZE_INTERNAL_H
#define MP__SYNCHRONIZE_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <multiprocessing/synchronize.h>

#include "heap_internal.h"
#include "mutex_internal.h"

/* Every such object begins with this. */
typedef struct mp__shared {
    mp__handle handle;
    mp__block block;
    struct mp__mapping *mapping; /* of the block's memory */
} mp__shared;

/* Every body begins with this, so that what arrives can be checked. */
typedef struct mp__shared_head {
    uint32_t kind, version;
    uint64_t size;
    uint64_t id; /* random */
} mp__shared_head;

/* A new object of object_size bytes with a body of body_size zeros behind its head; or NULL. */
void *mp__shared_new(const mp__kind *kind, size_t object_size, size_t body_size);

/* The object over a body that arrived, of at least body_size bytes. Takes *fd on success. */
int mp__shared_rebuild(
    const mp__kind *kind, size_t object_size, size_t body_size, int *fd, void **object);

/* Another object over the same body; or NULL. */
void *mp__shared_copy(const void *object, size_t object_size);

/* The vtable's, where the body is all there is. */
int mp__shared_reduce(const void *object, mp__reduced *reduced);

/* Ends an object, NULL too; but one that a message lent, which ends it. */
void mp__shared_free(void *object);

/* Whether this object is the only one of the process over its body. */
bool mp__shared_is_last(const void *object);

/* Leaves the body mapped when the object is freed. */
void mp__shared_leave_mapped(void *object);

/* ---- seats ---- */

/*
 * Who waits takes a seat and holds its mutex meanwhile: so others see whether it
 * lives. Its state is written under the lock of the object. A seat is free when
 * its state is SEAT_FREE or its mutex is not held.
 */
enum mp__seat_state { MP__SEAT_FREE, MP__SEAT_WAITING, MP__SEAT_CALLED, MP__SEAT_BROKEN };

typedef struct mp__seat {
    _Alignas(64) mp__mutex alive;
    atomic_uint state; /* a word to sleep on */
    unsigned made;     /* whether the mutex was initialized */
    uint64_t number;   /* when its user came */
} mp__seat;

/* Whether nobody sat there; it is taken then, and its state free. With the object's lock held. */
bool mp__seat_take(mp__seat *seat);

/* Whether its user lives. With the object's lock held. */
bool mp__seat_lives(mp__seat *seat);

/* Its user leaves it. */
void mp__seat_leave(mp__seat *seat);

/* ---- for conditions ---- */

/* Another object over the same lock, or NULL. */
mp_lock *mp__lock_copy(const mp_lock *lock);

/* As reduce and rebuild of its kind, for objects that bring a lock with them. */
int mp__lock_reduce(const mp_lock *lock, mp__reduced *reduced);

bool mp__lock_is_mine(const mp_lock *lock);

/* Releases all levels and returns how many there were. It must be mine. */
unsigned mp__lock_let_go(mp_lock *lock);

/* Takes it again, uninterruptibly: 0, MP_EOWNERDEAD or MP_EPROTOCOL. */
int mp__lock_take_back(mp_lock *lock, unsigned depth);

/* For tests: how many wait. With the lock held. */
unsigned mp__condition_waiters(mp_condition *condition);

#endif
