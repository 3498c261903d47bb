/* SPDX-License-Identifier: MIT
 *
 * popen_forkserver.c - a child that is a copy of a server: the owner's side. A
 * process has one server, started when it is needed and again when it died.
 * Exit codes come over a pipe; the end of a child is seen as that of any other.
 */
#include "popen_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/context.h>
#include <multiprocessing/process.h>

#include "clean_internal.h"
#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "forkserver_internal.h"
#include "function_internal.h"
#include "hooks_internal.h"
#include "orders_internal.h"
#include "pid_internal.h"
#include "socket_internal.h"

#define LOST 255 /* the exit code when the server died before it could tell; Python's */
#define STOP_SECONDS 1.0
#define PATIENCE_MS 5 /* between looks, where a process has no descriptor to wait for */

/* A server; a dead one is kept until its last child has ended. Under mp__lock. */
typedef struct mp__server server;
struct mp__server {
    mp__popen popen;
    mp_connection *channel;
    int statuses;
    uint64_t serial;     /* of the last answer */
    uint64_t owned;      /* of the last child in children */
    mp__status early;    /* of a child that ended before it was there */
    char *directory;     /* where it works: where we did when it was started */
    mp__popen *children; /* whose end is not known yet */
    unsigned waiters;    /* threads that use its descriptors without mp__lock */
    bool current;
    server *next;
};

static pthread_mutex_t requests = PTHREAD_MUTEX_INITIALIZER; /* one at a time */
static server *servers;
static int (*preload_hook)(void);
static enum mp_on_error preload_on_error;

/* ---- statuses ---- */

/*
 * Another thread may read the status of a child while the one that started it has
 * just got the answer. There is one such child at most: requests come one by one.
 */
static void take_status(server *s, const mp__status *status)
{
    if (status->serial > s->owned)
        s->early = *status;
    for (mp__popen *child = s->children; child; child = child->sibling) {
        if (child->serial == status->serial && !child->reported) {
            child->reported = true;
            child->exitcode = status->exitcode;
        }
    }
}

static void collect(server *s)
{
    mp__status some[64];
    ssize_t n;

    do {
        n = read(s->statuses, some, sizeof(some)); /* whole records: they are written whole */
        for (ssize_t i = 0; i < n / (ssize_t)sizeof(*some); i++)
            take_status(s, &some[i]);
    } while (n == sizeof(some) || (n < 0 && errno == EINTR));
}

static bool has_hung_up(const server *s)
{
    struct pollfd one = { .fd = mp_connection_fileno(s->channel) };

    return poll(&one, 1, 0) != 0;
}

static bool is_readable(int fd)
{
    struct pollfd one = { .fd = fd, .events = POLLIN };

    return poll(&one, 1, 0) > 0;
}

static bool poll_served(mp__popen *child)
{
    server *s = child->server;

    if (!is_readable(mp__popen_sentinel(child)))
        return false;
    collect(s);
    if (!child->reported && has_hung_up(s)) {
        collect(s); /* what it wrote before it went */
        take_status(s, &(mp__status){ child->serial, LOST, 0 });
    }
    if (child->reported) {
        mp__popen_forget(child);
        child->server = NULL;
        child->ended = true;
    }
    return child->ended;
}

bool mp__popen_poll(mp__popen *popen)
{
    int r;

    if (popen->ended)
        return true;
    if (popen->server)
        return poll_served(popen);
    r = mp__pid_reap(popen->pid, popen->descriptor, &popen->exitcode);
    if (r < 0)
        popen->exitcode = MP_EXITCODE_LOST;
    popen->ended = r != 0;
    return popen->ended;
}

/* The server a waiting thread looks at; it is not freed meanwhile. */
static server *hold_server(mp__popen *popen)
{
    server *s;

    mp__lock();
    s = popen->server;
    if (s)
        s->waiters++;
    mp__unlock();
    return s;
}

static void release_server(server *s)
{
    mp__lock();
    s->waiters--;
    mp__unlock();
}

