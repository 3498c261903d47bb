/* SPDX-License-Identifier: MIT
 *
 * synchronize_lock.c - Lock and RLock: a robust mutex, and who holds it.
 */
#include "synchronize_internal.h"

#include <limits.h>
#include <stdio.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "log_internal.h"

typedef struct body {
    mp__shared_head head;
    _Alignas(64) mp__mutex mutex;
    _Atomic uint64_t who; /* its pid, or the last one's, above how often it acquired */
    uint32_t recursive;
} body;

struct mp_lock {
    mp__shared shared;
    bool recursive;
};

static body *body_of(const mp_lock *lock)
{
    return lock->shared.block.memory;
}

static int pid_of(const mp_lock *lock)
{
    return (int)(atomic_load_explicit(&body_of(lock)->who, memory_order_relaxed) >> 32);
}

static unsigned depth_of(const mp_lock *lock)
{
    return (unsigned)atomic_load_explicit(&body_of(lock)->who, memory_order_relaxed);
}

static void set_who(body *b, int pid, unsigned depth)
{
    atomic_store_explicit(&b->who, (uint64_t)(unsigned)pid << 32 | depth, memory_order_relaxed);
}

static const char *name_of(const mp_lock *lock)
{
    return lock->recursive ? "RLock" : "Lock";
}

/* ---- life ---- */

static mp_lock *make(bool recursive)
{
    mp_lock *lock = mp__shared_new(&mp__lock_kind, sizeof(*lock), sizeof(body));

    if (!lock)
        return NULL;
    lock->recursive = recursive;
    body_of(lock)->recursive = recursive;
    if (mp__mutex_init(&body_of(lock)->mutex) < 0) {
        mp_lock_free(lock);
        return NULL;
    }
    return lock;
}

mp_lock *mp_lock_new(void)
{
    return make(false);
}

mp_lock *mp_rlock_new(void)
{
    return make(true);
}

/* By whatever thread of this process. */
static bool is_held_here(const mp_lock *lock)
{
    return mp__mutex_is_held(&body_of(lock)->mutex) &&
           (mp__lock_is_mine(lock) || pid_of(lock) == mp__self_get()->pid);
}

void mp_lock_free(mp_lock *lock)
{
    char text[64];

    if (!lock)
        return;
    if (!lock->shared.handle.lender && is_held_here(lock) && mp__shared_is_last(lock)) {
        /* The kernel's list of what a thread holds leads through this memory: it stays mapped. */
        mp_log(MP_LOG_WARNING,
            "%s is freed while it is held, and stays held until its thread ends; release it first",
            mp_lock_repr(lock, text, sizeof(text)));
        mp__shared_leave_mapped(lock);
    }
    mp__shared_free(lock);
}

mp_lock *mp_lock_keep(mp_lock *lock)
{
    if (lock)
        mp__handle_keep(&lock->shared.handle);
    return lock;
}

mp_lock *mp__lock_copy(const mp_lock *lock)
{
    mp_lock *copy = mp__shared_copy(lock, sizeof(*lock));

    if (copy)
        copy->recursive = lock->recursive;
    return copy;
}

/* ---- acquiring ---- */

bool mp__lock_is_mine(const mp_lock *lock)
{
    return mp__mutex_is_mine(&body_of(lock)->mutex);
}

/* With the dead one's pid still in the body. */
static int tell_of_death(const mp_lock *lock)
{
    int pid = pid_of(lock);

    mp_log(MP_LOG_INFO, "process %d died or ended a thread holding a %s; who acquired it was told",
        pid, name_of(lock));
    return mp__fail(MP_EOWNERDEAD,
        "the last holder of this %s, in process %d, died holding it; you hold it now, to be "
        "released, but what it guards may be half changed",
        name_of(lock), pid);
}

/* The holder asks for more. */
static int again(mp_lock *lock, int64_t deadline)
{
    unsigned depth = depth_of(lock);

    if (!lock->recursive && deadline == 0)
        return mp__fail(MP_ETIMEDOUT, "this thread holds the Lock already");
    if (!lock->recursive)
        return mp__fail(MP_EDEADLOCK, "this thread holds the Lock already and would wait for "
                                      "itself; use mp_rlock_new() for a "
                                      "lock that its holder may acquire again");
    if (depth == UINT_MAX)
        return mp__fail(MP_ERANGE, "an RLock acquired %u times", depth);
    set_who(body_of(lock), pid_of(lock), depth + 1);
    return 0;
}

static int not_acquired(const mp_lock *lock)
{
    return mp__fail(
        MP_ETIMEDOUT, "the %s is held by a thread of process %d", name_of(lock), pid_of(lock));
}

