/* SPDX-License-Identifier: MIT
 *
 * forkserver.c - the server: a small single-threaded process that keeps some
 * children forked ahead, the spares. Each holds an end of a socket pair whose other
 * end the owner has, and is offered to the owner: its pid and descriptor. To start a
 * child the owner takes an offer and writes the request into that socket: neither
 * the server nor an answer stands between start and the child's first line. A
 * nursery, which is a server made by fork, has no spares but those it was asked for.
 *
 * The owner makes the pairs and sends the ends ahead, some at a time: sockets that
 * lie in a socket make every close of one dear, in the whole system.
 *
 * The server forks spares, reaps, and writes exit codes into the status pipe. What
 * an owner has taken it hears from the owner, when that has no offer or few sockets
 * left, or by the end of the child. It ends when its owner's end of the channel closes.
 */
#include "forkserver_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

struct child_entry {
    pid_t pid;
    uint64_t serial;
    bool offered;
};

static struct server {
    mp_connection *channel; /* to the owner */
    int report;             /* the status pipe, non-blocking */
    dev_t device;           /* which pipe that is */
    ino_t inode;
    int alive[2];           /* ends when the server ends; the spares watch it */
    int owner;              /* descriptor of the owner: what its children watch their parent by */
    int ends[MP__ENDS_MAX]; /* for spares to come */
    uint64_t first_end;     /* the number of the first; they are numbered without a gap */
    size_t end_count;
    struct child_entry *children;
    size_t count, capacity;
    uint64_t serial;     /* of the last spare; in a spare, its own */
    uint64_t used;       /* all up to that one were taken */
    int fault;           /* why there is no end: those of the last wish were lost; or 0 */
    size_t idle;         /* spares that were offered and not taken, as far as known, and live */
    size_t wanted;       /* how many of them there shall be now */
    uint64_t waiting;    /* the number of the wish whose owner waits for an offer; 0: none */
    uint64_t signals;    /* what a spare has to reset */
    bool on_demand;      /* no spare is forked but on request */
    mp_message exercise; /* for its spares, so that they are warm */
    mp__buffer unsent;   /* statuses the pipe had no room for */
} server;

/* ---- the spare ---- */

static volatile sig_atomic_t interrupted;

static void note_interrupt(int sig)
{
    interrupted = sig;
}

static void change_mask(int how, int sig)
{
    sigset_t only;

    sigemptyset(&only);
    sigaddset(&only, sig);
    (void)sigprocmask(how, &only, NULL);
}

