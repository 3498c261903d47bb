/* SPDX-License-Identifier: MIT
 *
 * greeter.c - a shared library with functions for children: one it exports and a
 * static one it hands out.
 */
#include <multiprocessing.h>

int plugin_square(mp_call *call);
mp_function plugin_hidden(void);

int plugin_square(mp_call *call)
{
    int x;

    if (mp_unpack(call, &x))
        return 1;
    return x * x;
}

static int cube(mp_call *call)
{
    int x;

    if (mp_unpack(call, &x))
        return 1;
    return x * x * x;
}

mp_function plugin_hidden(void)
{
    return cube;
}
