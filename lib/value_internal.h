/* SPDX-License-Identifier: MIT
 *
 * value_internal.h - values to bytes and back. Only value_message.c knows
 * msgpack-c's packer and unpacker.
 */
#ifndef MP__VALUE_INTERNAL_H
#define MP__VALUE_INTERNAL_H

#include <multiprocessing/value.h>

#include "buffer_internal.h"
#include "check_internal.h"
#include "reduction_internal.h"

/*
 * Extension types 0x70 to 0x7f are the library's. In memory a size of MP__EXT_LOCAL says
 * that ptr is one of our objects.
 */
#define MP__EXT_FIRST 0x70
#define MP__EXT_HANDLE 0x70   /* in memory: ptr is an mp__handle */
#define MP__EXT_RECEIVED 0x71 /* in memory only: an mp__received */
#define MP__EXT_POISON 0x72   /* in memory only: ptr says why this cannot be packed */
#define MP__EXT_TOO_LONG 0x73 /* the same */
#define MP__EXT_LOCAL UINT32_MAX

/* What is behind an mp_message. */
typedef struct mp__message {
    mp__buffer bytes;
    mp__parcel *parcel; /* descriptors that came along, -1 where one was taken; or NULL */
    mp__received *received;
    msgpack_zone *zone;                  /* what it was decoded into, or NULL */
    struct mp__message *previous, *next; /* in the list of those with descriptors */
} mp__message;

struct mp_call {
    mp_message arguments;
    mp_error raised;
    int (*answer)(mp_call *call, msgpack_object value); /* takes the answer; NULL: nobody does */
    bool answered, refused; /* mp_unpack did not find what it was to take */
    size_t index;           /* of the item in its map */
    int64_t soft_expiry;    /* when the soft time limit of the item is over, or 0 */
};

/* The inside of a message, made at need. NULL: MP_ENOMEM. */
mp__message *mp__message_own(mp_message *message);

/*
 * The descriptors of a received message become this one's; in a child of ours they
 * are closed. 0, or MP_ENOMEM, and they are gone.
 */
int mp__message_take(mp_message *message, mp__parcel *parcel);

/* Closes them: of a message received as bytes nobody can ask for them. */
void mp__message_drop_handles(mp_message *message);

/* Empties it but keeps its memory for the next one. */
void mp__message_reset(mp_message *message);

/*
 * Appends the value as bytes; its handles' descriptors go to parcel, lent. On
 * failure the buffer is as before.
 */
int mp__value_pack(msgpack_object value, mp__buffer *bytes, mp__parcel *parcel);

/*
 * The same, but long text or bytes that are the whole value are not copied: *rest is what
 * comes behind the packed bytes, lent by the value; else it is empty.
 */
int mp__value_pack_apart(
    msgpack_object value, mp__buffer *bytes, mp__parcel *parcel, mp_bytes_view *rest);

/* The value of a variable: of integers, bool, float, and of anything else as its bytes. */
void mp__load(enum mp__slot_type type, size_t size, const void *data, msgpack_object *value);

/* And back, as mp_unpack: 0, MP_ETYPE or MP_ERANGE. */
int mp__store(enum mp__slot_type type, size_t size, const msgpack_object *value, void *to);

/*
 * Decodes the bytes of a message into message->value: exactly one value, within
 * the limits. Needs one spare byte of capacity behind them.
 */
int mp__value_decode(mp_message *message);

/* Its two halves: MP_EPROTOCOL, or MP_ETOOLONG or MP_ETOODEEP for a limit; then the rest. */
int mp__value_check(const mp_message *message);
int mp__value_decode_checked(mp_message *message);

/* Whether that came with this message, and would end if something else were received into it. */
bool mp__message_lends(const mp_message *message, const mp__handle *handle);

#endif
