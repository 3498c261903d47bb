/* SPDX-License-Identifier: MIT
 *
 * cpu_posix.c - the CPUs of the machine; POSIX knows nothing finer.
 */
#include "cpu_internal.h"

#include <unistd.h>

int mp__cpu_count(void)
{
    return mp__cpu_allowed();
}

int mp__cpu_allowed(void)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);

    return online < 1 ? 1 : (int)online;
}
