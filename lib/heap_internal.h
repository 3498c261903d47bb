/* SPDX-License-Identifier: MIT
 *
 * heap_internal.h - blocks of anonymous shared memory: the body of an object that
 * several processes use. A block lasts as long as somebody holds it, and travels
 * as one descriptor.
 */
#ifndef MP__HEAP_INTERNAL_H
#define MP__HEAP_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "reduction_internal.h"

typedef struct mp__block {
    int fd;
    size_t size;
    void *memory;  /* zeros at first */
    bool readonly; /* here */
} mp__block;

#define MP__BLOCK_NONE ((mp__block){ .fd = -1 })

/* *block must be MP__BLOCK_NONE and is as that on failure. 0, MP_ENOMEM, MP_EMFILE, ... */
int mp__block_new(size_t size, mp__block *block);

/* The block that arrived, of at least least bytes. Takes *fd on success. Or MP_EPROTOCOL. */
int mp__block_adopt(int *fd, size_t least, mp__block *block);

/* The same, perhaps to be read only. */
int mp__block_view(int *fd, size_t least, bool readonly, mp__block *block);

/* Those who map it from now on can only read, where the system knows how to see to that. */
void mp__block_seal(mp__block *block);

/*
 * Maps at least size bytes of it, and has extend make it that long if nobody did
 * before; memory may move. 0, MP_EPERM: it is not that long, and can only be read
 * here. On failure nothing has changed.
 */
int mp__block_grow(mp__block *block, size_t size, int (*extend)(int fd, size_t size));

/* What of it travels: the descriptor, lent. */
void mp__block_reduce(const mp__block *block, mp__reduced *reduced);

/* Harmless for MP__BLOCK_NONE, which it is afterwards. */
void mp__block_done(mp__block *block);

#endif
