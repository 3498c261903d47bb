/* SPDX-License-Identifier: MIT
 *
 * connection_address_internal.h - where listeners listen, as text and as the system
 * has it.
 */
#ifndef MP__CONNECTION_ADDRESS_INTERNAL_H
#define MP__CONNECTION_ADDRESS_INTERNAL_H

#include <stdbool.h>
#include <sys/socket.h>

#define MP__ADDRESS_TEXT 320 /* bytes of an address as text: a host, or a path, and its NUL */

typedef struct mp__address {
    struct sockaddr_storage name;
    socklen_t size;
} mp__address;

/*
 * "host:port", "[host]:port", a path or "@name"; family is "AF_UNIX", ... or NULL. local:
 * to listen at, where an empty host is every interface. 0, MP_EINVAL,
 * MP_ENAMETOOLONG or -EHOSTUNREACH.
 */
int mp__address_read(const char *text, const char *family, bool local, mp__address *address);

/* As text that mp__address_read reads; "" for a Unix socket without a name. */
void mp__address_write(const mp__address *address, char text[MP__ADDRESS_TEXT]);

/* The path of a Unix socket that has one, else NULL. */
const char *mp__address_path(const mp__address *address);

#endif
