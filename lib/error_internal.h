/* SPDX-License-Identifier: MIT
 *
 * error_internal.h - how the library records a failure.
 */
#ifndef MP__ERROR_INTERNAL_H
#define MP__ERROR_INTERNAL_H

#include <multiprocessing/error.h>

/* Records the failure for mp_last_error() and returns code. A final newline is not wanted. */
int mp__fail(int code, const char *format, ...) MP__PRINTF(2, 3);

/* The same for a system call that has just failed: "what: text of errno". Returns -errno. */
int mp__fail_errno(const char *what);

#endif
