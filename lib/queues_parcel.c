/* SPDX-License-Identifier: MIT
 *
 * queues_parcel.c - descriptors of items, and a descriptor to poll. When which of
 * it is done is queues.c's business.
 */
#include "queues_parcel_internal.h"

#include <errno.h>
#include <sys/socket.h>

#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "socket_internal.h"

int mp__queue_parcel_open(int fds[2])
{
    int most = 1 << 24; /* the system makes it what it allows */
    int r = mp__socket_pair(fds);

    if (r == 0)
        (void)setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &most, sizeof(most)); /* or as it is */
    return r;
}

int mp__queue_parcel_put(const int fds[2], uint64_t ticket, const mp__parcel *parcel)
{
    struct iovec part = { &ticket, sizeof(ticket) };
    ssize_t n = mp__fd_try_send(fds[0], &part, 1, parcel->fds, parcel->count);

    if (n == (ssize_t)sizeof(ticket))
        return 0;
    if (n >= 0 || n == MP_EAGAIN || n == -ETOOMANYREFS)
        return mp__fail(MP_EAGAIN, "the system holds no more descriptors for this queue: take "
                                   "items with handles out of it before more are put");
    return (int)n;
}

/* One read: the bytes there are, none if there is nothing to read. Descriptors are closed. */
static ssize_t swallow(int fd, void *data, size_t size)
{
    mp__parcel parcel;
    bool lost = false;
    ssize_t n;

    parcel.count = 0;
    mp__hooks_begin_receiving();
    n = mp__fd_try_receive(fd, data, size, parcel.fds, &parcel.count, &lost);
    mp__parcel_close(&parcel);
    mp__hooks_end_receiving();
    return n < 0 ? 0 : n;
}

static int gone(void)
{
    return mp__fail(MP_EPROTOCOL, "an item came without its descriptors: another process that "
                                  "uses this queue is damaged");
}

static int look(const int fds[2], uint64_t *ticket, mp__parcel *parcel)
{
    bool lost = false;
    ssize_t n;

    parcel->count = 0;
    n = mp__fd_try_peek(fds[1], ticket, sizeof(*ticket), parcel->fds, &parcel->count, &lost);
    if (n == (ssize_t)sizeof(*ticket) && !lost)
        return 0;
    mp__parcel_close(parcel);
    if (lost)
        return mp__fail(MP_EMFILE, "this process may not open the descriptors of the next item "
                                   "(ulimit -n), which stays in the queue");
    return n < 0 && n != MP_EAGAIN ? (int)n : gone();
}

int mp__queue_parcel_look(const int fds[2], uint64_t ticket, mp__parcel *parcel)
{
    uint64_t found = 0;
    int r;

    while ((r = look(fds, &found, parcel)) == 0 && found < ticket) {
        mp__parcel_close(parcel);
        mp__queue_parcel_drop(fds);
    }
    if (r == 0 && found != ticket) {
        mp__parcel_close(parcel);
        r = gone();
    }
    return r;
}

void mp__queue_parcel_drop(const int fds[2])
{
    uint64_t ticket;

    (void)swallow(fds[1], &ticket, sizeof(ticket));
}

void mp__queue_parcel_drop_all(const int fds[2])
{
    uint64_t ticket;

    while (swallow(fds[1], &ticket, sizeof(ticket)) > 0)
        ;
}

void mp__queue_parcel_signal(const int fds[2])
{
    static const mp__parcel none; /* no descriptors */
    struct iovec part = { (char[]){ 1 }, 1 };

    (void)mp__fd_try_send(fds[1], &part, 1, none.fds, 0); /* full: it is readable */
}

void mp__queue_parcel_hush(const int fds[2])
{
    char bytes[64];

    while (swallow(fds[0], bytes, sizeof(bytes)) > 0)
        ;
}
