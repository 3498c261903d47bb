/* SPDX-License-Identifier: MIT
 *
 * pool_crew.c - the workers of a pool, seen from the pool: how they begin and end, and
 * what becomes of the items of one that died.
 */
#include "pool_internal.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "log_internal.h"
#include "popen_internal.h"
#include "process_internal.h"
#include "shm_internal.h"
#include "socket_internal.h"

#define FAILURES_FREE 3    /* in a row, before it is waited with the next start: */
#define RETRY_NS 10000000  /* this long, doubled each time */
#define SOUND_NS 100000000 /* whoever was ready for so long did not fail to begin */
#define REAP_SECONDS 5.0   /* for the exit code of a process that has ended */

/* ---- starting ---- */

/* "ForkPoolWorker-3", as Python names them. */
static int name_worker(mp_process *process)
{
    const char *old = mp_process_name(process), *at = strstr(old, "Process");
    char name[128];

    (void)snprintf(name, sizeof(name), "%.*sPoolWorker%s", at ? (int)(at - old) : 0, old,
        at ? at + strlen("Process") : "");
    return mp_process_set_name(process, name);
}

/* Takes process. */
static int appoint(mp__worker *w, mp_process *process)
{
    w->process = process;
    return process ? name_worker(process) : mp_last_error()->code;
}

static int describe(mp_pool *pool, mp__worker *w, mp_connection *channel, mp_connection *memory)
{
    const mp__buffer *initializer = &pool->initializer;

    return appoint(w, mp_process_new(.target = mp__pool_worker,
                          .args = MP_ARGS(channel, memory, pool->waker, w->index,
                              mp_bytes(initializer->data, initializer->size), pool->initargs.value),
                          .daemon = true, .context = pool->context));
}

static void use_memory(mp__worker *w, void *memory)
{
    w->shared = memory;
    atomic_store(&w->shared->wake_at, MP__NO_WAKE);
    atomic_store(&w->shared->begun, UINT64_MAX);
}

/* Memory for both; memory becomes a connection only to travel. */
static int share(mp__worker *w, mp_connection **memory)
{
    void *at = NULL;
    int fd, r;

    mp__hooks_hold_forks();
    fd = mp__shm_open(sizeof(*w->shared));
    r = fd < 0 ? fd : mp__shm_map(fd, sizeof(*w->shared), &at);
    if (r == 0) {
        use_memory(w, at);
        *memory = mp_connection_new(&fd);
        r = *memory ? 0 : mp_last_error()->code;
    }
    mp__fd_close(fd);
    mp__hooks_let_forks();
    return r;
}

/* Makes it as if it had never been, but for its place. */
void mp__crew_clear(mp__worker *w)
{
    mp_connection_free(w->channel);
    mp_process_free(w->process);
    mp__shm_unmap(w->shared, sizeof(*w->shared));
    mp__buffer_done(&w->out);
    mp__buffer_done(&w->big_own);
    mp__buffer_done(&w->body);
    mp__buffer_done(&w->value);
    mp__parcel_drop(&w->came);
    mp__crew_drop_fds(w);
    if (w->big_work)
        mp__work_drop(w->big_work);
    for (size_t i = 0; i < w->queue_count; i++)
        mp__work_drop(w->queue[w->queue_first + i].work);
    free(w->queue);
    *w = (mp__worker){ .index = w->index, .fd = -1 };
}

/* A nursery that was killed is done without. */
static int launch(mp_pool *pool, mp_process *process)
{
    int r = mp__process_start_from(process, pool->nursery);

    if (r != MP_EFORKSERVER || !pool->nursery)
        return r;
    mp__nursery_free(pool->nursery);
    pool->nursery = NULL;
    return mp_process_start(process);
}

/* Any method: a worker is told what it begins with. */
static int start_told(mp_pool *pool, mp__worker *w, mp_connection *theirs)
{
    mp_connection *memory = NULL;
    int r = share(w, &memory);

    if (r == 0)
        r = describe(pool, w, theirs, memory);
    mp_connection_free(theirs);
    mp_connection_free(memory);
    return r < 0 ? r : launch(pool, w->process);
}

