/* SPDX-License-Identifier: MIT
 *
 * check.c - whether received bytes are MessagePack that is safe to decode, and
 * the limits for that.
 */
#include "check_internal.h"

#include <stdatomic.h>
#include <stdbool.h>

#include <multiprocessing/value.h>

#include "error_internal.h"

static _Atomic uint64_t limit_message = UINT64_C(16) << 30;
static _Atomic uint64_t limit_elements = UINT64_C(1) << 28;
static atomic_uint limit_depth = MP__DEPTH_MAX;

int mp_set_limits(const mp_limits *limits)
{
    if (!limits || limits->depth > MP__DEPTH_MAX)
        return mp__fail(MP_EINVAL, "the limit of depth is at most %d", MP__DEPTH_MAX);
    if (limits->message_bytes)
        atomic_store(&limit_message, limits->message_bytes);
    if (limits->elements)
        atomic_store(&limit_elements, limits->elements);
    if (limits->depth)
        atomic_store(&limit_depth, limits->depth);
    return 0;
}

uint64_t mp__limit_message(void)
{
    uint64_t limit = atomic_load_explicit(&limit_message, memory_order_relaxed);

    return limit < PTRDIFF_MAX ? limit : PTRDIFF_MAX; /* no memory holds more */
}

typedef struct {
    const uint8_t *at, *end;
} cursor;

static uint64_t take(cursor *c, size_t width)
{
    uint64_t number = 0;

    while (width--)
        number = number << 8 | *c->at++;
    return number;
}

/*
 * Steps over one value or the head of a list. Sets *payload to the bytes that
 * belong to it and *nested to the values that follow inside. NULL, or what is
 * wrong.
 */
static const char *step(cursor *c, uint64_t *payload, uint64_t *nested, bool *container)
{
    static const uint8_t widths[32] = {
        /* c0 */ 0, 0, 0, 0, 1, 2, 4, 1, /* bin 8 16 32, ext 8 */
        /* c8 */ 2, 4, 4, 8, 1, 2, 4, 8, /* ext 16 32, float 32 64, uint 8 16 32 64 */
        /* d0 */ 1, 2, 4, 8, 1, 2, 4, 8, /* int 8 16 32 64, fixext 1 2 4 8 */
        /* d8 */ 16, 1, 2, 4, 2, 4, 2, 4 /* fixext 16, str 8 16 32, array 16 32, map 16 32 */
    };
    uint8_t lead = *c->at++;
    size_t width;

    *payload = *nested = 0;
    *container = false;
    if (lead <= 0x7f || lead >= 0xe0)
        return NULL;
    if (lead <= 0x9f) {
        *nested = lead <= 0x8f ? 2 * (uint64_t)(lead & 0x0f) : (uint64_t)(lead & 0x0f);
        *container = true;
        return NULL;
    }
    if (lead <= 0xbf) {
        *payload = lead & 0x1f;
        return NULL;
    }
    if (lead == 0xc1)
        return "the byte c1 is no MessagePack";
    width = widths[lead - 0xc0];
    if ((lead >= 0xca && lead <= 0xd3) || (lead >= 0xd4 && lead <= 0xd8)) {
        *payload = lead >= 0xd4 ? width + 1 : width;
        return NULL;
    }
    if ((size_t)(c->end - c->at) < width)
        return "it ends inside a length";
    *payload = take(c, width);
    if (lead >= 0xc7 && lead <= 0xc9)
        *payload += 1; /* the type of an extension */
    if (lead >= 0xdc) {
        *nested = lead >= 0xde ? 2 * *payload : *payload;
        *payload = 0;
        *container = true;
    }
    return NULL;
}

const char *mp__check(const void *data, size_t size, int *code)
{
    uint64_t open[MP__DEPTH_MAX + 1] = { 1 };
    uint64_t pending = 1, elements = 0, payload, nested;
    uint64_t most = atomic_load_explicit(&limit_elements, memory_order_relaxed);
    unsigned deepest = atomic_load_explicit(&limit_depth, memory_order_relaxed), depth = 0;
    cursor c = { data, (const uint8_t *)data + size };
    const char *wrong;
    bool container;

    *code = MP_EPROTOCOL;
    while (pending) {
        if (c.at == c.end)
            return "it ends inside a value";
        if (++elements > most) {
            *code = MP_ETOOLONG;
            return "it has more values than mp_set_limits allows";
        }
        wrong = step(&c, &payload, &nested, &container);
        if (wrong)
            return wrong;
        if (payload > (uint64_t)(c.end - c.at))
            return "a length is beyond its end";
        c.at += payload;
        open[depth]--;
        pending += nested - 1;
        if (pending > (uint64_t)(c.end - c.at))
            return "a list is beyond its end";
        if (container) {
            if (depth == deepest) {
                *code = deepest < MP__DEPTH_MAX ? MP_ETOODEEP : MP_EPROTOCOL;
                return "its lists are nested too deep";
            }
            open[++depth] = nested;
        }
        while (depth && !open[depth])
            depth--;
    }
    return c.at == c.end ? NULL : "there are bytes behind the value";
}
