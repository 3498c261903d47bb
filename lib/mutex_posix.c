/* SPDX-License-Identifier: MIT
 *
 * mutex_posix.c - mutexes by nothing but what POSIX has.
 */
#include "mutex_internal.h"

/* Timeouts of POSIX are on the wall clock, which may be set. */
int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline)
{
    return mp__mutex_poll(mutex, deadline);
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
