/* SPDX-License-Identifier: MIT
 *
 * shm_posix.c - shared memory by a name, which lives for two calls where none is
 * wanted.
 */
#include "shm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A name nobody else has, taken away at once. */
int mp__shm_create(void)
{
    static atomic_uint counter;
    char name[48];
    int fd;

    do {
        (void)snprintf(
            name, sizeof(name), "/mp-%ld-%u", (long)getpid(), atomic_fetch_add(&counter, 1));
        fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600); /* close-on-exec by definition */
    } while (fd < 0 && errno == EEXIST);
    if (fd >= 0)
        (void)shm_unlink(name); /* it is ours */
    return fd;
}

/* It lives in the file system of the names, which may be full; and so it never gets shorter. */
int mp__shm_extend(int fd, size_t size)
{
    return mp__shm_reserve(fd, size);
}

void mp__shm_seal(int fd)
{
    (void)fd; /* receivers of this library keep to it */
}

int mp__shm_draft(const char *name)
{
    char path[MP__SHM_NAME_MAX + 2];

    (void)snprintf(path, sizeof(path), "/%s", name);
    return shm_open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
}

int mp__shm_publish(int fd, const char *name)
{
    (void)fd;
    (void)name; /* it has its name */
    return 0;
}

int mp__shm_map_again(int fd, void *there, size_t size, bool readonly, void **memory)
{
    (void)there;
    return mp__shm_view(fd, size, readonly, memory);
}

/* POSIX gives back what lies at the end, by making the object shorter. */
void mp__shm_release_part(int fd, off_t begin, off_t end)
{
    struct stat status;

    if (fstat(fd, &status) == 0 && begin < status.st_size && status.st_size <= end)
        (void)ftruncate(fd, begin); /* or it stays as it is */
}
