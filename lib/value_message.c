/* SPDX-License-Identifier: MIT
 *
 * value_message.c - values to bytes and back: the only file that calls msgpack-c. What
 * arrives is not trusted: mp__check has walked it before msgpack-c may see it.
 */
#include "value_internal.h"

#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

#include "check_internal.h"
#include "error_internal.h"
#include "hooks_internal.h"

/* A handle on the wire: kind, number of descriptors, index of the first (2 bytes, big endian), state. */
#define HANDLE_HEADER 4
#define APART 16384 /* bytes from which on a copy costs more than a second part */

/* ---- packing ---- */

typedef struct {
    msgpack_packer packer;
    mp__parcel *parcel;
    unsigned depth;
} packing;

static int append(void *buffer, const char *data, size_t size)
{
    return mp__buffer_append(buffer, data, size);
}

static int pack(packing *p, const msgpack_object *value);

static int pack_reduced(packing *p, uint8_t code, const mp__reduced *reduced)
{
    size_t first = p->parcel->count;
    char header[HANDLE_HEADER] = { (char)code, (char)reduced->count, (char)(first >> 8),
        (char)first };
    int r = mp__parcel_add(p->parcel, reduced);

    if (r == 0)
        r = msgpack_pack_ext(&p->packer, HANDLE_HEADER + reduced->size, MP__EXT_HANDLE);
    if (r == 0)
        r = msgpack_pack_ext_body(&p->packer, header, HANDLE_HEADER);
    if (r == 0)
        r = msgpack_pack_ext_body(&p->packer, reduced->state, reduced->size);
    return r;
}

static int pack_handle(packing *p, const mp__handle *handle)
{
    mp__reduced reduced = { .size = 0 };
    int r = handle->kind->reduce(handle, &reduced);

    return r < 0 ? r : pack_reduced(p, handle->kind->code, &reduced);
}

/* A handle on its way through: built here, or still as it came. */
static int pack_received(packing *p, const mp__received *received)
{
    mp__reduced reduced = { .size = received->size, .count = received->count };

    if (received->object)
        return pack_handle(p, received->object);
    if (received->kept)
        return mp__fail(MP_EHANDLE, "a handle of this message was taken with keep before");
    memcpy(reduced.state, received->state, received->size);
    for (size_t i = 0; i < received->count; i++)
        reduced.fds[i] = received->fds[i];
    return pack_reduced(p, received->code, &reduced);
}

static int pack_ext(packing *p, const msgpack_object_ext *ext)
{
    int r;

    if (ext->size == MP__EXT_LOCAL && ext->type == MP__EXT_HANDLE)
        return pack_handle(p, (const void *)ext->ptr);
    if (ext->size == MP__EXT_LOCAL && ext->type == MP__EXT_RECEIVED)
        return pack_received(p, (const void *)ext->ptr);
    if (ext->size == MP__EXT_LOCAL && ext->type == MP__EXT_POISON)
        return mp__fail(MP_ETYPE, "cannot pack this value: %s", ext->ptr);
    if (ext->size == MP__EXT_LOCAL && ext->type == MP__EXT_TOO_LONG)
        return mp__fail(MP_ETOOLONG, "cannot pack this value: %s", ext->ptr);
    if (ext->type >= MP__EXT_FIRST)
        return mp__fail(MP_ETYPE, "extension types from %d up are the library's", MP__EXT_FIRST);
    r = msgpack_pack_ext(&p->packer, ext->size, ext->type);
    return r < 0 ? r : msgpack_pack_ext_body(&p->packer, ext->ptr, ext->size);
}

static int pack_list(packing *p, const msgpack_object_array *list)
{
    int r = msgpack_pack_array(&p->packer, list->size);

    for (uint32_t i = 0; i < list->size && r == 0; i++)
        r = pack(p, &list->ptr[i]);
    return r;
}

