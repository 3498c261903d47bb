/* SPDX-License-Identifier: MIT
 *
 * mutex_internal.h - a mutex in shared memory that survives its holder: whatever
 * thread of whatever process is killed at whatever instruction, the next one gets
 * the mutex and is told. What it guards is then repaired by whom it is told.
 *
 * It is a robust mutex of POSIX: the kernel knows what a thread holds and hands it
 * on when that ends, without pids that could be used anew.
 */
#ifndef MP__MUTEX_INTERNAL_H
#define MP__MUTEX_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct mp__mutex {
    pthread_mutex_t mutex;
    _Atomic uint64_t holder; /* its token, where the mutex itself does not tell */
} mp__mutex;

/* Makes one in shared memory, once for all processes. Nothing has to end it. 0 or MP_ENOMEM. */
int mp__mutex_init(mp__mutex *mutex);

/*
 * Locks it. A deadline of 0 only tries. The thread must not hold it.
 *
 * Returns 0, or
 *   MP_EOWNERDEAD  it is locked, and its last holder died holding it: repair what it
 *                  guards. Who dies over that leaves the next one this answer
 *   MP_ETIMEDOUT   not by the deadline
 *   MP_EINTR       mp_interrupt(), and the deadline is not 0
 *   MP_EPROTOCOL   this is no mutex any more: somebody wrote over it
 * Only MP_EINTR and MP_EPROTOCOL are recorded.
 */
int mp__mutex_lock(mp__mutex *mutex, int64_t deadline);

/*
 * The same for short critical sections of the library, which nothing should
 * interrupt: 0, MP_EOWNERDEAD or MP_EPROTOCOL.
 */
int mp__mutex_enter(mp__mutex *mutex);

/* Unlocks what this thread holds. 0, or MP_EPERM (not recorded) if it does not. */
int mp__mutex_unlock(mp__mutex *mutex);

/* Whether somebody holds it, which may change; whether this thread does. */
bool mp__mutex_is_held(const mp__mutex *mutex);
bool mp__mutex_is_mine(const mp__mutex *mutex);

/* ---- who a thread is ---- */

typedef struct mp__self {
    uint64_t token; /* random: no thread of any process was ever called so. 0: not asked yet */
    pid_t pid;
    unsigned tid; /* the kernel's name for it, or 0 */
    void *list;   /* the twin's, or NULL */
} mp__self;

extern _Thread_local mp__self mp__self_here __attribute__((tls_model("initial-exec")));
void mp__self_introduce(void);

/* Who calls. A child made by fork is somebody else. */
static inline const mp__self *mp__self_get(void)
{
    if (mp__self_here.token == 0)
        mp__self_introduce();
    return &mp__self_here;
}

/* For the twins: waits by trying, seldom enough to cost little; as pthread_mutex_timedlock. */
int mp__mutex_poll(pthread_mutex_t *mutex, int64_t deadline);

/* ---- the twins' ---- */

/* Finds tid and list. */
void mp__self_ask(mp__self *self);

/* Waits until the deadline, neither 0 nor MP__NEVER, as pthread_mutex_timedlock. */
int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline);

/* Wakes one that waits for the word of the mutex. */
void mp__mutex_wake(mp__mutex *mutex);

/* ---- the short way ---- */

/*
 * It does to a free mutex what glibc does, step by step, but in line: half the
 * time of pthread_mutex_lock. How a thread tells the kernel which futexes it holds
 * is the kernel's interface (get_robust_list(2)): a list, and one futex that is
 * being taken or given back, for who dies between two steps. That glibc's mutexes
 * are in that list, with the word and both links where they are declared, is looked
 * at in each thread. Where it is not so, and under TSan, which has to see the
 * locking, the thread has no list, and glibc does all of it.
 */
#if defined(__SANITIZE_THREAD__)
#define MP__TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MP__TSAN 1
#endif
#endif
#if defined(__GLIBC__) && defined(__LP64__)
#define MP__KNOWN_MUTEX 1 /* elsewhere its mutexes have another shape */
#else
#define MP__KNOWN_MUTEX 0
#endif

