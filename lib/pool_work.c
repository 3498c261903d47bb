/* SPDX-License-Identifier: MIT
 *
 * pool_work.c - work given to a pool: its items on their way out, its answers on
 * their way in. Each item is answered once: here it is counted. Who runs an item
 * is pool_crew.c's business.
 */
#include "pool_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "hooks_internal.h"
#include "fd_internal.h"

/* ---- life ---- */

static int64_t nanoseconds(double seconds)
{
    return seconds > 0 && seconds < 1e9 ? (int64_t)(seconds * 1e9) : 0;
}

static mp_result *no_memory(void)
{
    (void)mp__fail(MP_ENOMEM, "out of memory for a task");
    return NULL;
}

mp_result *mp__work_new(mp_pool *pool, const mp_task_options *options, size_t total)
{
    mp_result *work = calloc(1, sizeof(*work));
    uint32_t number;

    if (!work)
        return no_memory();
    if (!(options->soft_time_limit >= 0 && options->time_limit >= 0)) {
        (void)mp__fail(MP_EINVAL, "a time limit is above 0 seconds, or 0 for none");
        free(work);
        return NULL;
    }
    if (mp__pool_function(pool, options->function, &number) < 0) {
        free(work);
        return NULL;
    }
    work->refs = 1;
    work->pool = pool;
    work->options = *options;
    work->function = number;
    work->soft_limit = nanoseconds(options->soft_time_limit);
    work->time_limit = nanoseconds(options->time_limit);
    work->timed = work->soft_limit || work->time_limit;
    work->value = (mp_message)MP_MESSAGE_INIT;
    work->total = total;
    if (total && mp__work_append(work, 0, total) < 0) {
        free(work);
        return NULL;
    }
    pool->refs++;
    return work;
}

void mp__work_hold(mp_result *work)
{
    work->refs++;
}

/* Descriptors that lie here until they are handed out. Changed only while forks are held. */
typedef struct kept kept;
struct kept {
    mp__parcel parcel; /* first */
    kept *previous, *next;
};

static kept *all_kept;

/* Whoever copies this process gets none of them. */
static void after_fork(bool ours)
{
    (void)ours;
    for (kept *k = all_kept; k; k = k->next)
        for (size_t i = 0; i < k->parcel.count; i++)
            mp__fd_close(k->parcel.fds[i]);
    all_kept = NULL;
}

static void enlist(kept *k)
{
    k->next = all_kept;
    if (all_kept)
        all_kept->previous = k;
    all_kept = k;
}

static void delist(kept *k)
{
    if (k->previous)
        k->previous->next = k->next;
    else
        all_kept = k->next;
    if (k->next)
        k->next->previous = k->previous;
}

int mp__work_keep_parcel(mp__parcel **parcel, const mp__parcel *lent)
{
    kept *k;
    int r;

    if (!lent->count)
        return 0;
    mp__hooks_after_fork(after_fork);
    k = calloc(1, sizeof(*k));
    if (!k)
        return mp__fail(MP_ENOMEM, "out of memory for a task");
    k->parcel = *lent;
    mp__hooks_hold_forks();
    r = mp__parcel_own(&k->parcel);
    if (r == 0)
        enlist(k);
    mp__hooks_let_forks();
    if (r == 0)
        *parcel = &k->parcel;
    else
        free(k);
    return r;
}

void mp__work_free_parcel(mp__parcel **parcel)
{
    kept *k = (kept *)*parcel;

    if (!k)
        return;
    *parcel = NULL;
    mp__hooks_hold_forks();
    delist(k);
    mp__parcel_close(&k->parcel);
    mp__hooks_let_forks();
    free(k);
}

