/* SPDX-License-Identifier: MIT
 *
 * pool_dispatch.c - which worker gets which items, when and how many, and how they
 * get there. What a worker has not begun can be taken back at any time, so handing
 * out is never a mistake that lasts.
 */
#include "pool_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"

#define AHEAD_NS 1000000.0 /* how much work lies before a worker */
#define AHEAD_MIN 2        /* items */
#define AHEAD_FIRST 16     /* raw items of unknown cost */
#define BRIEF_NS 20000.0   /* items for which waking up the pool costs too much */
#define STEAL_NS 50000     /* work that is worth taking from another worker */

#define LACK_NS 1000000000 /* without memory: then it does not come back */

#define CHUNK_MAX ((size_t)1 << 30)

/* ---- handing out ---- */

/* How many items of this work are to lie before a worker. */
static size_t ahead(const mp_pool *pool, const mp_result *work)
{
    double n = work->item_ns > 0       ? AHEAD_NS / work->item_ns
               : mp__work_is_raw(work) ? AHEAD_FIRST
                                       : AHEAD_MIN;
    size_t chunk = work->options.chunksize < CHUNK_MAX ? work->options.chunksize : CHUNK_MAX;
    size_t fair = work->waiting / pool->count + 1;

    if (n > (double)fair)
        n = (double)fair;
    if (chunk > 1) /* whole chunks, two at least */
        return n < 2.0 * (double)chunk ? 2 * chunk : ((size_t)n / chunk + 1) * chunk;
    return n < AHEAD_MIN ? AHEAD_MIN : (size_t)n;
}

/* How many items of it a worker gets now. */
static size_t portion(const mp_pool *pool, const mp__worker *w, const mp_result *work)
{
    size_t wanted = ahead(pool, work), space = MP__RING_SIZE - MP__RING_SPARE - w->room;
    size_t n;

    if (w->in_flight > wanted / 2 || space < mp__crew_room_for(work))
        return 0;
    n = wanted - w->in_flight;
    if (n > space / mp__crew_room_for(work))
        n = space / mp__crew_room_for(work);
    if (pool->maxtasksperchild && n > (size_t)pool->maxtasksperchild - w->given)
        n = (size_t)pool->maxtasksperchild - w->given;
    return n > UINT32_MAX ? UINT32_MAX : n;
}

static void refuse_item(mp_result *work, size_t place)
{
    mp_task_error error = { .code = mp_last_error()->code };

    (void)snprintf(error.text, sizeof(error.text), "%s", mp_last_error()->text);
    mp__work_fail(work, place, &error);
}

/* There has been no memory for long, and nothing is under way that may give some back. */
static bool is_starved(mp_pool *pool)
{
    size_t in_flight = 0;

    if (!pool->lacking_since)
        pool->lacking_since = mp__clock_now();
    for (size_t i = 0; i < pool->count; i++)
        in_flight += pool->workers[i].in_flight;
    return !in_flight && mp__clock_now() - pool->lacking_since > LACK_NS;
}

static void take_back(mp_result *work, size_t first, size_t count)
{
    if (count && mp__work_return(work, first, count) < 0)
        mp__work_lose(work, first, count);
}

/* Hands out up to n items. False: this worker takes no more now. */
static bool give(mp_pool *pool, mp__worker *w, mp_result *work, size_t *n)
{
    size_t first = 0, count = mp__work_take(work, mp__work_is_raw(work) ? *n : 1, &first);
    int r = mp__crew_put(pool, w, work, first, count);

    *n -= count;
    if (r == 0) {
        pool->lacking_since = 0;
        return !w->stuck;
    }
    if (r != MP_EAGAIN && (r != MP_ENOMEM || is_starved(pool))) { /* or it cannot be packed */
        refuse_item(work, first);
        take_back(work, first + 1, count - 1);
        return true;
    }
    take_back(work, first, count);
    w->stuck = true; /* until the next event */
    pool->ticking |= r == MP_ENOMEM;
    return false;
}

