/* SPDX-License-Identifier: MIT
 *
 * sparse_linux.c - giving back memory anywhere in an object.
 */
#include "sparse_internal.h"

#include <fcntl.h>

void mp__sparse_release(int fd, off_t begin, off_t end)
{
    /* Where it fails the memory stays until the end of the object: nothing depends on it. */
    (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, end - begin);
}
