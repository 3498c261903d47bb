/* SPDX-License-Identifier: MIT
 *
 * heap.c - blocks of anonymous shared memory. What is in them is the business of
 * the objects they belong to.
 */
#include "heap_internal.h"

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
    return mp__block_view(fd, least, false, block);
}

int mp__block_view(int *fd, size_t least, bool readonly, mp__block *block)
{
    mp__block made = { .fd = *fd, .readonly = readonly };
    mp__shm_identity identity;
    int r = mp__shm_look(*fd, &made.size, &identity);

    if (r < 0)
        return r;
    if (made.size < least || made.size == 0)
        return mp__fail(MP_EPROTOCOL, "shared memory of a wrong size in a message");
    r = mp__shm_view(*fd, made.size, readonly, &made.memory);
    if (r < 0)
        return r;
    *fd = -1;
    *block = made;
    return 0;
}

void mp__block_seal(mp__block *block)
{
    mp__shm_seal(block->fd);
}

int mp__block_grow(mp__block *block, size_t size, int (*extend)(int fd, size_t size))
{
    mp__shm_identity identity;
    void *larger = NULL;
    size_t length;
    int r = mp__shm_look(block->fd, &length, &identity);

    if (r < 0 || size <= block->size)
        return r;
    if (length < size && block->readonly)
        return mp__fail(MP_EPERM,
            "the memory has %zu bytes and can only be read here: who can write to it must make it "
            "grow first",
            length);
    r = mp__shm_map_again(block->fd, block->memory, size, block->readonly, &larger);
    if (r == 0 && length < size)
        r = extend(block->fd, size);
    if (r < 0) {
        mp__shm_unmap(larger, size);
        return r;
    }
    mp__shm_unmap(block->memory, block->size);
    block->memory = larger;
    block->size = size;
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
