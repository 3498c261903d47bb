/* SPDX-License-Identifier: MIT
 *
 * pool_answers.c - what a worker says: answers from the ring it shares with us and
 * over its socket, each checked. Who says nonsense is ended.
 */
#include "pool_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"

#define GROW_SIZE ((size_t)1 << 20)
#define DYING_MS 20 /* from the end of its descriptors to that of a process, at most */

/* ---- answers ---- */

static bool take_error(mp__worker *w, const mp__buffer *bytes)
{
    mp__assignment *head = mp__crew_head(w);
    mp_task_error error = { .pid = mp_process_pid(w->process) };
    mp__wire_error wire = { .code = 0 };

    if (bytes->size > sizeof(wire) || bytes->size <= offsetof(mp__wire_error, text))
        return false;
    memcpy(&wire, bytes->data, bytes->size);
    error.code = wire.code < 0 ? wire.code : MP_ERAISED;
    error.raised = wire.raised;
    error.seconds = (double)(mp__clock_now() - w->since) / 1e9;
    (void)snprintf(error.worker, sizeof(error.worker), "%s", mp_process_name(w->process));
    (void)snprintf(error.text, sizeof(error.text), "%.*s", (int)sizeof(wire.text) - 1, wire.text);
    mp__work_fail(head->work, head->first, &error);
    return true;
}

/* The first item it has is answered. False: that makes no sense. */
static bool settle(mp__worker *w, enum mp__wire_kind kind, mp__buffer *bytes, mp__parcel *parcel)
{
    mp__assignment *head = mp__crew_head(w);
    bool good = kind == MP__WIRE_ERROR
                    ? take_error(w, bytes)
                    : mp__work_answer(head->work, head->first, kind, bytes, parcel);

    w->began = true;
    if (good)
        mp__crew_pop(w, 1);
    return good;
}

/* A run begins: nothing of it may be there yet. False: that makes no sense. */
static bool begin_run(mp__worker *w, uint64_t head, size_t at)
{
    mp__run_head run;

    if (at + sizeof(run) > MP__RING_SIZE || w->tail + sizeof(run) > head)
        return false;
    memcpy(&run, w->shared->ring + at, sizeof(run));
    if (!run.head.size || !run.count ||
        run.count > (MP__RING_SIZE - at - sizeof(run)) / run.head.size)
        return false;
    w->run_size = run.head.size;
    w->run_left = (size_t)run.count;
    w->tail += sizeof(run);
    return true;
}

/* How many answers of the run are there; *ends: it has no more. */
static size_t run_length(const mp__worker *w, uint64_t head, bool *ends)
{
    uint64_t cut = atomic_load_explicit(&w->shared->cut, memory_order_acquire);
    uint64_t n = (head - w->tail) / w->run_size;

    if (n > w->run_left)
        n = w->run_left;
    *ends = n == w->run_left;
    if (cut >= w->tail && cut <= w->tail + n * w->run_size && cut < head) { /* something follows */
        n = (cut - w->tail) / w->run_size;
        *ends = true;
        atomic_store_explicit(&w->shared->cut_seen, cut, memory_order_release);
    }
    return (size_t)n;
}

/* What is there of a run. False: it is in the middle, or makes no sense. */
static bool take_run(mp__worker *w, uint64_t head)
{
    bool ends;
    size_t n = run_length(w, head, &ends);

    for (size_t left = n; left;) {
        mp__assignment *first = mp__crew_head(w);
        size_t some = first && first->count < left ? first->count : left;

        if (!first || !mp__work_answer_run(first->work, first->first,
                          w->shared->ring + w->tail % MP__RING_SIZE, w->run_size, some)) {
            mp__crew_kill(w, MP_EPROTOCOL);
            return false;
        }
        w->tail += some * w->run_size;
        left -= some;
        mp__crew_pop(w, some);
    }
    w->began |= n > 0;
    w->run_left -= n;
    if (ends) {
        w->run_left = 0;
        w->tail = mp__ring_align(w->tail);
    }
    return ends;
}

