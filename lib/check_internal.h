/* SPDX-License-Identifier: MIT
 *
 * check_internal.h - a look at received bytes before msgpack-c may see them: it
 * reserves whatever a header claims.
 */
#ifndef MP__CHECK_INTERNAL_H
#define MP__CHECK_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#define MP__DEPTH_MAX 32 /* what msgpack-c unpacks */

/*
 * Walks the whole text: every length within the bytes that are there, all lists
 * together claim no more values than there are bytes left, depth and number of
 * values within the limits, one value and nothing behind it. NULL, or what is
 * wrong: *code is MP_EPROTOCOL, or MP_ETOOLONG or MP_ETOODEEP for a limit that could
 * be higher.
 */
const char *mp__check(const void *data, size_t size, int *code);

/* The longest message that is accepted: what mp_set_limits says, and PTRDIFF_MAX. */
uint64_t mp__limit_message(void);

#endif