void mp__work_drop(mp_result *work)
{
    if (--work->refs)
        return;
    for (size_t i = 0; work->items && i < work->window; i++) {
        mp__buffer_done(&work->items[i].packed);
        mp__work_free_parcel(&work->items[i].parcel);
        mp_message_clear(&work->items[i].value);
    }
    mp__work_free_parcel(&work->parcel);
    mp__buffer_done(&work->packed);
    mp_message_clear(&work->value);
    free(work->items);
    free(work->order);
    free(work->spans);
    free(work->attempts);
    work->pool->refs--;
    free(work);
}

/* ---- the lists of the pool ---- */

static void put_last(mp_result **first, mp_result **last, mp_result *work)
{
    work->previous = *last;
    work->next = NULL;
    if (*last)
        (*last)->next = work;
    else
        *first = work;
    *last = work;
}

static void take_out(mp_result **first, mp_result **last, mp_result *work)
{
    if (work->previous)
        work->previous->next = work->next;
    else
        *first = work->next;
    if (work->next)
        work->next->previous = work->previous;
    else
        *last = work->previous;
    work->previous = work->next = NULL;
}

void mp__work_ready(mp_result *work)
{
    mp_pool *pool = work->pool;

    work->ready = true;
    if (pool->news[1] >= 0 && write(pool->news[1], "", 1) < 0)
        errno = 0; /* full: there is news already */
    mp__pool_announce(pool);
    mp__work_drop(work);
}

/* All is answered: it is ready, after its callback if it has one. */
static void finish(mp_result *work)
{
    mp_pool *pool = work->pool;

    work->settled = true;
    mp__work_free_parcel(&work->parcel); /* nobody needs it any more */
    if (work->failed ? work->options.error_callback : work->options.callback) {
        put_last(&pool->done, &pool->done_last, work);
        mp__pool_announce(pool);
    } else {
        mp__work_ready(work);
    }
}

mp_result *mp__work_next_done(mp_pool *pool, bool wanted_only)
{
    mp_result *work = wanted_only ? pool->wanted : pool->done;

    if (work && (!work->settled || work->called || work->ready))
        return NULL; /* it is not in the queue */
    if (work)
        take_out(&pool->done, &pool->done_last, work);
    return work;
}

void mp__work_enter(mp_result *work)
{
    mp__work_hold(work);
    if (work->total)
        put_last(&work->pool->work, &work->pool->work_last, work);
    else
        finish(work);
}

static void leave(mp_result *work)
{
    take_out(&work->pool->work, &work->pool->work_last, work);
    work->waiting = work->span_count = 0;
    finish(work);
}

/* ---- items on their way out ---- */

/* Room for one span before or behind the others. */
static int make_room(mp_result *work, bool before)
{
    size_t capacity = work->span_capacity ? work->span_capacity : 4;
    size_t used = work->span_first + work->span_count, at = before ? 1 : 0;
    mp__span *spans = work->spans;

    if (before ? work->span_first > 0 : used < work->span_capacity)
        return 0;
    if (work->span_count + 1 > work->span_capacity / 2) {
        capacity = 2 * capacity;
        spans = realloc(work->spans, capacity * sizeof(*spans));
        if (!spans)
            return mp__fail(MP_ENOMEM, "out of memory for the items of a task");
        work->spans = spans;
        work->span_capacity = capacity;
    }
    memmove(spans + at, spans + work->span_first, work->span_count * sizeof(*spans));
    work->span_first = at;
    return 0;
}

int mp__work_return(mp_result *work, size_t first, size_t count)
{
    mp__span *head = work->spans + work->span_first;

    if (work->span_count && first + count == head->first) {
        head->first = first;
        head->count += count;
    } else {
        if (make_room(work, true) < 0)
            return MP_ENOMEM;
        work->spans[--work->span_first] = (mp__span){ first, count };
        work->span_count++;
    }
    work->waiting += count;
    return 0;
}

int mp__work_append(mp_result *work, size_t first, size_t count)
{
    if (make_room(work, false) < 0)
        return MP_ENOMEM;
    work->spans[work->span_first + work->span_count++] = (mp__span){ first, count };
    work->waiting += count;
    return 0;
}

