/* SPDX-License-Identifier: MIT
 *
 * connection_internal.h - connections for the library's own channels.
 */
#ifndef MP__CONNECTION_INTERNAL_H
#define MP__CONNECTION_INTERNAL_H

#include <multiprocessing/connection.h>

#include "value_internal.h"

/*
 * A connection of the library's own over an end of mp__socket_pair: no copy of this
 * process keeps it, not even one that is made by hand. Takes *fd on success.
 */
int mp__connection_adopt_socket(int *fd, mp_connection **connection);

/* Receives one message as bytes, which are message->own's, and its descriptors. */
int mp__connection_recv_raw(mp_connection *connection, mp_message *message);

/* Sends a packed value and its descriptors as one message. */
int mp__connection_send_packed(
    mp_connection *connection, const void *data, size_t size, const mp__parcel *parcel);

/* The descriptor to receive from, or to send to; or MP_ECLOSED, MP_EDIRECTION. */
int mp__connection_readable_fd(const mp_connection *connection);
int mp__connection_writable_fd(const mp_connection *connection);

/* Whether receiving has an answer without reading: a length that was read, or that all is broken. */
bool mp__connection_pending(const mp_connection *connection);

/* Takes the descriptor out of a connection and frees that. */
int mp__connection_detach(mp_connection *connection);

#endif
