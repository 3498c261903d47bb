/* SPDX-License-Identifier: MIT
 *
 * process.c - process objects: what a program sees of its children, of itself
 * and of its parent. How a child is made is popen_*'s business.
 */
#include "process_internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <pthread.h>
#include <unistd.h>

#include "clock_internal.h"
#include "context_internal.h"
#include "cpu_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "log_internal.h"
#include "pid_internal.h"
#include "popen_internal.h"
#include "socket_internal.h"

#define SWEEP_LEAST 32 /* children before finished ones are looked for at start */

mp_process *mp__children;
static size_t started_count, sweep_at = SWEEP_LEAST;
static _Thread_local mp_process *being_started;

/* ---- fork and the lists ---- */

/*
 * A copy of this process has no children, and holds nothing of theirs. Their objects
 * are of no use here and not written to: that would cost a copy of each page.
 */
static void after_fork(bool ours)
{
    (void)ours;
    mp__popen_close(&mp__parent.popen);
    for (const mp_process *p = mp__children; p; p = p->next) {
        mp__fd_close(p->popen.descriptor);
        mp__fd_close(p->popen.life);
        mp__fd_close(p->popen.lifeline);
        if (p != being_started)
            mp__fd_close_all(p->parcel.fds, p->parcel.count);
    }
    mp__children = NULL;
    started_count = 0;
    sweep_at = SWEEP_LEAST;
}

static void enlist(mp_process *p)
{
    mp__lock();
    p->next = mp__children;
    if (mp__children)
        mp__children->previous = p;
    mp__children = p;
    mp__unlock();
}

/* With mp__lock held. */
static void delist(mp_process *p)
{
    if (p->previous)
        p->previous->next = p->next;
    else if (mp__children == p)
        mp__children = p->next;
    if (p->next)
        p->next->previous = p->previous;
    p->previous = p->next = NULL;
}

static void release(mp_process *p)
{
    mp__popen_close(&p->popen);
    mp__parcel_close(&p->parcel);
    mp__buffer_done(&p->arguments);
    mp__buffer_done(&p->own_authkey);
    free(p->own_path);
    free(p->own_name);
    free(p);
}

/* Reaps what has ended, and what nobody wants to know of any more. With mp__lock held. */
static void sweep(void)
{
    mp_process *next;

    started_count = 0;
    for (mp_process *p = mp__children; p; p = next) {
        next = p->next;
        if (!p->started)
            continue;
        if (!mp__popen_poll(&p->popen)) {
            started_count++;
        } else if (p->freed) {
            delist(p);
            release(p);
        }
    }
    sweep_at = 2 * started_count > SWEEP_LEAST ? 2 * started_count : SWEEP_LEAST;
}

/* ---- describing ---- */

/* The creator's path and the number of the child: (1, 2). */
static int make_path(mp_process *p)
{
    size_t above = mp__current.path_length;
    uint32_t *path = malloc((above + 1) * sizeof(*path));

    if (!path)
        return mp__fail(MP_ENOMEM, "out of memory for a process");
    if (above)
        memcpy(path, mp__current.path, above * sizeof(*path));
    mp__lock();
    path[above] = mp__next_child();
    mp__unlock();
    p->path = p->own_path = path;
    p->path_length = above + 1;
    return 0;
}

static int make_name(mp_process *p, const char *name)
{
    char text[256];
    size_t n;

    if (!name) {
        n = (size_t)snprintf(text, sizeof(text), "%sProcess", mp__context_prefix(p->context));
        for (size_t i = 0; i < p->path_length && n < sizeof(text) - 12; i++)
            n += (size_t)snprintf(
                text + n, sizeof(text) - n, "%c%lu", i ? ':' : '-', (unsigned long)p->path[i]);
        name = text;
    }
    p->name = p->own_name = strdup(name);
    return p->name ? 0 : mp__fail(MP_ENOMEM, "out of memory for a name");
}

