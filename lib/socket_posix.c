/* SPDX-License-Identifier: MIT
 *
 * socket_posix.c - pairs of descriptors, made close-on-exec; a fork in
 * another thread may come between.
 */
#include "socket_internal.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"

static int keep(int made[2], int fds[2])
{
    int r = mp__fd_raise(&made[0]);

    if (r == 0)
        r = mp__fd_raise(&made[1]);
    if (r < 0) {
        mp__fd_close_all(made, 2);
        return r;
    }
    fds[0] = made[0];
    fds[1] = made[1];
    return 0;
}

int mp__socket_pair(int fds[2])
{
    int made[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, made) < 0)
        return mp__fail_errno("cannot make a socket pair");
    return keep(made, fds);
}

int mp__socket_pipe(int fds[2])
{
    int made[2];

    if (pipe(made) < 0)
        return mp__fail_errno("cannot make a pipe");
    return keep(made, fds);
}
