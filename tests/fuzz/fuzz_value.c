/* SPDX-License-Identifier: MIT
 *
 * fuzz_value.c - a received text of MessagePack, without descriptors. What can be
 * decoded can be packed again, and is then the same.
 */
#include "fuzz.h"

#include "value_internal.h"

static void decode(mp_message *message, const void *data, size_t size, int *r)
{
    mp__message *own = mp__message_own(message);

    must(own && mp__buffer_reserve(&own->bytes, size + 1) == 0);
    must(mp__buffer_append(&own->bytes, data, size) == 0);
    *r = mp__value_decode(message);
}

/* What cannot be packed again is only a handle that lacks its descriptors, or is too long. */
static void pack_again(const mp_message *message)
{
    mp__buffer once = { 0 }, twice = { 0 };
    mp__parcel parcel = { .count = 0 };
    mp_message copy = MP_MESSAGE_INIT;
    int r;

    if (mp__value_pack(message->value, &once, &parcel) == 0) {
        decode(&copy, once.data, once.size, &r);
        must(r == 0 && mp__value_pack(copy.value, &twice, &parcel) == 0);
        must(once.size == twice.size && memcmp(once.data, twice.data, once.size) == 0);
    }
    mp_message_clear(&copy);
    mp__buffer_done(&once);
    mp__buffer_done(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mp_message message = MP_MESSAGE_INIT;
    int r;

    decode(&message, data, size, &r);
    if (r == 0) {
        take_apart(&message.value);
        pack_again(&message);
    }
    mp_message_clear(&message);
    return 0;
}
