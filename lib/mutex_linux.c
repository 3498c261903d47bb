/* SPDX-License-Identifier: MIT
 *
 * mutex_linux.c - waiting for a mutex on the monotonic clock, and the short way.
 *
 * The short way does to a free mutex what glibc does, step by step, but in line:
 * half the time of pthread_mutex_lock. How a thread tells the kernel which futexes
 * it holds is the kernel's interface (get_robust_list(2)): a list, and one futex
 * that is being taken or given back, for who dies between two steps. That glibc's
 * mutexes are in that list, the word and both links where they are declared, is
 * looked at in each thread; where it is not so, and under sanitizers, which have to
 * see the locking, glibc does all of it.
 */
#include "mutex_internal.h"

#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock_internal.h"

#define SECOND INT64_C(1000000000)

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SEEN_BY_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define SEEN_BY_SANITIZER 1
#endif

#ifdef SEEN_BY_SANITIZER

/* TSan does not see pthread_mutex_clocklock: to it we would unlock what was never locked. */
int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline)
{
    struct timespec end;
    int64_t wall, left = deadline - mp__clock_now();

    (void)clock_gettime(CLOCK_REALTIME, &end); /* cannot fail with this clock */
    wall = (int64_t)end.tv_sec * SECOND + end.tv_nsec + (left > 0 ? left : 0);
    end = (struct timespec){ (time_t)(wall / SECOND), (long)(wall % SECOND) };
    return pthread_mutex_timedlock(mutex, &end);
}

#else

int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline)
{
    struct timespec end = { (time_t)(deadline / SECOND), (long)(deadline % SECOND) };

    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &end);
}

#endif

#if defined(__GLIBC__) && defined(__LP64__) && !defined(SEEN_BY_SANITIZER)

#define PI UINT64_C(1) /* in a link: it leads to a mutex of another protocol */

/* A link of the list. It stands behind the link back, as glibc has it. */
typedef struct chain {
    struct chain *volatile next;
} chain;

typedef struct list_head {
    chain first;
    long futex_offset;
    chain *volatile pending; /* who dies now dies holding this one, if its word says so */
} list_head;

typedef struct thread {
    list_head *list; /* NULL: not asked yet */
    unsigned tid;    /* 0: the short way is none */
} thread;

static _Thread_local thread self __attribute__((tls_model("initial-exec")));

#define LINK_OFFSET (offsetof(pthread_mutex_t, __data.__list) + offsetof(__pthread_list_t, __next))

_Static_assert(sizeof(list_head) == sizeof(struct robust_list_head), "the list is the kernel's");
_Static_assert(sizeof(((pthread_mutex_t *)0)->__data.__lock) == sizeof(atomic_uint), "a futex");
_Static_assert(
    offsetof(__pthread_list_t, __next) == offsetof(__pthread_list_t, __prev) + sizeof(void *),
    "a link stands behind the link back");

/* The thread that called fork is another thread in the child. */
static void after_fork(void)
{
    self = (thread){ NULL, 0 };
}

static void install(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork);
}

static void introduce(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static list_head none;
    list_head *list = NULL;
    size_t size = 0;

    (void)pthread_once(&once, install);
    self.list = &none;
    if (syscall(SYS_get_robust_list, 0, &list, &size) < 0 || !list || size != sizeof(*list) ||
        list->futex_offset != (long)offsetof(pthread_mutex_t, __data.__lock) - (long)LINK_OFFSET)
        return;
    self.list = list;
    self.tid = (unsigned)syscall(SYS_gettid);
}

static chain *link_of(pthread_mutex_t *mutex)
{
    return (chain *)((char *)mutex + LINK_OFFSET);
}

static chain *clean(chain *link)
{
    return (chain *)((uintptr_t)link & ~PI);
}

static chain *volatile *back_of(chain *link)
{
    return (chain *volatile *)clean(link) - 1;
}

static atomic_uint *word_of(pthread_mutex_t *mutex)
{
    return (atomic_uint *)&mutex->__data.__lock;
}

/* A process is killed between any two instructions: they must stand in this order. */
static void in_order(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

static void enlist(chain *mine)
{
    chain *first = self.list->first.next;

    mine->next = first;
    *back_of(mine) = &self.list->first;
    if (first != &self.list->first)
        *back_of(first) = mine;
    in_order();
    self.list->first.next = mine;
}

static void delist(chain *mine)
{
    chain *next = mine->next, *previous = clean(*back_of(mine));

    if (next != &self.list->first)
        *back_of(next) = previous;
    previous->next = next;
    in_order();
    mine->next = NULL;
    *back_of(mine) = NULL;
}

bool mp__mutex_lock_fast(pthread_mutex_t *mutex)
{
    unsigned none = 0;
    bool locked;

    if (!self.list)
        introduce();
    if (!self.tid || atomic_load_explicit(word_of(mutex), memory_order_relaxed))
        return false;
    self.list->pending = link_of(mutex);
    in_order();
    locked = atomic_compare_exchange_strong_explicit(
        word_of(mutex), &none, self.tid, memory_order_acquire, memory_order_relaxed);
    if (locked) {
        enlist(link_of(mutex));
        mutex->__data.__owner = (int)self.tid;
    }
    in_order();
    self.list->pending = NULL;
    return locked;
}

bool mp__mutex_unlock_fast(pthread_mutex_t *mutex)
{
    unsigned word = atomic_load_explicit(word_of(mutex), memory_order_relaxed);

    if (!self.tid || (word & FUTEX_TID_MASK) != self.tid)
        return false;
    self.list->pending = link_of(mutex);
    in_order();
    delist(link_of(mutex));
    mutex->__data.__owner = 0;
    in_order();
    word = atomic_exchange_explicit(word_of(mutex), 0, memory_order_release);
    if (word & FUTEX_WAITERS)
        (void)syscall(SYS_futex, word_of(mutex), FUTEX_WAKE, 1, NULL, NULL, 0);
    in_order();
    self.list->pending = NULL;
    return true;
}

bool mp__mutex_is_orphan(const mp__mutex *mutex)
{
    return atomic_load((const atomic_uint *)&mutex->mutex.__data.__lock) & FUTEX_OWNER_DIED;
}

#else

bool mp__mutex_lock_fast(pthread_mutex_t *mutex)
{
    (void)mutex;
    return false;
}

bool mp__mutex_unlock_fast(pthread_mutex_t *mutex)
{
    (void)mutex;
    return false;
}

bool mp__mutex_is_orphan(const mp__mutex *mutex)
{
    (void)mutex;
    return false;
}

#endif
