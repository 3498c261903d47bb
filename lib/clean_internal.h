/* SPDX-License-Identifier: MIT
 *
 * clean_internal.h - what a copy of a process gives up before it is somebody else.
 */
#ifndef MP__CLEAN_INTERNAL_H
#define MP__CLEAN_INTERNAL_H

#include <stdint.h>

#define MP__SIGNAL(sig) (UINT64_C(1) << ((sig)-1))

/*
 * In the process to be copied: which signals mp__clean_up must reset, as bits. It
 * keeps two descriptors for the next time.
 */
uint64_t mp__clean_prepare(void);

/* In the copy: those have their default dispositions. */
void mp__clean_signals(uint64_t signals);

/* The same, and nothing is blocked, and stdin is /dev/null. */
void mp__clean_up(uint64_t signals);

#endif
