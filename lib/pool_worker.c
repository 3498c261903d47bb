/* SPDX-License-Identifier: MIT
 *
 * pool_worker.c - the worker's side of a pool: reads tasks, runs their items one
 * after the other, answers each. One thread; what arrives comes from its pool.
 */
#include "pool_ring_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/pool.h>

#include "clock_internal.h"
#include "connection_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "function_internal.h"
#include "hooks_internal.h"
#include "log_internal.h"
#include "process_internal.h"
#include "shm_internal.h"
#include "spin_internal.h"
#include "value_internal.h"

#define FIRST_SIZE ((size_t)512) /* of the first read: it may be the last */
#define READ_SIZE ((size_t)64 * 1024)
#define GROW_SIZE ((size_t)1 << 20) /* memory is reserved as bytes come, in such steps at first */
#define KEEP_MAX ((size_t)4 << 20)  /* memory kept for the next item */

/* A function the pool has named; why it is not to be found in this process, or NULL. */
struct function {
    mp_function call;
    char *why;
};

static struct {
    int index;
    int fd;
    int wake; /* wakes the pool */
    mp__pool_shared *shared;
    mp__ring ring;
    mp__spin spin;
    mp__buffer in;   /* what was read */
    size_t in_done;  /* and used */
    mp__parcel came; /* descriptors of the frames to come */
    struct function *functions;
    size_t function_count;
    mp__frame task; /* the one at work */
    mp_call call;
    const mp_error *last; /* of this thread */
    mp__buffer out;       /* the answer of the item at work */
    mp__parcel out_parcel;
    enum mp__wire_kind out_kind;
    int encoding_error; /* why it could not be packed */
} me = { .index = -1, .fd = -1, .wake = -1 };

int mp_pool_worker_index(void)
{
    return me.index;
}

bool mp_call_expired(const mp_call *call)
{
    return call->soft_expiry && mp__clock_now() > call->soft_expiry;
}

size_t mp_call_index(const mp_call *call)
{
    return call->index;
}

static _Noreturn void give_up(void)
{
    mp__log_last_words("cannot go on: %s", mp_last_error()->text);
    (void)fflush(NULL);
    _exit(1);
}

/* ---- answering ---- */

static void send_frame(const mp__frame *frame, const void *body, const mp__parcel *parcel)
{
    struct iovec parts[2] = { { (void *)frame, sizeof(*frame) },
        { (void *)body, (size_t)frame->size } };

    if (mp__fd_send(me.fd, parts, 2, parcel ? parcel->fds : NULL, frame->fds) < 0)
        _exit(1); /* there is no pool any more */
}

static void send_plain(enum mp__wire_kind kind, const void *body, size_t size)
{
    mp__frame frame = { .kind = (uint8_t)kind, .size = size };

    send_frame(&frame, body, NULL);
}

/* Wakes the pool, if it wants to be woken: at most once for each time it sleeps. */
static void wake_pool(void)
{
    if (atomic_exchange(&me.shared->wake_at, MP__NO_WAKE) != MP__NO_WAKE &&
        write(me.wake, "", 1) < 0)
        errno = 0; /* full: it is being woken */
}

/* Wakes the pool if it waits for this answer: claiming or idling came between, and orders. */
static void wake_pool_after(uint64_t item)
{
    if (item + 1 >= atomic_load(&me.shared->wake_at))
        wake_pool();
}

/* What the pool keeps room for in the ring: an error may need more than the value would. */
static size_t inline_max(void)
{
    bool small =
        mp__is_raw((enum mp__slot_type)me.task.out_type) && me.task.out_size < MP__INLINE_MAX;

    return small ? me.task.out_size : MP__INLINE_MAX;
}

/* One that does not fit into the ring, which gets a marker for it. */
static void answer_outside(
    enum mp__wire_kind kind, uint64_t item, const void *data, size_t size, const mp__parcel *parcel)
{
    mp__frame frame = { .kind = (uint8_t)kind, .size = size, .item = item };

