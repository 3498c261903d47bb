/* SPDX-License-Identifier: MIT
 *
 * clock.c - turns a timeout into a deadline, once, at the public door.
 */
#include "clock_internal.h"

#include <stddef.h>

#define SECOND INT64_C(1000000000)

int64_t mp__clock_now(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail with this clock */
    return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

int64_t mp__clock_deadline(double timeout)
{
    if (!(timeout > 0))
        return 0;
    if (timeout > 1e9) /* thirty years */
        return MP__NEVER;
    return mp__clock_now() + (int64_t)(timeout * 1e9);
}

const struct timespec *mp__clock_left(int64_t deadline, struct timespec *left)
{
    int64_t ns;

    if (deadline == MP__NEVER)
        return NULL;
    ns = deadline == 0 ? 0 : deadline - mp__clock_now();
    if (ns < 0)
        ns = 0;
    left->tv_sec = (time_t)(ns / SECOND);
    left->tv_nsec = (long)(ns % SECOND);
    return left;
}

int64_t mp__clock_slice(int64_t deadline)
{
    int64_t end = mp__clock_now() + MP__SLICE;

    return end < deadline ? end : deadline;
}

bool mp__clock_over(int64_t deadline)
{
    return deadline != MP__NEVER && mp__clock_now() >= deadline;
}