static int acquire_slowly(mp_lock *lock, double timeout)
{
    const mp__self *me = mp__self_get();
    int64_t deadline = mp__clock_deadline(timeout);
    int r;

    if (!lock)
        return mp__fail(MP_EINVAL, "no lock: NULL");
    if (mp__lock_is_mine(lock))
        return again(lock, deadline);
    r = mp__mutex_lock(&body_of(lock)->mutex, deadline);
    if (r == MP_ETIMEDOUT)
        return not_acquired(lock);
    if (r == MP_EOWNERDEAD)
        (void)tell_of_death(lock);
    if (r == 0 || r == MP_EOWNERDEAD)
        set_who(body_of(lock), me->pid, 1);
    return r;
}

int mp_lock_acquire(mp_lock *lock, double timeout)
{
    if (!lock || !mp__mutex_lock_short(&body_of(lock)->mutex))
        return acquire_slowly(lock, timeout);
    set_who(body_of(lock), mp__self_here.pid, 1);
    return 0;
}

int mp__lock_take_back(mp_lock *lock, unsigned depth)
{
    int r = mp__mutex_enter(&body_of(lock)->mutex);

    if (r == MP_EOWNERDEAD)
        (void)tell_of_death(lock);
    if (r == 0 || r == MP_EOWNERDEAD)
        set_who(body_of(lock), mp__self_get()->pid, depth);
    return r;
}

/* ---- releasing ---- */

static int not_mine(const mp_lock *lock)
{
    char text[64];

    return mp__fail(MP_ENOTHELD, "this thread does not hold the lock and cannot release it: %s",
        mp_lock_repr(lock, text, sizeof(text)));
}

unsigned mp__lock_let_go(mp_lock *lock)
{
    unsigned depth = depth_of(lock);

    (void)mp__mutex_unlock(&body_of(lock)->mutex); /* it is ours */
    return depth;
}

static int release_slowly(mp_lock *lock)
{
    unsigned depth;

    if (!lock)
        return mp__fail(MP_EINVAL, "no lock: NULL");
    if (!mp__lock_is_mine(lock))
        return not_mine(lock);
    depth = depth_of(lock);
    if (depth > 1)
        set_who(body_of(lock), pid_of(lock), depth - 1);
    else
        (void)mp__mutex_unlock(&body_of(lock)->mutex); /* it is ours */
    return 0;
}

int mp_lock_release(mp_lock *lock)
{
    if (!lock || depth_of(lock) > 1 || !mp__mutex_unlock_short(&body_of(lock)->mutex))
        return release_slowly(lock);
    return 0;
}

/* ---- looking ---- */

bool mp_lock_locked(const mp_lock *lock)
{
    return lock && mp__mutex_is_held(&body_of(lock)->mutex);
}

/* "owner=None" and so on. */
static void describe_owner(const mp_lock *lock, char *text, size_t size)
{
    int pid = pid_of(lock);

    if (!mp_lock_locked(lock))
        (void)snprintf(text, size, "None");
    else if (mp__lock_is_mine(lock))
        (void)snprintf(text, size, "this thread");
    else if (pid == mp__self_get()->pid)
        (void)snprintf(text, size, "another thread");
    else
        (void)snprintf(text, size, "process %d", pid);
}

char *mp_lock_repr(const mp_lock *lock, char *text, size_t size)
{
    char owner[32];

    if (size == 0)
        return text;
    if (!lock) {
        (void)snprintf(text, size, "NULL");
        return text;
    }
    describe_owner(lock, owner, sizeof(owner));
    if (lock->recursive)
        (void)snprintf(
            text, size, "<RLock(%s, %u)>", owner, mp_lock_locked(lock) ? depth_of(lock) : 0);
    else
        (void)snprintf(text, size, "<Lock(owner=%s)>", owner);
    return text;
}

/* ---- travelling ---- */

int mp__lock_reduce(const mp_lock *lock, mp__reduced *reduced)
{
    return mp__shared_reduce(lock, reduced);
}

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    void *made = NULL;
    int r;

    (void)state;
    if (size != 0 || count != 1)
        return mp__fail(MP_EPROTOCOL, "malformed lock in a message");
    r = mp__shared_rebuild(&mp__lock_kind, sizeof(mp_lock), sizeof(body), &fds[0], &made);
    if (r < 0)
        return r;
    ((mp_lock *)made)->recursive = body_of(made)->recursive != 0;
    *object = made;
    return 0;
}

static void release(void *object)
{
    mp_lock_free(object);
}

const mp__kind mp__lock_kind = { "a lock", 10, mp__shared_reduce, rebuild, release };
