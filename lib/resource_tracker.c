/* SPDX-License-Identifier: MIT
 *
 * resource_tracker.c - names of shared memory go with the process that owns them,
 * however it ends.
 *
 * At exit the owner removes them itself. For the case that it is killed a process
 * of its own, the tracker, knows them too: it reads them from a socket whose end
 * says that the owner is gone. It is an exec of the program that never reaches
 * main(), because a copy made by fork would hold on to the memory of its parent.
 * It is no child of the owner, whose wait() would wait for it; it is there from
 * the first name until the owner ends, and only in programs that have passed their
 * guard: those are known to begin with this library.
 */
#include "resource_tracker_internal.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/process.h>

#include "bootstrap_internal.h"
#include "error_internal.h"
#include "exit_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "launch_internal.h"
#include "log_internal.h"
#include "pid_internal.h"
#include "socket_internal.h"

#define VARIABLE "_MP_RESOURCE_TRACKER" /* tells the new process what it is */
#define PATIENCE_MS 1000                /* with a tracker that does not listen */

/* What the owner says: this name is mine, or not any more. */
typedef struct record {
    mp__shm_identity identity;
    char name[MP__SHM_NAME_MAX + 1];
    char operation; /* '+' or '-' */
} record;

/* ---- the owner ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static mp__tracked *all;
static int channel = -1; /* to the tracker */
static bool deaf;        /* it has missed a name */
static bool prepared;    /* for exit and fork, in this process */

/* The names are the parent's, and so is the channel: it must end with the parent. */
static void after_fork(bool ours)
{
    (void)ours;
    (void)pthread_mutex_init(&lock, NULL); /* another thread may have held it */
    all = NULL;
    mp__fd_drop(&channel);
    prepared = false;
}

/*
 * The process that was started has the tracker as its child, and ends: so that is
 * nobody's child. It is reaped here. The tracker says when it is there.
 */
static int await(pid_t pid, int fd)
{
    int exitcode, r = 0;
    char byte;

    if (mp__fd_read(fd, &byte, 1) != 1) {
        r = mp__fail(MP_EIO, "the resource tracker does not begin");
        (void)mp__pid_signal(pid, -1, SIGKILL);
    }
    while (mp__pid_reap(pid, -1, &exitcode) == 0)
        (void)poll(NULL, 0, 1);
    return r;
}

static int launch(int *ours)
{
    char path[4096], addition[] = VARIABLE "=1", name[64];
    char *arguments[] = { name, NULL };
    char **environment = mp__bootstrap_environment(addition);
    int fds[2] = { -1, -1 };
    pid_t pid;
    int r = environment ? mp__launch_self(path, sizeof(path))
                        : mp__fail(MP_ENOMEM, "out of memory to start a resource tracker");

    (void)snprintf(name, sizeof(name), "resource_tracker of %ld", (long)mp__hooks_pid());
    if (r == 0)
        r = mp__socket_pair(fds);
    if (r == 0)
        r = mp__launch(path, arguments, environment, fds[1], true, &pid);
    mp__fd_drop(&fds[1]);
    if (r == 0)
        r = await(pid, fds[0]);
    if (r == 0) {
        *ours = fds[0];
        fds[0] = -1;
    }
    mp__fd_close(fds[0]);
    free(environment);
    return r;
}

static void fill_in(record *said, char operation, const mp__tracked *t)
{
    *said = (record){ .identity = t->identity, .operation = operation };
    memcpy(said->name, t->name, sizeof(said->name));
}

static ssize_t try_to_tell(const record *said)
{
    struct iovec part = { (void *)said, sizeof(*said) };
    const int none = -1;
    ssize_t n = mp__fd_try_send(channel, &part, 1, &none, 0);

    if (n > 0 && n < (ssize_t)sizeof(*said)) {
        part = (struct iovec){ (char *)said + n, sizeof(*said) - (size_t)n };
        n = mp__fd_send(channel, &part, 1, &none, 0);
    }
    return n;
}

/*
 * False when there is no tracker any more. One that is busy is waited for; one that
 * has been stopped only once, and hears it all when it goes on. That a name went it
 * would find out by itself.
 */
static bool tell(char operation, const mp__tracked *t)
{
    record said;
    ssize_t n;

    fill_in(&said, operation, t);
    n = try_to_tell(&said);
    for (int ms = 0; n == MP_EAGAIN && operation == '+' && !deaf && ms < PATIENCE_MS; ms++) {
        (void)poll(NULL, 0, 1);
        n = try_to_tell(&said);
    }
    deaf |= n == MP_EAGAIN && operation == '+';
    return n >= 0 || n == MP_EAGAIN;
}

static bool tell_all(void)
{
    bool told = true;

    deaf = false;
    for (const mp__tracked *t = all; t && told && !deaf; t = t->next)
        told = tell('+', t);
    return told;
}

/* A new one, which is told everything. */
static void restart(void)
{
    static bool warned;
    int r;

    mp__fd_drop(&channel);
    if (!mp__guard_passed())
        return;
    r = launch(&channel);
    if (r < 0 && !warned)
        mp_log(MP_LOG_WARNING,
            "no resource tracker: %s. Names of shared memory will stay if this process is killed",
            mp_last_error()->text);
    warned |= r < 0;
    if (r == 0 && !tell_all())
        mp__fd_drop(&channel);
}

