/* SPDX-License-Identifier: MIT
 *
 * shm.c - memory that processes share: made by its twin, mapped here.
 */
#include "shm_internal.h"

#include <sys/mman.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"

int mp__shm_open(size_t size)
{
    int fd = mp__shm_create();
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

int mp__shm_inherit(size_t size, void **memory)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

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
