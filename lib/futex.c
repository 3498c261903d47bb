/* SPDX-License-Identifier: MIT
 *
 * futex.c - the part of waiting for a word that all systems share: deadlines,
 * mp_interrupt, and a short look before the sleep. How to sleep is the twins' business.
 */
#include "futex_internal.h"

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "spin_internal.h"

typedef struct look {
    const atomic_uint *word;
    unsigned expected;
} look;

static bool has_changed(void *argument)
{
    const look *l = argument;

    return atomic_load(l->word) != l->expected;
}

int mp__futex_watch(atomic_uint *word, unsigned expected, int64_t deadline)
{
    static _Thread_local mp__spin spin;

    if (deadline != 0 && mp__spin_until(&spin, has_changed, &(look){ word, expected }))
        return 0;
    return mp__futex_wait(word, expected, deadline);
}

int mp__futex_wait(atomic_uint *word, unsigned expected, int64_t deadline)
{
    int r = 0;

    if (atomic_load(word) != expected)
        return 0;
    if (deadline == 0)
        return MP_ETIMEDOUT;
    if (!mp__fd_interruptible()) {
        mp__futex_sleep(word, expected, deadline);
        return atomic_load(word) == expected && mp__clock_over(deadline) ? MP_ETIMEDOUT : 0;
    }
    /* The handler may run between the look and the sleep, or in another thread: in slices. */
    r = mp__fd_check_interrupt();
    if (r == 0)
        mp__futex_sleep(word, expected, mp__clock_slice(deadline));
    if (r == 0 && atomic_load(word) == expected && mp__clock_over(deadline))
        r = MP_ETIMEDOUT;
    return r;
}
