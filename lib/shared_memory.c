/* SPDX-License-Identifier: MIT
 *
 * shared_memory.c - bytes with or without a name. What is in them is not its
 * business; who looks after names is resource_tracker.c.
 */
#include "shared_memory_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"
#include "heap_internal.h"
#include "resource_tracker_internal.h"
#include "shm_internal.h"

#define PREFIX "psm_" /* and eight digits: what CPython generates */

struct mp_shared_memory {
    mp__handle handle; /* first: it can travel */
    mp__block block;
    size_t size; /* of the block, also after close */
    bool closed;
    bool others_read;    /* who receives it can only read */
    mp__tracked tracked; /* its name, and whether it is ours; "": anonymous */
};

/* ---- life ---- */

static int check_name(const char *name)
{
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return mp__fail(MP_EINVAL, "\"%s\" is no name for shared memory", name);
    if (strchr(name, '/'))
        return mp__fail(MP_EINVAL,
            "names of shared memory have no slash, as in Python: the system puts one in front "
            "(\"%.300s\")",
            name);
    if (strlen(name) > MP__SHM_NAME_MAX)
        return mp__fail(MP_ENAMETOOLONG, "a name of shared memory has at most %d bytes, not %zu",
            MP__SHM_NAME_MAX, strlen(name));
    return 0;
}

static int check(const mp_shared_memory_options *o)
{
    if ((o->create || o->anonymous) && (o->size == 0 || o->size > PTRDIFF_MAX))
        return mp__fail(MP_EINVAL, "shared memory cannot have %zu bytes", o->size);
    if (o->anonymous && o->name)
        return mp__fail(MP_EINVAL, "anonymous memory has no name, not \"%.300s\"", o->name);
    if (o->create && o->readonly && !o->anonymous)
        return mp__fail(MP_EINVAL, "memory that is made with a name could never be written if it "
                                   "were readonly; attach with readonly, or use anonymous memory");
    if (!o->create && !o->anonymous && !o->name)
        return mp__fail(MP_EINVAL, "shared memory is attached by .name; .create or .anonymous "
                                   "makes it");
    return o->name ? check_name(o->name) : 0;
}

/* What is to be in it from the beginning. */
typedef struct filling {
    int (*fill)(mp_shared_memory *memory, void *argument); /* or NULL */
    void *argument;
} filling;

static int fill_in(mp_shared_memory *m, const filling *f)
{
    m->size = m->block.size;
    return f->fill ? f->fill(m, f->argument) : 0;
}

static int make_anonymous(mp_shared_memory *m, const mp_shared_memory_options *o, const filling *f)
{
    int r = mp__block_new(o->size, &m->block);

    if (r == 0)
        r = fill_in(m, f);
    if (r < 0)
        mp__block_done(&m->block);
    else if (o->readonly)
        mp__block_seal(&m->block);
    m->others_read = o->readonly;
    return r;
}

static int name_error(const char *name)
{
    int code = -errno;

    if (code == MP_EEXIST)
        return mp__fail(code, "shared memory named \"%.300s\" exists already", name);
    return mp__fail(
        code, "cannot make shared memory named \"%.300s\": %s", name, mp_strerror(code));
}

/* Gives the draft its tracker, its size, its content and its name, in this order. */
static int complete(
    mp_shared_memory *m, int *fd, const mp_shared_memory_options *o, const filling *f)
{
    int r = mp__fd_raise(fd);

    if (r == 0 && o->track != MP_NO)
        mp__track(&m->tracked);
    if (r == 0)
        r = mp__shm_reserve(*fd, o->size);
    if (r == 0)
        r = mp__block_view(fd, o->size, false, &m->block);
    if (r == 0)
        r = fill_in(m, f);
    if (r == 0 && mp__shm_publish(m->block.fd, m->tracked.name) < 0)
        r = name_error(m->tracked.name);
    return r;
}

