/* SPDX-License-Identifier: MIT
 *
 * pool_calls.c - apply and map, and the results of both.
 */
#include "pool_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"

#define DRAW_NS 100000000 /* between two looks at the progress */
#define BAR_WIDTH 30

/* ---- giving ---- */

static int check_common(const mp_task_options *options)
{
    if (!options->function)
        return mp__fail(MP_EINVAL, "a pool needs a function to call");
    if (options->retries < 0)
        return mp__fail(MP_EINVAL, "retries is 0 or more, not %d", options->retries);
    return 0;
}

/* With the lock held. The answer is wanted as a message. */
static mp_result *new_single(mp_pool *pool, const mp_task_options *options)
{
    mp_result *work = mp__pool_check_open(pool) < 0 ? NULL : mp__work_new(pool, options, 1);
    msgpack_object args = options->args;
    mp__parcel parcel;
    int r;

    if (!work)
        return NULL;
    parcel.count = 0;
    work->single = true;
    work->options.out = (mp_items){ .type = MP__SLOT_MESSAGE };
    if (args.type == MSGPACK_OBJECT_NIL)
        args = mp_list();
    r = args.type == MSGPACK_OBJECT_ARRAY
            ? mp__value_pack(args, &work->packed, &parcel)
            : mp__fail(MP_ETYPE, "the arguments of a task are a list: MP_ARGS(...)");
    if (r == 0)
        r = mp__work_keep_parcel(&work->parcel, &parcel);
    if (r < 0) {
        mp__work_drop(work);
        return NULL;
    }
    return work;
}

/* Enters it, hands out what can be handed out. */
static void submit(mp_pool *pool, mp_result *work)
{
    mp__work_enter(work);
    mp__crew_dispatch(pool);
}

mp_result *mp_pool_apply_async_create(mp_pool *pool, const mp_task_options *options)
{
    mp_result *work = NULL;

    if (check_common(options) < 0 || mp__pool_enter(pool) < 0)
        return NULL;
    if (mp__pool_ensure_thread(pool) == 0)
        work = new_single(pool, options);
    if (work)
        submit(pool, work);
    mp__pool_leave(pool);
    return work;
}

/* ---- waiting ---- */

/* In its callback a result is ready for whoever asks there; for others it is after that. */
static bool is_ready(void *argument)
{
    const mp_result *work = argument;

    return work->ready || (work->called && mp__is_here(work->pool->caller));
}

static int wait_for(mp_result *work, int64_t deadline)
{
    mp_pool *pool = work->pool;
    bool nested = pool->calling && mp__is_here(pool->caller);
    mp_result *outer = pool->wanted;
    int r;

    if (nested)
        pool->wanted = work;
    r = mp__pool_drive(pool, is_ready, work, deadline);
    if (nested)
        pool->wanted = outer;
    return r;
}

static void cancel(mp_pool *pool, mp_result *work, int code, const char *text)
{
    mp__work_abandon(work, code, text);
    mp__crew_cancel(pool, work);
    mp__crew_dispatch(pool);
}

/* The caller gave up: what is left is not to be run, and its memory not to be touched. */
static int leave_unfinished(mp_pool *pool, mp_result *work, int r)
{
    mp_error why = *mp_last_error();

    if (!work->ready)
        cancel(pool, work, r, why.text);
    return mp__fail(why.code, "%s", why.text);
}

/* How the whole ended, as last error. */
static int verdict(const mp_result *work)
{
    return work->failed ? mp__fail(work->error.code, "%s", work->error.text) : 0;
}

static void swap_messages(mp_message *a, mp_message *b)
{
    mp_message old = *a;

    *a = *b;
    *b = old;
}

static double seconds_for(const mp_task_options *options)
{
    return options->timeout != 0 ? options->timeout : MP_FOREVER; /* below: it is over */
}

/* A call that was not even begun: the record says so, too. */
static int refuse_call(const mp_task_options *options)
{
    const mp_error *why = mp_last_error();

    if (options->error) {
        *options->error = (mp_task_error){ .code = why->code };
        (void)strcpy(options->error->text, why->text);
        (void)snprintf(
            options->error->function, sizeof(options->error->function), "%s", options->name);
    }
    return why->code;
}

int mp_pool_apply_create(mp_pool *pool, const mp_task_options *options)
{
    int64_t deadline = mp__clock_deadline(seconds_for(options));
    mp_task_options own = *options;
    mp_result *work;
    int r = check_common(options);

    own.callback = own.error_callback = NULL;
    if (r == 0)
        r = mp__pool_enter(pool);
    if (r < 0)
        return refuse_call(options);
    work = new_single(pool, &own);
    if (work) {
        submit(pool, work);
        r = wait_for(work, deadline);
        r = r < 0 ? leave_unfinished(pool, work, r) : verdict(work);
        if (r == 0 && options->answer)
            swap_messages(options->answer, &work->value);
        if (options->error)
            *options->error = work->error;
        mp__work_drop(work);
    } else {
        r = refuse_call(options);
    }
    mp__pool_leave(pool);
    return r;
}

