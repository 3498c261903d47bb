/* SPDX-License-Identifier: MIT
 *
 * hooks_internal.h - what happens at fork and at exit, and the one lock that
 * guards the lists of the library.
 */
#ifndef MP__HOOKS_INTERNAL_H
#define MP__HOOKS_INTERNAL_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * The lock of all lists: connections, processes, hooks. Held for a few
 * instructions and across fork, so a child finds the lists whole.
 */
void mp__lock(void);
void mp__unlock(void);

/*
 * function runs in every child made by fork, in order of registration; again
 * for the same function does nothing. ours: the library made the child, and
 * what is not passed to it is closed; else the program called fork itself. It
 * runs with the lock held, in a process that may have had threads.
 */
void mp__hooks_after_fork(void (*function)(bool ours));

/* fork for a child of the library. */
pid_t mp__hooks_fork(void);

/*
 * Between these no other thread forks: for as long as there are descriptors that one
 * child alone shall have. They nest. Not with mp__lock held, which keeps forks away, too.
 */
void mp__hooks_hold_forks(void);
void mp__hooks_let_forks(void);

/* The pid of this process, without a system call. */
pid_t mp__hooks_pid(void);

/* Runs and forgets what mp_atexit registered with at least this priority. */
void mp__hooks_run_exit(int priority);

#endif