/* Work that has items to hand out, oldest first. */
static mp_result *next_work(mp_pool *pool)
{
    mp_result *work = pool->work;

    while (work && !work->waiting)
        work = work->next;
    return work;
}

/* Whether it may get items. */
static bool is_open(const mp_pool *pool, const mp__worker *w)
{
    return w->state == MP__WORKER_READY && !w->doomed && !w->stuck && w->fd >= 0 &&
           (!pool->maxtasksperchild || w->given < (size_t)pool->maxtasksperchild);
}

static mp__worker *least_loaded(mp_pool *pool, const mp_result *work)
{
    mp__worker *best = NULL;

    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];

        if (is_open(pool, w) && portion(pool, w, work) && (!best || w->in_flight < best->in_flight))
            best = w;
    }
    return best;
}

/* An idle worker takes over what a busy one has not begun. */
static bool steal(mp_pool *pool)
{
    mp__worker *victim = NULL;
    bool idle = false;
    int64_t now = mp__clock_now();

    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];
        mp__assignment *head = mp__crew_head(w);
        double cost = head ? (double)mp__crew_unbegun(w) * head->work->item_ns : 0;

        if (is_open(pool, w) && !w->in_flight)
            idle = true;
        else if (head && mp__crew_unbegun(w) && !w->doomed &&
                 (cost > STEAL_NS || now - w->since > STEAL_NS) &&
                 (!victim || mp__crew_unbegun(w) > mp__crew_unbegun(victim)))
            victim = w;
    }
    if (!idle || !victim)
        return false;
    mp__crew_take_back(victim);
    return true;
}

/* Whether somebody is idle while others have items they have not begun. */
static bool may_steal(mp_pool *pool)
{
    bool idle = false, rich = false;

    for (size_t i = 0; i < pool->count; i++) {
        idle |= is_open(pool, &pool->workers[i]) && !pool->workers[i].in_flight;
        rich |= mp__crew_unbegun(&pool->workers[i]) > 0;
    }
    return idle && rich;
}

static void hand_out(mp_pool *pool)
{
    mp_result *work;
    mp__worker *w;

    while ((work = next_work(pool)) && (w = least_loaded(pool, work))) {
        size_t n = portion(pool, w, work);

        mp__work_hold(work);
        while (n && work->waiting && give(pool, w, work, &n))
            continue;
        mp__work_drop(work);
    }
}

/* Sends what lies there. Whether a worker whose socket was full can take items again. */
static bool flush_all(mp_pool *pool)
{
    bool freed = false;

    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];
        bool was_stuck = w->stuck;

        w->stuck = false;
        if (mp__crew_is_sent(w))
            continue;
        mp__crew_flush(pool, w);
        freed |= was_stuck && !w->stuck;
    }
    return freed;
}

/* Workers that have had as many items as they may have are replaced. */
static void retire(mp_pool *pool)
{
    for (size_t i = 0; pool->maxtasksperchild && i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];

        if (w->state == MP__WORKER_READY && !w->in_flight &&
            w->given >= (size_t)pool->maxtasksperchild)
            mp__crew_stop(pool, w);
    }
}

void mp__crew_dispatch(mp_pool *pool)
{
    pool->ticking = false;
    if (!pool->work)
        pool->lacking_since = 0;
    do {
        hand_out(pool);
        if (!next_work(pool) && pool->work && steal(pool))
            hand_out(pool);
    } while (flush_all(pool) && next_work(pool));
    pool->ticking |= !next_work(pool) && pool->work && may_steal(pool);
    retire(pool);
}

bool mp__crew_arm(mp_pool *pool, mp__worker *w)
{
    mp__assignment *head = mp__crew_head(w);
    uint64_t next;
    size_t n = 1;

    if (!head)
        return false;
    next = w->sent - w->in_flight;
    if (head->work->item_ns > 0 && head->work->item_ns < BRIEF_NS && !head->work->items &&
        !head->work->timed)
        n = next_work(pool) ? w->in_flight / 2 : w->in_flight;
    if (n < 1)
        n = 1;
    atomic_store(&w->shared->wake_at, next + n);
    return n > 1;
}