    frame.fds = parcel ? (uint16_t)parcel->count : 0;
    mp__ring_put(&me.ring, MP__WIRE_EXTERNAL, item, NULL, 0);
    send_frame(&frame, data, parcel);
}

static void answer(
    enum mp__wire_kind kind, uint64_t item, const void *data, size_t size, const mp__parcel *parcel)
{
    if (size > inline_max() || (parcel && parcel->count)) {
        answer_outside(kind, item, data, size, parcel);
    } else if (kind == MP__WIRE_RAW) {
        mp__ring_put_raw(&me.ring, item, me.task.item + me.task.count, data, size);
    } else {
        mp__ring_put(&me.ring, kind, item, data, size);
    }
}

static void answer_error(uint64_t item, const mp__wire_error *error)
{
    answer(MP__WIRE_ERROR, item, error, offsetof(mp__wire_error, text) + strlen(error->text) + 1,
        NULL);
}

/* Why a function failed: what it raised, or the last error it met. */
static void explain(const mp_call *call, int code, int encoding_error, mp__wire_error *why)
{
    const mp_error *last = mp_last_error();
    char *text = why->text;

    *why = (mp__wire_error){ .code = MP_ERAISED, .raised = code };
    if (call->raised.code) {
        why->raised = call->raised.code;
        (void)snprintf(text, sizeof(why->text), "%s", call->raised.text);
    } else if (encoding_error) {
        why->code = MP_EENCODING;
        (void)snprintf(text, sizeof(why->text), "its answer cannot be packed: %.420s", last->text);
    } else if (last->code) {
        (void)snprintf(text, sizeof(why->text), "it returned %d; the last error was: %.420s", code,
            last->text);
    } else {
        (void)snprintf(text, sizeof(why->text), "it returned %d", code);
    }
}

static int take_raw(msgpack_object value)
{
    int r = me.out.capacity < me.task.out_size ? mp__buffer_reserve(&me.out, me.task.out_size) : 0;

    if (r == 0)
        r = mp__store((enum mp__slot_type)me.task.out_type, me.task.out_size, &value, me.out.data);
    if (r == 0) {
        me.out.size = me.task.out_size;
        me.out_kind = MP__WIRE_RAW;
    }
    return r;
}

static int take_value(msgpack_object value)
{
    int r;

    me.out.size = 0;
    me.out_parcel.count = 0;
    r = mp__value_pack(value, &me.out, &me.out_parcel);
    if (r == 0)
        r = mp__parcel_own(&me.out_parcel); /* what is returned may be freed before it is sent */
    if (r < 0)
        me.out_parcel.count = 0;
    else
        me.out_kind = MP__WIRE_VALUE;
    return r;
}

/* What mp_return gives. Without a place for it, it is checked and dropped. */
static int take_answer(mp_call *call, msgpack_object value)
{
    int r = mp__is_raw((enum mp__slot_type)me.task.out_type) ? take_raw(value) : take_value(value);

    (void)call;
    me.encoding_error = r;
    if (r == 0 && me.task.out_type == MP__SLOT_SKIP) {
        mp__parcel_close(&me.out_parcel);
        me.out.size = 0;
        me.out_kind = MP__WIRE_NONE;
    }
    return r;
}

/* ---- running ---- */

/* From here on the item is ours; false: the pool has taken it back. */
static bool claim(uint64_t item)
{
    uint64_t next = item;

    if (me.task.timed) { /* before: also who is stopped right after it can be late */
        int64_t now = mp__clock_now();

        atomic_store(&me.shared->begun_at, now);
        atomic_store(&me.shared->begun, item);
        me.call.soft_expiry = me.task.soft_limit ? now + me.task.soft_limit : 0;
    } else {
        me.call.soft_expiry = 0;
    }
    return atomic_compare_exchange_strong(&me.shared->claim, &next, item + 1);
}

