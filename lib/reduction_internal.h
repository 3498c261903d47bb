/* SPDX-License-Identifier: MIT
 *
 * reduction_internal.h - handles: objects that travel as a few bytes of state
 * and descriptors. A kind (connection, queue, lock, ...) fills in a vtable.
 */
#ifndef MP__REDUCTION_INTERNAL_H
#define MP__REDUCTION_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "fd_internal.h"

#include <multiprocessing/value.h>

#define MP__STATE_MAX 256 /* bytes of state of a handle */
#define MP__KIND_FDS_MAX 4
#define MP__LEFT_BEHIND (-2) /* a descriptor of a message that a child of ours has a copy of */

/* What a handle is on its way: the state, and descriptors that are lent. */
typedef struct mp__reduced {
    uint8_t state[MP__STATE_MAX];
    size_t size;
    int fds[MP__KIND_FDS_MAX];
    size_t count;
} mp__reduced;

typedef struct mp__received mp__received;

/* Every object that can travel begins with this. */
typedef struct mp__handle {
    const mp__kind *kind;
    mp__received *lender; /* the message it came with and is closed with; or NULL */
} mp__handle;

struct mp__kind {
    const char *name; /* "a connection" */
    uint8_t code;     /* on the wire; never used anew */
    int (*reduce)(const void *object, mp__reduced *reduced);
    /* Makes an object. Takes the descriptors on success: makes them -1. */
    int (*rebuild)(const uint8_t *state, size_t size, int *fds, size_t count, void **object);
    void (*free)(void *object);
};

/* A handle that came with a message: rebuilt when somebody unpacks it. */
struct mp__received {
    const uint8_t *state;
    size_t size;
    int *fds; /* in the message */
    size_t count;
    uint8_t code;
    bool kept; /* somebody made it his own */
    mp__handle *object;
    mp__received *next;
};

/* Descriptors that travel with a message, in order. */
typedef struct mp__parcel {
    int fds[MP__FDS_MAX];
    size_t count;
} mp__parcel;

/* Appends the descriptors of reduced. 0 or MP_ETOOLONG. */
int mp__parcel_add(mp__parcel *parcel, const mp__reduced *reduced);

/* Replaces each descriptor by a duplicate. On failure nothing has changed. */
int mp__parcel_own(mp__parcel *parcel);

/*
 * Closes all descriptors and empties it. drop: one that children of ours look into, so that
 * none is forked meanwhile; not with mp__lock held, which keeps them away, too.
 */
void mp__parcel_close(mp__parcel *parcel);
void mp__parcel_drop(mp__parcel *parcel);

/* The object of a received handle, built now if it was not before. */
int mp__received_object(mp__received *received, const mp__kind *kind, void **object);

/* Ends a handle that came with a message, unless somebody keeps it. */
void mp__received_done(mp__received *received);

/* Makes a lent object its user's own. */
void mp__handle_keep(mp__handle *handle);

#endif
