/* SPDX-License-Identifier: MIT
 *
 * pool.h - a pool of worker processes, Python's multiprocessing.Pool.
 *
 * Every item gets exactly one answer, whatever dies: the item a worker had begun
 * when it died fails (or is tried again, .retries); what it had not begun is run
 * elsewhere; a new worker takes its place.
 *
 * A pool belongs to the process that made it, any thread of which may use it; in
 * other processes, its own workers too, calls are MP_ECREATOR. Functions marked
 * "waits" drive the pool while they wait. The first asynchronous call (an _async,
 * or mp_pool_fileno) starts one thread that drives it when nobody waits; it lives as
 * long as the pool, also when main() ends by pthread_exit.
 *
 * Callbacks run one at a time, on that thread or on one that waits. They may call
 * everything here: for the callback its result is ready, for others it is when the
 * callback has returned. Only mp_pool_join is refused (MP_EDEADLOCK). As long as a
 * callback lasts, the pool goes on only if another thread waits for something of it.
 *
 * Workers are daemons named "ForkPoolWorker-3". They leave SIGINT (Ctrl-C) to
 * their parent and end with it, however it ends. Under fork a worker that is
 * started later, as a replacement, is a copy of the program as it was when the
 * pool was made (as it is then, should the process that keeps the copy be killed).
 */
#ifndef MULTIPROCESSING_POOL_H
#define MULTIPROCESSING_POOL_H

#include <multiprocessing/clock.h>
#include <multiprocessing/connection.h>
#include <multiprocessing/context.h>
#include <multiprocessing/value.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mp_pool mp_pool;
typedef struct mp_result mp_result; /* Python's AsyncResult */
typedef struct mp_imap mp_imap;     /* Python's IMapIterator */

/* ---- making and ending a pool ---- */

typedef struct mp_pool_options {
    int _kw;
    int processes;             /* how many workers; 0: mp_cpu_count() */
    mp_function initializer;   /* called once in each worker before its first item */
    msgpack_object initargs;   /* its arguments: MP_ARGS(...) */
    int maxtasksperchild;      /* a worker is replaced after so many items; 0: never */
    const mp_context *context; /* NULL: the default one */
} mp_pool_options;

/*
 * Makes a pool and starts its workers, like Pool(): mp_pool_new(.processes = 4).
 * An initializer that returns anything but 0 (mp_raise says why) fails its
 * worker; when 3 + processes workers in a row end without having begun an item,
 * the pool is broken: all that waits fails with MP_EBROKEN and the reason.
 *
 * Returns NULL, with nothing left behind, on MP_EINVAL (a negative number) and
 * whatever mp_process_start fails with.
 */
#define mp_pool_new(...) mp_pool_create(&(const mp_pool_options){ ._kw = 0, __VA_ARGS__ })
MP_API mp_pool *mp_pool_create(const mp_pool_options *options);

/*
 * No more tasks, like close(): what was given is done, then the workers exit, by
 * way of their mp_atexit functions. Again, or after terminate: nothing happens.
 */
MP_API int mp_pool_close(mp_pool *pool);

/*
 * Ends the workers now, like terminate(): SIGTERM, then SIGKILL. Returns when
 * they are gone, within a second. What was not answered fails with MP_ETERMINATED.
 */
MP_API int mp_pool_terminate(mp_pool *pool);

/*
 * Waits until all workers of a closed (or terminated) pool have ended, like join().
 * An imap must be fetched to its end or freed for that, by another thread or before.
 *
 * Returns 0, MP_ETIMEDOUT (call again), MP_EINTR, MP_ERUNNING: call close or
 * terminate first, or MP_EDEADLOCK in a callback of this pool.
 */
MP_API int mp_pool_join(mp_pool *pool, double timeout);

/*
 * Ends the pool in whatever state and releases it, within a second; idle workers
 * exit by way of their mp_atexit functions. Results and imaps stay to be freed.
 * NULL is allowed. In a callback: the pool is terminated, and released after it.
 */
MP_API void mp_pool_free(mp_pool *pool);

/* How many workers it keeps. */
MP_API int mp_pool_processes(const mp_pool *pool);

/* In a worker: which of the pool's places it has, 0 to processes - 1. Elsewhere -1. */
MP_API int mp_pool_worker_index(void);

/*
 * Writes at most capacity pids of the workers that live, and returns how many
 * there are.
 */
MP_API size_t mp_pool_pids(mp_pool *pool, pid_t *pids, size_t capacity);

