/* SPDX-License-Identifier: MIT
 *
 * unpack.c - mp_unpack: decoded values into C variables, checked first and
 * assigned only if all fit.
 */
#include <multiprocessing/value.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "error_internal.h"
#include "value_internal.h"

#define BITS 8

static bool is_received(const msgpack_object *value)
{
    return value->type == MSGPACK_OBJECT_EXT && value->via.ext.size == MP__EXT_LOCAL &&
           value->via.ext.type == MP__EXT_RECEIVED;
}

static const char *value_name(const msgpack_object *value)
{
    switch (value->type) {
    case MSGPACK_OBJECT_NIL:
        return "none";
    case MSGPACK_OBJECT_BOOLEAN:
        return "a bool";
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return "an integer";
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return "a float";
    case MSGPACK_OBJECT_STR:
        return "text";
    case MSGPACK_OBJECT_BIN:
        return "bytes";
    case MSGPACK_OBJECT_ARRAY:
        return "a list";
    case MSGPACK_OBJECT_MAP:
        return "a dict";
    case MSGPACK_OBJECT_EXT:
        break;
    }
    return is_received(value) ? "a handle" : "an extension";
}

static const char *slot_name(const mp__slot *slot)
{
    switch (slot->type) {
    case MP__SLOT_SIGNED:
    case MP__SLOT_UNSIGNED:
        return "an integer";
    case MP__SLOT_BOOL:
        return "a bool";
    case MP__SLOT_FLOAT:
        return slot->size == sizeof(float) ? "a float" : "a double";
    case MP__SLOT_TEXT:
        return "text";
    case MP__SLOT_BYTES:
        return "bytes";
    case MP__SLOT_HANDLE:
        return slot->kind->name;
    default:
        return "the bytes of a struct";
    }
}

static int wrong_type(size_t at, const mp__slot *slot, const msgpack_object *value)
{
    return mp__fail(MP_ETYPE, "value %zu is %s, not %s", at, value_name(value), slot_name(slot));
}

static int out_of_range(size_t at, const mp__slot *slot)
{
    if (slot->type == MP__SLOT_BOOL)
        return mp__fail(MP_ERANGE, "value %zu is no bool: it must be false, true, 0 or 1", at);
    return mp__fail(MP_ERANGE, "value %zu does not fit into %s%zu bits", at,
        slot->type == MP__SLOT_FLOAT      ? "a float of "
        : slot->type == MP__SLOT_UNSIGNED ? "an unsigned integer of "
                                          : "an integer of ",
        slot->size * BITS);
}

/* A number of the message, whichever way it travelled. */
typedef struct {
    bool negative;
    uint64_t bits; /* of an int64_t when negative */
} integer;

static bool get_integer(const msgpack_object *value, integer *out)
{
    *out = (integer){ value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER, value->via.u64 };
    if (value->type == MSGPACK_OBJECT_BOOLEAN)
        out->bits = value->via.boolean;
    return value->type == MSGPACK_OBJECT_BOOLEAN ||
           value->type == MSGPACK_OBJECT_POSITIVE_INTEGER ||
           value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER;
}

static bool fits(const mp__slot *slot, integer number)
{
    unsigned bits = (unsigned)slot->size * BITS;

    if (slot->type == MP__SLOT_BOOL)
        return !number.negative && number.bits <= 1;
    if (slot->type == MP__SLOT_UNSIGNED)
        return !number.negative && (bits == 64 || number.bits >> bits == 0);
    if (number.negative)
        return (int64_t)number.bits >= -(INT64_C(1) << (bits - 2)) * 2;
    return number.bits >> (bits - 1) == 0;
}

static int check_integer(size_t at, const mp__slot *slot, const msgpack_object *value)
{
    integer number;

    if (!get_integer(value, &number))
        return wrong_type(at, slot, value);
    return fits(slot, number) ? 0 : out_of_range(at, slot);
}

/* Whether a double holds the integer exactly. */
static bool integer_to_double(integer number, double *out)
{
    *out = number.negative ? (double)(int64_t)number.bits : (double)number.bits;
    if (number.negative)
        return (int64_t)*out == (int64_t)number.bits;
    return *out < 18446744073709551616.0 && (uint64_t)*out == number.bits;
}

static int get_double(size_t at, const mp__slot *slot, const msgpack_object *value, double *out)
{
    integer number;

    if (value->type == MSGPACK_OBJECT_FLOAT32 || value->type == MSGPACK_OBJECT_FLOAT64)
        *out = value->via.f64;
    else if (value->type == MSGPACK_OBJECT_BOOLEAN || !get_integer(value, &number))
        return wrong_type(at, slot, value);
    else if (!integer_to_double(number, out))
        return out_of_range(at, slot);
    if (slot->size == sizeof(float) && !isnan(*out) && (double)(float)*out != *out)
        return out_of_range(at, slot);
    return 0;
}

