/* SPDX-License-Identifier: MIT
 *
 * queues.c - queues: items go in, items come out, and who waits for them sleeps.
 *
 * Why nobody is left asleep: who goes to sleep says so in a flag and then looks once
 * more; who changes something does that first and looks at the flag then, all of it
 * in one order (sequentially consistent). Who takes an item and leaves others wakes
 * the next sleeper, and so does who leaves room. A waker or a woken process that is
 * killed in between delays the others by one slice of their sleep.
 */
#include "queues_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "futex_internal.h"
#include "hooks_internal.h"
#include "queues_parcel_internal.h"
#include "queues_ring_internal.h"
#include "spin_internal.h"
#include "value_internal.h"

#define BUSY                                                                          \
    "another process is at work in the queue and does not come to an end: it may be " \
    "stopped"
#define NOT_NOW 1                  /* full, or empty */
#define KEEP_MAX ((size_t)4 << 20) /* memory a queue keeps for packing */
#define SIZE_BITS 48               /* of the word before an item; above: its descriptors */
#define SIZE_MASK ((UINT64_C(1) << SIZE_BITS) - 1)

static _Thread_local mp__spin spin;

/* ---- life ---- */

static mp_queue *new_queue(void)
{
    mp_queue *q = calloc(1, sizeof(*q));

    if (!q) {
        (void)mp__fail(MP_ENOMEM, "out of memory for a queue");
        return NULL;
    }
    q->handle.kind = &mp__queue_kind;
    q->ring.fd = q->fds[0] = q->fds[1] = -1;
    return q;
}

static mp_queue *create(long maxsize, uint64_t flags)
{
    mp_queue *q = new_queue();

    if (q && (mp__queue_ring_new(&q->ring) < 0 || mp__queue_parcel_open(q->fds) < 0)) {
        mp_queue_free(q);
        q = NULL;
    }
    if (q) {
        q->ring.shared->maxsize = maxsize > 0 ? (uint64_t)maxsize : 0;
        q->ring.shared->flags = flags;
    }
    return q;
}

mp_queue *mp_queue_create(const mp_queue_options *options)
{
    return create(options->maxsize, 0);
}

mp_queue *mp_joinable_queue_create(const mp_queue_options *options)
{
    return create(options->maxsize, MP__QUEUE_JOINABLE);
}

mp_queue *mp_simple_queue_new(void)
{
    return create(0, 0);
}

void mp_queue_close(mp_queue *q)
{
    if (!q || atomic_exchange(&q->closed, true))
        return;
    mp__queue_ring_done(&q->ring);
    mp__fd_drop(&q->fds[0]);
    mp__fd_drop(&q->fds[1]);
}

void mp_queue_free(mp_queue *q)
{
    mp__buffer *packed;

    if (!q)
        return;
    mp_queue_close(q);
    if (q->handle.lender)
        return; /* the message frees it */
    packed = atomic_load(&q->packed);
    if (packed)
        mp__buffer_done(packed);
    free(packed);
    free(q);
}

mp_queue *mp_queue_keep(mp_queue *q)
{
    if (q)
        mp__handle_keep(&q->handle);
    return q;
}

/* ---- state ---- */

int mp__queue_check(const mp_queue *q)
{
    if (!q)
        return mp__fail(MP_EINVAL, "no queue: NULL");
    if (atomic_load_explicit(&q->closed, memory_order_relaxed))
        return mp__fail(MP_ECLOSED, "this queue is closed in this process");
    return 0;
}

bool mp_queue_closed(const mp_queue *q)
{
    return !q || atomic_load(&q->closed);
}

/* gets is read first: an item that comes and goes meanwhile is counted, not missed. */
static uint64_t count_items(const mp__queue_shared *s)
{
    uint64_t gets = atomic_load(&s->gets);

    return atomic_load(&s->puts) - gets;
}

static bool is_full(const mp__queue_shared *s)
{
    return s->maxsize && count_items(s) >= s->maxsize;
}

