/* SPDX-License-Identifier: MIT
 *
 * sharedctypes_locked.c - Array and Value: a raw array, and a lock that each access
 * acquires. What is in the array is sharedctypes.c's business.
 */
#include <multiprocessing/sharedctypes.h>

#include <stdlib.h>

#include "error_internal.h"
#include "synchronize_internal.h"

struct mp_array {
    mp__handle handle; /* first: it can travel */
    mp_raw_array *raw;
    mp_lock *lock; /* an object of our own over the user's lock; NULL: there is none */
    bool untold;   /* a holder died, and nobody was told yet. With the lock held */
};

/* ---- life ---- */

static mp_array *allocate(void)
{
    mp_array *a = calloc(1, sizeof(*a));

    if (a)
        a->handle.kind = &mp__array_kind;
    else
        (void)mp__fail(MP_ENOMEM, "out of memory for an array");
    return a;
}

/* *made is NULL when there shall be none. */
static int make_lock(mp_lock *wanted, mp_lock **made)
{
    if (wanted == MP_NO_LOCK)
        return 0;
    *made = wanted ? mp__lock_copy(wanted) : mp_rlock_new();
    return *made ? 0 : mp_last_error()->code;
}

mp_array *mp_array_create(const mp_array_options *o)
{
    mp_array *a = allocate();

    if (!a)
        return NULL;
    a->raw = mp_raw_array_create(
        &(const mp_raw_array_options){ .type = o->type, .count = o->count, .from = o->from });
    if (!a->raw || make_lock(o->lock, &a->lock) < 0) {
        mp_array_free(a);
        return NULL;
    }
    return a;
}

void mp_array_free(mp_array *a)
{
    if (!a || a->handle.lender)
        return; /* the message frees it */
    mp_raw_array_free(a->raw);
    mp_lock_free(a->lock);
    free(a);
}

mp_array *mp_array_keep(mp_array *a)
{
    if (a)
        mp__handle_keep(&a->handle);
    return a;
}

mp_lock *mp_array_get_lock(const mp_array *a)
{
    return a ? a->lock : NULL;
}

mp_raw_array *mp_array_get_obj(const mp_array *a)
{
    return a ? a->raw : NULL;
}

size_t mp_array_len(const mp_array *a)
{
    return a ? mp_raw_array_len(a->raw) : 0;
}

/* ---- the lock ---- */

static int check_lock(const mp_array *a)
{
    if (!a)
        return mp__fail(MP_EINVAL, "no array: NULL");
    if (!a->lock)
        return mp__fail(MP_EINVAL, "this array was made with MP_NO_LOCK: there is no lock to "
                                   "acquire or release");
    return 0;
}

/* With the lock held. What an earlier call found and had no way to say is said now. */
static int tell_of_death(mp_array *a)
{
    a->untold = false;
    return mp__fail(MP_EOWNERDEAD, "a holder of this array's lock died holding it; you "
                                   "hold it now, to be released, but what it guards may be half "
                                   "changed");
}

int mp_array_acquire(mp_array *a, double timeout)
{
    int r = check_lock(a);

    if (r == 0)
        r = mp_lock_acquire(a->lock, timeout);
    return r == 0 && a->untold ? tell_of_death(a) : r;
}

int mp_array_release(mp_array *a)
{
    int r = check_lock(a);

    return r < 0 ? r : mp_lock_release(a->lock);
}

/* ---- elements ---- */

static bool is_held(int acquired)
{
    return acquired == 0 || acquired == MP_EOWNERDEAD;
}

/* For an access: as mp_array_acquire, but where there is no lock there is nothing to do. */
static int enter(mp_array *a)
{
    if (a && !a->lock)
        return 0;
    return mp_array_acquire(a, MP_FOREVER);
}

/*
 * Ends an access that entered and came to r. Of two failures the access's own is
 * returned, since it did nothing; the death is for the next call to tell.
 */
static int leave(mp_array *a, int entered, int r)
{
    if (r < 0 && entered == MP_EOWNERDEAD)
        a->untold = true;
    if (a->lock)
        (void)mp_lock_release(a->lock); /* it is ours */
    if (r < 0 || entered == 0)
        return r;
    return mp__fail(MP_EOWNERDEAD, "it is done, but a holder of this array's lock died holding it, "
                                   "so what it guards may be half changed");
}

int mp__array_get(mp_array *a, ptrdiff_t index, const mp__slot *to)
{
    int r = enter(a);

    return is_held(r) ? leave(a, r, mp__raw_array_get(a->raw, index, to)) : r;
}

int mp__array_set(mp_array *a, ptrdiff_t index, msgpack_object value)
{
    int r = enter(a);

    return is_held(r) ? leave(a, r, mp__raw_array_set(a->raw, index, value)) : r;
}

/* ---- travelling ---- */

/* The raw array as it travels alone, and its lock's descriptor behind its own. */
static int reduce(const void *object, mp__reduced *reduced)
{
    const mp_array *a = object;
    int r = mp__raw_array_kind.reduce(a->raw, reduced);

    return r < 0 || !a->lock ? r : mp__lock_reduce(a->lock, reduced);
}

static int rebuild_parts(mp_array *a, const uint8_t *state, size_t size, int *fds, size_t count)
{
    void *raw = NULL, *lock = NULL;
    int r = count == 2 ? mp__lock_kind.rebuild(NULL, 0, &fds[1], 1, &lock) : 0;

    if (r == 0)
        r = mp__raw_array_kind.rebuild(state, size, &fds[0], 1, &raw);
    a->lock = lock;
    a->raw = raw;
    return r;
}

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    mp_array *a;
    int r;

    if ((count != 1 && count != 2) || fds[count - 1] < 0)
        return mp__fail(MP_EPROTOCOL, "malformed array in a message");
    a = allocate();
    if (!a)
        return MP_ENOMEM;
    r = rebuild_parts(a, state, size, fds, count);
    if (r < 0) {
        mp_array_free(a);
        return r;
    }
    *object = a;
    return 0;
}

static void release(void *object)
{
    mp_array_free(object);
}

const mp__kind mp__array_kind = { "an array with a lock", 35, reduce, rebuild, release };
