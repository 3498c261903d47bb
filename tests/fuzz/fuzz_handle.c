/* SPDX-License-Identifier: MIT
 *
 * fuzz_handle.c - a handle of each kind made of any state and of descriptors of any
 * sort: memory with any bytes, a pipe, a socket, none.
 */
#include "fuzz.h"

#include "reduction_internal.h"

#define KIND(type, kind) &kind,
static const mp__kind *const kinds[] = { MP__HANDLES(KIND) };

static int open_any(unsigned sort, const uint8_t *data, size_t size)
{
    int pair[2] = { -1, -1 };

    if (sort % 4 < 2)
        return memory_of(data, size);
    if (sort % 4 == 2)
        must(pipe(pair) == 0);
    (void)close(pair[1]);
    return pair[0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t count = sizeof(kinds) / sizeof(*kinds), fd_count, state_size;
    const mp__kind *kind;
    int fds[MP__KIND_FDS_MAX];
    void *object = NULL;

    if (size < 4)
        return 0;
    kind = kinds[data[0] % count];
    fd_count = data[1] % (MP__KIND_FDS_MAX + 1);
    state_size = data[2] < size - 4 ? data[2] : size - 4;
    for (size_t i = 0; i < fd_count; i++)
        fds[i] = open_any(data[3] >> 2 * i, data + 4 + state_size, size - 4 - state_size);
    if (kind->rebuild(data + 4, state_size, fds, fd_count, &object) == 0)
        kind->free(object);
    for (size_t i = 0; i < fd_count; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    return 0;
}
