/* SPDX-License-Identifier: MIT
 *
 * connection_listener.c - listeners. Clients that have yet to authenticate are looked
 * after together, so that none of them keeps another waiting.
 */
#include <multiprocessing/connection.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <multiprocessing/log.h>
#include <multiprocessing/process.h>

#include "buffer_internal.h"
#include "clock_internal.h"
#include "connection_address_internal.h"
#include "connection_auth_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "mutex_internal.h"
#include "socket_internal.h"

#define PENDING_MAX 64 /* clients that authenticate at a time; more wait in the system */
#define HANDSHAKE_SECONDS 10.0
#define CLOSE_PRIORITY (-1000) /* at exit: after what the program does itself */

/* A client that has not authenticated yet. */
typedef struct pending {
    int fd;
    int64_t deadline;
    char from[MP__ADDRESS_TEXT];
    mp__handshake handshake;
} pending;

struct mp_listener {
    unsigned generation; /* another than that of this process: it was not passed to this child */
    atomic_int fd;       /* -1: closed */
    atomic_bool closing;
    int wake[2]; /* for who accepts when another thread closes it */
    char address[MP__ADDRESS_TEXT], last[MP__ADDRESS_TEXT];
    bool has_accepted;
    bool has_key, is_abstract;
    mp__buffer key;
    double patience;
    char *folder; /* made for its path */
    char *path;   /* to be removed; NULL: none */
    dev_t device;
    ino_t inode;
    pid_t creator;
    pthread_mutex_t accepting; /* guards what follows; taken before mp__lock */
    pending *pending;
    size_t count;
    struct pollfd fds[PENDING_MAX + 3]; /* the listener, wake, the pending, and one for poll */
    mp_listener *previous, *next;       /* of this process; under mp__lock */
};

static mp_listener *all;
static unsigned generation; /* how many children of ours there are from the root down to here */
static _Atomic pid_t closes_at_exit;

/* ---- copies, and the list ---- */

/* A copy made by hand has it, but not the clients that are half in: they are the other one's. */
static void begin_anew(mp_listener *l)
{
    l->count = 0;
    mp__fd_drop(&l->wake[0]);
    mp__fd_drop(&l->wake[1]);
    (void)mp__socket_pipe(l->wake); /* without, a thread that closes it wakes nobody */
    (void)pthread_mutex_init(&l->accepting, NULL);
}

/* Children of ours do not have it, and do not write to it. */
static void after_fork(bool ours)
{
    for (mp_listener *l = all; l; l = l->next) {
        for (size_t i = 0; i < l->count; i++)
            mp__fd_close(l->pending[i].fd);
        if (!ours) {
            begin_anew(l);
            continue;
        }
        mp__fd_close(atomic_load_explicit(&l->fd, memory_order_relaxed));
        mp__fd_close_all(l->wake, 2);
    }
    if (!ours)
        return;
    all = NULL;
    generation++;
}

static bool is_lost(const mp_listener *l)
{
    return l->generation != generation;
}

