/* SPDX-License-Identifier: MIT
 *
 * equal.c - whether two values are equal, as Python's == has it.
 */
#include "equal_internal.h"

#include <string.h>

static bool is_text(const msgpack_object *value)
{
    return value->type == MSGPACK_OBJECT_STR || value->type == MSGPACK_OBJECT_BIN;
}

static bool is_float(const msgpack_object *value)
{
    return value->type == MSGPACK_OBJECT_FLOAT32 || value->type == MSGPACK_OBJECT_FLOAT64;
}

static bool is_number(const msgpack_object *value)
{
    return is_float(value) || value->type == MSGPACK_OBJECT_BOOLEAN ||
           value->type == MSGPACK_OBJECT_POSITIVE_INTEGER ||
           value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER;
}

static uint64_t bits_of(const msgpack_object *integer)
{
    return integer->type == MSGPACK_OBJECT_BOOLEAN ? integer->via.boolean : integer->via.u64;
}

/* Exactly: not every integer of 64 bits is a double. */
static bool equal_to_float(const msgpack_object *integer, double number)
{
    if (integer->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        return number >= -9223372036854775808.0 && number < 0 &&
               (double)(int64_t)number == number && (int64_t)number == integer->via.i64;
    return number >= 0 && number < 18446744073709551616.0 && (double)(uint64_t)number == number &&
           (uint64_t)number == bits_of(integer);
}

static bool equal_numbers(const msgpack_object *a, const msgpack_object *b)
{
    if (is_float(a) && is_float(b))
        return a->via.f64 == b->via.f64;
    if (is_float(a))
        return equal_to_float(b, a->via.f64);
    if (is_float(b))
        return equal_to_float(a, b->via.f64);
    return bits_of(a) == bits_of(b) && (a->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) ==
                                           (b->type == MSGPACK_OBJECT_NEGATIVE_INTEGER);
}

bool mp__equal(const msgpack_object *a, const msgpack_object *b)
{
    if (is_number(a) && is_number(b))
        return equal_numbers(a, b);
    if (a->type != b->type)
        return false;
    if (is_text(a))
        return a->via.bin.size == b->via.bin.size &&
               (a->via.bin.size == 0 ||
                   memcmp(a->via.bin.ptr, b->via.bin.ptr, a->via.bin.size) == 0);
    return a->type == MSGPACK_OBJECT_NIL;
}
