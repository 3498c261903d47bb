/* SPDX-License-Identifier: MIT
 *
 * process_internal.h - process objects, as the child's side sees them.
 */
#ifndef MP__PROCESS_INTERNAL_H
#define MP__PROCESS_INTERNAL_H

#include <multiprocessing/process.h>

#include "bootstrap_internal.h"

/* This process is that child: its current and parent process objects, empty lists. */
void mp__process_become(const mp__child *child);

/* Runs the child and ends it: in process context, below every start method. */
_Noreturn void mp__child_run(mp__child *child);

/*
 * What an exiting process does with its children: runs exit hooks, ends daemons,
 * joins the others, runs the hooks with negative priority, ends the fork server.
 */
void mp__process_exit_phase(void);

#endif
