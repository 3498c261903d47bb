/* SPDX-License-Identifier: MIT
 *
 * connection.c - the ends of pipes and sockets as objects: made, closed, in copies of
 * this process, and on their way to another one. What goes through them is
 * connection_stream.c's business.
 */
#include "connection_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "connection_object_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "socket_internal.h"

static mp_connection *all;
static unsigned generation; /* how many children of ours there are from the root down to here */

/* ---- life ---- */

/* A thread that was sending or receiving is not in this copy, and what it had is no use here. */
static void take_over(mp_connection *c)
{
    if (pthread_mutex_trylock(&c->writing) != 0) {
        (void)pthread_mutex_init(&c->writing, NULL);
        c->packed = (mp__buffer){ NULL, 0, 0 };
    } else {
        (void)pthread_mutex_unlock(&c->writing);
    }
    if (pthread_mutex_trylock(&c->reading) != 0)
        (void)pthread_mutex_init(&c->reading, NULL);
    else
        (void)pthread_mutex_unlock(&c->reading);
}

/* A child made by hand goes on with the connections of the program, and no others. */
static void go_on_with_all(void)
{
    for (mp_connection *c = all; c; c = c->next) {
        if (c->is_internal)
            mp__fd_close(atomic_exchange(&c->fd, -1));
        else
            take_over(c);
    }
}

/*
 * In a child of ours, connections that were not passed are closed: siblings wait for
 * that. They are not written to: that would cost a copy of each page.
 */
static void after_fork(bool ours)
{
    if (!ours) {
        go_on_with_all();
        return;
    }
    for (const mp_connection *c = all; c; c = c->next) {
        mp__fd_close(atomic_load_explicit(&c->fd, memory_order_relaxed));
        mp__fd_close_all(c->parcel.fds, c->parcel.count);
    }
    all = NULL;
    generation++;
}

static bool is_lost(const mp_connection *c)
{
    return c->generation != generation;
}

static void enlist(mp_connection *c)
{
    mp__lock();
    c->generation = generation;
    c->next = all;
    if (all)
        all->previous = c;
    all = c;
    mp__unlock();
}

static void delist(mp_connection *c)
{
    mp__lock();
    if (c->previous)
        c->previous->next = c->next;
    else if (all == c)
        all = c->next;
    if (c->next)
        c->next->previous = c->previous;
    mp__unlock();
}

/* What a connection can do; on the wire when one travels. */
enum { READABLE = 1, WRITABLE = 2, SOCKET = 4, LOCAL = 8 };

static int adopt(int *fd, int abilities, mp_connection **out)
{
    mp_connection *c = calloc(1, sizeof(*c));

    if (!c)
        return mp__fail(MP_ENOMEM, "out of memory for a connection");
    mp__hooks_after_fork(after_fork);
    c->handle.kind = &mp__connection_kind;
    c->readable = abilities & READABLE;
    c->writable = abilities & WRITABLE;
    c->is_socket = abilities & SOCKET;
    c->is_local = abilities & LOCAL;
    (void)pthread_mutex_init(&c->reading, NULL); /* cannot fail with default attributes */
    (void)pthread_mutex_init(&c->writing, NULL);
    mp__hooks_begin_receiving(); /* a child knows it as the caller's or as this one's */
    atomic_init(&c->fd, *fd);
    *fd = -1;
    enlist(c);
    mp__hooks_end_receiving();
    *out = c;
    return 0;
}

int mp__connection_adopt_socket(int *fd, mp_connection **connection)
{
    int r = adopt(fd, READABLE | WRITABLE | SOCKET | LOCAL, connection);

    if (r == 0)
        (*connection)->is_internal = true;
    return r;
}

static int abilities_of(int fd, int flags, mode_t mode)
{
    struct sockaddr_storage name = { .ss_family = AF_UNSPEC };
    socklen_t size = sizeof(name);
    int access = flags & O_ACCMODE, abilities = 0;

    if (access != O_WRONLY)
        abilities |= READABLE;
    if (access != O_RDONLY)
        abilities |= WRITABLE;
    if (S_ISSOCK(mode))
        abilities |= SOCKET;
    if (S_ISSOCK(mode) && getsockname(fd, (struct sockaddr *)&name, &size) == 0 &&
        name.ss_family == AF_UNIX)
        abilities |= LOCAL;
    return abilities;
}

