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

static void open_null(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && mp__fd_raise(&fd) < 0)
        mp__fd_drop(&fd);
    mp__lock();
    if (null < 0) {
        null = fd;
        fd = -1;
    }
    mp__unlock();
    mp__fd_close(fd); /* another thread was faster */
}

mp__clean mp__clean_prepare(void)
{
    if (null < 0)
        open_null();
    return (mp__clean){ mp__pid_signals(), null };
}

static void reset(int sig)
{
    struct sigaction standard = { .sa_handler = SIG_DFL }, old;

    if (sig == SIGHUP && (sigaction(sig, NULL, &old) < 0 || old.sa_handler == SIG_IGN))
        return; /* nohup goes on */
    (void)sigaction(sig, &standard, NULL); /* fails for the few that cannot change */
}

void mp__clean_up(const mp__clean *clean)
{
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        if (sig > 64 || clean->signals >> (sig - 1) & 1)
            reset(sig);
    sigemptyset(&none);
    (void)pthread_sigmask(SIG_SETMASK, &none, NULL);
    if (clean->null >= 0)
        (void)dup2(clean->null, STDIN_FILENO); /* on failure it reads what its parent reads */
    mp__fd_drop(&null);
    __fpurge(stdin); /* what the parent has read ahead is the parent's */
}