static int pack_arguments(mp_process *p, msgpack_object arguments)
{
    int r;

    if (arguments.type == MSGPACK_OBJECT_NIL)
        arguments = mp_list();
    if (arguments.type != MSGPACK_OBJECT_ARRAY)
        return mp__fail(MP_ETYPE, ".args must be a list: .args = MP_ARGS(...)");
    r = mp__value_pack(arguments, &p->arguments, &p->parcel);
    if (r == 0)
        r = mp__buffer_reserve(&p->arguments, p->arguments.size + 1);
    if (r == 0)
        r = mp__parcel_own(&p->parcel);
    if (r < 0)
        p->parcel.count = 0; /* what is in it is not ours */
    return r;
}

mp_process *mp_process_create(const mp_process_options *options)
{
    mp_process *p = calloc(1, sizeof(*p));
    const void *key = NULL;
    size_t key_size = 0;
    int r;

    if (!p) {
        (void)mp__fail(MP_ENOMEM, "out of memory for a process");
        return NULL;
    }
    p->popen = MP__POPEN_NONE;
    p->target = options->target;
    p->context = options->context;
    p->daemon = options->daemon ? options->daemon > 0 : mp__current.daemon;
    p->creator = mp__hooks_pid();
    mp__hooks_hold_forks(); /* until its descriptors are known as its own */
    r = pack_arguments(p, options->args);
    if (r == 0)
        r = make_path(p);
    if (r == 0)
        r = make_name(p, options->name);
    if (r == 0)
        r = mp__process_get_authkey(&mp__current, &key, &key_size);
    if (r == 0)
        r = mp_process_set_authkey(p, key, key_size);
    if (r == 0)
        enlist(p);
    else
        release(p);
    mp__hooks_let_forks();
    return r == 0 ? p : NULL;
}

/* ---- starting ---- */

static int check_started(const mp_process *p)
{
    int r = mp__process_check_ours(p);

    if (r == 0 && p->role == MP__CHILD && !p->started)
        r = mp__fail(MP_ENOTSTARTED, "process %s was not started", p->name);
    return r;
}

/* In one go: a copy of this process that knows them closes them, too, and nothing else. */
static void close_parcel(mp_process *p)
{
    mp__hooks_hold_forks();
    mp__parcel_close(&p->parcel);
    mp__hooks_let_forks();
}

/* What start gave away is not kept. */
static void drop_arguments(mp_process *p)
{
    close_parcel(p);
    mp__buffer_done(&p->arguments);
    p->target = NULL;
}

static int launch(mp_process *p, enum mp__method method, mp__nursery *nursery)
{
    static int (*const popen[MP__METHODS])(const mp__job *, mp__popen *) = {
        [MP__FORK] = mp__popen_fork,
        [MP__SPAWN] = mp__popen_spawn,
        [MP__FORKSERVER] = mp__popen_forkserver,
    };
    mp__job job = {
        .identity = { p->name, mp_process_name(&mp__current), p->path, p->path_length,
            p->authkey.data, p->authkey.size, p->daemon, mp__depth + 1, method, mp__hooks_pid() },
        .target = p->target,
        .arguments = &p->arguments,
        .parcel = &p->parcel,
        .run = mp__child_run,
    };
    int r;

    mp__bootstrap_flush();
    being_started = p;
    r = nursery && method == MP__FORK ? mp__popen_nursery(nursery, &job, &p->popen)
                                      : popen[method](&job, &p->popen);
    being_started = NULL;
    return r;
}

/* One thread starts it, once. */
static int claim_start(mp_process *p)
{
    bool mine;

    mp__lock();
    mine = !p->started && !p->starting;
    p->starting |= mine;
    if (mine && ++started_count > sweep_at)
        sweep();
    mp__unlock();
    if (!mine)
        return mp__fail(
            MP_ESTARTED, "process %s was started before; a process starts once", p->name);
    return 0;
}