/* A copy of this process has it all: nothing is sent, and nothing opened but what both need. */
static int start_copy(mp_pool *pool, mp__worker *w, int fd)
{
    mp__seed seed = { .fd = fd,
        .wake = mp__fd_duplicate(mp_connection_fileno(pool->waker)),
        .index = w->index,
        .initializer = { pool->initializer.data, pool->initializer.size },
        .initargs = pool->initargs.value };
    void *memory = NULL;
    mp__making making;
    int r = seed.wake < 0 ? seed.wake : mp__shm_inherit(sizeof(*w->shared), &memory);

    mp__hooks_begin_making(&making, &seed.wake, 1);
    if (r == 0) {
        use_memory(w, memory);
        seed.shared = w->shared;
        r = appoint(
            w, mp_process_new(.target = mp__pool_worker, .daemon = true, .context = pool->context));
    }
    mp__pool_seed = &seed;
    if (r == 0)
        r = mp_process_start(w->process);
    mp__pool_seed = NULL;
    mp__fd_close(seed.wake);
    mp__hooks_end_making(&making);
    return r;
}

/* Handles among the arguments of the initializer are not for several copies to share. */
static bool can_copy(const mp_pool *pool)
{
    return !pool->nursery && strcmp(mp_context_get_start_method(pool->context), "fork") == 0 &&
           !(pool->initargs.own && pool->initargs.own->parcel);
}

int mp__crew_start(mp_pool *pool, mp__worker *w)
{
    mp_connection *theirs = NULL;
    bool copy = can_copy(pool);
    int fds[2] = { -1, -1 };
    mp__making making;
    int r;

    mp__hooks_begin_making(&making, fds, 2);
    r = mp__socket_pair(fds);
    if (r == 0)
        r = mp__connection_adopt_socket(&fds[0], &w->channel);
    if (r == 0)
        r = copy ? start_copy(pool, w, fds[1]) : mp__connection_adopt_socket(&fds[1], &theirs);
    mp__fd_close_all(fds, 2);
    mp__hooks_end_making(&making);
    if (r == 0 && !copy)
        r = start_told(pool, w, theirs);
    if (r < 0) {
        mp__crew_clear(w);
        return r;
    }
    w->fd = mp_connection_fileno(w->channel);
    w->state = MP__WORKER_STARTING;
    w->since = mp__clock_now();
    return 0;
}

/* ---- the end of a worker ---- */

void mp__crew_kill(mp__worker *w, int code)
{
    if (!w->doomed)
        w->doomed = code;
    w->corrupt |= code != MP_ETIMELIMIT && code != MP_ECANCELLED;
    (void)mp_process_kill(w->process);
}

static const char *cause(int exitcode, char text[128])
{
    if (exitcode == MP_EXITCODE_NONE)
        return "has ended, nobody knows how";
    if (exitcode == MP_EXITCODE_LOST)
        return "is gone, and other code took its exit code (or SIGCHLD is ignored)";
    if (exitcode == -SIGKILL)
        return "was killed by signal 9 (what the system's OOM killer sends)";
    if (exitcode < 0)
        (void)snprintf(text, 128, "was killed by signal %d (%s)", -exitcode, strsignal(-exitcode));
    else
        (void)snprintf(text, 128, "exited with code %d", exitcode);
    return text;
}

/* When its first item began, if that was written down; else about when. */
static int64_t begun_at(const mp__worker *w)
{
    const mp__assignment *head = &w->queue[w->queue_first];

    if (!w->corrupt && head->work->timed && atomic_load(&w->shared->begun) == head->item)
        return atomic_load(&w->shared->begun_at);
    return w->since;
}

static void record(mp__worker *w, mp_task_error *error)
{
    double seconds = (double)(mp__clock_now() - begun_at(w)) / 1e9;
    int exitcode = mp_process_exitcode(w->process);
    char text[128];

    *error = (mp_task_error){ .code = MP_EWORKERLOST,
        .pid = mp_process_pid(w->process),
        .exitcode = exitcode,
        .seconds = seconds };
    (void)snprintf(error->worker, sizeof(error->worker), "%s", mp_process_name(w->process));
    if (w->doomed == MP_ETIMELIMIT) {
        error->code = MP_ETIMELIMIT;
        (void)snprintf(
            error->text, sizeof(error->text), "stopped after %.3f s, its time limit", seconds);
    } else if (w->doomed == MP_EEOF) {
        (void)snprintf(error->text, sizeof(error->text),
            "the worker closed its connection to the pool (all descriptors, or by exec) and was "
            "killed for that after %.3f s",
            seconds);
    } else if (w->doomed) {
        (void)snprintf(error->text, sizeof(error->text),
            "the worker was killed: what it says makes "
            "no sense (%s)",
            mp_strerror(w->doomed));
    } else {
        (void)snprintf(error->text, sizeof(error->text), "the worker %s after %.3f s",
            cause(exitcode, text), seconds);
    }
}

