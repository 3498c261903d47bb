/* SPDX-License-Identifier: MIT
 *
 * spin.c - a short look before going to sleep.
 */
#include "spin_internal.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "clock_internal.h"
#include "cpu_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"

#include <multiprocessing/error.h>

#define SPIN_NS 50000 /* about one wake-up of another CPU, where machines are virtual */
#define MISSES_MAX 6  /* then every 64th time */
#define TURN_NS 1500  /* longer away: somebody else had the CPU */
#define TURNS_MAX 8
#define OFFERS_MIN 3 /* also with one CPU: whoever is to run next may be done at once */

static bool other_cpus(void)
{
    static atomic_int known;

    if (!atomic_load_explicit(&known, memory_order_relaxed))
        atomic_store(&known, mp__cpu_allowed());
    return atomic_load_explicit(&known, memory_order_relaxed) > 1;
}

/*
 * Whoever is to make it ready may wait for this very CPU, so it is offered each
 * time. Somebody else may take it, and for long: then looking was a mistake.
 */
static bool look(mp__spin *spin, bool (*ready)(void *argument), void *argument)
{
    int64_t now, end, before, away = 0;
    int offers = 0;
    bool seen = false;

    if (ready(argument)) {
        spin->turns = 0;
        return true;
    }
    now = mp__clock_now();
    end = other_cpus() ? now + SPIN_NS : 0;
    while (!seen && (offers++ < OFFERS_MIN || now < end)) {
        before = now;
        (void)sched_yield(); /* cannot fail */
        now = mp__clock_now();
        away = now - before;
        seen = ready(argument);
    }
    spin->turns = seen && away > TURN_NS ? spin->turns + 1 : 0;
    if (away > 5 * SPIN_NS)
        spin->misses = MISSES_MAX;
    return seen;
}

bool mp__spin_until(mp__spin *spin, bool (*ready)(void *argument), void *argument)
{
    if (spin->skips) {
        spin->skips--;
        return false;
    }
    if (look(spin, ready, argument)) {
        spin->misses = 0;
        return true;
    }
    if (spin->misses < MISSES_MAX)
        spin->misses++;
    spin->skips = 1u << spin->misses;
    return false;
}

static bool is_readable(void *fd)
{
    struct pollfd one = { .fd = *(int *)fd, .events = POLLIN };

    return poll(&one, 1, 0) != 0;
}

void mp__spin_wait(mp__spin *spin, int fd)
{
    if (mp__spin_until(spin, is_readable, &fd) && spin->turns >= TURNS_MAX) {
        spin->misses = MISSES_MAX;
        spin->skips = 1u << spin->misses;
    }
}

typedef struct receipt {
    int fd;
    void *data;
    size_t size;
    int *fds;
    size_t *count;
    bool *lost;
    ssize_t n;
} receipt;

static bool try_to_receive(void *argument)
{
    receipt *r = argument;

    mp__hooks_begin_receiving();
    r->n = mp__fd_try_receive(r->fd, r->data, r->size, r->fds, r->count, r->lost);
    mp__hooks_end_receiving();
    return r->n != MP_EAGAIN;
}

/* What poll cannot wait for, receiving has an error for. */
static void sleep_until_readable(int fd)
{
    struct pollfd one = { .fd = fd, .events = POLLIN };

    while (poll(&one, 1, -1) < 0 && errno == EINTR)
        ;
}

ssize_t mp__spin_receive(
    mp__spin *spin, int fd, void *data, size_t size, int *fds, size_t *count, bool *lost)
{
    receipt r = { fd, data, size, fds, count, lost, 0 };

    if (!mp__spin_until(spin, try_to_receive, &r))
        do
            sleep_until_readable(fd);
        while (!try_to_receive(&r));
    return r.n;
}
