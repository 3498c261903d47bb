/* SPDX-License-Identifier: MIT
 *
 * spin_internal.h - a short look before going to sleep.
 */
#ifndef MP__SPIN_INTERNAL_H
#define MP__SPIN_INTERNAL_H

#include <stdbool.h>
#include <sys/types.h>

/* How it went before; all zero at first. */
typedef struct mp__spin {
    unsigned misses, skips;
    unsigned turns; /* in a row, that the one who makes it ready took on this CPU */
} mp__spin;

/*
 * Looks for about as long as a wake-up costs whether fd becomes readable: an
 * answer that comes at once then costs none. Where it does not help it is done
 * ever less often.
 */
void mp__spin_wait(mp__spin *spin, int fd);

/* As mp__fd_receive, in the same way; no child is forked with what came before it is in fds. */
ssize_t mp__spin_receive(
    mp__spin *spin, int fd, void *data, size_t size, int *fds, size_t *count, bool *lost);

/* The same for any event. Whether it was seen. */
bool mp__spin_until(mp__spin *spin, bool (*ready)(void *argument), void *argument);

#endif
