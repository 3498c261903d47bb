/* SPDX-License-Identifier: MIT
 *
 * fuzz_shareable_list.c - shared memory that claims to hold a list, as another
 * process may have written it: each item is read, found, counted, and set.
 */
#include "fuzz.h"

#include "reduction_internal.h"

static void use(mp_shareable_list *list)
{
    size_t length = mp_shareable_list_len(list), found;
    mp_message message = MP_MESSAGE_INIT;
    char format[64];

    (void)mp_shareable_list_format(list, format, sizeof(format));
    for (size_t i = 0; i < length && i < 64; i++) {
        if (mp_shareable_list_get(list, (ptrdiff_t)i, &message) == 0)
            take_apart(&message.value);
        (void)mp_shareable_list_set(list, (ptrdiff_t)i, i % 2 ? mp_object("text") : mp_object(7));
        (void)mp_shareable_list_get(list, -(ptrdiff_t)i, &message);
    }
    (void)mp_shareable_list_count(list, "text", &found);
    (void)mp_shareable_list_index(list, 7, &found);
    mp_message_clear(&message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t writable[] = { 0 };
    int fd = memory_of(data, size);
    void *list = NULL;

    if (mp__shareable_list_kind.rebuild(writable, sizeof(writable), &fd, 1, &list) == 0) {
        use(list);
        mp_shareable_list_free(list);
    }
    if (fd >= 0)
        (void)close(fd);
    return 0;
}
