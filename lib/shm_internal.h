/* SPDX-License-Identifier: MIT
 *
 * shm_internal.h - memory that processes share. It has no name, so nothing of it
 * can be left behind.
 */
#ifndef MP__SHM_INTERNAL_H
#define MP__SHM_INTERNAL_H

#include <stddef.h>

/* The twins': an empty object without a name, or -1 and errno. */
int mp__shm_create(void);

/* A descriptor of size bytes of zeros, or a negative code. */
int mp__shm_open(size_t size);

/* Maps them, readable and writable. 0 or a code. The descriptor is not needed any more. */
int mp__shm_map(int fd, size_t size, void **memory);

/* The same at once, for this process and the copies it makes. */
int mp__shm_inherit(size_t size, void **memory);

/* NULL is allowed. */
void mp__shm_unmap(void *memory, size_t size);

#endif
