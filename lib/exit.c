/* SPDX-License-Identifier: MIT
 *
 * exit.c - how a process ends with its children.
 */
#include "exit_internal.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "hooks_internal.h"
#include "log_internal.h"
#include "pid_internal.h"
#include "popen_internal.h"
#include "process_internal.h"

#define GRACE 1.0 /* seconds between SIGTERM and SIGKILL for daemons */

/* A child that still runs. */
static mp_process *find_running(bool daemon)
{
    mp_process *p;

    mp__lock();
    for (p = mp__children; p; p = p->next)
        if (p->started && p->daemon == daemon && !mp__popen_poll(&p->popen))
            break;
    mp__unlock();
    return p;
}

static void signal_daemons(int sig)
{
    mp__lock();
    for (mp_process *p = mp__children; p; p = p->next)
        if (p->started && p->daemon && !mp__popen_poll(&p->popen))
            (void)mp__process_signal(p, sig);
    mp__unlock();
}

/* Daemons end within the grace, or are killed: no exit hangs on them. */
static void end_daemons(void)
{
    mp_process *p = find_running(true);
    int64_t deadline;

    if (!p)
        return;
    deadline = mp__clock_deadline(GRACE);
    signal_daemons(SIGTERM);
    for (; p; p = find_running(true)) {
        if (mp__popen_wait(&p->popen, deadline) != MP_ETIMEDOUT)
            continue;
        mp_log(MP_LOG_INFO, "%s does not end on SIGTERM and is killed", p->name);
        signal_daemons(SIGKILL);
        deadline = MP__NEVER;
    }
}

void mp__process_exit_phase(void)
{
    mp_process *p;

    if (getpid() != mp__hooks_pid())
        return; /* a copy that was made behind our back: none of it is its own */
    mp__hooks_run_exit(0);
    end_daemons();
    while ((p = find_running(false)))
        (void)mp__popen_wait(&p->popen, MP__NEVER); /* an interrupt only has us look again */
    mp__hooks_run_exit(INT_MIN);
    mp__forkserver_stop();
}

void mp__exit_needed(void)
{
    /* being called is enough: begin() below is there */
}

__attribute__((constructor(102))) static void begin(void)
{
    (void)atexit(mp__process_exit_phase); /* without memory children are orphans, as after _exit */
}
