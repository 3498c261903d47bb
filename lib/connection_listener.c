/* SPDX-License-Identifier: MIT
 *
 * connection_listener.c - listeners: made, closed, in copies of this process and at exit.
 * How clients come in is connection_accept.c's business.
 */
#include "connection_listener_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/process.h>

#include "clock_internal.h"
#include "connection_auth_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "mutex_internal.h"
#include "socket_internal.h"

#define HANDSHAKE_SECONDS 10.0
#define CLOSE_PRIORITY (-1000) /* at exit: after what the program does itself */

static mp_listener *all;
static unsigned generation; /* how many children of ours there are from the root down to here */
static _Atomic pid_t closes_at_exit;
static pthread_mutex_t exiting = PTHREAD_MUTEX_INITIALIZER; /* what close_all sees is not freed */
static _Thread_local const mp_listener *accepting_here;     /* where this thread accepts */

/* ---- copies, and the list ---- */

static void close_pending(const mp__pending *p)
{
    for (size_t i = 0; i < p->count; i++)
        mp__fd_close(p->list[i].fd);
}

/*
 * A copy made by hand has it, unless it was about to be closed, but not the clients that
 * are half in: they are the other one's. What both watched together would tell either of
 * the clients of the other.
 */
static void begin_anew(mp_listener *l)
{
    close_pending(&l->pending);
    l->pending.count = 0;
    mp__fd_close(atomic_exchange(&l->pending.watch, -1));
    mp__fd_drop(&l->wake[0]);
    mp__fd_drop(&l->wake[1]);
    (void)pthread_mutex_init(&l->accepting, NULL);
    if (atomic_load(&l->closing)) {
        mp__fd_close(atomic_exchange(&l->fd, -1));
        return;
    }
    (void)mp__socket_pipe(l->wake); /* without, a thread that closes it wakes nobody */
    if (l->has_key)                 /* without, the listening socket stands in */
        (void)mp__pending_open_watch(&l->pending, atomic_load(&l->fd));
}

/* Children of ours do not have it, and do not write to it. */
static void leave_behind(const mp_listener *l)
{
    close_pending(&l->pending);
    mp__fd_close(atomic_load_explicit(&l->pending.watch, memory_order_relaxed));
    mp__fd_close(atomic_load_explicit(&l->fd, memory_order_relaxed));
    mp__fd_close_all(l->wake, 2);
}

static void after_fork(bool ours)
{
    (void)pthread_mutex_init(&exiting, NULL); /* who holds it is not here */
    accepting_here = NULL;
    for (mp_listener *l = all; l; l = l->next)
        if (ours)
            leave_behind(l);
        else
            begin_anew(l);
    if (!ours)
        return;
    all = NULL;
    generation++;
}

static bool is_lost(const mp_listener *l)
{
    return l->generation != generation;
}

bool mp__listener_is_closed(const mp_listener *l)
{
    return !l || is_lost(l) || atomic_load(&l->closing);
}

int mp__listener_closed(void)
{
    return mp__fail(MP_ECLOSED, "this listener is closed");
}

static void enlist(mp_listener *l)
{
    mp__lock();
    l->generation = generation;
    l->is_open = true;
    l->next = all;
    if (all)
        all->previous = l;
    all = l;
    mp__unlock();
}

static void delist(mp_listener *l)
{
    mp__lock();
    if (l->previous)
        l->previous->next = l->next;
    else if (all == l)
        all = l->next;
    if (l->next)
        l->next->previous = l->previous;
    l->previous = l->next = NULL;
    mp__unlock();
}

/* ---- at exit ---- */

/* Once: another one may listen there soon. */
static void remove_path(mp_listener *l)
{
    if (!atomic_exchange(&l->is_removed, true))
        mp__place_remove(&l->place);
}

static mp_listener *find_open(void)
{
    mp_listener *l;

    mp__lock();
    for (l = all; l && atomic_load(&l->closing); l = l->next)
        ;
    mp__unlock();
    return l;
}

/* Another thread may free one meanwhile: it waits. */
static void close_all(void *argument)
{
    mp_listener *l;

    (void)argument;
    (void)pthread_mutex_lock(&exiting);
    while ((l = find_open()))
        mp_listener_close(l);
    (void)pthread_mutex_unlock(&exiting);
}

/* Without memory what is open at exit leaves its path. */
static void close_at_exit(void)
{
    if (closes_at_exit != mp__hooks_pid() && mp_atexit(close_all, NULL, CLOSE_PRIORITY) == 0)
        closes_at_exit = mp__hooks_pid();
}

/* ---- beginning ---- */

/* Before they have shown the key, clients may send us no descriptors. */
static int prepare_clients(mp_listener *l, int fd)
{
    if (!l->has_key)
        return 0;
    mp__socket_let_descriptors(fd, false);
    return mp__pending_open_watch(&l->pending, fd);
}

/* Opens it there. With forks held. */
static int open_at(mp_listener *l, const mp__address *address, int backlog)
{
    int fd = mp__socket_new(address->name.ss_family);
    int r = fd < 0 ? fd : mp__place_bind(&l->place, fd, address);

    if (r == 0)
        r = prepare_clients(l, fd);
    if (r == 0)
        r = mp__socket_pipe(l->wake);
    if (r == 0 && listen(fd, backlog > 0 ? backlog : SOMAXCONN) < 0)
        r = mp__fail_errno("cannot listen");
    atomic_store(&l->fd, fd < 0 ? -1 : fd);
    return r;
}

