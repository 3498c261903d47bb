/* SPDX-License-Identifier: MIT
 *
 * shm_internal.h - memory that processes share. It has no name, so nothing of it
 * can be left behind.
 */
#ifndef MP__SHM_INTERNAL_H
#define MP__SHM_INTERNAL_H

#include <stddef.h>
#include <sys/types.h>

/* The twins': an empty object without a name, or -1 and errno. */
int mp__shm_create(void);

/* A descriptor of size bytes of zeros, or a negative code. */
int mp__shm_open(size_t size);

/* Maps them, readable and writable. 0 or a code. The descriptor is not needed any more. */
int mp__shm_map(int fd, size_t size, void **memory);

/* The same for size bytes from offset on, both whole pages. */
int mp__shm_map_at(int fd, off_t offset, size_t size, void **memory);

/* Makes it size bytes long if it is shorter. More length costs no memory. 0 or a code. */
int mp__shm_extend(int fd, off_t size);

/*
 * Takes memory for size bytes from offset on, so that touching them cannot fail; what
 * has memory keeps it. 0, MP_ENOMEM or -ENOSPC.
 */
int mp__shm_reserve(int fd, off_t offset, off_t size);

/*
 * The twins': gives back the memory of the bytes from begin to end, which become
 * zeros; what cannot be given back stays. Nobody may touch them meanwhile.
 */
void mp__shm_release(int fd, off_t begin, off_t end);

/* The same at once, for this process and the copies it makes. */
int mp__shm_inherit(size_t size, void **memory);

/* NULL is allowed. */
void mp__shm_unmap(void *memory, size_t size);

#endif
