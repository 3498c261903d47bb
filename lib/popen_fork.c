/* SPDX-License-Identifier: MIT
 *
 * popen_fork.c - a child that is a copy of its parent. The arguments are in its
 * memory; nothing is sent.
 */
#include "popen_internal.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "clean_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "log_internal.h"
#include "pid_internal.h"
#include "socket_internal.h"

int mp__lines_open(bool daemon, mp__lines *lines)
{
    bool pipes = !mp__pid_has_descriptors();
    int r = 0;

    *lines = (mp__lines){ { -1, -1 }, { -1, -1 } };
    if (pipes || daemon)
        r = mp__socket_pipe(lines->lifeline);
    if (r == 0 && pipes)
        r = mp__socket_pipe(lines->life);
    if (r < 0)
        mp__lines_close(lines);
    return r;
}

void mp__lines_close(mp__lines *lines)
{
    mp__fd_close_all(lines->lifeline, 2);
    mp__fd_close_all(lines->life, 2);
}

/* A thread that was joined is seen for a moment longer. */
static bool has_threads(void)
{
    for (int i = 0; i < 10 && mp__pid_threaded(); i++)
        (void)poll(NULL, 0, 1);
    return mp__pid_threaded();
}

static void warn_of_threads(void)
{
    static atomic_bool warned;

    if (atomic_load(&warned) || !has_threads() || atomic_exchange(&warned, true))
        return;
    mp_log(MP_LOG_WARNING, "fork is used while other threads run: a lock that one of them holds "
                           "stays locked in the child for ever. The start methods spawn and "
                           "forkserver are safe (mp_set_start_method)");
}

/* They move over: the parent's are another copy. A list of one byte is empty and needs no memory. */
static int take_arguments(mp_message *arguments, const mp__job *job)
{
    mp__message *own;
    int r;

    if (job->arguments->size == 1) {
        arguments->value = mp_list();
        return 0;
    }
    own = mp__message_own(arguments);
    if (!own)
        return MP_ENOMEM;
    own->bytes = *job->arguments;
    r = mp__message_take(arguments, job->parcel);
    return r < 0 ? r : mp__value_decode(arguments);
}

static void become(const mp__job *job, mp__lines *lines, uint64_t signals)
{
    mp__child child = {
        .identity = job->identity,
        .target = job->target,
        .lifeline = lines->lifeline[0],
        .life = lines->life[1],
        .parent_fd = -1,
        .report = -1,
    };

    mp__fd_close(lines->lifeline[1]);
    mp__fd_close(lines->life[0]);
    mp__clean_up(signals);
    mp__log_set_name(job->identity.name);
    if (take_arguments(&child.call.arguments, job) < 0)
        mp__bootstrap_fail();
    job->run(&child);
}

int mp__popen_fork(const mp__job *job, mp__popen *popen)
{
    mp__lines lines = { { -1, -1 }, { -1, -1 } };
    mp__making making;
    uint64_t signals;
    sigset_t all, old;
    pid_t pid;
    int r;

    warn_of_threads();
    mp__hooks_begin_making(&making, (const int *)&lines, sizeof(lines) / sizeof(int));
    r = mp__lines_open(job->identity.daemon, &lines);
    if (r < 0) {
        mp__hooks_end_making(&making);
        return r;
    }
    signals = mp__clean_prepare();
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old); /* no handler of the parent runs in the child */
    pid = mp__hooks_fork();
    if (pid == 0)
        become(job, &lines, signals);
    r = pid < 0 ? mp__fail_errno("cannot fork") : 0;
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r == 0)
        r = mp__popen_watch(pid, &lines.life[0], popen);
    if (r == 0) {
        popen->lifeline = lines.lifeline[1];
        lines.lifeline[1] = -1;
    }
    mp__lines_close(&lines);
    mp__hooks_end_making(&making);
    return r;
}