static int pack_dict(packing *p, const msgpack_object_map *dict)
{
    int r = msgpack_pack_map(&p->packer, dict->size);

    for (uint32_t i = 0; i < dict->size && r == 0; i++) {
        r = pack(p, &dict->ptr[i].key);
        if (r == 0)
            r = pack(p, &dict->ptr[i].val);
    }
    return r;
}

static int pack_nested(packing *p, const msgpack_object *value)
{
    int r;

    if (p->depth == MP__DEPTH_MAX)
        return mp__fail(MP_ETOODEEP, "lists are nested deeper than %d", MP__DEPTH_MAX);
    p->depth++;
    r = value->type == MSGPACK_OBJECT_ARRAY ? pack_list(p, &value->via.array)
                                            : pack_dict(p, &value->via.map);
    p->depth--;
    return r;
}

/* A list by type; its length is the number of types. */
static int pack(packing *p, const msgpack_object *value)
{
    int r;

    switch (value->type) {
    case MSGPACK_OBJECT_NIL:
        return msgpack_pack_nil(&p->packer);
    case MSGPACK_OBJECT_BOOLEAN:
        return value->via.boolean ? msgpack_pack_true(&p->packer) : msgpack_pack_false(&p->packer);
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        return msgpack_pack_uint64(&p->packer, value->via.u64);
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return msgpack_pack_int64(&p->packer, value->via.i64);
    case MSGPACK_OBJECT_FLOAT32:
        return msgpack_pack_float(&p->packer, (float)value->via.f64);
    case MSGPACK_OBJECT_FLOAT64:
        return msgpack_pack_double(&p->packer, value->via.f64);
    case MSGPACK_OBJECT_STR:
        r = msgpack_pack_str(&p->packer, value->via.str.size);
        return r < 0 ? r
                     : msgpack_pack_str_body(&p->packer, value->via.str.ptr, value->via.str.size);
    case MSGPACK_OBJECT_BIN:
        r = msgpack_pack_bin(&p->packer, value->via.bin.size);
        return r < 0 ? r
                     : msgpack_pack_bin_body(&p->packer, value->via.bin.ptr, value->via.bin.size);
    case MSGPACK_OBJECT_ARRAY:
    case MSGPACK_OBJECT_MAP:
        return pack_nested(p, value);
    case MSGPACK_OBJECT_EXT:
        return pack_ext(p, &value->via.ext);
    }
    return mp__fail(MP_ETYPE, "this msgpack_object has no type of MessagePack");
}

int mp__value_pack(msgpack_object value, mp__buffer *bytes, mp__parcel *parcel)
{
    size_t size = bytes->size, count = parcel->count;
    packing p = { .parcel = parcel };
    int r;

    msgpack_packer_init(&p.packer, bytes, append);
    r = pack(&p, &value);
    if (r < 0) {
        bytes->size = size;
        parcel->count = count;
    }
    return r;
}

int mp__value_pack_apart(
    msgpack_object value, mp__buffer *bytes, mp__parcel *parcel, mp_bytes_view *rest)
{
    bool text = value.type == MSGPACK_OBJECT_STR;
    msgpack_packer packer;

    *rest = (mp_bytes_view){ NULL, 0 };
    if ((!text && value.type != MSGPACK_OBJECT_BIN) || value.via.bin.size < APART)
        return mp__value_pack(value, bytes, parcel);
    *rest = (mp_bytes_view){ value.via.bin.ptr, value.via.bin.size }; /* text has the same layout */
    msgpack_packer_init(&packer, bytes, append);
    return text ? msgpack_pack_str(&packer, rest->size) : msgpack_pack_bin(&packer, rest->size);
}

/* ---- decoding ---- */

#define EMPTY_LIST ((char)0x90)

mp__message *mp__message_own(mp_message *message)
{
    if (!message->own) {
        message->own = calloc(1, sizeof(*message->own));
        if (!message->own)
            (void)mp__fail(MP_ENOMEM, "out of memory for a message");
    }
    return message->own;
}

/* Messages that hold descriptors: a child of ours closes them, siblings wait for that. */
static mp__message *holders;

