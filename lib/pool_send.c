/* SPDX-License-Identifier: MIT
 *
 * pool_send.c - frames on their way to a worker, and the list of the items it has.
 */
#include "pool_internal.h"

#include <stdlib.h>
#include <string.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"

#define COPY_MAX ((size_t)64 * 1024) /* longer bodies are sent from where they are */

/* ---- sending ---- */

bool mp__crew_is_sent(const mp__worker *w)
{
    return w->out.size == w->out_done && !w->big;
}

/* What was being sent is of no use any more. */
void mp__crew_drop_big(mp__worker *w)
{
    w->big = NULL;
    w->big_size = 0;
    mp__buffer_reset(&w->big_own, COPY_MAX);
    if (w->big_work)
        mp__work_drop(w->big_work);
    w->big_work = NULL;
}

void mp__crew_drop_fds(mp__worker *w)
{
    if (w->owns_fds)
        mp__parcel_close(&w->out_fds);
    w->out_fds.count = 0;
    w->owns_fds = false;
}

/* They could not be sent at once, and are lent no longer than that. */
static void keep_fds(mp__worker *w)
{
    w->owns_fds = mp__parcel_own(&w->out_fds) == 0;
    if (w->owns_fds)
        return;
    mp__crew_kill(w, mp_last_error()->code);
    mp__crew_drop_fds(w);
}

static void advance(mp__worker *w, size_t n)
{
    size_t head = w->out.size - w->out_done;

    mp__crew_drop_fds(w); /* they went with the first byte */
    if (n < head) {
        w->out_done += n;
        return;
    }
    w->out.size = w->out_done = 0;
    n -= head;
    w->big += n;
    w->big_size -= n;
    if (!w->big_size)
        mp__crew_drop_big(w);
}

void mp__crew_flush(mp_pool *pool, mp__worker *w)
{
    (void)pool;
    w->stuck = false;
    while (!mp__crew_is_sent(w)) {
        struct iovec parts[2] = { { w->out.data + w->out_done, w->out.size - w->out_done },
            { (void *)(uintptr_t)w->big, w->big_size } };
        ssize_t n = mp__fd_try_send(w->fd, parts, 2, w->out_fds.fds, w->out_fds.count);

        if (n == MP_EAGAIN) {
            w->stuck = true;
            return;
        }
        if (n < 0) { /* it is dead or dying, or what it has read makes no sense any more */
            if (n != MP_EPIPE && n != MP_ECONNRESET && w->fd >= 0)
                mp__crew_kill(w, (int)n);
            w->out.size = w->out_done = 0;
            mp__crew_drop_fds(w);
            mp__crew_drop_big(w);
            return;
        }
        advance(w, (size_t)n);
    }
}

static int put_frame(mp__worker *w, const mp__frame *frame, const void *body)
{
    size_t before = w->out.size;
    int r = mp__buffer_append(&w->out, frame, sizeof(*frame));

    if (r == 0 && body)
        r = mp__buffer_append(&w->out, body, (size_t)frame->size);
    if (r < 0)
        w->out.size = before;
    return r;
}

static int put_functions(mp_pool *pool, mp__worker *w, uint32_t number)
{
    int r = 0;

    for (; w->functions <= number && r == 0; w->functions += r == 0) {
        const mp__buffer *description = &pool->functions[w->functions].description;
        mp__frame frame = { .kind = MP__WIRE_FUNCTION, .size = description->size };

        r = put_frame(w, &frame, description->data);
    }
    return r;
}

void mp__crew_stop(mp_pool *pool, mp__worker *w)
{
    mp__frame frame = { .kind = MP__WIRE_STOP };

    if (put_frame(w, &frame, NULL) < 0)
        mp__crew_kill(w, MP_ENOMEM);
    w->state = MP__WORKER_LEAVING;
    mp__crew_flush(pool, w);
}

/* ---- the queue of what a worker has ---- */

static int make_room(mp__worker *w)
{
    size_t capacity = w->queue_capacity ? 2 * w->queue_capacity : 16;
    mp__assignment *queue;

    if (w->queue_first + w->queue_count < w->queue_capacity)
        return 0;
    if (w->queue_count <= w->queue_capacity / 2 && w->queue_capacity) {
        memmove(w->queue, w->queue + w->queue_first, w->queue_count * sizeof(*queue));
        w->queue_first = 0;
        return 0;
    }
    queue = realloc(w->queue, capacity * sizeof(*queue));
    if (!queue)
        return mp__fail(MP_ENOMEM, "out of memory for the tasks of a worker");
    memmove(queue, queue + w->queue_first, w->queue_count * sizeof(*queue));
    w->queue = queue;
    w->queue_first = 0;
    w->queue_capacity = capacity;
    return 0;
}

static void push(mp__worker *w, mp_result *work, size_t first, size_t count, size_t room)
{
    mp__assignment *last = w->queue_count ? &w->queue[w->queue_first + w->queue_count - 1] : NULL;

    if (!w->in_flight)
        w->since = mp__clock_now();
    if (last && last->work == work && !work->items && last->first + last->count == first) {
        last->count += count;
    } else {
        w->queue[w->queue_first + w->queue_count++] =
            (mp__assignment){ work, first, count, w->sent, room };
        mp__work_hold(work);
    }
    w->sent += count;
    w->given += count;
    w->in_flight += count;
    w->room += count * room;
}

