/* SPDX-License-Identifier: MIT
 *
 * value.h - values that travel: made by type, taken apart by type.
 *
 * A value is a msgpack_object of msgpack-c. The macros make one from what they
 * are given: bool (true and false themselves are int in C11), integers of every width, float, double, char * (text),
 * mp_list(...), mp_dict(key, value, ...), mp_bytes(pointer, size),
 * mp_struct(&s), mp_none() or NULL, a ready msgpack_object, and handles such as
 * mp_connection * and mp_lock *. Text, bytes and lists are not copied until the value is
 * packed: use it in the expression that makes it, as one does with arguments.
 *
 * What cannot arrive is refused when it is packed, by the function that takes
 * the value: lists nested deeper than 32 (MP_ETOODEEP), text, bytes or lists of
 * more than 4294967295 bytes or items, handles of more than 252 descriptors in all
 * (MP_ETOOLONG), a pointer that is not NULL, an odd mp_dict (MP_ETYPE).
 */
#ifndef MULTIPROCESSING_VALUE_H
#define MULTIPROCESSING_VALUE_H

#include <msgpack/object.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <multiprocessing/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The call a function is asked to serve: its arguments, and where its answer goes. */
typedef struct mp_call mp_call;

/*
 * A function for a process. Returns its exit code; mp_unpack(call, ...) has the
 * arguments. Static functions of the program and of its shared libraries will
 * do; nothing is registered.
 */
typedef int (*mp_function)(mp_call *call);

/*
 * A received message. The caller owns it: starts with MP_MESSAGE_INIT, receives
 * into it as often as it likes (memory is reused), ends with mp_message_clear.
 * Text, bytes and handles taken from it are lent until then or until the next
 * receive.
 */
typedef struct mp_message {
    const void *data;        /* of mp_connection_recv_bytes: the bytes, lent; else NULL */
    size_t size;             /* how many */
    msgpack_object value;    /* what was received as a value; nil otherwise */
    struct mp__message *own; /* the library's */
} mp_message;

#ifdef __cplusplus
#define MP_MESSAGE_INIT \
    {                   \
    }
#else
#define MP_MESSAGE_INIT                                     \
    {                                                       \
        NULL, 0, { MSGPACK_OBJECT_NIL, { .u64 = 0 } }, NULL \
    }
#endif

/* Releases all a message holds, unclaimed handles too, and makes it empty. NULL is allowed. */
MP_API void mp_message_clear(mp_message *message);

/* Bytes or text, lent by a message: a slot for mp_unpack. */
typedef struct mp_bytes_view {
    const void *data; /* NULL only when the value was none */
    size_t size;
} mp_bytes_view;

/* Python's None. */
MP_API msgpack_object mp_none(void);

/* A list of count values that lie in an array; it is not copied. */
MP_API msgpack_object mp_list_of(size_t count, const msgpack_object *items);

/* How many items a list has, pairs a dict, bytes a text or bytes; else 0: like len(). */
MP_API size_t mp_len(const msgpack_object *object);

/*
 * An item of a list, and the value of a text key in a dict, like list[index] and
 * dict.get(key): lent by what holds them, and a source for mp_unpack. NULL when there
 * is none, or object is no list or dict.
 */
MP_API const msgpack_object *mp_list_get(const msgpack_object *object, size_t index);
MP_API const msgpack_object *mp_dict_get(const msgpack_object *object, const char *key);

/* size bytes at data, Python's bytes. */
MP_API msgpack_object mp_bytes(const void *data, size_t size);

/* The bytes of what the pointer points to: a plain struct, or an array of them (&array). */
#define mp_struct(pointer) mp_bytes((pointer), sizeof(*(pointer)))

/*
 * Limits on what is received, against peers that send nonsense. Zero leaves a
 * limit as it is. Process wide, for messages received from now on.
 */
typedef struct mp_limits {
    uint64_t message_bytes; /* longest message; 16 GiB */
    uint64_t elements;      /* values in a message, nested ones included; 2^28 */
    unsigned depth;         /* nesting of lists; 32, which is the most */
} mp_limits;

/* Returns 0, or MP_EINVAL for a depth above 32. Children do not inherit it. */
MP_API int mp_set_limits(const mp_limits *limits);

