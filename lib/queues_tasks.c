/* SPDX-License-Identifier: MIT
 *
 * queues_tasks.c - JoinableQueue: how many items were put, and how many are done.
 */
#include "queues_internal.h"

#include <limits.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "futex_internal.h"

static int check_joinable(const mp_queue *q)
{
    int r = mp__queue_check(q);

    if (r == 0 && !(q->ring.shared->flags & MP__QUEUE_JOINABLE))
        return mp__fail(MP_EINVAL, "this queue does not count tasks: make it with "
                                   "mp_joinable_queue_new");
    return r;
}

static bool all_done(const mp__queue_shared *s)
{
    uint64_t dones = atomic_load(&s->dones);

    return dones == atomic_load(&s->puts);
}

int mp_queue_task_done(mp_queue *q)
{
    mp__queue_shared *s;
    uint64_t dones;
    int r = check_joinable(q);

    if (r < 0)
        return r;
    s = q->ring.shared;
    dones = atomic_load(&s->dones);
    do
        if (dones == atomic_load(&s->puts))
            return mp__fail(MP_EINVAL, "mp_queue_task_done was called more often than items were "
                                       "put");
    while (!atomic_compare_exchange_weak(&s->dones, &dones, dones + 1));
    if (all_done(s)) {
        atomic_fetch_add(&s->finishes, 1);
        mp__queue_wake(&s->joiners, &s->finishes, INT_MAX);
    }
    return 0;
}

/* Others may put again before a joiner looks: that all was done at some time is enough. */
int mp_queue_join(mp_queue *q, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    mp__queue_shared *s;
    unsigned begin;
    int r = check_joinable(q);

    if (r < 0)
        return r;
    s = q->ring.shared;
    begin = atomic_load(&s->finishes);
    while (r == 0 && !all_done(s)) {
        if (atomic_load(&s->finishes) != begin)
            return 0;
        if (mp__clock_over(deadline))
            return mp__fail(MP_ETIMEDOUT, "not all items of the queue are done");
        mp__queue_announce(&s->joiners);
        if (all_done(s))
            break;
        r = mp__futex_wait(&s->finishes, begin, mp__clock_slice(deadline));
        if (r == MP_ETIMEDOUT)
            r = 0;
    }
    return r;
}
