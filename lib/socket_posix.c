/* SPDX-License-Identifier: MIT
 *
 * socket_posix.c - sockets and pipes, made close-on-exec; a fork in
 * another thread may come between.
 */
#include "socket_internal.h"

#include <errno.h>
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

int mp__socket_write(int fd, struct iovec *vector, int parts)
{
    return mp__fd_write(fd, vector, parts);
}

int mp__socket_new(int family)
{
    int fd = socket(family, SOCK_STREAM, 0);
    int r;

    if (fd < 0)
        return mp__fail_errno("cannot make a socket");
    r = mp__fd_raise(&fd);
    if (r == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        r = mp__fail_errno("cannot make a socket");
    if (r < 0)
        mp__fd_close(fd);
    return r < 0 ? r : fd;
}

/* Whether a client inherits that it does not block differs from system to system. */
int mp__socket_accept(int fd, struct sockaddr *address, socklen_t *size)
{
    int client = accept(fd, address, size);

    if (client < 0)
        return -errno;
    if (mp__fd_raise(&client) < 0 || fcntl(client, F_SETFL, 0) < 0) {
        mp__fd_close(client);
        return -EMFILE;
    }
    return client;
}

bool mp__socket_is_trusted(int fd)
{
    (void)fd;
    return true; /* a path has permissions, and nothing else is here */
}

void mp__socket_let_descriptors(int fd, bool may_come)
{
    (void)fd;
    (void)may_come; /* they are dealt with as they come */
}

int mp__socket_watch_new(int *watch)
{
    (void)watch;
    return 0;
}

int mp__socket_watch(int watch, int fd)
{
    (void)watch;
    (void)fd;
    return 0;
}

void mp__socket_unwatch(int watch, int fd)
{
    (void)watch;
    (void)fd;
}
