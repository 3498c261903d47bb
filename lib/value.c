/* SPDX-License-Identifier: MIT
 *
 * value.c - values as programs make them and look into them, and what a function answers.
 * How they become bytes is value_message.c's business.
 */
#include "value_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "error_internal.h"

/* ---- making values ---- */

static msgpack_object local(int8_t type, const void *pointer)
{
    msgpack_object value = { .type = MSGPACK_OBJECT_EXT };

    value.via.ext.type = type;
    value.via.ext.size = MP__EXT_LOCAL;
    value.via.ext.ptr = pointer;
    return value;
}

msgpack_object mp_none(void)
{
    return (msgpack_object){ .type = MSGPACK_OBJECT_NIL };
}

msgpack_object mp__from_bool(bool value)
{
    return (msgpack_object){ .type = MSGPACK_OBJECT_BOOLEAN, .via.boolean = value };
}

msgpack_object mp__from_signed(long long value)
{
    if (value >= 0)
        return mp__from_unsigned((unsigned long long)value);
    return (msgpack_object){ .type = MSGPACK_OBJECT_NEGATIVE_INTEGER, .via.i64 = value };
}

msgpack_object mp__from_unsigned(unsigned long long value)
{
    return (msgpack_object){ .type = MSGPACK_OBJECT_POSITIVE_INTEGER, .via.u64 = value };
}

msgpack_object mp__from_float(float value)
{
    return (msgpack_object){ .type = MSGPACK_OBJECT_FLOAT32, .via.f64 = (double)value };
}

msgpack_object mp__from_double(double value)
{
    return (msgpack_object){ .type = MSGPACK_OBJECT_FLOAT64, .via.f64 = value };
}

msgpack_object mp_bytes(const void *data, size_t size)
{
    msgpack_object value = { .type = MSGPACK_OBJECT_BIN };

    if (size > UINT32_MAX)
        return local(MP__EXT_TOO_LONG, "bytes longer than 4294967295; send them with "
                                       "mp_connection_send_bytes");
    if (!data && size)
        return local(MP__EXT_POISON, "bytes at NULL");
    value.via.bin.size = (uint32_t)size;
    value.via.bin.ptr = data;
    return value;
}

msgpack_object mp__from_text(const char *text)
{
    msgpack_object value = { .type = MSGPACK_OBJECT_STR };
    size_t size = text ? strlen(text) : 0;

    if (!text)
        return mp_none();
    if (size > UINT32_MAX)
        return local(MP__EXT_TOO_LONG, "text longer than 4294967295 bytes");
    value.via.str.size = (uint32_t)size;
    value.via.str.ptr = text;
    return value;
}

msgpack_object mp__from_null(const void *pointer)
{
    return pointer
               ? local(MP__EXT_POISON, "a void pointer means nothing in another process; send what "
                                       "it points to with mp_bytes or mp_struct")
               : mp_none();
}

msgpack_object mp__from_object(msgpack_object value)
{
    return value;
}

msgpack_object mp__from_handle(const void *handle)
{
    return handle ? local(MP__EXT_HANDLE, handle) : mp_none();
}

msgpack_object mp__list(size_t count, const msgpack_object *items)
{
    msgpack_object value = { .type = MSGPACK_OBJECT_ARRAY };

    value.via.array.size = (uint32_t)count; /* the macros stop at 32 */
    value.via.array.ptr = (msgpack_object *)items;
    return value;
}

msgpack_object mp__dict(size_t count, const msgpack_object *items)
{
    msgpack_object value = { .type = MSGPACK_OBJECT_MAP };

    if (count % 2)
        return local(MP__EXT_POISON, "mp_dict takes keys and values in pairs");
    value.via.map.size = (uint32_t)(count / 2);
    value.via.map.ptr = (msgpack_object_kv *)items; /* a pair is two objects in a row */
    return value;
}

msgpack_object mp_list_of(size_t count, const msgpack_object *items)
{
    if (count > UINT32_MAX)
        return local(MP__EXT_TOO_LONG, "a list has at most 4294967295 items");
    if (!items && count)
        return local(MP__EXT_POISON, "the items of a list at NULL");
    return mp__list(count, items);
}

/* ---- looking into a value ---- */

size_t mp_len(const msgpack_object *object)
{
    switch (object ? object->type : MSGPACK_OBJECT_NIL) {
    case MSGPACK_OBJECT_ARRAY:
        return object->via.array.size;
    case MSGPACK_OBJECT_MAP:
        return object->via.map.size;
    case MSGPACK_OBJECT_STR:
        return object->via.str.size;
    case MSGPACK_OBJECT_BIN:
        return object->via.bin.size;
    default:
        return 0;
    }
}

const msgpack_object *mp_list_get(const msgpack_object *object, size_t index)
{
    if (!object || object->type != MSGPACK_OBJECT_ARRAY || index >= object->via.array.size)
        return NULL;
    return &object->via.array.ptr[index];
}

const msgpack_object *mp_dict_get(const msgpack_object *object, const char *key)
{
    size_t length = key ? strlen(key) : 0;

    if (!object || !key || object->type != MSGPACK_OBJECT_MAP)
        return NULL;
    for (uint32_t i = object->via.map.size; i > 0; i--) { /* of a key twice Python has the last */
        const msgpack_object_kv *pair = &object->via.map.ptr[i - 1];

        if (pair->key.type == MSGPACK_OBJECT_STR && pair->key.via.str.size == length &&
            memcmp(pair->key.via.str.ptr, key, length) == 0)
            return &pair->val;
    }
    return NULL;
}

/* ---- answering ---- */

/* Nobody waits for it, but it is an error all the same if it cannot be packed. */
static int try_packing(msgpack_object value)
{
    mp__buffer bytes = { 0 };
    mp__parcel parcel;
    int r;

    parcel.count = 0;
    r = mp__value_pack(value, &bytes, &parcel);
    mp__buffer_done(&bytes);
    return r;
}

int mp__return(mp_call *call, msgpack_object value)
{
    int r;

    if (!call)
        return mp__fail(MP_EINVAL, "mp_return needs the call");
    if (call->answered)
        return mp__fail(MP_EALREADY, "this call was answered before");
    r = call->answer ? call->answer(call, value) : try_packing(value);
    call->answered = r == 0;
    return r;
}

int mp_raise(mp_call *call, int code, const char *format, ...)
{
    va_list arguments;

    if (!call)
        return mp__fail(MP_EINVAL, "mp_raise needs the call"), 1;
    call->raised.code = code ? code : MP_ERAISED;
    va_start(arguments, format);
    (void)vsnprintf(call->raised.text, sizeof(call->raised.text), format, arguments);
    va_end(arguments);
    (void)mp__fail(call->raised.code, "%s", call->raised.text);
    return 1;
}
