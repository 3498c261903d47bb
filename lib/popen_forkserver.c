/* SPDX-License-Identifier: MIT
 *
 * popen_forkserver.c - the fork server of this process: started when it is needed,
 * and again when it died.
 */
#include "popen_server_internal.h"

#include <fcntl.h>
#include <pthread.h>

#include <multiprocessing/context.h>
#include <multiprocessing/process.h>

#include "error_internal.h"
#include "fd_internal.h"
#include "function_internal.h"
#include "hooks_internal.h"
#include "orders_internal.h"
#include "socket_internal.h"

typedef mp__server server;

static pthread_mutex_t requests = PTHREAD_MUTEX_INITIALIZER; /* one at a time */
static int (*preload_hook)(void);
static enum mp_on_error preload_on_error;

static void after_fork(bool ours)
{
    (void)ours;
    requests = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static int launch(server *s)
{
    int statuses[2] = { -1, -1 }, life = -1;
    mp__making making;
    pid_t pid;
    int r;

    mp__hooks_begin_making(&making, statuses, 2);
    r = mp__socket_pipe(statuses);
    if (r == 0)
        r = mp__bootstrap_launch(&s->channel, &pid);
    if (r == 0)
        r = mp__popen_watch(pid, &life, &s->popen);
    if (r == 0) {
        (void)fcntl(statuses[0], F_SETFL, O_NONBLOCK);
        r = mp__orders_send_server(s->channel, preload_hook, (int)preload_on_error, statuses[1]);
        if (r < 0)
            mp__popen_destroy(&s->popen);
    }
    if (r == 0) {
        s->statuses = statuses[0];
        statuses[0] = -1;
    }
    mp__fd_close_all(statuses, 2);
    mp__hooks_end_making(&making);
    return r;
}

/* The current server, started if there is none. With the requests locked. */
static int ensure(server **out)
{
    server *s = mp__server_current();
    int r;

    if (s) {
        *out = s;
        return 0;
    }
    r = mp__guard_start(MP__FORKSERVER, 0); /* whoever asks: it runs the program again */
    if (r < 0)
        return r;
    s = mp__server_new();
    if (!s)
        return MP_ENOMEM;
    mp__hooks_after_fork(after_fork);
    s->current = true;
    s->spares = MP__SPARES;
    mp__hooks_hold_forks(); /* until its descriptors are known as its own */
    r = launch(s);
    if (r == 0)
        mp__server_enlist(s);
    mp__hooks_let_forks();
    if (r < 0) {
        mp__server_discard(s);
        return r;
    }
    (void)mp__server_wish(s, s->spares, false); /* a failure will be seen by who needs them */
    *out = s;
    return 0;
}

/* Asks the server, and once more a new one if the first turns out to be dead. */
static int ask(const mp__job *job, const mp__lines *lines, mp__popen *popen)
{
    server *s = NULL;
    int r = MP_EFORKSERVER;

    for (int attempt = 0; attempt < 2; attempt++) {
        s = NULL;
        r = ensure(&s);
        if (r == 0)
            r = mp__server_request(s, job, lines, popen);
        if (!mp__server_is_dead(r))
            break;
        if (s)
            mp__server_retire(s);
        r = mp__fail(MP_EFORKSERVER, "the fork server ended before it could serve, twice: it was "
                                     "killed, had no descriptor free, or code before MP_MAIN() "
                                     "or the preload hook fails in it (see stderr)");
    }
    return r;
}

int mp__popen_forkserver(const mp__job *job, mp__popen *popen)
{
    mp__lines lines;
    int r = mp__server_open_lines(job, &lines, popen);

    if (r < 0)
        return r;
    (void)pthread_mutex_lock(&requests);
    r = ask(job, &lines, popen);
    (void)pthread_mutex_unlock(&requests);
    return mp__server_settle(r, &lines, popen);
}

void mp__forkserver_expect(size_t count)
{
    server *s = NULL;

    (void)pthread_mutex_lock(&requests);
    if (count > MP__EXPECT_MAX)
        count = MP__EXPECT_MAX;
    if (ensure(&s) == 0 && count > s->spares)
        (void)mp__server_wish(s, count, false);
    (void)pthread_mutex_unlock(&requests);
}

void mp__forkserver_stop(void)
{
    server *s;

    (void)pthread_mutex_lock(&requests);
    s = mp__server_current();
    if (s)
        mp__server_retire(s);
    mp__server_end_useless();
    (void)pthread_mutex_unlock(&requests);
}

int mp_forkserver_ensure_running(void)
{
    server *s;
    int r;

    (void)pthread_mutex_lock(&requests);
    s = mp__server_current();
    if (s && mp__server_has_hung_up(s))
        mp__server_retire(s);
    r = ensure(&s);
    (void)pthread_mutex_unlock(&requests);
    return r;
}

int mp_set_forkserver_preload_create(const mp_forkserver_preload_options *options)
{
    mp__function description;
    int r = options->hook ? mp__function_describe((void (*)(void))options->hook, &description) : 0;

    if (options->on_error > MP_ON_ERROR_FAIL)
        return mp__fail(MP_EINVAL, "on_error is MP_ON_ERROR_IGNORE, _WARN or _FAIL");
    if (r < 0)
        return r;
    (void)pthread_mutex_lock(&requests);
    preload_hook = options->hook;
    preload_on_error = options->on_error;
    (void)pthread_mutex_unlock(&requests);
    return 0;
}
