/* SPDX-License-Identifier: MIT
 *
 * shm_linux.c - shared memory by memfd.
 */
#include "shm_internal.h"

#include <fcntl.h>
#include <sys/mman.h>

int mp__shm_create(void)
{
    return memfd_create("multiprocessing", MFD_CLOEXEC);
}

void mp__shm_release(int fd, off_t begin, off_t end)
{
    /* Where it fails the memory stays until the end of the object: nothing depends on it. */
    (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, end - begin);
}
