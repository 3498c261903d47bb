/* SPDX-License-Identifier: MIT
 *
 * equal_internal.h - whether two values are equal.
 */
#ifndef MP__EQUAL_INTERNAL_H
#define MP__EQUAL_INTERNAL_H

#include <multiprocessing/value.h>

/* Numbers of any type are compared exactly, text is never bytes; no lists, dicts or handles. */
bool mp__equal(const msgpack_object *a, const msgpack_object *b);

#endif
