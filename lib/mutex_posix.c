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

void mp__self_ask(mp__self *self)
{
    (void)self; /* the token is enough */
}

void mp__mutex_wake(mp__mutex *mutex)
{
    (void)mutex; /* there is no short way to need it */
}

bool mp__mutex_is_held(const mp__mutex *mutex)
{
    return atomic_load(&mutex->holder) != 0;
}

bool mp__mutex_is_mine(const mp__mutex *mutex)
{
    return atomic_load(&mutex->holder) == mp__self_get()->token;
}

bool mp__mutex_is_mine_here(const mp__mutex *mutex)
{
    return mp__mutex_is_mine(mutex);
}
