/* SPDX-License-Identifier: MIT
 *
 * crash.h - ways for a task to fail or to end its worker, and eyes for the ends
 * of processes that are not ours. For the tests of pools.
 */
#ifndef TESTS_CRASH_H
#define TESTS_CRASH_H

#include "support.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum way {
    RETURNS,
    RAISES,
    EXITS_0,
    EXITS_3,
    ABORTS,
    SEGFAULTS,
    KILLED,
    OVERFLOWS,
    LOOPS,
    STOPS,
    WAYS
};

typedef struct fate {
    const char *name;
    int code, exitcode;
    const char *text; /* what the record says of it */
    bool endless;     /* only a time limit ends it */
} fate;

static const fate fates[WAYS] = {
    [RETURNS] = { "returns 7", MP_ERAISED, 0, "it returned 7", false },
    [RAISES] = { "raises", MP_ERAISED, 0, "enough is enough", false },
    [EXITS_0] = { "exit(0)", MP_EWORKERLOST, 0, "exited with code 0", false },
    [EXITS_3] = { "exit(3)", MP_EWORKERLOST, 3, "exited with code 3", false },
    [ABORTS] = { "abort()", MP_EWORKERLOST, -SIGABRT, "signal 6", false },
    [SEGFAULTS] = { "SIGSEGV", MP_EWORKERLOST, -SIGSEGV, "signal 11", false },
    [KILLED] = { "SIGKILL", MP_EWORKERLOST, -SIGKILL, "signal 9", false },
    [OVERFLOWS] = { "stack overflow", MP_EWORKERLOST, -SIGSEGV, "signal 11", false },
    [LOOPS] = { "endless loop", MP_ETIMELIMIT, -SIGKILL, "its time limit", true },
    [STOPS] = { "SIGSTOP", MP_ETIMELIMIT, -SIGKILL, "its time limit", true },
};

/* The same way after way: what a task gets in place of a number that is not negative. */
#define POISON(way) (-1 - (int)(way))

static inline double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Uses all of the stack, of which there is little. */
__attribute__((noinline)) static int fill_stack(volatile char *above, int depth)
{
    volatile char here[4096];

    here[0] = above ? above[0] : 1;
    here[4095] = (char)depth;
    return depth > 0 ? fill_stack(here, depth + 1) + here[4095] : here[0];
}

/* Fails or dies that way. A sanitizer's handlers would make another death of it. */
static inline int fail_by(mp_call *call, enum way way)
{
    struct rlimit little = { 1 << 18, 1 << 18 };
    volatile int one = 1;

    (void)signal(SIGSEGV, SIG_DFL);
    (void)signal(SIGABRT, SIG_DFL);
    switch (way) {
    case RAISES:
        return mp_raise(call, 7, "enough is enough");
    case EXITS_0:
        exit(0);
    case EXITS_3:
        exit(3);
    case ABORTS:
        abort();
    case SEGFAULTS:
        *(volatile char *)(uintptr_t)(one * 16) = 1;
        break;
    case KILLED:
        (void)raise(SIGKILL);
        break;
    case OVERFLOWS:
        (void)setrlimit(RLIMIT_STACK, &little);
        return fill_stack(NULL, 1);
    case LOOPS:
        while (one)
            continue;
        break;
    case STOPS:
        (void)raise(SIGSTOP);
        break;
    default:
        break;
    }
    return 7;
}

/* ---- the ends of processes ---- */

static inline int open_pid(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* Until it has ended. fd: of open_pid, which is closed; -1: it is gone already. */
static inline bool await_end(int fd, double seconds)
{
    struct pollfd one = { .fd = fd, .events = POLLIN };
    double end = now() + seconds;
    int n = fd < 0;

    while (n == 0 && now() < end)
        n = poll(&one, 1, (int)((end - now()) * 1000) + 1) > 0;
    if (fd >= 0)
        (void)close(fd);
    return n > 0;
}

/* Sends a deadly signal to a process and sees it die. */
static inline void end_pid(pid_t pid, int sig)
{
    int fd = open_pid(pid);

    assert_true(fd < 0 || kill(pid, sig) == 0);
    assert_true(await_end(fd, PATIENCE));
}

static inline char state_of(pid_t pid)
{
    char path[64], text[512], *end;
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        (void)close(fd);
    if (n <= 0)
        return 'X';
    text[n] = '\0';
    end = strrchr(text, ')');
    return end ? end[2] : 'X';
}

static inline bool is_alive(pid_t pid)
{
    char state = state_of(pid);

    return state != 'X' && state != 'Z';
}

/* ---- tokens: bytes in a pipe that any process may take ---- */

typedef struct tokens {
    mp_connection *here, *there; /* put here, taken there */
} tokens;

static inline void give_tokens(const tokens *t, int count)
{
    for (int i = 0; i < count; i++)
        assert_int_equal(write(mp_connection_fileno(t->here), "", 1), 1);
}

static inline tokens make_tokens(int count)
{
    tokens t;

    assert_int_equal(mp_pipe(&t.there, &t.here, .oneway = true), 0);
    assert_int_equal(fcntl(mp_connection_fileno(t.there), F_SETFL, O_NONBLOCK), 0);
    give_tokens(&t, count);
    return t;
}

static inline void free_tokens(tokens *t)
{
    mp_connection_free(t->here);
    mp_connection_free(t->there);
}

static inline bool take_token(mp_connection *there)
{
    char byte;

    return read(mp_connection_fileno(there), &byte, 1) == 1;
}

/* ---- chance ---- */

static uint64_t chance_state = 1;

static inline void seed_chance(void)
{
    const char *given = getenv("SEED");

    chance_state = given ? strtoull(given, NULL, 0) : (uint64_t)(now() * 1e9) | 1;
    print_message("SEED=%llu\n", (unsigned long long)chance_state);
}

static inline unsigned chance(unsigned below)
{
    chance_state ^= chance_state << 13;
    chance_state ^= chance_state >> 7;
    chance_state ^= chance_state << 17;
    return (unsigned)((chance_state >> 11) % below);
}

#endif
