/* SPDX-License-Identifier: MIT
 *
 * child.c - the child's side of a start: the guard of an exec'd process, the
 * call of the target, and the way out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/context.h>
#include <multiprocessing/process.h>

#include "bootstrap_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "forkserver_internal.h"
#include "hooks_internal.h"
#include "log_internal.h"
#include "orders_internal.h"
#include "pid_internal.h"
#include "exit_internal.h"
#include "process_internal.h"

static mp__child *self;

/* What a child holds for its parent is not for the child's own children. */
static void after_fork(bool ours)
{
    (void)ours;
    mp__fd_drop(&self->lifeline);
    mp__fd_drop(&self->life);
    mp__fd_drop(&self->report);
}

/*
 * The way out of a copy of another process: exit() has called the handlers this
 * process registered itself; those of the process it was copied from are not
 * its own. Output is written before anybody is told of the end.
 */
static _Noreturn void leave(int code)
{
    mp__process_exit_phase();
    (void)fflush(NULL);
    if (getpid() == mp__hooks_pid())
        mp__forkserver_report(self, code);
    _exit(code);
}

static void leave_at_exit(int code)
{
    leave(code);
}

static int returned = -1; /* by the target */

/* Where exit() does not tell its code: who calls it in the target runs the parent's handlers, too. */
static void leave_after_return(void)
{
    if (returned >= 0)
        leave(returned);
}

void mp__child_end(int code)
{
    returned = code & 0xff;
    exit(returned);
}

/* Ties a daemon to its parent, and keeps what tells the parent of our end. */
static void hold_lines(mp__child *child)
{
    if (child->identity.daemon && child->lifeline >= 0 && mp__pid_die_with(child->lifeline) < 0)
        mp_log(MP_LOG_WARNING, "%s", mp_last_error()->text);
    else if (!child->identity.daemon && mp__pid_has_descriptors())
        mp__fd_drop(&child->lifeline);
}

static int call_target(mp__child *child)
{
    int code = child->target ? child->target(&child->call) : 0;

    if (code != 0 && child->call.raised.code != 0)
        mp__log_last_words("%s", child->call.raised.text);
    else if (code != 0 && child->call.refused)
        mp__log_last_words("its arguments were refused: %s", child->call.raised.text);
    if (mp__pid_alone()) /* else a thread that it left may use them */
        mp_message_clear(&child->call.arguments);
    return code;
}

void mp__child_run(mp__child *child)
{
    self = child;
    mp__hooks_after_fork(after_fork);
    mp__process_become(child);
    mp__stage_set(MP__STAGE_CHILD);
    mp__pid_below();
    hold_lines(child);
    mp_log(MP_LOG_DEBUG, "child begins");
    if (child->identity.method != MP__SPAWN && !mp__pid_on_exit(leave_at_exit) &&
        atexit(leave_after_return) != 0)
        leave(call_target(child) & 0xff); /* exit() would call the handlers of the parent */
    mp__child_end(call_target(child));
}

/* An exec'd process at its guard: becomes the child or server it is told to be. Never returns. */
static _Noreturn void serve(void)
{
    static mp__child child = { .lifeline = -1, .life = -1, .parent_fd = -1, .report = -1 };
    mp__server_orders orders = { .report = -1 };
    mp_connection *channel = mp__bootstrap_channel();
    int r = mp__orders_receive(channel, &child, &orders);

    if (r == MP_EEOF) /* the parent went before it could tell: nobody waits for us */
        _exit(1);
    if (r < 0)
        mp__bootstrap_fail();
    mp__stage_set(MP__STAGE_GUARDED);
    if (orders.server) {
        mp_message_clear(&child.request);
        mp__forkserver_serve(channel, &orders, &child);
    } else {
        child.lifeline = mp__connection_detach(channel);
    }
    mp__child_run(&child);
}

bool mp__main(void)
{
    switch (mp__stage()) {
    case MP__STAGE_ROOT:
        mp__stage_set(MP__STAGE_GUARDED);
        return true;
    case MP__STAGE_GUARDED:
        return true;
    case MP__STAGE_BOOTSTRAPPING:
        serve();
    case MP__STAGE_CHILD:
        break;
    }
    return false;
}