static void answer_failure(uint64_t item, int code)
{
    const char *lacking = me.functions[me.task.function].why;
    mp__wire_error why = { .code = MP_EFUNCTION };

    if (lacking)
        (void)snprintf(why.text, sizeof(why.text), "%s", lacking);
    else
        explain(&me.call, code, me.encoding_error, &why);
    answer_error(item, &why);
}

/* What an item used and may have grown. */
static void tidy_up(void)
{
    if (me.out_parcel.count)
        mp__parcel_close(&me.out_parcel);
    if (me.out.capacity > KEEP_MAX)
        mp__buffer_done(&me.out);
    me.out_kind = MP__WIRE_NONE;
    me.out.size = 0;
}

static void run(uint64_t item)
{
    const struct function *function = &me.functions[me.task.function];
    int code;

    me.encoding_error = 0;
    me.call.raised.code = 0;
    me.call.answered = false;
    me.call.index = (size_t)(me.task.index + (item - me.task.item));
    if (me.last->code)
        mp_clear_error();
    code = function->why ? MP_EFUNCTION : function->call(&me.call);
    if (me.fd < 0) /* a copy of the worker that the function made */
        mp__child_end(code);
    if (!code && !me.call.answered && mp__is_raw((enum mp__slot_type)me.task.out_type))
        code = mp_raise(&me.call, MP_ECOUNT, "it returned no value, and one is expected");
    if (code)
        answer_failure(item, code);
    else
        answer(me.out_kind, item, me.out.data, me.out.size, &me.out_parcel);
    tidy_up();
}

/* ---- reading ---- */

/* Nothing to do: everything that was made is let go first. */
static void idle(void)
{
    (void)fflush(stdout); /* a full disk is the business of whoever wrote */
    wake_pool();
}

/* The pool has others to start: no looking, and no memory before there is something to read. */
static void wait_for_first(void)
{
    wake_pool();
    (void)mp__fd_wait(me.fd, POLLIN, MP__NEVER); /* an interrupt is no matter: reading waits, too */
}

/* At least one byte more, or false at the end. */
static bool read_more(void *data, size_t size, size_t *got)
{
    bool lost = false;
    ssize_t n = mp__spin_receive(&me.spin, me.fd, data, size, me.came.fds, &me.came.count, &lost);

    if (n < 0 && n != MP_ECONNRESET)
        give_up();
    if (lost) {
        (void)mp__fail(MP_EMFILE, "descriptors of a task were lost: too many are open");
        give_up();
    }
    *got = n > 0 ? (size_t)n : 0;
    return n > 0;
}

/* Has size bytes in one piece, at the place that is returned; NULL at the end. */
static const void *need(size_t size)
{
    size_t got;

    if (me.in.size - me.in_done >= size)
        return me.in.data + me.in_done;
    if (me.in_done) {
        memmove(me.in.data, me.in.data + me.in_done, me.in.size - me.in_done);
        me.in.size -= me.in_done;
        me.in_done = 0;
    }
    if (!me.in.capacity)
        wait_for_first();
    got = me.in.capacity ? READ_SIZE : FIRST_SIZE;
    if (mp__buffer_reserve(&me.in, size > got ? size : got) < 0)
        give_up();
    while (me.in.size < size) {
        if (!me.in.size)
            idle();
        if (!read_more(me.in.data + me.in.size, me.in.capacity - me.in.size, &got))
            return NULL;
        me.in.size += got;
    }
    return me.in.data;
}

/* The body of a frame into bytes, with room for one more. False at the end. */
static bool read_body(uint64_t size, mp__buffer *bytes)
{
    size_t have = me.in.size - me.in_done, got;

    if (have > size)
        have = (size_t)size;
    bytes->size = 0;
    if (mp__buffer_append(bytes, me.in.data + me.in_done, have) < 0)
        give_up();
    me.in_done += have;
    for (; bytes->size < size; bytes->size += got) {
        size_t wanted = bytes->capacity >= GROW_SIZE ? 2 * bytes->capacity : GROW_SIZE;

        if (bytes->size == bytes->capacity &&
            mp__buffer_reserve(bytes, wanted < size + 1 ? wanted : (size_t)size + 1) < 0)
            give_up();
        wanted = bytes->capacity - bytes->size;
        if (wanted > size - bytes->size)
            wanted = (size_t)(size - bytes->size);
        if (!read_more(bytes->data + bytes->size, wanted, &got))
            return false;
    }
    if (mp__buffer_reserve(bytes, (size_t)size + 1) < 0)
        give_up();
    return true;
}

