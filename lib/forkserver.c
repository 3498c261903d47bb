/* SPDX-License-Identifier: MIT
 *
 * forkserver.c - the server: a small single-threaded process that keeps two
 * children forked ahead, the spares. One of them reads the next request itself,
 * answers it, tells the server that it is taken and becomes the child; so
 * nothing but the request stands between start and the child's first line, and
 * the next start does not wait for the fork that fills the gap. A nursery, which
 * is a server made by fork, forks one spare, and only on demand.
 *
 * The server forks spares, reaps, and writes exit codes into the status pipe.
 * It ends when its owner's end of the channel closes.
 */
#include "forkserver_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <multiprocessing/context.h>
#include <multiprocessing/log.h>

#include "clean_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "log_internal.h"
#include "orders_internal.h"
#include "pid_internal.h"
#include "shm_internal.h"
#include "socket_internal.h"

#define SPARES 2

/* How far a spare is: what its death means depends on it. */
enum progress { IDLE, READING, TAKEN };

/* What the server and its spares share. */
struct shared {
    _Atomic uint64_t serial; /* of the last request; changed by whose turn it is */
    struct {
        _Atomic uint64_t serial; /* of the request it took */
        atomic_int progress;
    } spares[SPARES];
};

struct child_entry {
    pid_t pid;
    uint64_t serial;
};

static struct server {
    mp_connection *channel; /* to the owner; the spare reads it */
    int report;             /* the status pipe, non-blocking */
    int taken[2];           /* for each spare that was taken: its place, a byte */
    int alive[2];           /* ends when the server ends; the spare watches it */
    pid_t pid;
    pid_t spares[SPARES]; /* 0: there is none */
    struct shared *shared;
    int turn; /* who has locked its record reads the next request: see wait_for_turn */
    struct child_entry *children;
    size_t count, capacity;
    int self;          /* descriptor of the spare itself; -1 in the server */
    uint64_t signals;  /* what a spare has to reset */
    bool on_demand;    /* a spare is forked when a request has come, not before */
    bool wanted;       /* one has */
    mp__buffer unsent; /* statuses the pipe had no room for */
} server;

/* ---- the spare ---- */

static bool has_request(void)
{
    struct pollfd one = { .fd = mp_connection_fileno(server.channel), .events = POLLIN };

    return poll(&one, 1, 0) > 0;
}

/* Waits for a request; without a server there is no reason to, and nobody who would reap. */
static void wait_for_request(void)
{
    struct pollfd fds[3] = {
        { .fd = mp_connection_fileno(server.channel), .events = POLLIN },
        { .fd = server.alive[0], .events = POLLIN },
    };

    if (mp__fd_poll(fds, 2, INT64_MAX) < 0 || fds[1].revents || getppid() != server.pid)
        _exit(0); /* a spare that was forked just then may hold the pipe open a little longer */
}

/*
 * Tells the owner who took the request of that serial, or a negative code: nobody.
 * A second answer to it is ignored there.
 */
static int answer(uint64_t serial, long pid)
{
    mp__answer words = { pid, serial };
    mp__parcel parcel = { .count = 0 };

    if (server.self >= 0)
        parcel.fds[parcel.count++] = server.self;
    return mp__connection_send_packed(server.channel, &words, sizeof(words), &parcel);
}

static void leave_server(mp__child *child)
{
    child->report = server.report;
    mp_connection_free(server.channel);
    mp__fd_close_all(server.taken, 2);
    mp__fd_close(server.alive[0]);
    mp__fd_close(server.self);
    mp__shm_unmap(server.shared, sizeof(*server.shared));
    free(server.children);
    mp__buffer_done(&server.unsent);
    memset(&server, 0, sizeof(server));
}

/*
 * Waits until no other spare is before this one, asleep and for as long as it takes. A
 * record lock goes with its process, however that ends, and is not inherited.
 */
static void wait_for_turn(void)
{
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    while (fcntl(server.turn, F_SETLKW, &whole) < 0)
        if (errno != EINTR)
            _exit(1);
    for (int i = 0; i < SPARES; i++)
        if (atomic_load(&server.shared->spares[i].progress) == READING)
            _exit(1); /* it died: the rest of its request is no request */
}

/* With the turn, which goes to the next one when the owner knows who took it. */
static int read_request(uint8_t place, mp__child *child)
{
    mp__server_orders orders;
    int r;

    child->serial = atomic_fetch_add(&server.shared->serial, 1) + 1;
    atomic_store(&server.shared->spares[place].serial, child->serial);
    atomic_store(&server.shared->spares[place].progress, READING);
    r = mp__orders_receive(server.channel, child, &orders);
    if (!child->told)
        _exit(r == MP_EEOF ? 0 : 1);
    atomic_store(&server.shared->spares[place].progress, TAKEN);
    return r;
}

