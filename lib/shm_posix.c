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

#include "error_internal.h"
#include "fd_internal.h"

/* A name nobody else has, taken away at once. */
static int open_nameless(void)
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

int mp__shm_open(size_t size)
{
    int fd = open_nameless();
    int r;

    if (fd < 0)
        return mp__fail_errno("cannot make shared memory");
    r = ftruncate(fd, (off_t)size) < 0 ? mp__fail_errno("cannot make shared memory")
                                       : mp__fd_raise(&fd);
    if (r < 0)
        mp__fd_close(fd);
    return r < 0 ? r : fd;
}

int mp__shm_map(int fd, size_t size, void **memory)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (at == MAP_FAILED)
        return mp__fail_errno("cannot map shared memory");
    *memory = at;
    return 0;
}

void mp__shm_unmap(void *memory, size_t size)
{
    if (memory)
        (void)munmap(memory, size); /* fails for wrong arguments only */
}
