/* SPDX-License-Identifier: MIT
 *
 * forkserver_internal.h - what a fork server does, and what it tells.
 */
#ifndef MP__FORKSERVER_INTERNAL_H
#define MP__FORKSERVER_INTERNAL_H

#include "orders_internal.h"

/* How a child ended, as the server (or the child itself) writes it into the status pipe. */
typedef struct mp__status {
    uint64_t serial;
    int32_t exitcode;
    int32_t unused; /* 0 */
} mp__status;

#define MP__SPARES 4 /* children a fork server has forked ahead */
#define MP__ENDS_MAX 24

/*
 * An owner wants spares; it writes this into the channel, with ends of socket pairs for
 * them. The ends are numbered, and used in order, each for one spare, whose serial
 * that number is.
 */
typedef struct mp__wish {
    uint64_t number; /* of those that somebody waits for, which are answered; 0: nobody does */
    uint64_t used;   /* the serial of the last offer it took: it took all before */
    uint64_t first;  /* the number of the first end that comes with it */
    uint64_t ends;   /* how many of them there are */
    uint64_t count;  /* how many spares there shall be that it has not taken */
} mp__wish;

/*
 * A spare, with its descriptor where there are such; or why there is none. All ends
 * before that of the spare were used or lost.
 */
typedef struct mp__offer {
    int64_t pid;     /* 0: there was no end for a spare; or a negative code */
    uint64_t serial; /* of the spare; else of the last end that is of no use any more */
    uint64_t wish;   /* the number of the wish that cannot be fulfilled */
} mp__offer;

/*
 * Serves at the other end of channel until that is closed. Returns only in a
 * child, which child then describes; the server itself exits. Takes channel.
 */
void mp__forkserver_serve(
    mp_connection *channel, const mp__server_orders *orders, mp__child *child);

/* In a child of a server: writes its exit code where its owner looks for it. */
void mp__forkserver_report(const mp__child *child, int exitcode);

#endif
