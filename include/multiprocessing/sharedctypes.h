/* SPDX-License-Identifier: MIT
 *
 * sharedctypes.h - typed arrays that several processes have in their memory at
 * once, Python's multiprocessing.sharedctypes: RawArray and RawValue, and Array and
 * Value, which have a lock beside them.
 *
 * The element type is any type without pointers: integers, bool, float, double, a
 * plain struct, atomic_long. The memory is anonymous: an array is passed to
 * processes, tasks and in messages, as a connection is, and is gone with its last
 * user, however that ends. Raw means that nothing locks: elements of their own
 * are each process's own, and an atomic type serves for what all change. One raw
 * array is one descriptor in each process, its lock another: many small values
 * belong into one struct or array.
 */
#ifndef MULTIPROCESSING_SHAREDCTYPES_H
#define MULTIPROCESSING_SHAREDCTYPES_H

#include <multiprocessing/synchronize.h>
#include <multiprocessing/value.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- RawArray, RawValue ---- */

typedef struct mp_raw_array mp_raw_array;

/* A value is an array of one: whatever is said of arrays is said of it. */
typedef mp_raw_array mp_raw_value;

typedef struct mp_raw_array_options {
    mp__slot type;
    size_t count;
    const void *from; /* count elements to begin with; NULL: zeros */
    bool readonly;    /* for all who receive it, not here */
    int _kw;
} mp_raw_array_options;

#ifndef __cplusplus
/*
 * Makes an array, like RawArray(type, count): mp_raw_array_new(double, 1000), or
 * with elements to begin with, mp_raw_array_new(double, 3, .from = three).
 *
 * Returns NULL: MP_EINVAL for count 0 or more than memory can have, MP_ETYPE for a
 * type that is a pointer to text or to an object, MP_ENOMEM, MP_EMFILE.
 */
#define mp_raw_array_new(type_, ...)                   \
    mp_raw_array_create(&(const mp_raw_array_options){ \
        .type = MP__SLOT((type_ *)0), .count = __VA_ARGS__, ._kw = 0 })

/*
 * Makes a value, like RawValue(type, ...): mp_raw_value_new(long, 7),
 * mp_raw_value_new(struct point, .x = 1). Returns as mp_raw_array_new.
 */
#define mp_raw_value_new(type_, ...)                   \
    mp_raw_array_create(&(const mp_raw_array_options){ \
        .type = MP__SLOT((type_ *)0), .count = 1, .from = &(const type_){ __VA_ARGS__ } })

/*
 * The elements, type *: raw memory, for speed and for what the functions below do
 * not do. Lent until the array is freed. NULL and MP_ETYPE when the elements are
 * of another type (of structs only the size is known). An array that can only be
 * read here ends who writes to it by SIGSEGV.
 */
#define mp_raw_array_data(array, type_) \
    ((type_ *)mp__raw_array_data((array), &(const mp__slot)MP__SLOT((type_ *)0)))
#define mp_raw_value_data(value, type_) mp_raw_array_data((value), type_)

/*
 * An element into a variable, with checks: mp_raw_array_get(a, i, &x). What fits
 * is as for mp_unpack. A negative index counts from the end, as in Python.
 *
 * Returns 0, MP_EINDEX, MP_ETYPE or MP_ERANGE.
 */
#define mp_raw_array_get(array, index, to) \
    mp__raw_array_get((array), (ptrdiff_t)(index), &(const mp__slot)MP__SLOT(to))
#define mp_raw_value_get(value, to) mp_raw_array_get((value), 0, (to))

/*
 * Sets an element, with checks: mp_raw_array_set(a, i, 2.5), a struct with
 * mp_struct(&s). A double is rounded for a float.
 *
 * Returns 0, MP_EINDEX, MP_ETYPE, MP_ERANGE, or MP_EPERM: it can only be read here.
 */
#define mp_raw_array_set(array, index, value) \
    mp__raw_array_set((array), (ptrdiff_t)(index), MP__VALUE(value))
#define mp_raw_value_set(value, to) mp_raw_array_set((value), 0, to)
#endif

MP_API mp_raw_array *mp_raw_array_create(const mp_raw_array_options *options);
MP_API void *mp__raw_array_data(const mp_raw_array *array, const mp__slot *type);
MP_API int mp__raw_array_get(const mp_raw_array *array, ptrdiff_t index, const mp__slot *to);
MP_API int mp__raw_array_set(mp_raw_array *array, ptrdiff_t index, msgpack_object value);

/* How many elements, like len(). */
MP_API size_t mp_raw_array_len(const mp_raw_array *array);

/* The bytes of one element. */
MP_API size_t mp_raw_array_itemsize(const mp_raw_array *array);

/* Whether it can only be read here. */
MP_API bool mp_raw_array_readonly(const mp_raw_array *array);

/* A new array with what is in this one now, like copy(). NULL: MP_ENOMEM, MP_EMFILE. */
MP_API mp_raw_array *mp_raw_array_copy(const mp_raw_array *array);
#define mp_raw_value_copy mp_raw_array_copy

/* Releases it. NULL is allowed. */
MP_API void mp_raw_array_free(mp_raw_array *array);
#define mp_raw_value_free mp_raw_array_free

/*
 * An array taken from a message or call is lent and released with it. This makes
 * it the caller's, to be ended with mp_raw_array_free. Returns array.
 */
MP_API mp_raw_array *mp_raw_array_keep(mp_raw_array *array);
#define mp_raw_value_keep mp_raw_array_keep

/* ---- Array, Value ---- */

/* A raw array and a lock. */
typedef struct mp_array mp_array;

