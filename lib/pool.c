/* SPDX-License-Identifier: MIT
 *
 * pool.c - pools: made and ended. Whoever waits for something drives the pool, see
 * pool_drive.c; a thread of the pool's own does when there is work that nobody
 * waits for.
 */
#include "pool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock_internal.h"
#include "cpu_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "function_internal.h"
#include "hooks_internal.h"
#include "pid_internal.h"
#include "popen_internal.h"
#include "process_internal.h"
#include "socket_internal.h"

#define EXIT_PRIORITY 15     /* Python's: pools end before other children */
#define GRACE_NS 200000000   /* between SIGTERM and SIGKILL */
#define KILL_NS 500000000    /* for killed processes to be gone */
#define FAREWELL_SECONDS 0.3 /* for idle workers of a pool that is freed to exit by themselves */

#define PROCESSES_MAX 100000

static mp_pool *pools; /* of this process, under mp__lock */
static mp_pool *left;  /* never freed, ended at exit: still somebody's, no leak */

/* ---- holding and releasing ---- */

static void release(mp_pool *pool)
{
    for (uint32_t i = 0; i < pool->function_count; i++)
        mp__buffer_done(&pool->functions[i].description);
    free(pool->functions);
    mp__buffer_done(&pool->initializer);
    mp__buffer_done(&pool->scratch);
    mp_message_clear(&pool->initargs);
    mp__fd_close(pool->wake);
    mp_connection_free(pool->waker);
    mp__fd_close_all(pool->news, 2);
    free(pool->workers);
    free(pool->fds);
    (void)pthread_mutex_destroy(&pool->lock);
    (void)pthread_cond_destroy(&pool->changed);
    free(pool);
}

void mp__pool_drop(mp_pool *pool)
{
    bool last = --pool->refs == 0;

    (void)pthread_mutex_unlock(&pool->lock);
    if (last)
        release(pool);
}

int mp__pool_enter(mp_pool *pool)
{
    if (!pool)
        return mp__fail(MP_EINVAL, "no pool: NULL");
    if (pool->creator != mp__hooks_pid())
        return mp__fail(MP_ECREATOR, "this pool belongs to another process; a task cannot wait for "
                                     "its own pool, but may make one of its own");
    (void)pthread_mutex_lock(&pool->lock);
    pool->refs++;
    return 0;
}

int mp__pool_check_open(const mp_pool *pool)
{
    if (pool->broken)
        return mp__fail(MP_EBROKEN, "the pool is broken: %s", pool->reason);
    if (pool->state != MP__POOL_RUNNING)
        return mp__fail(MP_ECLOSED, "the pool is closed; it takes no more tasks");
    return 0;
}

void mp__pool_announce(mp_pool *pool)
{
    (void)pthread_cond_broadcast(&pool->changed);
    if (pool->driving && !mp__is_here(pool->driver))
        mp__pool_poke(pool); /* what it sleeps for may be this */
}

static int describe(mp_function function, mp__buffer *encoded)
{
    mp__function description;
    int r = mp__function_describe((void (*)(void))function, &description);

    return r < 0 ? r : mp__function_encode(&description, encoded);
}

/* Whether it is that one still: its library may have been unloaded, and another one be there. */
static bool is_known(
    struct mp__known_function *known, const mp__buffer *encoded, unsigned long long unloads)
{
    if (encoded->size != known->description.size ||
        memcmp(encoded->data, known->description.data, encoded->size) != 0)
        return false;
    known->unloads = unloads;
    return true;
}

/* The number of a function that is known, or how many are. */
static uint32_t look_up(
    mp_pool *pool, mp_function function, const mp__buffer *encoded, unsigned long long unloads)
{
    for (uint32_t i = 0; i < pool->function_count; i++) {
        struct mp__known_function *known = &pool->functions[i];

        if (known->call == function &&
            (encoded ? is_known(known, encoded, unloads) : known->unloads == unloads))
            return i;
    }
    return pool->function_count;
}