static bool read_function(const mp__frame *frame)
{
    struct function *more = realloc(me.functions, (me.function_count + 1) * sizeof(*more));
    mp__buffer bytes = { 0 };
    mp__function description;
    void (*found)(void) = NULL;
    char *why = NULL;
    bool there = read_body(frame->size, &bytes);

    if (!more)
        (void)mp__fail(MP_ENOMEM, "out of memory for a function");
    if (!more || (there && mp__function_decode(bytes.data, bytes.size, &description) < 0))
        give_up();
    me.functions = more;
    if (there && mp__function_find(&description, &found) < 0) {
        why = strdup(mp_last_error()->text);
        if (!why)
            give_up();
    }
    me.functions[me.function_count++] = (struct function){ (mp_function)found, why };
    mp__buffer_done(&bytes);
    return there;
}

/* The first descriptors that came become those of this item. */
static void take_descriptors(size_t count)
{
    mp__parcel parcel = { .count = count };

    if (count > me.came.count) {
        (void)mp__fail(MP_EPROTOCOL, "a task lacks the descriptors of its handles");
        give_up();
    }
    memcpy(parcel.fds, me.came.fds, count * sizeof(*parcel.fds));
    me.came.count -= count;
    memmove(me.came.fds, me.came.fds + count, me.came.count * sizeof(*me.came.fds));
    if (mp__message_take(&me.call.arguments, &parcel) < 0)
        give_up();
}

/* One item whose arguments are a packed list. */
static bool run_value(void)
{
    mp__message *own = mp__message_own(&me.call.arguments);
    mp__wire_error why = { .code = 0 };

    if (!own)
        give_up();
    if (!read_body(me.task.size, &own->bytes))
        return false;
    take_descriptors(me.task.fds);
    if (claim(me.task.item)) {
        why.code = mp__value_decode(&me.call.arguments);
        if (why.code == 0) {
            run(me.task.item);
        } else {
            (void)snprintf(why.text, sizeof(why.text), "%s", mp_last_error()->text);
            answer_error(me.task.item, &why);
        }
    }
    mp__message_reset(&me.call.arguments);
    mp__buffer_reset(&own->bytes, KEEP_MAX);
    return true;
}

/* Items as they lay in the array. */
static bool run_raw(void)
{
    msgpack_object argument = mp_none();
    bool ours = true;

    me.call.arguments.value = mp__list(1, &argument);
    for (uint32_t i = 0; i < me.task.count; i++) {
        uint64_t item = me.task.item + i;
        const void *data = me.in.size - me.in_done >= me.task.in_size ? me.in.data + me.in_done
                                                                      : need(me.task.in_size);

        if (!data)
            return false;
        mp__load((enum mp__slot_type)me.task.in_type, me.task.in_size, data, &argument);
        ours = ours && claim(item);
        if (i)
            wake_pool_after(item - 1);
        if (ours)
            run(item);
        me.in_done += me.task.in_size;
    }
    me.call.arguments.value = mp_none();
    return true;
}

/* False when there are no more: the pool said so, or is gone. */
static bool serve_one(void)
{
    const void *head = need(sizeof(mp__frame));
    bool go_on;

    if (!head)
        return false;
    memcpy(&me.task, head, sizeof(me.task));
    me.in_done += sizeof(me.task);
    switch (me.task.kind) {
    case MP__WIRE_FUNCTION:
        return read_function(&me.task);
    case MP__WIRE_TASK:
        go_on = mp__is_raw((enum mp__slot_type)me.task.in_type) ? run_raw() : run_value();
        atomic_thread_fence(memory_order_seq_cst); /* between the last answer and the look */
        wake_pool_after(me.task.item + me.task.count - 1);
        return go_on;
    default:
        return false;
    }
}

