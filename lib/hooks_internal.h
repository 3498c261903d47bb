/* SPDX-License-Identifier: MIT
 *
 * hooks_internal.h - what happens at fork and at exit, and the one lock that
 * guards the lists of the library.
 */
#ifndef MP__HOOKS_INTERNAL_H
#define MP__HOOKS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
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

/*
 * Between these no other thread forks: until it is known whose a new descriptor is.
 * They nest. Not with mp__lock held, which keeps forks away, too.
 */
void mp__hooks_hold_forks(void);
void mp__hooks_let_forks(void);

/*
 * The same for descriptors that come over a socket, for what does not block: other threads
 * may receive meanwhile, too. With the end they have an owner that is known.
 */
void mp__hooks_begin_receiving(void);
void mp__hooks_end_receiving(void);

/* Descriptors that one child alone shall have, until it has them. */
typedef struct mp__making {
    const int *fds;
    size_t count;
    const void *thread;
    struct mp__making *next;
} mp__making;

/*
 * The same as holding and letting forks, for who forks in between: other children close
 * their copies of fds, as they are then.
 */
void mp__hooks_begin_making(mp__making *making, const int *fds, size_t count);
void mp__hooks_end_making(mp__making *making);

/*
 * fork for a child of the library, and for one that only calls exec. Handlers of
 * pthread_atfork may take locks that others hold while they wait for us: nothing is held
 * while they run.
 */
pid_t mp__hooks_fork(void);
pid_t mp__hooks_fork_to_exec(void);

/* The pid of this process, without a system call. */
pid_t mp__hooks_pid(void);

/* Runs and forgets what mp_atexit registered with at least this priority. */
void mp__hooks_run_exit(int priority);

#endif
