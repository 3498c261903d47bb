/* SPDX-License-Identifier: MIT
 *
 * popen_spawn.c - a child that is a fresh exec of the program.
 */
#include "popen_internal.h"

#include "error_internal.h"
#include "fd_internal.h"
#include "function_internal.h"
#include "hooks_internal.h"
#include "orders_internal.h"
#include "pid_internal.h"

/*
 * Whoever has been exec'd is started: if it ends before it has read what it is,
 * its exit code tells.
 */
static int tell(mp_connection *channel, const mp__job *job, int life)
{
    int r = mp__orders_send(channel, job, NULL, -1, life);

    return r == MP_EPIPE || r == MP_ECONNRESET ? 0 : r;
}

static int start(const mp__job *job, mp__lines *lines, mp__popen *popen)
{
    mp_connection *channel = NULL;
    pid_t pid;
    int r = mp__bootstrap_launch(&channel, &pid);

    if (r == 0)
        r = mp__popen_watch(pid, &lines->life[0], popen);
    if (r == 0) {
        r = tell(channel, job, lines->life[1]);
        if (r < 0)
            mp__popen_destroy(popen);
    }
    mp__hooks_hold_forks();
    if (r == 0) /* the channel goes on as the lifeline of a daemon, and tells of a parent's end */
        popen->lifeline = mp__connection_detach(channel);
    else
        mp_connection_free(channel);
    mp__hooks_let_forks();
    return r;
}

int mp__popen_spawn(const mp__job *job, mp__popen *popen)
{
    mp__function target;
    mp__lines lines;
    int r = job->target ? mp__function_describe((void (*)(void))job->target, &target) : 0;

    if (r == 0)
        r = mp__lines_open(false, &lines);
    if (r < 0)
        return r;
    r = start(job, &lines, popen);
    if (r == 0 && !job->identity.daemon && mp__pid_has_descriptors())
        mp__fd_drop(&popen->lifeline);
    mp__lines_close(&lines);
    return r;
}
