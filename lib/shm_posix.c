/* SPDX-License-Identifier: MIT
 *
 * shm_posix.c - shared memory by a name that lives for two calls.
 */
#include "shm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* A name nobody else has, taken away at once. */
int mp__shm_create(void)
{
    static atomic_uint counter;
    char name[48];
    int fd;

    do {
        (void)snprintf(
            name, sizeof(name), "/mp-%ld-%u", (long)getpid(), atomic_fetch_add(&counter, 1));
        fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600); /* close-on-exec by definition */
    } while (fd < 0 && errno == EEXIST);
    if (fd >= 0)
        (void)shm_unlink(name); /* it is ours */
    return fd;
}
