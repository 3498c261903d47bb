/* SPDX-License-Identifier: MIT
 *
 * connection_pending.c - clients that have yet to authenticate, and their time. Letting
 * them in and refusing them is the listener's business.
 */
#include "connection_pending_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "socket_internal.h"

int mp__pending_init(mp__pending *p, double patience)
{
    p->patience = patience > 1e9 ? MP__NEVER : (int64_t)(patience * 1e9);
    p->list = calloc(MP__PENDING_MAX, sizeof(*p->list));
    return p->list ? 0 : mp__fail(MP_ENOMEM, "out of memory for a listener");
}

void mp__pending_done(mp__pending *p)
{
    free(p->list);
    p->list = NULL;
}

int mp__pending_open_watch(mp__pending *p, int listening)
{
    int watch = -1;
    int r = mp__socket_watch_new(&watch);

    if (r == 0)
        r = mp__socket_watch(watch, listening);
    if (r < 0)
        mp__fd_drop(&watch);
    atomic_store(&p->watch, watch);
    return r;
}

/* ---- time ---- */

static int64_t end_of(const mp__pending *p, const mp__candidate *c)
{
    return p->patience == MP__NEVER ? MP__NEVER : c->since + p->patience;
}

int mp__pending_find_late(const mp__pending *p, int64_t now)
{
    for (size_t i = 0; i < p->count; i++)
        if (!p->list[i].has_spoken && end_of(p, &p->list[i]) <= now)
            return (int)i;
    return -1;
}

int mp__pending_find_oldest(const mp__pending *p)
{
    int found = -1;

    for (size_t i = 0; i < p->count; i++)
        if (!p->list[i].has_spoken && (found < 0 || p->list[i].since < p->list[found].since))
            found = (int)i;
    return found;
}

/* ---- one by one ---- */

int mp__pending_add(
    mp__pending *p, int fd, const char *from, const void *key, size_t key_size, int64_t now)
{
    mp__candidate *c = &p->list[p->count];
    int r = mp__socket_watch(atomic_load(&p->watch), fd);

    if (r < 0)
        return r;
    c->fd = fd;
    c->since = now;
    c->absent = 0;
    c->has_spoken = false;
    (void)snprintf(c->from, sizeof(c->from), "%s", from);
    mp__handshake_begin(&c->handshake, true, key, key_size);
    p->count++;
    return 0;
}

void mp__pending_forget(mp__pending *p, size_t i)
{
    mp__socket_unwatch(atomic_load(&p->watch), p->list[i].fd);
    p->list[i] = p->list[--p->count];
}

void mp__pending_prepare(mp__pending *p, struct pollfd *fds, int64_t *deadline, int64_t now)
{
    for (size_t i = 0; i < p->count; i++) {
        mp__candidate *c = &p->list[i];

        fds[i] = (struct pollfd){ .fd = c->fd, .events = POLLIN };
        c->absent += now - p->left;
        if (end_of(p, c) < *deadline)
            *deadline = end_of(p, c);
    }
}

/* Who still has said nothing could not have been heard sooner either: that time counts. */
void mp__pending_look(mp__pending *p, const struct pollfd *fds, int64_t now)
{
    p->left = now;
    for (size_t i = 0; i < p->count; i++) {
        p->list[i].has_spoken = false;
        if (!fds[i].revents)
            p->list[i].absent = 0;
    }
}

/* Readable is not enough to have spoken: urgent data is, and brings no byte. */
int mp__pending_advance(mp__pending *p, size_t i)
{
    mp__candidate *c = &p->list[i];
    size_t before = c->handshake.heard;
    int r = mp__handshake_advance(&c->handshake, c->fd);

    c->has_spoken = c->handshake.heard != before;
    if (c->has_spoken)
        c->since += c->absent;
    c->absent = 0;
    return r;
}