/* A value is an array of one: whatever is said of arrays is said of it. */
typedef mp_array mp_value;

/* lock=False: an array without a lock, for functions that take both. Only for .lock. */
#define MP_NO_LOCK ((mp_lock *)-1)

typedef struct mp_array_options {
    mp__slot type;
    size_t count;
    const void *from; /* count elements to begin with; NULL: zeros */
    mp_lock *lock;    /* NULL: an RLock of its own. Also MP_NO_LOCK */
    int _kw;
} mp_array_options;

#ifndef __cplusplus
/*
 * Makes an array, like Array(type, count): mp_array_new(double, 1000), with elements
 * to begin with, mp_array_new(double, 3, .from = three), or guarded by a lock of the
 * caller's, mp_array_new(double, 1000, .lock = lock). Several may share one lock,
 * which travels with each; the caller may free its own object before the array.
 *
 * Returns NULL as mp_raw_array_new and mp_lock_new do.
 */
#define mp_array_new(type_, ...) \
    mp_array_create(             \
        &(const mp_array_options){ .type = MP__SLOT((type_ *)0), .count = __VA_ARGS__, ._kw = 0 })

/*
 * Makes a value, like Value(type, ...): mp_value_new(long, 7),
 * mp_value_new(struct point, .x = 1); and like Value(type, ..., lock=lock):
 * mp_value_new_with(lock, long, 7). Returns as mp_array_new.
 */
#define mp_value_new(type_, ...) mp_value_new_with(NULL, type_, __VA_ARGS__)
#define mp_value_new_with(lock_, type_, ...)   \
    mp_array_create(&(const mp_array_options){ \
        .type = MP__SLOT((type_ *)0),          \
        .count = 1,                            \
        .from = &(const type_){ __VA_ARGS__ }, \
        .lock = (lock_),                       \
    })

/*
 * An element into a variable, and a value into an element: mp_array_get(a, i, &x),
 * mp_array_set(a, i, 2.5), as mp_raw_array_get and mp_raw_array_set. Each acquires
 * the lock, waiting for it without end, and releases it. So a get and then a set
 * are two steps, and others may come between: see mp_array_acquire.
 *
 * Returns 0, or
 *   MP_EOWNERDEAD  it is done: *to has the element, the element has the value. But a
 *                  holder of the lock died holding it, so what it was changing may
 *                  be half changed. This is said once, by a call that did its work
 *   MP_EINDEX, MP_ETYPE, MP_ERANGE  nothing has changed; also MP_EINVAL (NULL)
 *   MP_EDEADLOCK   this thread holds the lock, and it is no RLock: use mp_array_data
 *   MP_EINTR, MP_EPROTOCOL  the lock was not acquired, and nothing has changed
 */
#define mp_array_get(array, index, to) \
    mp__array_get((array), (ptrdiff_t)(index), &(const mp__slot)MP__SLOT(to))
#define mp_array_set(array, index, value) \
    mp__array_set((array), (ptrdiff_t)(index), MP__VALUE(value))
#define mp_value_get(value, to) mp_array_get((value), 0, (to))
#define mp_value_set(value, to) mp_array_set((value), 0, to)

/*
 * The elements, type *, as mp_raw_array_data: for who has acquired the array. Lent
 * until the array is freed. Nothing is locked.
 */
#define mp_array_data(array, type_) mp_raw_array_data(mp_array_get_obj(array), type_)
#define mp_value_data(value, type_) mp_array_data(value, type_)
#endif

MP_API mp_array *mp_array_create(const mp_array_options *options);
MP_API int mp__array_get(mp_array *array, ptrdiff_t index, const mp__slot *to);
MP_API int mp__array_set(mp_array *array, ptrdiff_t index, msgpack_object value);

/*
 * acquire(timeout=timeout) and release() of the lock, for changes of several steps:
 *
 *     r = mp_value_acquire(v, MP_FOREVER);         with v.get_lock():
 *     if (r == 0 || r == MP_EOWNERDEAD) {              v.value += 1
 *         *mp_value_data(v, long) += 1;
 *         mp_value_release(v);
 *     }
 *
 * Return as mp_lock_acquire and mp_lock_release: after MP_EOWNERDEAD it is held, too,
 * and is to be released. MP_EINVAL: it was made with MP_NO_LOCK.
 */
MP_API int mp_array_acquire(mp_array *array, double timeout);
MP_API int mp_array_release(mp_array *array);
#define mp_value_acquire mp_array_acquire
#define mp_value_release mp_array_release

/*
 * The lock, like get_lock(): for another array, or a condition. It is the lock that was
 * given, but an object of the array's own. Lent until the array is freed. NULL: none.
 */
MP_API mp_lock *mp_array_get_lock(const mp_array *array);
#define mp_value_get_lock mp_array_get_lock

/*
 * The raw array, like get_obj(): what is done to it is not locked. mp_raw_array_copy
 * makes a copy of it. Lent until the array is freed. NULL only for NULL.
 */
MP_API mp_raw_array *mp_array_get_obj(const mp_array *array);
#define mp_value_get_obj mp_array_get_obj

/* How many elements, like len(). */
MP_API size_t mp_array_len(const mp_array *array);

/* Releases it. NULL is allowed. Who holds its lock releases that first, as for mp_lock_free. */
MP_API void mp_array_free(mp_array *array);
#define mp_value_free mp_array_free

/* Makes an array taken from a message or call the caller's, as mp_raw_array_keep. Returns array. */
MP_API mp_array *mp_array_keep(mp_array *array);
#define mp_value_keep mp_array_keep

#ifdef __cplusplus
}
#endif
#endif
