/* SPDX-License-Identifier: MIT
 *
 * connection_listener.c - listeners. Clients that have yet to authenticate are looked
 * after together, so that none of them keeps another waiting; their time is
 * connection_pending.c's business.
 */
#include <multiprocessing/connection.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/process.h>

#include "buffer_internal.h"
#include "clock_internal.h"
#include "connection_address_internal.h"
#include "connection_auth_internal.h"
#include "connection_pending_internal.h"
#include "connection_place_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "mutex_internal.h"
#include "socket_internal.h"

#define HANDSHAKE_SECONDS 10.0
#define PAUSE INT64_C(100000000) /* without descriptors, before a client is tried again: 0.1 s */
#define CLOSE_PRIORITY (-1000)   /* at exit: after what the program does itself */

struct mp_listener {
    unsigned generation; /* another than that of this process: it was not passed to this child */
    atomic_int fd;       /* -1: closed */
    atomic_bool closing, is_removed; /* it was asked for; its path is gone */
    int wake[2];                     /* for who accepts when another thread closes it */
    mp__place place;
    char last[MP__ADDRESS_TEXT];
    bool has_accepted, has_key;
    mp__buffer key;
    pthread_mutex_t accepting; /* guards what follows; taken before mp__lock */
    bool is_open;              /* it has its descriptors, and is in the list */
    int shortage;              /* no client could be taken: why, or 0 */
    int64_t resumes;           /* until then clients are left to wait in the system */
    mp__pending pending;
    struct pollfd fds[MP__PENDING_MAX + 3]; /* the listener, wake, the pending, and one for poll */
    mp_listener *previous, *next;           /* of this process; under mp__lock */
};

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

static bool is_closed(const mp_listener *l)
{
    return !l || is_lost(l) || atomic_load(&l->closing);
}

static int closed(void)
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

/* ---- accepting; with the lock held ---- */

/* The client is in. */
static int let_in(mp_listener *l, int fd, const char *from, mp_connection **connection)
{
    mp_connection *c;

    mp__fd_answer_fast(fd);
    c = mp_connection_new(&fd);
    if (!c) {
        mp__fd_close(fd);
        return mp_last_error()->code;
    }
    (void)snprintf(l->last, sizeof(l->last), "%s", from);
    l->has_accepted = true;
    *connection = c;
    return 1;
}

/* Whatever it was, it is the client's fault. */
static int refuse(mp_listener *l, size_t i, const char *why)
{
    char text[200], from[MP__ADDRESS_TEXT];
    int fd = l->pending.list[i].fd;

    (void)snprintf(text, sizeof(text), "%s", why);
    (void)snprintf(from, sizeof(from), "%s", l->pending.list[i].from);
    mp__handshake_end(fd);
    mp__hooks_hold_forks(); /* a copy made in between would close it again */
    mp__pending_forget(&l->pending, i);
    mp__fd_close(fd);
    mp__hooks_let_forks();
    return mp__fail(
        MP_EAUTHENTICATION, "a client%s%s was not let in: %s", *from ? " from " : "", from, text);
}

/* 1 when it is in, 0 when more must come, or a code. */
static int advance(mp_listener *l, size_t i, mp_connection **connection)
{
    int r = mp__pending_advance(&l->pending, i);
    char from[MP__ADDRESS_TEXT];
    int fd = l->pending.list[i].fd;

    if (r <= 0)
        return r < 0 ? refuse(l, i, mp_last_error()->text) : 0;
    (void)snprintf(from, sizeof(from), "%s", l->pending.list[i].from);
    mp__hooks_hold_forks(); /* until it is known as a connection */
    mp__pending_forget(&l->pending, i);
    r = let_in(l, fd, from, connection);
    mp__hooks_let_forks();
    return r;
}

/* A client has come: it is in if there is no key, else it will be asked for it. */
static int welcome(mp_listener *l, int fd, const char *from, mp_connection **connection)
{
    int r;

    if (!l->has_key && l->place.is_abstract && !mp__socket_is_trusted(fd)) {
        mp__fd_close(fd);
        return mp__fail(MP_EAUTHENTICATION, "a client of another user was not let in; a key would "
                                            "let it prove that it may");
    }
    if (!l->has_key)
        return let_in(l, fd, from, connection);
    r = mp__pending_add(&l->pending, fd, from, l->key.data, l->key.size, mp__clock_now());
    if (r < 0)
        mp__fd_close(fd);
    return r;
}

#ifndef ENONET
#define ENONET ENETDOWN
#endif

/* Whether accept failed because of that client, or since another process was faster. */
static bool is_of_a_client(int code)
{
    static const int codes[] = { EAGAIN, EINTR, ECONNABORTED, EPROTO, EPERM /* a firewall */,
        ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH, ENOPROTOOPT, ENONET, EOPNOTSUPP };

    for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++)
        if (code == -codes[i])
            return true;
    return false;
}

static bool is_shortage(int code)
{
    return code == MP_EMFILE || code == MP_ENFILE || code == MP_ENOMEM || code == -ENOBUFS;
}

static int cannot_accept(int code)
{
    return mp__fail(code, "cannot accept a client: %s", mp_strerror(code));
}

