/* SPDX-License-Identifier: MIT
 *
 * pool_internal.h - a pool from within. Everything here happens with pool->lock
 * held, unless it says otherwise.
 */
#ifndef MP__POOL_INTERNAL_H
#define MP__POOL_INTERNAL_H

#include <poll.h>
#include <pthread.h>

#include <multiprocessing/pool.h>
#include <multiprocessing/process.h>

#include "connection_internal.h"
#include "pool_wire_internal.h"
#include "spin_internal.h"
#include "value_internal.h"

/* ---- work ---- */

/* Items of a result, in a row. */
typedef struct mp__span {
    size_t first, count;
} mp__span;

/* An item of an imap from when it was read until it is fetched. */
typedef struct mp__imap_item {
    size_t index;
    mp__buffer packed;  /* its arguments */
    mp__parcel *parcel; /* their descriptors, or NULL */
    mp_message value;   /* its answer */
    mp_task_error error;
    bool answered;
} mp__imap_item;

/* A retry that was used up, once or more. */
typedef struct mp__attempt {
    size_t index;
    int count;
} mp__attempt;

struct mp_result {
    unsigned refs; /* its user, the pool until it is ready, each worker that has items of it */
    mp_pool *pool; /* held */
    mp_task_options options;
    uint32_t function;              /* its number in the pool */
    int64_t time_limit, soft_limit; /* nanoseconds, or 0 */
    bool single, spread, timed;
    mp__buffer packed; /* of a single task: its arguments */
    mp__parcel *parcel;
    mp_message value;     /* and its answer */
    mp__imap_item *items; /* of an imap: what is in its window; spans number its places */
    size_t *order;        /* of an imap that is not ordered: places as they were answered */
    size_t order_first, order_count, window;

    mp__span *spans; /* to be handed out, the first one first */
    size_t span_first, span_count, span_capacity;
    size_t waiting; /* items in them */
    size_t total, answered;
    mp__attempt *attempts;
    size_t attempt_count;
    double item_ns; /* how long one takes, about; 0: not known */

    mp_task_error error; /* of the failed item with the lowest index */
    bool failed;
    bool settled;       /* nothing changes it any more; when its callback has run, it is ready */
    bool ready, called; /* called: its callback has begun */
    mp_result *previous, *next; /* in pool->work, then in pool->done */
};

/* ---- workers ---- */

typedef struct mp__assignment {
    mp_result *work;
    size_t first, count; /* what is not answered yet */
    uint64_t item;       /* the worker's number for first */
    size_t room;         /* in the ring, for one answer */
} mp__assignment;

enum mp__worker_state {
    MP__WORKER_VACANT,   /* to be started */
    MP__WORKER_STARTING, /* its initializer runs */
    MP__WORKER_READY,
    MP__WORKER_LEAVING /* it was told to stop */
};

typedef struct mp__worker {
    enum mp__worker_state state;
    int index;
    mp_process *process;
    mp_connection *channel;
    mp__pool_shared *shared;
    int fd;                    /* of channel */
    uint64_t sent, tail;       /* items handed out; bytes of the ring that were read */
    size_t room;               /* of the ring that is spoken for */
    size_t run_size, run_left; /* of the run that is being read */
    size_t in_flight;
    uint32_t functions; /* it knows so many */
    size_t given;       /* items in its life */
    bool began;         /* one at least: answered, or lost with it */
    bool proven;        /* that was noted */
    uint64_t seen;      /* tail when the driver went to sleep */
    int64_t since;      /* of the last answer, or of the task that ended its idleness */
    int doomed;         /* killed by the pool: why */
    bool dying;         /* its process has ended: all it said is read */
    bool corrupt;       /* what it says makes no sense: it is not read any more */
    bool stuck;         /* its socket is full */
    mp__assignment *queue;
    size_t queue_first, queue_count, queue_capacity;

    mp__buffer out; /* frames to be sent */
    size_t out_done;
    const char *big; /* behind them: a body that is not copied */
    size_t big_size;
    mp__buffer big_own; /* it, unless it belongs to big_work */
    mp_result *big_work;
    mp__parcel out_fds; /* descriptors for the first byte of out */
    bool owns_fds;      /* they are not lent */

    mp__frame frame; /* that comes */
    size_t frame_have;
    mp__buffer body, value;
    mp__parcel came;
    bool lost_fds, external, wanted; /* external: body is an answer the ring has a marker for */
    char refusal[480];
} mp__worker;

/* ---- the pool ---- */

enum mp__pool_state { MP__POOL_RUNNING, MP__POOL_CLOSED, MP__POOL_ENDED };

/* What workers call by number. */
struct mp__known_function {
    mp_function call;
    mp__buffer description;     /* encoded */
    unsigned long long unloads; /* when it was last seen to be that */
};

