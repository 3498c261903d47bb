/* SPDX-License-Identifier: MIT
 *
 * socket_linux.c - pairs of descriptors, born close-on-exec.
 */
#include "socket_internal.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"

/* Few programs have closed their stdio, so mostly nothing is to be done. */
static int keep(int made[2], int fds[2])
{
    int r = 0;

    for (int i = 0; i < 2 && r == 0; i++)
        if (made[i] < MP__FD_LOW)
            r = mp__fd_raise(&made[i]);
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

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, made) < 0)
        return mp__fail_errno("cannot make a socket pair");
    return keep(made, fds);
}

int mp__socket_pipe(int fds[2])
{
    int made[2];

    if (pipe2(made, O_CLOEXEC) < 0)
        return mp__fail_errno("cannot make a pipe");
    return keep(made, fds);
}
