/* SPDX-License-Identifier: MIT
 *
 * process_internal.h - the children of this process.
 */
#ifndef MP__PROCESS_INTERNAL_H
#define MP__PROCESS_INTERNAL_H

#include "identity_internal.h"

/* All process objects of this process, started or not. Under mp__lock. */
extern mp_process *mp__children;

/* As mp_process_start; under fork by this nursery, if there is one. */
int mp__process_start_from(mp_process *process, struct mp__server *nursery);

/* To a child that was not reaped. With mp__lock held. 0 or a code. */
int mp__process_signal(mp_process *process, int sig);

/* Runs the child and ends it: what every start method calls in the end. Never returns. */
_Noreturn void mp__child_run(mp__child *child);

/* The end of a child, or of a copy of it, whose target is over. Only its own handlers are called. */
_Noreturn void mp__child_end(int code);

#endif
