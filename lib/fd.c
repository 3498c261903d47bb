/* SPDX-License-Identifier: MIT
 *
 * fd.c - descriptors: every loop on EINTR, EAGAIN and short counts stands here.
 * What the bytes mean is not its business.
 */
#include "fd_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock_internal.h"
#include "error_internal.h"

#define CALL_MAX ((size_t)0x3ffff000) /* bytes in one part of one call: some systems refuse 2 GiB */

static int interrupt_pipe[2] = { -1, -1 };
static atomic_int interrupt_writer = -1; /* what the signal handler may use */

void mp__fd_close(int fd)
{
    if (fd >= 0)
        (void)close(fd); /* the descriptor is gone whatever it says */
}

void mp__fd_close_all(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mp__fd_close(fds[i]);
}

void mp__fd_drop(int *fd)
{
    int old = *fd;

    if (old < 0)
        return; /* not even a page of a forked child is written */
    *fd = -1;
    mp__fd_close(old);
}

int mp__fd_duplicate(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, MP__FD_LOW);

    return copy < 0 ? mp__fail_errno("cannot duplicate a descriptor") : copy;
}

int mp__fd_raise(int *fd)
{
    int copy;

    if (*fd >= MP__FD_LOW)
        return fcntl(*fd, F_SETFD, FD_CLOEXEC) < 0 ? mp__fail_errno("descriptor") : 0;
    copy = mp__fd_duplicate(*fd);
    if (copy < 0)
        return copy;
    mp__fd_close(*fd);
    *fd = copy;
    return 0;
}

int mp_allow_interrupt(void)
{
    int fds[2] = { -1, -1 };
    int r = 0;

    if (interrupt_pipe[0] >= 0)
        return 0;
    if (pipe(fds) < 0)
        return mp__fail_errno("cannot make a pipe for mp_interrupt");
    for (int i = 0; i < 2 && r == 0; i++) {
        r = mp__fd_raise(&fds[i]);
        if (r == 0 && fcntl(fds[i], F_SETFL, O_NONBLOCK) < 0)
            r = mp__fail_errno("pipe for mp_interrupt");
    }
    if (r < 0) {
        mp__fd_close_all(fds, 2);
        return r;
    }
    interrupt_pipe[0] = fds[0];
    interrupt_pipe[1] = fds[1];
    atomic_store(&interrupt_writer, fds[1]);
    return 0;
}

void mp_interrupt(void)
{
    int saved = errno;
    int fd = atomic_load(&interrupt_writer);

    if (fd >= 0 && write(fd, "", 1) < 0)
        errno = saved; /* full: an interrupt is pending already */
    errno = saved;
}

bool mp__fd_interruptible(void)
{
    return atomic_load_explicit(&interrupt_writer, memory_order_acquire) >= 0;
}

void mp__fd_after_fork(void)
{
    if (!mp__fd_interruptible())
        return; /* not even a page is written */
    atomic_store(&interrupt_writer, -1);
    mp__fd_drop(&interrupt_pipe[0]);
    mp__fd_drop(&interrupt_pipe[1]);
}

/* Takes one interrupt, if one is pending and no other thread is faster. */
static bool interrupted(void)
{
    char byte;

    return read(interrupt_pipe[0], &byte, 1) == 1;
}

static int interrupt_error(void)
{
    return mp__fail(MP_EINTR, "a signal handler called mp_interrupt");
}

int mp__fd_check_interrupt(void)
{
    return mp__fd_interruptible() && interrupted() ? interrupt_error() : 0;
}

int mp__fd_poll(struct pollfd *fds, size_t count, int64_t deadline)
{
    struct timespec left;
    bool watch = deadline != 0 && mp__fd_interruptible(); /* a look does not block */
    int n;

    fds[count] = (struct pollfd){ .fd = watch ? interrupt_pipe[0] : -1, .events = POLLIN };
    for (;;) {
        n = ppoll(fds, (nfds_t)(count + watch), mp__clock_left(deadline, &left), NULL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mp__fail_errno("poll");
        if (!watch || !fds[count].revents)
            return n;
        if (n == 1 && interrupted())
            return interrupt_error();
        if (n > 1)
            return n - 1; /* what is ready comes first; the interrupt stays pending */
    }
}

int mp__fd_wait(int fd, short events, int64_t deadline)
{
    struct pollfd fds[2] = { { .fd = fd, .events = events } };
    int n = mp__fd_poll(fds, 1, deadline);

    if (n > 0 && fds[0].revents & POLLNVAL)
        return mp__fail(MP_EBADF, "descriptor %d is not open", fd);
    return n;
}

/* Whether a call that failed may be tried again; waits if it would have blocked. */
static bool again(int fd, short events)
{
    struct pollfd one = { .fd = fd, .events = events };

    if (errno == EINTR)
        return true;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
        return false;
    while (poll(&one, 1, -1) < 0)
        if (errno != EINTR)
            return false;
    return true;
}

ssize_t mp__fd_read(int fd, void *data, size_t size)
{
    ssize_t n;

    if (size > CALL_MAX)
        size = CALL_MAX;
    do
        n = read(fd, data, size);
    while (n < 0 && again(fd, POLLIN));
    return n < 0 ? mp__fail_errno("read") : n;
}

/* Descriptors of the control data, appended to fds. False if some had to be dropped. */
static bool take_descriptors(struct msghdr *message, int *fds, size_t *count)
{
    bool all = !(message->msg_flags & MSG_CTRUNC);

    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (*count < MP__FDS_MAX && mp__fd_raise(&fd) == 0) { /* it ends with exec, too */
                fds[(*count)++] = fd;
            } else {
                mp__fd_close(fd);
                all = false;
            }
        }
    }
    return all;
}

#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#endif

