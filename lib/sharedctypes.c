/* SPDX-License-Identifier: MIT
 *
 * sharedctypes.c - typed arrays in a block of shared memory. There is nothing but
 * the elements in it: type and count travel beside it.
 */
#include <multiprocessing/sharedctypes.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error_internal.h"
#include "heap_internal.h"
#include "value_internal.h"

struct mp_raw_array {
    mp__handle handle; /* first: it can travel */
    mp__block block;
    enum mp__slot_type type; /* of an element */
    size_t size;             /* of an element */
    size_t count;
    bool others_read; /* who receives it can only read */
};

/* ---- life ---- */

/* What means the same in every process, in this size. */
static bool is_plain(enum mp__slot_type type, size_t size)
{
    switch (type) {
    case MP__SLOT_SIGNED:
    case MP__SLOT_UNSIGNED:
        return size == 1 || size == 2 || size == 4 || size == 8;
    case MP__SLOT_BOOL:
        return size == sizeof(bool);
    case MP__SLOT_FLOAT:
        return size == sizeof(float) || size == sizeof(double);
    case MP__SLOT_STRUCT:
        return size > 0;
    default:
        return false;
    }
}

static mp_raw_array *allocate(enum mp__slot_type type, size_t size, size_t count)
{
    mp_raw_array *a = calloc(1, sizeof(*a));

    if (!a) {
        (void)mp__fail(MP_ENOMEM, "out of memory for an array");
        return NULL;
    }
    a->handle.kind = &mp__raw_array_kind;
    a->block = MP__BLOCK_NONE;
    a->type = type;
    a->size = size;
    a->count = count;
    return a;
}

mp_raw_array *mp_raw_array_create(const mp_raw_array_options *o)
{
    mp_raw_array *a;

    if (!is_plain(o->type.type, o->type.size)) {
        (void)mp__fail(MP_ETYPE, "pointers, text and handles mean nothing in shared memory: the "
                                 "elements of an array are numbers or plain structs");
        return NULL;
    }
    if (o->count == 0 || o->count > PTRDIFF_MAX / o->type.size) {
        (void)mp__fail(MP_EINVAL, "an array cannot have %zu elements", o->count);
        return NULL;
    }
    a = allocate(o->type.type, o->type.size, o->count);
    if (!a)
        return NULL;
    if (mp__block_new(a->count * a->size, &a->block) < 0) {
        free(a);
        return NULL;
    }
    if (o->from)
        memcpy(a->block.memory, o->from, a->count * a->size);
    a->others_read = o->readonly;
    if (o->readonly)
        mp__block_seal(&a->block);
    return a;
}

mp_raw_array *mp_raw_array_copy(const mp_raw_array *a)
{
    if (!a) {
        (void)mp__fail(MP_EINVAL, "no array: NULL");
        return NULL;
    }
    return mp_raw_array_create(&(const mp_raw_array_options){
        .type = { .type = a->type, .size = a->size },
        .count = a->count,
        .from = a->block.memory,
    });
}

void mp_raw_array_free(mp_raw_array *a)
{
    if (!a || a->handle.lender)
        return; /* the message frees it */
    mp__block_done(&a->block);
    free(a);
}

mp_raw_array *mp_raw_array_keep(mp_raw_array *a)
{
    if (a)
        mp__handle_keep(&a->handle);
    return a;
}

size_t mp_raw_array_len(const mp_raw_array *a)
{
    return a ? a->count : 0;
}

size_t mp_raw_array_itemsize(const mp_raw_array *a)
{
    return a ? a->size : 0;
}

bool mp_raw_array_readonly(const mp_raw_array *a)
{
    return a && a->block.readonly;
}

/* ---- elements ---- */

void *mp__raw_array_data(const mp_raw_array *a, const mp__slot *type)
{
    if (!a) {
        (void)mp__fail(MP_EINVAL, "no array: NULL");
        return NULL;
    }
    if (type->type == a->type && type->size == a->size)
        return a->block.memory;
    (void)mp__fail(
        MP_ETYPE, "the elements of this array are of another type, of %zu bytes", a->size);
    return NULL;
}

