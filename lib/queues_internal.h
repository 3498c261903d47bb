/* SPDX-License-Identifier: MIT
 *
 * queues_internal.h - queues for mp_wait.
 */
#ifndef MP__QUEUES_INTERNAL_H
#define MP__QUEUES_INTERNAL_H

#include <multiprocessing/queues.h>

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
