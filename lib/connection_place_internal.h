/* SPDX-License-Identifier: MIT
 *
 * connection_place_internal.h - where a listener listens, and the path that it leaves in
 * the file system until it is closed.
 */
#ifndef MP__CONNECTION_PLACE_INTERNAL_H
#define MP__CONNECTION_PLACE_INTERNAL_H

#include <stdbool.h>
#include <sys/types.h>

#include "connection_address_internal.h"

typedef struct mp__place {
    char text[MP__ADDRESS_TEXT]; /* as a client takes it */
    bool is_abstract;
    char *folder; /* made for the path */
    char *path;   /* to be removed; NULL: none */
    dev_t device;
    ino_t inode;
    pid_t creator;
} mp__place;

/*
 * What was asked for as the system has it, or of our own choice where text is NULL. A
 * host may take long to be found. 0 or a code.
 */
int mp__place_find(mp__place *place, const char *text, const char *family, mp__address *address);

/* Binds a socket there. 0 or a code. */
int mp__place_bind(mp__place *place, int fd, const mp__address *address);

/* Removes the path if it still is the one that was made, and if this process made it. */
void mp__place_remove(const mp__place *place);

void mp__place_done(mp__place *place);

#endif