/* Waits a little: for a child that has ended and whose exit code is still on its way. */
static int wait_for_status(mp__popen *popen, int64_t deadline)
{
    struct pollfd fds[3] = { { .fd = -1 } };
    server *s = hold_server(popen);
    int r;

    if (!s) { /* not quite a zombie yet, or it closed what tells of its end: nothing to wait for */
        (void)poll(NULL, 0, 1);
        return mp__clock_now() < deadline;
    }
    fds[0] = (struct pollfd){ .fd = s->statuses, .events = POLLIN };
    fds[1] = (struct pollfd){ .fd = mp_connection_fileno(s->channel) };
    r = mp__fd_poll(fds, 2, deadline);
    release_server(s);
    return r;
}

int mp__popen_wait(mp__popen *popen, int64_t deadline)
{
    bool ended;
    int r = mp__fd_wait(mp__popen_sentinel(popen), POLLIN, deadline);

    for (;;) {
        if (r < 0)
            return r;
        mp__lock();
        ended = popen->ended || (r > 0 && mp__popen_poll(popen));
        mp__unlock();
        if (ended)
            return 0;
        if (r == 0)
            return mp__fail(MP_ETIMEDOUT, "the process still runs");
        r = wait_for_status(popen, deadline);
    }
}

/* ---- servers ---- */

/* Ends a server that is no use any more. With its channel closed it goes by itself. */
static void end_server(server *s)
{
    int64_t deadline = mp__clock_deadline(STOP_SECONDS);

    mp_connection_free(s->channel);
    mp__fd_close(s->statuses);
    while (!mp__popen_poll(&s->popen) && mp__clock_now() < deadline)
        (void)poll(&(struct pollfd){ .fd = s->popen.descriptor, .events = POLLIN }, 1, PATIENCE_MS);
    if (!s->popen.ended)
        mp__popen_destroy(&s->popen);
    mp__popen_close(&s->popen);
    free(s->directory);
    free(s);
}

/* Takes a server without use off the list. With mp__lock held. */
static server *take_useless(void)
{
    for (server **at = &servers; *at; at = &(*at)->next) {
        server *s = *at;

        if (s->current || s->children || s->waiters)
            continue;
        *at = s->next;
        return s;
    }
    return NULL;
}

static void end_useless(void)
{
    server *s;

    do {
        mp__lock();
        s = take_useless();
        mp__unlock();
        if (s)
            end_server(s);
    } while (s);
}

static server *current_server(void)
{
    server *s;

    mp__lock();
    for (s = servers; s && !s->current; s = s->next)
        ;
    mp__unlock();
    return s;
}

static void retire(server *s)
{
    mp__lock();
    s->current = false;
    (void)mp__popen_poll(&s->popen); /* one that is dead already is not left a zombie */
    mp__unlock();
    end_useless();
}

