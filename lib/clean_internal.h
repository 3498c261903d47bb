/* SPDX-License-Identifier: MIT
 *
 * clean_internal.h - what a copy of a process gives up before it is somebody else.
 */
#ifndef MP__CLEAN_INTERNAL_H
#define MP__CLEAN_INTERNAL_H

#include <stdint.h>

/* Found out before the fork, where it costs less. */
typedef struct mp__clean {
    uint64_t signals; /* of mp__pid_signals */
    int null;         /* /dev/null, lent, or -1 */
} mp__clean;

/* In the process to be copied. It keeps a descriptor or two for the next time. */
mp__clean mp__clean_prepare(void);

/* In the copy: default signal dispositions, nothing blocked, /dev/null as stdin. */
void mp__clean_up(const mp__clean *clean);

#endif
