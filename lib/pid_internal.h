/* SPDX-License-Identifier: MIT
 *
 * pid_internal.h - what the system knows of processes. Linux has descriptors
 * for them; elsewhere a pipe that the child keeps open tells of its end.
 */
#ifndef MP__PID_INTERNAL_H
#define MP__PID_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Whether mp__pid_open works, so that no pipe is needed to see the end of a process. */
bool mp__pid_has_descriptors(void);

/* A descriptor that is readable when the process has ended, or a negative code (MP_ECHILD: no such). */
int mp__pid_open(pid_t pid);

/*
 * Looks whether our child has ended, and reaps it. descriptor: of mp__pid_open,
 * or -1. Returns 1 and the exit code as Python counts it, 0 while it runs, or
 * -ECHILD when somebody else reaped it.
 */
int mp__pid_reap(pid_t pid, int descriptor, int *exitcode);

/* Sends a signal. 0 also when it has ended. Without a descriptor pid must be an unreaped child. */
int mp__pid_signal(pid_t pid, int descriptor, int sig);

/* Whether threads of the program's own run besides this one, and whether surely none does. */
bool mp__pid_threaded(void);
bool mp__pid_alone(void);

/* A thread of the library begins (1) or ends (-1): it holds no lock anybody needs. 0: all are gone. */
void mp__pid_own_thread(int change);

/* Has the kernel (or a thread) kill this process when the other end of the lifeline closes. */
int mp__pid_die_with(int lifeline);

/* Has function(code) called by exit(code), after handlers registered later. False: not here. */
bool mp__pid_on_exit(void (*function)(int code));

/*
 * Which signals 1 to 64 are caught or ignored in this process: bit 0 is signal 1. All
 * that can be, where nobody tells. The first call opens a descriptor that it keeps.
 */
uint64_t mp__pid_signals(void);

/* Names the process for ps and top. */
void mp__pid_set_title(const char *name);

/* The environment variable that tells a child which descriptor its bootstrap comes over. */
#define MP__CHILD_VARIABLE "_MP_CHILD"

/*
 * For as long as a child has not reached its guard, programs it starts can
 * see that: mark is called when the variable has been removed, unmark at the
 * guard. text is the variable's original "name=value".
 */
void mp__pid_mark(char *text);
void mp__pid_unmark(char *text);

/* This process is a child from now on: programs it runs can see that they are below it. */
void mp__pid_below(void);

enum mp__recursion { MP__RECURSION_NONE, MP__RECURSION_BOOTSTRAP, MP__RECURSION_DEEP };

/* Whether this program was started by a child before its guard, or below itself too often. */
enum mp__recursion mp__pid_recursion(void);

#endif
