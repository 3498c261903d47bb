/* SPDX-License-Identifier: MIT
 *
 * pool_imap.c - imap: answers one by one, from input that is read lazily. A window
 * of items is in work or waits to be fetched; input is read by whoever fetches.
 */
#include "pool_internal.h"

#include <stdlib.h>
#include <string.h>

#include "clock_internal.h"
#include "error_internal.h"

#define WINDOW_FOR_EACH 16

struct mp_imap {
    mp_result *work;
    bool ordered, exhausted;
    bool reading; /* a thread reads input, without the lock: */
    pthread_t reader;
    unsigned fetchers; /* threads in mp_imap_next */
    bool told;         /* that the whole was given up */
    int input_error;   /* what the generator returned, to be told once */
    char input_text[480];
    size_t read, fetched; /* items so far */
    size_t *free_places;  /* a stack of places, if it is not ordered */
    size_t free_count;
    size_t index;        /* of the last answer */
    mp_task_error error; /* and its record */
};

/* ---- input ---- */

/* Where a generator's mp_return goes. */
typedef struct {
    mp_call call; /* first */
    mp__imap_item *item;
    bool spread;
} intake;

static int take_item(mp_call *call, msgpack_object value)
{
    intake *in = (intake *)call;
    mp__parcel parcel;
    int r;

    if (in->spread && value.type != MSGPACK_OBJECT_ARRAY)
        return mp__fail(MP_ETYPE, "an item with .spread is a list of arguments: mp_list(...)");
    in->item->packed.size = 0;
    parcel.count = 0;
    r = mp__value_pack(in->spread ? value : mp__list(1, &value), &in->item->packed, &parcel);
    return r == 0 ? mp__work_keep_parcel(&in->item->parcel, &parcel) : r;
}

/* The next item into its place. 0, MP_EEOF, or why there is none. Without the lock. */
static int read_item(mp_imap *imap, mp__imap_item *item)
{
    const mp_items *in = &imap->work->options.in;
    intake to = { .call = { .answer = take_item }, .item = item, .spread = imap->work->spread };
    int r;

    if (in->generate) {
        mp_clear_error();
        r = in->generate(in->data, &to.call);
        if (r == 0 && !to.call.answered)
            r = mp_last_error()->code
                    ? mp_last_error()->code
                    : mp__fail(MP_EINVAL, "a generator returned 0 without an item");
    } else {
        r = imap->read == in->count ? MP_EEOF
                                    : take_item(&to.call, mp__work_element(in, imap->read));
    }
    if (r != 0)
        mp__work_free_parcel(&item->parcel); /* it changed its mind */
    return r;
}

static void end_input(mp_imap *imap, int r)
{
    const mp_error *last = mp_last_error();

    imap->exhausted = true;
    mp__work_end(imap->work, imap->read);
    if (r == MP_EEOF)
        return;
    imap->input_error = r < 0 ? r : MP_ERAISED;
    (void)strcpy(imap->input_text, last->code ? last->text : "the generator of the items failed");
}

static size_t place_for(mp_imap *imap)
{
    return imap->ordered ? imap->read % imap->work->window : imap->free_places[--imap->free_count];
}

static void put_back(mp_imap *imap, size_t place)
{
    if (!imap->ordered)
        imap->free_places[imap->free_count++] = place;
}

/*
 * Reads as much as the window takes, and hands it out. The lock is given up to read;
 * meanwhile other threads leave the input alone.
 */
static void refill(mp_imap *imap)
{
    mp_result *work = imap->work;
    mp_pool *pool = work->pool;

    if (imap->reading)
        return;
    imap->reading = true;
    imap->reader = pthread_self();
    while (!imap->exhausted && !work->settled && imap->read - imap->fetched < work->window) {
        size_t place = place_for(imap);
        mp__imap_item *item = &work->items[place];
        int r;

        (void)pthread_mutex_unlock(&pool->lock);
        r = read_item(imap, item);
        (void)pthread_mutex_lock(&pool->lock);
        if (r == 0) {
            item->index = imap->read++;
            item->answered = false;
            item->error.code = 0;
            r = mp__work_append(work, place, 1);
            if (r < 0)
                mp__work_lose(work, place, 1);
            continue;
        }
        put_back(imap, place);
        end_input(imap, r);
    }
    imap->reading = false;
    mp__crew_dispatch(pool);
    if (imap->fetchers > 1)
        mp__pool_announce(pool);
}

/* ---- output ---- */

/* The place of the next answer that is there. */
static bool next_place(const mp_imap *imap, size_t *place)
{
    const mp_result *work = imap->work;

    if (imap->fetched == imap->read)
        return false;
    if (!imap->ordered) {
        *place = work->order_count ? work->order[work->order_first] : 0;
        return work->order_count > 0;
    }
    *place = imap->fetched % work->window;
    return work->items[*place].answered;
}

static bool is_over(const mp_imap *imap)
{
    return imap->work->settled || (imap->exhausted && imap->fetched == imap->read);
}

/* An answer, the end, or that there is nothing to wait for before more is read. */
static bool has_news(void *argument)
{
    const mp_imap *imap = argument;
    size_t place;

    return is_over(imap) || (imap->fetched == imap->read && !imap->reading) ||
           next_place(imap, &place);
}

