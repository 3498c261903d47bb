/* SPDX-License-Identifier: MIT
 *
 * shared_memory.h - bytes that several processes have in their memory at once,
 * Python's multiprocessing.shared_memory.
 *
 * There are two kinds. Anonymous memory has no name: it is passed to processes,
 * tasks and in messages, as a connection is, and is gone with its last user,
 * however that ends. Named memory is Python's SharedMemory: any program that
 * knows the name opens it, a Python program too.
 *
 * Big arguments: mp_shared_memory_new(.anonymous = true, .size = n, .readonly =
 * true) is filled by its creator and passed to any number of processes or tasks.
 * Nothing is copied, and a receiver that writes to it by mistake harms only
 * itself. In a pool, pass it in .initargs and keep it there: then it is mapped
 * once a worker, not once a task.
 *
 * Names. A process that creates a name owns it: the name goes when the creator
 * frees the object, exits, or is killed (the last by a small process of this
 * library, the resource tracker, from the first name until the creator ends; it
 * needs a program that has passed MP_MAIN(), and dies too when somebody kills
 * all processes of a container or control group; where the creator is pid 1 or a
 * subreaper the tracker becomes its child, so that wait() for any child waits for it). With .track = MP_NO nobody owns
 * it, and it stays until somebody unlinks it, as in shm_open. Who attaches owns
 * nothing here. In Python up to 3.12, and later without track=False, a program
 * that attaches unlinks the name when it ends, and complains: what is mapped
 * stays, but nobody can attach any more. There, in a program older than 3.13,
 *     resource_tracker.unregister(shm._name, "shared_memory")
 * after attaching is the cure.
 *
 * Nothing here locks: who writes what another process reads must see to it that
 * both know. No other thread may use an object that is closed, freed or grown.
 * The memory itself is everybody's.
 */
#ifndef MULTIPROCESSING_SHARED_MEMORY_H
#define MULTIPROCESSING_SHARED_MEMORY_H

#include <multiprocessing/process.h>
#include <multiprocessing/value.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mp_shared_memory mp_shared_memory;

typedef struct mp_shared_memory_options {
    int _kw;
    const char *name; /* without a slash; NULL with create: "psm_" and eight digits */
    bool create;      /* make it, and fail if the name is taken */
    size_t size;      /* bytes, when it is made; else what is there counts */
    bool anonymous;   /* make it without a name; create goes without saying */
    bool readonly;    /* attached: here. Anonymous: for all who receive it, not here */
    int track;        /* MP_NO: the name that is created stays until it is unlinked */
} mp_shared_memory_options;

/*
 * Makes shared memory, or attaches to it, like SharedMemory():
 *     mp_shared_memory_new(.anonymous = true, .size = 4096)
 *     mp_shared_memory_new(.create = true, .size = 4096)
 *     mp_shared_memory_new(.create = true, .size = 4096, .name = "table")
 *     mp_shared_memory_new(.name = "table")
 * New memory is zeros. Named memory is there in full, or this fails; the pages of
 * anonymous memory come with their first use. Only the same user can attach.
 *
 * Returns NULL, and the last error is
 *   MP_EEXIST    create: the name is taken
 *   MP_ENOENT    there is no such name
 *   MP_EINVAL    size 0 where it is made; no name where it is attached; a name
 *                with a slash, or ".", "..", or none; create with readonly, or
 *                anonymous with a name
 *   MP_ENAMETOOLONG  a name of more than 254 bytes
 *   MP_ENOSPC    the file system of the names (/dev/shm) is full
 *   -EFBIG       larger than the limit of file sizes (ulimit -f)
 *   MP_EAGAIN    somebody is making it: it has no size yet; try again
 *   MP_EACCES, MP_EMFILE, MP_ENFILE, MP_ENOMEM
 */
#define mp_shared_memory_new(...) \
    mp_shared_memory_create(&(const mp_shared_memory_options){ ._kw = 0, __VA_ARGS__ })
MP_API mp_shared_memory *mp_shared_memory_create(const mp_shared_memory_options *options);

/* Closes and releases it; the creator's takes its name away too. NULL is allowed. */
MP_API void mp_shared_memory_free(mp_shared_memory *memory);

/*
 * Memory taken from a message or call is lent and closed with it. This makes it
 * the caller's, to be ended with mp_shared_memory_free. Returns memory.
 */
MP_API mp_shared_memory *mp_shared_memory_keep(mp_shared_memory *memory);

/* The bytes, like buf; NULL after close. Read only memory ends who writes to it by SIGSEGV. */
MP_API void *mp_shared_memory_buf(const mp_shared_memory *memory);

/* How many bytes, like size: exactly what was asked for. */
MP_API size_t mp_shared_memory_size(const mp_shared_memory *memory);

/* The name, like name, lent until free; NULL for anonymous memory. */
MP_API const char *mp_shared_memory_name(const mp_shared_memory *memory);

/* Whether it can only be read here. */
MP_API bool mp_shared_memory_readonly(const mp_shared_memory *memory);

/*
 * Makes it at least size bytes long; what is new is zeros. buf may move. Others
 * see the old size until they do the same: who is told of a new size, by
 * whatever message, calls this with it.
 *
 * Returns 0, or MP_EPERM (it is not that long, and can only be read here),
 * MP_ENOSPC, -EFBIG, MP_ENOMEM, MP_ECLOSED; then all is as before, but that processes
 * which grow it at the same time into a full file system may leave it longer than they see.
 */
