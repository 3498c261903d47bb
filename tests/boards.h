/* SPDX-License-Identifier: MIT
 *
 * boards.h - numbers that a test and its children all see, under every start
 * method: a piece of shared memory whose descriptor travels as a connection.
 */
#ifndef TESTS_BOARDS_H
#define TESTS_BOARDS_H

#include "support.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "shm_internal.h"

typedef struct board {
    atomic_int n[64];
    long plain; /* guarded by what is tested */
} board;

/* The board behind what travels; NULL if it cannot be. */
static inline board *board_of(mp_connection *travelling)
{
    void *memory = NULL;

    if (mp__shm_map(mp_connection_fileno(travelling), sizeof(board), &memory) < 0)
        return NULL;
    return memory;
}

static inline board *new_board(mp_connection **travelling)
{
    int fd = mp__shm_open(sizeof(board));
    board *b;

    assert_true(fd >= 0);
    *travelling = mp_connection_new(&fd);
    assert_non_null(*travelling);
    b = board_of(*travelling);
    assert_non_null(b);
    return b;
}

static inline void free_board(board *b, mp_connection *travelling)
{
    mp__shm_unmap(b, sizeof(*b));
    mp_connection_free(travelling);
}

/* Between two looks at memory that others change: nothing there could be waited for. */
static inline void nap(void)
{
    struct timespec pause = { 0, 200000 };

    (void)nanosleep(&pause, NULL);
}

/* Until the number is at least that; the watchdog is the limit. */
static inline void await(atomic_int *number, int at_least)
{
    while (atomic_load(number) < at_least)
        nap();
}

static inline double seconds_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

#endif
