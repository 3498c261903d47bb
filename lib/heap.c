/* SPDX-License-Identifier: MIT
 *
 * heap.c - blocks of anonymous shared memory. What is in them is the business of
 * the objects they belong to.
 */
#include "heap_internal.h"

#include <sys/stat.h>

#include "error_internal.h"
#include "shm_internal.h"

int mp__block_new(size_t size, mp__block *block)
{
    mp__block made = { .fd = mp__shm_open(size), .size = size };
    int r = made.fd < 0 ? made.fd : mp__shm_map(made.fd, size, &made.memory);

    if (r == 0)
        *block = made;
    else if (made.fd >= 0)
        mp__fd_close(made.fd);
    return r;
}

int mp__block_adopt(int *fd, size_t least, mp__block *block)
{
    mp__block made = { .fd = *fd };
    struct stat status;
    int r;

    if (fstat(*fd, &status) < 0)
        return mp__fail_errno("cannot look at shared memory");
    if (!S_ISREG(status.st_mode) || status.st_size < 0 || (size_t)status.st_size < least)
        return mp__fail(MP_EPROTOCOL, "shared memory of a wrong size in a message");
    made.size = (size_t)status.st_size;
    r = mp__shm_map(*fd, made.size, &made.memory);
    if (r < 0)
        return r;
    *fd = -1;
    *block = made;
    return 0;
}

void mp__block_reduce(const mp__block *block, mp__reduced *reduced)
{
    reduced->fds[reduced->count++] = block->fd;
}

void mp__block_done(mp__block *block)
{
    mp__shm_unmap(block->memory, block->size);
    mp__fd_close(block->fd);
    *block = MP__BLOCK_NONE;
}
