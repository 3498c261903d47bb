/* SPDX-License-Identifier: MIT
 *
 * popen_nursery.c - a copy of this process that forks children later on.
 */
#include "popen_server_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "clean_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "orders_internal.h"
#include "socket_internal.h"

typedef mp__server server;

/* Most are never asked for anything, so until then it does nothing at all. */
static void wait_for_request(int channel)
{
    struct sigaction ignore = { .sa_handler = SIG_IGN };
    struct pollfd one = { .fd = channel, .events = POLLIN };

    (void)sigaction(SIGINT, &ignore, NULL); /* Ctrl-C is for the owner */
    while (poll(&one, 1, -1) < 0 && errno == EINTR)
        ;
    if (one.revents != POLLIN)
        _exit(0); /* its owner is gone */
}

/* In the copy. Returns never. */
static void be_nursery(int channel, int report, uint64_t signals, void (*run)(mp__child *child))
{
    static mp__child child = { .lifeline = -1, .life = -1, .parent_fd = -1, .report = -1 };
    mp__server_orders orders = { .server = true, .report = report, .on_demand = true };
    mp_connection *connection = NULL;

    mp__clean_up(signals);
    wait_for_request(channel);
    if (mp__connection_adopt_socket(&channel, &connection) < 0)
        mp__bootstrap_fail();
    mp__forkserver_serve(connection, &orders, &child);
    run(&child);
}

static int fork_nursery(server *s, void (*run)(mp__child *child))
{
    int channel[2] = { -1, -1 }, statuses[2] = { -1, -1 }, life = -1;
    uint64_t signals = mp__clean_prepare();
    mp__making channels, pipes;
    sigset_t all, old;
    pid_t pid = -1;
    int r;

    mp__hooks_begin_making(&channels, channel, 2);
    mp__hooks_begin_making(&pipes, statuses, 2);
    r = mp__socket_pair(channel);
    if (r == 0)
        r = mp__socket_pipe(statuses);
    if (r == 0)
        r = mp__connection_adopt_socket(&channel[0], &s->channel);
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    if (r == 0 && (pid = mp__hooks_fork()) == 0) {
        mp__fd_close(statuses[0]);
        be_nursery(channel[1], statuses[1], signals, run);
    }
    if (r == 0 && pid < 0)
        r = mp__fail_errno("cannot fork");
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r == 0)
        r = mp__popen_watch(pid, &life, &s->popen);
    if (r == 0) {
        (void)fcntl(statuses[0], F_SETFL, O_NONBLOCK);
        s->statuses = statuses[0];
        statuses[0] = -1;
    }
    mp__fd_close_all(channel, 2);
    mp__fd_close_all(statuses, 2);
    mp__hooks_end_making(&pipes);
    mp__hooks_end_making(&channels);
    return r;
}

int mp__nursery_new(void (*run)(mp__child *child), server **nursery)
{
    server *s = mp__server_new();
    int r = MP_ENOMEM;

    mp__hooks_hold_forks(); /* until its descriptors are known as its own */
    if (s)
        r = fork_nursery(s, run);
    if (r == 0) {
        s->waiters = 1; /* until it is freed */
        mp__server_enlist(s);
        *nursery = s;
    } else {
        mp__server_discard(s);
    }
    mp__hooks_let_forks();
    return r;
}

void mp__nursery_dismiss(server *nursery)
{
    bool barren;

    mp__lock();
    barren = nursery && !nursery->children; /* else it has exit codes to tell */
    mp__unlock();
    if (barren)
        mp_connection_close(nursery->channel);
}

void mp__nursery_free(server *nursery)
{
    if (!nursery)
        return;
    mp__server_release(nursery);
    mp__server_end_useless();
}

int mp__popen_nursery(server *nursery, const mp__job *job, mp__popen *popen)
{
    mp__lines lines;
    int r = mp__server_open_lines(job, &lines, popen);

    if (r < 0)
        return r;
    r = mp__server_request(nursery, job, &lines, popen);
    if (mp__server_is_dead(r))
        r = mp__fail(MP_EFORKSERVER, "the process that forks replacements is dead, or stopped");
    return mp__server_settle(r, &lines, popen);
}
