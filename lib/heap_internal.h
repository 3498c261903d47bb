/* SPDX-License-Identifier: MIT
 *
 * heap_internal.h - blocks of anonymous shared memory: the body of an object that
 * several processes use. A block lasts as long as somebody holds it, and travels
 * as one descriptor.
 */
#ifndef MP__HEAP_INTERNAL_H
#define MP__HEAP_INTERNAL_H

#include <stddef.h>

#include "reduction_internal.h"

typedef struct mp__block {
    int fd;
    size_t size;
    void *memory; /* zeros at first */
} mp__block;

#define MP__BLOCK_NONE ((mp__block){ .fd = -1 })

/* *block must be MP__BLOCK_NONE and is as that on failure. 0, MP_ENOMEM, MP_EMFILE, ... */
int mp__block_new(size_t size, mp__block *block);

/* The block that arrived, of at least least bytes. Takes *fd on success. Or MP_EPROTOCOL. */
int mp__block_adopt(int *fd, size_t least, mp__block *block);

/* What of it travels: the descriptor, lent. */
void mp__block_reduce(const mp__block *block, mp__reduced *reduced);

/* Harmless for MP__BLOCK_NONE, which it is afterwards. */
void mp__block_done(mp__block *block);

#endif
