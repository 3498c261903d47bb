/* SPDX-License-Identifier: MIT
 *
 * connection_listener_internal.h - what a listener is: for connection_listener.c and
 * connection_accept.c, and nobody else.
 */
#ifndef MP__CONNECTION_LISTENER_INTERNAL_H
#define MP__CONNECTION_LISTENER_INTERNAL_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <multiprocessing/connection.h>

#include "buffer_internal.h"
#include "connection_address_internal.h"
#include "connection_pending_internal.h"
#include "connection_place_internal.h"

struct mp_listener {
    unsigned generation; /* another than that of this process: it was not passed to this child */
    atomic_int fd;       /* -1: closed */
    atomic_bool closing, is_removed; /* it was asked for; its path is gone */
    int wake[2];                     /* for who accepts when another thread closes it */
    mp__place place;
    char last[MP__ADDRESS_TEXT];
    bool has_accepted, has_key;
    mp__buffer key;
    pthread_mutex_t accepting; /* guards what follows; taken before mp__lock */
    bool is_open;              /* it has its descriptors, and is in the list */
    int shortage;              /* no client could be taken: why, or 0 */
    int64_t resumes;           /* until then clients are left to wait in the system */
    mp__pending pending;
    struct pollfd fds[MP__PENDING_MAX + 3]; /* the listener, wake, the pending, and one for poll */
    mp_listener *previous, *next;           /* of this process; under mp__lock */
};

bool mp__listener_is_closed(const mp_listener *listener);

/* Says so: MP_ECLOSED. */
int mp__listener_closed(void);

/* One thread accepts at a time; the others wait for it as long as they have time: 0 or MP_ETIMEDOUT. */
int mp__listener_enter(mp_listener *listener, int64_t deadline);

/* Closes it, too, if that was asked for meanwhile. */
void mp__listener_leave(mp_listener *listener);

#endif