/* One answer in the ring. False: there is none, or it is not whole yet, or it is nonsense. */
static bool take_answer(mp__worker *w, uint64_t head)
{
    const uint8_t *ring = w->shared->ring;
    size_t at = w->tail % MP__RING_SIZE;
    char copy[MP__INLINE_MAX + 8];
    mp__buffer bytes = { 0 };
    mp__parcel none = { .count = 0 };
    mp__ring_head answer;
    bool good;

    memcpy(&answer, ring + at, sizeof(answer));
    if (answer.kind == MP__WIRE_PAD && w->tail + (MP__RING_SIZE - at) <= head) {
        w->tail += MP__RING_SIZE - at;
        return true;
    }
    if (answer.kind == MP__WIRE_RAW && w->in_flight &&
        answer.item == (uint32_t)mp__crew_head(w)->item && begin_run(w, head, at))
        return true;
    if (answer.kind == MP__WIRE_RAW || !w->in_flight ||
        answer.item != (uint32_t)mp__crew_head(w)->item || answer.size > MP__INLINE_MAX ||
        at + mp__ring_room(answer.size) > MP__RING_SIZE ||
        w->tail + mp__ring_room(answer.size) > head) {
        mp__crew_kill(w, MP_EPROTOCOL);
        return false;
    }
    if (answer.kind == MP__WIRE_EXTERNAL) {
        w->wanted = !w->external;
        if (w->wanted)
            return false;
        w->external = false;
        good = w->frame.item == mp__crew_head(w)->item &&
               settle(w, (enum mp__wire_kind)w->frame.kind, &w->body, &w->came);
        mp__parcel_drop(&w->came); /* nothing, unless it was dropped */
        w->body.size = 0;
    } else if (answer.kind == MP__WIRE_VALUE) { /* memory that the message keeps */
        w->value.size = 0;
        good = mp__buffer_append(&w->value, ring + at + sizeof(answer), answer.size) == 0 &&
               settle(w, MP__WIRE_VALUE, &w->value, &none);
    } else {
        memcpy(copy, ring + at + sizeof(answer), answer.size);
        bytes = (mp__buffer){ .data = copy, .size = answer.size, .capacity = sizeof(copy) };
        good = settle(w, (enum mp__wire_kind)answer.kind, &bytes, &none);
    }
    if (!good)
        mp__crew_kill(w, MP_EPROTOCOL);
    w->tail += mp__ring_room(answer.size);
    return good;
}

/* Learns from n answers what an item costs. */
static void learn(mp__worker *w, mp_result *work, uint64_t n)
{
    int64_t now = mp__clock_now();
    double each = (double)(now - w->since) / (double)n;

    if (each < 1)
        each = 1;
    if (work->item_ns <= 0)
        work->item_ns = each;
    else if (each < work->item_ns) /* what was measured had waiting in it */
        work->item_ns = (work->item_ns + 3 * each) / 4;
    else
        work->item_ns = (3 * work->item_ns + each) / 4;
    w->since = now;
}

static bool read_ring(mp__worker *w)
{
    uint64_t head = atomic_load_explicit(&w->shared->head, memory_order_acquire);
    mp__assignment *first = mp__crew_head(w);
    size_t before = w->in_flight;
    mp_result *work = first ? first->work : NULL;

    if (head == w->tail || w->corrupt)
        return false;
    if (head - w->tail > MP__RING_SIZE) {
        mp__crew_kill(w, MP_EPROTOCOL);
        return false;
    }
    if (work)
        mp__work_hold(work);
    while (
        w->tail != head && !w->corrupt && (w->run_left ? take_run(w, head) : take_answer(w, head)))
        continue;
    if (work && w->in_flight < before)
        learn(w, work, before - w->in_flight);
    if (work)
        mp__work_drop(work);
    return w->in_flight < before;
}

/* ---- what comes over the socket ---- */

static void take_frame(mp__worker *w)
{
    mp__wire_error *error = (void *)w->body.data;

    switch (w->frame.kind) {
    case MP__WIRE_READY:
        if (w->state == MP__WORKER_STARTING)
            w->state = MP__WORKER_READY;
        break;
    case MP__WIRE_REFUSED:
        if (w->body.size == sizeof(*error))
            (void)snprintf(
                w->refusal, sizeof(w->refusal), "%.*s", (int)sizeof(error->text) - 1, error->text);
        break;
    case MP__WIRE_VALUE:
    case MP__WIRE_RAW:
    case MP__WIRE_ERROR:
        w->external = true;
        if (w->frame.fds != w->came.count)
            mp__crew_kill(w, MP_EPROTOCOL);
        return;
    default:
        mp__crew_kill(w, MP_EPROTOCOL);
        break;
    }
    w->body.size = 0;
}

