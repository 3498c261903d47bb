/* SPDX-License-Identifier: MIT
 *
 * synchronize_event.c - Event: a word that is odd when it is set, and counts how often
 * it was cleared: so who sleeps on it misses no set that was cleared at once.
 */
#include "synchronize_internal.h"

#include <limits.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "futex_internal.h"

typedef struct body {
    mp__shared_head head;
    atomic_uint word;
} body;

struct mp_event {
    mp__shared shared;
};

static body *body_of(const mp_event *event)
{
    return event->shared.block.memory;
}

mp_event *mp_event_new(void)
{
    return mp__shared_new(&mp__event_kind, sizeof(mp_event), sizeof(body));
}

void mp_event_free(mp_event *event)
{
    mp__shared_free(event);
}

mp_event *mp_event_keep(mp_event *event)
{
    if (event)
        mp__handle_keep(&event->shared.handle);
    return event;
}

bool mp_event_is_set(const mp_event *event)
{
    return event && atomic_load(&body_of(event)->word) & 1;
}

int mp_event_set(mp_event *event)
{
    if (!event)
        return mp__fail(MP_EINVAL, "no event: NULL");
    /* A load would not do: what was written before must be seen by who clears it next. */
    if (!(atomic_fetch_add(&body_of(event)->word, 0) & 1))
        mp__futex_or(&body_of(event)->word, 1, INT_MAX);
    return 0;
}

int mp_event_clear(mp_event *event)
{
    unsigned seen;

    if (!event)
        return mp__fail(MP_EINVAL, "no event: NULL");
    seen = atomic_load(&body_of(event)->word);
    while (seen & 1 && !atomic_compare_exchange_weak(&body_of(event)->word, &seen, seen + 1))
        ;
    return 0;
}

int mp_event_wait(mp_event *event, double timeout)
{
    int64_t deadline = mp__clock_deadline(timeout);
    unsigned before;
    int r = 0;

    if (!event)
        return mp__fail(MP_EINVAL, "no event: NULL");
    before = atomic_load(&body_of(event)->word);
    while (r == 0 && !(before & 1) && atomic_load(&body_of(event)->word) == before)
        r = mp__futex_watch(&body_of(event)->word, before, deadline);
    return r == MP_ETIMEDOUT ? mp__fail(r, "nobody set the event within the time") : r;
}

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    (void)state;
    if (size != 0 || count != 1)
        return mp__fail(MP_EPROTOCOL, "malformed event in a message");
    return mp__shared_rebuild(&mp__event_kind, sizeof(mp_event), sizeof(body), &fds[0], object);
}

const mp__kind mp__event_kind = { "an event", 13, mp__shared_reduce, rebuild, mp__shared_free };
