/* SPDX-License-Identifier: MIT
 *
 * log_internal.h - what the library tells its log.
 */
#ifndef MP__LOG_INTERNAL_H
#define MP__LOG_INTERNAL_H

#include <multiprocessing/log.h>

/* The process name in each record. What is set is copied, cut at 63 bytes. */
const char *mp__log_name(void);
void mp__log_set_name(const char *name);

/* One line "name pid N: text" on stderr, whatever the level: what a child cannot say otherwise. */
void mp__log_last_words(const char *format, ...) MP__PRINTF(1, 2);

#endif
