/* SPDX-License-Identifier: MIT
 *
 * shm.c - memory that processes share: made by its twin, sized and mapped here.
 */
#include "shm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"

#define STEP ((off_t)4 << 20) /* a signal undoes all that one call has done, so it does little */

int mp__shm_open(size_t size)
{
    int fd = mp__shm_create();
    int r;

    if (fd < 0)
        return mp__fail_errno("cannot make shared memory");
    r = mp__shm_extend(fd, size);
    if (r == 0)
        r = mp__fd_raise(&fd);
    if (r < 0)
        mp__fd_close(fd);
    return r < 0 ? r : fd;
}

/* shm_open wants a slash, as Python puts one. */
static void with_slash(const char *name, char path[MP__SHM_NAME_MAX + 2])
{
    (void)snprintf(path, MP__SHM_NAME_MAX + 2, "/%s", name);
}

int mp__shm_attach(const char *name, bool readonly)
{
    char path[MP__SHM_NAME_MAX + 2];
    int fd;

    with_slash(name, path);
    fd = shm_open(path, (readonly ? O_RDONLY : O_RDWR) | O_NONBLOCK, 0); /* it may be a FIFO */
    if (fd < 0)
        return -errno;
    if (mp__fd_raise(&fd) < 0) {
        mp__fd_close(fd);
        return MP_EMFILE;
    }
    return fd;
}

static int no_memory(int code, size_t size)
{
    if (code == MP_ENOSPC)
        return mp__fail(code,
            "no space left for %zu bytes of shared memory: the file system they live in (/dev/shm) "
            "is full. Remove what nobody uses there, mount it larger, or use anonymous memory",
            size);
    return mp__fail(code, "cannot make %zu bytes of shared memory: %s", size, mp_strerror(code));
}

/* Whether the file system can have so much at all: else the attempt would fill it meanwhile. */
static bool has_space(int fd, size_t size)
{
    struct statvfs space;
    struct stat status;
    uint64_t there;

    if (fstatvfs(fd, &space) < 0 || fstat(fd, &status) < 0 || space.f_blocks == 0)
        return true; /* it has no limit, or does not tell */
    there = (uint64_t)status.st_blocks * 512;
    return size <= there || (size - there + space.f_frsize - 1) / space.f_frsize <= space.f_bavail;
}

int mp__shm_reserve_part(int fd, off_t offset, off_t size)
{
    off_t end = offset + size;
    int e = 0;

    while (offset < end && (e == 0 || e == EINTR)) {
        off_t step = end - offset < STEP ? end - offset : STEP;

        e = posix_fallocate(fd, offset, step);
        if (e == 0)
            offset += step;
    }
    return e ? no_memory(-e, (size_t)size) : 0;
}

/* Beyond the limit the system does not fail but kills, by SIGXFSZ. */
static int check_size(size_t size)
{
    struct rlimit limit;

    if (size > PTRDIFF_MAX)
        return mp__fail(-EFBIG, "%zu bytes of shared memory are more than a file can have", size);
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 &&
        (rlim_t)size > limit.rlim_cur) /* infinity is the largest */
        return mp__fail(-EFBIG,
            "%zu bytes of shared memory are more than the %llu this process may give a file: raise "
            "the limit (ulimit -f, RLIMIT_FSIZE)",
            size, (unsigned long long)limit.rlim_cur);
    return 0;
}

int mp__shm_reserve(int fd, size_t size)
{
    int r = check_size(size);

    if (r == 0 && !has_space(fd, size))
        r = no_memory(MP_ENOSPC, size);
    return r == 0 ? mp__shm_reserve_part(fd, 0, (off_t)size) : r;
}

/* Somebody else may make it longer meanwhile: then it cannot be cut off, and need not. */
int mp__shm_lengthen(int fd, size_t size)
{
    struct stat status;
    int r;

    if (fstat(fd, &status) < 0)
        return mp__fail_errno("cannot look at shared memory");
    if ((uint64_t)status.st_size >= size)
        return 0;
    r = check_size(size);
    if (r < 0 || ftruncate(fd, (off_t)size) == 0)
        return r;
    if (errno == EPERM && fstat(fd, &status) == 0 && status.st_size >= (off_t)size)
        return 0;
    return mp__fail_errno("cannot make shared memory larger");
}

int mp__shm_look(int fd, size_t *size, mp__shm_identity *identity)
{
    struct stat status;

    if (fstat(fd, &status) < 0)
        return mp__fail_errno("cannot look at shared memory");
    if (!S_ISREG(status.st_mode) || status.st_size < 0)
        return mp__fail(MP_EPROTOCOL, "a descriptor that should be shared memory is none");
    if ((uint64_t)status.st_size > PTRDIFF_MAX)
        return mp__fail(-EFBIG, "this shared memory is larger than the address space");
    *size = (size_t)status.st_size;
    *identity = (mp__shm_identity){ (uint64_t)status.st_dev, (uint64_t)status.st_ino };
    return 0;
}

int mp__shm_remove(const char *name, const mp__shm_identity *identity)
{
    char path[MP__SHM_NAME_MAX + 2];
    mp__shm_identity there = *identity; /* where it cannot be seen */
    struct stat status;
    int fd;

    with_slash(name, path);
    fd = shm_open(path, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0 && errno != EACCES && errno != EMFILE && errno != ENFILE)
        return -errno;
    if (fd >= 0 && fstat(fd, &status) == 0)
        there = (mp__shm_identity){ (uint64_t)status.st_dev, (uint64_t)status.st_ino };
    mp__fd_close(fd);
    if (memcmp(&there, identity, sizeof(there)) != 0)
        return -ENOENT; /* ours went before, and somebody made another one */
    return shm_unlink(path) < 0 ? -errno : 0;
}

static int map(int flags, int fd, off_t offset, size_t size, int protection, void **memory)
{
    void *at = mmap(NULL, size, protection, MAP_SHARED | flags, fd, offset);

    if (at == MAP_FAILED)
        return mp__fail_errno("cannot map shared memory");
    *memory = at;
    return 0;
}

int mp__shm_map(int fd, size_t size, void **memory)
{
    return mp__shm_view(fd, size, false, memory);
}

int mp__shm_map_part(int fd, off_t offset, size_t size, void **memory)
{
    return map(0, fd, offset, size, PROT_READ | PROT_WRITE, memory);
}

int mp__shm_view(int fd, size_t size, bool readonly, void **memory)
{
    return map(0, fd, 0, size, readonly ? PROT_READ : PROT_READ | PROT_WRITE, memory);
}

int mp__shm_inherit(size_t size, void **memory)
{
    return map(MAP_ANONYMOUS, -1, 0, size, PROT_READ | PROT_WRITE, memory);
}

void mp__shm_unmap(void *memory, size_t size)
{
    if (memory)
        (void)munmap(memory, size); /* fails for wrong arguments only */
}
