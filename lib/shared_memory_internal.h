/* SPDX-License-Identifier: MIT
 *
 * shared_memory_internal.h - shared memory as the inside of another
 * object: filled before it is seen, and travelling.
 */
#ifndef MP__SHARED_MEMORY_INTERNAL_H
#define MP__SHARED_MEMORY_INTERNAL_H

#include <multiprocessing/shared_memory.h>

#include "reduction_internal.h"

/*
 * Makes shared memory whose content fill writes, before anybody can see it by its
 * name, where the system knows how. 0, or the code of either.
 */
int mp__shared_memory_make(const mp_shared_memory_options *options,
    int (*fill)(mp_shared_memory *memory, void *argument), void *argument,
    mp_shared_memory **memory);

int mp__shared_memory_reduce(const void *memory, mp__reduced *reduced);

/* As the rebuild of a kind. */
int mp__shared_memory_rebuild(
    const uint8_t *state, size_t size, int *fds, size_t count, void **memory);

#endif
