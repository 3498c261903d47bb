/* SPDX-License-Identifier: MIT
 *
 * mutex_internal.h - a mutex in shared memory that survives its holder: whatever
 * thread of whatever process is killed at whatever instruction, the next one gets
 * the mutex and is told. What it guards is then repaired by whom it is told.
 *
 * It is a robust mutex of POSIX: the kernel knows what a thread holds and hands it
 * on when that ends, without pids that could be used anew.
 */
#ifndef MP__MUTEX_INTERNAL_H
#define MP__MUTEX_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct mp__mutex {
    pthread_mutex_t mutex;
} mp__mutex;

/* Makes one in shared memory, once for all processes. Nothing has to end it. 0 or MP_ENOMEM. */
int mp__mutex_init(mp__mutex *mutex);

/*
 * Locks it. A deadline of 0 only tries. The thread must not hold it.
 *
 * Returns 0, or
 *   MP_EOWNERDEAD  it is locked, and its last holder died holding it: repair what it
 *                  guards. Who dies over that leaves the next one this answer
 *   MP_ETIMEDOUT   not by the deadline
 *   MP_EINTR       mp_interrupt(), and the deadline is not 0
 *   MP_EPROTOCOL   this is no mutex any more: somebody wrote over it
 * Only MP_EINTR and MP_EPROTOCOL are recorded.
 */
int mp__mutex_lock(mp__mutex *mutex, int64_t deadline);

/*
 * The same for short critical sections of the library, which nothing should
 * interrupt: 0, MP_EOWNERDEAD or MP_EPROTOCOL.
 */
int mp__mutex_enter(mp__mutex *mutex);

/* Unlocks what this thread holds. 0, or MP_EPERM (not recorded) if it does not. */
int mp__mutex_unlock(mp__mutex *mutex);

/*
 * Whether its holder died and nobody was told yet; false where that cannot be
 * seen. So are those that follow the twins'.
 */
bool mp__mutex_is_orphan(const mp__mutex *mutex);

/* Waits until the deadline, neither 0 nor MP__NEVER, as pthread_mutex_timedlock. */
int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline);

/* Locks a free mutex, unlocks one of this thread. False: the C library shall do it. */
bool mp__mutex_lock_fast(pthread_mutex_t *mutex);
bool mp__mutex_unlock_fast(pthread_mutex_t *mutex);

#endif