/* ---- what the macros below call; not for direct use ---- */

typedef struct mp__kind mp__kind;
typedef struct mp_connection mp_connection; /* what can be a handle; each header tells of its own */
typedef struct mp_queue mp_queue;
typedef struct mp_lock mp_lock;
typedef struct mp_semaphore mp_semaphore;
typedef struct mp_condition mp_condition;
typedef struct mp_event mp_event;
typedef struct mp_barrier mp_barrier;
typedef struct mp_raw_array mp_raw_array;
typedef struct mp_array mp_array;
typedef struct mp_shared_memory mp_shared_memory;
typedef struct mp_shareable_list mp_shareable_list;

enum mp__slot_type {
    MP__SLOT_STRUCT,
    MP__SLOT_SKIP,
    MP__SLOT_CALL,
    MP__SLOT_MESSAGE,
    MP__SLOT_OBJECT,
    MP__SLOT_SIGNED,
    MP__SLOT_UNSIGNED,
    MP__SLOT_BOOL,
    MP__SLOT_FLOAT,
    MP__SLOT_TEXT,
    MP__SLOT_BYTES,
    MP__SLOT_HANDLE,
    MP__SLOT_POINTER /* to something else: refused */
};

typedef struct mp__slot {
    enum mp__slot_type type;
    size_t size;
    const void *pointer;
    const mp__kind *kind;
} mp__slot;

MP_API msgpack_object mp__from_bool(bool value);
MP_API msgpack_object mp__from_signed(long long value);
MP_API msgpack_object mp__from_unsigned(unsigned long long value);
MP_API msgpack_object mp__from_float(float value);
MP_API msgpack_object mp__from_double(double value);
MP_API msgpack_object mp__from_text(const char *value);
MP_API msgpack_object mp__from_null(const void *value);
MP_API msgpack_object mp__from_object(msgpack_object value);
MP_API msgpack_object mp__from_handle(const void *value);
MP_API msgpack_object mp__list(size_t count, const msgpack_object *items);
MP_API msgpack_object mp__dict(size_t count, const msgpack_object *items);
MP_API int mp__unpack(size_t count, const mp__slot *slots);
MP_API int mp__return(mp_call *call, msgpack_object value);

/*
 * Ends a call with an error: the code (any but 0) and a text for whoever waits
 * for the answer. A process that exits with a code other than 0 after it prints
 * the text on stderr, in one line. Returns 1, so a function may end with
 * "return mp_raise(...)"; a process that does exits with 1, whatever the code, as Python's
 * do after an exception.
 */
MP_API int mp_raise(mp_call *call, int code, const char *format, ...) MP__PRINTF(3, 4);

#ifndef __cplusplus

/*
 * mp_unpack(source, &a, &b, ...) takes values apart. source is an mp_call *, an
 * mp_message * or, for nested lists, a msgpack_object *. Each slot is a pointer
 * to a variable, whose type says what must come:
 *
 *   any integer        an integer in its range, or a bool
 *   bool               a bool, 0 or 1
 *   float, double      a number that it holds exactly; any float64 for a double
 *   const char *       text without NUL inside, or none (NULL); lent
 *   mp_bytes_view      bytes or text, or none; lent
 *   msgpack_object     anything; lent
 *   mp_connection *    a connection (see mp_connection_keep); lent
 *   mp_queue *, mp_lock *, mp_semaphore *, mp_condition *, mp_event *, mp_barrier *  the same
 *   mp_raw_array *, mp_array *, mp_shared_memory *, mp_shareable_list *  the same
 *   any other type     bytes of exactly its size: what mp_struct sent
 *   NULL               anything: skipped
 *
 * Other pointers are no slots: what they point to is in another process (MP_ETYPE).
 *
 * Several slots take a list apart; the arguments of a call are a list, also when
 * there is one slot. A single slot takes the value of a message or object itself.
 *
 * Returns 0, or MP_ECOUNT, MP_ETYPE, MP_ERANGE with a sentence that names the
 * slot, or, of a handle, MP_EPROTOCOL (malformed), MP_EHANDLE (taken with keep
 * before), MP_EMFILE; then no slot has changed. A process that exits with a code other than
 * 0 after that, with its call, says so on stderr.
 */
