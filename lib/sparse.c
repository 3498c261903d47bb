/* SPDX-License-Identifier: MIT
 *
 * sparse.c - shared memory in parts. How memory is given back is its twins' business.
 */
#include "sparse_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error_internal.h"

#define RESERVE_STEP ((off_t)4 << 20)

int mp__sparse_extend(int fd, off_t size)
{
    struct stat status;

    if (fstat(fd, &status) < 0 || (status.st_size < size && ftruncate(fd, size) < 0))
        return mp__fail_errno("cannot make shared memory longer");
    return 0;
}

/* In steps: a signal undoes all that one call has done, so a long one might never end. */
int mp__sparse_reserve(int fd, off_t offset, off_t size)
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

int mp__sparse_map(int fd, off_t offset, size_t size, void **memory)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

    if (at == MAP_FAILED)
        return mp__fail_errno("cannot map shared memory");
    *memory = at;
    return 0;
}
