/* SPDX-License-Identifier: MIT
 *
 * synchronize_condition.c - Condition: seats for those that wait, all guarded by
 * the condition's lock.
 *
 * Who waits decides with the lock held again whether it was notified or was too
 * late, so each notification reaches one that lives. A seat changes by single
 * stores, so nothing needs repair when somebody dies between them.
 */
#include "synchronize_internal.h"

#include <limits.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "futex_internal.h"

typedef struct body {
    mp__shared_head head;
    uint64_t last;   /* number given to who came last */
    unsigned in_use; /* no seat above was ever taken */
    mp__seat seats[MP_CONDITION_WAITERS_MAX];
} body;

struct mp_condition {
    mp__shared shared;
    mp_lock *lock; /* an object of our own over the user's lock */
};

static body *body_of(const mp_condition *c)
{
    return c->shared.block.memory;
}

/* ---- life ---- */

mp_condition *mp_condition_new(mp_lock *lock)
{
    mp_condition *c = mp__shared_new(&mp__condition_kind, sizeof(*c), sizeof(body));

    if (!c)
        return NULL;
    c->lock = lock ? mp__lock_copy(lock) : mp_rlock_new();
    if (!c->lock) {
        mp_condition_free(c);
        return NULL;
    }
    return c;
}

void mp_condition_free(mp_condition *c)
{
    if (!c || c->shared.handle.lender)
        return;
    mp_lock_free(c->lock);
    mp__shared_free(c);
}

mp_condition *mp_condition_keep(mp_condition *c)
{
    if (c)
        mp__handle_keep(&c->shared.handle);
    return c;
}

int mp_condition_acquire(mp_condition *c, double timeout)
{
    return mp_lock_acquire(c ? c->lock : NULL, timeout);
}

int mp_condition_release(mp_condition *c)
{
    return mp_lock_release(c ? c->lock : NULL);
}

static int check_held(const mp_condition *c)
{
    if (!c)
        return mp__fail(MP_EINVAL, "no condition: NULL");
    if (!mp__lock_is_mine(c->lock))
        return mp__fail(MP_ENOTHELD, "acquire the condition before you wait or notify: this thread "
                                     "does not hold its lock");
    return 0;
}

/* ---- seats; all with the lock held ---- */

/* What is in shared memory may be nonsense; it must not lead out of it. */
static unsigned in_use(const body *b)
{
    return b->in_use < MP_CONDITION_WAITERS_MAX ? b->in_use : MP_CONDITION_WAITERS_MAX;
}

static bool waits(const mp__seat *seat)
{
    return atomic_load(&seat->state) == MP__SEAT_WAITING;
}

/* Frees the seats of those that died. */
static void sweep(body *b)
{
    for (unsigned i = 0; i < in_use(b); i++)
        if (atomic_load(&b->seats[i].state) != MP__SEAT_FREE && !mp__seat_lives(&b->seats[i]))
            atomic_store(&b->seats[i].state, MP__SEAT_FREE);
}

static mp__seat *find_free(body *b)
{
    for (unsigned i = 0; i < in_use(b); i++)
        if (atomic_load(&b->seats[i].state) == MP__SEAT_FREE && mp__seat_take(&b->seats[i]))
            return &b->seats[i];
    return NULL;
}

static mp__seat *take_seat(body *b)
{
    mp__seat *seat = find_free(b);

    if (!seat) {
        sweep(b);
        seat = find_free(b);
    }
    if (!seat && in_use(b) < MP_CONDITION_WAITERS_MAX && mp__seat_take(&b->seats[in_use(b)]))
        seat = &b->seats[b->in_use++];
    if (!seat)
        return NULL;
    seat->number = ++b->last;
    atomic_store(&seat->state, MP__SEAT_WAITING);
    return seat;
}

static mp__seat *longest_waiting(body *b)
{
    mp__seat *first = NULL;

    for (unsigned i = 0; i < in_use(b); i++)
        if (waits(&b->seats[i]) && (!first || b->seats[i].number < first->number))
            first = &b->seats[i];
    return first;
}

