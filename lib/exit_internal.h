/* SPDX-License-Identifier: MIT
 *
 * exit_internal.h - how a process ends with its children.
 */
#ifndef MP__EXIT_INTERNAL_H
#define MP__EXIT_INTERNAL_H

/*
 * Runs exit hooks, ends daemons, joins the other children, runs the hooks with
 * negative priority, ends the fork server.
 */
void mp__process_exit_phase(void);

/*
 * Whoever registers with mp_atexit inside the library calls this: a program that
 * starts no process is linked without exit.c otherwise, and its exit is nobody's.
 */
void mp__exit_needed(void);

#endif
