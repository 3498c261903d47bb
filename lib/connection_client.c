/* SPDX-License-Identifier: MIT
 *
 * connection_client.c - connecting to a listener, within a time.
 */
#include <multiprocessing/connection.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "clock_internal.h"
#include "connection_address_internal.h"
#include "connection_auth_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "socket_internal.h"

#define RETRY_MS 5

/* Until it is connected. A Unix socket whose listener has enough to do is tried again. */
static int connect_until(int fd, const mp__address *address, const char *text, int64_t deadline)
{
    int error = 0, r = 0;
    socklen_t size = sizeof(error);

    while (connect(fd, (const struct sockaddr *)&address->name, address->size) < 0) {
        if (errno == EISCONN)
            return 0;
        if (errno == EINPROGRESS || errno == EALREADY || errno == EINTR)
            break;
        if (errno != EAGAIN)
            return mp__fail(-errno, "cannot connect to %s: %s", text, strerror(errno));
        r = mp__clock_over(deadline) ? MP_ETIMEDOUT : mp__fd_check_interrupt();
        if (r < 0)
            return r == MP_ETIMEDOUT ? mp__fail(r, "%s does not accept", text) : r;
        (void)poll(NULL, 0, RETRY_MS);
    }
    r = mp__fd_wait(fd, POLLOUT, deadline);
    if (r > 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error)
        return mp__fail(-error, "cannot connect to %s: %s", text, strerror(error));
    return r > 0 ? 0 : r < 0 ? r : mp__fail(MP_ETIMEDOUT, "%s does not accept", text);
}

static int authenticate(int fd, mp_bytes_view key, int64_t deadline)
{
    mp__handshake h;
    int r;

    if (!key.data)
        return key.size ? mp__fail(MP_EINVAL, "an authkey at NULL") : 0;
    mp__handshake_begin(&h, false, key.data, key.size);
    while ((r = mp__handshake_advance(&h, fd)) == 0) {
        r = mp__fd_wait(fd, POLLIN, deadline);
        if (r == 0)
            r = mp__fail(MP_ETIMEDOUT, "the listener does not answer: it may want no key");
        if (r < 0)
            return r;
    }
    return r < 0 ? r : 0;
}

/* A connection of that family which leads nowhere yet. */
static int open_client(int family, mp_connection **connection)
{
    int fd;

    mp__hooks_hold_forks(); /* until it is known as a connection */
    fd = mp__socket_new(family);
    if (fd >= 0)
        *connection = mp_connection_new(&fd);
    if (fd >= 0) {
        mp__fd_close(fd);
        fd = mp_last_error()->code;
    }
    mp__hooks_let_forks();
    return *connection ? 0 : fd;
}

static int connect_client(const mp_client_options *o, mp_connection **connection)
{
    int64_t deadline = o->timeout == 0 ? MP__NEVER : mp__clock_deadline(o->timeout);
    mp__address address = { .size = 0 };
    int r = mp__address_read(o->address, o->family, false, &address);
    int fd;

    if (r == 0)
        r = open_client(address.name.ss_family, connection);
    if (r < 0)
        return r;
    fd = mp_connection_fileno(*connection);
    if (o->authkey.data)
        mp__socket_let_descriptors(fd, false); /* until the listener has shown the key */
    r = connect_until(fd, &address, o->address, deadline);
    if (r == 0 && fcntl(fd, F_SETFL, 0) < 0)
        r = mp__fail_errno("cannot use a socket");
    if (r == 0)
        r = authenticate(fd, o->authkey, deadline);
    if (r == 0)
        mp__fd_answer_fast(fd);
    return r;
}

mp_connection *mp_client_create(const mp_client_options *o)
{
    mp_connection *c = NULL;
    mp_error why;

    if (!o->address) {
        (void)mp__fail(MP_EINVAL, "mp_client needs an address");
        return NULL;
    }
    if (connect_client(o, &c) == 0)
        return c;
    why = *mp_last_error();
    mp_connection_free(c);
    (void)mp__fail(why.code, "%s", why.text);
    return NULL;
}
