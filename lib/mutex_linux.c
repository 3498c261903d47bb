/* SPDX-License-Identifier: MIT
 *
 * mutex_linux.c - waiting for a mutex on the monotonic clock, and what the kernel
 * and glibc tell about mutexes and threads. Where the C library is another one, or
 * its mutexes have another shape, this is the POSIX twin.
 */
#include "mutex_internal.h"

#if !MP__KNOWN_MUTEX
#include "mutex_posix.c"
#else

#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifdef MP__TSAN
#define MAY_KNOW_LIST false

/* It does not know pthread_mutex_clocklock. */
int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline)
{
    return mp__mutex_poll(mutex, deadline);
}
#else
#define MAY_KNOW_LIST true
#define SECOND INT64_C(1000000000)

int mp__mutex_timedlock(pthread_mutex_t *mutex, int64_t deadline)
{
    struct timespec end = { (time_t)(deadline / SECOND), (long)(deadline % SECOND) };

    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &end);
}
#endif

_Static_assert(sizeof(mp__links) == sizeof(struct robust_list_head), "the list is the kernel's");
_Static_assert(sizeof(((pthread_mutex_t *)0)->__data.__lock) == sizeof(atomic_uint), "a futex");
_Static_assert(
    offsetof(__pthread_list_t, __next) == offsetof(__pthread_list_t, __prev) + sizeof(void *),
    "a link stands behind the link back");

void mp__self_ask(mp__self *self)
{
    mp__links *list = NULL;
    size_t size = 0;

    self->tid = (unsigned)syscall(SYS_gettid);
    if (MAY_KNOW_LIST && syscall(SYS_get_robust_list, 0, &list, &size) == 0 && list &&
        size == sizeof(*list) &&
        list->futex_offset ==
            (long)offsetof(pthread_mutex_t, __data.__lock) - (long)MP__LINK_OFFSET)
        self->list = list;
}

void mp__mutex_wake(mp__mutex *mutex)
{
    (void)syscall(SYS_futex, mp__mutex_word(mutex), FUTEX_WAKE, 1, NULL, NULL, 0);
}

bool mp__mutex_is_held(const mp__mutex *mutex)
{
    return (atomic_load(mp__mutex_word(mutex)) & FUTEX_TID_MASK) != 0;
}

bool mp__mutex_is_mine(const mp__mutex *mutex)
{
    return (atomic_load_explicit(mp__mutex_word(mutex), memory_order_relaxed) & FUTEX_TID_MASK) ==
           mp__self_get()->tid;
}

#endif