size_t mp__work_take(mp_result *work, size_t max, size_t *first)
{
    mp__span *head = work->spans + work->span_first;
    size_t count;

    if (!work->span_count)
        return 0;
    count = head->count < max ? head->count : max;
    *first = head->first;
    head->first += count;
    head->count -= count;
    work->waiting -= count;
    if (!head->count) {
        work->span_count--;
        work->span_first = work->span_count ? work->span_first + 1 : 0;
    }
    return count;
}

msgpack_object mp__work_element(const mp_items *in, size_t index)
{
    const char *at = (const char *)in->data + index * in->size;
    msgpack_object value;

    switch (in->type) {
    case MP__SLOT_TEXT:
        return mp__from_text(*(const char *const *)at);
    case MP__SLOT_HANDLE:
        return mp__from_handle(*(const void *const *)at);
    case MP__SLOT_OBJECT:
        return *(const msgpack_object *)at;
    default:
        mp__load(in->type, in->size, at, &value);
        return value;
    }
}

static int pack_element(mp_result *work, size_t index, mp__buffer *scratch, mp__parcel *parcel)
{
    msgpack_object value = mp__work_element(&work->options.in, index);

    if (work->spread && value.type != MSGPACK_OBJECT_ARRAY)
        return mp__fail(MP_ETYPE, "an item of starmap is a list of arguments: mp_list(...)");
    scratch->size = 0;
    return mp__value_pack(work->spread ? value : mp__list(1, &value), scratch, parcel);
}

int mp__work_pack(mp_result *work, size_t first, mp__buffer *scratch, mp__parcel *parcel,
    const void **data, size_t *size)
{
    mp__buffer *packed = &work->packed;
    mp__parcel *held = work->parcel;
    int r;

    parcel->count = 0;
    if (work->items) {
        packed = &work->items[first].packed;
        held = work->items[first].parcel;
    } else if (!work->single) {
        r = pack_element(work, first, scratch, parcel);
        packed = scratch;
        if (r < 0)
            return r;
    }
    if (held)
        *parcel = *held;
    *data = packed->data;
    *size = packed->size;
    return 0;
}

/* ---- answers on their way in ---- */

static size_t index_of(const mp_result *work, size_t place)
{
    return work->items ? work->items[place].index : place;
}

/* One item more is answered. */
static void count_answer(mp_result *work, size_t place)
{
    work->answered++;
    if (work->items) {
        work->items[place].answered = true;
        if (work->order)
            work->order[(work->order_first + work->order_count++) % work->window] = place;
        mp__pool_announce(work->pool);
    }
    if (work->answered == work->total)
        leave(work);
}

void mp__work_end(mp_result *work, size_t total)
{
    work->total = total;
    if (!work->settled && work->answered == total)
        leave(work);
}

static mp_message *message_for(mp_result *work, size_t place)
{
    if (work->items)
        return &work->items[place].value;
    if (work->single)
        return &work->value;
    return work->options.out.type == MP__SLOT_MESSAGE ? (mp_message *)work->options.out.data + place
                                                      : NULL;
}

/* The memory of bytes goes over to the message, which gives its own in exchange. */
static int take_value(mp_message *message, mp__buffer *bytes, mp__parcel *parcel)
{
    mp__message *own = mp__message_own(message);
    mp__buffer old;
    int r;

    if (!own)
        return MP_ENOMEM;
    mp__message_reset(message);
    r = mp__buffer_reserve(bytes, bytes->size + 1);
    if (r < 0)
        return r;
    old = own->bytes;
    own->bytes = *bytes;
    *bytes = old;
    bytes->size = 0;
    r = mp__message_take(message, parcel);
    return r < 0 ? r : mp__value_decode(message);
}

static bool take_raw(mp_result *work, size_t place, const void *data, size_t size, size_t count)
{
    const mp_items *out = &work->options.out;

    if (!mp__is_raw(out->type) || size != out->size)
        return false;
    memcpy((char *)out->data + place * size, data, count * size);
    return true;
}

