/* SPDX-License-Identifier: MIT
 *
 * spin.c - a short look before going to sleep.
 */
#include "spin_internal.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "clock_internal.h"
#include "cpu_internal.h"

#define SPIN_NS 20000 /* about one wake-up of another CPU */
#define MISSES_MAX 6  /* then every 64th time */

static bool other_cpus(void)
{
    static atomic_int known;

    if (!atomic_load_explicit(&known, memory_order_relaxed))
        atomic_store(&known, mp__cpu_count());
    return atomic_load_explicit(&known, memory_order_relaxed) > 1;
}

static bool look(int fd)
{
    struct pollfd one = { .fd = fd, .events = POLLIN };
    int64_t end = mp__clock_now() + SPIN_NS;

    do {
        if (poll(&one, 1, 0) != 0)
            return true;
    } while (mp__clock_now() < end);
    return false;
}

void mp__spin_wait(mp__spin *spin, int fd)
{
    if (spin->skips) {
        spin->skips--;
        return;
    }
    if (!other_cpus())
        return;
    if (look(fd)) {
        spin->misses = 0;
        return;
    }
    if (spin->misses < MISSES_MAX)
        spin->misses++;
    spin->skips = 1u << spin->misses;
}
