/* SPDX-License-Identifier: MIT
 *
 * wait.c - mp_wait: several connections, sentinels, queues and descriptors at once.
 */
#include <multiprocessing/connection.h>

#include <stdlib.h>

#include <multiprocessing/process.h>

#include "clock_internal.h"
#include "connection_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "queues_internal.h"

mp_wait_item mp__wait_connection(const mp_connection *connection)
{
    return (mp_wait_item){ .connection = connection, .fd = -1 };
}

mp_wait_item mp__wait_process(const mp_process *process)
{
    return (mp_wait_item){ .process = process, .fd = -1 };
}

mp_wait_item mp__wait_queue(const mp_queue *queue)
{
    return (mp_wait_item){ .queue = queue, .fd = -1 };
}

mp_wait_item mp__wait_fd(int fd)
{
    return (mp_wait_item){ .fd = fd };
}

/*
 * A message whose length was read already, a stream that broke, and a queue that is not
 * empty are ready, whatever poll says.
 */
static bool is_pending(const mp_wait_item *item)
{
    if (item->queue)
        return mp__queue_ready(item->queue);
    return item->connection && mp__connection_pending(item->connection);
}

static int descriptor_of(const mp_wait_item *item)
{
    if (item->connection)
        return mp__connection_readable_fd(item->connection);
    if (item->process)
        return mp_process_sentinel(item->process);
    if (item->queue)
        return mp__queue_poll_fd(item->queue);
    return item->fd < 0
               ? mp__fail(MP_EBADF, "an item of mp_wait is NULL or descriptor %d", item->fd)
               : item->fd;
}

/* Fills in what to poll; pending counts those that are ready without. */
static int prepare(mp_wait_item *items, size_t count, struct pollfd *fds, int *pending)
{
    for (size_t i = 0; i < count; i++) {
        int fd = descriptor_of(&items[i]);

        items[i].ready = false;
        if (fd < 0)
            return fd;
        *pending += is_pending(&items[i]);
        fds[i] = (struct pollfd){ .fd = fd, .events = POLLIN };
    }
    return 0;
}

/* Of a queue its items count: its descriptor only says that there was one. */
static bool is_ready(const mp_wait_item *item, const struct pollfd *fd)
{
    if (is_pending(item))
        return true;
    if (item->queue && fd->revents)
        mp__queue_poll_again(item->queue);
    return !item->queue && fd->revents;
}

static int collect(mp_wait_item *items, size_t count, const struct pollfd *fds)
{
    int ready = 0;

    for (size_t i = 0; i < count; i++) {
        if (fds[i].revents & POLLNVAL)
            return mp__fail(
                MP_EBADF, "item %zu of mp_wait: descriptor %d is not open", i, fds[i].fd);
        items[i].ready = is_ready(&items[i], &fds[i]);
        ready += items[i].ready;
    }
    return ready;
}

static bool has_queue(const mp_wait_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (items[i].queue)
            return true;
    return false;
}

static int sleep_on(struct pollfd *fds, size_t count, int64_t deadline)
{
    int r = mp__fd_poll(fds, count, deadline);

    return r != MP_EINVAL ? r
                          : mp__fail(r,
                                "%zu items of mp_wait are more than this process may have "
                                "descriptors (ulimit -n)",
                                count);
}

/*
 * A queue may say that there is something when nothing is left, and who should have
 * said it may have been killed: look again, and now and then without being told.
 */
static int wait_for_items(mp_wait_item *items, size_t count, struct pollfd *fds, int64_t deadline)
{
    bool again = has_queue(items, count);
    int r;

    do {
        int pending = 0;

        r = prepare(items, count, fds, &pending);
        if (r == 0)
            r = sleep_on(fds, count, pending ? 0 : again ? mp__clock_slice(deadline) : deadline);
        if (r >= 0)
            r = collect(items, count, fds);
    } while (r == 0 && again && !mp__clock_over(deadline));
    return r;
}

int mp_wait(mp_wait_item *items, size_t count, double timeout)
{
    struct pollfd few[33];
    struct pollfd *fds = few;
    int64_t deadline = mp__clock_deadline(timeout);
    int r;

    if (!items && count)
        return mp__fail(MP_EINVAL, "%zu items of mp_wait at NULL", count);
    if (!count && deadline == MP__NEVER)
        return mp__fail(MP_EINVAL, "mp_wait for nothing would never end");
    if (count >= sizeof(few) / sizeof(*few))
        fds = malloc((count + 1) * sizeof(*fds));
    if (!fds)
        return mp__fail(MP_ENOMEM, "out of memory for mp_wait");
    r = wait_for_items(items, count, fds, deadline);
    if (fds != few)
        free(fds);
    return r;
}
