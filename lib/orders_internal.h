/* SPDX-License-Identifier: MIT
 *
 * orders_internal.h - what a new process is told to be.
 */
#ifndef MP__ORDERS_INTERNAL_H
#define MP__ORDERS_INTERNAL_H

#include "bootstrap_internal.h"

typedef struct mp__server_orders {
    bool server; /* or a child */
    int (*hook)(void);
    int on_error;
    int report;
    bool on_demand; /* no child is forked ahead */
} mp__server_orders;

/* Tells a child all it needs. directory: where it shall work, NULL for where it is. */
int mp__orders_send(
    mp_connection *channel, const mp__job *job, const char *directory, int lifeline, int life);

/* Tells a new process that it is a fork server: its preload hook, what to do when that fails. */
int mp__orders_send_server(mp_connection *channel, int (*hook)(void), int on_error, int report);

/* Receives either; fills in child or orders. 0, or a code. */
int mp__orders_receive(mp_connection *channel, mp__child *child, mp__server_orders *orders);

/* Orders for practice, for children to be. */
int mp__orders_exercise(mp_message *exercise);

/*
 * Goes through the motions of being told those, so that the pages this takes are here
 * when it is in earnest.
 */
void mp__orders_practise(mp_connection *channel, const mp_message *exercise);

#endif
