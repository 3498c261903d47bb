/* SPDX-License-Identifier: MIT
 *
 * mutex.c - robust mutexes in shared memory: their attributes, answers, deadlines
 * and mp_interrupt. How to wait on the monotonic clock is the twins' business.
 */
#include "mutex_internal.h"

#include <errno.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"

/* ---- who a thread is ---- */

_Thread_local mp__self mp__self_here;

/* The thread that called fork is another one in the child. */
static void after_fork(bool ours)
{
    (void)ours;
    mp__self_here = (mp__self){ 0 };
}

/* Without randomness: what no other thread has by chance either. */
static uint64_t make_token(void)
{
    return (uint64_t)mp__clock_now() * UINT64_C(0x9e3779b97f4a7c15) ^ (uintptr_t)&mp__self_here ^
           (uint64_t)getpid() << 40;
}

void mp__self_introduce(void)
{
    mp__self *me = &mp__self_here;

    mp__hooks_after_fork(after_fork);
    me->pid = getpid();
    mp__self_ask(me);
    if (getentropy(&me->token, sizeof(me->token)) < 0 || me->token == 0)
        me->token = make_token() | 1;
}

/* ---- mutexes ---- */

int mp__mutex_init(mp__mutex *mutex)
{
    pthread_mutexattr_t attributes;
    int e = pthread_mutexattr_init(&attributes);

    if (e)
        return mp__fail(-e, "cannot make a mutex: %s", mp_strerror(-e));
    e = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (e == 0)
        e = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (e == 0)
        e = pthread_mutex_init(&mutex->mutex, &attributes);
    (void)pthread_mutexattr_destroy(&attributes);
    return e ? mp__fail(-e, "cannot make a mutex for shared memory: %s", mp_strerror(-e)) : 0;
}

#define YIELDS 50
#define LONGEST 2000000 /* ns between two tries */

int mp__mutex_poll(pthread_mutex_t *mutex, int64_t deadline)
{
    struct timespec pause = { 0, 20000 };
    int e = EBUSY;

    for (int i = 0; (e = pthread_mutex_trylock(mutex)) == EBUSY; i++) {
        if (mp__clock_over(deadline))
            return ETIMEDOUT;
        if (i < YIELDS) {
            (void)sched_yield();
            continue;
        }
        (void)nanosleep(&pause, NULL);
        pause.tv_nsec = pause.tv_nsec < LONGEST / 2 ? pause.tv_nsec * 2 : LONGEST;
    }
    return e;
}

/* The code for what a pthread function said. */
static int answer(mp__mutex *mutex, int e)
{
    if (e == 0 || e == EOWNERDEAD)
        atomic_store(&mutex->holder, mp__self_get()->token);
    if (e == 0)
        return 0;
    if (e == EOWNERDEAD) {
        /* At once: who dies over the repair is a holder that died, too. */
        (void)pthread_mutex_consistent(&mutex->mutex);
        return MP_EOWNERDEAD;
    }
    if (e == EBUSY || e == ETIMEDOUT)
        return MP_ETIMEDOUT;
    return mp__fail(MP_EPROTOCOL, "a mutex in shared memory was overwritten: %s", mp_strerror(-e));
}

/*
 * In slices. For interrupts, because signals do not end pthread_mutex_lock; and
 * for deaths: who is killed between giving a mutex back and waking the next one, or
 * after being woken, leaves that to the kernel, which wakes another one only if
 * nobody has taken the mutex meanwhile. Who did does not know that somebody waits.
 */
static int lock_in_slices(mp__mutex *mutex, int64_t deadline, bool interruptibly)
{
    int r;

    do {
        r = interruptibly ? mp__fd_check_interrupt() : 0;
        if (r == 0)
            r = answer(mutex, mp__mutex_timedlock(&mutex->mutex, mp__clock_slice(deadline)));
    } while (r == MP_ETIMEDOUT && !mp__clock_over(deadline));
    return r;
}

static int lock(mp__mutex *mutex, int64_t deadline, bool interruptibly)
{
    int e;

    if (mp__mutex_lock_short(mutex))
        return 0;
    e = pthread_mutex_trylock(&mutex->mutex);
    if (e != EBUSY || deadline == 0)
        return answer(mutex, e);
    return lock_in_slices(mutex, deadline, interruptibly);
}

int mp__mutex_lock(mp__mutex *mutex, int64_t deadline)
{
    return lock(mutex, deadline, true);
}

int mp__mutex_enter(mp__mutex *mutex)
{
    return lock(mutex, MP__NEVER, false);
}

int mp__mutex_unlock(mp__mutex *mutex)
{
    if (mp__mutex_unlock_short(mutex))
        return 0;
    if (!mp__mutex_is_mine(mutex))
        return MP_EPERM;
    atomic_store(&mutex->holder, 0);
    return pthread_mutex_unlock(&mutex->mutex) ? MP_EPERM : 0;
}
