/* SPDX-License-Identifier: MIT
 *
 * resource_tracker.c - names of shared memory go with the process that owns them,
 * however it ends.
 *
 * At exit the owner removes them itself. For the case that it is killed there is
 * a table of its names, in memory that it shares with a process of its own, the
 * tracker: that waits for the end of a socket, which says that the owner is gone.
 * So a name costs no message, and a tracker that is busy or stopped misses nothing.
 *
 * The tracker is an exec of the program that never reaches main(), because a copy
 * made by fork would hold on to the memory of its parent. It is no child of the
 * owner, whose wait() would wait for it; it is there from the first name until the
 * owner ends, and only in programs that have passed their guard: those are known to
 * begin with this library.
 */
#include "resource_tracker_internal.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/process.h>

#include "bootstrap_internal.h"
#include "error_internal.h"
#include "exit_internal.h"
#include "fd_internal.h"
#include "heap_internal.h"
#include "hooks_internal.h"
#include "launch_internal.h"
#include "log_internal.h"
#include "pid_internal.h"
#include "socket_internal.h"

#define VARIABLE "_MP_RESOURCE_TRACKER" /* tells the new process what it is */

#define SLOTS_FIRST 14 /* they fill a page */

/* A name in the table. What is in a slot counts only while it is used. */
typedef struct slot {
    atomic_bool used;
    mp__shm_identity identity;
    char name[MP__SHM_NAME_MAX + 1];
} slot;

/* ---- the owner ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static mp__tracked *all;
static mp__block table = { .fd = -1 };
static size_t maybe_free; /* no slot before this one is */
static int channel = -1;  /* to the tracker */
static bool prepared;     /* for exit, in this process */

/* The tracker sees that this was all. */
static void let_go(void)
{
    mp__fd_drop(&channel);
    mp__block_done(&table);
    maybe_free = 0;
}

/* The names are the parent's, and so is the channel: it must end with the parent. */
static void after_fork(bool ours)
{
    (void)ours;
    (void)pthread_mutex_init(&lock, NULL); /* another thread may have held it */
    all = NULL;
    let_go();
    prepared = false;
}

static slot *slot_at(size_t i)
{
    return (slot *)table.memory + i;
}

static size_t slot_count(void)
{
    return table.size / sizeof(slot);
}

static int make_room(void)
{
    if (table.fd < 0)
        return mp__block_new(SLOTS_FIRST * sizeof(slot), &table);
    return mp__block_grow(&table, 2 * table.size, mp__shm_extend);
}

/* Puts the name into the table. Whoever is killed in the middle of it has not done it. */
static int note(mp__tracked *t)
{
    size_t i = maybe_free;
    int r = 0;

    while (i < slot_count() && slot_at(i)->used)
        i++;
    if (i >= slot_count())
        r = make_room();
    if (r < 0)
        return r;
    slot_at(i)->identity = t->identity;
    memcpy(slot_at(i)->name, t->name, sizeof(t->name));
    atomic_store(&slot_at(i)->used, true);
    t->slot = i;
    t->noted = true;
    maybe_free = i + 1;
    return 0;
}

static void strike_out(mp__tracked *t)
{
    if (!t->noted)
        return;
    atomic_store(&slot_at(t->slot)->used, false);
    if (t->slot < maybe_free)
        maybe_free = t->slot;
    t->noted = false;
}

/*
 * The process that was started has the tracker as its child, and ends: so that is
 * nobody's child. It is reaped here. The tracker says when it is there.
 */
static int await(pid_t pid, int fd)
{
    int exitcode, r = 0;
    char byte;

    if (mp__fd_read(fd, &byte, 1) != 1) /* who had the other end has ended, or is about to */
        r = mp__fail(MP_EIO, "the resource tracker does not begin");
    while (mp__pid_reap(pid, -1, &exitcode) == 0)
        (void)poll(NULL, 0, 1);
    return r;
}

static int send_table(int fd)
{
    struct iovec part = { "", 1 };

    return mp__fd_send(fd, &part, 1, &table.fd, 1);
}

static int launch(int *ours)
{
    char path[4096], addition[] = VARIABLE "=1", name[64];
    char *arguments[] = { name, NULL };
    char **environment = mp__bootstrap_environment(addition);
    int fds[2] = { -1, -1 };
    mp__making making;
    pid_t pid;
    int r = environment ? mp__launch_self(path, sizeof(path))
                        : mp__fail(MP_ENOMEM, "out of memory to start a resource tracker");

    (void)snprintf(name, sizeof(name), "resource_tracker of %ld", (long)mp__hooks_pid());
    mp__hooks_begin_making(&making, fds, 2);
    if (r == 0)
        r = mp__socket_pair(fds);
    if (r == 0)
        r = send_table(fds[0]);
    if (r == 0)
        r = mp__launch(path, arguments, environment, fds[1], true, &pid);
    *ours = fds[0];
    mp__fd_close(fds[1]);
    mp__hooks_end_making(&making);
    if (r == 0)
        r = await(pid, *ours);
    if (r < 0)
        mp__fd_drop(ours);
    free(environment);
    return r;
}