static bool is_stream(int socket)
{
    socklen_t size = sizeof(int);
    int type = 0;

    return getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

mp_connection *mp_connection_new(int *fd)
{
    mp_connection *c = NULL;
    struct stat status;
    int flags;

    if (!fd || *fd < 0 || (flags = fcntl(*fd, F_GETFL)) < 0 || fstat(*fd, &status) < 0) {
        (void)mp__fail(MP_EBADF, "descriptor %d is not open", fd ? *fd : -1);
        return NULL;
    }
    if (S_ISSOCK(status.st_mode) && !is_stream(*fd)) {
        (void)mp__fail(MP_EINVAL, "a connection needs a stream socket: packets have no place for "
                                  "the length that comes before a message");
        return NULL;
    }
    if (mp__fd_raise(fd) < 0)
        return NULL;
    (void)adopt(fd, abilities_of(*fd, flags, status.st_mode), &c);
    return c;
}

void mp_connection_close(mp_connection *c)
{
    if (!c || is_lost(c))
        return;
    mp__hooks_hold_forks(); /* a copy made in between would have it, and not know of it */
    mp__fd_close(atomic_exchange(&c->fd, -1));
    if (pthread_mutex_trylock(&c->reading) == 0) { /* else it is who receives that has them */
        mp__parcel_close(&c->parcel);
        (void)pthread_mutex_unlock(&c->reading);
    }
    mp__hooks_let_forks();
}

void mp_connection_free(mp_connection *c)
{
    if (!c)
        return;
    mp_connection_close(c);
    if (c->handle.lender)
        return; /* the message frees it */
    if (!is_lost(c))
        delist(c);
    mp__buffer_done(&c->packed);
    (void)pthread_mutex_destroy(&c->reading);
    (void)pthread_mutex_destroy(&c->writing);
    free(c);
}

int mp__connection_detach(mp_connection *c)
{
    int fd = is_lost(c) ? -1 : atomic_exchange(&c->fd, -1);

    mp_connection_free(c);
    return fd;
}

mp_connection *mp_connection_keep(mp_connection *c)
{
    if (c)
        mp__handle_keep(&c->handle);
    return c;
}

int mp_pipe_create(const mp_pipe_options *options)
{
    int both = READABLE | WRITABLE | SOCKET | LOCAL;
    mp_connection *left = NULL, *right = NULL;
    int fds[2] = { -1, -1 };
    int r;

    if (!options->a || !options->b)
        return mp__fail(MP_EINVAL, "mp_pipe needs two places for its ends");
    mp__hooks_hold_forks(); /* until they are on the list */
    r = options->oneway ? mp__socket_pipe(fds) : mp__socket_pair(fds);
    if (r == 0)
        r = adopt(&fds[0], options->oneway ? READABLE : both, &left);
    if (r == 0)
        r = adopt(&fds[1], options->oneway ? WRITABLE : both, &right);
    if (r == 0) {
        *options->a = left;
        *options->b = right;
        left = right = NULL; /* the caller's now */
    }
    mp_connection_free(left);
    mp_connection_free(right);
    mp__fd_close_all(fds, 2);
    mp__hooks_let_forks();
    return r;
}

/* ---- state ---- */

static int closed_error(const mp_connection *c)
{
    return mp__fail(MP_ECLOSED, is_lost(c) ? "this connection is closed in a child process that it "
                                             "was not passed to; pass it in the child's arguments"
                                           : "this connection is closed");
}

int mp_connection_fileno(const mp_connection *c)
{
    int fd = c && !is_lost(c) ? atomic_load_explicit(&c->fd, memory_order_relaxed) : -1;

    if (!c)
        return mp__fail(MP_EINVAL, "no connection: NULL");
    return fd < 0 ? closed_error(c) : fd;
}

bool mp_connection_closed(const mp_connection *c)
{
    return !c || is_lost(c) || atomic_load(&c->fd) < 0;
}

bool mp_connection_readable(const mp_connection *c)
{
    return c && c->readable;
}

bool mp_connection_writable(const mp_connection *c)
{
    return c && c->writable;
}

int mp__connection_readable_fd(const mp_connection *c)
{
    int fd = mp_connection_fileno(c);

    if (fd >= 0 && !c->readable)
        return mp__fail(MP_EDIRECTION, "this end of a one-way pipe only sends");
    return fd;
}

bool mp__connection_pending(const mp_connection *c)
{
    return c->has_length || c->broken;
}

int mp__connection_writable_fd(const mp_connection *c)
{
    int fd = mp_connection_fileno(c);

    if (fd >= 0 && !c->writable)
        return mp__fail(MP_EDIRECTION, "this end of a one-way pipe only receives");
    return fd;
}

/* ---- travelling ---- */

static int reduce(const void *object, mp__reduced *reduced)
{
    const mp_connection *c = object;
    int fd = mp_connection_fileno(c);

    if (fd < 0)
        return fd;
    if (c->has_length || c->broken)
        return mp__fail(MP_EHANDLE, "a connection with a message half received cannot travel");
    reduced->state[0] = (uint8_t)((c->readable ? READABLE : 0) | (c->writable ? WRITABLE : 0) |
                                  (c->is_socket ? SOCKET : 0) | (c->is_local ? LOCAL : 0));
    reduced->size = 1;
    reduced->fds[0] = fd;
    reduced->count = 1;
    return 0;
}

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    mp_connection *c = NULL;
    int r;

    if (size != 1 || count != 1 || fds[0] < 0)
        return mp__fail(MP_EPROTOCOL, "malformed connection in a message");
    r = adopt(&fds[0], state[0], &c);
    *object = c;
    return r;
}

static void release(void *object)
{
    mp_connection_free(object);
}

const mp__kind mp__connection_kind = { "a connection", 1, reduce, rebuild, release };
