/* SPDX-License-Identifier: MIT
 *
 * queues.h - Queue, JoinableQueue and SimpleQueue: values that any number of
 * processes put and any number of them take.
 *
 * Items lie in shared memory that grows with them and is given back when they are
 * taken. There is no thread behind a queue: when put returns the item is there
 * for everybody, whatever becomes of the process that put it. So nothing has to be
 * flushed, and Python's join_thread and cancel_join_thread have nothing to do.
 *
 * A process that is killed inside any of these functions blocks nobody; what it was
 * about to put is there whole or not at all, what it was about to get is taken or
 * still there. One that is stopped (SIGSTOP) inside holds up the others until it goes
 * on or is killed, or for as long as they have time.
 *
 * A queue travels in the arguments of processes and tasks and inside messages, and
 * a child made by fork has those that it finds in its variables. Any number of
 * threads may use one. It lasts as long as somebody has it.
 *
 * Items keep their order: what one process puts comes out in that order.
 */
#ifndef MULTIPROCESSING_QUEUES_H
#define MULTIPROCESSING_QUEUES_H

#include <multiprocessing/clock.h>
#include <multiprocessing/value.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mp_queue_options {
    int _kw;
    long maxsize; /* items at most; 0 or less: as many as there is memory for */
} mp_queue_options;

/*
 * Makes a queue, like Queue(maxsize): mp_queue_new(), mp_queue_new(.maxsize = 8). It
 * costs three descriptors in each process that has it.
 *
 * Returns NULL: MP_ENOMEM, MP_EMFILE or MP_ENFILE.
 */
#define mp_queue_new(...) mp_queue_create(&(const mp_queue_options){ ._kw = 0, __VA_ARGS__ })
MP_API mp_queue *mp_queue_create(const mp_queue_options *options);

/* The same with mp_queue_task_done and mp_queue_join, like JoinableQueue(maxsize). */
#define mp_joinable_queue_new(...) \
    mp_joinable_queue_create(&(const mp_queue_options){ ._kw = 0, __VA_ARGS__ })
MP_API mp_queue *mp_joinable_queue_create(const mp_queue_options *options);

/*
 * Like SimpleQueue(): a queue without maxsize. Python's is simpler than its Queue
 * because it lacks timeouts; here it has all that a queue has.
 */
MP_API mp_queue *mp_simple_queue_new(void);

/* Ends this process's use of it and releases it. NULL is allowed. No other thread may be using it. */
MP_API void mp_queue_free(mp_queue *queue);

/*
 * A queue taken from a message or call is lent and ends with it. This makes it the
 * caller's, to be ended with mp_queue_free. Returns queue.
 */
MP_API mp_queue *mp_queue_keep(mp_queue *queue);

/*
 * Puts a value, like put(value, timeout=timeout). It is packed before anything
 * else, so a value that cannot be is the caller's error and changes nothing.
 *
 * timeout: seconds to wait for room if there is a maxsize; MP_FOREVER; 0 or less: do
 * not wait. For a process that is at work in the queue at this moment it waits in any
 * case: a tenth of a second if the timeout is shorter, five seconds if it is 0.
 *
 * Handles in a value are held by the system, in the send buffer of a socket. How many
 * items with handles a queue can have follows from net.core.wmem_max: some 270 at
 * least, 500 as Linux comes; and no more descriptors can be under way than
 * RLIMIT_NOFILE says, unless the user is root. One more is MP_EAGAIN, at once.
 *
 * Returns 0, or
 *   MP_EFULL     not within the time; without maxsize: another process was stopped in it
 *   MP_ETOODEEP, MP_ETOOLONG, MP_ETYPE  the value cannot be packed
 *   MP_ENOMEM, -ENOSPC  no memory for it
 *   MP_EAGAIN    too many items with handles are in the queue; it was not put
 *   MP_ECLOSED, MP_EHANDLE
 *   MP_EINTR     mp_interrupt(); it was not put
 *   MP_EPROTOCOL another process damaged the memory of the queue
 */
#define mp_queue_put(queue, value, timeout) mp__queue_put((queue), MP__VALUE(value), (timeout))
MP_API int mp__queue_put(mp_queue *queue, msgpack_object value, double timeout);

/* Like put_nowait(value). */
#define mp_queue_put_nowait(queue, value) mp__queue_put((queue), MP__VALUE(value), 0)

/*
 * Takes the oldest item, like get(timeout=timeout). mp_unpack takes the message
 * apart; its memory is the message's.
 *
 * timeout: seconds to wait for an item; MP_FOREVER; 0 or less: do not wait; as of put.
 *
 * Returns 0, or
 *   MP_EEMPTY    not within the time
 *   MP_ETOOLONG, MP_ETOODEEP  longer than mp_set_limits allows; it stays in the queue
 *   MP_ENOMEM, MP_EMFILE (too many descriptors for its handles); it stays in the queue,
 *                unless memory ran out while it was taken apart
 *   MP_EINVAL    the message is the one that lends the queue
 *   MP_EINTR     mp_interrupt(); nothing was taken
 *   MP_ECLOSED
 *   MP_EPROTOCOL another process damaged the item or the memory of the queue
 *
 * mp_wait(MP_WAIT(queue)) waits for an item together with other things; another
 * process may be faster then to take it.
 */
MP_API int mp_queue_get(mp_queue *queue, mp_message *message, double timeout);

/* Like get_nowait(). */
MP_API int mp_queue_get_nowait(mp_queue *queue, mp_message *message);

/*
 * How many items are in the queue, like qsize(): exact at the moment it looks. A
 * negative code is MP_ECLOSED or MP_EINVAL, here and below.
 */
MP_API int64_t mp_queue_qsize(const mp_queue *queue);

/* 1 or 0, like empty() and full(). Without maxsize it is never full. */
MP_API int mp_queue_empty(const mp_queue *queue);
MP_API int mp_queue_full(const mp_queue *queue);

/*
 * This process will not use the queue any more, like close(): later calls are
 * MP_ECLOSED. Others are not concerned, and what was put is still theirs to take.
 * Again: nothing. No other thread of the process may be using it.
 */
MP_API void mp_queue_close(mp_queue *queue);

MP_API bool mp_queue_closed(const mp_queue *queue);

/*
 * Says that the work of an item that was taken is done, like task_done().
 *
 * Returns 0, or MP_EINVAL: it was called more often than items were put, or the queue
 * was not made with mp_joinable_queue_new; MP_ECLOSED.
 */
MP_API int mp_queue_task_done(mp_queue *queue);

/*
 * Waits until task_done was called for every item ever put, like join(), but with a
 * time limit: what a process that was killed had taken is never done.
 *
 * timeout: seconds; MP_FOREVER; 0 or less: only looks.
 *
 * Returns 0, MP_ETIMEDOUT, MP_EINTR, MP_ECLOSED, or MP_EINVAL as above.
 */
MP_API int mp_queue_join(mp_queue *queue, double timeout);

#ifdef __cplusplus
}
#endif
#endif