int mp_process_start(mp_process *p)
{
    return mp__process_start_from(p, NULL);
}

int mp__process_start_from(mp_process *p, mp__nursery *nursery)
{
    enum mp__method method = MP__FORK;
    int r = mp__process_check_ours(p);

    if (r == 0 && p->role != MP__CHILD)
        r = mp__fail(MP_ESTARTED, "this process runs already");
    if (r == 0)
        r = mp__context_method(p->context, &method);
    if (r == 0)
        r = mp__guard_start(method, mp__depth + 1);
    if (r == 0)
        r = claim_start(p);
    if (r < 0)
        return r;
    r = launch(p, method, nursery);
    if (r == 0)
        drop_arguments(p);
    mp__lock();
    p->starting = false;
    p->started = r == 0;
    mp__unlock();
    if (r < 0)
        return r;
    mp_log(MP_LOG_DEBUG, "started %s, pid %ld", p->name, (long)p->popen.pid);
    return 0;
}

/* ---- the parent ---- */

/* A descriptor of the parent, if it is still the one that started us; else readable at once. */
static int parent_sentinel(void)
{
    int fds[2] = { -1, -1 };

    mp__lock();
    if (mp__popen_sentinel(&mp__parent.popen) < 0 && getppid() == mp__parent.popen.pid) {
        mp__parent.popen.descriptor = mp__pid_open(mp__parent.popen.pid);
        if (getppid() !=
            mp__parent.popen.pid) /* it ended meanwhile, and the pid may be another's */
            mp__fd_drop(&mp__parent.popen.descriptor);
    }
    if (mp__popen_sentinel(&mp__parent.popen) < 0 && getppid() != mp__parent.popen.pid &&
        mp__socket_pipe(fds) == 0) {
        mp__parent.popen.life = fds[0]; /* nobody writes: it is at its end */
        mp__fd_close(fds[1]);
    }
    mp__unlock();
    return mp__popen_sentinel(&mp__parent.popen);
}

static int join_parent(double timeout)
{
    int fd = parent_sentinel();
    int r = fd < 0 ? fd : mp__fd_wait(fd, POLLIN, mp__clock_deadline(timeout));

    return r > 0 ? 0 : r < 0 ? r : mp__fail(MP_ETIMEDOUT, "the parent process still runs");
}

/* ---- looking and waiting ---- */

static bool is_known_to_have_ended(const mp_process *p)
{
    bool ended;

    mp__lock();
    ended = p->popen.ended;
    mp__unlock();
    return ended;
}

int mp_process_join(mp_process *p, double timeout)
{
    int r = check_started(p);

    if (r < 0)
        return r;
    if (p->role == MP__CURRENT)
        return mp__fail(MP_EINVAL, "a process cannot join itself");
    if (p->role == MP__PARENT)
        return join_parent(timeout);
    if (!is_known_to_have_ended(p)) {
        r = mp__popen_wait(&p->popen, mp__clock_deadline(timeout));
        if (r < 0)
            return r;
    }
    if (p->popen.exitcode == MP_EXITCODE_LOST)
        return mp__fail(MP_ECHILD,
            "process %s has ended, but other code in this program reaped it "
            "(or ignores SIGCHLD): its exit code is lost",
            p->name);
    return 0;
}

static bool has_ended(mp_process *p)
{
    bool ended;

    mp__lock();
    ended = mp__popen_poll(&p->popen);
    mp__unlock();
    return ended;
}

bool mp_process_is_alive(mp_process *p)
{
    if (mp__process_check_ours(p) < 0)
        return false;
    if (p->role == MP__CURRENT)
        return true;
    if (p->role == MP__PARENT)
        return join_parent(0) == MP_ETIMEDOUT;
    return p->started && !has_ended(p);
}

int mp_process_exitcode(mp_process *p)
{
    if (mp__process_check_ours(p) < 0 || p->role != MP__CHILD || !p->started || !has_ended(p))
        return MP_EXITCODE_NONE;
    return p->popen.exitcode;
}

