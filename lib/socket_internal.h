/* SPDX-License-Identifier: MIT
 *
 * socket_internal.h - pairs of descriptors, close-on-exec from birth and not
 * below 3.
 */
#ifndef MP__SOCKET_INTERNAL_H
#define MP__SOCKET_INTERNAL_H

/* A connected pair of Unix stream sockets. fds are untouched on failure. */
int mp__socket_pair(int fds[2]);

/* A pipe: fds[0] reads, fds[1] writes. */
int mp__socket_pipe(int fds[2]);

#endif