/* ---- items ---- */

/*
 * Produces the next item of an imap: calls mp_return(item, value) and returns 0,
 * or returns MP_EEOF when there are no more, or an error, which is then the last
 * answer. Called only from within mp_pool_imap and mp_imap_next of its iterator.
 */
typedef int (*mp_generator)(void *state, mp_call *item);

/* Many values in a row, for input or output. Made by MP_ITEMS or MP_GENERATE. */
typedef struct mp_items {
    enum mp__slot_type type;
    size_t size;
    void *data;
    size_t count;
    mp_generator generate;
} mp_items;

#ifndef __cplusplus
/*
 * MP_ITEMS(array, n): n items. As input: integers of every width, bool, float,
 * double, char * (text), handles (mp_connection *, mp_lock * and the like),
 * msgpack_object (anything), any other type as the bytes of a struct, an array of char
 * among them. What other pointers point to does not travel (MP_ETYPE). As output: numbers and structs, or mp_message
 * (anything; each is the caller's, starts as MP_MESSAGE_INIT and is cleared by it).
 */
#define MP_ITEMS(array, n) \
    ((mp_items){ .type = _Generic(*(array),                                                        \
                     bool: MP__SLOT_BOOL,                                                          \
                     char: (char)-1 < 0 ? MP__SLOT_SIGNED : MP__SLOT_UNSIGNED,                     \
                     signed char: MP__SLOT_SIGNED,                                                 \
                     short: MP__SLOT_SIGNED,                                                       \
                     int: MP__SLOT_SIGNED,                                                         \
                     long: MP__SLOT_SIGNED,                                                        \
                     long long: MP__SLOT_SIGNED,                                                   \
                     unsigned char: MP__SLOT_UNSIGNED,                                             \
                     unsigned short: MP__SLOT_UNSIGNED,                                            \
                     unsigned int: MP__SLOT_UNSIGNED,                                              \
                     unsigned long: MP__SLOT_UNSIGNED,                                             \
                     unsigned long long: MP__SLOT_UNSIGNED,                                        \
                     float: MP__SLOT_FLOAT,                                                        \
                     double: MP__SLOT_FLOAT,                                                       \
                     char *: MP__IS_ARRAY(*(array)) ? MP__SLOT_STRUCT : MP__SLOT_TEXT,             \
                     const char *: MP__IS_ARRAY(*(array)) ? MP__SLOT_STRUCT : MP__SLOT_TEXT,       \
                     msgpack_object: MP__SLOT_OBJECT,                                              \
                     mp_message: MP__SLOT_MESSAGE,                                                 \
                     MP__HANDLES(MP__HANDLE_ITEM)                                                  \
                     default: MP__IS_POINTER(*(array)) ? MP__SLOT_POINTER : MP__SLOT_STRUCT),      \
        .size = sizeof(*(array)),                                                                  \
        .data = (void *)(uintptr_t)(array),                                                        \
        .count = (size_t)(n) })

/* The items that function(state, item) produces, one after the other: for imap. */
#define MP_GENERATE(function, state_) \
    ((mp_items){ .type = MP__SLOT_SKIP, .data = (state_), .generate = (function) })
#endif

/* ---- what went wrong ---- */

/* The record of an item that failed. */
typedef struct mp_task_error {
    int code;     /* MP_ERAISED, MP_EWORKERLOST, MP_ETIMELIMIT, MP_EENCODING, ...; 0: no error */
    int raised;   /* MP_ERAISED: the code given to mp_raise, or what the function returned */
    size_t index; /* of the item */
    char function[64]; /* its name as written in the call */
    char worker[64];   /* "ForkPoolWorker-3", "" if no worker had it */
    long pid;
    int exitcode;   /* of a worker that was lost, as mp_process_exitcode */
    double seconds; /* how long the item had run, as far as is known */
    char text[480]; /* the whole, as a sentence */
} mp_task_error;

/* ---- single tasks ---- */

/* On which thread: see above. user is what was given as .user. */
typedef void (*mp_callback)(mp_result *result, void *user);
typedef void (*mp_progress)(size_t done, size_t total, void *user);