static int check_text(size_t at, const mp__slot *slot, const msgpack_object *value)
{
    if (value->type == MSGPACK_OBJECT_NIL)
        return 0;
    if (value->type != MSGPACK_OBJECT_STR)
        return wrong_type(at, slot, value);
    if (memchr(value->via.str.ptr, 0, value->via.str.size))
        return mp__fail(MP_ERANGE, "value %zu is text with a NUL inside; use an mp_bytes_view", at);
    return 0;
}

static int check_struct(size_t at, const mp__slot *slot, const msgpack_object *value)
{
    if (value->type != MSGPACK_OBJECT_BIN)
        return wrong_type(at, slot, value);
    if (value->via.bin.size != slot->size)
        return mp__fail(MP_ERANGE, "value %zu is %lu bytes, the struct has %zu", at,
            (unsigned long)value->via.bin.size, slot->size);
    return 0;
}

static int check_handle(size_t at, const mp__slot *slot, const msgpack_object *value)
{
    void *object;

    if (value->type == MSGPACK_OBJECT_NIL)
        return 0;
    if (!is_received(value))
        return wrong_type(at, slot, value);
    return mp__received_object((mp__received *)value->via.ext.ptr, slot->kind, &object);
}

static int check(size_t at, const mp__slot *slot, const msgpack_object *value)
{
    double number;

    if (!slot->pointer)
        return 0;
    switch (slot->type) {
    case MP__SLOT_SKIP:
    case MP__SLOT_OBJECT:
        return 0;
    case MP__SLOT_SIGNED:
    case MP__SLOT_UNSIGNED:
    case MP__SLOT_BOOL:
        return check_integer(at, slot, value);
    case MP__SLOT_FLOAT:
        return get_double(at, slot, value, &number);
    case MP__SLOT_TEXT:
        return check_text(at, slot, value);
    case MP__SLOT_BYTES:
        return value->type == MSGPACK_OBJECT_NIL || value->type == MSGPACK_OBJECT_BIN ||
                       value->type == MSGPACK_OBJECT_STR
                   ? 0
                   : wrong_type(at, slot, value);
    case MP__SLOT_HANDLE:
        return check_handle(at, slot, value);
    case MP__SLOT_STRUCT:
        return check_struct(at, slot, value);
    case MP__SLOT_POINTER:
        return mp__fail(MP_ETYPE,
            "slot %zu of mp_unpack is a pointer to a pointer, which means "
            "nothing in another process; take what it points to",
            at);
    case MP__SLOT_CALL:
    case MP__SLOT_MESSAGE:
        break;
    }
    return mp__fail(MP_EINVAL, "slot %zu of mp_unpack is a call or message", at);
}

/* Writes a number of the width the variable has. */
static void store_integer(void *to, size_t size, uint64_t bits)
{
    uint8_t u8 = (uint8_t)bits;
    uint16_t u16 = (uint16_t)bits;
    uint32_t u32 = (uint32_t)bits;

    memcpy(to,
        size == 1   ? (const void *)&u8
        : size == 2 ? (const void *)&u16
        : size == 4 ? (const void *)&u32
                    : (const void *)&bits,
        size);
}

static void store_float(const mp__slot *slot, double number, void *to)
{
    if (slot->size == sizeof(float))
        *(float *)to = (float)number;
    else
        *(double *)to = number;
}

static void store_view(const msgpack_object *value, mp_bytes_view *view)
{
    if (value->type == MSGPACK_OBJECT_NIL)
        *view = (mp_bytes_view){ NULL, 0 };
    else if (value->via.bin.size == 0)
        *view = (mp_bytes_view){ "", 0 };
    else /* text has the same layout */
        *view = (mp_bytes_view){ value->via.bin.ptr, value->via.bin.size };
}

static void *object_of(const msgpack_object *value)
{
    if (value->type == MSGPACK_OBJECT_NIL)
        return NULL;
    return ((const mp__received *)(const void *)value->via.ext.ptr)->object;
}

/* Everything fits: check() has seen it. */
static void store(const mp__slot *slot, const msgpack_object *value)
{
    void *to = (void *)slot->pointer;
    double number = 0;
    integer whole;

    if (!to)
        return;
    switch (slot->type) {
    case MP__SLOT_OBJECT:
        *(msgpack_object *)to = *value;
        break;
    case MP__SLOT_SIGNED:
    case MP__SLOT_UNSIGNED:
    case MP__SLOT_BOOL:
        (void)get_integer(value, &whole);
        store_integer(to, slot->size, whole.bits);
        break;
    case MP__SLOT_FLOAT:
        (void)get_double(0, slot, value, &number);
        store_float(slot, number, to);
        break;
    case MP__SLOT_TEXT:
        *(const char **)to = value->type == MSGPACK_OBJECT_NIL ? NULL : value->via.str.ptr;
        break;
    case MP__SLOT_BYTES:
        store_view(value, to);
        break;
    case MP__SLOT_HANDLE:
        *(void **)to = object_of(value);
        break;
    case MP__SLOT_STRUCT:
        memcpy(to, value->via.bin.ptr, slot->size);
        break;
    default:
        break;
    }
}

