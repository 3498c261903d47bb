/* SPDX-License-Identifier: MIT
 *
 * launch_internal.h - starts a program with a clean slate.
 */
#ifndef MP__LAUNCH_INTERNAL_H
#define MP__LAUNCH_INTERNAL_H

#include <stdbool.h>
#include <sys/types.h>

#define MP__LAUNCH_FD 3 /* where the new program finds its channel */

/*
 * Runs path: stdin is /dev/null, 1 and 2 are ours, 3 is channel, nothing else
 * is open; default signal dispositions, none blocked. A failing exec is our
 * error, not an exit code. aside: from its first moment in a session of its own,
 * with all signals blocked, so that what ends us does not end it too.
 */
int mp__launch(
    const char *path, char *const argv[], char *const envp[], int channel, bool aside, pid_t *pid);

/* The path of the running binary, good also when its file was replaced. 0 or a code. */
int mp__launch_self(char *path, size_t size);

#endif