struct mp_pool {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* something became ready, or nobody drives any more */
    unsigned refs;          /* its owner, its thread, results */
    pid_t creator;
    enum mp__pool_state state;
    bool broken, driving, ticking;
    int64_t lacking_since; /* memory, for handing out; 0: it does not */
    unsigned claimants;    /* threads that want the role to end the pool */
    pthread_t driver;
    const mp_context *context;
    struct mp__server *nursery; /* under fork: who forks replacements; NULL: it is gone */
    mp_message initargs;
    mp__buffer initializer; /* encoded; empty: none */
    int maxtasksperchild;
    size_t count;
    mp__worker *workers;
    unsigned failures; /* workers in a row that ended without having begun an item */
    int64_t retry_at;  /* when a start that failed is tried again */
    char reason[480];  /* of the last failure */
    struct mp__known_function *functions;
    uint32_t function_count;
    mp_result *work, *work_last; /* not ready, oldest first */
    mp_result *done, *done_last; /* waiting for their callbacks */
    mp_result *calling;          /* whose callback runs, on this thread: */
    pthread_t caller;
    mp_result *wanted; /* what that callback waits for */
    unsigned nested;   /* callbacks that have begun and not ended */
    mp__buffer scratch;
    struct pollfd *fds;
    mp__spin spin;
    int wake;             /* readable: the driver is to wake up */
    mp_connection *waker; /* the other end: every worker gets it */
    int news[2];          /* mp_pool_fileno */
    bool has_thread, thread_stops, freed;
    pthread_t thread;
    mp_pool *previous, *next; /* of all pools of this process, under mp__lock */
};

static inline bool mp__is_here(pthread_t thread)
{
    return pthread_equal(thread, pthread_self()) != 0;
}

/* ---- pool_work.c: items and their answers ---- */

/* NULL, with the reason as last error. Holds pool. total: how many items. */
mp_result *mp__work_new(mp_pool *pool, const mp_task_options *options, size_t total);
void mp__work_hold(mp_result *work);
void mp__work_drop(mp_result *work); /* releases it when nobody else holds it */

/* Enters it among the pool's work, or, without items, as done. */
void mp__work_enter(mp_result *work);

/* The next one whose callback is to be called; then it becomes ready, and is let go. Or NULL. */
mp_result *mp__work_next_done(mp_pool *pool, bool wanted_only);
void mp__work_ready(mp_result *work);

/* Items to be handed out (again): first of all, or last of all. 0 or MP_ENOMEM. */
int mp__work_return(mp_result *work, size_t first, size_t count);
int mp__work_append(mp_result *work, size_t first, size_t count);

/* Takes up to max items in a row: how many. */
size_t mp__work_take(mp_result *work, size_t max, size_t *first);

/*
 * Duplicates of descriptors that were lent, kept until they are freed; none: NULL stays.
 * No copy of this process has them.
 */
int mp__work_keep_parcel(mp__parcel **parcel, const mp__parcel *lent);
void mp__work_free_parcel(mp__parcel **parcel);

/* An item of an array as a value that lends what it points to. */
msgpack_object mp__work_element(const mp_items *in, size_t index);

/*
 * The arguments of an item as bytes, lent: in the array, packed before, or packed
 * now into scratch. 0, or why they cannot be packed.
 */
int mp__work_pack(mp_result *work, size_t first, mp__buffer *scratch, mp__parcel *parcel,
    const void **data, size_t *size);

/* An answer: the value, in bytes whose memory may be taken. False: it is nonsense. */
bool mp__work_answer(
    mp_result *work, size_t place, enum mp__wire_kind kind, mp__buffer *bytes, mp__parcel *parcel);

/* The same for count items in a row, as they lie in the array. */
bool mp__work_answer_run(
    mp_result *work, size_t first, const void *data, size_t size, size_t count);

/* An imap has no more items than these. */
void mp__work_end(mp_result *work, size_t total);

/* The item failed; completes the record. */
void mp__work_fail(mp_result *work, size_t place, mp_task_error *error);

/* Whether its items travel as they lie in the array. */
static inline bool mp__work_is_raw(const mp_result *work)
{
    return mp__is_raw(work->options.in.type) && !work->single && !work->items;
}

/* Whether an item whose worker was lost may be begun again. */
bool mp__work_retry(mp_result *work, size_t place);

/* Makes it ready with that failure of the whole; its items are dropped. */
void mp__work_abandon(mp_result *work, int code, const char *text);

/* Items that cannot be handed out again, ever, since the memory for that is lacking. */
void mp__work_lose(mp_result *work, size_t first, size_t count);

/* ---- pool_crew.c: how workers begin and end ---- */