bool mp__work_answer_run(mp_result *work, size_t first, const void *data, size_t size, size_t count)
{
    if (work->settled)
        return true;
    if (!take_raw(work, first, data, size, count))
        return false;
    for (size_t i = 0; work->options.status && i < count; i++)
        work->options.status[first + i] = 0;
    work->answered += count;
    if (work->answered == work->total)
        leave(work);
    return true;
}

static bool take_none(mp_result *work, size_t place)
{
    mp_message *message = message_for(work, place);

    if (message)
        mp__message_reset(message);
    return message || !mp__is_raw(work->options.out.type);
}

bool mp__work_answer(
    mp_result *work, size_t place, enum mp__wire_kind kind, mp__buffer *bytes, mp__parcel *parcel)
{
    mp_message *message = message_for(work, place);
    bool good = false;

    if (work->settled) { /* it was abandoned */
        mp__parcel_close(parcel);
        return true;
    }
    if (kind == MP__WIRE_RAW)
        good = take_raw(work, place, bytes->data, bytes->size, 1);
    else if (kind == MP__WIRE_NONE)
        good = take_none(work, place);
    else if (kind == MP__WIRE_VALUE && message)
        good = take_value(message, bytes, parcel) == 0;
    if (good && work->options.status)
        work->options.status[place] = 0;
    if (good)
        count_answer(work, place);
    return good;
}

/* The record as a sentence. */
static void complete(const mp_result *work, mp_task_error *error)
{
    char text[sizeof(error->text)], where[160] = "", which[48] = "";

    memcpy(text, error->text, sizeof(text));
    (void)snprintf(error->function, sizeof(error->function), "%s", work->options.name);
    if (!work->single)
        (void)snprintf(which, sizeof(which), ", item %zu", error->index);
    if (*error->worker)
        (void)snprintf(where, sizeof(where), " in %s (pid %ld)", error->worker, error->pid);
    (void)snprintf(
        error->text, sizeof(error->text), "%s%s%s: %.300s", error->function, which, where, text);
}

void mp__work_fail(mp_result *work, size_t place, mp_task_error *error)
{
    if (work->settled)
        return;
    error->index = index_of(work, place);
    complete(work, error);
    if (work->items)
        work->items[place].error = *error;
    else if (!work->failed || error->index < work->error.index)
        work->error = *error;
    work->failed = true;
    if (work->options.status)
        work->options.status[place] = error->code;
    count_answer(work, place);
}

bool mp__work_retry(mp_result *work, size_t place)
{
    mp__attempt *more, *found = NULL;
    size_t index = index_of(work, place);

    if (work->options.retries <= 0)
        return false;
    for (size_t i = 0; i < work->attempt_count && !found; i++)
        if (work->attempts[i].index == index)
            found = &work->attempts[i];
    if (!found) {
        more = realloc(work->attempts, (work->attempt_count + 1) * sizeof(*more));
        if (!more)
            return false;
        work->attempts = more;
        found = &more[work->attempt_count++];
        *found = (mp__attempt){ index, 0 };
    }
    return found->count++ < work->options.retries;
}

void mp__work_lose(mp_result *work, size_t first, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        mp_task_error error = { .code = MP_ENOMEM };

        (void)snprintf(error.text, sizeof(error.text), "out of memory to run it elsewhere");
        mp__work_fail(work, first + i, &error);
    }
}

void mp__work_abandon(mp_result *work, int code, const char *text)
{
    if (work->settled)
        return;
    for (size_t i = 0; work->options.status && i < work->options.in.count; i++)
        if (work->options.status[i] == MP_ERUNNING)
            work->options.status[i] = code;
    work->error = (mp_task_error){ .code = code };
    (void)snprintf(work->error.text, sizeof(work->error.text), "%s", text);
    (void)snprintf(work->error.function, sizeof(work->error.function), "%s", work->options.name);
    work->failed = true;
    leave(work);
}