int mp_process_sentinel(const mp_process *p)
{
    int r = check_started(p);

    if (r < 0)
        return r;
    if (p->role == MP__CURRENT)
        return mp__fail(MP_EINVAL, "a process cannot wait for its own end");
    return p->role == MP__PARENT ? parent_sentinel() : mp__popen_sentinel(&p->popen);
}

/* ---- signals ---- */

/* A daemon has itself killed when its lifeline ends: also for who may not kill it any more. */
int mp__process_signal(mp_process *p, int sig)
{
    int r = mp__pid_signal(p->popen.pid, p->popen.descriptor, sig);

    if (r != MP_EPERM || sig != SIGKILL || !p->daemon || p->popen.lifeline < 0)
        return r;
    mp__fd_drop(&p->popen.lifeline);
    return 0;
}

static int signal_child(mp_process *p, int sig)
{
    int r = check_started(p);

    if (r < 0)
        return r;
    if (p->role == MP__CURRENT)
        return raise(sig) == 0 ? 0 : mp__fail_errno("cannot send a signal");
    if (p->role == MP__PARENT)
        return mp__fail(MP_ECREATOR, "a process does not end its parent");
    mp__lock();
    r = mp__popen_poll(&p->popen) ? 0 : mp__process_signal(p, sig);
    mp__unlock();
    return r;
}

int mp_process_terminate(mp_process *p)
{
    return signal_child(p, SIGTERM);
}

int mp_process_kill(mp_process *p)
{
    return signal_child(p, SIGKILL);
}

int mp_process_interrupt(mp_process *p)
{
    return signal_child(p, SIGINT);
}

/* ---- ending ---- */

/* One thread closes it, once. What a join waits for stays open until that returns. */
static int claim_close(mp_process *p, bool *mine)
{
    bool runs;

    mp__lock();
    runs = p->starting || (p->started && !mp__popen_poll(&p->popen));
    *mine = !runs && !p->closed;
    if (*mine) {
        p->closed = p->popen.closed = true;
        if (!p->popen.waiters)
            mp__popen_close(&p->popen);
    }
    mp__unlock();
    return runs ? mp__fail(MP_ERUNNING, "process %s still runs; join it or end it first", p->name)
                : 0;
}

int mp_process_close(mp_process *p)
{
    bool mine = false;
    int r = 0;

    if (!p || p->closed)
        return 0;
    if (p->role != MP__CHILD)
        return mp__fail(MP_ERUNNING, "process %s is running", p->name);
    if (p->creator == mp__hooks_pid())
        r = claim_close(p, &mine);
    else
        p->closed = true;
    if (mine)
        drop_arguments(p);
    return r;
}

void mp_process_free(mp_process *p)
{
    bool forget;

    if (!p || p->role != MP__CHILD || p->creator != mp__hooks_pid())
        return; /* a copy: what this process was told may lie in it */
    mp__lock();
    forget = !p->started || p->closed || mp__popen_poll(&p->popen);
    p->freed = !forget; /* reaped by a later start, or at exit */
    mp__unlock();
    if (!forget)
        return;
    close_parcel(p);
    mp__lock(); /* no copy is made meanwhile: what it holds is known as long as it is open */
    delist(p);
    mp__popen_close(&p->popen);
    mp__unlock();
    release(p);
}

size_t mp_active_children(mp_process **out, size_t capacity)
{
    size_t count = 0;

    mp__lock();
    sweep();
    for (mp_process *p = mp__children; p; p = p->next) {
        if (!p->started || p->freed || p->popen.ended)
            continue;
        if (count < capacity)
            out[count] = p;
        count++;
    }
    mp__unlock();
    return count;
}

__attribute__((constructor(102))) static void begin(void)
{
    mp__hooks_after_fork(after_fork);
}
