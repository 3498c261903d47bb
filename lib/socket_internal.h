/* SPDX-License-Identifier: MIT
 *
 * socket_internal.h - sockets and pipes, close-on-exec from birth and not
 * below 3.
 */
#ifndef MP__SOCKET_INTERNAL_H
#define MP__SOCKET_INTERNAL_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* A connected pair of Unix stream sockets. fds are untouched on failure. */
int mp__socket_pair(int fds[2]);

/* A pipe: fds[0] reads, fds[1] writes. */
int mp__socket_pipe(int fds[2]);

/* As mp__fd_write, but faster where the system can write to a pipe without SIGPIPE. */
int mp__socket_write(int fd, struct iovec *vector, int parts);

/* A stream socket that does not block, or a code. */
int mp__socket_new(int family);

/*
 * The next client of a listening socket that does not block; address and size as of
 * accept. A descriptor that blocks, or the negative errno, which is not recorded.
 */
int mp__socket_accept(int fd, struct sockaddr *address, socklen_t *size);

/* Whether the process at the other end of a Unix socket is one of our user, or of root. */
bool mp__socket_is_trusted(int fd);

/*
 * Whether descriptors may come over a Unix socket; of one that listens, over those of its
 * clients. Before Linux 6.16, and elsewhere, they always may.
 */
void mp__socket_let_descriptors(int fd, bool may_come);

/*
 * A descriptor that poll finds readable while one of those that it watches is. Where the
 * system has none (elsewhere than on Linux) *watch stays -1, and nothing is watched.
 * 0 or a code.
 */
int mp__socket_watch_new(int *watch);
int mp__socket_watch(int watch, int fd);
void mp__socket_unwatch(int watch, int fd);

#endif
