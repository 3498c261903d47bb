/* SPDX-License-Identifier: MIT
 *
 * pool_ring_internal.h - the worker's end of the ring.
 */
#ifndef MP__POOL_RING_INTERNAL_H
#define MP__POOL_RING_INTERNAL_H

#include "pool_wire_internal.h"

typedef struct mp__ring {
    mp__pool_shared *shared;
    uint64_t head, cut;          /* as in shared, which the pool reads */
    uint64_t run_item, run_left; /* of the run: its next item, and how many there can be */
} mp__ring;

/* An answer of at most MP__INLINE_MAX bytes. */
void mp__ring_put(
    mp__ring *ring, enum mp__wire_kind kind, uint64_t item, const void *data, size_t size);

/* The same as it lies in the array; others like it may follow, for items before end. */
void mp__ring_put_raw(mp__ring *ring, uint64_t item, uint64_t end, const void *data, size_t size);

#endif
