/* SPDX-License-Identifier: MIT
 *
 * synchronize.h - locks, semaphores, conditions, events and barriers between
 * processes and threads, Python's multiprocessing.synchronize.
 *
 * Each object lives in shared memory without a name and holds one descriptor (a
 * condition two). It travels as an argument of a process or pool task and in
 * messages, under every start method; a process made by fork may also just use
 * its parent's objects. Any thread of any process that has one may use it.
 *
 * A process or thread that is killed, at whatever instruction, harms nobody: a
 * lock it held goes to the next who asks, who is told (MP_EOWNERDEAD); a wait of
 * its is as if it had never begun, but a notification that had called it already is
 * used up; a barrier it waits at breaks. One that is stopped (SIGSTOP) inside a
 * function of a condition, a barrier or a bounded semaphore holds up the others there; one
 * that waits for a semaphore when it is stopped may keep a release from them for a second.
 * Semaphores know no turns: who asks again at once may be served again.
 *
 * A thread is known by what the kernel calls it, so all who use an object must be in
 * one PID namespace, and a child made past fork(), by _Fork or clone, passes for its
 * parent. A thread that dies with more than 2048 locks held leaves the rest locked:
 * the kernel looks at no more. So does a thread, other than the main one, that calls
 * exec: release what it holds before.
 *
 * Who waits for a lock or at a barrier looks up 20 times a second: a wake-up can be
 * lost with a process that is killed.
 *
 * Where files have a limit of length (ulimit -f), what makes an object may fail with -EFBIG.
 *
 * Of NULL, what only looks says that it is nothing: 0, false, broken.
 *
 * Timeouts are those of clock.h: 0 or less tries once. Waits end with MP_EINTR
 * after mp_interrupt() if that was allowed. An object must not be freed while
 * another thread of this process uses it; one that is lent by an array, a value or a
 * condition is not freed at all.
 */
#ifndef MULTIPROCESSING_SYNCHRONIZE_H
#define MULTIPROCESSING_SYNCHRONIZE_H

#include <multiprocessing/clock.h>
#include <multiprocessing/value.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Lock, RLock ---- */

/*
 * A lock, like Lock(), and one that its holder may acquire again, like RLock().
 * The holder is a thread: only it may release. (To hand something from one to
 * another, use mp_semaphore_new(1).) A thread that ends while it holds one is a
 * holder that died. A child made by fork does not hold what its parent holds.
 *
 * Returns NULL on MP_ENOMEM, MP_EMFILE or MP_ENFILE.
 */
MP_API mp_lock *mp_lock_new(void);
MP_API mp_lock *mp_rlock_new(void);

/*
 * Releases the object; the lock lives on as long as another process has it. NULL
 * is allowed. A lock that this process holds should be released first: otherwise
 * it stays held until the thread ends.
 */
MP_API void mp_lock_free(mp_lock *lock);

/*
 * What was taken from a message or call is lent and freed with it; these make it
 * the caller's, to be ended with its free. They return their argument.
 */
MP_API mp_lock *mp_lock_keep(mp_lock *lock);

/*
 * Acquires it, like acquire(timeout=timeout); acquire(False) is a timeout of 0.
 *
 * Returns 0 when the lock is held, or
 *   MP_EOWNERDEAD  it IS held, and is to be released as ever: but its last holder
 *                  died holding it, so what it guards may be half changed. This
 *                  is said once
 *   MP_ETIMEDOUT   not within the time; the sentence says who holds it
 *   MP_EDEADLOCK   this thread holds it, it is no RLock, and the timeout is not 0
 *   MP_EINTR, MP_EPROTOCOL (its memory was overwritten), MP_EINVAL (NULL)
 *   MP_ERANGE      an RLock acquired 4294967295 times
 */
MP_API int mp_lock_acquire(mp_lock *lock, double timeout);

/*
 * Releases it, like release(): an RLock once for each time it was acquired.
 * Returns 0, or MP_ENOTHELD when this thread does not hold it (Python: ValueError
 * of a Lock, AssertionError of an RLock).
 */