/* Gives an answer away and frees its place. */
static int fetch(mp_imap *imap, size_t place, mp_message *message)
{
    mp_result *work = imap->work;
    mp__imap_item *item = &work->items[place];
    mp_message old = *message;

    imap->index = item->index;
    imap->error = item->error;
    if (!item->error.code) {
        *message = item->value;
        item->value = old;
    }
    mp__message_reset(&item->value);
    mp__buffer_reset(&item->packed, 64 * 1024);
    mp__work_free_parcel(&item->parcel);
    item->answered = false;
    imap->fetched++;
    if (!imap->ordered) {
        work->order_first = (work->order_first + 1) % work->window;
        work->order_count--;
    }
    put_back(imap, place);
    return imap->error.code ? mp__fail(imap->error.code, "%s", imap->error.text) : 0;
}

/* All that was read is fetched, or the whole was given up: why is told once. */
static int at_the_end(mp_imap *imap)
{
    const mp_result *work = imap->work;
    int r = imap->input_error;

    imap->input_error = 0;
    imap->error.code = 0;
    imap->index = imap->read;
    if (work->settled && work->error.code && !imap->told) {
        imap->told = true;
        return mp__fail(work->error.code, "%s", work->error.text);
    }
    return r ? mp__fail(r, "%s", imap->input_text)
             : mp__fail(MP_EEOF, "all items were answered and fetched");
}

static int next(mp_imap *imap, mp_message *message, int64_t deadline)
{
    size_t place = 0;
    bool found;
    int r;

    do {
        refill(imap);
        r = mp__pool_drive(imap->work->pool, has_news, imap, deadline);
        found = r == 0 && next_place(imap, &place);
    } while (r == 0 && !found && !is_over(imap));
    if (found)
        return fetch(imap, place, message);
    return r == 0 ? at_the_end(imap) : r;
}

int mp_imap_next(mp_imap *imap, mp_message *message, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    int r;

    if (!imap || !message)
        return mp__fail(MP_EINVAL, "mp_imap_next needs an imap and a message");
    r = mp__pool_enter(imap->work->pool);
    if (r < 0)
        return r;
    imap->fetchers++;
    if (imap->reading && mp__is_here(imap->reader))
        r = mp__fail(MP_EDEADLOCK, "a generator cannot fetch from the imap it feeds");
    else
        r = next(imap, message, deadline);
    imap->fetchers--;
    mp__pool_leave(imap->work->pool);
    return r;
}

size_t mp_imap_index(const mp_imap *imap)
{
    return imap ? imap->index : 0;
}

const mp_task_error *mp_imap_error(const mp_imap *imap)
{
    return imap ? &imap->error : NULL;
}

/* ---- life ---- */

static int check(const mp_task_options *options)
{
    const mp_items *in = &options->in;

    if (!options->function)
        return mp__fail(MP_EINVAL, "a pool needs a function to call");
    if (options->retries < 0)
        return mp__fail(MP_EINVAL, "retries is 0 or more, not %d", options->retries);
    if (options->out.data || in->type == MP__SLOT_MESSAGE)
        return mp__fail(MP_EINVAL, "imap takes an array or a generator, and its answers come from "
                                   "mp_imap_next");
    return in->generate ? 0 : mp__pool_check_items(in);
}

static int allocate(mp_imap *imap, mp_result *work, size_t window)
{
    work->window = window;
    work->items = calloc(window, sizeof(*work->items));
    if (!imap->ordered) {
        work->order = calloc(window, sizeof(*work->order));
        imap->free_places = calloc(window, sizeof(*imap->free_places));
    }
    if (!work->items || (!imap->ordered && (!work->order || !imap->free_places)))
        return mp__fail(MP_ENOMEM, "out of memory for an imap");
    for (size_t i = 0; !imap->ordered && i < window; i++)
        imap->free_places[imap->free_count++] = window - 1 - i;
    return 0;
}

/* With the lock held. */
static int begin(mp_imap *imap, mp_pool *pool, const mp_task_options *options)
{
    size_t window = options->window ? options->window : WINDOW_FOR_EACH * pool->count;
    mp_result *work;
    int r = mp__pool_check_open(pool);

    if (r < 0)
        return r;
    work = mp__work_new(pool, options, 0);
    if (!work)
        return mp_last_error()->code;
    imap->work = work;
    work->total = SIZE_MAX; /* nobody knows */
    work->spread = options->spread;
    work->options.callback = work->options.error_callback = NULL;
    work->options.status = NULL;
    work->options.out = (mp_items){ .type = MP__SLOT_MESSAGE };
    r = allocate(imap, work, window);
    if (r == 0)
        mp__work_enter(work);
    return r;
}

mp_imap *mp_pool_imap_create(mp_pool *pool, const mp_task_options *options, bool ordered)
{
    mp_imap *imap;

    if (check(options) < 0 || mp__pool_enter(pool) < 0)
        return NULL;
    imap = calloc(1, sizeof(*imap));
    if (imap) {
        imap->ordered = ordered;
        if (begin(imap, pool, options) == 0) {
            refill(imap);
        } else {
            if (imap->work)
                mp__work_drop(imap->work);
            free(imap->free_places);
            free(imap);
            imap = NULL;
        }
    } else {
        (void)mp__fail(MP_ENOMEM, "out of memory for an imap");
    }
    mp__pool_leave(pool);
    return imap;
}

void mp_imap_free(mp_imap *imap)
{
    mp_pool *pool = imap ? imap->work->pool : NULL;

    if (!imap || mp__pool_enter(pool) < 0)
        return;
    if (!imap->work->settled) {
        mp__work_abandon(imap->work, MP_ECANCELLED, "the imap was freed");
        mp__crew_cancel(pool, imap->work);
        mp__crew_dispatch(pool);
    }
    mp__work_drop(imap->work);
    mp__pool_leave(pool);
    free(imap->free_places);
    free(imap);
}
