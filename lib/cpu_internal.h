/* SPDX-License-Identifier: MIT
 *
 * cpu_internal.h - how many CPUs this process may use.
 */
#ifndef MP__CPU_INTERNAL_H
#define MP__CPU_INTERNAL_H

/* At least 1. Affinity and quota are respected where the system has them. */
int mp__cpu_count(void);

#endif
