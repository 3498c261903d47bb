/* SPDX-License-Identifier: MIT
 *
 * buffer_internal.h - bytes that grow.
 */
#ifndef MP__BUFFER_INTERNAL_H
#define MP__BUFFER_INTERNAL_H

#include <stddef.h>

typedef struct mp__buffer {
    char *data;
    size_t size, capacity;
} mp__buffer;

/* Room for size bytes in all, exactly; what is there stays. 0 or MP_ENOMEM. */
int mp__buffer_reserve(mp__buffer *buffer, size_t size);

/* Appends, at least doubling when it has to grow. 0 or MP_ENOMEM. */
int mp__buffer_append(mp__buffer *buffer, const void *data, size_t size);

/* Empties it; memory above keep bytes goes back. */
void mp__buffer_reset(mp__buffer *buffer, size_t keep);

void mp__buffer_done(mp__buffer *buffer);

#endif
