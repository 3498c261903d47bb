/* SPDX-License-Identifier: MIT
 *
 * context_internal.h - which start method counts.
 */
#ifndef MP__CONTEXT_INTERNAL_H
#define MP__CONTEXT_INTERNAL_H

#include <multiprocessing/context.h>

#include "bootstrap_internal.h"

/* The method of a context; of the default one (NULL) it is chosen now. 0 or MP_EINVAL. */
int mp__context_method(const mp_context *context, enum mp__method *method);

/* "Fork", "Spawn", "ForkServer", "": what names of its processes begin with. */
const char *mp__context_prefix(const mp_context *context);

/* A child's default is the method it was started with. */
void mp__context_settle(enum mp__method method);

#endif