#define mp_unpack(...) \
    mp__unpack(MP__COUNT(__VA_ARGS__), (const mp__slot[]){ MP__MAP(MP__SLOT, __VA_ARGS__) })

/* Up to 32 values as Python's list or tuple. mp_list() is the empty one. */
#define mp_list(...) \
    mp__list(        \
        MP__COUNT(__VA_ARGS__), (const msgpack_object[]){ MP__NONE MP__VALUES(__VA_ARGS__) } + 1)

/* Up to 16 keys, each followed by its value, as Python's dict. */
#define mp_dict(...) \
    mp__dict(        \
        MP__COUNT(__VA_ARGS__), (const msgpack_object[]){ MP__NONE MP__VALUES(__VA_ARGS__) } + 1)

/* One value, of anything mp_list takes: for arrays of values that are filled at run time. */
#define mp_object(value) MP__VALUE(value)

/* The arguments of a call: .args = MP_ARGS("bob", 42). */
#define MP_ARGS(...) mp_list(__VA_ARGS__)

/*
 * Answers a call, at most once. In a pool's task value is the answer; in a process
 * it goes nowhere, but it is packed and checked all the same. Returns 0, or what
 * packing refused; MP_EALREADY the second time.
 */
#define mp_return(call, value) mp__return((call), MP__VALUE(value))

#define MP__NONE            \
    {                       \
        MSGPACK_OBJECT_NIL, \
        {                   \
            .u64 = 0        \
        }                   \
    }

/* clang-format off */
/* The types of handles, and their kinds. */
#define MP__HANDLES(X) \
    X(mp_connection, mp__connection_kind) \
    X(mp_queue, mp__queue_kind) \
    X(mp_lock, mp__lock_kind) \
    X(mp_semaphore, mp__semaphore_kind) \
    X(mp_condition, mp__condition_kind) \
    X(mp_event, mp__event_kind) \
    X(mp_barrier, mp__barrier_kind) \
    X(mp_raw_array, mp__raw_array_kind) \
    X(mp_array, mp__array_kind) \
    X(mp_shared_memory, mp__shared_memory_kind) \
    X(mp_shareable_list, mp__shareable_list_kind)
#define MP__HANDLE_VALUE(type, kind_of_type) type *: mp__from_handle,
#define MP__HANDLE_ITEM(type, kind_of_type) type *: MP__SLOT_HANDLE,
#define MP__HANDLE_SLOT(type, kind_of_type) type **: MP__SLOT_HANDLE,
#define MP__HANDLE_KIND(type, kind_of_type) type **: &kind_of_type,
#define MP__HANDLE_DECLARE(type, kind_of_type) MP_API extern const mp__kind kind_of_type;
MP__HANDLES(MP__HANDLE_DECLARE)
/* clang-format on */

/* What a compiler can tell beyond its type: an array is none of its pointers. */
#ifdef __GNUC__
#define MP__IS_ARRAY(x) (!__builtin_types_compatible_p(__typeof__(x), __typeof__((void)0, (x))))
#define MP__IS_POINTER(x) (__builtin_classify_type(x) == 5 && !MP__IS_ARRAY(x))
#else
#define MP__IS_ARRAY(x) 0
#define MP__IS_POINTER(x) 0
#endif

/* Takes nothing there is, so that a compiler names it: the way out is in its name. */
struct mp__nothing {
    char none;
};
msgpack_object mp__cannot_travel_unless_by_mp_struct_or_mp_bytes(struct mp__nothing);

#define MP__VALUE(x) \
    _Generic((x),                                                                                  \
        bool: mp__from_bool,                                                                       \
        char: mp__from_signed,                                                                     \
        signed char: mp__from_signed,                                                              \
        short: mp__from_signed,                                                                    \
        int: mp__from_signed,                                                                      \
        long: mp__from_signed,                                                                     \
        long long: mp__from_signed,                                                                \
        unsigned char: mp__from_unsigned,                                                          \
        unsigned short: mp__from_unsigned,                                                         \
        unsigned int: mp__from_unsigned,                                                           \
        unsigned long: mp__from_unsigned,                                                          \
        unsigned long long: mp__from_unsigned,                                                     \
        float: mp__from_float,                                                                     \
        double: mp__from_double,                                                                   \
        char *: mp__from_text,                                                                     \
        const char *: mp__from_text,                                                               \
        void *: mp__from_null,                                                                     \
        MP__HANDLES(MP__HANDLE_VALUE)                                                              \
        msgpack_object: mp__from_object,                                                           \
        default: mp__cannot_travel_unless_by_mp_struct_or_mp_bytes)(x)

