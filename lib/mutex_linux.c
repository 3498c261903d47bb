/* SPDX-License-Identifier: MIT
 *
 * mutex_linux.c - waiting for a mutex on the monotonic clock.
 */
#include "mutex_internal.h"

#include <time.h>

#include "clock_internal.h"

#define SECOND INT64_C(1000000000)

#if defined(__SANITIZE_THREAD__)

/* TSan does not see pthread_mutex_clocklock: to it we would unlock what was never locked. */
int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline)
{
    struct timespec end;
    int64_t wall, left = deadline - mp__clock_now();

    (void)clock_gettime(CLOCK_REALTIME, &end); /* cannot fail with this clock */
    wall = (int64_t)end.tv_sec * SECOND + end.tv_nsec + (left > 0 ? left : 0);
    end = (struct timespec){ (time_t)(wall / SECOND), (long)(wall % SECOND) };
    return pthread_mutex_timedlock(mutex, &end);
}

#else

int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline)
{
    struct timespec end = { (time_t)(deadline / SECOND), (long)(deadline % SECOND) };

    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &end);
}

#endif
