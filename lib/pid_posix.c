/* SPDX-License-Identifier: MIT
 *
 * pid_posix.c - processes by pid only. A child that has ended stays a zombie
 * until we reap it, so its pid cannot be used anew meanwhile; a pipe it keeps
 * open tells of its end.
 */
#include "pid_internal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "error_internal.h"

#define MARK "_MP_BOOTSTRAPPING"
/* How many processes of programs that use this library are above: here only they can tell. */
#define GENERATIONS "MP_LEVEL" /* as SHLVL; documented in context.h */
#define GENERATIONS_MAX 4

uint64_t mp__pid_signals(void)
{
    return UINT64_MAX;
}

bool mp__pid_has_descriptors(void)
{
    return false;
}

int mp__pid_open(pid_t pid)
{
    (void)pid;
    return mp__fail(-ENOSYS, "this system has no descriptors for processes");
}

int mp__pid_reap(pid_t pid, int descriptor, int *exitcode)
{
    pid_t r;
    int status;

    (void)descriptor;
    do
        r = waitpid(pid, &status, WNOHANG);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -ECHILD;
    if (r == 0)
        return 0;
    *exitcode = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return 1;
}

int mp__pid_signal(pid_t pid, int descriptor, int sig)
{
    (void)descriptor;
    if (kill(pid, sig) < 0 && errno != ESRCH)
        return mp__fail_errno("cannot send a signal");
    return 0;
}

void mp__pid_own_thread(int change)
{
    (void)change;
}

bool mp__pid_threaded(void)
{
    return false; /* nothing portable tells */
}

bool mp__pid_alone(void)
{
    return false; /* nor that */
}

static void *wait_for_the_end(void *lifeline)
{
    struct pollfd gone = { .fd = (int)(intptr_t)lifeline, .events = POLLIN };

    while (poll(&gone, 1, -1) < 1)
        ;
    (void)kill(getpid(), SIGKILL);
    return NULL;
}

int mp__pid_die_with(int lifeline)
{
    pthread_attr_t detached;
    pthread_t thread;
    sigset_t all, old;
    int r;

    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the program's own threads */
    (void)pthread_attr_init(&detached);
    (void)pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    r = pthread_create(&thread, &detached, wait_for_the_end, (void *)(intptr_t)lifeline);
    (void)pthread_attr_destroy(&detached);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r ? mp__fail(-r, "cannot bind a daemon to its parent: no thread") : 0;
}

bool mp__pid_on_exit(void (*function)(int code))
{
    (void)function; /* atexit does not tell the code */
    return false;
}

void mp__pid_set_title(const char *name)
{
    (void)name;
}

void mp__pid_mark(char *text)
{
    memset(text, 0, strlen(text)); /* nobody needs it any more */
    (void)setenv(MARK, "1", 1);    /* without memory only the depth limit is left */
}

void mp__pid_unmark(char *text)
{
    (void)text;
    (void)unsetenv(MARK);
}

static int generations(void)
{
    const char *text = getenv(GENERATIONS);

    return text ? atoi(text) : 0;
}

void mp__pid_below(void)
{
    char text[16];

    (void)snprintf(text, sizeof(text), "%d", generations() + 1);
    (void)setenv(GENERATIONS, text, 1); /* without memory one is not counted */
}

enum mp__recursion mp__pid_recursion(void)
{
    if (getenv(MARK))
        return MP__RECURSION_BOOTSTRAP;
    return generations() >= GENERATIONS_MAX ? MP__RECURSION_DEEP : MP__RECURSION_NONE;
}
