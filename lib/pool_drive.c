/* SPDX-License-Identifier: MIT
 *
 * pool_drive.c - how a pool goes on: one thread at a time has the role of the
 * driver. It sleeps for events of the workers, without the lock, and settles them.
 * Only with the role are workers started, read and buried.
 */
#include "pool_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "pid_internal.h"
#include "popen_internal.h"

#define TICK_NS 1000000
#define RETRY_NS 10000000 /* before a start that failed is tried again, at least */
#define FAILURES_MIN 3
#define NESTED_MAX 100 /* callbacks that call each other by waiting; then only what is waited for */

/* ---- the role ---- */

void mp__pool_poke(mp_pool *pool)
{
    if (write(mp_connection_fileno(pool->waker), "", 1) < 0)
        errno = 0; /* full: it is awake already */
}

/* The driver sleeps, and we have given workers something: it may have to sleep less. */
static void rouse(mp_pool *pool)
{
    bool stir = pool->ticking;

    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];

        if (!w->in_flight || w->fd < 0)
            continue;
        stir |= mp__crew_arm(pool, w) || w->stuck || w->queue[w->queue_first].work->time_limit ||
                atomic_load(&w->shared->head) != w->tail;
    }
    if (stir)
        mp__pool_poke(pool);
}

void mp__pool_leave(mp_pool *pool)
{
    if (pool->driving && !mp__is_here(pool->driver))
        rouse(pool);
    else if (!pool->driving && pool->has_thread && (pool->work || pool->done))
        mp__pool_announce(pool); /* its thread goes on with what nobody waits for */
    mp__pool_drop(pool);
}

/* Goes before those who drive: they do not begin another round as long as somebody waits here. */
void mp__pool_take_role(mp_pool *pool)
{
    pool->claimants++;
    while (pool->driving) {
        mp__pool_poke(pool);
        (void)pthread_cond_wait(&pool->changed, &pool->lock);
    }
    pool->claimants--;
    pool->driving = true;
    pool->driver = pthread_self();
}

void mp__pool_leave_role(mp_pool *pool)
{
    pool->driving = false;
    mp__pool_announce(pool);
}

/* ---- replacing workers ---- */

static bool any_alive(const mp_pool *pool)
{
    for (size_t i = 0; i < pool->count; i++)
        if (pool->workers[i].state == MP__WORKER_READY)
            return true;
    return false;
}

void mp__pool_abandon_all(mp_pool *pool, int code, const char *text)
{
    while (pool->work)
        mp__work_abandon(pool->work, code, text);
}

static void give_up_if_hopeless(mp_pool *pool)
{
    char text[sizeof(pool->reason) + 128];

    if (pool->broken || pool->failures < FAILURES_MIN + pool->count || any_alive(pool))
        return;
    pool->broken = true;
    (void)snprintf(text, sizeof(text), "%u workers in a row did not begin, so the pool gave up: %s",
        pool->failures, pool->reason);
    mp__pool_abandon_all(pool, MP_EBROKEN, text);
    mp__pool_announce(pool);
}

static bool wants_workers(const mp_pool *pool)
{
    return !pool->broken &&
           (pool->state == MP__POOL_RUNNING || (pool->state == MP__POOL_CLOSED && pool->work));
}

static void replace_workers(mp_pool *pool)
{
    for (size_t i = 0; i < pool->count && wants_workers(pool); i++) {
        if (pool->workers[i].state != MP__WORKER_VACANT || mp__clock_now() < pool->retry_at)
            continue;
        if (mp__crew_start(pool, &pool->workers[i]) == 0)
            continue;
        mp__crew_count_failure(pool);
        if (pool->retry_at <= mp__clock_now()) /* whatever was lacking does not come back at once */
            pool->retry_at = mp__clock_now() + RETRY_NS;
        (void)snprintf(pool->reason, sizeof(pool->reason), "a worker could not be started: %.400s",
            mp_last_error()->text);
        give_up_if_hopeless(pool);
    }
}

