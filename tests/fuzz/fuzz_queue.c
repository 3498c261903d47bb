/* SPDX-License-Identifier: MIT
 *
 * fuzz_queue.c - a queue whose items another process has overwritten with anything:
 * who gets them is told, and is not hung.
 */
#include "fuzz.h"

#include "queues_internal.h"

static void overwrite(mp_queue *q, const uint8_t *data, size_t size)
{
    mp__queue_view *view = &q->ring.put;
    size_t n = size < view->size ? size : view->size;

    memcpy(view->memory, data, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_queue *q = mp_queue_new();

    must(q != NULL);
    for (int i = 0; i < 4; i++)
        must(mp_queue_put(q, mp_list("an item", i), 0) == 0);
    overwrite(q, data, size);
    for (int i = 0; i < 5; i++)
        if (mp_queue_get(q, &message, 0) == 0)
            take_apart(&message.value);
    (void)mp_queue_qsize(q);
    mp_message_clear(&message);
    mp_queue_free(q);
    return 0;
}
