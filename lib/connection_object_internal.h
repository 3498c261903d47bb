/* SPDX-License-Identifier: MIT
 *
 * connection_object_internal.h - what a connection is: for connection.c and
 * connection_stream.c, and nobody else.
 */
#ifndef MP__CONNECTION_OBJECT_INTERNAL_H
#define MP__CONNECTION_OBJECT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <multiprocessing/connection.h>

#include "buffer_internal.h"
#include "spin_internal.h"
#include "value_internal.h"

struct mp_connection {
    mp__handle handle; /* first: it can travel */
    atomic_int fd;     /* -1: closed */
    bool readable, writable, is_socket;
    bool is_local;       /* a Unix socket: handles can be sent */
    bool is_internal;    /* the library's own */
    unsigned generation; /* another than that of this process: it was not passed to this child */

    pthread_mutex_t reading; /* guards what follows; who only polls looks at the atomic ones */
    atomic_bool has_length;  /* the length of the next message was read */
    uint64_t length;
    atomic_int broken; /* the stream is no use any more: why */
    mp__parcel parcel; /* descriptors that came with it */
    bool incomplete;   /* there was no room for some of them */
    mp__spin spin;

    pthread_mutex_t writing; /* guards what follows */
    mp__buffer packed;

    mp_connection *previous, *next; /* in the list of open ones, under mp__lock */
};

#endif