int mp__crew_start(mp_pool *pool, mp__worker *worker);

/* Kills it for the sake of the item it runs, or because what it says is nonsense. */
void mp__crew_kill(mp__worker *worker, int code);

/* Its process has ended: settles what it had. */
void mp__crew_bury(mp_pool *pool, mp__worker *worker);

/* A worker ended without having begun an item, or could not be started. */
void mp__crew_count_failure(mp_pool *pool);

/* Forgets it; its items must be settled or of no interest. */
void mp__crew_clear(mp__worker *worker);

/* Kills what runs longer than it may; returns when to look again, or MP__NEVER. */
int64_t mp__crew_check_limits(mp_pool *pool);

/* Takes back what workers have of this work, and kills those that run it. */
void mp__crew_cancel(mp_pool *pool, mp_result *work);

/* ---- pool_send.c: frames, and the items a worker has ---- */

/* The row its first item is in, or NULL. */
static inline mp__assignment *mp__crew_head(mp__worker *worker)
{
    return worker->queue_count ? &worker->queue[worker->queue_first] : NULL;
}

/* Its first items, of one row, are settled. */
void mp__crew_pop(mp__worker *worker, size_t count);

/* Returns its items from that number on to their work. */
void mp__crew_give_back(mp__worker *worker, uint64_t item);

/* Takes back what it has not begun, and how much that is. */
void mp__crew_take_back(mp__worker *worker);
size_t mp__crew_unbegun(const mp__worker *worker);

/* Sends what it can without waiting; whether that was all. */
void mp__crew_flush(mp_pool *pool, mp__worker *worker);
bool mp__crew_is_sent(const mp__worker *worker);

/* What was to be sent is of no use any more. */
void mp__crew_drop_big(mp__worker *worker);
void mp__crew_drop_fds(mp__worker *worker);

/* Bytes of the ring that an answer may need. */
size_t mp__crew_room_for(const mp_result *work);

/* Puts items taken from work into frames: n in a row if they are raw, else one. 0, MP_EAGAIN or why not. */
int mp__crew_put(mp_pool *pool, mp__worker *worker, mp_result *work, size_t first, size_t n);

void mp__crew_stop(mp_pool *pool, mp__worker *worker); /* tells it to exit */

/* ---- pool_dispatch.c: who gets what ---- */

/* Hands items to workers, as many as is good for them. */
void mp__crew_dispatch(mp_pool *pool);

/* Says when it shall wake the pool. True if it would not for its next answer. */
bool mp__crew_arm(mp_pool *pool, mp__worker *worker);

/* ---- pool_answers.c ---- */

/* Reads what it has said; readable: over the socket too. Ends it if that is nonsense. */
void mp__crew_look(mp_pool *pool, mp__worker *worker, bool readable);

/* ---- pool.c: holding ---- */

/* 0, MP_EINVAL, MP_ECREATOR. Then it is locked. */
int mp__pool_enter(mp_pool *pool);

/* Whether it takes tasks. 0, MP_ECLOSED or MP_EBROKEN. */
int mp__pool_check_open(const mp_pool *pool);

/* Whether an array can be the input of a map or imap: 0, MP_EINVAL or MP_ETYPE. */
int mp__pool_check_items(const mp_items *in);

void mp__pool_drop(mp_pool *pool); /* one holder less; gives up the lock */

/* The number of a function, described once. 0 or MP_EFUNCTION, MP_ENOMEM. */
int mp__pool_function(mp_pool *pool, mp_function function, uint32_t *number);

/* Lets the driver and those who wait look again. */
void mp__pool_announce(mp_pool *pool);

/* ---- pool_drive.c: driving ---- */

/* Unlocks; sees to it that the driver knows what was handed out meanwhile. */
void mp__pool_leave(mp_pool *pool);

/* Does the pool's work until done(argument). 0, MP_ETIMEDOUT or MP_EINTR. */
int mp__pool_drive(mp_pool *pool, bool (*done)(void *argument), void *argument, int64_t deadline);

void mp__pool_poke(mp_pool *pool); /* ends the sleep of the driver */
void mp__pool_take_role(mp_pool *pool);
void mp__pool_leave_role(mp_pool *pool);

/* Calls one callback, if there is one and this thread may. Without the lock. */
bool mp__pool_call_back(mp_pool *pool);

void mp__pool_abandon_all(mp_pool *pool, int code, const char *text);
void mp__pool_dismiss(mp_pool *pool); /* a closed pool without work lets its workers go */

/* Starts the thread that drives when nobody waits, once. 0 or a code. */
int mp__pool_ensure_thread(mp_pool *pool);
void mp__pool_stop_thread(mp_pool *pool); /* the lock is given up meanwhile */

#endif