/* A closed pool without work lets its workers go. */
void mp__pool_dismiss(mp_pool *pool)
{
    if (pool->state != MP__POOL_CLOSED || pool->work)
        return;
    mp__nursery_dismiss(pool->nursery);
    for (size_t i = 0; i < pool->count; i++)
        if (pool->workers[i].state == MP__WORKER_STARTING ||
            pool->workers[i].state == MP__WORKER_READY)
            mp__crew_stop(pool, &pool->workers[i]);
}

/* ---- driving ---- */

static bool has_answers(void *argument)
{
    mp_pool *pool = argument;

    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];

        if (w->shared && atomic_load_explicit(&w->shared->head, memory_order_relaxed) != w->seen)
            return true;
    }
    return false;
}

/* Until when the driver may sleep; arms the workers to wake it before. */
static int64_t prepare_sleep(mp_pool *pool, int64_t deadline, bool *patient)
{
    bool batching = false;
    int64_t end = mp__crew_check_limits(pool);

    *patient = false;
    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];

        w->seen = w->tail;
        if (w->shared)
            batching |= mp__crew_arm(pool, w);
        if (w->state == MP__WORKER_VACANT && wants_workers(pool) && pool->retry_at < end)
            end = pool->retry_at > 1 ? pool->retry_at : 1;
        *patient |= w->in_flight > 0;
    }
    atomic_thread_fence(memory_order_seq_cst); /* between arming and the look for answers */
    *patient = *patient && !batching && deadline != 0;
    if ((batching || pool->ticking) && mp__clock_now() + TICK_NS < end)
        end = mp__clock_now() + TICK_NS;
    return deadline < end ? deadline : end;
}

static size_t fill_fds(mp_pool *pool)
{
    struct pollfd *at = pool->fds;

    *at++ = (struct pollfd){ .fd = pool->wake, .events = POLLIN };
    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];
        bool alive = w->state != MP__WORKER_VACANT;

        *at++ = (struct pollfd){ .fd = w->external ? -1 : w->fd,
            .events = (short)(w->stuck ? POLLIN | POLLOUT : POLLIN) };
        *at++ =
            (struct pollfd){ .fd = alive ? mp_process_sentinel(w->process) : -1, .events = POLLIN };
    }
    return (size_t)(at - pool->fds);
}

/* Sleeps without the lock. How many descriptors are ready, or a code. */
static int sleep_for_events(mp_pool *pool, int64_t deadline)
{
    bool patient;
    int64_t end = prepare_sleep(pool, deadline, &patient);
    size_t n = fill_fds(pool);
    char bytes[64];
    int r = 0;

    (void)pthread_mutex_unlock(&pool->lock);
    if (has_answers(pool))
        end = 0;
    if (!patient || end == 0 || !mp__spin_until(&pool->spin, has_answers, pool))
        r = mp__fd_poll(pool->fds, n, has_answers(pool) ? 0 : end);
    else
        for (size_t i = 0; i < n; i++)
            pool->fds[i].revents = 0;
    if (r > 0 && pool->fds[0].revents && read(pool->wake, bytes, sizeof(bytes)) < 0)
        errno = 0; /* another took it */
    (void)pthread_mutex_lock(&pool->lock);
    return r;
}

static void settle_events(mp_pool *pool)
{
    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];
        const struct pollfd *fds = &pool->fds[1 + 2 * i];

        if (w->state == MP__WORKER_VACANT)
            continue;
        atomic_store(&w->shared->wake_at, MP__NO_WAKE);
        mp__crew_look(pool, w, (fds[0].revents & ~POLLOUT) != 0);
        if (w->stuck && fds[0].revents & POLLOUT)
            mp__crew_flush(pool, w);
        if (fds[1].revents)
            mp__crew_bury(pool, w);
    }
}

