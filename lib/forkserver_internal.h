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

/* The answer to a request; the descriptor of the child comes with it, where there are such. */
typedef struct mp__answer {
    int64_t pid; /* or a negative code: it could not be forked */
    uint64_t serial;
} mp__answer;

/*
 * Serves at the other end of channel until that is closed. Returns only in a
 * child, which child then describes; the server itself exits. Takes channel.
 */
void mp__forkserver_serve(
    mp_connection *channel, const mp__server_orders *orders, mp__child *child);

/* In a child of a server: writes its exit code where its owner looks for it. */
void mp__forkserver_report(const mp__child *child, int exitcode);

#endif