/* Keywords of all calls that give work to a pool; each says which count for it. */
typedef struct mp_task_options {
    const char *name; /* of the function, for error records; set by the macros */
    mp_function function;
    msgpack_object args; /* of apply */
    mp_message *answer;  /* of apply */
    mp_items in, out;    /* of map and imap */
    int _kw;
    double timeout;             /* of a call that waits: seconds; 0: none; below: it is over */
    double soft_time_limit;     /* of one item: mp_call_expired() tells it; 0: none */
    double time_limit;          /* of one item: its worker is killed, MP_ETIMELIMIT; 0: none */
    int retries;                /* how often an item whose worker was lost is begun again */
    size_t chunksize;           /* of map: items handed out together; 0: as fits */
    int *status;                /* of map: an array that gets 0 or a code for each item */
    mp_task_error *error;       /* of a call that waits: gets the record of what failed */
    mp_callback callback;       /* of _async: the result is there */
    mp_callback error_callback; /* of _async: it failed */
    void *user;                 /* for callbacks and on_progress */
    bool progress;              /* of map: a bar on stderr */
    mp_progress on_progress;    /* of map: called as items are answered */
    size_t window;              /* of imap: items in work or waiting; 0: 16 a worker */
    bool spread;                /* of imap: items are lists of arguments, as in starmap */
} mp_task_options;

/*
 * Calls function(args) in a worker and waits for its answer, like apply():
 * mp_pool_apply(pool, f, MP_ARGS(10), &answer). What the function gave to
 * mp_return is answer->value; mp_unpack(&answer, &x) takes it. answer may be
 * NULL. Keywords: timeout, soft_time_limit, time_limit, retries, error.
 *
 * Returns 0, or
 *   MP_ERAISED      the function returned something other than 0, see mp_raise
 *   MP_EWORKERLOST  its worker died
 *   MP_ETIMELIMIT   it took longer than .time_limit
 *   MP_EENCODING    its answer could not be packed
 *   MP_ETIMEDOUT    .timeout is over: it is cancelled as by mp_result_cancel
 *   MP_ECLOSED      the pool takes no more tasks
 *   MP_EBROKEN, MP_ETERMINATED, MP_EINTR, MP_ECREATOR, MP_ENOMEM
 *   MP_EFUNCTION, MP_ETYPE, MP_ETOODEEP ...  the call cannot be sent
 */
#define mp_pool_apply(pool, function, ...) \
    mp_pool_apply_create((pool), MP__APPLY_OPTIONS(function, __VA_ARGS__))
MP_API int mp_pool_apply_create(mp_pool *pool, const mp_task_options *options);

/*
 * The same without waiting, like apply_async(): mp_pool_apply_async(pool, f,
 * MP_ARGS(10), .callback = done). Keywords: soft_time_limit, time_limit, retries,
 * callback, error_callback, user. Returns NULL when it cannot be sent.
 */
#define mp_pool_apply_async(pool, function, ...) \
    mp_pool_apply_async_create((pool), MP__APPLY_OPTIONS(function, __VA_ARGS__))
MP_API mp_result *mp_pool_apply_async_create(mp_pool *pool, const mp_task_options *options);

