/* SPDX-License-Identifier: MIT
 *
 * shm_linux.c - shared memory by memfd.
 */
#include "shm_internal.h"

#include <sys/mman.h>

int mp__shm_create(void)
{
    return memfd_create("multiprocessing", MFD_CLOEXEC);
}