static int make_named(mp_shared_memory *m, const mp_shared_memory_options *o, const filling *f)
{
    int fd = mp__shm_draft(m->tracked.name);
    size_t length;
    int r;

    if (fd < 0)
        return name_error(m->tracked.name);
    r = mp__shm_look(fd, &length, &m->tracked.identity);
    if (r == 0)
        r = complete(m, &fd, o, f);
    if (r < 0) { /* the name may be there or not, or be somebody else's */
        (void)mp__shm_remove(m->tracked.name, &m->tracked.identity);
        mp__untrack(&m->tracked);
        mp__block_done(&m->block);
        mp__fd_close(fd);
    }
    return r;
}

/* Another one as long as somebody has the name. */
static int make_generated(mp_shared_memory *m, const mp_shared_memory_options *o, const filling *f)
{
    uint8_t random[4];
    int r;

    do {
        if (getentropy(random, sizeof(random)) < 0)
            return mp__fail_errno("no random bytes for a name");
        (void)snprintf(m->tracked.name, sizeof(m->tracked.name), PREFIX "%02x%02x%02x%02x",
            random[0], random[1], random[2], random[3]);
        r = make_named(m, o, f);
    } while (r == MP_EEXIST);
    return r;
}

static int adopt(mp_shared_memory *m, int *fd, bool readonly)
{
    size_t length;
    int r = mp__shm_look(*fd, &length, &m->tracked.identity);

    if (r == 0 && length == 0)
        r = mp__fail(MP_EAGAIN,
            "shared memory named \"%.300s\" has no size yet: its creator has "
            "not come to that. Try again",
            m->tracked.name);
    return r == 0 ? mp__block_view(fd, 1, readonly, &m->block) : r;
}

static int attach(mp_shared_memory *m, const char *name, bool readonly)
{
    int fd = mp__shm_attach(name, readonly);
    int r;

    if (fd == MP_ENOENT)
        return mp__fail(fd,
            "no shared memory is named \"%.300s\": it was not created yet, or is "
            "unlinked already",
            name);
    if (fd < 0)
        return mp__fail(
            fd, "cannot attach to shared memory named \"%.300s\": %s", name, mp_strerror(fd));
    r = adopt(m, &fd, readonly);
    mp__fd_close(fd);
    return r;
}

static mp_shared_memory *allocate(const char *name)
{
    mp_shared_memory *m = calloc(1, sizeof(*m));

    if (!m) {
        (void)mp__fail(MP_ENOMEM, "out of memory for shared memory");
        return NULL;
    }
    m->handle.kind = &mp__shared_memory_kind;
    m->block = MP__BLOCK_NONE;
    (void)snprintf(m->tracked.name, sizeof(m->tracked.name), "%s", name ? name : "");
    return m;
}

int mp__shared_memory_make(const mp_shared_memory_options *o,
    int (*fill)(mp_shared_memory *memory, void *argument), void *argument, mp_shared_memory **out)
{
    const filling f = { fill, argument };
    mp_shared_memory *m;
    int r = check(o);

    if (r < 0)
        return r;
    m = allocate(o->name);
    if (!m)
        return MP_ENOMEM;
    r = o->anonymous           ? make_anonymous(m, o, &f)
        : o->create && o->name ? make_named(m, o, &f)
        : o->create            ? make_generated(m, o, &f)
                               : attach(m, o->name, o->readonly);
    m->size = m->block.size;
    if (r == 0)
        *out = m;
    else
        free(m);
    return r;
}

mp_shared_memory *mp_shared_memory_create(const mp_shared_memory_options *options)
{
    mp_shared_memory *m = NULL;

    (void)mp__shared_memory_make(options, NULL, NULL, &m);
    return m;
}

void mp_shared_memory_close(mp_shared_memory *m)
{
    if (!m)
        return;
    m->closed = true;
    mp__block_done(&m->block);
}

void mp_shared_memory_free(mp_shared_memory *m)
{
    if (!m)
        return;
    mp_shared_memory_close(m);
    if (m->handle.lender)
        return; /* the message frees it */
    mp__untrack_and_remove(&m->tracked);
    free(m);
}