int64_t mp_queue_qsize(const mp_queue *q)
{
    const mp__queue_shared *s;
    uint64_t gets;
    int64_t count;
    int r = mp__queue_check(q);

    if (r < 0)
        return r;
    s = q->ring.shared;
    do {
        gets = atomic_load(&s->gets);
        count = (int64_t)(atomic_load(&s->puts) - gets);
    } while (atomic_load(&s->gets) != gets);
    return count;
}

int mp_queue_empty(const mp_queue *q)
{
    int r = mp__queue_check(q);

    return r < 0 ? r : count_items(q->ring.shared) == 0;
}

int mp_queue_full(const mp_queue *q)
{
    int r = mp__queue_check(q);

    return r < 0 ? r : is_full(q->ring.shared);
}

/* ---- sleeping ---- */

static bool has_item(void *queue)
{
    return count_items(((mp_queue *)queue)->ring.shared) != 0;
}

static bool has_room(void *queue)
{
    return !is_full(((mp_queue *)queue)->ring.shared);
}

/* Another number each time, but never 0: who has woken some sees whether more came since. */
void mp__queue_announce(atomic_uint *sleepers)
{
    while (atomic_fetch_add(sleepers, 1) + 1 == 0)
        continue;
}

/* Sleeps until ready may be true. 0: look again, or MP_ETIMEDOUT (not recorded), MP_EINTR. */
static int await(
    mp_queue *q, atomic_uint *sleepers, atomic_uint *word, bool (*ready)(void *), int64_t deadline)
{
    unsigned seen;
    int r;

    if (mp__clock_over(deadline))
        return MP_ETIMEDOUT;
    if (mp__spin_until(&spin, ready, q))
        return 0;
    seen = atomic_load(word);
    mp__queue_announce(sleepers);
    if (ready(q))
        return 0;
    r = mp__futex_wait(word, seen, mp__clock_slice(deadline));
    return r == MP_ETIMEDOUT ? 0 : r;
}

void mp__queue_wake(atomic_uint *sleepers, atomic_uint *word, int count)
{
    unsigned said = atomic_load(sleepers);

    if (!said)
        return;
    atomic_fetch_add(word, 1);
    if (mp__futex_wake(word, count) < count)
        (void)atomic_compare_exchange_strong(sleepers, &said, 0);
}

static void wake_getter(mp__queue_shared *s)
{
    mp__queue_wake(&s->getters, &s->arrivals, 1);
}

static void wake_putter(mp__queue_shared *s)
{
    mp__queue_wake(&s->putters, &s->departures, 1);
}

/*
 * What nobody waits for: memory that is not needed goes back, and so do descriptors
 * that a killed process left behind.
 */
static void tidy(mp_queue *q)
{
    mp__queue_shared *s = q->ring.shared;

    if (!mp__queue_try(&q->ring, &s->put_lock))
        return; /* somebody else will */
    if (mp__queue_try(&q->ring, &s->get_lock)) {
        if (mp__queue_ring_look(&q->ring, &q->ring.get) == 0 && mp__queue_ring_roomy(&q->ring))
            mp__queue_ring_shrink(&q->ring);
        if (atomic_exchange(&s->inherited, 0)) {
            mp__queue_ring_release(&q->ring);
            if (count_items(s) == 0)
                mp__queue_parcel_drop_all(q->fds);
        }
        mp__queue_unlock(&s->get_lock);
    }
    mp__queue_unlock(&s->put_lock);
}

/* ---- putting ---- */

/* Bytes before and behind those of an item: it begins at a multiple of 8. */
static size_t length_of(uint64_t size, size_t descriptors)
{
    return sizeof(uint64_t) * (descriptors ? 2 : 1) + (size_t)((size + 7) / 8 * 8);
}

/* What is put: packed bytes, behind them long text or bytes from where they lie, descriptors. */
typedef struct {
    const mp__buffer *packed;
    mp_bytes_view rest;
    mp__parcel parcel;
} mp__item;