/* The first n items of the first row are settled. */
void mp__crew_pop(mp__worker *w, size_t n)
{
    mp__assignment *head = mp__crew_head(w);

    w->in_flight -= n;
    w->room -= n * head->room;
    head->first += n;
    head->item += n;
    head->count -= n;
    if (head->count)
        return;
    w->queue_first++;
    w->queue_count--;
    mp__work_drop(head->work);
}

/* Gives back all it has from that item on. */
void mp__crew_give_back(mp__worker *w, uint64_t item)
{
    while (w->queue_count) {
        mp__assignment *last = &w->queue[w->queue_first + w->queue_count - 1];
        size_t keep = last->item < item ? (size_t)(item - last->item) : 0, count;

        if (keep >= last->count)
            return;
        count = last->count - keep;
        last->count = keep;
        w->in_flight -= count;
        w->given -= count;
        w->room -= count * last->room;
        if (!last->work->settled && mp__work_return(last->work, last->first + keep, count) < 0)
            mp__work_lose(last->work, last->first + keep, count);
        if (!keep) {
            mp__work_drop(last->work);
            w->queue_count--;
        }
    }
}

/* Takes back what it has not begun. */
void mp__crew_take_back(mp__worker *w)
{
    uint64_t claimed = atomic_exchange(&w->shared->claim, w->sent);

    if (claimed > w->sent)
        mp__crew_kill(w, MP_EPROTOCOL); /* its memory is damaged */
    else
        mp__crew_give_back(w, claimed);
}

size_t mp__crew_unbegun(const mp__worker *w)
{
    uint64_t claimed =
        w->shared ? atomic_load_explicit(&w->shared->claim, memory_order_relaxed) : 0;

    return w->in_flight && claimed < w->sent ? (size_t)(w->sent - claimed) : 0;
}

size_t mp__crew_room_for(const mp_result *work)
{
    const mp_items *out = &work->options.out;
    size_t size = mp__is_raw(out->type) && out->size < MP__INLINE_MAX ? out->size : MP__INLINE_MAX;

    return mp__ring_room(size) + sizeof(mp__run_head) - sizeof(mp__ring_head);
}

/*
 * A long body goes behind the frame. It may still be on its way when its items
 * were run elsewhere and are answered, so it must not be the caller's memory.
 */
static int put_big(mp_pool *pool, mp__worker *w, mp_result *work, const void *data, size_t size)
{
    int r = 0;

    if (work->single) {
        w->big_work = work;
        mp__work_hold(work);
    } else if (data == pool->scratch.data) {
        w->big_own = pool->scratch;
        pool->scratch = (mp__buffer){ 0 };
    } else {
        w->big_own.size = 0;
        r = mp__buffer_append(&w->big_own, data, size);
        data = w->big_own.data;
    }
    if (r == 0) {
        w->big = data;
        w->big_size = size;
    }
    return r;
}

/* A frame of items taken from work. */
static int put_items(
    mp_pool *pool, mp__worker *w, mp_result *work, mp__frame *frame, const void *data, size_t size)
{
    bool copied = size <= COPY_MAX || frame->in_type != MP__SLOT_OBJECT;
    size_t before;
    int r = put_functions(pool, w, work->function);

    before = w->out.size;
    frame->size = size;
    if (r == 0)
        r = put_frame(w, frame, copied ? data : NULL);
    if (r == 0 && !copied)
        r = put_big(pool, w, work, data, size);
    if (r < 0)
        w->out.size = before;
    return r;
}

/* Sends all there is, the functions needed too: what comes next needs the socket for itself. */
static int make_way(mp_pool *pool, mp__worker *w, const mp_result *work)
{
    int r = put_functions(pool, w, work->function);

    if (r == 0)
        mp__crew_flush(pool, w);
    return r < 0 ? r : mp__crew_is_sent(w) ? 0 : MP_EAGAIN;
}

int mp__crew_put(mp_pool *pool, mp__worker *w, mp_result *work, size_t first, size_t n)
{
    const mp_items *in = &work->options.in;
    bool raw = mp__work_is_raw(work);
    mp__frame frame = { .kind = MP__WIRE_TASK,
        .item = w->sent,
        .function = work->function,
        .soft_limit = work->soft_limit,
        .timed = work->timed,
        .count = (uint32_t)n,
        .index = work->items ? work->items[first].index : first,
        .in_type = (uint8_t)(raw ? in->type : MP__SLOT_OBJECT),
        .in_size = (uint32_t)in->size,
        .out_type = (uint8_t)work->options.out.type,
        .out_size = (uint32_t)work->options.out.size };
    const void *data = (const char *)in->data + first * in->size;
    size_t size = n * in->size;
    mp__parcel parcel;
    int r = make_room(w);

    parcel.count = 0;
    if (r == 0 && !raw)
        r = mp__work_pack(work, first, &pool->scratch, &parcel, &data, &size);
    if (r == 0 && (parcel.count || size > COPY_MAX))
        r = make_way(pool, w, work);
    frame.fds = (uint16_t)parcel.count;
    if (r == 0)
        r = put_items(pool, w, work, &frame, data, size);
    if (r < 0)
        return r;
    push(w, work, first, n, mp__crew_room_for(work));
    w->out_fds = parcel;
    if (parcel.count || w->big)
        mp__crew_flush(pool, w);
    if (w->out_fds.count)
        keep_fds(w);
    return 0;
}
