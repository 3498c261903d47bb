/* SPDX-License-Identifier: MIT
 *
 * hooks.c - what happens at fork and at exit.
 */
#include "hooks_internal.h"

#include <assert.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"

#include <multiprocessing/process.h>

#define FORK_HOOKS_MAX 16
#define LOOKS 64 /* whether somebody receives, before giving way to who does */

struct exit_hook {
    struct exit_hook *next;
    void (*function)(void *argument);
    void *argument;
    int priority;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t forks = PTHREAD_MUTEX_INITIALIZER; /* see mp__hooks_hold_forks */
static _Thread_local unsigned holds;                      /* of it, by this thread */
static atomic_uint receivers;                             /* threads that receive */
static _Thread_local unsigned receiving;                  /* whether this one does, and how deep */
static atomic_bool fork_waits;                            /* for them */
static mp__making *makings;                               /* guarded by it */
static void (*fork_hooks[FORK_HOOKS_MAX])(bool ours);
static size_t fork_hook_count;
static struct exit_hook *exit_hooks; /* highest priority first, then newest */
static _Thread_local bool forking;   /* this thread is in mp__hooks_fork */
static pid_t self;

void mp__lock(void)
{
    int e = pthread_mutex_lock(&lock);

    assert(e == 0);
    (void)e;
}

void mp__unlock(void)
{
    (void)pthread_mutex_unlock(&lock);
}

static void forget_exit_hooks(void)
{
    while (exit_hooks) {
        struct exit_hook *next = exit_hooks->next;

        free(exit_hooks);
        exit_hooks = next;
    }
}

/* This thread's own are the child's. */
static void drop_makings(void)
{
    for (const mp__making *m = makings; m; m = m->next)
        for (size_t i = 0; i < m->count && m->thread != &holds; i++)
            mp__fd_close(m->fds[i]);
    makings = NULL;
}

static void in_child(void)
{
    bool ours = forking;

    forking = false;
    self = getpid();
    mp__fd_after_fork();
    forget_exit_hooks();
    drop_makings();
    for (size_t i = 0; i < fork_hook_count; i++)
        fork_hooks[i](ours);
    mp__unlock();
    atomic_store(&receivers, receiving);
    atomic_store(&fork_waits, false);
    holds = 1; /* what the parent held is not the child's */
    mp__hooks_let_forks();
}

/* A handler of a signal may fork while this very thread receives: that is not waited for. */
static bool others_receive(void)
{
    return atomic_load(&receivers) > receiving;
}

/* Nobody begins to receive meanwhile; but who is at it may need a hold of forks to get done. */
static void hold_when_nobody_receives(void)
{
    mp__hooks_hold_forks();
    atomic_store(&fork_waits, true);
    for (int looks = 1; others_receive(); looks++) {
        bool give_way = looks % LOOKS == 0;

        if (give_way)
            mp__hooks_let_forks();
        (void)sched_yield(); /* cannot fail */
        if (give_way)
            mp__hooks_hold_forks();
        atomic_store(&fork_waits, true); /* another one that forked meanwhile is done waiting */
    }
}

static void before(void)
{
    hold_when_nobody_receives();
    mp__lock();
}

static void in_parent(void)
{
    mp__unlock();
    atomic_store(&fork_waits, false);
    mp__hooks_let_forks();
}

static void install(void)
{
    self = getpid();
    (void)pthread_atfork(before, in_parent, in_child); /* ENOMEM: only raw forks suffer */
}

static void install_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, install);
}

void mp__hooks_after_fork(void (*function)(bool ours))
{
    install_once();
    mp__lock();
    for (size_t i = 0; i < fork_hook_count; i++)
        if (fork_hooks[i] == function)
            goto out;
    assert(fork_hook_count < FORK_HOOKS_MAX);
    fork_hooks[fork_hook_count++] = function;
out:
    mp__unlock();
}

void mp__hooks_hold_forks(void)
{
    install_once();
    if (holds++ == 0)
        (void)pthread_mutex_lock(&forks);
}

void mp__hooks_let_forks(void)
{
    if (--holds == 0)
        (void)pthread_mutex_unlock(&forks);
}

/* Who is in already, or holds forks, keeps them from going on: that must not wait for them. */
void mp__hooks_begin_receiving(void)
{
    receiving++;
    (void)atomic_fetch_add(&receivers, 1);
    if (receiving > 1 || holds || !atomic_load(&fork_waits))
        return;
    (void)atomic_fetch_sub(&receivers, 1);
    mp__hooks_hold_forks(); /* until it is done, or gives way */
    (void)atomic_fetch_add(&receivers, 1);
    mp__hooks_let_forks();
}

void mp__hooks_end_receiving(void)
{
    (void)atomic_fetch_sub(&receivers, 1);
    receiving--;
}

void mp__hooks_begin_making(mp__making *making, const int *fds, size_t count)
{
    mp__hooks_hold_forks();
    *making = (mp__making){ fds, count, &holds, makings };
    makings = making;
}

void mp__hooks_end_making(mp__making *making)
{
    mp__making **at = &makings;

    while (*at != making)
        at = &(*at)->next;
    *at = making->next;
    mp__hooks_let_forks();
}

static pid_t fork_with_nothing_held(void)
{
    unsigned held = holds;
    pid_t pid;

    if (held) {
        holds = 0;
        (void)pthread_mutex_unlock(&forks);
    }
    pid = fork();
    if (pid != 0 && held) {
        (void)pthread_mutex_lock(&forks);
        holds = held;
    }
    return pid;
}

pid_t mp__hooks_fork(void)
{
    pid_t pid;

    forking = true;
    pid = fork_with_nothing_held();
    forking = false;
    return pid;
}

pid_t mp__hooks_fork_to_exec(void)
{
    return fork_with_nothing_held();
}

pid_t mp__hooks_pid(void)
{
    install_once();
    return self;
}

int mp_atexit(void (*function)(void *argument), void *argument, int priority)
{
    struct exit_hook **at = &exit_hooks;
    struct exit_hook *hook;

    if (!function)
        return mp__fail(MP_EINVAL, "mp_atexit needs a function");
    hook = malloc(sizeof(*hook));
    if (!hook)
        return mp__fail(MP_ENOMEM, "out of memory for mp_atexit");
    *hook = (struct exit_hook){ NULL, function, argument, priority };
    mp__lock();
    while (*at && (*at)->priority > priority)
        at = &(*at)->next;
    hook->next = *at;
    *at = hook;
    mp__unlock();
    return 0;
}

/* The next hook of at least this priority, taken off the list: hooks may add hooks. */
static struct exit_hook *take_hook(int priority)
{
    struct exit_hook *hook;

    mp__lock();
    hook = exit_hooks && exit_hooks->priority >= priority ? exit_hooks : NULL;
    if (hook)
        exit_hooks = hook->next;
    mp__unlock();
    return hook;
}

void mp__hooks_run_exit(int priority)
{
    struct exit_hook *hook;

    while ((hook = take_hook(priority))) {
        hook->function(hook->argument);
        free(hook);
    }
}