/* What the first slot of mp_unpack, its source, holds. NULL: it is no source. */
static const msgpack_object *source(const mp__slot *slot)
{
    if (!slot->pointer)
        return NULL;
    switch (slot->type) {
    case MP__SLOT_CALL:
        return &((const mp_call *)slot->pointer)->arguments.value;
    case MP__SLOT_MESSAGE:
        return &((const mp_message *)slot->pointer)->value;
    case MP__SLOT_OBJECT:
        return slot->pointer;
    default:
        return NULL;
    }
}

/* The commonest: a number of 8 bytes into a variable of 8 bytes. */
static bool quick(const mp__slot *slot, const msgpack_object *value)
{
    void *to = (void *)slot->pointer;

    if (slot->size != 8 || !to)
        return false;
    if (slot->type == MP__SLOT_SIGNED)
        if (value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER ||
            (value->type == MSGPACK_OBJECT_POSITIVE_INTEGER && value->via.i64 >= 0))
            return memcpy(to, &value->via.i64, 8), true;
    if (slot->type == MP__SLOT_FLOAT && value->type == MSGPACK_OBJECT_FLOAT64)
        return memcpy(to, &value->via.f64, 8), true;
    return false;
}

static int take_apart(size_t count, const mp__slot *slots)
{
    const msgpack_object *values = source(&slots[0]);
    size_t wanted = count - 1;
    int r;

    if (!values)
        return mp__fail(MP_EINVAL, "mp_unpack takes a call, a message or an object first, and %s",
            slots[0].pointer ? "this is none" : "got NULL: there is no such item or key?");
    if (slots[0].type == MP__SLOT_CALL || wanted != 1) {
        if (values->type != MSGPACK_OBJECT_ARRAY)
            return mp__fail(
                MP_ETYPE, "%s cannot be taken apart into %zu values", value_name(values), wanted);
        if (values->via.array.size != wanted)
            return mp__fail(MP_ECOUNT, "%lu values arrived, %zu are expected",
                (unsigned long)values->via.array.size, wanted);
        values = values->via.array.ptr;
    }
    if (wanted == 1 && quick(&slots[1], values))
        return 0;
    for (size_t i = 0; i < wanted; i++) {
        r = check(i + 1, &slots[i + 1], &values[i]);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < wanted; i++)
        store(&slots[i + 1], &values[i]);
    return 0;
}

int mp__unpack(size_t count, const mp__slot *slots)
{
    int r = take_apart(count, slots);
    mp_call *call = slots[0].type == MP__SLOT_CALL ? (mp_call *)slots[0].pointer : NULL;

    if (call)
        call->refused = r < 0;
    if (call && r < 0 && !call->raised.code) /* for the last words, if nothing is raised */
        (void)strcpy(call->raised.text, mp_last_error()->text);
    return r;
}

static int64_t load_signed(size_t size, const void *data)
{
    int8_t i8;
    int16_t i16;
    int32_t i32;
    int64_t i64;

    switch (size) {
    case 1:
        return memcpy(&i8, data, 1), i8;
    case 2:
        return memcpy(&i16, data, 2), i16;
    case 4:
        return memcpy(&i32, data, 4), i32;
    default:
        return memcpy(&i64, data, 8), i64;
    }
}

static double load_float(size_t size, const void *data)
{
    float f;
    double d;

    if (size == sizeof(f))
        return memcpy(&f, data, sizeof(f)), (double)f;
    return memcpy(&d, data, sizeof(d)), d;
}

void mp__load(enum mp__slot_type type, size_t size, const void *data, msgpack_object *value)
{
    int64_t number;

    switch (type) {
    case MP__SLOT_SIGNED:
        number = load_signed(size, data);
        value->type =
            number < 0 ? MSGPACK_OBJECT_NEGATIVE_INTEGER : MSGPACK_OBJECT_POSITIVE_INTEGER;
        value->via.i64 = number;
        break;
    case MP__SLOT_UNSIGNED:
        value->type = MSGPACK_OBJECT_POSITIVE_INTEGER;
        value->via.u64 = (uint64_t)load_signed(size, data);
        if (size < 8) /* the sign is none */
            value->via.u64 &= (UINT64_C(1) << BITS * size) - 1;
        break;
    case MP__SLOT_BOOL:
        value->type = MSGPACK_OBJECT_BOOLEAN;
        value->via.boolean = *(const uint8_t *)data != 0;
        break;
    case MP__SLOT_FLOAT:
        value->type = size == sizeof(float) ? MSGPACK_OBJECT_FLOAT32 : MSGPACK_OBJECT_FLOAT64;
        value->via.f64 = load_float(size, data);
        break;
    default:
        *value = mp_bytes(data, size);
        break;
    }
}

int mp__store(enum mp__slot_type type, size_t size, const msgpack_object *value, void *to)
{
    const mp__slot slot = { type, size, to, NULL };
    int r;

    if (quick(&slot, value))
        return 0;
    r = check(1, &slot, value);
    if (r == 0)
        store(&slot, value);
    return r;
}