static void enlist(mp_listener *l)
{
    mp__lock();
    l->generation = generation;
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

/* ---- its path ---- */

/* A folder of our own below that for temporary files, and a name in it. */
static int make_path(mp_listener *l, char path[MP__ADDRESS_TEXT])
{
    const char *tmp = getenv("TMPDIR");

    (void)snprintf(path, MP__ADDRESS_TEXT - 16, "%s/mp-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(path))
        return mp__fail_errno("cannot make a folder for a socket");
    l->folder = strdup(path);
    if (!l->folder) {
        (void)rmdir(path);
        return mp__fail(MP_ENOMEM, "out of memory for a listener");
    }
    (void)strcat(path, "/listener");
    return 0;
}

static int remember_path(mp_listener *l, const mp__address *address)
{
    const char *path = mp__address_path(address);
    struct stat status;

    if (!path || stat(path, &status) < 0)
        return 0;
    l->path = realpath(path, NULL); /* wherever we work later */
    l->device = status.st_dev;
    l->inode = status.st_ino;
    if (l->path)
        return 0;
    (void)unlink(path);
    return mp__fail(MP_ENOMEM, "out of memory for a listener");
}

/* Somebody may have put another socket there. */
static void remove_path(mp_listener *l)
{
    struct stat status;

    if (l->path && l->creator == mp__hooks_pid() && stat(l->path, &status) == 0 &&
        status.st_dev == l->device && status.st_ino == l->inode)
        (void)unlink(l->path);
    if (l->folder && l->creator == mp__hooks_pid())
        (void)rmdir(l->folder);
    free(l->path);
    free(l->folder);
    l->path = l->folder = NULL;
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

static void close_all(void *argument)
{
    mp_listener *l;

    (void)argument;
    while ((l = find_open()))
        mp_listener_close(l);
}

/* Without memory what is open at exit leaves its path. */
static void close_at_exit(void)
{
    if (closes_at_exit != mp__hooks_pid() && mp_atexit(close_all, NULL, CLOSE_PRIORITY) == 0)
        closes_at_exit = mp__hooks_pid();
}

/* ---- beginning ---- */

static int bind_to(int fd, const mp__address *address, const char *text)
{
    int yes = 1;

    if (address->name.ss_family != AF_UNIX)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(fd, (const struct sockaddr *)&address->name, address->size) < 0)
        return mp__fail(-errno, "cannot listen at %s: %s%s", text, strerror(errno),
            errno == EADDRINUSE && mp__address_path(address)
                ? " (a path stays when its listener was killed: remove it then)"
                : "");
    return 0;
}

/* Opens it where it was told. */
static int open_at(mp_listener *l, const char *text, const mp_listener_options *o)
{
    mp__address address = { .size = 0 };
    int r = mp__address_read(text, o->family, true, &address);
    int fd = r < 0 ? r : mp__socket_new(address.name.ss_family);

    if (fd < 0)
        return fd;
    r = bind_to(fd, &address, text);
    if (r == 0)
        r = remember_path(l, &address);
    if (r == 0 && listen(fd, o->backlog > 0 ? o->backlog : SOMAXCONN) < 0)
        r = mp__fail_errno("cannot listen");
    if (r < 0) {
        mp__fd_close(fd);
        return r;
    }
    atomic_store(&l->fd, fd);
    l->is_abstract = address.name.ss_family == AF_UNIX && !mp__address_path(&address);
    address.size = sizeof(address.name);
    (void)getsockname(fd, (struct sockaddr *)&address.name, &address.size);
    mp__address_write(&address, l->address);
    return 0;
}

static int open_listener(mp_listener *l, const mp_listener_options *o)
{
    char path[MP__ADDRESS_TEXT];
    int r = 0;

    if (o->address)
        return open_at(l, o->address, o);
    if (!o->family || strcmp(o->family, "AF_UNIX") == 0)
        r = make_path(l, path);
    else
        (void)snprintf(path, sizeof(path), "localhost:0");
    return r < 0 ? r : open_at(l, path, o);
}

static int keep_key(mp_listener *l, const mp_listener_options *o)
{
    l->has_key = o->authkey.data != NULL;
    if (!l->has_key && o->authkey.size)
        return mp__fail(MP_EINVAL, "an authkey at NULL");
    return l->has_key ? mp__buffer_append(&l->key, o->authkey.data, o->authkey.size) : 0;
}

static void release(mp_listener *l)
{
    if (l->key.data)
        explicit_bzero(l->key.data, l->key.size);
    mp__buffer_done(&l->key);
    (void)pthread_mutex_destroy(&l->accepting);
    free(l->pending);
    free(l->folder);
    free(l->path);
    free(l);
}

mp_listener *mp_listener_create(const mp_listener_options *o)
{
    mp_listener *l = calloc(1, sizeof(*l));
    int r;

    if (!l) {
        (void)mp__fail(MP_ENOMEM, "out of memory for a listener");
        return NULL;
    }
    mp__hooks_after_fork(after_fork);
    atomic_init(&l->fd, -1);
    l->wake[0] = l->wake[1] = -1;
    (void)pthread_mutex_init(&l->accepting, NULL); /* cannot fail with default attributes */
    l->creator = mp__hooks_pid();
    l->patience = o->handshake_timeout > 0 ? o->handshake_timeout : HANDSHAKE_SECONDS;
    mp__hooks_hold_forks(); /* until it is on the list */
    r = keep_key(l, o);
    if (r == 0 && l->has_key && !(l->pending = calloc(PENDING_MAX, sizeof(*l->pending))))
        r = mp__fail(MP_ENOMEM, "out of memory for a listener");
    if (r == 0)
        r = mp__socket_pipe(l->wake);
    if (r == 0)
        r = open_listener(l, o);
    if (r == 0)
        enlist(l);
    mp__hooks_let_forks();
    if (r < 0) {
        mp__fd_close_all(l->wake, 2);
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

static void forget(mp_listener *l, size_t i)
{
    l->pending[i] = l->pending[--l->count];
}

/* Whatever it was, it is the client's fault. */
static int refuse(mp_listener *l, size_t i, const char *why)
{
    char text[200], from[MP__ADDRESS_TEXT];

    (void)snprintf(text, sizeof(text), "%s", why);
    (void)snprintf(from, sizeof(from), "%s", l->pending[i].from);
    mp__hooks_hold_forks(); /* a copy made in between would close it again */
    mp__fd_close(l->pending[i].fd);
    forget(l, i);
    mp__hooks_let_forks();
    return mp__fail(
        MP_EAUTHENTICATION, "a client%s%s was not let in: %s", *from ? " from " : "", from, text);
}

/* 1 when it is in, 0 when more must come, or a code. */
static int advance(mp_listener *l, size_t i, mp_connection **connection)
{
    pending *p = &l->pending[i];
    int r = mp__handshake_advance(&p->handshake, p->fd);
    char from[MP__ADDRESS_TEXT];
    int fd = p->fd;

    if (r <= 0)
        return r < 0 ? refuse(l, i, mp_last_error()->text) : 0;
    (void)snprintf(from, sizeof(from), "%s", p->from);
    mp__hooks_hold_forks(); /* until it is known as a connection */
    forget(l, i);
    r = let_in(l, fd, from, connection);
    mp__hooks_let_forks();
    return r;
}

/* A client has come: it is in if there is no key, else it is asked for it. */
static int welcome(mp_listener *l, int fd, const char *from, mp_connection **connection)
{
    pending *p;

    if (!l->has_key && l->is_abstract && !mp__socket_is_trusted(fd)) {
        mp__fd_close(fd);
        return mp__fail(MP_EAUTHENTICATION, "a client of another user was not let in; a key would "
                                            "let it prove that it may");
    }
    if (!l->has_key)
        return let_in(l, fd, from, connection);
    p = &l->pending[l->count++];
    p->fd = fd;
    p->deadline = mp__clock_deadline(l->patience);
    (void)snprintf(p->from, sizeof(p->from), "%s", from);
    mp__handshake_begin(&p->handshake, true, l->key.data, l->key.size);
    return advance(l, l->count - 1, connection);
}

/* Whether accept failed because of that client, or since another process was faster. */
static bool is_of_a_client(int code)
{
    switch (-code) {
    case EAGAIN:
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case EPERM: /* a firewall */
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
        return true;
    default:
        return false;
    }
}

static int take_client(mp_listener *l, mp_connection **connection)
{
    mp__address address = { .size = sizeof(address.name) };
    char from[MP__ADDRESS_TEXT];
    int fd, r;

    mp__hooks_hold_forks(); /* until it is known whose it is */
    fd = mp__socket_accept(atomic_load(&l->fd), (struct sockaddr *)&address.name, &address.size);
    if (fd >= 0) {
        mp__address_write(&address, from);
        r = welcome(l, fd, from, connection);
    } else {
        r = is_of_a_client(fd) ? 0 : mp__fail(fd, "cannot accept a client: %s", mp_strerror(fd));
    }
    mp__hooks_let_forks();
    return r;
}

/* 1, 0 or a code as above, for the first client with whom something happens. */
static int look_after(mp_listener *l, mp_connection **connection)
{
    int r = 0;

    for (size_t i = 0; i < l->count && r == 0; i++)
        if (l->fds[2 + i].revents)
            r = advance(l, i, connection);
    for (size_t i = 0; i < l->count && r == 0; i++)
        if (mp__clock_over(l->pending[i].deadline))
            r = refuse(l, i, "it took too long to prove that it has the key");
    if (r == 0 && l->fds[0].revents)
        r = take_client(l, connection);
    return r;
}

static int wait_for_clients(mp_listener *l, int64_t deadline)
{
    size_t n = 0;

    l->fds[n++] = (struct pollfd){ .fd = l->count < PENDING_MAX ? atomic_load(&l->fd) : -1,
        .events = POLLIN };
    l->fds[n++] = (struct pollfd){ .fd = l->wake[0], .events = POLLIN };
    for (size_t i = 0; i < l->count; i++) {
        l->fds[n++] = (struct pollfd){ .fd = l->pending[i].fd, .events = POLLIN };
        if (l->pending[i].deadline < deadline)
            deadline = l->pending[i].deadline;
    }
    return mp__fd_poll(l->fds, n, deadline);
}

static int closed(void)
{
    return mp__fail(MP_ECLOSED, "this listener is closed");
}

static int accept_until(mp_listener *l, int64_t deadline, mp_connection **connection)
{
    int r = 0;

    while (r == 0) {
        if (atomic_load(&l->closing))
            return closed();
        r = wait_for_clients(l, deadline);
        if (r >= 0)
            r = look_after(l, connection);
        if (r == 0 && mp__clock_over(deadline))
            r = mp__fail(MP_ETIMEDOUT, "no client came");
    }
    return r < 0 ? r : 0;
}

/* A copy made meanwhile would have them. */
static void close_descriptors(mp_listener *l)
{
    mp__hooks_hold_forks();
    delist(l);
    for (size_t i = 0; i < l->count; i++)
        mp__fd_close(l->pending[i].fd);
    l->count = 0;
    mp__fd_close(atomic_exchange(&l->fd, -1));
    mp__lock(); /* another thread may be about to wake us */
    mp__fd_drop(&l->wake[0]);
    mp__fd_drop(&l->wake[1]);
    mp__unlock();
    mp__hooks_let_forks();
}

/* Once it is asked for, the last who leaves does it. False: somebody accepts just now. */
static bool close_if_asked(mp_listener *l)
{
    if (!atomic_load(&l->closing))
        return true;
    if (pthread_mutex_trylock(&l->accepting) != 0)
        return false;
    if (atomic_load(&l->fd) >= 0)
        close_descriptors(l);
    (void)pthread_mutex_unlock(&l->accepting);
    return true;
}

/* One thread at a time; the others wait for it as long as they have time. */
static int enter(mp_listener *l, int64_t deadline)
{
    int e;

    if (deadline == MP__NEVER)
        e = pthread_mutex_lock(&l->accepting);
    else if (deadline == 0)
        e = pthread_mutex_trylock(&l->accepting);
    else
        e = mp__mutex_timedlock(&l->accepting, deadline);
    return e ? mp__fail(MP_ETIMEDOUT, "no client came: another thread accepts") : 0;
}

int mp_listener_accept(mp_listener *l, double timeout, mp_connection **connection)
{
    int64_t deadline = mp__clock_deadline(timeout);
    int r;

    if (!l || !connection)
        return mp__fail(MP_EINVAL, "mp_listener_accept needs a listener and a place");
    if (is_lost(l))
        return closed();
    r = enter(l, deadline);
    if (r < 0)
        return r;
    r = accept_until(l, deadline, connection);
    (void)pthread_mutex_unlock(&l->accepting);
    (void)close_if_asked(l);
    return r;
}

/* ---- what is known of it, and its end ---- */

static bool is_closed(const mp_listener *l)
{
    return !l || is_lost(l) || atomic_load(&l->closing);
}

const char *mp_listener_address(const mp_listener *l)
{
    if (!is_closed(l))
        return l->address;
    (void)closed();
    return NULL;
}

const char *mp_listener_last_accepted(const mp_listener *l)
{
    return l && l->has_accepted ? l->last : NULL;
}

int mp_listener_fileno(const mp_listener *l)
{
    return is_closed(l) ? closed() : atomic_load(&l->fd);
}

static void wake_up(mp_listener *l)
{
    mp__lock();
    if (l->wake[1] >= 0 && write(l->wake[1], "", 1) < 0)
        mp_log(MP_LOG_WARNING, "a thread that accepts could not be told that its listener closes");
    mp__unlock();
}

/* Who accepts closes it when that is woken, else it is done here. */
void mp_listener_close(mp_listener *l)
{
    if (is_closed(l) || atomic_exchange(&l->closing, true))
        return;
    remove_path(l);
    if (!close_if_asked(l))
        wake_up(l);
}

void mp_listener_free(mp_listener *l)
{
    if (!l)
        return;
    mp_listener_close(l);
    release(l);
}
