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

#define GRACE 1.0      /* seconds between SIGTERM and SIGKILL for daemons at exit */
#define SWEEP_LEAST 32 /* children before finished ones are looked for at start */

enum role { CHILD, CURRENT, PARENT };

struct mp_process {
    enum role role;
    char *name;
    mp_function target;
    mp__buffer arguments;
    mp__parcel parcel;
    const mp_context *context;
    mp__buffer authkey;
    uint32_t *path;
    size_t path_length;
    bool daemon, started, closed, freed;
    pid_t creator;
    mp__popen popen;
    mp_process *previous, *next; /* in the list of this process's children, under mp__lock */
};

static mp_process current = { .role = CURRENT, .popen = { .descriptor = -1, .life = -1, .lifeline = -1 } };
static mp_process parent = { .role = PARENT, .popen = { .descriptor = -1, .life = -1, .lifeline = -1 } };
static bool has_parent;
static unsigned depth;
static mp_process *children; /* all objects, started or not */
static size_t started_count, sweep_at = SWEEP_LEAST;
static uint32_t counter; /* of children described, for their names */
static _Thread_local mp_process *being_started;

/* ---- fork and the lists ---- */

/* A copy of this process has no children, and holds nothing of theirs. */
static void after_fork(bool ours)
{
    (void)ours;
    mp__popen_close(&parent.popen);
    for (mp_process *p = children; p; p = p->next) {
        mp__popen_close(&p->popen);
        if (p != being_started)
            mp__parcel_close(&p->parcel);
    }
    children = NULL;
    started_count = 0;
    sweep_at = SWEEP_LEAST;
}

static void enlist(mp_process *p)
{
    mp__lock();
    p->next = children;
    if (children)
        children->previous = p;
    children = p;
    mp__unlock();
}

/* With mp__lock held. */
static void delist(mp_process *p)
{
    if (p->previous)
        p->previous->next = p->next;
    else if (children == p)
        children = p->next;
    if (p->next)
        p->next->previous = p->previous;
    p->previous = p->next = NULL;
}

static void release(mp_process *p)
{
    mp__popen_close(&p->popen);
    mp__parcel_close(&p->parcel);
    mp__buffer_done(&p->arguments);
    mp__buffer_done(&p->authkey);
    free(p->path);
    free(p->name);
    free(p);
}