static uint64_t write_part(mp__queue_ring *ring, uint64_t tail, const void *data, size_t size)
{
    mp__queue_view_write(&ring->put, tail, data, size);
    return tail + size;
}

static void write_item(mp__queue_ring *ring, uint64_t tail, const mp__item *item)
{
    uint64_t size = item->packed->size + item->rest.size;
    uint64_t word = size | (uint64_t)item->parcel.count << SIZE_BITS;

    tail = write_part(ring, tail, &word, sizeof(word));
    if (item->parcel.count)
        tail = write_part(ring, tail, &ring->shared->ticket, sizeof(word));
    tail = write_part(ring, tail, item->packed->data, item->packed->size);
    (void)write_part(ring, tail, item->rest.data, item->rest.size);
}

/* With put_lock held. NOT_NOW: it is full. */
static int put_item(mp_queue *q, const mp__item *item, int64_t deadline)
{
    mp__queue_shared *s = q->ring.shared;
    uint64_t puts = s->puts, tail = s->tails[puts & 1];
    size_t length = length_of(item->packed->size + item->rest.size, item->parcel.count);
    int r;

    if (s->maxsize && puts - s->gets_seen >= s->maxsize)
        s->gets_seen = atomic_load(&s->gets);
    if (s->maxsize && puts - s->gets_seen >= s->maxsize)
        return NOT_NOW;
    r = mp__queue_ring_room(&q->ring, length, deadline);
    if (r == 0 && item->parcel.count)
        r = mp__queue_parcel_put(q->fds, ++s->ticket, &item->parcel);
    if (r < 0)
        return r;
    write_item(&q->ring, tail, item);
    atomic_store_explicit(&s->tails[(puts + 1) & 1], tail + length, memory_order_release);
    atomic_store(&s->puts, puts + 1); /* now it is there */
    return 0;
}

/* What comes after an item was put. */
static void after_put(mp_queue *q)
{
    mp__queue_shared *s = q->ring.shared;

    wake_getter(s);
    if (s->maxsize && !is_full(s))
        wake_putter(s);
    if (atomic_load(&s->pollers) && atomic_exchange(&s->pollers, 0))
        mp__queue_parcel_signal(q->fds);
    if (atomic_load_explicit(&s->inherited, memory_order_relaxed))
        tidy(q);
}

static int put(mp_queue *q, const mp__item *item, int64_t deadline)
{
    mp__queue_shared *s = q->ring.shared;
    int r;

    do {
        r = mp__queue_lock(&q->ring, &s->put_lock, deadline);
        if (r == 0) {
            r = put_item(q, item, deadline);
            mp__queue_unlock(&s->put_lock);
        }
        if (r == NOT_NOW)
            r = await(q, &s->putters, &s->departures, has_room, deadline);
        else if (r == 0)
            break;
    } while (r == 0);
    if (r == MP_ETIMEDOUT)
        return mp__fail(MP_EFULL, "there was no room in the queue within the time");
    if (r == -EBUSY)
        return mp__fail(MP_EFULL, BUSY);
    if (r == 0)
        after_put(q);
    return r;
}

/* A buffer for packing, kept from put to put. NULL: MP_ENOMEM. */
static mp__buffer *borrow_buffer(mp_queue *q)
{
    mp__buffer *buffer = atomic_exchange(&q->packed, NULL);

    if (!buffer)
        buffer = calloc(1, sizeof(*buffer));
    if (!buffer)
        (void)mp__fail(MP_ENOMEM, "out of memory for an item");
    return buffer;
}

static void return_buffer(mp_queue *q, mp__buffer *buffer)
{
    mp__buffer *other;

    mp__buffer_reset(buffer, KEEP_MAX);
    other = atomic_exchange(&q->packed, buffer);
    if (other)
        mp__buffer_done(other);
    free(other);
}

