/* SPDX-License-Identifier: MIT
 *
 * clean.c - what a copy of a process gives up before it is somebody else.
 *
 * A system call of a fresh copy costs several times what it costs elsewhere: the
 * pages it touches are not there yet. So what can be known is found out before.
 */
#include "clean_internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <unistd.h>

#include "fd_internal.h"
#include "hooks_internal.h"
#include "pid_internal.h"

static int null = -1;

static int open_null(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && fd < MP__FD_LOW && mp__fd_raise(&fd) < 0)
        mp__fd_drop(&fd);
    return fd;
}

uint64_t mp__clean_prepare(void)
{
    mp__lock();
    if (null < 0)
        null = open_null();
    mp__unlock();
    return mp__pid_signals();
}

static void reset(int sig)
{
    struct sigaction standard = { .sa_handler = SIG_DFL }, old;

    if (sig == SIGHUP && (sigaction(sig, NULL, &old) < 0 || old.sa_handler == SIG_IGN))
        return;                            /* nohup goes on */
    (void)sigaction(sig, &standard, NULL); /* fails for the few that cannot change */
}

void mp__clean_signals(uint64_t signals)
{
    for (int sig = 1; sig < NSIG; sig++)
        if (sig > 64 || signals & MP__SIGNAL(sig))
            reset(sig);
}

#ifdef __GLIBC__
/* Whether stdin holds what was read ahead. It is only looked at: to write to it costs a copy of it. */
static bool has_read_ahead(void)
{
    return stdin->_IO_read_ptr != stdin->_IO_read_end || stdin->_IO_save_base || stdin->_mode > 0;
}
#else
static bool has_read_ahead(void)
{
    return true; /* nobody knows */
}
#endif

void mp__clean_up(uint64_t signals)
{
    sigset_t none;

    mp__clean_signals(signals);
    sigemptyset(&none);
    (void)pthread_sigmask(SIG_SETMASK, &none, NULL);
    if (null < 0)
        null = open_null(); /* there was no room for it before */
    if (null >= 0)
        (void)dup2(null, STDIN_FILENO); /* on failure it reads what its parent reads */
    mp__fd_drop(&null);
    if (has_read_ahead())
        __fpurge(stdin); /* it is the parent's */
}
