/* SPDX-License-Identifier: MIT
 *
 * resource_tracker.c - names of shared memory go with the process that owns them,
 * however it ends.
 *
 * At exit the owner removes them itself. For the case that it is killed a process
 * of its own, the tracker, knows them too: it reads them from a socket whose end
 * says that the owner is gone. It is an exec of the program that never reaches
 * main(), because a copy made by fork would hold on to the memory of its parent.
 * It is there while there are names, and only in programs that have passed their
 * guard: those are known to begin with this library.
 */
#include "resource_tracker_internal.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
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
#include "socket_internal.h"

#define VARIABLE "_MP_RESOURCE_TRACKER" /* tells the new process what it is */

/* What the owner says: this name is mine, or not any more. */
typedef struct record {
    mp__shm_identity identity;
    char name[MP__SHM_NAME_MAX + 1];
    char operation; /* '+' or '-' */
} record;

/* ---- the owner ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static mp__tracked *all;
static mp__popen tracker = { .descriptor = -1, .life = -1, .lifeline = -1 };
static int channel = -1;
static bool prepared; /* for exit and fork, in this process */

/* The names are the parent's, and so is the channel: it must end with the parent. */
static void after_fork(bool ours)
{
    (void)ours;
    (void)pthread_mutex_init(&lock, NULL); /* another thread may have held it */
    all = NULL;
    mp__fd_drop(&channel);
    mp__popen_close(&tracker);
    prepared = false;
}

static int launch(int *ours)
{
    char path[4096], addition[] = VARIABLE "=1", name[] = "resource_tracker";
    char *arguments[] = { name, NULL };
    char **environment = mp__bootstrap_environment(addition);
    int fds[2] = { -1, -1 }, no_pipe = -1;
    pid_t pid;
    int r = environment ? mp__launch_self(path, sizeof(path))
                        : mp__fail(MP_ENOMEM, "out of memory to start a resource tracker");

    if (r == 0)
        r = mp__socket_pair(fds);
    if (r == 0)
        r = mp__launch(path, arguments, environment, fds[1], true, &pid);
    if (r == 0)
        r = mp__popen_watch(pid, &no_pipe, &tracker);
    if (r == 0) {
        *ours = fds[0];
        fds[0] = -1;
    }
    mp__fd_close_all(fds, 2);
    free(environment);
    return r;
}

/* Kills it: there is nothing it should do any more, or it does not listen. */
static void stop(void)
{
    if (channel < 0)
        return;
    mp__popen_destroy(&tracker);
    tracker = MP__POPEN_NONE;
    mp__fd_drop(&channel);
}

/* Whether it was told. Without waiting: one that has stopped is none. */
static bool tell(char operation, const mp__tracked *t)
{
    record said = { .identity = t->identity, .operation = operation };
    struct iovec part = { &said, sizeof(said) };
    const int none = -1;

    memcpy(said.name, t->name, sizeof(said.name));
    return mp__fd_try_send(channel, &part, 1, &none, 0) == (ssize_t)sizeof(said);
}

static bool tell_all(void)
{
    for (const mp__tracked *t = all; t; t = t->next)
        if (!tell('+', t))
            return false;
    return true;
}

/* A new one, which is told everything. */
static void restart(void)
{
    static bool warned;
    mp_error before = *mp_last_error();
    int r;

    stop();
    if (!mp__guard_passed())
        return;
    r = launch(&channel);
    if (r < 0 && !warned)
        mp_log(MP_LOG_WARNING,
            "no resource tracker: %s. Names of shared memory will stay if this "
            "process is killed",
            mp_last_error()->text);
    warned |= r < 0;
    if (r == 0 && !tell_all())
        stop();
    (void)mp__fail(before.code, "%s", before.text); /* none of this is the caller's failure */
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

static void at_exit(void *argument)
{
    (void)argument;
    (void)pthread_mutex_lock(&lock);
    while (all) {
        (void)mp__shm_remove(all->name, &all->identity); /* somebody else may have done it */
        take_out(all);
    }
    stop();
    prepared = false; /* who makes more at exit gets a handler for that */
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
    if (channel < 0 || !tell('+', t))
        restart();
    (void)pthread_mutex_unlock(&lock);
}

/* With the lock held. */
static void untrack(mp__tracked *t)
{
    take_out(t);
    if (!all)
        stop();
    else if (channel >= 0 && !tell('-', t))
        restart();
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
static void step_aside(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    (void)dup2(null, STDOUT_FILENO); /* who reads the output of its owner waits for its end */
    (void)dup2(null, STDERR_FILENO);
    if (chdir("/") < 0)
        return; /* then it does hold on to a folder, no more */
}

static _Noreturn void serve(int fd)
{
    names known = { NULL, 0, 0 };
    record said;

    step_aside();
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