int mp__queue_put(mp_queue *q, msgpack_object value, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    mp__buffer *buffer = NULL;
    mp__item item;
    int r = mp__queue_check(q);

    if (r < 0)
        return r;
    buffer = borrow_buffer(q);
    if (!buffer)
        return MP_ENOMEM;
    item.packed = buffer;
    item.parcel.count = 0;
    r = mp__value_pack_apart(value, buffer, &item.parcel, &item.rest);
    if (r == 0)
        r = put(q, &item, deadline);
    return_buffer(q, buffer);
    return r;
}

/* ---- getting ---- */

/* With get_lock held: the next item is at the head of this ring, and is whole. */
static int look_at_item(mp_queue *q, uint64_t head, uint64_t *size, size_t *count)
{
    uint64_t word = 0;
    int r = mp__queue_ring_look(&q->ring, &q->ring.get);

    if (r < 0)
        return r;
    mp__queue_view_read(&q->ring.get, head, &word, sizeof(word));
    *size = word & SIZE_MASK;
    *count = (size_t)(word >> SIZE_BITS);
    if (*count > MP__FDS_MAX || length_of(*size, *count) > q->ring.get.size)
        return mp__fail(MP_EPROTOCOL, "the memory of a queue was overwritten by a process that "
                                      "uses it");
    if (*size > mp__limit_message())
        return mp__fail(MP_ETOOLONG, "the next item has %llu bytes; mp_set_limits allows %llu",
            (unsigned long long)*size, (unsigned long long)mp__limit_message());
    return 0;
}

/* The descriptors of an item become the message's; duplicates, until the item is taken. */
static int take_parcel(mp_queue *q, uint64_t at, mp_message *message)
{
    uint64_t ticket = 0;
    mp__parcel parcel;
    int r;

    mp__queue_view_read(&q->ring.get, at, &ticket, sizeof(ticket));
    mp__hooks_begin_receiving(); /* until they are known as the message's */
    r = mp__queue_parcel_look(q->fds, ticket, &parcel);
    if (r == 0)
        r = mp__message_take(message, &parcel);
    mp__hooks_end_receiving();
    return r;
}

static int read_item(mp_queue *q, uint64_t head, uint64_t size, size_t count, mp_message *message)
{
    mp__message *own = message->own;
    uint64_t at = head + length_of(size, count) - (size + 7) / 8 * 8;
    int r;

    mp__message_reset(message);
    r = mp__buffer_reserve(&own->bytes, (size_t)size + 1); /* one byte is spare, for a NUL */
    if (r == 0 && count)
        r = take_parcel(q, at - sizeof(uint64_t), message);
    if (r < 0)
        return r;
    mp__queue_view_read(&q->ring.get, at, own->bytes.data, (size_t)size);
    own->bytes.size = (size_t)size;
    return 0;
}

/* With get_lock held. NOT_NOW: it is empty. */
static int get_item(mp_queue *q, mp_message *message)
{
    mp__queue_shared *s = q->ring.shared;
    uint64_t gets = s->gets, head = s->heads[gets & 1], size = 0;
    size_t count = 0;
    int r;

    if (s->puts_seen == gets)
        s->puts_seen = atomic_load(&s->puts);
    if (s->puts_seen == gets)
        return NOT_NOW;
    r = look_at_item(q, head, &size, &count);
    if (r < 0)
        return r;
    r = read_item(q, head, size, count, message);
    if (r == 0)
        r = mp__value_check(message);
    if (r < 0)
        mp__message_reset(message);
    if (r < 0 && r != MP_EPROTOCOL)
        return r; /* it stays, unless it is damaged: then it is of no use to anybody */
    atomic_store_explicit(
        &s->heads[(gets + 1) & 1], head + length_of(size, count), memory_order_release);
    atomic_store(&s->gets, gets + 1); /* now it is taken */
    if (r == 0 && count)
        mp__queue_parcel_drop(q->fds);
    return r;
}