int mp__pool_function(mp_pool *pool, mp_function function, uint32_t *number)
{
    unsigned long long unloads = mp__function_unloads();
    struct mp__known_function *more;
    mp__buffer encoded = { 0 };
    int r;

    *number = look_up(pool, function, NULL, unloads);
    if (*number < pool->function_count)
        return 0;
    r = describe(function, &encoded);
    if (r == 0)
        *number = look_up(pool, function, &encoded, unloads);
    if (r < 0 || *number < pool->function_count) {
        mp__buffer_done(&encoded);
        return r;
    }
    more = realloc(pool->functions, (pool->function_count + 1) * sizeof(*more));
    if (!more) {
        mp__buffer_done(&encoded);
        return mp__fail(MP_ENOMEM, "out of memory for a function");
    }
    pool->functions = more;
    more[pool->function_count++] = (struct mp__known_function){ function, encoded, unloads };
    return 0;
}

/* ---- ending ---- */

static size_t count_alive(mp_pool *pool)
{
    size_t n = 0;

    for (size_t i = 0; i < pool->count; i++)
        n += pool->workers[i].process && mp_process_is_alive(pool->workers[i].process);
    return n;
}

static void wait_for_deaths(mp_pool *pool, int64_t deadline)
{
    while (count_alive(pool) && mp__clock_now() < deadline) {
        size_t n = 0;

        for (size_t i = 0; i < pool->count; i++)
            if (pool->workers[i].process && mp_process_is_alive(pool->workers[i].process))
                pool->fds[n++] =
                    (struct pollfd){ .fd = mp_process_sentinel(pool->workers[i].process),
                        .events = POLLIN };
        (void)mp__fd_poll(pool->fds, n, deadline);
    }
}

/* Ends all workers, whatever state they are in. With the role. */
static void end_workers(mp_pool *pool)
{
    for (size_t i = 0; i < pool->count; i++)
        if (pool->workers[i].process)
            (void)mp_process_terminate(pool->workers[i].process);
    wait_for_deaths(pool, mp__clock_now() + GRACE_NS);
    for (size_t i = 0; i < pool->count; i++)
        if (pool->workers[i].process)
            (void)mp_process_kill(pool->workers[i].process);
    wait_for_deaths(pool, mp__clock_now() + KILL_NS);
    for (size_t i = 0; i < pool->count; i++)
        if (pool->workers[i].state != MP__WORKER_VACANT)
            mp__crew_clear(&pool->workers[i]);
}

static void forget_pool(mp_pool *pool)
{
    mp__lock();
    if (pool->previous)
        pool->previous->next = pool->next;
    else if (pools == pool)
        pools = pool->next;
    if (pool->next)
        pool->next->previous = pool->previous;
    pool->previous = pool->next = NULL;
    mp__unlock();
}

static void end(mp_pool *pool)
{
    mp__pool_take_role(pool);
    if (pool->state != MP__POOL_ENDED) {
        pool->state = MP__POOL_ENDED;
        mp__nursery_dismiss(pool->nursery);
        end_workers(pool);
        mp__nursery_free(pool->nursery);
        pool->nursery = NULL;
        mp__pool_abandon_all(pool, MP_ETERMINATED, "the pool was terminated before it was done");
    }
    mp__pool_leave_role(pool);
    while (mp__pool_call_back(pool))
        continue;
    mp__pool_stop_thread(pool);
}

int mp_pool_close(mp_pool *pool)
{
    int r = mp__pool_enter(pool);

    if (r < 0)
        return r;
    if (pool->state == MP__POOL_RUNNING)
        pool->state = MP__POOL_CLOSED;
    mp__pool_dismiss(pool);
    mp__pool_leave(pool);
    return 0;
}

int mp_pool_terminate(mp_pool *pool)
{
    int r = mp__pool_enter(pool);

    if (r < 0)
        return r;
    end(pool);
    mp__pool_leave(pool);
    return 0;
}

static bool all_gone(void *argument)
{
    const mp_pool *pool = argument;

    for (size_t i = 0; i < pool->count && pool->state != MP__POOL_ENDED; i++)
        if (pool->workers[i].state != MP__WORKER_VACANT)
            return false;
    return !pool->work && !pool->done;
}

int mp_pool_join(mp_pool *pool, double timeout)
{
    int r = mp__pool_enter(pool);

    if (r < 0)
        return r;
    if (pool->state == MP__POOL_RUNNING)
        r = mp__fail(MP_ERUNNING, "the pool is running; close or terminate it before join");
    else if (pool->calling && mp__is_here(pool->caller))
        r = mp__fail(MP_EDEADLOCK, "join in a callback of the pool would wait for the callback");
    else
        r = mp__pool_drive(pool, all_gone, pool, mp__clock_deadline(timeout));
    if (r == 0)
        end(pool);
    mp__pool_leave(pool);
    return r;
}

