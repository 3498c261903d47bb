/* SPDX-License-Identifier: MIT
 *
 * popen_internal.h - starting a child by each method, and asking how it ended.
 */
#ifndef MP__POPEN_INTERNAL_H
#define MP__POPEN_INTERNAL_H

#include "bootstrap_internal.h"

/*
 * Starts the child; *popen must be MP__POPEN_NONE and is as that on failure. In
 * the child it never returns.
 */
int mp__popen_fork(const mp__job *job, mp__popen *popen);
int mp__popen_spawn(const mp__job *job, mp__popen *popen);
int mp__popen_forkserver(const mp__job *job, mp__popen *popen);

/*
 * A nursery is a copy of this process that forks children of the method fork later
 * on: they see the program as it is now, whatever threads it has then.
 */
typedef struct mp__server mp__nursery;
int mp__nursery_new(void (*run)(mp__child *child), mp__nursery **nursery);

/* It is not needed any more, only freed later: it may end meanwhile. NULL is allowed. */
void mp__nursery_dismiss(mp__nursery *nursery);

/* NULL is allowed. Its children go on. */
void mp__nursery_free(mp__nursery *nursery);

/* As mp__popen_fork. MP_EFORKSERVER: it is dead. */
int mp__popen_nursery(mp__nursery *nursery, const mp__job *job, mp__popen *popen);

/* Whether it has ended; then ended and exitcode are set. With mp__lock held. */
bool mp__popen_poll(mp__popen *popen);

/* Waits for that. 0, MP_ETIMEDOUT or MP_EINTR. Without mp__lock. */
int mp__popen_wait(mp__popen *popen, int64_t deadline);

/* Forgets a child: its end is of no interest any more. With mp__lock held. */
void mp__popen_forget(mp__popen *popen);

#define MP__EXPECT_MAX 8

/* So many starts follow: the fork server goes ahead, by that many at a time. Failure only costs time. */
void mp__forkserver_expect(size_t count);

/* Ends the fork server of this process, if there is one. */
void mp__forkserver_stop(void);

/* The two pipes a child may need: the ends of each, -1 where it needs none. */
typedef struct mp__lines {
    int lifeline[2]; /* the child reads: it ends with us */
    int life[2];     /* the child keeps [1] open */
} mp__lines;

/* Makes those that a child of this kind needs here. */
int mp__lines_open(bool daemon, mp__lines *lines);
void mp__lines_close(mp__lines *lines);

#endif