/* Whether there is room in its socket again. */
static bool listens(void)
{
    struct pollfd one = { .fd = channel, .events = POLLOUT };

    return poll(&one, 1, 0) > 0;
}

/* Says it, to a new tracker if need be. None of this is the caller's failure. */
static void say(char operation, const mp__tracked *t)
{
    mp_error before = *mp_last_error();
    bool told = channel >= 0 && tell(operation, t);

    if (told && deaf && listens())
        told = tell_all();
    if (!told)
        restart();
    (void)mp__fail(before.code, "%s", before.text);
}

/* With the lock held. */
static void take_out(mp__tracked *t)
{
    if (t->previous)
        t->previous->next = t->next;
    else
        all = t->next;
    if (t->next)
        t->next->previous = t->previous;
    t->previous = t->next = NULL;
    t->owner = 0;
}

/* The tracker has names yet, and finds that they went. */
static void at_exit(void *argument)
{
    (void)argument;
    (void)pthread_mutex_lock(&lock);
    while (all) {
        (void)mp__shm_remove(all->name, &all->identity); /* somebody else may have done it */
        take_out(all);
    }
    mp__fd_drop(&channel);
    prepared = false; /* who makes more at exit gets a handler for that */
    (void)pthread_mutex_unlock(&lock);
}

void mp__resource_tracker_stop(void)
{
    (void)pthread_mutex_lock(&lock);
    if (!all)
        mp__fd_drop(&channel);
    (void)pthread_mutex_unlock(&lock);
}

/* Without memory for the handler the tracker is left, which does the same. */
static void prepare(void)
{
    if (prepared)
        return;
    mp__exit_needed();
    mp__hooks_after_fork(after_fork);
    prepared = mp_atexit(at_exit, NULL, INT_MIN) == 0;
}

void mp__track(mp__tracked *t)
{
    (void)pthread_mutex_lock(&lock);
    prepare();
    t->owner = mp__hooks_pid();
    t->previous = NULL;
    t->next = all;
    if (all)
        all->previous = t;
    all = t;
    say('+', t);
    (void)pthread_mutex_unlock(&lock);
}

/* With the lock held. */
static void untrack(mp__tracked *t)
{
    take_out(t);
    if (channel >= 0)
        say('-', t);
}

void mp__untrack(mp__tracked *t)
{
    (void)pthread_mutex_lock(&lock);
    if (t->owner == mp__hooks_pid())
        untrack(t);
    (void)pthread_mutex_unlock(&lock);
}

void mp__untrack_and_remove(mp__tracked *t)
{
    (void)pthread_mutex_lock(&lock);
    if (t->owner == mp__hooks_pid()) {
        (void)mp__shm_remove(t->name, &t->identity); /* somebody else may have done it */
        untrack(t);
    }
    (void)pthread_mutex_unlock(&lock);
}

/* ---- the tracker ---- */

typedef struct names {
    record *records;
    size_t count, capacity;
} names;

static void add(names *known, const record *said)
{
    size_t capacity = known->capacity ? 2 * known->capacity : 16;
    record *more;

    if (known->count == known->capacity) {
        more = realloc(known->records, capacity * sizeof(*more));
        if (!more)
            return; /* this one is lost; the others are not */
        known->records = more;
        known->capacity = capacity;
    }
    known->records[known->count++] = *said;
}

static void drop(names *known, const record *said)
{
    for (size_t i = 0; i < known->count; i++) {
        if (memcmp(&known->records[i].identity, &said->identity, sizeof(said->identity)) == 0) {
            known->records[i] = known->records[--known->count];
            return;
        }
    }
}

/* The next record. False at the end: half a one was the last word of its owner. */
static bool hear(int fd, record *said)
{
    size_t got = 0;

    while (got < sizeof(*said)) {
        ssize_t n = mp__fd_read(fd, (char *)said + got, sizeof(*said) - got);

        if (n <= 0)
            return false;
        got += (size_t)n;
    }
    return true;
}

/* It was started aside, where no signal for its owner reaches it. It holds on to nothing else. */
static void step_aside(int fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t pid = fork();

    if (pid != 0)
        _exit(pid < 0);
    (void)dup2(null, STDOUT_FILENO); /* who reads the output of its owner waits for its end */
    (void)dup2(null, STDERR_FILENO);
    if (chdir("/") < 0 || write(fd, "", 1) < 0)
        _exit(1);
}

static _Noreturn void serve(int fd)
{
    names known = { NULL, 0, 0 };
    record said;

    step_aside(fd);
    while (hear(fd, &said)) {
        said.name[MP__SHM_NAME_MAX] = '\0';
        if (said.operation == '+')
            add(&known, &said);
        else
            drop(&known, &said);
    }
    for (size_t i = 0; i < known.count; i++)
        (void)mp__shm_remove(known.records[i].name, &known.records[i].identity);
    _exit(0);
}

__attribute__((constructor(101))) static void begin(void)
{
    if (getenv(VARIABLE))
        serve(MP__LAUNCH_FD);
}