/*
 * Returns in the child. A request that was begun and cannot be read leaves the
 * channel in the middle of a message: the server hears of it by the exit code
 * and gives up.
 */
static void be_spare(uint8_t place, mp__child *child)
{
    int r;

    mp__fd_drop(&server.alive[1]);
    mp__clean_up(server.signals & ~MP__SIGNAL(SIGINT));
    if (!has_request())
        mp__orders_rehearse();
    if (mp__pid_has_descriptors())
        server.self = mp__pid_open(getpid());
    wait_for_turn();
    wait_for_request();
    r = read_request(place, child);
    if (answer(child->serial, (long)getpid()) < 0)
        _exit(1);
    mp__fd_drop(&server.turn); /* which unlocks it */
    if (write(server.taken[1], &place, 1) != 1)
        _exit(1);
    leave_server(child);
    mp__clean_signals(MP__SIGNAL(SIGINT)); /* from now on it is meant for us, too */
    if (r < 0) {
        mp__log_last_words("cannot begin: %s", mp_last_error()->text);
        mp__forkserver_report(child, 1);
        _exit(1);
    }
}

void mp__forkserver_report(const mp__child *child, int exitcode)
{
    mp__status status = { child->serial, exitcode & 0xff, 0 };

    if (child->report >= 0 && write(child->report, &status, sizeof(status)) < 0)
        return; /* the server will tell, later */
}

/* ---- the server ---- */

static int remember(pid_t pid, uint64_t serial)
{
    if (server.count == server.capacity) {
        size_t capacity = server.capacity ? 2 * server.capacity : 64;
        struct child_entry *more = realloc(server.children, capacity * sizeof(*more));

        if (!more)
            return mp__fail(MP_ENOMEM, "out of memory in the fork server");
        server.children = more;
        server.capacity = capacity;
    }
    server.children[server.count++] = (struct child_entry){ pid, serial };
    return 0;
}

/* The serial of a child that has ended, which is forgotten; 0 for one of somebody else. */
static uint64_t forget(pid_t pid)
{
    for (size_t i = 0; i < server.count; i++) {
        uint64_t serial = server.children[i].serial;

        if (server.children[i].pid != pid)
            continue;
        server.children[i] = server.children[--server.count];
        return serial;
    }
    return 0;
}

static void flush_statuses(void)
{
    size_t size = server.unsent.size, done = 0;

    /* Whole records: a pipe takes up to PIPE_BUF bytes at once or not at all. */
    while (done < size && write(server.report, server.unsent.data + done, sizeof(mp__status)) > 0)
        done += sizeof(mp__status);
    if (done)
        memmove(server.unsent.data, server.unsent.data + done, size - done);
    server.unsent.size = size - done;
}

static void put_status(uint64_t serial, int status)
{
    mp__status record = { serial, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), 0 };

    if (mp__buffer_append(&server.unsent, &record, sizeof(record)) < 0)
        mp__log_last_words("fork server: an exit code is lost: out of memory");
    flush_statuses();
}

static int fork_error;

/* Forks a spare for that place. True in the child that a spare became. */
static bool fork_spare(uint8_t place, mp__child *child)
{
    pid_t pid;

    atomic_store(&server.shared->spares[place].progress, IDLE);
    pid = fork();
    if (pid == 0) {
        be_spare(place, child);
        return true;
    }
    fork_error = pid < 0 ? -errno : 0; /* tried again at the next event or in a moment */
    server.spares[place] = pid > 0 ? pid : 0;
    return false;
}

static bool has_spare(void)
{
    for (int i = 0; i < SPARES; i++)
        if (server.spares[i])
            return true;
    return false;
}

/* As many as there shall be. True in the child that a spare became. */
static bool fork_spares(mp__child *child)
{
    int wanted = server.on_demand ? server.wanted : SPARES;

    for (uint8_t i = 0; i < wanted; i++)
        if (!server.spares[i] && fork_spare(i, child))
            return true;
    return false;
}

/* Without a spare the server itself answers: no. */
static void refuse(void)
{
    mp__child nobody = { .report = -1 };
    mp__server_orders orders;

    (void)mp__orders_receive(server.channel, &nobody, &orders);
    if (!nobody.told || answer(atomic_fetch_add(&server.shared->serial, 1) + 1, fork_error) < 0)
        _exit(1);
    mp_message_clear(&nobody.request);
    mp_message_clear(&nobody.call.arguments);
    mp__fd_close(nobody.lifeline);
    mp__fd_close(nobody.life);
    mp__fd_close(nobody.parent_fd);
    server.wanted = false;
    fork_error = 0;
}