static bool has_request(int end)
{
    char byte;

    return recv(end, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

/*
 * Waits for a request; without a server there is no reason to, and nobody who would reap:
 * then the owner is told that no more is read. An interrupt that comes before the
 * request is nobody's.
 */
static void wait_for_request(int end)
{
    struct pollfd fds[2] = {
        { .fd = end, .events = POLLIN },
        { .fd = server.alive[0], .events = POLLIN },
    };
    sigset_t none;

    sigemptyset(&none);
    while (!has_request(end)) {
        interrupted = 0;
        if (ppoll(fds, 2, NULL, &none) < 0)
            continue; /* EINTR */
        if (fds[1].revents)
            (void)shutdown(end, SHUT_RD);
        if (has_request(end))
            return;
        _exit(0);
    }
}

/* From now on interrupts are for us. */
static void take_interrupts(void)
{
    mp__clean_signals(MP__SIGNAL(SIGINT));
    if (interrupted)
        (void)raise(SIGINT);
    change_mask(SIG_UNBLOCK, SIGINT);
}

/* It is not the server. Memory is not given back: that would only cost a copy of each page. */
static void leave_server(mp__child *child)
{
    child->report = server.report;
    child->parent_fd = server.owner;
    child->serial = server.serial;
    mp__fd_close_all(server.ends + 1, server.end_count - 1);
    mp__fd_close(server.alive[1]);
}

/* What it was told is not to be used. */
static _Noreturn void give_up(const mp__child *child)
{
    mp__log_last_words("cannot begin: %s", mp_last_error()->text);
    mp__forkserver_report(child, 1);
    _exit(1);
}

/*
 * Returns in the child. What is done before the request comes does not stand in its way.
 * A spare whose offer was dropped just ends, as one does whose owner went while it told.
 */
static void be_spare(mp__child *child)
{
    mp_connection *channel = NULL;
    mp__server_orders orders;
    int r;

    leave_server(child);
    mp__clean_up(server.signals & ~MP__SIGNAL(SIGINT));
    change_mask(SIG_BLOCK, SIGINT); /* but while it waits */
    if (mp__connection_adopt_socket(&server.ends[0], &channel) < 0)
        mp__bootstrap_fail();
    if (server.exercise.own)
        mp__orders_practise(channel, &server.exercise);
    wait_for_request(mp_connection_fileno(channel));
    mp__fd_close(server.alive[0]);
    r = mp__orders_receive(channel, child, &orders);
    if (r == MP_EEOF || r == MP_ETRUNCATED || r == MP_ECONNRESET)
        _exit(0);
    if (r < 0)
        give_up(child);
    mp_connection_free(channel);
    take_interrupts();
}

/* A program may have closed all descriptors, and opened a file of its own there. */
static bool is_pipe(int fd)
{
    struct stat there;

    return fd >= 0 && fstat(fd, &there) == 0 && there.st_ino == server.inode &&
           there.st_dev == server.device;
}

void mp__forkserver_report(const mp__child *child, int exitcode)
{
    mp__status status = { child->serial, exitcode & 0xff, 0 };

    if (is_pipe(child->report) && write(child->report, &status, sizeof(status)) < 0)
        return; /* the server will tell, later */
}

/* ---- the server: its children ---- */

static int make_room(void)
{
    size_t capacity = server.capacity ? 2 * server.capacity : 64;
    struct child_entry *more;

    if (server.count < server.capacity)
        return 0;
    more = realloc(server.children, capacity * sizeof(*more));
    if (!more)
        return MP_ENOMEM;
    server.children = more;
    server.capacity = capacity;
    return 0;
}

/* Tells the owner of the last spare, or why there is none. A dead owner does not matter here. */
static int offer(int64_t pid, int descriptor)
{
    mp__offer words = { pid, pid > 0 ? server.serial : server.first_end - 1, server.waiting };

    return mp__fd_send(mp_connection_fileno(server.channel),
        &(struct iovec){ &words, sizeof(words) }, 1, &descriptor, descriptor >= 0);
}

static int offer_spare(struct child_entry *spare)
{
    bool has_descriptor = mp__pid_has_descriptors();
    int descriptor = has_descriptor ? mp__pid_open(spare->pid) : -1;
    int r = has_descriptor && descriptor < 0 ? descriptor : offer((int64_t)spare->pid, descriptor);

    mp__fd_close(descriptor);
    spare->offered = r == 0;
    server.idle += spare->offered;
    return r;
}

/* The end is the spare's alone: that of the one is the end of the other. */
static void shift_ends(void)
{
    mp__fd_close(server.ends[0]);
    memmove(server.ends, server.ends + 1, --server.end_count * sizeof(*server.ends));
    server.first_end++;
}

/* Forks a spare and offers it. 1 in the child that it became, else 0 or a code. */
static int fork_spare(mp__child *child)
{
    pid_t pid;
    int r;

    if (make_room() < 0)
        return MP_ENOMEM;
    pid = fork();
    if (pid < 0)
        return -errno;
    server.serial = server.first_end;
    if (pid == 0) {
        be_spare(child);
        return 1;
    }
    shift_ends();
    server.children[server.count++] = (struct child_entry){ pid, server.serial, false };
    r = offer_spare(&server.children[server.count - 1]);
    if (r < 0)
        (void)kill(pid, SIGKILL); /* nobody will ever ask it */
    return r;
}

/* As many as there shall be. True in the child that a spare became. */
static bool fork_spares(mp__child *child)
{
    int r = server.fault;

    while (server.idle < server.wanted && server.end_count && r == 0)
        r = fork_spare(child);
    if (r > 0)
        return true;
    if (server.waiting && !server.idle)
        (void)offer(r, -1);
    server.wanted = 0; /* what cannot be now is not tried again before it is wanted again */
    server.waiting = 0;
    return false;
}

/* ---- the server: exit codes ---- */

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

/* Not taken, as far as the server knows. */
static bool is_idle(const struct child_entry *child)
{
    return child->offered && child->serial > server.used;
}

/* A spare has ended, as one or as the child that it became: another one takes its place. */
static void replace_spare(void)
{
    server.idle--;
    if (!server.on_demand && server.wanted < MP__SPARES)
        server.wanted = MP__SPARES;
}

static void bury(pid_t pid, int status)
{
    for (size_t i = 0; i < server.count; i++) {
        struct child_entry entry = server.children[i];

        if (entry.pid != pid)
            continue;
        server.children[i] = server.children[--server.count];
        if (is_idle(&entry))
            replace_spare();
        put_status(entry.serial, status);
        return;
    }
}

static void reap(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) /* all children here are ours */
        bury(pid, status);
}

/* ---- the server: its owner ---- */

/* All up to that serial are children now. */
static void graduate(uint64_t used)
{
    for (size_t i = 0; i < server.count; i++)
        if (is_idle(&server.children[i]) && server.children[i].serial <= used)
            server.idle--;
    server.used = used;
}

/* Ends that have come. If some are lost, all are given up, so that there is no gap. */
static void store_ends(const mp__parcel *ends, const mp__wish *wish)
{
    if (ends->count != wish->ends || ends->count > MP__ENDS_MAX - server.end_count) {
        mp__fd_close_all(server.ends, server.end_count);
        mp__fd_close_all(ends->fds, ends->count);
        server.end_count = 0;
        server.first_end = wish->first + wish->ends;
        server.fault = MP_EMFILE;
        return;
    }
    memcpy(server.ends + server.end_count, ends->fds, ends->count * sizeof(*ends->fds));
    server.end_count += ends->count;
}

static void hear(void)
{
    mp__wish wish;
    mp__parcel ends;
    bool lost = false;
    ssize_t n;

    ends.count = 0;
    n = mp__fd_receive(
        mp_connection_fileno(server.channel), &wish, sizeof(wish), ends.fds, &ends.count, &lost);
    if (n != sizeof(wish))
        _exit(0); /* nobody is there any more */
    server.fault = 0;
    store_ends(&ends, &wish);
    graduate(wish.used);
    if (wish.count > server.wanted)
        server.wanted = (size_t)wish.count;
    server.waiting = wish.number;
}

static void wake_up(int sig)
{
    (void)sig; /* ends ppoll */
}

/* Ctrl-C is for the owner and its children; but one that comes to a spare is not lost. */
static void prepare_signals(void)
{
    struct sigaction ignore = { .sa_handler = SIG_IGN }, notice = { .sa_handler = wake_up },
                     note = { .sa_handler = note_interrupt };

    change_mask(SIG_BLOCK, SIGCHLD); /* but while it waits, as SIGINT */
    change_mask(SIG_BLOCK, SIGINT);
    (void)sigaction(SIGINT, &note, NULL);
    (void)sigaction(SIGPIPE, &ignore, NULL);
    (void)sigaction(SIGCHLD, &notice, NULL);
}

/* Waits for something to do; ends the server with its owner. */
static void wait_for_events(void)
{
    struct pollfd fds[2] = {
        { .fd = mp_connection_fileno(server.channel), .events = POLLIN },
        { .fd = server.unsent.size ? server.report : -1, .events = POLLOUT },
    };
    sigset_t none;

    sigemptyset(&none);
    if (ppoll(fds, 2, NULL, &none) < 0 && errno != EINTR)
        _exit(1);
    if (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL))
        _exit(0);
    if (fds[0].revents)
        hear();
    if (fds[1].revents)
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

/* What this process may have of a server it is a copy of is of no use. */
static void open_server(mp_connection *channel, const mp__server_orders *orders)
{
    struct stat pipe;

    server = (struct server){
        .channel = channel,
        .report = orders->report,
        .owner = mp__pid_has_descriptors() ? mp__pid_open(getppid()) : -1,
        .on_demand = orders->on_demand,
        .first_end = 1,
    };
    mp__log_set_name("ForkServer");
    if ((server.owner < 0 && mp__pid_has_descriptors()) || mp__socket_pipe(server.alive) < 0)
        mp__bootstrap_fail();
    (void)fcntl(server.report, F_SETFL, O_NONBLOCK);
    if (fstat(server.report, &pipe) == 0) {
        server.device = pipe.st_dev;
        server.inode = pipe.st_ino;
    }
    preload(orders);
    prepare_signals();
    server.signals = mp__clean_prepare();
    if (!server.on_demand)
        (void)mp__orders_exercise(&server.exercise); /* without, its children are slower */
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