#if MP__KNOWN_MUTEX

#define MP__LINK_PI UINT64_C(1) /* in a link: it leads to a mutex of another protocol */
#define MP__LINK_OFFSET \
    (offsetof(pthread_mutex_t, __data.__list) + offsetof(__pthread_list_t, __next))

/* A link of the list. Before it stands the link back, as glibc has it. */
typedef struct mp__link {
    struct mp__link *volatile next;
} mp__link;

typedef struct mp__links {
    mp__link first;
    long futex_offset;
    mp__link *volatile pending; /* who dies now dies holding this one, if its word says so */
} mp__links;

static inline mp__link *mp__link_of(const mp__mutex *mutex)
{
    return (mp__link *)((char *)mutex + MP__LINK_OFFSET);
}

static inline mp__link *mp__link_clean(mp__link *link)
{
    return (mp__link *)((uintptr_t)link & ~MP__LINK_PI);
}

static inline mp__link *volatile *mp__link_back(mp__link *link)
{
    return (mp__link *volatile *)link - 1;
}

/* The tid of the holder, and the kernel's flags. */
static inline atomic_uint *mp__mutex_word(const mp__mutex *mutex)
{
    return (atomic_uint *)&mutex->mutex.__data.__lock;
}

/* A process is killed between any two instructions: they must stand in this order. */
static inline void mp__in_order(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

static inline void mp__list_add(mp__links *list, mp__link *mine)
{
    mp__link *first = list->first.next;

    mine->next = first;
    *mp__link_back(mine) = &list->first;
    if (first != &list->first)
        *mp__link_back(mp__link_clean(first)) = mine;
    mp__in_order();
    list->first.next = mine;
}

static inline void mp__list_remove(const mp__links *list, mp__link *mine)
{
    mp__link *next = mine->next, *previous = mp__link_clean(*mp__link_back(mine));

    if (next != &list->first)
        *mp__link_back(mp__link_clean(next)) = previous;
    previous->next = next;
}

/* Locks a mutex that is free. False: the long way shall do it. */
static inline bool mp__mutex_lock_short(mp__mutex *mutex)
{
    mp__links *list = mp__self_here.list;
    unsigned none = 0;
    bool locked;

    if (!list || atomic_load_explicit(mp__mutex_word(mutex), memory_order_relaxed))
        return false;
    list->pending = mp__link_of(mutex);
    mp__in_order();
    locked = atomic_compare_exchange_strong_explicit(mp__mutex_word(mutex), &none,
        mp__self_here.tid, memory_order_acquire, memory_order_relaxed);
    if (locked)
        mp__list_add(list, mp__link_of(mutex));
    mp__in_order();
    list->pending = NULL;
    return locked;
}

/* Unlocks a mutex of this thread. False: it is not, or the long way shall do it. */
static inline bool mp__mutex_unlock_short(mp__mutex *mutex)
{
    mp__links *list = mp__self_here.list;
    unsigned word = atomic_load_explicit(mp__mutex_word(mutex), memory_order_relaxed);

    if (!list || (word & 0x3fffffff) != mp__self_here.tid)
        return false;
    list->pending = mp__link_of(mutex);
    mp__in_order();
    mp__list_remove(list, mp__link_of(mutex));
    mp__in_order();
    word = atomic_exchange_explicit(mp__mutex_word(mutex), 0, memory_order_release);
    if (word & 0x80000000) /* somebody waits */
        mp__mutex_wake(mutex);
    mp__in_order();
    list->pending = NULL;
    return true;
}

#else

static inline bool mp__mutex_lock_short(mp__mutex *mutex)
{
    (void)mutex;
    return false;
}

static inline bool mp__mutex_unlock_short(mp__mutex *mutex)
{
    (void)mutex;
    return false;
}

#endif

#endif
