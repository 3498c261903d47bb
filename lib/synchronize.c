/* SPDX-License-Identifier: MIT
 *
 * synchronize.c - what the objects of synchronize.h have in common. What each does
 * is in a file of its own.
 */
#include "synchronize_internal.h"

#include <stdlib.h>

#include "error_internal.h"
#include "hooks_internal.h"

#define VERSION 1

/* ---- mappings ---- */

/*
 * A body is mapped once in a process, however often it arrives: a mutex at two
 * addresses would be two for sanitizers, and for the kernel, which is told where
 * a thread's mutexes are.
 */
struct mp__mapping {
    struct mp__mapping *next;
    uint64_t id;
    uint32_t kind;
    mp__block block; /* without a descriptor */
    size_t users;
};

static struct mp__mapping *mappings; /* under mp__lock */

/* The mapping of this body that is there, used once more; or NULL. With mp__lock held. */
static struct mp__mapping *find_mapping(const mp__shared_head *head, size_t size)
{
    for (struct mp__mapping *m = mappings; m; m = m->next)
        if (m->id == head->id && m->kind == head->kind && m->block.size == size) {
            m->users++;
            return m;
        }
    return NULL;
}

/* Gives the object the mapping of its body that is there, or makes its own the one. */
static int share_mapping(mp__shared *object)
{
    const mp__shared_head head = *(const mp__shared_head *)object->block.memory;
    struct mp__mapping *fresh = malloc(sizeof(*fresh));

    if (!fresh)
        return mp__fail(MP_ENOMEM, "out of memory for %s", object->handle.kind->name);
    *fresh = (struct mp__mapping){
        .id = head.id, .kind = head.kind, .block = object->block, .users = 1
    };
    fresh->block.fd = -1;
    mp__lock();
    object->mapping = find_mapping(&head, object->block.size);
    if (!object->mapping) {
        fresh->next = mappings;
        object->mapping = mappings = fresh;
        fresh = NULL;
    }
    mp__unlock();
    if (fresh)
        mp__block_done(&fresh->block);
    free(fresh);
    object->block.memory = object->mapping->block.memory;
    return 0;
}

static void drop_mapping(struct mp__mapping *mapping)
{
    struct mp__mapping **at = &mappings;
    bool last;

    mp__lock();
    last = --mapping->users == 0;
    while (last && *at != mapping)
        at = &(*at)->next;
    if (last)
        *at = mapping->next;
    mp__unlock();
    if (!last)
        return;
    mp__block_done(&mapping->block);
    free(mapping);
}

bool mp__shared_is_last(const void *object)
{
    bool last;

    mp__lock();
    last = ((const mp__shared *)object)->mapping->users == 1;
    mp__unlock();
    return last;
}

void mp__shared_leave_mapped(void *object)
{
    mp__lock();
    ((mp__shared *)object)->mapping->users++;
    mp__unlock();
}

/* ---- bodies ---- */

/* Takes the block on success. */
static void *adopt(const mp__kind *kind, size_t object_size, mp__block *block)
{
    mp__shared *object = calloc(1, object_size);

    if (!object) {
        (void)mp__fail(MP_ENOMEM, "out of memory for %s", kind->name);
        return NULL;
    }
    object->handle.kind = kind;
    object->block = *block;
    if (share_mapping(object) < 0) {
        free(object);
        return NULL;
    }
    *block = MP__BLOCK_NONE;
    return object;
}

static uint64_t new_id(void)
{
    static atomic_uint count;

    return mp__self_get()->token + atomic_fetch_add(&count, 1);
}

void *mp__shared_new(const mp__kind *kind, size_t object_size, size_t body_size)
{
    mp__block block = MP__BLOCK_NONE;
    void *object = NULL;

    if (mp__block_new(body_size, &block) == 0) {
        *(mp__shared_head *)block.memory =
            (mp__shared_head){ kind->code, VERSION, body_size, new_id() };
        object = adopt(kind, object_size, &block);
    }
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
    drop_mapping(shared->mapping);
    shared->block.memory = NULL;
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
