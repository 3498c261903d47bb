/* SPDX-License-Identifier: MIT
 *
 * mutex_linux.c - waiting for a mutex on the monotonic clock.
 */
#include "mutex_internal.h"

#include <time.h>

#define SECOND INT64_C(1000000000)

int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline)
{
    struct timespec end = { (time_t)(deadline / SECOND), (long)(deadline % SECOND) };

    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &end);
}

bool mp__mutex_is_orphan(const mp__mutex *mutex)
{
    (void)mutex;
    return false;
}
