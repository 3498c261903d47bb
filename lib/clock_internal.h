/* SPDX-License-Identifier: MIT
 *
 * clock_internal.h - deadlines on the monotonic clock, in nanoseconds.
 */
#ifndef MP__CLOCK_INTERNAL_H
#define MP__CLOCK_INTERNAL_H

#include <multiprocessing/clock.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define MP__NEVER INT64_MAX

int64_t mp__clock_now(void);

/* MP__NEVER for MP_FOREVER, 0 (long past) for 0, less than 0 and NaN. */
int64_t mp__clock_deadline(double timeout);

/* What is left until the deadline, for ppoll: NULL means for ever. */
const struct timespec *mp__clock_left(int64_t deadline, struct timespec *left);

/*
 * The end of the next slice of a wait that has to look up now and then: at most
 * MP__SLICE away, at the latest the deadline.
 */
#define MP__SLICE INT64_C(50000000)
int64_t mp__clock_slice(int64_t deadline);

/* Whether the deadline is over. */
bool mp__clock_over(int64_t deadline);

#endif
