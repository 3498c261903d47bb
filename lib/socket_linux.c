/* SPDX-License-Identifier: MIT
 *
 * socket_linux.c - sockets and pipes, born close-on-exec.
 */
#include "socket_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"

/* Since Linux 6.16, with this number where the common list of options is used. */
#ifndef SO_PASSRIGHTS
#if defined(__sparc__) || defined(__hppa__)
#define SO_PASSRIGHTS (-1) /* no option has it */
#else
#define SO_PASSRIGHTS 83
#endif
#endif

/* A write to a pipe that raises no SIGPIPE: since Linux 6.18. */
#ifndef RWF_NOSIGNAL
#define RWF_NOSIGNAL 0x100
#endif
#ifndef SYS_pwritev2
#define SYS_pwritev2 (-1) /* headers may be older than the kernel */
#endif

extern void __tsan_init(void) __attribute__((weak)); /* where a race detector is linked */

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

static atomic_bool no_quiet_write; /* the kernel does not do it */

/* A race detector would not see that such a write orders threads. */
static bool can_write_quietly(void)
{
    return !atomic_load_explicit(&no_quiet_write, memory_order_relaxed) && !__tsan_init;
}

/* Whether the kernel, or a filter of system calls, says no for ever, and not for that descriptor. */
static bool is_refused(int error, int fd)
{
    struct stat status;

    if (error == ENOSYS || error == EPERM || error == EACCES)
        return true;
    return (error == EOPNOTSUPP || error == EINVAL) && fstat(fd, &status) == 0 &&
           S_ISFIFO(status.st_mode);
}

/* What one call does not write, for whatever reason, is the general way's business. */
int mp__socket_write(int fd, struct iovec *vector, int parts)
{
    ssize_t n = 0;

    if (can_write_quietly())
        n = syscall(SYS_pwritev2, fd, vector, parts, -1L, -1L, RWF_NOSIGNAL);
    if (n < 0 && is_refused(errno, fd))
        atomic_store_explicit(&no_quiet_write, true, memory_order_relaxed);
    mp__fd_advance(&vector, &parts, n > 0 ? (size_t)n : 0);
    return parts ? mp__fd_write(fd, vector, parts) : 0;
}

int mp__socket_new(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r = 0;

    if (fd < 0)
        return mp__fail_errno("cannot make a socket");
    if (fd < MP__FD_LOW)
        r = mp__fd_raise(&fd);
    if (r < 0)
        mp__fd_close(fd);
    return r < 0 ? r : fd;
}

int mp__socket_accept(int fd, struct sockaddr *address, socklen_t *size)
{
    int client = accept4(fd, address, size, SOCK_CLOEXEC);

    if (client < 0)
        return -errno;
    if (client < MP__FD_LOW && mp__fd_raise(&client) < 0) {
        mp__fd_close(client);
        return -EMFILE;
    }
    return client;
}

bool mp__socket_is_trusted(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

void mp__socket_let_descriptors(int fd, bool may_come)
{
    int value = may_come;

    /* TCP does not know it, nor do older kernels: there they are dealt with as they come. */
    (void)setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &value, sizeof(value));
}

int mp__socket_watch_new(int *watch)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    int r = 0;

    if (fd < 0)
        return mp__fail_errno("cannot watch sockets");
    if (fd < MP__FD_LOW)
        r = mp__fd_raise(&fd);
    if (r < 0)
        mp__fd_close(fd);
    else
        *watch = fd;
    return r;
}

int mp__socket_watch(int watch, int fd)
{
    struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

    if (watch >= 0 && epoll_ctl(watch, EPOLL_CTL_ADD, fd, &event) < 0)
        return mp__fail_errno("cannot watch a socket");
    return 0;
}

void mp__socket_unwatch(int watch, int fd)
{
    if (watch >= 0)
        (void)epoll_ctl(watch, EPOLL_CTL_DEL, fd, NULL); /* fails only if it is not watched */
}
