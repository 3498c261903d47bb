/* SPDX-License-Identifier: MIT
 *
 * connection_accept.c - how clients come in. Those that have yet to authenticate are
 * looked after together, so that none of them keeps another waiting; their time is
 * connection_pending.c's business.
 */
#include "connection_listener_internal.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "socket_internal.h"

#define PAUSE INT64_C(100000000) /* without descriptors, before a client is tried again: 0.1 s */

/* ---- clients; with the lock held ---- */

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
            return mp__listener_closed();
        r = wait_for_clients(l, deadline);
        if (r >= 0)
            r = look_after(l, connection);
        if (r == 0 && mp__clock_over(deadline))
            r = l->shortage ? cannot_accept(l->shortage) : mp__fail(MP_ETIMEDOUT, "no client came");
    }
    return r < 0 ? r : 0;
}

/* ---- accepting ---- */

int mp_listener_accept(mp_listener *l, double timeout, mp_connection **connection)
{
    int64_t deadline = mp__clock_deadline(timeout);
    int r;

    if (!l || !connection)
        return mp__fail(MP_EINVAL, "mp_listener_accept needs a listener and a place");
    if (mp__listener_is_closed(l))
        return mp__listener_closed();
    r = mp__listener_enter(l, deadline);
    if (r < 0)
        return r;
    r = accept_until(l, deadline, connection);
    mp__listener_leave(l);
    return r;
}
