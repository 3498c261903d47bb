/* SPDX-License-Identifier: MIT
 *
 * identity_internal.h - the process object from within.
 */
#ifndef MP__IDENTITY_INTERNAL_H
#define MP__IDENTITY_INTERNAL_H

#include <multiprocessing/process.h>
#include <stdatomic.h>

#include "bootstrap_internal.h"
#include "context_internal.h"

enum mp__role { MP__CHILD, MP__CURRENT, MP__PARENT };

struct mp_process {
    enum mp__role role;
    const char *name;
    mp_function target;
    mp__buffer arguments;
    mp__parcel parcel;
    const mp_context *context;
    mp_bytes_view authkey;
    const uint32_t *path;
    size_t path_length;
    char *own_name; /* what of the above is this object's; a child lends what it was told */
    mp__buffer own_authkey;
    uint32_t *own_path;
    bool daemon, starting, freed;
    atomic_bool started, closed; /* written with mp__lock held, read without */
    pid_t creator;
    mp__popen popen;
    mp_process *previous, *next; /* in mp__children */
};

extern mp_process mp__current, mp__parent;
extern unsigned mp__depth; /* of this process; 0 is the root */

/* The number of the next child this process describes. With mp__lock held. */
uint32_t mp__next_child(void);

/* 0, MP_EINVAL for NULL, MP_ECLOSED. */
int mp__process_check_open(const mp_process *process);

/* The same, and MP_ECREATOR. */
int mp__process_check_ours(const mp_process *process);

/* The authkey, lent; that of the root is made when it is first asked for. */
int mp__process_get_authkey(const mp_process *process, const void **key, size_t *size);

/* This process is that child, whose identity lasts as long as the process. */
void mp__process_become(const mp__child *child);

#endif