/* One sleep, and what came of it. 0 or MP_EINTR. */
static int drive_once(mp_pool *pool, int64_t deadline)
{
    int r;

    pool->driving = true;
    pool->driver = pthread_self();
    r = sleep_for_events(pool, deadline);
    if (pool->state != MP__POOL_ENDED) {
        settle_events(pool);
        give_up_if_hopeless(pool);
        replace_workers(pool);
        mp__crew_dispatch(pool);
        mp__pool_dismiss(pool);
    }
    mp__pool_leave_role(pool);
    return r < 0 ? r : 0;
}

static void wait_for_driver(mp_pool *pool, int64_t deadline)
{
    struct timespec at = { (time_t)(deadline / 1000000000), (long)(deadline % 1000000000) };

    if (pool->driving)
        rouse(pool);
    if (deadline == MP__NEVER)
        (void)pthread_cond_wait(&pool->changed, &pool->lock);
    else
        (void)pthread_cond_timedwait(&pool->changed, &pool->lock, &at);
}

/* Calls one callback, if there is one and this thread may. */
bool mp__pool_call_back(mp_pool *pool)
{
    mp_result *outer = pool->calling, *work;
    mp_callback function;

    if (outer && !mp__is_here(pool->caller))
        return false;
    work = mp__work_next_done(pool, pool->nested >= NESTED_MAX);
    if (!work)
        return false;
    function = work->failed ? work->options.error_callback : work->options.callback;
    pool->calling = work;
    pool->caller = pthread_self();
    pool->nested++;
    work->called = true;
    (void)pthread_mutex_unlock(&pool->lock);
    function(work, work->options.user);
    (void)pthread_mutex_lock(&pool->lock);
    pool->calling = outer;
    pool->nested--;
    mp__work_ready(work);
    return true;
}

int mp__pool_drive(mp_pool *pool, bool (*done)(void *argument), void *argument, int64_t deadline)
{
    bool tried = false;
    int r = 0;

    while (!done(argument) && r == 0) {
        if (mp__pool_call_back(pool))
            continue;
        if (tried && deadline != MP__NEVER && mp__clock_now() >= deadline)
            return mp__fail(MP_ETIMEDOUT, "not ready within the time given");
        if (!pool->driving && !pool->claimants)
            r = drive_once(pool, deadline);
        else
            wait_for_driver(pool, deadline);
        tried = true;
    }
    return r;
}

/* ---- its own thread ---- */

static bool has_nothing_to_do(void *argument)
{
    const mp_pool *pool = argument;

    return pool->thread_stops || (!pool->work && !pool->done);
}

static void *serve(void *argument)
{
    mp_pool *pool = argument;

    (void)pthread_mutex_lock(&pool->lock);
    while (!pool->thread_stops) {
        if (has_nothing_to_do(pool))
            (void)pthread_cond_wait(&pool->changed, &pool->lock);
        else
            (void)mp__pool_drive(pool, has_nothing_to_do, pool, MP__NEVER);
    }
    mp__pid_own_thread(-1);
    mp__pool_drop(pool);
    return NULL;
}

int mp__pool_ensure_thread(mp_pool *pool)
{
    sigset_t all, old;
    int e;

    if (pool->has_thread)
        return 0;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    mp__pid_own_thread(1);
    e = pthread_create(&pool->thread, NULL, serve, pool);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e) {
        mp__pid_own_thread(-1);
        return mp__fail(-e, "cannot start the thread of a pool: %s", strerror(e));
    }
    pool->has_thread = true;
    pool->refs++;
    return 0;
}

/* With the lock held, which is given up meanwhile. */
void mp__pool_stop_thread(mp_pool *pool)
{
    pthread_t thread = pool->thread;

    if (!pool->has_thread || pool->thread_stops)
        return;
    pool->thread_stops = true;
    mp__pool_announce(pool);
    mp__pool_poke(pool);
    if (mp__is_here(thread) || pool->calling) { /* a callback may last, or wait for us */
        (void)pthread_detach(thread);
        return;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    (void)pthread_join(thread, NULL);
    (void)pthread_mutex_lock(&pool->lock);
}