mp_shared_memory *mp_shared_memory_keep(mp_shared_memory *m)
{
    if (m)
        mp__handle_keep(&m->handle);
    return m;
}

/* ---- state ---- */

void *mp_shared_memory_buf(const mp_shared_memory *m)
{
    return m ? m->block.memory : NULL;
}

size_t mp_shared_memory_size(const mp_shared_memory *m)
{
    return m ? m->size : 0;
}

const char *mp_shared_memory_name(const mp_shared_memory *m)
{
    return m && *m->tracked.name ? m->tracked.name : NULL;
}

bool mp_shared_memory_readonly(const mp_shared_memory *m)
{
    return m && m->block.readonly;
}

static int check_open(const mp_shared_memory *m)
{
    if (!m)
        return mp__fail(MP_EINVAL, "no shared memory: NULL");
    return m->closed ? mp__fail(MP_ECLOSED, "this shared memory is closed") : 0;
}

int mp_shared_memory_grow(mp_shared_memory *m, size_t size)
{
    int r = check_open(m);

    if (r == 0 && size > PTRDIFF_MAX)
        r = mp__fail(MP_EINVAL, "shared memory cannot have %zu bytes", size);
    if (r == 0) /* the file system of the names may be full */
        r = mp__block_grow(&m->block, size, *m->tracked.name ? mp__shm_reserve : mp__shm_extend);
    if (r == 0)
        m->size = m->block.size;
    return r;
}

int mp_shared_memory_unlink(mp_shared_memory *m)
{
    int r;

    if (!m)
        return mp__fail(MP_EINVAL, "no shared memory: NULL");
    if (!*m->tracked.name)
        return mp__fail(MP_ENOENT, "anonymous memory has no name to take away");
    r = mp__shm_remove(m->tracked.name, &m->tracked.identity);
    if (r == 0 || r == -ENOENT)
        mp__untrack(&m->tracked);
    if (r == -ENOENT)
        return mp__fail(r, "shared memory named \"%.300s\" was unlinked before", m->tracked.name);
    return r < 0 ? mp__fail(r, "cannot unlink shared memory named \"%.300s\": %s", m->tracked.name,
                       mp_strerror(r))
                 : 0;
}

/* ---- travelling: what it can do, and its name; the memory is in the descriptor ---- */

enum { READONLY = 1 };

int mp__shared_memory_reduce(const void *object, mp__reduced *reduced)
{
    const mp_shared_memory *m = object;
    size_t length = strlen(m->tracked.name);
    int r = check_open(m);

    if (r < 0)
        return r;
    reduced->state[0] = m->block.readonly || m->others_read ? READONLY : 0;
    memcpy(reduced->state + 1, m->tracked.name, length);
    reduced->size = 1 + length;
    mp__block_reduce(&m->block, reduced);
    return 0;
}

int mp__shared_memory_rebuild(
    const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    mp_shared_memory *m;
    int r;

    if (size < 1 || size > 1 + MP__SHM_NAME_MAX || state[0] > READONLY || count != 1 ||
        fds[0] < 0 || memchr(state + 1, 0, size - 1) || memchr(state + 1, '/', size - 1))
        return mp__fail(MP_EPROTOCOL, "malformed shared memory in a message");
    m = allocate(NULL);
    if (!m)
        return MP_ENOMEM;
    memcpy(m->tracked.name, state + 1, size - 1);
    m->others_read = state[0] == READONLY;
    r = adopt(m, &fds[0], state[0] == READONLY);
    if (r < 0) {
        free(m);
        return r == MP_EAGAIN ? mp__fail(MP_EPROTOCOL, "empty shared memory in a message") : r;
    }
    m->size = m->block.size;
    *object = m;
    return 0;
}

static void release(void *object)
{
    mp_shared_memory_free(object);
}

const mp__kind mp__shared_memory_kind = { "shared memory", 33, mp__shared_memory_reduce,
    mp__shared_memory_rebuild, release };