void mp_pool_free(mp_pool *pool)
{
    if (!pool || pool->creator != mp__hooks_pid() || mp__pool_enter(pool) < 0)
        return;
    forget_pool(pool);
    if (pool->state != MP__POOL_ENDED && !pool->work && !pool->calling) {
        pool->state = MP__POOL_CLOSED;
        mp__pool_dismiss(pool);
        (void)mp__pool_drive(pool, all_gone, pool, mp__clock_deadline(FAREWELL_SECONDS));
    }
    end(pool);
    pool->refs--; /* the owner's */
    mp__pool_drop(pool);
}

/* ---- making ---- */

static void end_all(void *unused)
{
    mp_pool *pool;

    (void)unused;
    for (;;) {
        mp__lock();
        pool = pools;
        mp__unlock();
        if (!pool)
            return;
        forget_pool(pool);
        pool->next = left;
        left = pool;
        (void)mp_pool_terminate(pool);
    }
}

static pid_t at_exit_of; /* the process that will call end_all */

static void after_fork(bool ours)
{
    (void)ours;
    for (mp_pool *pool = pools; pool; pool = pool->next) {
        mp__fd_close(pool->wake);
        mp__fd_close_all(pool->news, 2);
        for (size_t i = 0; i < pool->count; i++)
            mp__fd_close_all(pool->workers[i].came.fds, pool->workers[i].came.count);
    }
    pools = NULL;
    mp__pid_own_thread(0);
}

static int remember_pool(mp_pool *pool)
{
    int r = 0;

    mp__hooks_after_fork(after_fork);
    if (at_exit_of != mp__hooks_pid())
        r = mp_atexit(end_all, NULL, EXIT_PRIORITY);
    if (r < 0)
        return r;
    mp__lock();
    at_exit_of = mp__hooks_pid();
    pool->next = pools;
    if (pools)
        pools->previous = pool;
    pools = pool;
    mp__unlock();
    return 0;
}

static int check(const mp_pool_options *options)
{
    if (!options)
        return mp__fail(MP_EINVAL, "no options: NULL");
    if (options->processes < 0 || options->processes > PROCESSES_MAX)
        return mp__fail(
            MP_EINVAL, "a pool has 1 to %d processes, not %d", PROCESSES_MAX, options->processes);
    if (options->maxtasksperchild < 0)
        return mp__fail(MP_EINVAL, "maxtasksperchild is 1 or more, or 0 for no limit, not %d",
            options->maxtasksperchild);
    if (options->initargs.type != MSGPACK_OBJECT_NIL &&
        options->initargs.type != MSGPACK_OBJECT_ARRAY)
        return mp__fail(MP_ETYPE, ".initargs must be a list: .initargs = MP_ARGS(...)");
    return 0;
}

/* The arguments of the initializer, kept for the workers to come. */
static int keep_initargs(mp_pool *pool, msgpack_object value)
{
    mp__message *own = mp__message_own(&pool->initargs);
    mp__parcel parcel = { .count = 0 };
    int r = own ? 0 : MP_ENOMEM;

    if (value.type == MSGPACK_OBJECT_NIL)
        value = mp_list();
    if (r == 0)
        r = mp__value_pack(value, &own->bytes, &parcel);
    if (r == 0)
        r = mp__buffer_reserve(&own->bytes, own->bytes.size + 1);
    if (r == 0)
        r = mp__parcel_own(&parcel);
    if (r < 0)
        return r;
    r = mp__message_take(&pool->initargs, &parcel);
    return r < 0 ? r : mp__value_decode(&pool->initargs);
}

static int keep_initializer(mp_pool *pool, const mp_pool_options *options)
{
    mp__function description;
    int r;

    if (!options->initializer)
        return 0;
    r = mp__function_describe((void (*)(void))options->initializer, &description);
    if (r == 0)
        r = mp__function_encode(&description, &pool->initializer);
    return r == 0 ? keep_initargs(pool, options->initargs) : r;
}

