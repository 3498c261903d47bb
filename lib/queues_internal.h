/* SPDX-License-Identifier: MIT
 *
 * queues_internal.h - queues from within, and for mp_wait.
 */
#ifndef MP__QUEUES_INTERNAL_H
#define MP__QUEUES_INTERNAL_H

#include <multiprocessing/queues.h>

#include "buffer_internal.h"
#include "queues_ring_internal.h"
#include "reduction_internal.h"

#define MP__QUEUE_JOINABLE 1 /* of flags */

struct mp_queue {
    mp__handle handle; /* first: it can travel */
    atomic_bool closed;
    mp__queue_ring ring;
    int fds[2];                   /* see queues_parcel_internal.h */
    _Atomic(mp__buffer *) packed; /* for the next put; NULL while one is at it */
};

/* 0, MP_EINVAL for NULL, MP_ECLOSED. */
int mp__queue_check(const mp_queue *queue);

/* Before one sleeps, and before the last look for a reason not to. */
void mp__queue_announce(atomic_uint *sleepers);

/* Wakes count of those that sleep on the word, if somebody does; there may be more then. */
void mp__queue_wake(atomic_uint *sleepers, atomic_uint *word, int count);

/*
 * The descriptor that becomes readable when an item is put from now on; to be looked
 * at again before each poll. Or MP_ECLOSED.
 */
int mp__queue_poll_fd(const mp_queue *queue);

/* Whether an item is there. */
bool mp__queue_ready(const mp_queue *queue);

/* The descriptor was readable, and somebody else took the item. */
void mp__queue_poll_again(const mp_queue *queue);

#endif
