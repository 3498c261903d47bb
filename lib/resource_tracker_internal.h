/* SPDX-License-Identifier: MIT
 *
 * resource_tracker_internal.h - names of shared memory go with the process that
 * owns them, however it ends.
 */
#ifndef MP__RESOURCE_TRACKER_INTERNAL_H
#define MP__RESOURCE_TRACKER_INTERNAL_H

#include <sys/types.h>

#include "shm_internal.h"

/* A name of shared memory, inside the object that has it. */
typedef struct mp__tracked mp__tracked;
struct mp__tracked {
    char name[MP__SHM_NAME_MAX + 1];
    mp__shm_identity identity;
    pid_t owner; /* the process that tracks it; 0: none does */
    bool noted;  /* in the table of names, at slot */
    size_t slot;
    mp__tracked *previous, *next;
};

/*
 * This process owns the name from now on: it goes at exit, or when the process is
 * killed. Better before the name is there. Cannot fail: where no tracker can be
 * started, the log says so.
 */
void mp__track(mp__tracked *tracked);

/* Not any more. Harmless for what is not tracked, or not by this process. */
void mp__untrack(mp__tracked *tracked);

/* The same, and the name goes, if it is this process that tracks it. */
void mp__untrack_and_remove(mp__tracked *tracked);

/* Ends the tracker of this process, unless there are names for it to look after. */
void mp__resource_tracker_stop(void);

#endif
