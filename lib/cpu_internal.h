/* SPDX-License-Identifier: MIT
 *
 * cpu_internal.h - how many CPUs this process may use.
 */
#ifndef MP__CPU_INTERNAL_H
#define MP__CPU_INTERNAL_H

/* At least 1. Those this process may run on; quick. */
int mp__cpu_allowed(void);

/* At least 1. Quotas are respected too, where the system has them. */
int mp__cpu_count(void);

#endif