/* Where the element is, or NULL. */
static void *find(const mp_raw_array *a, ptrdiff_t index)
{
    size_t at = index < 0 ? a->count - (size_t) - (index + 1) - 1 : (size_t)index;

    if (at < a->count)
        return (char *)a->block.memory + at * a->size;
    (void)mp__fail(MP_EINDEX, "an array of %zu elements has none of index %td", a->count, index);
    return NULL;
}

int mp__raw_array_get(const mp_raw_array *a, ptrdiff_t index, const mp__slot *to)
{
    const void *at = a ? find(a, index) : NULL;
    msgpack_object value;

    if (!a)
        return mp__fail(MP_EINVAL, "no array: NULL");
    if (!at)
        return MP_EINDEX;
    if (!is_plain(to->type, to->size))
        return mp__fail(MP_ETYPE, "an element goes into a number or a struct");
    mp__load(a->type, a->size, at, &value);
    return mp__store(to->type, to->size, &value, (void *)to->pointer);
}

/* As C has it: a double that is given to a float is rounded. */
static int round_to_float(msgpack_object *value)
{
    float rounded = (float)value->via.f64;

    if (isinf(rounded) && !isinf(value->via.f64))
        return mp__fail(MP_ERANGE, "%g does not fit into a float", value->via.f64);
    value->via.f64 = (double)rounded;
    return 0;
}

int mp__raw_array_set(mp_raw_array *a, ptrdiff_t index, msgpack_object value)
{
    void *at = a ? find(a, index) : NULL;
    int r = 0;

    if (!a)
        return mp__fail(MP_EINVAL, "no array: NULL");
    if (!at)
        return MP_EINDEX;
    if (a->block.readonly)
        return mp__fail(MP_EPERM, "this array can only be read here");
    if (a->type == MP__SLOT_FLOAT && a->size == sizeof(float) &&
        value.type == MSGPACK_OBJECT_FLOAT64)
        r = round_to_float(&value);
    return r == 0 ? mp__store(a->type, a->size, &value, at) : r;
}

/* ---- travelling ---- */

enum { READONLY = 1 };

/* What a receiver is told beside the memory. Of one machine: no order of bytes to mind. */
typedef struct description {
    uint64_t size, count;
    uint8_t type, flags, unused[6];
} description;

static int reduce(const void *object, mp__reduced *reduced)
{
    const mp_raw_array *a = object;
    description d = { .size = a->size, .count = a->count, .type = (uint8_t)a->type };

    d.flags = a->block.readonly || a->others_read ? READONLY : 0;
    memcpy(reduced->state, &d, sizeof(d));
    reduced->size = sizeof(d);
    mp__block_reduce(&a->block, reduced);
    return 0;
}

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    description d = { .size = 0 };
    mp_raw_array *a;
    int r;

    if (size == sizeof(d))
        memcpy(&d, state, sizeof(d));
    if (size != sizeof(d) || count != 1 || fds[0] < 0 || d.flags > READONLY || d.size == 0 ||
        d.count == 0 || d.size > PTRDIFF_MAX || d.count > PTRDIFF_MAX / d.size ||
        !is_plain((enum mp__slot_type)d.type, (size_t)d.size))
        return mp__fail(MP_EPROTOCOL, "malformed array in a message");
    a = allocate((enum mp__slot_type)d.type, (size_t)d.size, (size_t)d.count);
    if (!a)
        return MP_ENOMEM;
    a->others_read = d.flags == READONLY;
    r = mp__block_view(&fds[0], a->count * a->size, a->others_read, &a->block);
    if (r < 0) {
        free(a);
        return r;
    }
    *object = a;
    return 0;
}

static void release(void *object)
{
    mp_raw_array_free(object);
}

const mp__kind mp__raw_array_kind = { "an array", 32, reduce, rebuild, release };
