/* SPDX-License-Identifier: MIT
 *
 * shm.c - memory that processes share: made by its twin, mapped here.
 */
#include "shm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"

#define RESERVE_STEP ((off_t)4 << 20)

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

int mp__shm_map_at(int fd, off_t offset, size_t size, void **memory)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

    if (at == MAP_FAILED)
        return mp__fail_errno("cannot map shared memory");
    *memory = at;
    return 0;
}

int mp__shm_map(int fd, size_t size, void **memory)
{
    return mp__shm_map_at(fd, 0, size, memory);
}

int mp__shm_extend(int fd, off_t size)
{
    struct stat status;

    if (fstat(fd, &status) < 0 || (status.st_size < size && ftruncate(fd, size) < 0))
        return mp__fail_errno("cannot make shared memory longer");
    return 0;
}

/* In steps: a signal undoes all that one call has done, so a long one might never end. */
int mp__shm_reserve(int fd, off_t offset, off_t size)
{
    off_t end = offset + size;
    int e = 0;

    while (offset < end && (e == 0 || e == EINTR)) {
        off_t step = end - offset < RESERVE_STEP ? end - offset : RESERVE_STEP;

        e = posix_fallocate(fd, offset, step);
        if (e == 0)
            offset += step;
    }
    return e ? mp__fail(-e, "no room for %lld bytes more in shared memory: %s", (long long)size,
                   mp_strerror(-e))
             : 0;
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
