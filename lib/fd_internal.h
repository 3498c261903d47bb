/* SPDX-License-Identifier: MIT
 *
 * fd_internal.h - descriptors: the only place that loops on EINTR and on short
 * reads and writes. Descriptors of the library are close-on-exec and not below
 * 3, so a program that closed its stdio does not print into a channel.
 */
#ifndef MP__FD_INTERNAL_H
#define MP__FD_INTERNAL_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define MP__FD_LOW 3
#define MP__FDS_MAX 252 /* descriptors in one message: the kernel carries 253, musl 252 */

/* -1 is harmless. */
void mp__fd_close(int fd);
void mp__fd_close_all(const int *fds, size_t count);

/* Closes *fd and makes it -1. */
void mp__fd_drop(int *fd);

/* Moves *fd to 3 or above and makes it close-on-exec. On failure *fd is unchanged. */
int mp__fd_raise(int *fd);

/* A close-on-exec duplicate, 3 or above, or a negative code. */
int mp__fd_duplicate(int fd);

/*
 * Waits for fds[0..count-1]; fds[count] must exist and is used for
 * mp_interrupt. Returns how many are ready, 0 after the deadline, or a code.
 */
int mp__fd_poll(struct pollfd *fds, size_t count, int64_t deadline);

/* The same for one: 1, 0 or a code. */
int mp__fd_wait(int fd, short events, int64_t deadline);

/* Whether mp_interrupt was allowed: then poll before a call that may block. */
bool mp__fd_interruptible(void);

/*
 * For waits that cannot poll: takes an interrupt if one is pending. 0 or MP_EINTR.
 * Such a wait goes on in slices and looks here before each.
 */
int mp__fd_check_interrupt(void);

/* Reads once, at least one byte unless it is the end: how many, 0 at the end, or a code. */
ssize_t mp__fd_read(int fd, void *data, size_t size);

/*
 * The same on a socket; appends descriptors that come along to
 * fds[*count..MP__FDS_MAX). Sets *lost if there was no room for some.
 */
ssize_t mp__fd_receive(int fd, void *data, size_t size, int *fds, size_t *count, bool *lost);

/* Takes n bytes off the front of the vector. */
void mp__fd_advance(struct iovec **vector, int *parts, size_t n);

/*
 * Writes everything, or returns a code: with -EPIPE, not SIGPIPE, when nobody
 * reads. vector is used up. The descriptors go with the first byte.
 */
int mp__fd_write(int fd, struct iovec *vector, int parts);
int mp__fd_send(int fd, struct iovec *vector, int parts, const int *fds, size_t count);

/*
 * The same on a socket without waiting: how many bytes, at the beginning with the
 * descriptors; MP_EAGAIN, which is not recorded, when none could move.
 */
ssize_t mp__fd_try_send(int fd, struct iovec *vector, int parts, const int *fds, size_t count);
ssize_t mp__fd_try_receive(int fd, void *data, size_t size, int *fds, size_t *count, bool *lost);

/*
 * Looks at what a receive would bring, which stays: the descriptors are duplicates.
 * As mp__fd_try_receive.
 */
ssize_t mp__fd_try_peek(int fd, void *data, size_t size, int *fds, size_t *count, bool *lost);

/* Small messages go at once, for which TCP would wait. Nothing for other descriptors. */
void mp__fd_answer_fast(int fd);

/* A child made by fork does not share the interrupts of its parent. */
void mp__fd_after_fork(void);

#endif