/* The spare is a child from now on, and its place free. */
static void graduate(int place)
{
    if (remember(server.spares[place], atomic_load(&server.shared->spares[place].serial)) < 0)
        mp__bootstrap_fail();
    server.spares[place] = 0;
}

static void note_taken(void)
{
    uint8_t place;

    while (read(server.taken[0], &place, 1) == 1)
        if (place < SPARES && server.spares[place])
            graduate(place);
}

/* A spare died before it said that it was taken. */
static void lose_spare(int place)
{
    pid_t pid = server.spares[place];

    switch (atomic_load(&server.shared->spares[place].progress)) {
    case IDLE:
        server.spares[place] = 0;
        break;
    case TAKEN: /* killed in between: its owner may know of it, or not */
        (void)answer(atomic_load(&server.shared->spares[place].serial), (long)pid);
        graduate(place);
        break;
    default:
        _exit(1); /* it took half a request with it: the channel is no use any more */
    }
}

static void reap(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) { /* all children here are ours */
        uint64_t serial;

        note_taken();
        for (int i = 0; i < SPARES; i++)
            if (pid == server.spares[i])
                lose_spare(i);
        serial = forget(pid);
        if (serial)
            put_status(serial, status);
    }
}

static void wake_up(int sig)
{
    (void)sig; /* ends ppoll */
}

static void prepare_signals(void)
{
    struct sigaction ignore = { .sa_handler = SIG_IGN }, notice = { .sa_handler = wake_up };
    sigset_t child;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    (void)sigaction(SIGINT, &ignore, NULL); /* Ctrl-C is for the owner and its children */
    (void)sigaction(SIGPIPE, &ignore, NULL);
    (void)sigaction(SIGCHLD, &notice, NULL);
    (void)sigprocmask(SIG_BLOCK, &child, NULL); /* but while it waits */
}

/* Waits for something to do; ends the server with its owner. */
static void wait_for_events(void)
{
    struct pollfd fds[3] = {
        { .fd = mp_connection_fileno(server.channel), .events = has_spare() ? 0 : POLLIN },
        { .fd = server.taken[0], .events = POLLIN },
        { .fd = server.unsent.size ? server.report : -1, .events = POLLOUT },
    };
    struct timespec moment = { 0, 20000000 }; /* until a fork that failed is tried again */
    bool waits = !fork_error || server.on_demand;
    sigset_t none;

    sigemptyset(&none);
    if (ppoll(fds, 3, waits ? NULL : &moment, &none) < 0 && errno != EINTR)
        _exit(1);
    if (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL))
        _exit(0);
    server.wanted = (fds[0].revents & POLLIN) != 0;
    if (server.wanted && (!server.on_demand || fork_error))
        refuse();
    if (fds[1].revents)
        note_taken();
    if (fds[2].revents)
        flush_statuses();
}

static void preload(const mp__server_orders *orders)
{
    if (orders->hook && orders->hook() != 0 && orders->on_error != MP_ON_ERROR_IGNORE) {
        mp__log_last_words("the preload hook failed");
        if (orders->on_error == MP_ON_ERROR_FAIL) {
            (void)fflush(NULL);
            _exit(1);
        }
    }
    (void)fflush(NULL); /* or every child would write it again */
}

static void open_server(mp_connection *channel, const mp__server_orders *orders)
{
    void *shared = NULL;

    server.pid = getpid();
    server.channel = channel;
    mp__connection_share(channel); /* with the spares */
    server.self = -1;
    server.on_demand = orders->on_demand;
    server.report = orders->report;
    mp__log_set_name("ForkServer");
    server.turn = mp__shm_open(sizeof(*server.shared));
    if (server.turn < 0 || mp__shm_map(server.turn, sizeof(*server.shared), &shared) < 0 ||
        mp__socket_pipe(server.taken) < 0 || mp__socket_pipe(server.alive) < 0)
        mp__bootstrap_fail();
    server.shared = shared;
    (void)fcntl(server.taken[0], F_SETFL, O_NONBLOCK);
    (void)fcntl(server.report, F_SETFL, O_NONBLOCK);
    preload(orders);
    prepare_signals();
    server.signals = mp__clean_prepare();
}

void mp__forkserver_serve(mp_connection *channel, const mp__server_orders *orders, mp__child *child)
{
    open_server(channel, orders);
    for (;;) {
        if (fork_spares(child))
            return;
        wait_for_events();
        reap();
    }
}