/* Whether it lived to be called. */
static bool call(mp__seat *seat)
{
    if (!mp__seat_lives(seat)) {
        atomic_store(&seat->state, MP__SEAT_FREE);
        return false;
    }
    mp__futex_add(&seat->state, MP__SEAT_CALLED - MP__SEAT_WAITING, 1);
    return true;
}

/* ---- notifying ---- */

int mp_condition_notify(mp_condition *c, int n)
{
    int r = check_held(c);
    mp__seat *seat;

    if (r == 0 && n < 0)
        r = mp__fail(
            MP_EINVAL, "mp_condition_notify of %d: how many to wake cannot be negative", n);
    while (r == 0 && n > 0 && (seat = longest_waiting(body_of(c))))
        n -= call(seat);
    return r;
}

int mp_condition_notify_all(mp_condition *c)
{
    int r = check_held(c);

    for (unsigned i = 0; r == 0 && i < in_use(body_of(c)); i++)
        if (waits(&body_of(c)->seats[i]))
            (void)call(&body_of(c)->seats[i]);
    return r;
}

unsigned mp__condition_waiters(mp_condition *c)
{
    unsigned count = 0;

    sweep(body_of(c));
    for (unsigned i = 0; i < in_use(body_of(c)); i++)
        count += waits(&body_of(c)->seats[i]);
    return count;
}

/* ---- waiting ---- */

static int sleep_on(mp__seat *seat, int64_t deadline)
{
    int r = 0;

    while (r == 0 && waits(seat))
        r = mp__futex_watch(&seat->state, MP__SEAT_WAITING, deadline);
    return r;
}

/* With the lock held again: what the wait came to. taken: how the lock was got. */
static int conclude(mp__seat *seat, int r, int taken)
{
    bool called = atomic_load(&seat->state) == MP__SEAT_CALLED;

    mp__seat_leave(seat);
    if (r == MP_EINTR && (called || taken < 0))
        mp_interrupt(); /* for the next call: this one says something else */
    if (taken < 0 || called)
        return taken;
    return r == MP_ETIMEDOUT ? mp__fail(r, "nobody notified the condition within the time") : r;
}

static int wait_until(mp_condition *c, int64_t deadline)
{
    mp__seat *seat = take_seat(body_of(c));
    unsigned depth;
    int r;

    if (!seat)
        return mp__fail(
            MP_EAGAIN, "%d wait for this condition already; no more can", MP_CONDITION_WAITERS_MAX);
    depth = mp__lock_let_go(c->lock);
    r = sleep_on(seat, deadline);
    return conclude(seat, r, mp__lock_take_back(c->lock, depth));
}

int mp_condition_wait(mp_condition *c, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    int r = check_held(c);

    return r < 0 ? r : wait_until(c, deadline);
}

int mp_condition_wait_for(
    mp_condition *c, bool (*predicate)(void *argument), void *argument, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    int r = check_held(c);

    if (r < 0)
        return r;
    if (!predicate)
        return mp__fail(MP_EINVAL, "mp_condition_wait_for needs a predicate");
    while (r == 0 && !predicate(argument))
        r = wait_until(c, deadline);
    if (r == MP_ETIMEDOUT && predicate(argument))
        r = 0;
    return r;
}

/* ---- travelling ---- */

static int reduce(const void *object, mp__reduced *reduced)
{
    int r = mp__shared_reduce(object, reduced);

    return r < 0 ? r : mp__lock_reduce(((const mp_condition *)object)->lock, reduced);
}

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    void *made = NULL, *lock = NULL;
    int r;

    if (size != 0 || count != 2)
        return mp__fail(MP_EPROTOCOL, "malformed condition in a message");
    r = mp__lock_kind.rebuild(state, size, &fds[1], 1, &lock);
    if (r == 0)
        r = mp__shared_rebuild(
            &mp__condition_kind, sizeof(mp_condition), sizeof(body), &fds[0], &made);
    if (r < 0) {
        mp_lock_free(lock);
        return r;
    }
    ((mp_condition *)made)->lock = lock;
    *object = made;
    return 0;
}

static void release(void *object)
{
    mp_condition_free(object);
}

const mp__kind mp__condition_kind = { "a condition", 12, reduce, rebuild, release };
