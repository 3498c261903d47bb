/* SPDX-License-Identifier: MIT
 *
 * pools.h - what tests of pools share: a pool that must begin, and tasks.
 */
#ifndef TESTS_POOLS_H
#define TESTS_POOLS_H

#include "support.h"

#define make_pool(...) check_pool(mp_pool_new(__VA_ARGS__))

static inline mp_pool *check_pool(mp_pool *pool)
{
    if (!pool)
        fail_msg("no pool: %s", mp_last_error()->text);
    return pool;
}

static inline int square(mp_call *call)
{
    long x;

    return mp_unpack(call, &x) ? 1 : mp_return(call, x * x);
}

static inline int multiply(mp_call *call)
{
    long x, y;

    return mp_unpack(call, &x, &y) ? 1 : mp_return(call, x * y);
}

static inline int refuse(mp_call *call)
{
    return mp_raise(call, 42, "refused");
}

#endif
