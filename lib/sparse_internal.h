/* SPDX-License-Identifier: MIT
 *
 * sparse_internal.h - shared memory in parts: an object of mp__shm_open of which only
 * some parts have memory. Its length costs nothing.
 */
#ifndef MP__SPARSE_INTERNAL_H
#define MP__SPARSE_INTERNAL_H

#include <stddef.h>
#include <sys/types.h>

/* Makes it size bytes long if it is shorter. 0 or a code. */
int mp__sparse_extend(int fd, off_t size);

/*
 * Takes memory for size bytes from offset on, so that touching them cannot fail; what
 * has memory keeps it. 0, MP_ENOMEM or -ENOSPC.
 */
int mp__sparse_reserve(int fd, off_t offset, off_t size);

/* Maps size bytes from offset on, both whole pages, to be ended with mp__shm_unmap. 0 or a code. */
int mp__sparse_map(int fd, off_t offset, size_t size, void **memory);

/*
 * The twins': gives back the memory of the bytes from begin to end, which become
 * zeros; what cannot be given back stays. Nobody may touch them meanwhile.
 */
void mp__sparse_release(int fd, off_t begin, off_t end);

#endif
