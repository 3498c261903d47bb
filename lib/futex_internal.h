/* SPDX-License-Identifier: MIT
 *
 * futex_internal.h - sleeping until a word of shared memory changes. Nobody owns
 * anything here, so a process that dies while it sleeps leaves nothing behind.
 */
#ifndef MP__FUTEX_INTERNAL_H
#define MP__FUTEX_INTERNAL_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * Sleeps while *word is expected, until somebody wakes it. Like every futex it
 * may return without a reason: look at the word and call again.
 *
 * Returns 0, MP_ETIMEDOUT after the deadline (not recorded: the caller knows what
 * it waited for), or MP_EINTR after mp_interrupt(). A deadline of 0 only looks.
 */
int mp__futex_wait(atomic_uint *word, unsigned expected, int64_t deadline);

/* The same after a short look: for waits that are often over at once. */
int mp__futex_watch(atomic_uint *word, unsigned expected, int64_t deadline);

/*
 * Wakes at most count of those that sleep on the word, of any process. Change the word
 * first. Returns how many: 0 where sleepers look for themselves.
 */
int mp__futex_wake(atomic_uint *word, int count);

/*
 * The twins': adds to the word, or sets bits of it, and wakes at most count, in one
 * step: who is killed here has done both or nothing, so no change goes unnoticed.
 */
void mp__futex_add(atomic_uint *word, unsigned addend, int count);
void mp__futex_or(atomic_uint *word, unsigned bits, int count);

/* The twins': one sleep until the absolute deadline, which may end early and says nothing. */
void mp__futex_sleep(atomic_uint *word, unsigned expected, int64_t deadline);

#endif