/*
 * No client could be taken. Without descriptors it would be the same at once, and a program
 * that calls again would do nothing else; so that is said only after a pause, in which one
 * of those that are half in may leave.
 */
static int find_out_why(mp_listener *l, int code)
{
    if (is_of_a_client(code))
        return 0;
    if (!is_shortage(code) || l->shortage)
        return cannot_accept(code);
    l->shortage = code;
    l->resumes = mp__clock_now() + PAUSE;
    return 0;
}

/* All places are taken, and another client waits. */
static int make_room(mp_listener *l)
{
    int i = mp__pending_find_oldest(&l->pending);
    int64_t end = i < 0 ? 0 : l->pending.list[i].since + MP__PENDING_SURE;

    if (i < 0)
        return 0; /* all have just said something */
    if (mp__clock_over(end))
        return refuse(l, (size_t)i, "it has not proved yet that it has the key, and others wait");
    l->resumes = end;
    return 0;
}

/* With forks held until it is known whose it is, but not while it is heard. */
static int take_client(mp_listener *l, mp_connection **connection)
{
    mp__address address = { .size = sizeof(address.name) };
    char from[MP__ADDRESS_TEXT] = "";
    int fd, r = 0;

    mp__hooks_hold_forks();
    fd = mp__socket_accept(atomic_load(&l->fd), (struct sockaddr *)&address.name, &address.size);
    if (fd >= 0) {
        if (address.name.ss_family != AF_UNIX) /* there it is any text that the client likes */
            mp__address_write(&address, from);
        r = welcome(l, fd, from, connection);
    }
    mp__hooks_let_forks();
    if (fd < 0)
        return find_out_why(l, fd);
    l->shortage = 0;
    return r || !l->has_key ? r : advance(l, l->pending.count - 1, connection);
}

/* 1, 0 or a code as above, for the first client with whom something happens. */
static int look_after(mp_listener *l, mp_connection **connection)
{
    int r = 0, late;

    for (size_t i = 0; i < l->pending.count && r == 0; i++)
        if (l->fds[2 + i].revents)
            r = advance(l, i, connection);
    if (r == 0 && l->pending.count) {
        late = mp__pending_find_late(&l->pending, mp__clock_now());
        if (late >= 0)
            r = refuse(l, (size_t)late, "it took too long to prove that it has the key");
    }
    if (r == 0 && l->fds[0].revents)
        r = l->pending.count < MP__PENDING_MAX ? take_client(l, connection) : make_room(l);
    return r;
}

static int wait_for_clients(mp_listener *l, int64_t deadline)
{
    int64_t now = mp__clock_now();
    bool pauses = now < l->resumes;
    int r;

    l->fds[0] = (struct pollfd){ .fd = pauses ? -1 : atomic_load(&l->fd), .events = POLLIN };
    l->fds[1] = (struct pollfd){ .fd = l->wake[0], .events = POLLIN };
    if (pauses && l->resumes < deadline)
        deadline = l->resumes;
    mp__pending_prepare(&l->pending, l->fds + 2, &deadline, now);
    r = mp__fd_poll(l->fds, 2 + l->pending.count, deadline);
    if (!pauses && !l->fds[0].revents)
        l->shortage = 0; /* whoever waited has left */
    if (r >= 0)
        mp__pending_look(&l->pending, l->fds + 2, mp__clock_now());
    return r;
}

static int accept_until(mp_listener *l, int64_t deadline, mp_connection **connection)
{
    int r = 0;

    l->shortage = 0;
    l->resumes = 0;
    while (r == 0) {
        if (atomic_load(&l->closing))
            return closed();
        r = wait_for_clients(l, deadline);
        if (r >= 0)
            r = look_after(l, connection);
        if (r == 0 && mp__clock_over(deadline))
            r = l->shortage ? cannot_accept(l->shortage) : mp__fail(MP_ETIMEDOUT, "no client came");
    }
    return r < 0 ? r : 0;
}

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

/* One thread at a time; the others wait for it as long as they have time. */
static int enter(mp_listener *l, int64_t deadline)
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

static void leave(mp_listener *l)
{
    close_if_asked(l);
    (void)pthread_mutex_unlock(&l->accepting);
    accepting_here = NULL;
}

int mp_listener_accept(mp_listener *l, double timeout, mp_connection **connection)
{
    int64_t deadline = mp__clock_deadline(timeout);
    int r;

    if (!l || !connection)
        return mp__fail(MP_EINVAL, "mp_listener_accept needs a listener and a place");
    if (is_closed(l))
        return closed();
    r = enter(l, deadline);
    if (r < 0)
        return r;
    r = accept_until(l, deadline, connection);
    leave(l);
    return r;
}

/* ---- what is known of it, and its end ---- */

const char *mp_listener_address(const mp_listener *l)
{
    if (!is_closed(l))
        return l->place.text;
    (void)closed();
    return NULL;
}

const char *mp_listener_last_accepted(const mp_listener *l)
{
    return l && l->has_accepted ? l->last : NULL;
}

int mp_listener_fileno(const mp_listener *l)
{
    int watch = is_closed(l) ? -1 : atomic_load(&l->pending.watch);

    if (watch >= 0)
        return watch;
    return is_closed(l) ? closed() : atomic_load(&l->fd);
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
