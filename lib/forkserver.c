/* SPDX-License-Identifier: MIT
 *
 * forkserver.c - the server: a small single-threaded process that keeps one
 * child forked ahead, the spare. The spare itself reads the next request,
 * answers it, tells the server that it is taken and becomes the child; so
 * nothing but the request stands between start and the child's first line. A
 * nursery, which is a server made by fork, forks its spare only on demand.
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
#include <sys/mman.h>
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
#include "socket_internal.h"

/* How far a spare is, in memory it shares with the server: what its death means depends on it. */
enum progress { IDLE, READING, TAKEN };

struct child_entry {
    pid_t pid;
    uint64_t serial;
};

static struct server {
    mp_connection *channel; /* to the owner; the spare reads it */
    int report;             /* the status pipe, non-blocking */
    int taken[2];           /* a byte for each spare that was taken */
    int alive[2];           /* ends when the server ends; the spare watches it */
    pid_t spare;
    uint64_t serial;      /* of the spare */
    atomic_int *progress; /* of the spare */
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

    if (mp__fd_poll(fds, 2, INT64_MAX) < 0 || fds[1].revents)
        _exit(0);
}

/*
 * Tells the owner who took the request, or a negative code: nobody. A second
 * answer of the same serial is ignored there.
 */
static int answer(long pid)
{
    mp__answer words = { pid, server.serial };
    mp__parcel parcel = { .count = 0 };

    if (server.self >= 0)
        parcel.fds[parcel.count++] = server.self;
    return mp__connection_send_packed(server.channel, &words, sizeof(words), &parcel);
}

static void leave_server(mp__child *child)
{
    child->report = server.report;
    child->serial = server.serial;
    mp_connection_free(server.channel);
    mp__fd_close_all(server.taken, 2);
    mp__fd_close(server.alive[0]);
    mp__fd_close(server.self);
    free(server.children);
    mp__buffer_done(&server.unsent);
    memset(&server, 0, sizeof(server));
}

/*
 * Returns in the child. A request that was begun and cannot be read leaves the
 * channel in the middle of a message: the server hears of it by the exit code
 * and gives up.
 */
static void be_spare(mp__child *child)
{
    mp__server_orders orders;
    int r;

    mp__fd_drop(&server.alive[1]);
    mp__clean_up(server.signals & ~MP__SIGNAL(SIGINT));
    if (!has_request())
        mp__orders_rehearse();
    if (mp__pid_has_descriptors())
        server.self = mp__pid_open(getpid());
    wait_for_request();
    atomic_store(server.progress, READING);
    r = mp__orders_receive(server.channel, child, &orders);
    if (!child->told)
        _exit(r == MP_EEOF ? 0 : 1);
    atomic_store(server.progress, TAKEN);
    if (answer((long)getpid()) < 0 || write(server.taken[1], "", 1) != 1)
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

/* Forks the next spare. True in the child that a spare became. */
static bool fork_spare(mp__child *child)
{
    server.serial++;
    atomic_store(server.progress, IDLE);
    server.spare = fork();
    fork_error = 0;
    if (server.spare < 0) { /* tried again at the next event or in a moment */
        fork_error = -errno;
        server.spare = 0;
    } else if (server.spare == 0) {
        be_spare(child);
        return true;
    }
    return false;
}

/* Without a spare the server itself answers: no. */
static void refuse(void)
{
    mp__child nobody = { .report = -1 };
    mp__server_orders orders;

    (void)mp__orders_receive(server.channel, &nobody, &orders);
    if (!nobody.told || answer(fork_error) < 0)
        _exit(1);
    mp_message_clear(&nobody.request);
    mp_message_clear(&nobody.call.arguments);
    mp__fd_close(nobody.lifeline);
    mp__fd_close(nobody.life);
    mp__fd_close(nobody.parent_fd);
    server.wanted = false;
    fork_error = 0;
}

static void note_taken(void)
{
    char byte;

    if (!server.spare || read(server.taken[0], &byte, 1) != 1)
        return;
    if (remember(server.spare, server.serial) < 0)
        mp__bootstrap_fail();
    server.spare = 0;
}

/* A spare died before it said that it was taken. */
static void lose_spare(void)
{
    switch (atomic_load(server.progress)) {
    case IDLE:
        server.spare = 0;
        break;
    case TAKEN: /* killed in between: its owner may know of it, or not */
        (void)answer((long)server.spare);
        if (remember(server.spare, server.serial) < 0)
            mp__bootstrap_fail();
        server.spare = 0;
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
        if (pid == server.spare)
            lose_spare();
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
        { .fd = mp_connection_fileno(server.channel), .events = server.spare ? 0 : POLLIN },
        { .fd = server.taken[0], .events = POLLIN },
        { .fd = server.unsent.size ? server.report : -1, .events = POLLOUT },
    };
    struct timespec moment = { 0, 20000000 }; /* until a fork that failed is tried again */
    bool waits = server.spare || server.on_demand;
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
    server.channel = channel;
    server.self = -1;
    server.on_demand = orders->on_demand;
    server.report = orders->report;
    mp__log_set_name("ForkServer");
    server.progress = mmap(
        NULL, sizeof(*server.progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (server.progress == MAP_FAILED) {
        (void)mp__fail_errno("mmap");
        mp__bootstrap_fail();
    }
    if (mp__socket_pipe(server.taken) < 0 || mp__socket_pipe(server.alive) < 0)
        mp__bootstrap_fail();
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
        if (!server.spare && (server.wanted || !server.on_demand) && fork_spare(child))
            return;
        wait_for_events();
        reap();
    }
}