#define MP__SIZED(p) _Generic((p), void * : "", mp_call * : "", default : (p))
#define MP__SLOT(p)                                                                                    \
    {                                                                                                  \
        _Generic((p),                                                                                \
          void *: MP__SLOT_SKIP,                                                                   \
          mp_call *: MP__SLOT_CALL,                                                                \
          mp_message *: MP__SLOT_MESSAGE,                                                          \
          const mp_message *: MP__SLOT_MESSAGE,                                                    \
          msgpack_object *: MP__SLOT_OBJECT,                                                       \
          const msgpack_object *: MP__SLOT_OBJECT,                                                 \
          bool *: MP__SLOT_BOOL,                                                                   \
          char *: (char)-1 < 0 ? MP__SLOT_SIGNED : MP__SLOT_UNSIGNED,                              \
          signed char *: MP__SLOT_SIGNED,                                                          \
          short *: MP__SLOT_SIGNED,                                                                \
          int *: MP__SLOT_SIGNED,                                                                  \
          long *: MP__SLOT_SIGNED,                                                                 \
          long long *: MP__SLOT_SIGNED,                                                            \
          unsigned char *: MP__SLOT_UNSIGNED,                                                      \
          unsigned short *: MP__SLOT_UNSIGNED,                                                     \
          unsigned int *: MP__SLOT_UNSIGNED,                                                       \
          unsigned long *: MP__SLOT_UNSIGNED,                                                      \
          unsigned long long *: MP__SLOT_UNSIGNED,                                                 \
          float *: MP__SLOT_FLOAT,                                                                 \
          double *: MP__SLOT_FLOAT,                                                                \
          char **: MP__SLOT_TEXT,                                                                  \
          const char **: MP__SLOT_TEXT,                                                            \
          mp_bytes_view *: MP__SLOT_BYTES,                                                         \
          MP__HANDLES(MP__HANDLE_SLOT)                                                             \
          default: MP__IS_POINTER(*MP__SIZED(p)) ? MP__SLOT_POINTER : MP__SLOT_STRUCT),             \
        sizeof(*MP__SIZED(p)), (p),                                                                \
        _Generic((p), MP__HANDLES(MP__HANDLE_KIND) default: (const mp__kind *)0) \
    }

/* MP__COUNT: how many arguments, 0 to 32. MP__MAP(m, a, b): m(a), m(b). */
#define MP__PICK(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, \
    a19, a20, a21, a22, a23, a24, a25, a26, a27, a28, a29, a30, a31, a32, a33, ...)               \
    a33
#define MP__COUNT_SOME(...)                                                                       \
    MP__PICK(__VA_ARGS__, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, \
        14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, ~)
#define MP__HAS_COMMA(...)                                                                        \
    MP__PICK(__VA_ARGS__, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, \
        1, 1, 1, 1, 1, 1, 1, 0, ~)
#define MP__COMMA(...) ,
#define MP__PASTE(a, b) MP__PASTE_(a, b)
#define MP__PASTE_(a, b) a##b
#define MP__PASTE5(a, b, c, d, e) a##b##c##d##e
#define MP__EMPTY_0001 ,
/* 1 when there are no arguments: a comma appears only with both the call and its parentheses. */
#define MP__IS_EMPTY(...)                                                           \
    MP__IS_EMPTY_(MP__HAS_COMMA(__VA_ARGS__), MP__HAS_COMMA(MP__COMMA __VA_ARGS__), \
        MP__HAS_COMMA(__VA_ARGS__()), MP__HAS_COMMA(MP__COMMA __VA_ARGS__()))
