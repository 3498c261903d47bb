/* SPDX-License-Identifier: MIT
 *
 * process_internal.h - the children of this process.
 */
#ifndef MP__PROCESS_INTERNAL_H
#define MP__PROCESS_INTERNAL_H

#include "identity_internal.h"

/* All process objects of this process, started or not. Under mp__lock. */
extern mp_process *mp__children;

/* Runs the child and ends it: what every start method calls in the end. Never returns. */
_Noreturn void mp__child_run(mp__child *child);

#endif