/* What comes after an item was taken. */
static void after_get(mp_queue *q, bool more, bool roomy)
{
    mp__queue_shared *s = q->ring.shared;

    if (s->maxsize)
        wake_putter(s);
    if (more)
        wake_getter(s);
    if (roomy || atomic_load_explicit(&s->inherited, memory_order_relaxed))
        tidy(q);
}

static int get(mp_queue *q, mp_message *message, int64_t deadline)
{
    mp__queue_shared *s = q->ring.shared;
    bool more = false, roomy = false;
    int r;

    do {
        r = mp__queue_lock(&q->ring, &s->get_lock, deadline);
        if (r == 0) {
            r = get_item(q, message);
            more = s->puts_seen != s->gets;
            roomy = r == 0 && mp__queue_ring_roomy(&q->ring);
            mp__queue_unlock(&s->get_lock);
        }
        if (r == NOT_NOW)
            r = await(q, &s->getters, &s->arrivals, has_item, deadline);
        else if (r == 0)
            break;
    } while (r == 0);
    if (r == MP_ETIMEDOUT)
        return mp__fail(MP_EEMPTY, "nothing came into the queue");
    if (r == -EBUSY)
        return mp__fail(MP_EEMPTY, BUSY);
    if (r == 0)
        after_get(q, more, roomy);
    return r;
}

int mp_queue_get(mp_queue *q, mp_message *message, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    int r = mp__queue_check(q);

    if (r < 0)
        return r;
    if (!message)
        return mp__fail(MP_EINVAL, "mp_queue_get needs a message to receive into");
    if (mp__message_lends(message, &q->handle))
        return mp__fail(MP_EINVAL, "a queue cannot be got from into the message that lends it; "
                                   "mp_queue_keep makes it yours");
    if (!mp__message_own(message))
        return MP_ENOMEM;
    r = get(q, message, deadline);
    return r < 0 ? r : mp__value_decode_checked(message);
}

int mp_queue_get_nowait(mp_queue *q, mp_message *message)
{
    return mp_queue_get(q, message, 0);
}

/* ---- polling ---- */

bool mp__queue_ready(const mp_queue *q)
{
    return count_items(q->ring.shared) != 0;
}

int mp__queue_poll_fd(const mp_queue *q)
{
    int r = mp__queue_check(q);

    if (r < 0)
        return r;
    atomic_store(&q->ring.shared->pollers, 1);
    return q->fds[0];
}

/*
 * Others may poll the same socket, and what it said was for them, too. If an item came
 * after the look and before this they must see it.
 */
void mp__queue_poll_again(const mp_queue *q)
{
    mp__queue_parcel_hush(q->fds);
    if (mp__queue_ready(q))
        mp__queue_parcel_signal(q->fds);
}

/* ---- travelling ---- */

static int reduce(const void *object, mp__reduced *reduced)
{
    const mp_queue *q = object;
    int r = mp__queue_check(q);

    if (r < 0)
        return r;
    reduced->fds[0] = q->ring.fd;
    reduced->fds[1] = q->fds[0];
    reduced->fds[2] = q->fds[1];
    reduced->count = 3;
    return 0;
}

static bool is_socket(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    mp_queue *q = NULL;
    int r;

    (void)state;
    if (size != 0 || count != 3 || !is_socket(fds[1]) || !is_socket(fds[2]))
        return mp__fail(MP_EPROTOCOL, "malformed queue in a message");
    q = new_queue();
    if (!q)
        return MP_ENOMEM;
    r = mp__queue_ring_adopt(&q->ring, &fds[0]);
    if (r < 0) {
        mp_queue_free(q);
        return r;
    }
    for (int i = 0; i < 2; i++) {
        q->fds[i] = fds[i + 1];
        fds[i + 1] = -1;
    }
    *object = q;
    return 0;
}

static void release(void *object)
{
    mp_queue_free(object);
}

const mp__kind mp__queue_kind = { "a queue", 20, reduce, rebuild, release };