#define MP__APPLY_OPTIONS(f, ...) \
    (&(const mp_task_options){ .name = #f, .function = (f), .args = __VA_ARGS__ })

/* ---- maps ---- */

/*
 * Calls function once for each item and waits for all, like map():
 * mp_pool_map(pool, f, MP_ITEMS(in, n), MP_ITEMS(out, n)). out gets in order what
 * mp_return gave; it may be absent. starmap: each item is a list (in is an array
 * of msgpack_object), taken apart into the arguments. The arrays are lent until
 * the call returns (the result is ready). Keywords: all but args, answer, window.
 *
 * Every item is run, whatever happens to others. Returns 0 when all succeeded,
 * else the code of the first by index that failed, whose record .error gets; the
 * out of items that failed is untouched. MP_ETIMEDOUT, MP_EINTR: what was not
 * begun is not run, what runs is killed. Also MP_EINVAL: in and out do not match.
 */
#define mp_pool_map(pool, function, ...) \
    mp_pool_map_create((pool), MP__MAP_OPTIONS(function, __VA_ARGS__), false)
#define mp_pool_starmap(pool, function, ...) \
    mp_pool_map_create((pool), MP__MAP_OPTIONS(function, __VA_ARGS__), true)
MP_API int mp_pool_map_create(mp_pool *pool, const mp_task_options *options, bool spread);

#define mp_pool_map_async(pool, function, ...) \
    mp_pool_map_async_create((pool), MP__MAP_OPTIONS(function, __VA_ARGS__), false)
#define mp_pool_starmap_async(pool, function, ...) \
    mp_pool_map_async_create((pool), MP__MAP_OPTIONS(function, __VA_ARGS__), true)
MP_API mp_result *mp_pool_map_async_create(
    mp_pool *pool, const mp_task_options *options, bool spread);

#define MP__MAP_OPTIONS(f, ...) \
    (&(const mp_task_options){ .name = #f, .function = (f), .in = __VA_ARGS__ })

/* ---- results ---- */

/*
 * Waits for the answer, like get(timeout). Of apply: message gets it (NULL is
 * allowed); again later too. Of map: message must be NULL, out has the answers.
 *
 * Returns 0, MP_ETIMEDOUT, MP_EINTR (call again); else why it failed, as apply and
 * map do.
 */
MP_API int mp_result_get(mp_result *result, mp_message *message, double timeout);

/* Waits until it is ready, like wait(): 0, MP_ETIMEDOUT or MP_EINTR. */
MP_API int mp_result_wait(mp_result *result, double timeout);

/* Whether the answer (or failure) is there. Looks at the pool, does not wait. */
MP_API bool mp_result_ready(mp_result *result);

/* 1, 0 if it failed, or MP_ERUNNING when it is not ready. */
MP_API int mp_result_successful(mp_result *result);

/* The record of what failed first by index; code is 0 if nothing has. Lent until free. */
MP_API const mp_task_error *mp_result_error(mp_result *result);

/*
 * Fails it with MP_ECANCELLED. Items not begun never are; the worker of one that
 * runs is killed. Returns 0, or MP_EALREADY if it was ready before.
 */
MP_API int mp_result_cancel(mp_result *result);

/* Releases the result; the task goes on. NULL is allowed. After the pool's end too. */
MP_API void mp_result_free(mp_result *result);

/*
 * A descriptor that is readable when results have become ready that no
 * mp_pool_wait_any has looked at: for an event loop. Lent until the pool is freed.
 */
MP_API int mp_pool_fileno(mp_pool *pool);

/*
 * Waits until one of the results is ready. Returns its place, or MP_ETIMEDOUT,
 * MP_EINTR, MP_EINVAL (no results; NULLs among them are skipped). timeout 0 only
 * looks.
 */
MP_API int mp_pool_wait_any(mp_pool *pool, mp_result *const *results, size_t count, double timeout);

/* ---- one by one ---- */

/*
 * Like imap() and imap_unordered(): answers one after the other, in the order of
 * the items or as they come. The input is an array (lent until it is freed) or a
 * generator, mp_pool_imap(pool, f, MP_GENERATE(next, state)), and is read lazily:
 * at most .window items are in work or wait to be fetched. Keywords: soft_time_limit,
 * time_limit, retries, window, spread. NULL as mp_pool_apply_async.
 */
#define mp_pool_imap(pool, function, ...) \
    mp_pool_imap_create((pool), MP__MAP_OPTIONS(function, __VA_ARGS__), true)
#define mp_pool_imap_unordered(pool, function, ...) \
    mp_pool_imap_create((pool), MP__MAP_OPTIONS(function, __VA_ARGS__), false)
MP_API mp_imap *mp_pool_imap_create(mp_pool *pool, const mp_task_options *options, bool ordered);

/*
 * The next answer, like next(timeout). Waits.
 *
 * Returns 0, MP_EEOF: no more items (StopIteration); MP_ETIMEDOUT, MP_EINTR: call
 * again; or why this item failed, after which the next call goes on with the next
 * one. What a generator returned as an error comes once, then MP_EEOF; so does the
 * error of a pool that was terminated or broke. Threads may share an imap; index
 * and error below are then of whatever answer was given last.
 */
MP_API int mp_imap_next(mp_imap *imap, mp_message *message, double timeout);

/* The index of the item of the last answer, and its record if it failed. */
MP_API size_t mp_imap_index(const mp_imap *imap);
MP_API const mp_task_error *mp_imap_error(const mp_imap *imap);

/* Cancels what is left and releases it. NULL is allowed. */
MP_API void mp_imap_free(mp_imap *imap);

/* ---- in a task ---- */

/* Whether the item has run longer than its .soft_time_limit. */
MP_API bool mp_call_expired(const mp_call *call);

/* The index of the item in its map or imap; 0 in an apply or process. */
MP_API size_t mp_call_index(const mp_call *call);

#ifdef __cplusplus
}
#endif
#endif
