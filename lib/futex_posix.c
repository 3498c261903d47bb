/* SPDX-License-Identifier: MIT
 *
 * futex_posix.c - sleeping on a word where there is no futex: by looking, seldom
 * enough to cost little. POSIX has condition variables for shared memory, but a
 * process that is killed inside one may leave it unusable; who only looks cannot.
 */
#include "futex_internal.h"

#include <sched.h>
#include <stddef.h>
#include <time.h>

#include "clock_internal.h"

#define YIELDS 50
#define LONGEST 2000000 /* ns between two looks */

void mp__futex_sleep(atomic_uint *word, unsigned expected, int64_t deadline)
{
    struct timespec pause = { 0, 20000 };

    for (int i = 0; atomic_load(word) == expected && !mp__clock_over(deadline); i++) {
        if (i < YIELDS) {
            (void)sched_yield();
            continue;
        }
        (void)nanosleep(&pause, NULL);
        pause.tv_nsec = pause.tv_nsec < LONGEST / 2 ? pause.tv_nsec * 2 : LONGEST;
    }
}

int mp__futex_wake(atomic_uint *word, int count)
{
    (void)word;
    (void)count;
    return 0;
}

void mp__futex_add(atomic_uint *word, unsigned addend, int count)
{
    (void)count;
    (void)atomic_fetch_add(word, addend);
}

void mp__futex_or(atomic_uint *word, unsigned bits, int count)
{
    (void)count;
    (void)atomic_fetch_or(word, bits);
}