MP_API int mp_shared_memory_grow(mp_shared_memory *memory, size_t size);

/*
 * Takes the memory out of this process, like close(). Name and size can still be
 * asked for, and it can be unlinked. Again: nothing.
 */
MP_API void mp_shared_memory_close(mp_shared_memory *memory);

/*
 * Takes the name away, like unlink(); also after close. Who has the memory keeps
 * it, and can pass it on. Any process may do it, once.
 *
 * Returns 0, or MP_ENOENT (it was done before, or is anonymous), MP_EACCES.
 */
MP_API int mp_shared_memory_unlink(mp_shared_memory *memory);

/* ---- ShareableList ---- */

/*
 * A list of fixed length in shared memory, Python's ShareableList, in its very
 * layout. Items are none, bools, integers of 64 bits with sign, doubles, text and
 * bytes; an item may be set to another type. There is no lock: who reads an item
 * while another process sets it may get a mixture of both, or MP_EPROTOCOL.
 */
typedef struct mp_shareable_list mp_shareable_list;

typedef struct mp_shareable_list_options {
    int _kw;
    msgpack_object items; /* mp_list(...): make it; not given: attach */
    const char *name;     /* NULL with items: "psm_" and eight digits */
    bool anonymous;       /* make it without a name */
    int track;            /* as of mp_shared_memory_new */
} mp_shareable_list_options;

/*
 * Makes a list, or attaches to one, like ShareableList():
 *     mp_shareable_list_new(.items = mp_list(1, 2.5, "text", (bool)true, mp_none()))
 *     mp_shareable_list_new(.name = "psm_12345678")
 * (true by itself is an integer in C11). Text and bytes have room for what they
 * are at first, up to the next multiple of 8 bytes.
 *
 * Returns NULL, and the last error is as of mp_shared_memory_new, or
 *   MP_ETYPE      items is no list, or an item is a list, a handle, ...
 *   MP_ERANGE     an integer beyond 64 bits with sign; text or bytes that end
 *                 with a NUL, which the layout cannot tell from none
 *   MP_ETOOLONG   text or bytes of more than 9999991 bytes
 *   MP_EPROTOCOL  what has that name is no such list
 */
#define mp_shareable_list_new(...) \
    mp_shareable_list_create(&(const mp_shareable_list_options){ ._kw = 0, __VA_ARGS__ })
MP_API mp_shareable_list *mp_shareable_list_create(const mp_shareable_list_options *options);

/* As mp_shared_memory_free. */
MP_API void mp_shareable_list_free(mp_shareable_list *list);

/* As mp_shared_memory_keep. */
MP_API mp_shareable_list *mp_shareable_list_keep(mp_shareable_list *list);

/* Its memory, like shm: for name, close and unlink. Lent until the list is freed. */
MP_API mp_shared_memory *mp_shareable_list_shm(const mp_shareable_list *list);

/* How many items. */
MP_API size_t mp_shareable_list_len(const mp_shareable_list *list);

#ifndef __cplusplus
/*
 * An item, like list[index]; a negative index counts from the end. to is a
 * pointer to a variable, whose type says what must be there, as for mp_unpack;
 * but text and bytes need a place that holds them: an mp_message, which takes any
 * item and is then taken apart with mp_unpack.
 *
 * Returns 0, or MP_EINDEX, MP_ETYPE, MP_ERANGE, MP_ECLOSED, MP_ENOMEM, or
 * MP_EPROTOCOL: what is in the memory is no item.
 */
#define mp_shareable_list_get(list, index, to) \
    mp__shareable_list_get((list), (ptrdiff_t)(index), &(const mp__slot)MP__SLOT(to))

/*
 * Sets an item, like list[index] = value. Text and bytes have the room there was
 * when the list was made: 8 bytes where there was something else.
 *
 * Returns 0, or MP_EINDEX, MP_ETYPE, MP_ECLOSED, or MP_ERANGE: there is no room, or
 * as of mp_shareable_list_new; then the item is as before.
 */
#define mp_shareable_list_set(list, index, value) \
    mp__shareable_list_set((list), (ptrdiff_t)(index), MP__VALUE(value))

/* How many items are equal to value, like count(): 1, 1.0 and true are. 0 or a code. */
#define mp_shareable_list_count(list, value, count) \
    mp__shareable_list_count((list), MP__VALUE(value), (count))

/* The first of them, like index(). 0, MP_EINVAL when there is none, or a code. */
#define mp_shareable_list_index(list, value, index) \
    mp__shareable_list_index((list), MP__VALUE(value), (index))
#endif
MP_API int mp__shareable_list_get(mp_shareable_list *list, ptrdiff_t index, const mp__slot *to);
MP_API int mp__shareable_list_set(mp_shareable_list *list, ptrdiff_t index, msgpack_object value);
MP_API int mp__shareable_list_count(
    const mp_shareable_list *list, msgpack_object value, size_t *count);
MP_API int mp__shareable_list_index(
    const mp_shareable_list *list, msgpack_object value, size_t *index);

/*
 * What is in it as Python's struct module says it, like format: "qd16s". Writes
 * at most capacity bytes of it with a NUL and returns how long it is without, as
 * snprintf does; 0 when it is closed or damaged.
 */
MP_API size_t mp_shareable_list_format(const mp_shareable_list *list, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
