/* SPDX-License-Identifier: MIT
 *
 * shm_linux.c - shared memory by memfd, and named memory that gets its name when
 * it is complete.
 */
#include "shm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error_internal.h"

#define FOLDER "/dev/shm" /* where shm_open looks */

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* Nobody can cut it off behind the back of those who have it mapped. */
int mp__shm_create(void)
{
    int fd = memfd_create("multiprocessing", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd >= 0)
        (void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK); /* goes without, where it cannot be had */
    return fd;
}

/* Pages come with their first use, from the memory of the machine: no file system limits them. */
int mp__shm_extend(int fd, size_t size)
{
    return mp__shm_lengthen(fd, size);
}

void mp__shm_seal(int fd)
{
    (void)fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE); /* since Linux 5.1 */
}

static void in_folder(const char *name, char path[sizeof(FOLDER) + 1 + MP__SHM_NAME_MAX])
{
    (void)snprintf(path, sizeof(FOLDER) + 1 + MP__SHM_NAME_MAX, FOLDER "/%s", name);
}

/*
 * A file without a name in the folder of the names. Where there is none such, an
 * ordinary object, which has its name from the beginning.
 */
int mp__shm_draft(const char *name)
{
    char path[sizeof(FOLDER) + 1 + MP__SHM_NAME_MAX], slashed[MP__SHM_NAME_MAX + 2];
    int fd = -1;

    in_folder(name, path);
    if (access(path, F_OK) == 0) { /* it would be found at the end, when all is filled */
        errno = EEXIST;
        return -1;
    }
    if (access("/proc/self/fd", F_OK) == 0) /* by which it gets its name */
        fd = open(FOLDER, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || errno == EMFILE || errno == ENFILE || errno == ENOMEM)
        return fd;
    (void)snprintf(slashed, sizeof(slashed), "/%s", name);
    return shm_open(slashed, O_RDWR | O_CREAT | O_EXCL, 0600);
}

int mp__shm_publish(int fd, const char *name)
{
    char from[64], to[sizeof(FOLDER) + 1 + MP__SHM_NAME_MAX];
    struct stat status;

    if (fstat(fd, &status) == 0 && status.st_nlink > 0)
        return 0; /* it has its name */
    (void)snprintf(from, sizeof(from), "/proc/self/fd/%d", fd);
    in_folder(name, to);
    return linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW);
}

/* A sealed object cannot be mapped anew for writing, but its mapping can be doubled. */
int mp__shm_map_again(int fd, void *there, size_t size, bool readonly, void **memory)
{
    void *at = mremap(there, 0, size, MREMAP_MAYMOVE);

    (void)fd;
    (void)readonly;
    if (at == MAP_FAILED)
        return mp__fail_errno("cannot map shared memory");
    *memory = at;
    return 0;
}

void mp__shm_release_part(int fd, off_t begin, off_t end)
{
    /* Where it fails the memory stays until the end of the object: nothing depends on it. */
    (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, end - begin);
}