/* ---- maps ---- */

int mp__pool_check_items(const mp_items *in)
{
    if (!in->data && in->count)
        return mp__fail(MP_EINVAL, "%zu items at NULL", in->count);
    if (in->type == MP__SLOT_POINTER)
        return mp__fail(MP_ETYPE, "items that are pointers mean nothing in another process; make "
                                  "an array of what they point to");
    return 0;
}

static int check_map(const mp_task_options *options, bool spread)
{
    const mp_items *in = &options->in, *out = &options->out;

    if (in->generate || in->type == MP__SLOT_MESSAGE)
        return mp__fail(MP_EINVAL, "the input of a map is an array: MP_ITEMS(array, count); "
                                   "generators are for imap");
    if (mp__pool_check_items(in) < 0)
        return mp_last_error()->code;
    if (spread && in->type != MP__SLOT_OBJECT)
        return mp__fail(MP_EINVAL, "the input of starmap is an array of msgpack_object, each a "
                                   "list: mp_list(...)");
    if (out->generate || (out->data && !mp__is_raw(out->type) && out->type != MP__SLOT_MESSAGE))
        return mp__fail(MP_EINVAL, "the output of a map is an array of numbers, structs or "
                                   "mp_message");
    if (out->data && out->count != in->count)
        return mp__fail(
            MP_EINVAL, "a map has as many outputs (%zu) as inputs (%zu)", out->count, in->count);
    if (in->size > UINT32_MAX || out->size > UINT32_MAX)
        return mp__fail(MP_ETOOLONG, "an item of a map has at most 4294967295 bytes");
    return check_common(options);
}

static mp_result *new_map(mp_pool *pool, const mp_task_options *options, bool spread)
{
    mp_result *work =
        mp__pool_check_open(pool) < 0 ? NULL : mp__work_new(pool, options, options->in.count);

    if (!work)
        return NULL;
    work->spread = spread;
    if (!options->out.data)
        work->options.out = (mp_items){ .type = MP__SLOT_SKIP };
    for (size_t i = 0; options->status && i < options->in.count; i++)
        options->status[i] = MP_ERUNNING;
    return work;
}

mp_result *mp_pool_map_async_create(mp_pool *pool, const mp_task_options *options, bool spread)
{
    mp_result *work = NULL;

    if (check_map(options, spread) < 0 || mp__pool_enter(pool) < 0)
        return NULL;
    if (mp__pool_ensure_thread(pool) == 0)
        work = new_map(pool, options, spread);
    if (work)
        submit(pool, work);
    mp__pool_leave(pool);
    return work;
}

static void draw(const char *name, size_t done, size_t total, bool last)
{
    char bar[BAR_WIDTH + 1], line[256];
    size_t filled = total ? done * BAR_WIDTH / total : BAR_WIDTH;
    int n;

    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', filled);
    bar[BAR_WIDTH] = '\0';
    n = snprintf(
        line, sizeof(line), "\r%.100s [%s] %zu/%zu%s", name, bar, done, total, last ? "\n" : "");
    if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
        return; /* there is nobody to show it to */
}

/* What a map that waits shows of itself; without the lock, on the thread that waits. */
typedef struct {
    mp_result *work;
    size_t shown;
    int64_t next; /* when to look again; 0: never */
} show;

static bool ready_or_due(void *argument)
{
    const show *s = argument;

    return s->work->ready ||
           (s->next && s->work->answered != s->shown && mp__clock_now() >= s->next);
}

static void show_progress(show *s)
{
    const mp_task_options *options = &s->work->options;
    mp_pool *pool = s->work->pool;
    size_t done = s->work->answered, total = s->work->total;
    bool last = s->work->ready;

    if (!s->next)
        return;
    s->shown = done;
    s->next = mp__clock_now() + DRAW_NS;
    (void)pthread_mutex_unlock(&pool->lock);
    if (options->progress)
        draw(options->name, done, total, last);
    if (options->on_progress)
        options->on_progress(done, total, options->user);
    (void)pthread_mutex_lock(&pool->lock);
}

static int wait_for_map(mp_result *work, int64_t deadline)
{
    show s = { .work = work, .next = work->options.progress || work->options.on_progress };
    bool last;
    int r;

    do {
        r = mp__pool_drive(work->pool, ready_or_due, &s, deadline);
        last = work->ready; /* it may become so while it is shown */
        show_progress(&s);
    } while (r == 0 && !last);
    return r;
}

