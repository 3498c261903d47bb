/* SPDX-License-Identifier: MIT
 *
 * popen_server.c - a child that is a copy of a server: the owner's side. Exit codes
 * come over a pipe; the end of a child is seen as that of any other.
 */
#include "popen_server_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/process.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "pid_internal.h"

#define LOST 255 /* the exit code when the server died before it could tell; Python's */
#define STOP_SECONDS 1.0
#define SPEAK_SECONDS 2.0
#define LINGER_SECONDS 0.05
#define PATIENCE_MS 5 /* between looks, where a process has no descriptor to wait for */

typedef mp__server server;

static server *servers;

/* ---- statuses ---- */

/*
 * A spare may die before it is taken, and another thread may read its status. It is kept
 * until one after it is taken: none of those is ever a child.
 */
static void take_status(server *s, const mp__status *status)
{
    for (mp__popen *child = s->children; child; child = child->sibling) {
        if (child->serial == status->serial && !child->reported) {
            child->reported = true;
            child->exitcode = status->exitcode;
        }
    }
    if (status->serial > s->owned && s->early_count < MP__ENDS_MAX)
        s->early[s->early_count++] = *status;
}

/* Whether the spare of that serial has ended, as far as is known. Those before are forgotten. */
static bool has_died(server *s, uint64_t serial)
{
    size_t left = 0;
    bool died = false;

    for (size_t i = 0; i < s->early_count; i++) {
        died |= s->early[i].serial == serial;
        if (s->early[i].serial > serial)
            s->early[left++] = s->early[i];
    }
    s->early_count = left;
    return died;
}

static void collect(server *s)
{
    mp__status some[64];
    ssize_t n;

    do {
        n = read(s->statuses, some, sizeof(some)); /* whole records: they are written whole */
        for (ssize_t i = 0; i < n / (ssize_t)sizeof(*some); i++)
            take_status(s, &some[i]);
        if (n > 0)
            s->mute = false;
    } while (n == sizeof(some) || (n < 0 && errno == EINTR));
}

bool mp__server_has_hung_up(const server *s)
{
    struct pollfd one = { .fd = mp_connection_fileno(s->channel) };

    return poll(&one, 1, 0) != 0;
}

static bool is_readable(int fd)
{
    struct pollfd one = { .fd = fd, .events = POLLIN };

    return poll(&one, 1, 0) > 0;
}

/*
 * What tells of the end of a child is readable: nobody shall see that and no exit code,
 * which may take a moment. Where processes have no descriptors it may also be that the
 * child closed its end and lives: that is found out once.
 */
static double patience(const mp__popen *child)
{
    if (mp__pid_has_descriptors())
        return child->server && child->server->mute ? 0 : SPEAK_SECONDS;
    return child->lingers ? 0 : LINGER_SECONDS;
}

/* With mp__lock held, so that no other thread takes the status meanwhile. */
static void await_status(server *s, mp__popen *child)
{
    int64_t deadline = mp__clock_deadline(patience(child));

    while (!child->reported && !mp__server_has_hung_up(s) && mp__clock_now() < deadline) {
        struct pollfd fds[2] = {
            { .fd = s->statuses, .events = POLLIN },
            { .fd = mp_connection_fileno(s->channel) },
        };

        (void)poll(fds, 2, PATIENCE_MS);
        collect(s);
    }
    collect(s); /* what it wrote before it went */
    child->lingers = !child->reported;
    if (child->reported || (!mp__pid_has_descriptors() && !mp__server_has_hung_up(s)))
        return;
    s->mute = true; /* stopped, or dead: it is waited for once */
    take_status(s, &(mp__status){ child->serial, LOST, 0 });
}

static bool poll_served(mp__popen *child)
{
    server *s = child->server;

    if (!is_readable(mp__popen_sentinel(child)))
        return false;
    collect(s);
    if (!child->reported)
        await_status(s, child);
    if (child->reported) {
        mp__popen_forget(child);
        child->server = NULL;
        child->ended = true;
    }
    return child->ended;
}

/* 1: ended, 0: not yet, or a code. */
static int reap(mp__popen *popen)
{
    int r = mp__pid_reap(popen->pid, popen->descriptor, &popen->exitcode);
    int64_t deadline;

    if (r != 0 || popen->descriptor >= 0 || popen->lingers || !is_readable(popen->life))
        return r;
    deadline = mp__clock_deadline(patience(popen));
    while (r == 0 && mp__clock_now() < deadline) {
        (void)poll(NULL, 0, 1);
        r = mp__pid_reap(popen->pid, popen->descriptor, &popen->exitcode);
    }
    popen->lingers = r == 0;
    return r;
}

