/* SPDX-License-Identifier: MIT
 *
 * pool_wire_internal.h - what a pool and one of its workers say to each other.
 *
 * Tasks go to the worker as frames over a socket. Small answers come back through
 * a ring in memory the two share, so they are there also when the worker has died;
 * long ones, and those with handles, over the socket, where the ring has a marker.
 * So answers come strictly in the order of the items.
 *
 * Items are numbered by worker, from 0. The worker claims each before it runs it,
 * by one atomic step; the pool takes back what is not claimed by another. So who
 * runs an item is never in doubt, whoever dies at whatever moment.
 */
#ifndef MP__POOL_WIRE_INTERNAL_H
#define MP__POOL_WIRE_INTERNAL_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>

#include <multiprocessing/value.h>

#define MP__RING_SIZE ((size_t)256 * 1024)
#define MP__INLINE_MAX 248 /* bytes of an answer in the ring */
#define MP__RING_SPARE 512 /* for padding at the end of the ring */
#define MP__NO_WAKE UINT64_MAX

typedef struct mp__pool_shared {
    alignas(64) _Atomic uint64_t claim; /* the next item that may begin */
    _Atomic uint64_t begun;             /* the item that begun_at is about */
    _Atomic int64_t begun_at;
    alignas(64) _Atomic uint64_t head;     /* bytes of answers there ever were */
    _Atomic uint64_t cut;                  /* where the last run ended early, in those bytes */
    alignas(64) _Atomic uint64_t cut_seen; /* the last one the pool has come to */
    /* The worker wakes the pool once this many items are answered. */
    alignas(64) _Atomic uint64_t wake_at;
    alignas(64) uint8_t ring[MP__RING_SIZE];
} mp__pool_shared;

/*
 * The head of an answer in the ring; size bytes follow, padded to 8. There is
 * always room: the pool hands out no more items than have room for their answers.
 */
typedef struct mp__ring_head {
    uint32_t item; /* its low half */
    uint16_t size;
    uint8_t kind;
    uint8_t unused;
} mp__ring_head;

/*
 * The head of a run: answers as they lie in the array, of items in a row, each there
 * as soon as head is past it. size is that of one. The run ends after so many, or
 * at cut; what follows it is aligned to 8 again. As long as the pool has not come
 * to a cut there is no other: runs are of one item then.
 */
typedef struct mp__run_head {
    mp__ring_head head;
    uint64_t count;
} mp__run_head;

enum mp__wire_kind {
    MP__WIRE_FUNCTION = 1, /* to the worker: the next function; body: its description */
    MP__WIRE_TASK,         /* items */
    MP__WIRE_STOP,         /* no more comes */
    MP__WIRE_READY,        /* to the pool: the initializer has run */
    MP__WIRE_REFUSED,      /* it failed; body: an mp__wire_error */
    MP__WIRE_NONE,         /* answers: no value */
    MP__WIRE_RAW,          /* as it lies in the array; in the ring: a run of them */
    MP__WIRE_VALUE,        /* MessagePack */
    MP__WIRE_ERROR,        /* an mp__wire_error */
    MP__WIRE_EXTERNAL,     /* in the ring: it comes over the socket */
    MP__WIRE_PAD           /* in the ring: go on at its beginning */
};

typedef struct mp__frame {
    uint64_t size;      /* bytes that follow */
    uint64_t item;      /* of a task: the number of the first item; of an answer: the item */
    uint64_t index;     /* of a task: what the first item is to its caller */
    int64_t soft_limit; /* nanoseconds of one item, or 0 */
    uint32_t count;     /* items: more than one only if they are raw */
    uint32_t function;
    uint32_t in_size, out_size;
    uint16_t fds;                    /* descriptors that come with the frame */
    uint8_t kind, in_type, out_type; /* types: mp__slot_type */
    uint8_t timed;                   /* when each item begins is to be written down */
} mp__frame;

typedef struct mp__wire_error {
    int32_t code, raised;
    char text[480];
} mp__wire_error;

static inline uint64_t mp__ring_align(uint64_t at)
{
    return (at + 7) & ~(uint64_t)7;
}

static inline size_t mp__ring_room(size_t size)
{
    return sizeof(mp__ring_head) + (size_t)mp__ring_align(size);
}

/* Whether items of this type travel as they lie in the array. */
static inline bool mp__is_raw(enum mp__slot_type type)
{
    return type == MP__SLOT_SIGNED || type == MP__SLOT_UNSIGNED || type == MP__SLOT_BOOL ||
           type == MP__SLOT_FLOAT || type == MP__SLOT_STRUCT;
}

/* What a worker begins with. */
typedef struct mp__seed {
    int fd;   /* its end of the channel */
    int wake; /* wakes the pool */
    int index;
    mp__pool_shared *shared;
    mp_bytes_view initializer; /* encoded; empty: none */
    msgpack_object initargs;
} mp__seed;

/* Set while this thread forks a worker, which finds it in its memory. Others are told. */
extern _Thread_local const mp__seed *mp__pool_seed;

/* The target of a worker process: serves a pool. */
int mp__pool_worker(mp_call *call);

#endif
