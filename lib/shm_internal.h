/* SPDX-License-Identifier: MIT
 *
 * shm_internal.h - memory that processes share, as descriptors and mappings.
 * Without a name nothing of it can be left behind; names are for those who ask.
 */
#ifndef MP__SHM_INTERNAL_H
#define MP__SHM_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MP__SHM_NAME_MAX 254 /* characters that every shm_open takes, without the slash */

/* Which object it is: a name may stand for another one by now. */
typedef struct mp__shm_identity {
    uint64_t device, inode;
} mp__shm_identity;

/* ---- the twins' ---- */

/* An empty object without a name, or -1 and errno. */
int mp__shm_create(void);

/* Makes such an object at least size bytes long. Never shorter. 0 or a code. */
int mp__shm_extend(int fd, size_t size);

/* From now on others can map it only to read, where the system knows how. */
void mp__shm_seal(int fd);

/*
 * An empty object that is to have a name, which publish gives it where the
 * system can do that late: then nobody sees it half made, and whoever looks
 * after the name knows it before it is there. Or -1 and errno.
 */
int mp__shm_draft(const char *name);
int mp__shm_publish(int fd, const char *name);

/* Maps what is mapped there once more, with size bytes. */
int mp__shm_map_again(int fd, void *there, size_t size, bool readonly, void **memory);

/* ---- of all systems ---- */

/* A descriptor of size bytes of zeros, or a negative code. */
int mp__shm_open(size_t size);

/* The object of that name, or a negative code that was not recorded. */
int mp__shm_attach(const char *name, bool readonly);

/*
 * Makes it at least size bytes long, and has memory for all of them: what is not
 * there is an error now (MP_ENOSPC), not a signal later.
 */
int mp__shm_reserve(int fd, size_t size);

/* How long it is, and which one. 0, or MP_EPROTOCOL: that is no shared memory. */
int mp__shm_look(int fd, size_t *size, mp__shm_identity *identity);

/* Takes the name away if it still is that object's. 0, or -errno that was not recorded. */
int mp__shm_remove(const char *name, const mp__shm_identity *identity);

/* Maps it, readable and writable. 0 or a code. The descriptor is not needed any more. */
int mp__shm_map(int fd, size_t size, void **memory);

/* The same, perhaps only readable. */
int mp__shm_view(int fd, size_t size, bool readonly, void **memory);

/* New memory for this process and the copies it makes. 0 or a code. */
int mp__shm_inherit(size_t size, void **memory);

/* NULL is allowed. */
void mp__shm_unmap(void *memory, size_t size);

/* ---- in parts: an object of which only some parts have memory ---- */

/* Makes it at least size bytes long, which costs nothing. 0 or a code. */
int mp__shm_lengthen(int fd, size_t size);

/* As mp__shm_reserve, from offset on; what has memory keeps it. */
int mp__shm_reserve_part(int fd, off_t offset, off_t size);

/* Maps size bytes from offset on, both whole pages. 0 or a code. */
int mp__shm_map_part(int fd, off_t offset, size_t size, void **memory);

/*
 * The twins': gives back the memory of the bytes from begin to end, which become
 * zeros; what cannot be given back stays. Nobody may touch them meanwhile.
 */
void mp__shm_release_part(int fd, off_t begin, off_t end);

#endif