static void after_fork(bool ours)
{
    for (mp__message *m = holders; ours && m; m = m->next)
        for (size_t i = 0; i < m->parcel->count; i++) {
            if (m->parcel->fds[i] < 0)
                continue; /* it was taken */
            mp__fd_close(m->parcel->fds[i]);
            m->parcel->fds[i] = MP__LEFT_BEHIND;
        }
    if (ours)
        holders = NULL;
}

int mp__message_take(mp_message *message, mp__parcel *parcel)
{
    mp__message *own = message->own;

    if (!parcel->count)
        return 0;
    own->parcel = malloc(sizeof(*own->parcel));
    if (!own->parcel) {
        mp__parcel_close(parcel);
        return mp__fail(MP_ENOMEM, "out of memory for the handles of a message");
    }
    mp__hooks_after_fork(after_fork);
    mp__lock();
    *own->parcel = *parcel;
    parcel->count = 0;
    own->previous = NULL;
    own->next = holders;
    if (holders)
        holders->previous = own;
    holders = own;
    mp__unlock();
    return 0;
}

void mp__message_drop_handles(mp_message *message)
{
    mp__message *own = message->own;

    if (!own->parcel)
        return;
    mp__lock();
    if (own->previous)
        own->previous->next = own->next;
    else if (holders == own)
        holders = own->next;
    if (own->next)
        own->next->previous = own->previous;
    mp__parcel_close(own->parcel);
    mp__unlock();
    free(own->parcel);
    own->parcel = NULL;
}

void mp__message_reset(mp_message *message)
{
    mp__message *own = message->own;

    message->data = NULL;
    message->size = 0;
    message->value = mp_none();
    if (!own)
        return;
    while (own->received) {
        mp__received *next = own->received->next;

        mp__received_done(own->received);
        free(own->received);
        own->received = next;
    }
    mp__message_drop_handles(message);
    if (own->zone) /* else a fresh child would only load a page of msgpack-c */
        msgpack_zone_clear(own->zone);
    own->bytes.size = 0;
}

void mp_message_clear(mp_message *message)
{
    if (!message)
        return;
    mp__message_reset(message);
    if (!message->own)
        return;
    if (message->own->zone)
        msgpack_zone_free(message->own->zone);
    mp__buffer_done(&message->own->bytes);
    free(message->own);
    message->own = NULL;
}

/* A handle that came in: checked now, built when somebody asks for it. */
static int resolve_handle(mp__message *own, msgpack_object_ext *ext)
{
    const uint8_t *head = (const uint8_t *)ext->ptr;
    size_t first, count;
    mp__received *received;

    if (ext->type != MP__EXT_HANDLE || ext->size < HANDLE_HEADER ||
        ext->size > HANDLE_HEADER + MP__STATE_MAX)
        return mp__fail(MP_EPROTOCOL, "malformed handle in a message");
    first = (size_t)head[2] << 8 | head[3];
    count = head[1];
    if (count > MP__KIND_FDS_MAX || first + count > (own->parcel ? own->parcel->count : 0))
        return mp__fail(MP_EPROTOCOL, "a message lacks the descriptors of its handles");
    received = malloc(sizeof(*received));
    if (!received)
        return mp__fail(MP_ENOMEM, "out of memory for a handle");
    *received = (mp__received){ .state = head + HANDLE_HEADER,
        .size = ext->size - HANDLE_HEADER,
        .fds = count ? own->parcel->fds + first : NULL,
        .count = count,
        .code = head[0],
        .next = own->received };
    own->received = received;
    ext->type = MP__EXT_RECEIVED;
    ext->size = MP__EXT_LOCAL;
    ext->ptr = (const char *)received;
    return 0;
}

/* After decoding nothing needs the byte behind a text any more: it becomes its NUL. */
static void terminate_text(msgpack_object_str *text)
{
    if (text->size)
        ((char *)text->ptr)[text->size] = '\0';
    else
        text->ptr = "";
}