static ssize_t receive(
    int fd, void *data, size_t size, int *fds, size_t *count, bool *lost, int flags)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * MP__FDS_MAX)];
    } control;
    struct iovec part = { .iov_base = data, .iov_len = size > CALL_MAX ? CALL_MAX : size };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    ssize_t n;

    do {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | flags);
    } while (n < 0 && (flags ? errno == EINTR : again(fd, POLLIN)));
    if (n < 0 && flags && (errno == EAGAIN || errno == EWOULDBLOCK))
        return MP_EAGAIN;
    if (n < 0)
        return mp__fail_errno("recvmsg");
    if (message.msg_flags & MSG_CTRUNC || message.msg_controllen)
        *lost |= !take_descriptors(&message, fds, count);
    return n;
}

ssize_t mp__fd_receive(int fd, void *data, size_t size, int *fds, size_t *count, bool *lost)
{
    return receive(fd, data, size, fds, count, lost, 0);
}

ssize_t mp__fd_try_receive(int fd, void *data, size_t size, int *fds, size_t *count, bool *lost)
{
    return receive(fd, data, size, fds, count, lost, MSG_DONTWAIT);
}

ssize_t mp__fd_try_peek(int fd, void *data, size_t size, int *fds, size_t *count, bool *lost)
{
    return receive(fd, data, size, fds, count, lost, MSG_DONTWAIT | MSG_PEEK);
}

void mp__fd_advance(struct iovec **vector, int *parts, size_t n)
{
    while (*parts && n >= (*vector)->iov_len) {
        n -= (*vector)->iov_len;
        (*vector)++;
        (*parts)--;
    }
    if (*parts) {
        (*vector)->iov_base = (char *)(*vector)->iov_base + n;
        (*vector)->iov_len -= n;
    }
}

/* One call's worth of the vector: at most two parts, none above CALL_MAX. */
static int slice(const struct iovec *vector, int parts, struct iovec out[2])
{
    int n = parts > 1 && vector[0].iov_len <= CALL_MAX ? 2 : 1;

    for (int i = 0; i < n; i++) {
        out[i] = vector[i];
        if (out[i].iov_len > CALL_MAX)
            out[i].iov_len = CALL_MAX;
    }
    return n;
}

typedef struct {
    sigset_t only, old; /* SIGPIPE; the mask of this thread */
    bool pending;       /* one was there before: it is not ours to take */
} hold;

/* Blocks SIGPIPE in this thread; a write to a pipe has no flag against it. */
static void hold_sigpipe(hold *h)
{
    sigset_t pending;

    sigemptyset(&h->only);
    sigaddset(&h->only, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &h->only, &h->old); /* cannot fail with these arguments */
    h->pending = sigismember(&h->old, SIGPIPE) && sigpending(&pending) == 0 &&
                 sigismember(&pending, SIGPIPE);
}

/* Undoes it; takes away the signal our own write raised. */
static void release_sigpipe(const hold *h, bool raised)
{
    struct timespec now = { 0, 0 };

    while (raised && !h->pending && sigtimedwait(&h->only, NULL, &now) < 0 && errno == EINTR)
        ;
    (void)pthread_sigmask(SIG_SETMASK, &h->old, NULL);
}

int mp__fd_write(int fd, struct iovec *vector, int parts)
{
    struct iovec some[2];
    hold h;
    ssize_t n = 0;
    int r = 0;

    hold_sigpipe(&h);
    for (mp__fd_advance(&vector, &parts, 0); parts; mp__fd_advance(&vector, &parts, (size_t)n)) {
        do
            n = writev(fd, some, slice(vector, parts, some));
        while (n < 0 && again(fd, POLLOUT));
        if (n < 0) {
            r = mp__fail_errno("write");
            break;
        }
    }
    release_sigpipe(&h, r == -EPIPE);
    return r;
}

static void attach(struct msghdr *message, void *control, const int *fds, size_t count)
{
    struct cmsghdr *c = control;

    message->msg_control = control;
    message->msg_controllen = (socklen_t)CMSG_SPACE(sizeof(int) * count);
    memset(control, 0, message->msg_controllen);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = (socklen_t)CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
}

int mp__fd_send(int fd, struct iovec *vector, int parts, const int *fds, size_t count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * MP__FDS_MAX)];
    } control;
    struct iovec some[2];
    struct msghdr message = { .msg_iov = some };
    ssize_t n = 0;

    if (count > MP__FDS_MAX)
        return mp__fail(MP_ETOOLONG, "%zu descriptors in one message; at most %d can travel", count,
            MP__FDS_MAX);
    if (count)
        attach(&message, &control, fds, count);
    for (mp__fd_advance(&vector, &parts, 0); parts; mp__fd_advance(&vector, &parts, (size_t)n)) {
        message.msg_iovlen = (size_t)slice(vector, parts, some);
        do
            n = sendmsg(fd, &message, MSG_NOSIGNAL);
        while (n < 0 && again(fd, POLLOUT));
        if (n < 0)
            return mp__fail_errno("send");
        message.msg_control = NULL;
        message.msg_controllen = 0;
    }
    return 0;
}

ssize_t mp__fd_try_send(int fd, struct iovec *vector, int parts, const int *fds, size_t count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * MP__FDS_MAX)];
    } control;
    struct iovec some[2];
    struct msghdr message = { .msg_iov = some };
    ssize_t n;

    if (count)
        attach(&message, &control, fds, count);
    mp__fd_advance(&vector, &parts, 0);
    message.msg_iovlen = (size_t)slice(vector, parts, some);
    do
        n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return MP_EAGAIN;
    return n < 0 ? mp__fail_errno("send") : n;
}

void mp__fd_answer_fast(int fd)
{
    int yes = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}