bool mp__popen_poll(mp__popen *popen)
{
    int r;

    if (popen->ended)
        return true;
    if (popen->server)
        return poll_served(popen);
    r = reap(popen);
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

void mp__server_release(server *s)
{
    mp__lock();
    s->waiters--;
    mp__unlock();
}

/*
 * Waits a little: for a child that has ended and whose exit code is still on its way,
 * which another thread may read.
 */
static int wait_for_status(mp__popen *popen, int64_t deadline)
{
    int64_t soon = mp__clock_now() + PATIENCE_MS * 1000000;
    struct pollfd fds[3] = { { .fd = -1 } };
    server *s = hold_server(popen);
    int r;

    if (!s) { /* not quite a zombie yet, or it closed what tells of its end: nothing to wait for */
        (void)poll(NULL, 0, 1);
        return mp__clock_now() < deadline;
    }
    fds[0] = (struct pollfd){ .fd = s->statuses, .events = POLLIN };
    fds[1] = (struct pollfd){ .fd = mp_connection_fileno(s->channel) };
    r = mp__fd_poll(fds, 2, soon < deadline ? soon : deadline);
    mp__server_release(s);
    return r < 0 ? r : r > 0 || soon < deadline;
}

static int wait_for_end(mp__popen *popen, int sentinel, int64_t deadline)
{
    bool ended;
    int r = mp__fd_wait(sentinel, POLLIN, deadline);

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

/* What it waits for stays open, whoever closes the process meanwhile. */
int mp__popen_wait(mp__popen *popen, int64_t deadline)
{
    int sentinel, r;

    mp__lock();
    sentinel = mp__popen_sentinel(popen);
    popen->waiters++;
    mp__unlock();
    r = sentinel < 0 ? 0 : wait_for_end(popen, sentinel, deadline); /* closed: it has ended */
    mp__lock();
    if (--popen->waiters == 0 && popen->closed)
        mp__popen_close(popen);
    mp__unlock();
    return r;
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

/* ---- life ---- */

/* Ends a server that is no use any more. With its channel closed it goes by itself. */
static void end_server(server *s)
{
    int64_t deadline = mp__clock_deadline(STOP_SECONDS);

    mp_connection_free(s->channel);
    mp__fd_close_all(s->ends, s->end_count);
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

void mp__server_end_useless(void)
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

server *mp__server_current(void)
{
    server *s;

    mp__lock();
    for (s = servers; s && !s->current; s = s->next)
        ;
    mp__unlock();
    return s;
}

void mp__server_retire(server *s)
{
    mp__lock();
    s->current = false;
    mp__fd_close_all(s->ends, s->end_count); /* its spares end */
    s->end_count = 0;
    (void)mp__popen_poll(&s->popen); /* one that is dead already is not left a zombie */
    mp__unlock();
    mp__server_end_useless();
}

/* A child of this process shares neither its servers nor their children. */
static void after_fork(bool ours)
{
    (void)ours;
    for (server *s = servers; s; s = s->next) {
        mp_connection_close(s->channel);
        mp__fd_close_all(s->ends, s->end_count);
        mp__fd_close(s->statuses);
        mp__popen_close(&s->popen);
    }
    servers = NULL; /* their memory stays: children of them may point there */
}

server *mp__server_new(void)
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

void mp__server_discard(server *s)
{
    if (!s)
        return;
    mp_connection_free(s->channel);
    free(s->directory);
    free(s);
}

void mp__server_enlist(server *s)
{
    mp__lock();
    s->next = servers;
    servers = s;
    mp__unlock();
}

bool mp__server_is_dead(int r)
{
    return r == MP_EPIPE || r == MP_ECONNRESET || r == MP_EEOF;
}

/* ---- its children ---- */

int mp__server_own(server *s, mp__popen *popen)
{
    bool died;

    mp__lock();
    died = has_died(s, popen->serial);
    s->owned = popen->serial;
    if (!died) {
        popen->server = s;
        popen->sibling = s->children;
        s->children = popen;
    }
    mp__unlock();
    return died ? MP_EPIPE : 0;
}

void mp__server_disown(mp__popen *popen)
{
    mp__lock();
    mp__popen_forget(popen);
    popen->server = NULL;
    popen->reported = false;
    popen->exitcode = 0;
    mp__fd_drop(&popen->descriptor);
    mp__unlock();
}

/* A child of this kind needs them here; our ends are in *popen, and so known as ours. */
int mp__server_open_lines(const mp__job *job, mp__lines *lines, mp__popen *popen)
{
    int r;

    mp__hooks_hold_forks();
    r = mp__lines_open(job->identity.daemon, lines);
    if (r == 0) {
        popen->life = lines->life[0];
        popen->lifeline = lines->lifeline[1];
        lines->life[0] = lines->lifeline[1] = -1;
    }
    mp__hooks_let_forks();
    return r;
}

int mp__server_settle(int r, mp__lines *lines, mp__popen *popen)
{
    if (r < 0) {
        mp__popen_close(popen);
        *popen = MP__POPEN_NONE;
    }
    mp__lines_close(lines);
    return r;
}