int mp_pool_map_create(mp_pool *pool, const mp_task_options *options, bool spread)
{
    int64_t deadline = mp__clock_deadline(seconds_for(options));
    mp_task_options own = *options;
    mp_result *work;
    int r = check_map(options, spread);

    own.callback = own.error_callback = NULL;
    if (r == 0)
        r = mp__pool_enter(pool);
    if (r < 0)
        return refuse_call(options);
    work = new_map(pool, &own, spread);
    if (work) {
        submit(pool, work);
        r = wait_for_map(work, deadline);
        r = r < 0 ? leave_unfinished(pool, work, r) : verdict(work);
        if (options->error)
            *options->error = work->error;
        mp__work_drop(work);
    } else {
        r = refuse_call(options);
    }
    mp__pool_leave(pool);
    return r;
}

/* ---- results ---- */

static int enter(mp_result *result)
{
    return result ? mp__pool_enter(result->pool) : mp__fail(MP_EINVAL, "no result: NULL");
}

/* A copy of the answer: get may be called again. */
static int copy_answer(mp_result *work, mp_message *message)
{
    mp__buffer bytes = { 0 };
    mp__parcel parcel;
    mp__message *own = mp__message_own(message);
    int r = own ? 0 : MP_ENOMEM;

    parcel.count = 0;
    if (r == 0)
        r = mp__value_pack(work->value.value, &bytes, &parcel);
    if (r == 0)
        r = mp__buffer_reserve(&bytes, bytes.size + 1);
    if (r == 0)
        r = mp__parcel_own(&parcel);
    if (r == 0) {
        mp__message_reset(message);
        mp__buffer_done(&own->bytes);
        own->bytes = bytes;
        bytes = (mp__buffer){ 0 };
        r = mp__message_take(message, &parcel);
        if (r == 0)
            r = mp__value_decode(message);
    }
    mp__buffer_done(&bytes);
    return r;
}

int mp_result_get(mp_result *result, mp_message *message, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    int r = enter(result);

    if (r < 0)
        return r;
    if (message && !result->single)
        r = mp__fail(MP_EINVAL, "the answers of a map are in its output; get takes NULL");
    if (r == 0)
        r = wait_for(result, deadline);
    if (r == 0)
        r = verdict(result);
    if (r == 0 && message)
        r = copy_answer(result, message);
    mp__pool_leave(result->pool);
    return r;
}

int mp_result_wait(mp_result *result, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    int r = enter(result);

    if (r < 0)
        return r;
    r = wait_for(result, deadline);
    mp__pool_leave(result->pool);
    return r;
}

bool mp_result_ready(mp_result *result)
{
    mp_error before = *mp_last_error();
    bool ready;

    if (enter(result) < 0)
        return false;
    if (wait_for(result, 0) < 0)
        (void)mp__fail(before.code, "%s", before.text); /* to look is no failure */
    ready = is_ready(result);
    mp__pool_leave(result->pool);
    return ready;
}

int mp_result_successful(mp_result *result)
{
    int r = enter(result);

    if (r < 0)
        return r;
    r = is_ready(result) ? !result->failed
                         : mp__fail(MP_ERUNNING, "the result is not ready: wait for it first");
    mp__pool_leave(result->pool);
    return r;
}

const mp_task_error *mp_result_error(mp_result *result)
{
    return result ? &result->error : NULL;
}

int mp_result_cancel(mp_result *result)
{
    int r = enter(result);

    if (r < 0)
        return r;
    if (result->settled)
        r = mp__fail(MP_EALREADY, "the result was ready before it could be cancelled");
    else
        cancel(result->pool, result, MP_ECANCELLED, "it was cancelled");
    mp__pool_leave(result->pool);
    return r;
}

void mp_result_free(mp_result *result)
{
    mp_pool *pool = result ? result->pool : NULL;

    if (!result || mp__pool_enter(pool) < 0)
        return;
    mp__work_drop(result);
    mp__pool_leave(pool);
}

typedef struct {
    mp_result *const *results;
    size_t count, found;
} any;

static bool any_ready(void *argument)
{
    any *a = argument;

    for (size_t i = 0; i < a->count; i++) {
        if (a->results[i] && is_ready(a->results[i])) {
            a->found = i;
            return true;
        }
    }
    return false;
}

static int check_any(const mp_pool *pool, mp_result *const *results, size_t count)
{
    size_t some = 0;

    for (size_t i = 0; i < count && results; i++) {
        if (results[i] && results[i]->pool != pool)
            return mp__fail(MP_EINVAL, "result %zu is of another pool", i);
        some += results[i] != NULL;
    }
    return some && count <= INT32_MAX
               ? 0
               : mp__fail(MP_EINVAL, "mp_pool_wait_any needs results to wait for");
}

int mp_pool_wait_any(mp_pool *pool, mp_result *const *results, size_t count, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    any a = { results, count, 0 };
    char bytes[256];
    int r = mp__pool_enter(pool);

    if (r < 0)
        return r;
    while (pool->news[0] >= 0 && read(pool->news[0], bytes, sizeof(bytes)) > 0)
        continue;
    r = check_any(pool, results, count);
    if (r == 0)
        r = mp__pool_drive(pool, any_ready, &a, deadline);
    mp__pool_leave(pool);
    return r < 0 ? r : (int)a.found;
}