MP_API int mp_lock_release(mp_lock *lock);

/* Whether somebody holds it, like locked(). It may have changed since. */
MP_API bool mp_lock_locked(const mp_lock *lock);

/*
 * Writes what repr() says into text, cut at size bytes: "<Lock(owner=None)>",
 * "<RLock(this thread, 2)>", "<Lock(owner=another thread)>", "<Lock(owner=process
 * 4711)>". Returns text.
 */
MP_API char *mp_lock_repr(const mp_lock *lock, char *text, size_t size);

/* ---- Semaphore, BoundedSemaphore ---- */

#define MP_SEMAPHORE_MAX 0x7fffffff

/*
 * A semaphore, like Semaphore(value) and BoundedSemaphore(value), which cannot be
 * released above its first value. Nobody owns what was acquired: anybody may
 * release, and what a process that died had acquired is not given back.
 *
 * Returns NULL for a negative value (MP_EINVAL), on MP_ENOMEM, MP_EMFILE, MP_ENFILE.
 */
MP_API mp_semaphore *mp_semaphore_new(int value);
MP_API mp_semaphore *mp_bounded_semaphore_new(int value);
MP_API void mp_semaphore_free(mp_semaphore *semaphore);
MP_API mp_semaphore *mp_semaphore_keep(mp_semaphore *semaphore);

/* Takes one, like acquire(). Returns 0, MP_ETIMEDOUT, MP_EINTR, MP_EPROTOCOL or MP_EINVAL. */
MP_API int mp_semaphore_acquire(mp_semaphore *semaphore, double timeout);

/*
 * Gives one, like release(). Returns 0, MP_ENOTHELD when a bounded one has its
 * first value already (Python: ValueError), MP_ERANGE above MP_SEMAPHORE_MAX.
 */
MP_API int mp_semaphore_release(mp_semaphore *semaphore);

/* How many can be taken, like get_value(), and whether that is none, like locked(). */
MP_API int mp_semaphore_get_value(const mp_semaphore *semaphore);
MP_API bool mp_semaphore_locked(const mp_semaphore *semaphore);

/* ---- Condition ---- */

/* How many may wait for one condition at a time. */
#define MP_CONDITION_WAITERS_MAX 4096

/*
 * A condition, like Condition(lock): over a lock of the caller's, which may be
 * freed before it, or over an RLock of its own for NULL.
 *
 * Returns NULL on MP_ENOMEM, MP_EMFILE or MP_ENFILE.
 */
MP_API mp_condition *mp_condition_new(mp_lock *lock);
MP_API void mp_condition_free(mp_condition *condition);
MP_API mp_condition *mp_condition_keep(mp_condition *condition);

/* acquire() and release() of its lock: as mp_lock_acquire and mp_lock_release. */
MP_API int mp_condition_acquire(mp_condition *condition, double timeout);
MP_API int mp_condition_release(mp_condition *condition);

/*
 * Lets go of the lock, all levels of it, waits to be notified, and takes the lock
 * again, however long that takes: like wait(timeout). There is no waking without
 * a reason. The lock is held whatever it returns, but for MP_ENOTHELD:
 *
 *   0              notified
 *   MP_ETIMEDOUT   not within the time
 *   MP_EOWNERDEAD  the last holder of the lock died holding it; look at all it
 *                  guards, and notify who should do so too
 *   MP_EINTR       mp_interrupt()
 *   MP_ENOTHELD    this thread does not hold the lock
 *   MP_EAGAIN      MP_CONDITION_WAITERS_MAX wait already
 */
MP_API int mp_condition_wait(mp_condition *condition, double timeout);

/*
 * Waits until predicate(argument) says true, like wait_for(predicate, timeout).
 * It is called with the lock held. Returns 0, or as mp_condition_wait.
 */
MP_API int mp_condition_wait_for(
    mp_condition *condition, bool (*predicate)(void *argument), void *argument, double timeout);

/*
 * Wakes n of those that wait, the longest waiting first, fewer if fewer wait; or
 * all: like notify(n) and notify_all(). Who died waiting is not counted. Never
 * blocks. Returns 0, MP_ENOTHELD, or MP_EINVAL for a negative n.
 */
