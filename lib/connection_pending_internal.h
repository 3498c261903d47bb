/* SPDX-License-Identifier: MIT
 *
 * connection_pending_internal.h - the clients of a listener that have yet to
 * authenticate: how far each is, and for how long it may go on. Whoever uses it holds
 * the lock of its listener.
 */
#ifndef MP__CONNECTION_PENDING_INTERNAL_H
#define MP__CONNECTION_PENDING_INTERNAL_H

#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "connection_address_internal.h"
#include "connection_auth_internal.h"

#define MP__PENDING_MAX 256 /* clients that authenticate at a time; more wait in the system */
#define MP__PENDING_SURE INT64_C(200000000) /* what each has, however many others wait: 0.2 s */

/*
 * A client. Its time runs while it is its turn to say something, and stands still once it
 * has said it and nobody is in accept to hear that. So who answers at once is never late,
 * whatever the program does between two accepts; who says nothing is, also when the
 * program only looks in now and then.
 */
typedef struct mp__candidate {
    int fd;
    int64_t since;   /* when it came, moved on by the time that stood still */
    int64_t absent;  /* how long nobody waited for it since it was looked at last */
    bool has_spoken; /* in this turn: who has is not refused in it */
    char from[MP__ADDRESS_TEXT];
    mp__handshake handshake;
} mp__candidate;

typedef struct mp__pending {
    mp__candidate *list; /* room for MP__PENDING_MAX; NULL: nobody has to authenticate */
    size_t count;
    int64_t patience; /* nanoseconds that one may take, or MP__NEVER */
    int64_t left;     /* when they were waited for last */
    atomic_int watch; /* for event loops: see mp__socket_watch_new; -1: none */
} mp__pending;

/* Makes room. 0 or MP_ENOMEM. patience: seconds. */
int mp__pending_init(mp__pending *pending, double patience);
void mp__pending_done(mp__pending *pending);

/*
 * Opens what an event loop waits for: it is readable when a client comes to the listening
 * socket, or a pending one has said something. 0 or a code.
 */
int mp__pending_open_watch(mp__pending *pending, int listening);

/*
 * One more, for which there is room: 0, or a code if it cannot be watched. key is lent.
 * now, here and below: mp__clock_now().
 */
int mp__pending_add(
    mp__pending *pending, int fd, const char *from, const void *key, size_t key_size, int64_t now);

/* Takes one off; its descriptor is the caller's. Another one gets its place. */
void mp__pending_forget(mp__pending *pending, size_t i);

/*
 * A turn begins by waiting: fills fds[0..count-1] for poll, and brings *deadline forward to
 * where one is late. Then notes what poll has found.
 */
void mp__pending_prepare(mp__pending *pending, struct pollfd *fds, int64_t *deadline, int64_t now);
void mp__pending_look(mp__pending *pending, const struct pollfd *fds, int64_t now);

/* Goes on with one that is readable, as mp__handshake_advance. */
int mp__pending_advance(mp__pending *pending, size_t i);

/* One that is late and has not spoken in this turn, or -1. */
int mp__pending_find_late(const mp__pending *pending, int64_t now);

/* The one that is there longest and has not spoken in this turn, or -1. */
int mp__pending_find_oldest(const mp__pending *pending);

#endif