/* The item it had begun, if it was not answered: tried again, or failed. */
static void settle_lost(mp__worker *w)
{
    mp__assignment *head = mp__crew_head(w);
    mp_result *work = head->work;
    size_t place = head->first;
    mp_task_error error;

    record(w, &error);
    w->began = true;
    mp__work_hold(work);
    mp__crew_pop(w, 1);
    if (work->settled || error.code == MP_ETIMELIMIT || !mp__work_retry(work, place) ||
        mp__work_return(work, place, 1) < 0)
        mp__work_fail(work, place, &error);
    mp__work_drop(work);
}

/* One more in a row; from the fourth on the next one is started later and later. */
void mp__crew_count_failure(mp_pool *pool)
{
    unsigned doubled = pool->failures > FAILURES_FREE ? pool->failures - FAILURES_FREE : 0;

    if (pool->failures++ >= FAILURES_FREE)
        pool->retry_at = mp__clock_now() + ((int64_t)RETRY_NS << (doubled < 7 ? doubled : 7));
}

static void note_failure(mp_pool *pool, mp__worker *w)
{
    char text[128];

    if (w->began || w->state == MP__WORKER_LEAVING ||
        (w->state == MP__WORKER_READY && mp__clock_now() - w->since > SOUND_NS))
        return;
    mp__crew_count_failure(pool);
    if (*w->refusal)
        (void)snprintf(
            pool->reason, sizeof(pool->reason), "the initializer failed: %.400s", w->refusal);
    else
        (void)snprintf(pool->reason, sizeof(pool->reason), "worker %s (pid %ld) %s before it began",
            mp_process_name(w->process), (long)mp_process_pid(w->process),
            cause(mp_process_exitcode(w->process), text));
}

void mp__crew_bury(mp_pool *pool, mp__worker *w)
{
    uint64_t claimed = atomic_load(&w->shared->claim);

    w->dying = true;
    mp__crew_look(pool, w, true);
    (void)mp_process_join(w->process, REAP_SECONDS);
    if (w->in_flight && (w->corrupt || claimed > mp__crew_head(w)->item))
        settle_lost(w); /* what is corrupt is no proof that it had not begun */
    mp__crew_give_back(w, 0);
    note_failure(pool, w);
    mp_log(MP_LOG_DEBUG, "%s, pid %ld, ended: %d", mp_process_name(w->process),
        (long)mp_process_pid(w->process), mp_process_exitcode(w->process));
    mp__crew_clear(w);
}

/* ---- limits ---- */

/*
 * Kills it if what it runs is still this item: nothing else may begin meanwhile. One
 * that is dead already died of something else, even if nobody has looked so far.
 */
static void kill_for(mp_pool *pool, mp__worker *w, uint64_t item, int code)
{
    bool dead = mp__fd_wait(mp_process_sentinel(w->process), POLLIN, 0) > 0;

    mp__crew_take_back(w);
    mp__crew_look(pool, w, true);
    if (!dead && w->in_flight && mp__crew_head(w)->item == item && !w->doomed)
        mp__crew_kill(w, code);
}

int64_t mp__crew_check_limits(mp_pool *pool)
{
    int64_t now = 0, next = MP__NEVER;

    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];
        mp__assignment *head = mp__crew_head(w);
        int64_t end;

        if (!head || !head->work->time_limit || w->doomed)
            continue;
        now = mp__clock_now();
        end = now + head->work->time_limit;
        if (atomic_load(&w->shared->begun) == head->item &&
            atomic_load(&w->shared->claim) > head->item)
            end = atomic_load(&w->shared->begun_at) + head->work->time_limit;
        if (end <= now)
            kill_for(pool, w, head->item, MP_ETIMELIMIT);
        else if (end < next)
            next = end;
    }
    return next;
}

void mp__crew_cancel(mp_pool *pool, mp_result *work)
{
    for (size_t i = 0; i < pool->count; i++) {
        mp__worker *w = &pool->workers[i];
        mp__assignment *head = mp__crew_head(w);

        if (!head)
            continue;
        mp__crew_take_back(w); /* what was sent in part is sent to its end: others come behind */
        mp__crew_look(pool, w, false); /* what is answered is not what it runs */
        head = mp__crew_head(w);
        if (head && head->work == work)
            kill_for(pool, w, head->item, MP_ECANCELLED);
    }
}