MP_API int mp_condition_notify(mp_condition *condition, int n);
MP_API int mp_condition_notify_all(mp_condition *condition);

/* ---- Event ---- */

/* A flag to wait for, like Event(); not set at first. NULL as the others. */
MP_API mp_event *mp_event_new(void);
MP_API void mp_event_free(mp_event *event);
MP_API mp_event *mp_event_keep(mp_event *event);

MP_API bool mp_event_is_set(const mp_event *event);

/* Return 0, also when nothing changes, or MP_EINVAL. */
MP_API int mp_event_set(mp_event *event);
MP_API int mp_event_clear(mp_event *event);

/*
 * Waits until it is set, like wait(timeout); a set during the wait counts, also
 * when it is cleared at once. Returns 0, MP_ETIMEDOUT, MP_EINTR or MP_EINVAL.
 */
MP_API int mp_event_wait(mp_event *event, double timeout);

/* ---- Barrier ---- */

#define MP_BARRIER_PARTIES_MAX 65536

/*
 * What one of the parties does when all have come, before they go on: a function
 * as in processes, not one of another program. Anything but 0 breaks the barrier.
 */
typedef int (*mp_barrier_action)(void *argument);

typedef struct mp_barrier_options {
    int parties;
    mp_barrier_action action; /* NULL: none */
    void *argument;           /* of the action in this process; see mp_barrier_set_argument */
    double timeout;           /* of waits with MP_FOREVER; 0: none */
    int _kw;
} mp_barrier_options;

/*
 * A barrier for so many parties, like Barrier(parties, action, timeout):
 * mp_barrier_new(4), mp_barrier_new(4, .action = f, .timeout = 2.5).
 *
 * Returns NULL for parties below 1 or above MP_BARRIER_PARTIES_MAX or a negative
 * timeout (MP_EINVAL), an action that could not be found in another process
 * (MP_EFUNCTION), on MP_ENOMEM, MP_EMFILE, MP_ENFILE.
 */
#define mp_barrier_new(...) mp_barrier_create(&(const mp_barrier_options){ __VA_ARGS__, ._kw = 0 })
MP_API mp_barrier *mp_barrier_create(const mp_barrier_options *options);
MP_API void mp_barrier_free(mp_barrier *barrier);
MP_API mp_barrier *mp_barrier_keep(mp_barrier *barrier);

/* Pointers do not travel: each process says what its action gets. NULL at first. */
MP_API void mp_barrier_set_argument(mp_barrier *barrier, void *argument);

/*
 * Waits for the others, like wait(timeout). MP_FOREVER: the barrier's own timeout
 * if it has one. Who comes before the last round is over waits for that first, and its
 * time runs from then. The last to come runs the action.
 *
 * Returns the number of this party in this round, 0 to parties - 1, or
 *   MP_EBROKENBARRIER  the barrier is broken: by mp_barrier_abort, a reset while
 *                      somebody waited, a failed action, a wait that took too long
 *                      (also this one), or a party that died waiting
 *   MP_EINTR           mp_interrupt(); that breaks the round it waited in, too
 *   MP_ERAISED         the action run here returned a positive value; a negative
 *                      one is returned itself
 *   MP_EPROTOCOL, MP_EINVAL
 */
MP_API int mp_barrier_wait(mp_barrier *barrier, double timeout);

/* Makes it as new; who waits gets MP_EBROKENBARRIER: like reset(). 0 or MP_EPROTOCOL. */
MP_API int mp_barrier_reset(mp_barrier *barrier);

/* Breaks it until it is reset, like abort(). 0 or MP_EPROTOCOL. */
MP_API int mp_barrier_abort(mp_barrier *barrier);

/* How many are needed, how many wait now, whether it is broken. */
MP_API int mp_barrier_parties(const mp_barrier *barrier);
MP_API int mp_barrier_n_waiting(const mp_barrier *barrier);
MP_API bool mp_barrier_broken(const mp_barrier *barrier);

#ifdef __cplusplus
}
#endif
#endif