/* Reaps what has ended, and what nobody wants to know of any more. With mp__lock held. */
static void sweep(void)
{
    mp_process *next;

    started_count = 0;
    for (mp_process *p = children; p; p = next) {
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

static int get_authkey(const mp_process *p, const void **key, size_t *size)
{
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    char random[32];
    int r = 0;

    if (p == &current) {
        (void)pthread_mutex_lock(&once);
        if (!current.authkey.size) {
            if (getentropy(random, sizeof(random)) < 0)
                r = mp__fail_errno("no random bytes for the authkey");
            else
                r = mp__buffer_append(&current.authkey, random, sizeof(random));
        }
        (void)pthread_mutex_unlock(&once);
    }
    if (r == 0) {
        *key = p->authkey.data;
        *size = p->authkey.size;
    }
    return r;
}

/* The creator's path and the number of the child: (1, 2). */
static int make_path(mp_process *p)
{
    p->path = malloc((current.path_length + 1) * sizeof(*p->path));
    if (!p->path)
        return mp__fail(MP_ENOMEM, "out of memory for a process");
    if (current.path_length)
        memcpy(p->path, current.path, current.path_length * sizeof(*p->path));
    p->path_length = current.path_length + 1;
    mp__lock();
    p->path[current.path_length] = ++counter;
    mp__unlock();
    return 0;
}

static int make_name(mp_process *p, const char *name)
{
    char text[256];
    size_t n;

    if (!name) {
        n = (size_t)snprintf(text, sizeof(text), "%sProcess", mp__context_prefix(p->context));
        for (size_t i = 0; i < p->path_length && n < sizeof(text) - 12; i++)
            n += (size_t)snprintf(text + n, sizeof(text) - n, "%c%lu", i ? ':' : '-',
                (unsigned long)p->path[i]);
        name = text;
    }
    p->name = strdup(name);
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
    p->daemon = options->daemon ? options->daemon > 0 : current.daemon;
    p->creator = mp__hooks_pid();
    r = pack_arguments(p, options->args);
    if (r == 0)
        r = make_path(p);
    if (r == 0)
        r = make_name(p, options->name);
    if (r == 0)
        r = get_authkey(&current, &key, &key_size);
    if (r == 0)
        r = mp__buffer_append(&p->authkey, key, key_size);
    if (r < 0) {
        release(p);
        return NULL;
    }
    enlist(p);
    return p;
}

/* ---- starting ---- */

static int check_open(const mp_process *p)
{
    if (!p)
        return mp__fail(MP_EINVAL, "no process: NULL");
    if (p->closed)
        return mp__fail(MP_ECLOSED, "process %s is closed", p->name);
    return 0;
}

static int check_ours(const mp_process *p)
{
    int r = check_open(p);

    if (r == 0 && p->role == CHILD && p->creator != mp__hooks_pid())
        r = mp__fail(MP_ECREATOR, "process %s was created by another process", p->name);
    return r;
}

static int check_started(const mp_process *p)
{
    int r = check_ours(p);

    if (r == 0 && p->role == CHILD && !p->started)
        r = mp__fail(MP_ENOTSTARTED, "process %s was not started", p->name);
    return r;
}

/* What start gave away is not kept. */
static void drop_arguments(mp_process *p)
{
    mp__parcel_close(&p->parcel);
    mp__buffer_done(&p->arguments);
    p->target = NULL;
}

static int launch(mp_process *p, enum mp__method method)
{
    static int (*const popen[MP__METHODS])(const mp__job *, mp__popen *) = {
        [MP__FORK] = mp__popen_fork,
        [MP__SPAWN] = mp__popen_spawn,
        [MP__FORKSERVER] = mp__popen_forkserver,
    };
    mp__job job = {
        .identity = { p->name, mp_process_name(&current), p->path, p->path_length,
            p->authkey.data, p->authkey.size, p->daemon, depth + 1, method, mp__hooks_pid() },
        .target = p->target,
        .arguments = &p->arguments,
        .parcel = &p->parcel,
        .run = mp__child_run,
    };
    int r;

    mp__bootstrap_flush();
    being_started = p;
    r = popen[method](&job, &p->popen);
    being_started = NULL;
    return r;
}

int mp_process_start(mp_process *p)
{
    enum mp__method method;
    int r = check_ours(p);

    if (r == 0 && p->role != CHILD)
        r = mp__fail(MP_ESTARTED, "this process runs already");
    if (r == 0 && p->started)
        r = mp__fail(MP_ESTARTED, "process %s was started before; a process starts once", p->name);
    if (r == 0)
        r = mp__context_method(p->context, &method);
    if (r == 0)
        r = mp__guard_start(method, depth + 1);
    if (r < 0)
        return r;
    mp__lock();
    if (++started_count > sweep_at)
        sweep();
    mp__unlock();
    r = launch(p, method);
    if (r < 0)
        return r;
    mp__lock();
    p->started = true;
    mp__unlock();
    drop_arguments(p);
    mp_log(MP_LOG_DEBUG, "started %s, pid %ld", p->name, (long)p->popen.pid);
    return 0;
}

/* ---- the parent ---- */

/* A descriptor of the parent, if it is still the one that started us; else readable at once. */
static int parent_sentinel(void)
{
    int fds[2] = { -1, -1 };

    mp__lock();
    if (mp__popen_sentinel(&parent.popen) < 0 && getppid() == parent.popen.pid) {
        parent.popen.descriptor = mp__pid_open(parent.popen.pid);
        if (getppid() != parent.popen.pid) /* it ended meanwhile, and the pid may be another's */
            mp__fd_drop(&parent.popen.descriptor);
    }
    if (mp__popen_sentinel(&parent.popen) < 0 && getppid() != parent.popen.pid &&
        mp__socket_pipe(fds) == 0) {
        parent.popen.life = fds[0]; /* nobody writes: it is at its end */
        mp__fd_close(fds[1]);
    }
    mp__unlock();
    return mp__popen_sentinel(&parent.popen);
}

static int join_parent(double timeout)
{
    int fd = parent_sentinel();
    int r = fd < 0 ? fd : mp__fd_wait(fd, POLLIN, mp__clock_deadline(timeout));

    return r > 0 ? 0 : r < 0 ? r : mp__fail(MP_ETIMEDOUT, "the parent process still runs");
}

/* ---- looking and waiting ---- */

int mp_process_join(mp_process *p, double timeout)
{
    int r = check_started(p);

    if (r < 0)
        return r;
    if (p->role == CURRENT)
        return mp__fail(MP_EINVAL, "a process cannot join itself");
    if (p->role == PARENT)
        return join_parent(timeout);
    if (!p->popen.ended) {
        r = mp__popen_wait(&p->popen, mp__clock_deadline(timeout));
        if (r < 0)
            return r;
    }
    if (p->popen.exitcode == MP_EXITCODE_LOST)
        return mp__fail(MP_ECHILD, "process %s has ended, but other code in this program reaped it "
                                   "(or ignores SIGCHLD): its exit code is lost", p->name);
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
    if (check_ours(p) < 0)
        return false;
    if (p->role == CURRENT)
        return true;
    if (p->role == PARENT)
        return join_parent(0) == MP_ETIMEDOUT;
    return p->started && !has_ended(p);
}

int mp_process_exitcode(mp_process *p)
{
    if (check_ours(p) < 0 || p->role != CHILD || !p->started || !has_ended(p))
        return MP_EXITCODE_NONE;
    return p->popen.exitcode;
}

int mp_process_sentinel(const mp_process *p)
{
    int r = check_started(p);

    if (r < 0)
        return r;
    if (p->role == CURRENT)
        return mp__fail(MP_EINVAL, "a process cannot wait for its own end");
    return p->role == PARENT ? parent_sentinel() : mp__popen_sentinel(&p->popen);
}

mp_wait_item mp__wait_process(const struct mp_process *process)
{
    return (mp_wait_item){ .process = process, .fd = mp_process_sentinel(process) };
}

/* ---- signals ---- */

static int signal_child(mp_process *p, int sig)
{
    int r = check_started(p);

    if (r < 0)
        return r;
    if (p->role == CURRENT)
        return raise(sig) == 0 ? 0 : mp__fail_errno("cannot send a signal");
    if (p->role == PARENT)
        return mp__fail(MP_ECREATOR, "a process does not end its parent");
    mp__lock();
    r = mp__popen_poll(&p->popen) ? 0 : mp__pid_signal(p->popen.pid, p->popen.descriptor, sig);
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

int mp_process_close(mp_process *p)
{
    if (!p || p->closed)
        return 0;
    if (p->role != CHILD)
        return mp__fail(MP_ERUNNING, "process %s is running", p->name);
    if (p->creator == mp__hooks_pid() && p->started && !has_ended(p))
        return mp__fail(MP_ERUNNING, "process %s still runs; join it or end it first", p->name);
    mp__popen_close(&p->popen);
    drop_arguments(p);
    p->closed = true;
    return 0;
}

void mp_process_free(mp_process *p)
{
    bool forget;

    if (!p || p->role != CHILD)
        return;
    mp__lock();
    forget = p->creator != mp__hooks_pid() || !p->started || p->closed || mp__popen_poll(&p->popen);
    if (forget)
        delist(p);
    else
        p->freed = true; /* reaped by a later start, or at exit */
    mp__unlock();
    if (forget)
        release(p);
}

size_t mp_active_children(mp_process **out, size_t capacity)
{
    size_t count = 0;

    mp__lock();
    sweep();
    for (mp_process *p = children; p; p = p->next) {
        if (!p->started || p->freed || p->popen.ended)
            continue;
        if (count < capacity)
            out[count] = p;
        count++;
    }
    mp__unlock();
    return count;
}

/* ---- attributes ---- */

mp_process *mp_current_process(void)
{
    return &current;
}

mp_process *mp_parent_process(void)
{
    return has_parent ? &parent : NULL;
}

pid_t mp_process_pid(const mp_process *p)
{
    if (check_open(p) < 0)
        return 0;
    return p->role == CURRENT ? mp__hooks_pid() : p->popen.pid;
}

pid_t mp_process_ident(const mp_process *p)
{
    return mp_process_pid(p);
}

const char *mp_process_name(const mp_process *p)
{
    if (!p)
        return NULL;
    return p->name ? p->name : "MainProcess";
}

int mp_process_set_name(mp_process *p, const char *name)
{
    char *copy = p && name ? strdup(name) : NULL;

    if (!p || !name)
        return mp__fail(MP_EINVAL, "a process needs a name");
    if (!copy)
        return mp__fail(MP_ENOMEM, "out of memory for a name");
    free(p->name);
    p->name = copy;
    if (p == &current)
        mp__log_set_name(copy);
    return 0;
}

bool mp_process_daemon(const mp_process *p)
{
    return p && p->daemon;
}

int mp_process_set_daemon(mp_process *p, bool daemon)
{
    int r = check_ours(p);

    if (r == 0 && (p->role != CHILD || p->started))
        r = mp__fail(MP_ESTARTED, "whether a process is a daemon is said before it starts");
    if (r == 0)
        p->daemon = daemon;
    return r;
}

int mp_process_authkey(const mp_process *p, const void **key, size_t *size)
{
    int r = check_open(p);

    return r < 0 ? r : get_authkey(p, key, size);
}

int mp_process_set_authkey(mp_process *p, const void *key, size_t size)
{
    mp__buffer copy = { 0 };
    int r = check_ours(p);

    if (r == 0 && (!key || !size))
        r = mp__fail(MP_EINVAL, "an authkey has at least one byte");
    if (r == 0)
        r = mp__buffer_append(&copy, key, size);
    if (r < 0)
        return r;
    mp__buffer_done(&p->authkey);
    p->authkey = copy;
    return 0;
}

int mp_cpu_count(void)
{
    const char *text = getenv("MP_CPU_COUNT");
    long wanted = text ? strtol(text, NULL, 10) : 0;

    return wanted > 0 && wanted <= INT_MAX ? (int)wanted : mp__cpu_count();
}

/* ---- becoming a child, and the end ---- */

static void become_parent(const mp__child *child)
{
    char *name = strdup(child->identity.parent_name);

    has_parent = true;
    free(parent.name);
    parent.name = name;
    parent.popen = MP__POPEN_NONE;
    parent.popen.pid = child->identity.parent;
    parent.popen.descriptor = child->parent_fd;
    if (!mp__pid_has_descriptors())
        parent.popen.life = child->lifeline;
    if (!name)
        mp__bootstrap_fail();
}

void mp__process_become(const mp__child *child)
{
    const mp__identity *id = &child->identity;
    char *name = strdup(id->name);
    uint32_t *path = malloc(id->path_length * sizeof(*path));
    mp__buffer authkey = { 0 };

    become_parent(child);
    if (!name || !path || mp__buffer_append(&authkey, id->authkey, id->authkey_size) < 0)
        mp__bootstrap_fail();
    memcpy(path, id->path, id->path_length * sizeof(*path));
    free(current.name);
    free(current.path);
    mp__buffer_done(&current.authkey);
    current.name = name;
    current.path = path;
    current.path_length = id->path_length;
    current.authkey = authkey;
    current.daemon = id->daemon;
    depth = id->depth;
    counter = 0;
    mp__context_settle(id->method);
}

/* A child that still runs. */
static mp_process *find_running(bool daemon)
{
    mp_process *p;

    mp__lock();
    for (p = children; p; p = p->next)
        if (p->started && p->daemon == daemon && !mp__popen_poll(&p->popen))
            break;
    mp__unlock();
    return p;
}

static void signal_daemons(int sig)
{
    mp__lock();
    for (mp_process *p = children; p; p = p->next)
        if (p->started && p->daemon && !mp__popen_poll(&p->popen))
            (void)mp__pid_signal(p->popen.pid, p->popen.descriptor, sig);
    mp__unlock();
}

/* Daemons end within the grace, or are killed: no exit hangs on them. */
static void end_daemons(void)
{
    int64_t deadline = mp__clock_deadline(GRACE);
    mp_process *p;

    signal_daemons(SIGTERM);
    while ((p = find_running(true))) {
        if (mp__popen_wait(&p->popen, deadline) != MP_ETIMEDOUT)
            continue;
        mp_log(MP_LOG_INFO, "%s does not end on SIGTERM and is killed", p->name);
        signal_daemons(SIGKILL);
        deadline = MP__NEVER;
    }
}

void mp__process_exit_phase(void)
{
    mp_process *p;

    mp__hooks_run_exit(0);
    end_daemons();
    while ((p = find_running(false)))
        (void)mp__popen_wait(&p->popen, MP__NEVER); /* an interrupt only has us look again */
    mp__hooks_run_exit(INT_MIN);
    mp__forkserver_stop();
}

__attribute__((constructor(102))) static void begin(void)
{
    mp__hooks_after_fork(after_fork);
    (void)atexit(mp__process_exit_phase); /* without memory children are orphans, as after _exit */
}