/* A child of this process shares neither its servers nor their children. */
static void after_fork(bool ours)
{
    (void)ours;
    for (server *s = servers; s; s = s->next) {
        mp_connection_close(s->channel);
        mp__fd_close(s->statuses);
        mp__popen_close(&s->popen);
    }
    servers = NULL; /* their memory stays: children of them may point there */
    requests = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static int launch(server *s)
{
    int statuses[2] = { -1, -1 }, life = -1;
    pid_t pid;
    int r;

    mp__hooks_hold_forks();
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
    mp__hooks_let_forks();
    return r;
}

static server *new_server(void)
{
    server *s = calloc(1, sizeof(*s));

    mp__hooks_after_fork(after_fork);
    if (!s) {
        (void)mp__fail(MP_ENOMEM, "out of memory for a fork server");
        return NULL;
    }
    s->popen = MP__POPEN_NONE;
    s->statuses = -1;
    s->directory = getcwd(NULL, 0);
    return s;
}

/* One that never ran. */
static void free_server(server *s)
{
    if (!s)
        return;
    mp_connection_free(s->channel);
    free(s->directory);
    free(s);
}

static void enlist(server *s)
{
    mp__lock();
    s->next = servers;
    servers = s;
    mp__unlock();
}

/* The current server, started if there is none. With the requests locked. */
static int ensure(server **out)
{
    server *s = current_server();
    int r;

    if (s) {
        *out = s;
        return 0;
    }
    s = new_server();
    if (!s)
        return MP_ENOMEM;
    s->current = true;
    r = launch(s);
    if (r < 0) {
        free_server(s);
        return r;
    }
    enlist(s);
    *out = s;
    return 0;
}

static bool is_dead(int r)
{
    return r == MP_EPIPE || r == MP_ECONNRESET || r == MP_EEOF || r == MP_ETRUNCATED;
}

/* ---- requests ---- */

/*
 * The next answer; one that was given before, about a child that died just then,
 * is skipped. Nothing is allocated here: a child that runs must become known.
 */
static int next_answer(server *s, mp__answer *answer, mp__parcel *parcel)
{
    bool interrupted = false;
    int r;

    parcel->count = 0;
    do {
        mp__parcel_close(parcel);
        r = mp__connection_recv_exactly(s->channel, answer, sizeof(*answer), parcel);
        interrupted |= r == MP_EINTR;
    } while (r == MP_EINTR || (r == 0 && answer->serial <= s->serial));
    if (r == 0)
        s->serial = answer->serial;
    if (interrupted) /* for a call that can be left: this one would leave the answer behind */
        mp_interrupt();
    return r;
}

/* The child was dead before it could be looked at: something readable stands in for it. */
static int stand_in(mp__popen *popen)
{
    int fds[2] = { -1, -1 };
    int r = mp__socket_pipe(fds);

    popen->descriptor = fds[0];
    mp__fd_close(fds[1]);
    return r;
}

static int receive_answer(server *s, mp__popen *popen, bool *usable)
{
    mp__answer answer = { 0, 0 };
    mp__parcel parcel;
    int r = next_answer(s, &answer, &parcel);

    *usable = r == 0;
    if (r < 0)
        return r;
    if (answer.pid < 0)
        return mp__fail(
            (int)answer.pid, "the fork server cannot fork: %s", mp_strerror((int)answer.pid));
    popen->pid = (pid_t)answer.pid;
    popen->serial = answer.serial;
    if (parcel.count)
        popen->descriptor = parcel.fds[0];
    return parcel.count || !mp__pid_has_descriptors() ? 0 : stand_in(popen);
}

/* *usable: whether the server can be asked again, should this fail. */
static int request(
    server *s, const mp__job *job, const mp__lines *lines, mp__popen *popen, bool *usable)
{
    char *directory = getcwd(NULL, 0);
    bool moved = directory && (!s->directory || strcmp(directory, s->directory) != 0);
    int self = mp__pid_has_descriptors() ? mp__pid_open(getpid()) : -1;
    int r = mp__orders_send(
        s->channel, job, moved ? directory : NULL, lines->lifeline[0], lines->life[1], self);

    mp__fd_close(self);
    free(directory);
    *usable = r == 0 || r == MP_EFUNCTION || r == MP_ENOMEM; /* else a part of it may be sent */
    return r < 0 ? r : receive_answer(s, popen, usable);
}

/* The child is that server's, which tells how it ends. */
static void own(server *s, mp__popen *popen)
{
    mp__lock();
    popen->server = s;
    popen->sibling = s->children;
    s->children = popen;
    s->owned = popen->serial;
    if (s->early.serial == popen->serial)
        take_status(s, &s->early);
    mp__unlock();
}

/* Asks the server, and once more a new one if the first turns out to be dead. */
static int ask(const mp__job *job, const mp__lines *lines, mp__popen *popen)
{
    server *s = NULL;
    bool usable = true;
    int r = MP_EFORKSERVER;

    for (int attempt = 0; attempt < 2; attempt++) {
        s = NULL;
        r = ensure(&s);
        if (r == 0)
            r = request(s, job, lines, popen, &usable);
        if (!usable && s)
            retire(s);
        if (!is_dead(r))
            break;
        r = mp__fail(MP_EFORKSERVER, "the fork server ends before it can serve: code before "
                                     "MP_MAIN() or the preload hook fails in it, see stderr");
    }
    if (r == 0)
        own(s, popen);
    return r;
}

/* Either way of asking a server: lines for the child, and what becomes of them. */
static int start(const mp__job *job, mp__popen *popen, server *nursery)
{
    mp__lines lines;
    bool usable;
    int r;

    mp__hooks_hold_forks();
    r = mp__lines_open(job->identity.daemon, &lines);
    if (r == 0) { /* our ends are known as ours from now on */
        popen->life = lines.life[0];
        popen->lifeline = lines.lifeline[1];
        lines.life[0] = lines.lifeline[1] = -1;
    }
    mp__hooks_let_forks();
    if (r < 0)
        return r;
    (void)pthread_mutex_lock(&requests);
    r = nursery ? request(nursery, job, &lines, popen, &usable) : ask(job, &lines, popen);
    if (r == 0 && nursery)
        own(nursery, popen);
    (void)pthread_mutex_unlock(&requests);
    if (r < 0) {
        mp__popen_close(popen);
        *popen = MP__POPEN_NONE;
    }
    mp__lines_close(&lines);
    return r;
}

int mp__popen_forkserver(const mp__job *job, mp__popen *popen)
{
    return start(job, popen, NULL);
}

/* ---- nurseries ---- */

/* In the copy. Returns never. */
static void be_nursery(int channel, int report, uint64_t signals, void (*run)(mp__child *child))
{
    static mp__child child = { .lifeline = -1, .life = -1, .parent_fd = -1, .report = -1 };
    mp__server_orders orders = { .server = true, .report = report, .on_demand = true };
    mp_connection *connection = NULL;

    mp__clean_up(signals);
    if (mp__connection_adopt_socket(&channel, &connection) < 0)
        mp__bootstrap_fail();
    mp__forkserver_serve(connection, &orders, &child);
    run(&child);
}

static int fork_nursery(server *s, void (*run)(mp__child *child))
{
    int channel[2] = { -1, -1 }, statuses[2] = { -1, -1 }, life = -1;
    uint64_t signals = mp__clean_prepare();
    sigset_t all, old;
    pid_t pid = -1;
    int r;

    mp__hooks_hold_forks();
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
    mp__hooks_let_forks();
    return r;
}

int mp__nursery_new(void (*run)(mp__child *child), server **nursery)
{
    server *s = new_server();
    int r = s ? fork_nursery(s, run) : MP_ENOMEM;

    if (r < 0) {
        free_server(s);
        return r;
    }
    s->waiters = 1; /* until it is freed */
    enlist(s);
    *nursery = s;
    return 0;
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
    release_server(nursery);
    end_useless();
}

int mp__popen_nursery(server *nursery, const mp__job *job, mp__popen *popen)
{
    int r = start(job, popen, nursery);

    return is_dead(r) ? mp__fail(MP_EFORKSERVER, "the process that forks replacements has died")
                      : r;
}

void mp__popen_forget(mp__popen *popen)
{
    if (!popen->server)
        return;
    for (mp__popen **at = &popen->server->children; *at; at = &(*at)->sibling) {
        if (*at == popen) {
            *at = popen->sibling;
            return;
        }
    }
}

void mp__forkserver_stop(void)
{
    server *s;

    (void)pthread_mutex_lock(&requests);
    s = current_server();
    if (s)
        retire(s);
    end_useless();
    (void)pthread_mutex_unlock(&requests);
}

int mp_forkserver_ensure_running(void)
{
    server *s = NULL;
    int r = mp__guard_start(MP__FORKSERVER, 0);

    if (r < 0)
        return r;
    (void)pthread_mutex_lock(&requests);
    s = current_server();
    if (s && has_hung_up(s))
        retire(s);
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
