/* SPDX-License-Identifier: MIT
 *
 * queues_parcel_internal.h - the socket pair of a queue. One way it holds the
 * descriptors of items, which cannot lie in memory; the other way it is readable
 * for those that poll the queue.
 *
 * What is put at fds[0] comes out at fds[1], in order, each parcel with the ticket
 * that its item has, too. A parcel whose item never came to be, because its
 * process was killed, has a ticket that is older than that of any item to come.
 */
#ifndef MP__QUEUES_PARCEL_INTERNAL_H
#define MP__QUEUES_PARCEL_INTERNAL_H

#include <stdint.h>

#include "reduction_internal.h"

/* A pair with as much room as the system gives. 0 or a code. */
int mp__queue_parcel_open(int fds[2]);

/* Stores the descriptors. 0, MP_EAGAIN (recorded) when the system holds no more, or a code. */
int mp__queue_parcel_put(const int fds[2], uint64_t ticket, const mp__parcel *parcel);

/*
 * Duplicates of the descriptors of that ticket, which stay until it is dropped; parcels
 * with older tickets are thrown away. 0, MP_EMFILE, or MP_EPROTOCOL: they are not there.
 */
int mp__queue_parcel_look(const int fds[2], uint64_t ticket, mp__parcel *parcel);

/* Throws the first parcel away, which is there; or all. */
void mp__queue_parcel_drop(const int fds[2]);
void mp__queue_parcel_drop_all(const int fds[2]);

/* Makes fds[0] readable for those that poll it, or not any more. */
void mp__queue_parcel_signal(const int fds[2]);
void mp__queue_parcel_hush(const int fds[2]);

#endif