/* ---- beginning ---- */

_Thread_local const mp__seed *mp__pool_seed;

static void stay(int sig)
{
    (void)
        sig; /* Ctrl-C is for the parent: it ends its workers. exec makes this the default again */
}

static int initialize(const mp__function *description, msgpack_object arguments)
{
    mp__wire_error why = { .code = 0 };
    mp_call call = { .arguments = { .value = arguments } };
    void (*function)(void) = NULL;
    int r = mp__function_find(description, &function);

    if (r == 0) {
        mp_clear_error();
        r = ((mp_function)function)(&call);
    }
    if (r) {
        explain(&call, r, 0, &why);
        send_plain(MP__WIRE_REFUSED, &why, sizeof(why));
    }
    return r;
}

/*
 * A child of ours that a task starts is no worker, or one of another pool; a copy that the
 * task makes by hand is none either, and ends when it returns from there.
 */
static void after_fork(bool ours)
{
    mp__fd_drop(&me.fd);
    mp__fd_drop(&me.wake);
    if (!ours)
        return;
    mp__shm_unmap(me.shared, sizeof(*me.shared));
    mp__parcel_close(&me.came);
    mp__parcel_close(&me.out_parcel);
    mp__buffer_done(&me.in);
    mp__buffer_done(&me.out);
    for (size_t i = 0; i < me.function_count; i++)
        free(me.functions[i].why);
    free(me.functions);
    me.index = -1;
    me.shared = NULL;
    me.functions = NULL;
    me.function_count = me.in_done = 0;
    me.ring = (mp__ring){ .shared = NULL };
}

static int receive_seed(mp_call *call, mp__seed *seed)
{
    mp_connection *channel, *memory, *wake;
    void *shared = NULL;
    int fd, r;

    r = mp_unpack(
        call, &channel, &memory, &wake, &seed->index, &seed->initializer, &seed->initargs);
    if (r < 0)
        return r;
    fd = mp__connection_detach(mp_connection_keep(memory));
    r = mp__shm_map(fd, sizeof(*seed->shared), &shared);
    mp__fd_close(fd);
    if (r < 0)
        return r;
    seed->shared = shared;
    seed->fd = mp__connection_detach(mp_connection_keep(channel));
    seed->wake = mp__connection_detach(mp_connection_keep(wake));
    return 0;
}

static int begin(mp_call *call)
{
    struct sigaction calm = { .sa_handler = stay, .sa_flags = SA_RESTART };
    mp__function initializer;
    mp__seed seed;
    int r = 0;

    if (mp__pool_seed)
        seed = *mp__pool_seed;
    else
        r = receive_seed(call, &seed);
    if (r < 0)
        return r;
    mp__pool_seed = NULL; /* not for our children */
    me.fd = seed.fd;
    me.wake = seed.wake;
    me.ring.shared = me.shared = seed.shared;
    me.index = seed.index;
    me.call.answer = take_answer;
    me.last = mp_last_error();
    me.out_kind = MP__WIRE_NONE;
    mp__message_reset(&me.call.arguments); /* if we are a copy of a worker */
    mp__hooks_after_fork(after_fork);
    (void)sigaction(SIGINT, &calm, NULL);
    if (seed.initializer.data && seed.initializer.size) {
        r = mp__function_decode(seed.initializer.data, seed.initializer.size, &initializer);
        if (r == 0)
            r = initialize(&initializer, seed.initargs);
    }
    return r;
}

int mp__pool_worker(mp_call *call)
{
    if (begin(call) != 0) {
        (void)fflush(NULL);
        return 1;
    }
    send_plain(MP__WIRE_READY, NULL, 0);
    while (serve_one())
        continue;
    (void)fflush(stdout);
    wake_pool();
    return 0;
}
