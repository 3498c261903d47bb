/* SPDX-License-Identifier: MIT
 *
 * mutex_posix.c - waiting for a mutex where timeouts are on the wall clock only,
 * which may be set: by trying, seldom enough to cost little.
 */
#include "mutex_internal.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <time.h>

#include "clock_internal.h"

#define YIELDS 50
#define LONGEST 2000000 /* ns between two tries */

int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline)
{
    struct timespec pause = { 0, 20000 };
    int e = EBUSY;

    for (int i = 0; (e = pthread_mutex_trylock(mutex)) == EBUSY; i++) {
        if (mp__clock_over(deadline))
            return ETIMEDOUT;
        if (i < YIELDS) {
            (void)sched_yield();
            continue;
        }
        (void)nanosleep(&pause, NULL);
        pause.tv_nsec = pause.tv_nsec < LONGEST / 2 ? pause.tv_nsec * 2 : LONGEST;
    }
    return e;
}

bool mp__mutex_is_orphan(const mp__mutex *mutex)
{
    (void)mutex;
    return false;
}

bool mp__mutex_lock_fast(pthread_mutex_t *mutex)
{
    (void)mutex;
    return false;
}

bool mp__mutex_unlock_fast(pthread_mutex_t *mutex)
{
    (void)mutex;
    return false;
}