/* Bytes into what is being read. 1, 0: no more now, or a code: no more ever. */
static ssize_t receive(mp__worker *w, void *data, size_t size)
{
    ssize_t n;

    mp__hooks_begin_receiving();
    n = mp__fd_try_receive(w->fd, data, size, w->came.fds, &w->came.count, &w->lost_fds);
    mp__hooks_end_receiving();
    return n == MP_EAGAIN ? 0 : n == 0 ? MP_EEOF : n;
}

static ssize_t read_head(mp__worker *w)
{
    ssize_t n = receive(w, (char *)&w->frame + w->frame_have, sizeof(w->frame) - w->frame_have);

    if (n > 0)
        w->frame_have += (size_t)n;
    if (n > 0 && w->frame_have == sizeof(w->frame) && w->frame.size > mp__limit_message())
        return mp__fail(MP_ETOOLONG, "an answer of %llu bytes: mp_set_limits allows %llu",
            (unsigned long long)w->frame.size, (unsigned long long)mp__limit_message());
    return n;
}

static ssize_t read_body(mp__worker *w)
{
    size_t left = (size_t)w->frame.size - w->body.size;
    size_t more = w->body.capacity > GROW_SIZE ? w->body.capacity : GROW_SIZE;
    ssize_t n;

    if (w->body.size == w->body.capacity) { /* one byte is spare, for a NUL */
        n = mp__buffer_reserve(&w->body, w->body.size + (left < more ? left + 1 : more));
        if (n < 0)
            return n;
    }
    if (left > w->body.capacity - w->body.size)
        left = w->body.capacity - w->body.size;
    n = receive(w, w->body.data + w->body.size, left);
    if (n > 0)
        w->body.size += (size_t)n;
    return n;
}

/* Reads at most one frame, and not past an answer that was not taken. Returns as receive. */
static ssize_t read_socket(mp__worker *w)
{
    ssize_t n = 1;

    if (w->external || w->fd < 0 || w->corrupt)
        return 0;
    while (n > 0 && w->frame_have < sizeof(w->frame))
        n = read_head(w);
    while (n > 0 && w->body.size < w->frame.size)
        n = read_body(w);
    if (n > 0) {
        w->frame_have = 0;
        take_frame(w);
    }
    return n;
}

/* The end of what it says. It dies just now, or is made to; that is an event of its own. */
static void hang_up(mp__worker *w)
{
    struct pollfd end = { .fd = mp_process_sentinel(w->process), .events = POLLIN };

    mp_connection_close(w->channel);
    w->fd = -1;
    while (poll(&end, 1, DYING_MS) < 0 && errno == EINTR)
        ; /* what a handler wants is for a wait of the program */
    if (!w->doomed && mp_process_is_alive(w->process))
        w->doomed = MP_EEOF;
    (void)mp_process_kill(w->process);
}

static bool look_at_socket(mp__worker *w)
{
    ssize_t n = read_socket(w);

    if (n == MP_EEOF || n == MP_ECONNRESET)
        hang_up(w);
    else if (n < 0)
        mp__crew_kill(w, (int)n);
    if (w->lost_fds)
        mp__crew_kill(w, MP_EMFILE);
    return n > 0;
}

void mp__crew_look(mp_pool *pool, mp__worker *w, bool readable)
{
    bool moved = true;

    while (moved && !w->corrupt) {
        moved = read_ring(w);
        if (readable || w->wanted) /* the ring has a marker: the answer is on its way */
            moved |= look_at_socket(w) && (w->external || w->dying);
        readable = w->dying;
    }
    if (atomic_load(&w->shared->claim) < w->sent - w->in_flight)
        mp__crew_kill(w, MP_EPROTOCOL); /* its memory is damaged: it would skip all that comes */
    if (w->began && !w->proven)
        pool->failures = 0;
    w->proven = w->began;
}
