/* SPDX-License-Identifier: MIT
 *
 * futex_linux.c - sleeping on a word by futex(2).
 */
#include "futex_internal.h"

#include <linux/futex.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock_internal.h"

#define SECOND INT64_C(1000000000)

_Static_assert(sizeof(atomic_uint) == 4, "a futex is a word of 32 bits");

void mp__futex_sleep(atomic_uint *word, unsigned expected, int64_t deadline)
{
    long end[2] = { (long)(deadline / SECOND), (long)(deadline % SECOND) }; /* whatever time_t is */

    /* With a bit set the time is absolute, on the monotonic clock. Whatever ends it: look again. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, deadline == MP__NEVER ? NULL : end,
        NULL, FUTEX_BITSET_MATCH_ANY);
}

int mp__futex_wake(atomic_uint *word, int count)
{
    long n = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);

    return n > 0 ? (int)n : 0; /* cannot fail on our memory */
}

/* False: refused, by a filter of system calls or an emulator. */
static bool change_and_wake(atomic_uint *word, int operation, int count)
{
    /* What went before is published here: sanitizers do not see what the kernel does. */
    (void)atomic_fetch_add(word, 0);
    return syscall(SYS_futex, word, FUTEX_WAKE_OP, count, NULL, word, operation) >= 0;
}

void mp__futex_add(atomic_uint *word, unsigned addend, int count)
{
    if (change_and_wake(word, FUTEX_OP(FUTEX_OP_ADD, (int)addend, FUTEX_OP_CMP_LT, 0), count))
        return;
    (void)atomic_fetch_add(word, addend);
    mp__futex_wake(word, count);
}

void mp__futex_or(atomic_uint *word, unsigned bits, int count)
{
    if (change_and_wake(word, FUTEX_OP(FUTEX_OP_OR, (int)bits, FUTEX_OP_CMP_LT, 0), count))
        return;
    (void)atomic_fetch_or(word, bits);
    mp__futex_wake(word, count);
}