static mp_pool *allocate(size_t count)
{
    mp_pool *pool = calloc(1, sizeof(*pool));
    pthread_condattr_t monotonic;

    if (!pool)
        return NULL;
    pool->workers = calloc(count, sizeof(*pool->workers));
    pool->fds = calloc(2 * count + 2, sizeof(*pool->fds));
    if (!pool->workers || !pool->fds) {
        free(pool->workers);
        free(pool->fds);
        free(pool);
        return NULL;
    }
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&pool->changed, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    (void)pthread_mutex_init(&pool->lock, NULL);
    pool->wake = pool->news[0] = pool->news[1] = -1;
    pool->initargs = (mp_message)MP_MESSAGE_INIT;
    pool->refs = 1;
    pool->creator = mp__hooks_pid();
    pool->count = count;
    for (size_t i = 0; i < count; i++) {
        pool->workers[i].index = (int)i;
        pool->workers[i].fd = -1;
    }
    return pool;
}

static int open_pipe(int fds[2])
{
    int r = mp__socket_pipe(fds);

    for (int i = 0; i < 2 && r == 0; i++)
        if (fcntl(fds[i], F_SETFL, O_NONBLOCK) < 0)
            r = mp__fail_errno("pipe of a pool");
    return r;
}

static int open_wake(mp_pool *pool)
{
    int fds[2] = { -1, -1 };
    int r = open_pipe(fds);

    if (r == 0) {
        pool->wake = fds[0];
        pool->waker = mp_connection_new(&fds[1]);
        r = pool->waker ? 0 : mp_last_error()->code;
    }
    mp__fd_close(fds[1]);
    return r;
}

/* The context by name: its workers are "ForkPoolWorker-1" under the default one too. */
static int choose_context(mp_pool *pool, const mp_context *context)
{
    const char *method =
        context ? mp_context_get_start_method(context) : mp_get_start_method(false);

    pool->context = method ? mp_get_context(method) : NULL;
    return pool->context ? 0 : mp_last_error()->code;
}

static int begin(mp_pool *pool, const mp_pool_options *options)
{
    int r = choose_context(pool, options->context);

    pool->maxtasksperchild = options->maxtasksperchild;
    if (r == 0)
        r = keep_initializer(pool, options);
    mp__hooks_hold_forks(); /* until its descriptors are known as the pool's */
    if (r == 0)
        r = open_wake(pool);
    if (r == 0)
        r = remember_pool(pool);
    mp__hooks_let_forks();
    for (size_t i = 0; i < pool->count && r == 0; i++) {
        if (i % MP__EXPECT_MAX == 0 &&
            strcmp(mp_context_get_start_method(pool->context), "forkserver") == 0)
            mp__forkserver_expect(pool->count - i);
        r = mp__crew_start(pool, &pool->workers[i]);
    }
    if (r == 0 && strcmp(mp_context_get_start_method(pool->context), "fork") == 0)
        r = mp__nursery_new(mp__child_run, &pool->nursery);
    return r;
}

mp_pool *mp_pool_create(const mp_pool_options *options)
{
    mp_pool *pool;
    size_t count;

    if (check(options) < 0)
        return NULL;
    count = options->processes > 0 ? (size_t)options->processes : (size_t)mp_cpu_count();
    pool = allocate(count);
    if (!pool) {
        (void)mp__fail(MP_ENOMEM, "out of memory for a pool");
        return NULL;
    }
    if (begin(pool, options) < 0) {
        mp_error why = *mp_last_error();

        mp_pool_free(pool);
        (void)mp__fail(why.code, "%s", why.text);
        return NULL;
    }
    return pool;
}

int mp_pool_processes(const mp_pool *pool)
{
    return pool ? (int)pool->count : 0;
}

size_t mp_pool_pids(mp_pool *pool, pid_t *pids, size_t capacity)
{
    size_t n = 0;

    if (mp__pool_enter(pool) < 0)
        return 0;
    for (size_t i = 0; i < pool->count; i++) {
        if (pool->workers[i].state == MP__WORKER_VACANT)
            continue;
        if (n < capacity)
            pids[n] = mp_process_pid(pool->workers[i].process);
        n++;
    }
    mp__pool_leave(pool);
    return n;
}

int mp_pool_fileno(mp_pool *pool)
{
    int r = mp__pool_enter(pool);

    if (r < 0)
        return r;
    if (pool->news[0] < 0)
        r = open_pipe(pool->news);
    if (r == 0)
        r = mp__pool_ensure_thread(pool);
    r = r < 0 ? r : pool->news[0];
    mp__pool_leave(pool);
    return r;
}
