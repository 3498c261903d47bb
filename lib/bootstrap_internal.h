/* SPDX-License-Identifier: MIT
 *
 * bootstrap_internal.h - what a child must know to begin, how it is told, and
 * the guard that keeps programs from starting themselves for ever.
 */
#ifndef MP__BOOTSTRAP_INTERNAL_H
#define MP__BOOTSTRAP_INTERNAL_H

#include <stdint.h>
#include <sys/types.h>

#include "connection_internal.h"
#include "value_internal.h"

enum mp__method { MP__FORK, MP__SPAWN, MP__FORKSERVER, MP__METHODS };

/* Who a process is. */
typedef struct mp__identity {
    const char *name, *parent_name;
    const uint32_t *path; /* (1, 2): the second child of the first child */
    size_t path_length;
    const void *authkey;
    size_t authkey_size;
    bool daemon;
    unsigned depth; /* 0 is the root */
    enum mp__method method;
    pid_t parent;
} mp__identity;

/* In the child: what it is, and what it holds for its parent. -1 where there is nothing. */
typedef struct mp__child {
    mp__identity identity;
    mp_function target; /* or NULL */
    mp_call call;
    int lifeline;       /* ends when the parent ends */
    int life;           /* kept open until this process ends */
    int parent_fd;      /* descriptor of the parent process */
    int report;         /* where a child of a fork server writes its exit code */
    uint64_t serial;    /* for the report */
    bool told;          /* the whole bootstrap was read */
    mp_message request; /* lends the texts above */
} mp__child;

/* In the parent: a child to be. */
typedef struct mp__job {
    mp__identity identity;
    mp_function target;
    mp__buffer *arguments; /* packed, with a spare byte */
    mp__parcel *parcel;
    void (*run)(mp__child *child); /* in the child; never returns */
} mp__job;

/* A child that was started. */
typedef struct mp__popen mp__popen;
struct mp__popen {
    pid_t pid;
    int descriptor;            /* of mp__pid_open, or -1 */
    int life;                  /* ends when the child ends, where there are no such descriptors */
    int lifeline;              /* kept open as long as a daemon shall live */
    struct mp__server *server; /* of a fork server: who reports the exit code */
    uint64_t serial;
    mp__popen *sibling; /* in the list of that server */
    bool reported;      /* exitcode is known */
    bool ended;
    int exitcode;
    bool lingers;     /* what tells of its end is readable, and it lives */
    unsigned waiters; /* threads that wait for its end */
    bool closed;      /* to be closed by the last of them */
};

#define MP__POPEN_NONE ((mp__popen){ .descriptor = -1, .life = -1, .lifeline = -1 })

/* What becomes readable at the end of the child. */
int mp__popen_sentinel(const mp__popen *popen);

/* Closes what it holds of the child. */
void mp__popen_close(mp__popen *popen);

/*
 * Opens what tells of the end of a child just made. life is the reading end of
 * the pipe it keeps open, or -1; taken. On failure the child is gone.
 */
int mp__popen_watch(pid_t pid, int *life, mp__popen *popen);

/* Kills a child just made, and reaps it. */
void mp__popen_destroy(mp__popen *popen);

/* ---- the guard ---- */

enum mp__stage {
    MP__STAGE_ROOT,          /* a program of its own, not (yet) past its guard */
    MP__STAGE_GUARDED,       /* past it */
    MP__STAGE_BOOTSTRAPPING, /* an exec'd child or server that has not reached its guard */
    MP__STAGE_CHILD          /* a child at work */
};

enum mp__stage mp__stage(void);

/* Past the guard: the root for good; a child begins to serve. */
void mp__stage_set(enum mp__stage stage);

/* Whether this program has its guard, here or in the process this one is a copy of. */
bool mp__guard_passed(void);

/* Whether a child may be started here by that method. 0, MP_EGUARD or MP_EDEPTH. */
int mp__guard_start(enum mp__method method, unsigned depth);

/* ---- telling an exec'd child ---- */

/* Executes the program; *channel leads to the new process. */
int mp__bootstrap_launch(mp_connection **channel, pid_t *pid);

/* The environment and one "name=value" more; to be freed, not what is in it. NULL: no memory. */
char **mp__bootstrap_environment(char *addition);

/* The connection to the parent in the new process. Once; exits when there is none. */
mp_connection *mp__bootstrap_channel(void);

/* Writes out buffered output that a child must not write again. */
void mp__bootstrap_flush(void);

/* Ends a child that cannot begin: the last failure goes to stderr, exit code 1. */
_Noreturn void mp__bootstrap_fail(void);

#endif