#define MP__IS_EMPTY_(a, b, c, d) MP__HAS_COMMA(MP__PASTE5(MP__EMPTY_, a, b, c, d))
#define MP__COUNT(...) MP__PASTE(MP__COUNT_, MP__IS_EMPTY(__VA_ARGS__))(__VA_ARGS__)
#define MP__COUNT_0(...) MP__COUNT_SOME(__VA_ARGS__)
#define MP__COUNT_1(...) 0
#define MP__VALUES(...) MP__PASTE(MP__VALUES_, MP__IS_EMPTY(__VA_ARGS__))(__VA_ARGS__)
#define MP__VALUES_0(...) , MP__MAP(MP__VALUE, __VA_ARGS__)
#define MP__VALUES_1(...)
#define MP__MAP(m, ...) MP__PASTE(MP__EACH_, MP__COUNT_SOME(__VA_ARGS__))(m, __VA_ARGS__)
/* clang-format off */
#define MP__EACH_1(m, x) m(x)
#define MP__EACH_2(m, x, ...) m(x), MP__EACH_1(m, __VA_ARGS__)
#define MP__EACH_3(m, x, ...) m(x), MP__EACH_2(m, __VA_ARGS__)
#define MP__EACH_4(m, x, ...) m(x), MP__EACH_3(m, __VA_ARGS__)
#define MP__EACH_5(m, x, ...) m(x), MP__EACH_4(m, __VA_ARGS__)
#define MP__EACH_6(m, x, ...) m(x), MP__EACH_5(m, __VA_ARGS__)
#define MP__EACH_7(m, x, ...) m(x), MP__EACH_6(m, __VA_ARGS__)
#define MP__EACH_8(m, x, ...) m(x), MP__EACH_7(m, __VA_ARGS__)
#define MP__EACH_9(m, x, ...) m(x), MP__EACH_8(m, __VA_ARGS__)
#define MP__EACH_10(m, x, ...) m(x), MP__EACH_9(m, __VA_ARGS__)
#define MP__EACH_11(m, x, ...) m(x), MP__EACH_10(m, __VA_ARGS__)
#define MP__EACH_12(m, x, ...) m(x), MP__EACH_11(m, __VA_ARGS__)
#define MP__EACH_13(m, x, ...) m(x), MP__EACH_12(m, __VA_ARGS__)
#define MP__EACH_14(m, x, ...) m(x), MP__EACH_13(m, __VA_ARGS__)
#define MP__EACH_15(m, x, ...) m(x), MP__EACH_14(m, __VA_ARGS__)
#define MP__EACH_16(m, x, ...) m(x), MP__EACH_15(m, __VA_ARGS__)
#define MP__EACH_17(m, x, ...) m(x), MP__EACH_16(m, __VA_ARGS__)
#define MP__EACH_18(m, x, ...) m(x), MP__EACH_17(m, __VA_ARGS__)
#define MP__EACH_19(m, x, ...) m(x), MP__EACH_18(m, __VA_ARGS__)
#define MP__EACH_20(m, x, ...) m(x), MP__EACH_19(m, __VA_ARGS__)
#define MP__EACH_21(m, x, ...) m(x), MP__EACH_20(m, __VA_ARGS__)
#define MP__EACH_22(m, x, ...) m(x), MP__EACH_21(m, __VA_ARGS__)
#define MP__EACH_23(m, x, ...) m(x), MP__EACH_22(m, __VA_ARGS__)
#define MP__EACH_24(m, x, ...) m(x), MP__EACH_23(m, __VA_ARGS__)
#define MP__EACH_25(m, x, ...) m(x), MP__EACH_24(m, __VA_ARGS__)
#define MP__EACH_26(m, x, ...) m(x), MP__EACH_25(m, __VA_ARGS__)
#define MP__EACH_27(m, x, ...) m(x), MP__EACH_26(m, __VA_ARGS__)
#define MP__EACH_28(m, x, ...) m(x), MP__EACH_27(m, __VA_ARGS__)
#define MP__EACH_29(m, x, ...) m(x), MP__EACH_28(m, __VA_ARGS__)
#define MP__EACH_30(m, x, ...) m(x), MP__EACH_29(m, __VA_ARGS__)
#define MP__EACH_31(m, x, ...) m(x), MP__EACH_30(m, __VA_ARGS__)
#define MP__EACH_32(m, x, ...) m(x), MP__EACH_31(m, __VA_ARGS__)
/* clang-format on */

#endif /* !__cplusplus */

#ifdef __cplusplus
}
#endif
#endif
