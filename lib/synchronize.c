/* SPDX-License-Identifier: MIT
 *
 * synchronize.c - what the objects of synchronize.h have in common. What each does
 * is in a file of its own.
 */
#include "synchronize_internal.h"

#include <stdlib.h>

#include "error_internal.h"

#define VERSION 1

/* ---- bodies ---- */

static void *adopt(const mp__kind *kind, size_t object_size, mp__block *block)
{
    mp__shared *object = calloc(1, object_size);

    if (!object) {
        (void)mp__fail(MP_ENOMEM, "out of memory for %s", kind->name);
        return NULL;
    }
    object->handle.kind = kind;
    object->block = *block;
    *block = MP__BLOCK_NONE;
    return object;
}

void *mp__shared_new(const mp__kind *kind, size_t object_size, size_t body_size)
{
    mp__block block = MP__BLOCK_NONE;
    void *object = NULL;

    if (mp__block_new(body_size, &block) == 0)
        object = adopt(kind, object_size, &block);
    if (object)
        *(mp__shared_head *)((mp__shared *)object)->block.memory =
            (mp__shared_head){ kind->code, VERSION, body_size };
    mp__block_done(&block);
    return object;
}

static int check(const mp__kind *kind, const mp__block *block)
{
    const mp__shared_head *head = block->memory;

    if (head->kind != kind->code || head->version != VERSION || head->size != block->size)
        return mp__fail(MP_EPROTOCOL, "the shared memory in a message is not %s", kind->name);
    return 0;
}

int mp__shared_rebuild(
    const mp__kind *kind, size_t object_size, size_t body_size, int *fd, void **object)
{
    mp__block block = MP__BLOCK_NONE;
    void *made = NULL;
    int r = mp__block_adopt(fd, body_size, &block);

    if (r == 0)
        r = check(kind, &block);
    if (r == 0) {
        made = adopt(kind, object_size, &block);
        r = made ? 0 : mp_last_error()->code;
    }
    mp__block_done(&block);
    if (r == 0)
        *object = made;
    return r;
}

void *mp__shared_copy(const void *object, size_t object_size)
{
    const mp__shared *shared = object;
    int fd = mp__fd_duplicate(shared->block.fd);
    void *copy = NULL;

    if (fd < 0)
        return NULL;
    (void)mp__shared_rebuild(shared->handle.kind, object_size, shared->block.size, &fd, &copy);
    mp__fd_close(fd);
    return copy;
}

int mp__shared_reduce(const void *object, mp__reduced *reduced)
{
    mp__block_reduce(&((const mp__shared *)object)->block, reduced);
    return 0;
}

void mp__shared_free(void *object)
{
    mp__shared *shared = object;

    if (!shared || shared->handle.lender)
        return;
    mp__block_done(&shared->block);
    free(shared);
}

/* ---- seats ---- */

/* Who dies over the initialization leaves it to the next: made is still 0. */
static bool prepare(mp__seat *seat)
{
    if (seat->made)
        return true;
    if (mp__mutex_init(&seat->alive) < 0)
        return false;
    seat->made = 1;
    return true;
}

bool mp__seat_take(mp__seat *seat)
{
    int r = prepare(seat) ? mp__mutex_lock(&seat->alive, 0) : MP_ENOMEM;

    if (r < 0 && r != MP_EOWNERDEAD)
        return false;
    atomic_store(&seat->state, MP__SEAT_FREE);
    return true;
}

bool mp__seat_lives(mp__seat *seat)
{
    int r = mp__mutex_lock(&seat->alive, 0);

    if (r == 0 || r == MP_EOWNERDEAD)
        (void)mp__mutex_unlock(&seat->alive);
    return r == MP_ETIMEDOUT;
}

void mp__seat_leave(mp__seat *seat)
{
    atomic_store(&seat->state, MP__SEAT_FREE);
    (void)mp__mutex_unlock(&seat->alive);
}