static int keep_key(mp_listener *l, const mp_listener_options *o)
{
    int r;

    if (!o->authkey.data)
        return o->authkey.size ? mp__fail(MP_EINVAL, "an authkey at NULL") : 0;
    l->has_key = true;
    r = mp__buffer_append(&l->key, o->authkey.data, o->authkey.size);
    if (r == 0)
        r = mp__pending_init(
            &l->pending, o->handshake_timeout > 0 ? o->handshake_timeout : HANDSHAKE_SECONDS);
    return r;
}

static void release(mp_listener *l)
{
    if (l->key.data)
        explicit_bzero(l->key.data, l->key.size);
    mp__buffer_done(&l->key);
    (void)pthread_mutex_destroy(&l->accepting);
    mp__pending_done(&l->pending);
    mp__place_done(&l->place);
    free(l);
}

static mp_listener *make_closed(void)
{
    mp_listener *l = calloc(1, sizeof(*l));

    if (!l) {
        (void)mp__fail(MP_ENOMEM, "out of memory for a listener");
        return NULL;
    }
    atomic_init(&l->fd, -1);
    atomic_init(&l->pending.watch, -1);
    l->wake[0] = l->wake[1] = -1;
    (void)pthread_mutex_init(&l->accepting, NULL); /* cannot fail with default attributes */
    return l;
}

static void close_descriptors(mp_listener *l)
{
    mp__fd_close(atomic_exchange(&l->fd, -1));
    mp__fd_close(atomic_exchange(&l->pending.watch, -1));
    mp__lock(); /* another thread may be about to wake us */
    mp__fd_drop(&l->wake[0]);
    mp__fd_drop(&l->wake[1]);
    mp__unlock();
}

/* A host may take long to be found: forks are held only then. */
static int begin(mp_listener *l, const mp_listener_options *o)
{
    mp__address address = { .size = 0 };
    int r = keep_key(l, o);

    if (r == 0)
        r = mp__place_find(&l->place, o->address, o->family, &address);
    if (r < 0)
        return r;
    mp__hooks_hold_forks(); /* until it is on the list */
    r = open_at(l, &address, o->backlog);
    if (r == 0)
        enlist(l);
    else
        close_descriptors(l);
    mp__hooks_let_forks();
    return r;
}

mp_listener *mp_listener_create(const mp_listener_options *o)
{
    mp_listener *l = make_closed();

    if (!l)
        return NULL;
    mp__hooks_after_fork(after_fork);
    if (begin(l, o) < 0) {
        remove_path(l);
        release(l);
        return NULL;
    }
    close_at_exit();
    return l;
}

/* ---- accepting, and the end; one thread at a time ---- */

/* The first who comes here after it was asked for does it. A copy made meanwhile has nothing. */
static void close_if_asked(mp_listener *l)
{
    if (!l->is_open || !atomic_load(&l->closing))
        return;
    for (size_t i = 0; i < l->pending.count; i++)
        mp__handshake_end(l->pending.list[i].fd);
    remove_path(l);
    mp__hooks_hold_forks();
    l->is_open = false;
    delist(l);
    close_pending(&l->pending);
    l->pending.count = 0;
    close_descriptors(l);
    mp__hooks_let_forks();
}

int mp__listener_enter(mp_listener *l, int64_t deadline)
{
    int e;

    accepting_here = l; /* a signal handler that comes between must not wait for us */
    if (deadline == MP__NEVER)
        e = pthread_mutex_lock(&l->accepting);
    else if (deadline == 0)
        e = pthread_mutex_trylock(&l->accepting);
    else
        e = mp__mutex_timedlock(&l->accepting, deadline);
    if (!e)
        return 0;
    accepting_here = NULL;
    return mp__fail(MP_ETIMEDOUT, "no client came: another thread accepts");
}

void mp__listener_leave(mp_listener *l)
{
    close_if_asked(l);
    (void)pthread_mutex_unlock(&l->accepting);
    accepting_here = NULL;
}

/* ---- what is known of it, and its end ---- */

const char *mp_listener_address(const mp_listener *l)
{
    if (!mp__listener_is_closed(l))
        return l->place.text;
    (void)mp__listener_closed();
    return NULL;
}

const char *mp_listener_last_accepted(const mp_listener *l)
{
    return l && l->has_accepted ? l->last : NULL;
}

int mp_listener_fileno(const mp_listener *l)
{
    int watch = mp__listener_is_closed(l) ? -1 : atomic_load(&l->pending.watch);

    if (watch >= 0)
        return watch;
    return mp__listener_is_closed(l) ? mp__listener_closed() : atomic_load(&l->fd);
}

/* False: there is nothing to wake it with. */
static bool wake_up(mp_listener *l)
{
    bool woken;

    mp__lock();
    woken = l->wake[1] >= 0 && write(l->wake[1], "", 1) == 1;
    mp__unlock();
    return woken;
}

/*
 * Waits until nobody accepts any more. Not for this thread itself, whose signal handler
 * may have called exit, nor where nobody can be woken: then who accepts closes it.
 */
static bool enter_to_close(mp_listener *l)
{
    bool woken = wake_up(l);

    if (accepting_here == l)
        return false;
    return (woken ? pthread_mutex_lock(&l->accepting) : pthread_mutex_trylock(&l->accepting)) == 0;
}

void mp_listener_close(mp_listener *l)
{
    if (!l || is_lost(l))
        return;
    atomic_store(&l->closing, true);
    if (!enter_to_close(l)) {
        remove_path(l); /* there may be no later */
        return;
    }
    close_if_asked(l);
    (void)pthread_mutex_unlock(&l->accepting);
}

void mp_listener_free(mp_listener *l)
{
    if (!l)
        return;
    mp_listener_close(l);
    if (!is_lost(l)) {
        (void)pthread_mutex_lock(&exiting); /* close_all may have found it */
        (void)pthread_mutex_unlock(&exiting);
    }
    release(l);
}
