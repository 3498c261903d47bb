/* SPDX-License-Identifier: MIT
 *
 * identity.c - who processes are: this one, its parent, and the attributes of a
 * process object.
 */
#include "identity_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu_internal.h"
#include "error_internal.h"
#include "hooks_internal.h"
#include "log_internal.h"
#include "pid_internal.h"

mp_process mp__current = { .role = MP__CURRENT,
    .popen = { .descriptor = -1, .life = -1, .lifeline = -1 } };
mp_process mp__parent = { .role = MP__PARENT,
    .popen = { .descriptor = -1, .life = -1, .lifeline = -1 } };
unsigned mp__depth;
static bool has_parent;
static uint32_t counter;

uint32_t mp__next_child(void)
{
    return ++counter;
}

int mp__process_check_open(const mp_process *p)
{
    if (!p)
        return mp__fail(MP_EINVAL, "no process: NULL");
    if (p->closed)
        return mp__fail(MP_ECLOSED, "process %s is closed", p->name);
    return 0;
}

int mp__process_check_ours(const mp_process *p)
{
    int r = mp__process_check_open(p);

    if (r == 0 && p->role == MP__CHILD && p->creator != mp__hooks_pid())
        r = mp__fail(MP_ECREATOR, "process %s was created by another process", p->name);
    return r;
}

static int own_authkey(mp_process *p, const void *key, size_t size)
{
    mp__buffer copy = { 0 };
    int r = mp__buffer_append(&copy, key, size);

    if (r < 0)
        return r;
    mp__buffer_done(&p->own_authkey);
    p->own_authkey = copy;
    p->authkey = (mp_bytes_view){ copy.data, copy.size };
    return 0;
}

int mp__process_get_authkey(const mp_process *p, const void **key, size_t *size)
{
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    char random[32];
    int r = 0;

    if (p == &mp__current) {
        (void)pthread_mutex_lock(&once);
        if (!mp__current.authkey.size) {
            if (getentropy(random, sizeof(random)) < 0)
                r = mp__fail_errno("no random bytes for the authkey");
            else
                r = own_authkey(&mp__current, random, sizeof(random));
        }
        (void)pthread_mutex_unlock(&once);
    }
    if (r == 0) {
        *key = p->authkey.data;
        *size = p->authkey.size;
    }
    return r;
}

mp_process *mp_current_process(void)
{
    return &mp__current;
}

mp_process *mp_parent_process(void)
{
    return has_parent ? &mp__parent : NULL;
}

pid_t mp_process_pid(const mp_process *p)
{
    if (mp__process_check_open(p) < 0)
        return 0;
    return p->role == MP__CURRENT ? mp__hooks_pid() : p->popen.pid;
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
    int r = mp__process_check_ours(p);
    char *copy;

    if (r < 0)
        return r;
    if (!name)
        return mp__fail(MP_EINVAL, "a process needs a name");
    copy = strdup(name);
    if (!copy)
        return mp__fail(MP_ENOMEM, "out of memory for a name");
    free(p->own_name);
    p->name = p->own_name = copy;
    if (p == &mp__current)
        mp__log_set_name(copy);
    return 0;
}

bool mp_process_daemon(const mp_process *p)
{
    return p && p->daemon;
}

int mp_process_set_daemon(mp_process *p, bool daemon)
{
    int r = mp__process_check_ours(p);

    if (r == 0 && (p->role != MP__CHILD || p->started))
        r = mp__fail(MP_ESTARTED, "whether a process is a daemon is said before it starts");
    if (r == 0)
        p->daemon = daemon;
    return r;
}

int mp_process_authkey(const mp_process *p, const void **key, size_t *size)
{
    int r = mp__process_check_open(p);

    return r < 0 ? r : mp__process_get_authkey(p, key, size);
}

int mp_process_set_authkey(mp_process *p, const void *key, size_t size)
{
    int r = mp__process_check_ours(p);

    if (r == 0 && (!key || !size))
        r = mp__fail(MP_EINVAL, "an authkey has at least one byte");
    return r < 0 ? r : own_authkey(p, key, size);
}

#define CPUS_MAX 100000 /* more are a mistake */

int mp_cpu_count(void)
{
    const char *text = getenv("MP_CPU_COUNT");
    char *end = NULL;
    long wanted = text ? strtol(text, &end, 10) : 0;

    return wanted > 0 && wanted <= CPUS_MAX && !*end ? (int)wanted : mp__cpu_count();
}

static void become_parent(const mp__child *child)
{
    has_parent = true;
    mp__parent.name = child->identity.parent_name;
    mp__parent.popen = MP__POPEN_NONE;
    mp__parent.popen.pid = child->identity.parent;
    mp__parent.popen.descriptor = child->parent_fd;
    if (!mp__pid_has_descriptors())
        mp__parent.popen.life = child->lifeline;
}

/* What was owned here before stays until it is set anew; but the name may be the parent's now. */
void mp__process_become(const mp__child *child)
{
    const mp__identity *id = &child->identity;

    become_parent(child);
    mp__current.name = id->name;
    if (mp__current.own_name == id->parent_name)
        mp__current.own_name = NULL;
    mp__current.path = id->path;
    mp__current.path_length = id->path_length;
    mp__current.authkey = (mp_bytes_view){ id->authkey, id->authkey_size };
    mp__current.daemon = id->daemon;
    mp__depth = id->depth;
    counter = 0;
    mp__context_settle(id->method);
}
