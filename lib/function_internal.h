/* SPDX-License-Identifier: MIT
 *
 * function_internal.h - functions on their way to another process of the same
 * program: which module, which offset, and the identity of the module.
 */
#ifndef MP__FUNCTION_INTERNAL_H
#define MP__FUNCTION_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include <multiprocessing/value.h>

#include "buffer_internal.h"

#define MP__IDENTITY_MAX 64

typedef struct mp__function {
    const char *module; /* lent; "" for the program itself */
    uint64_t offset;    /* from where the module is loaded */
    uint8_t identity[MP__IDENTITY_MAX];
    size_t identity_size;
} mp__function;

/* 0, or MP_EFUNCTION for an address in no module's code. Lends the name of that module. */
int mp__function_describe(void (*function)(void), mp__function *description);

/* Its bytes for a message, appended; and back, lending the module's name: 0, or MP_EPROTOCOL. */
int mp__function_encode(const mp__function *description, mp__buffer *bytes);
int mp__function_decode(const void *data, size_t size, mp__function *description);

/* How many modules were unloaded so far: addresses told before may be other functions since. */
unsigned long long mp__function_unloads(void);

/* Finds it here, loading the module if need be. 0, or MP_EFUNCTION with the reason. */
int mp__function_find(const mp__function *description, void (**function)(void));

#endif