/* Whether the tracker is there. It never says anything but by its end. */
static bool is_there(void)
{
    struct pollfd one = { .fd = channel, .events = POLLIN };

    return channel >= 0 && poll(&one, 1, 0) <= 0;
}

/* Notes the name, and sees to it that somebody reads that. Its failure is not the caller's. */
static void note_and_watch(mp__tracked *t)
{
    static bool warned;
    mp_error before = *mp_last_error();
    int r = note(t);

    if (r == 0 && !is_there()) {
        mp__fd_drop(&channel);
        r = launch(&channel);
    }
    if (r < 0 && !warned)
        mp_log(MP_LOG_WARNING,
            "no resource tracker: %s. Names of shared memory will stay if this process is killed",
            mp_last_error()->text);
    warned |= r < 0;
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
    strike_out(t);
}

static void at_exit(void *argument)
{
    (void)argument;
    (void)pthread_mutex_lock(&lock);
    while (all) {
        (void)mp__shm_remove(all->name, &all->identity); /* somebody else may have done it */
        take_out(all);
    }
    let_go();
    prepared = false; /* who makes more at exit gets a handler for that */
    (void)pthread_mutex_unlock(&lock);
}

void mp__resource_tracker_stop(void)
{
    (void)pthread_mutex_lock(&lock);
    if (!all)
        let_go();
    (void)pthread_mutex_unlock(&lock);
}

/* Without memory for the handler the tracker is left, which does the same. */
static void prepare(void)
{
    if (prepared)
        return;
    mp__exit_needed();
    prepared = mp_atexit(at_exit, NULL, INT_MIN) == 0;
}

void mp__track(mp__tracked *t)
{
    mp__hooks_after_fork(after_fork); /* first: a copy that finds the lock held must free it */
    (void)pthread_mutex_lock(&lock);
    prepare();
    t->owner = mp__hooks_pid();
    t->previous = NULL;
    t->next = all;
    if (all)
        all->previous = t;
    all = t;
    if (mp__guard_passed())
        note_and_watch(t);
    (void)pthread_mutex_unlock(&lock);
}

void mp__untrack(mp__tracked *t)
{
    (void)pthread_mutex_lock(&lock);
    if (t->owner == mp__hooks_pid())
        take_out(t);
    (void)pthread_mutex_unlock(&lock);
}

void mp__untrack_and_remove(mp__tracked *t)
{
    (void)pthread_mutex_lock(&lock);
    if (t->owner == mp__hooks_pid()) {
        (void)mp__shm_remove(t->name, &t->identity); /* somebody else may have done it */
        take_out(t);
    }
    (void)pthread_mutex_unlock(&lock);
}

/* ---- the tracker ---- */

/* What the owner has written is not trusted: it may have died of a wild pointer. */
static void remove_names(int fd)
{
    mp__block there = MP__BLOCK_NONE;
    const slot *slots;

    if (mp__block_view(&fd, sizeof(slot), true, &there) < 0)
        return;
    slots = there.memory;
    for (size_t i = 0; i < there.size / sizeof(slot); i++) {
        slot one;

        memcpy(&one, &slots[i], sizeof(one));
        one.name[MP__SHM_NAME_MAX] = '\0';
        if (one.used)
            (void)mp__shm_remove(one.name, &one.identity);
    }
}

/* It was started aside, where no signal for its owner reaches it. It holds on to nothing else. */
static void step_aside(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t pid = fork();

    if (pid != 0)
        _exit(pid < 0);
    (void)dup2(null, STDOUT_FILENO); /* who reads the output of its owner waits for its end */
    (void)dup2(null, STDERR_FILENO);
    if (chdir("/") < 0)
        _exit(1);
}

static _Noreturn void serve(int fd)
{
    int fds[MP__FDS_MAX];
    size_t count = 0;
    bool lost = false;
    char byte;

    step_aside();
    if (mp__fd_receive(fd, &byte, 1, fds, &count, &lost) != 1 || count != 1)
        _exit(1);
    if (write(fd, "", 1) == 1)
        while (mp__fd_read(fd, &byte, 1) > 0)
            ; /* nothing is said any more: this waits for the end */
    remove_names(fds[0]);
    _exit(0);
}

__attribute__((constructor(101))) static void begin(void)
{
    if (getenv(VARIABLE))
        serve(MP__LAUNCH_FD);
}