static int resolve(mp__message *own, msgpack_object *value)
{
    int r = 0;

    switch (value->type) {
    case MSGPACK_OBJECT_STR:
        terminate_text(&value->via.str);
        return 0;
    case MSGPACK_OBJECT_EXT:
        return value->via.ext.type >= MP__EXT_FIRST ? resolve_handle(own, &value->via.ext) : 0;
    case MSGPACK_OBJECT_ARRAY:
        for (uint32_t i = 0; i < value->via.array.size && r == 0; i++)
            r = resolve(own, &value->via.array.ptr[i]);
        return r;
    case MSGPACK_OBJECT_MAP:
        for (uint32_t i = 0; i < value->via.map.size && r == 0; i++) {
            r = resolve(own, &value->via.map.ptr[i].key);
            if (r == 0)
                r = resolve(own, &value->via.map.ptr[i].val);
        }
        return r;
    default:
        return 0;
    }
}

/* Protocol 2 or later. */
static bool is_pickle(const mp__buffer *bytes)
{
    return bytes->size > 2 && bytes->data[0] == (char)0x80 && bytes->data[1] >= 2 &&
           bytes->data[1] <= 5 && bytes->data[bytes->size - 1] == '.';
}

static int malformed(const mp__buffer *bytes, const char *wrong)
{
    return mp__fail(MP_EPROTOCOL, "a message of %zu bytes is malformed: %s%s", bytes->size, wrong,
        is_pickle(bytes) ? " (it looks like a pickle of Python's, which only Python reads: let it "
                           "use send_bytes)"
                         : "");
}

int mp__value_check(const mp_message *message)
{
    const mp__buffer *bytes = &message->own->bytes;
    int code;
    const char *wrong = mp__check(bytes->data, bytes->size, &code);

    if (wrong && code == MP_EPROTOCOL)
        return malformed(bytes, wrong);
    return wrong ? mp__fail(code, "a message of %zu bytes is not for us: %s", bytes->size, wrong)
                 : 0;
}

/* For all but none, bools and numbers msgpack-c makes a zone, if it is not given one. */
static bool needs_zone(uint8_t lead)
{
    return (lead >= 0x80 && lead <= 0xbf) || (lead >= 0xc4 && lead <= 0xc9) ||
           (lead >= 0xd4 && lead <= 0xdf);
}

static int unpack(mp__message *own, msgpack_object *value)
{
    msgpack_unpack_return answer = MSGPACK_UNPACK_NOMEM_ERROR;
    bool zone = own->bytes.size && needs_zone((uint8_t)own->bytes.data[0]);

    if (zone && !own->zone)
        own->zone = msgpack_zone_new(MSGPACK_ZONE_CHUNK_SIZE);
    if (!zone || own->zone)
        answer = msgpack_unpack(own->bytes.data, own->bytes.size, NULL, own->zone, value);
    if (answer == MSGPACK_UNPACK_NOMEM_ERROR)
        return mp__fail(MP_ENOMEM, "out of memory to decode a message");
    if (answer != MSGPACK_UNPACK_SUCCESS)
        return mp__fail(MP_EPROTOCOL, "msgpack-c refuses a message of %zu bytes", own->bytes.size);
    return resolve(own, value);
}

int mp__value_decode_checked(mp_message *message)
{
    mp__message *own = message->own;
    msgpack_object value = mp_list();
    int r = 0;

    if (own->bytes.size != 1 || own->bytes.data[0] != EMPTY_LIST) /* for which nothing is needed */
        r = unpack(own, &value);
    if (r == 0)
        message->value = value;
    return r;
}

int mp__value_decode(mp_message *message)
{
    const mp__buffer *bytes = &message->own->bytes;
    int code;
    const char *wrong = mp__check(bytes->data, bytes->size, &code);

    return wrong ? malformed(bytes, wrong) : mp__value_decode_checked(message);
}

bool mp__message_lends(const mp_message *message, const mp__handle *handle)
{
    const mp__received *one = message->own ? message->own->received : NULL;

    while (one && one != handle->lender)
        one = one->next;
    return handle->lender && one;
}
