/* SPDX-License-Identifier: MIT
 *
 * buffer.c - bytes that grow.
 */
#include "buffer_internal.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "error_internal.h"

#define SMALLEST 256

int mp__buffer_reserve(mp__buffer *buffer, size_t size)
{
    char *data;

    if (size <= buffer->capacity)
        return 0;
    data = realloc(buffer->data, size);
    if (!data)
        return mp__fail(MP_ENOMEM, "out of memory for a message of %zu bytes", size);
    buffer->data = data;
    buffer->capacity = size;
    return 0;
}

int mp__buffer_append(mp__buffer *buffer, const void *data, size_t size)
{
    size_t wanted = buffer->size + size;
    int r;

    if (wanted < size)
        return mp__fail(MP_ENOMEM, "out of memory");
    if (wanted > buffer->capacity) {
        size_t grown = buffer->capacity > SIZE_MAX / 2 ? wanted : buffer->capacity * 2;

        if (grown < SMALLEST)
            grown = SMALLEST;
        r = mp__buffer_reserve(buffer, grown > wanted ? grown : wanted);
        if (r < 0)
            return r;
    }
    if (size)
        memcpy(buffer->data + buffer->size, data, size);
    buffer->size = wanted;
    return 0;
}

void mp__buffer_reset(mp__buffer *buffer, size_t keep)
{
    if (buffer->capacity > keep)
        mp__buffer_done(buffer);
    buffer->size = 0;
}

void mp__buffer_done(mp__buffer *buffer)
{
    free(buffer->data);
    *buffer = (mp__buffer){ 0 };
}
