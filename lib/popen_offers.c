/* SPDX-License-Identifier: MIT
 *
 * popen_offers.c - taking a spare that a server offers, and telling it what to be:
 * the owner's side. See forkserver.c.
 */
#include "popen_server_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "orders_internal.h"
#include "pid_internal.h"
#include "socket_internal.h"

#define NURSERY_NS 1000000000 /* for a nursery to fork a worker */
#define STOCK 1               /* sockets in advance, for each spare */
#define REQUESTS_MAX 8        /* spares that are tried for one child */

typedef mp__server server;

/* ---- offers ---- */

/* Pairs of sockets, whose other ends are for spares, until there are so many. */
static int add_ends(server *s, size_t count, mp__parcel *theirs)
{
    int pair[2];
    int r = 0;

    while (s->end_count < count && s->end_count < MP__ENDS_MAX && r == 0) {
        r = mp__socket_pair(pair);
        if (r < 0)
            break;
        s->ends[s->end_count++] = pair[0];
        theirs->fds[theirs->count++] = pair[1];
    }
    return theirs->count || s->end_count >= count ? 0 : r;
}

/* What was not sent is not there. */
static void take_back_ends(server *s, size_t count)
{
    s->end_count -= count;
    mp__fd_close_all(s->ends + s->end_count, count);
}

int mp__server_wish(server *s, size_t count, bool waits)
{
    mp__wish wish = { .number = waits ? ++s->wishes : 0, .used = s->used, .count = count };
    int fd = mp_connection_fileno(s->channel);
    mp__parcel theirs;
    int r;

    if (fd < 0)
        return fd;
    theirs.count = 0;
    mp__hooks_hold_forks(); /* until only those have them who shall */
    wish.first = s->used + s->end_count + 1;
    r = add_ends(s, count + STOCK * s->spares, &theirs);
    wish.ends = theirs.count;
    if (r == 0)
        r = mp__fd_send(fd, &(struct iovec){ &wish, sizeof(wish) }, 1, theirs.fds, theirs.count);
    if (r < 0)
        take_back_ends(s, theirs.count);
    mp__parcel_close(&theirs);
    mp__hooks_let_forks();
    return r;
}

/* The ends up to that serial were used, or will never be. */
static void drop_ends(server *s, uint64_t serial)
{
    while (s->used < serial && s->end_count) {
        mp__fd_close(s->ends[0]);
        memmove(s->ends, s->ends + 1, --s->end_count * sizeof(*s->ends));
        s->used++;
    }
}

/* The spare of an offer that has come: 1, or a code. */
static int accept_offer(server *s, const mp__offer *offer, mp__parcel *parcel, mp__popen *popen,
    mp_connection **channel)
{
    int r = s->end_count ? mp__connection_adopt_socket(&s->ends[0], channel) : MP_EEOF;

    drop_ends(s, offer->serial);
    if (r == 0 && mp__pid_has_descriptors() && parcel->count == 0) {
        r = mp__fail(MP_EMFILE, "the descriptor of a new child was lost: this process may not "
                                "open more (ulimit -n)");
        mp_connection_free(*channel);
        *channel = NULL;
    }
    if (r < 0)
        return r;
    if (parcel->count) {
        popen->descriptor = parcel->fds[0];
        parcel->fds[0] = -1;
    }
    popen->pid = (pid_t)offer->pid;
    popen->serial = offer->serial;
    return 1;
}

/* What an offer says: 1 and the spare, 0 when the server is to be asked again, or a code. */
static int consider(server *s, const mp__offer *offer, mp__parcel *parcel, mp__popen *popen,
    mp_connection **channel)
{
    int code = (int)offer->pid;

    drop_ends(s, offer->serial - (offer->pid > 0));
    if (offer->pid > 0)
        return accept_offer(s, offer, parcel, popen, channel);
    return offer->wish != s->wishes || code == 0
               ? 0
               : mp__fail(code, "the fork server cannot fork: %s", mp_strerror(code));
}

static int read_offer(server *s, mp__popen *popen, mp_connection **channel, uint64_t *asked)
{
    mp__parcel parcel;
    mp__offer offer;
    bool lost = false;
    ssize_t n;
    int r;

    parcel.count = 0;
    n = mp__fd_try_receive(
        mp_connection_fileno(s->channel), &offer, sizeof(offer), parcel.fds, &parcel.count, &lost);
    if (n == sizeof(offer) && offer.pid <= 0 && offer.wish == *asked)
        *asked = 0;
    if (n == sizeof(offer))
        r = consider(s, &offer, &parcel, popen, channel);
    else
        r = n == MP_EAGAIN ? 0 : n < 0 ? (int)n : MP_EEOF;
    mp__parcel_close(&parcel);
    return r;
}

/*
 * What is to be read; if that is wanted, it is waited for: a start is not interrupted. But
 * a pool does not wait for a nursery that is stopped: it can do without.
 */
static short look(const server *s, bool wait)
{
    struct pollfd one = { .fd = mp_connection_fileno(s->channel), .events = POLLIN };
    int64_t deadline = !wait ? 0 : s->spares ? MP__NEVER : mp__clock_now() + NURSERY_NS;
    struct timespec left;
    int n;

    do
        n = ppoll(&one, 1, mp__clock_left(deadline, &left), NULL);
    while (n < 0 && errno == EINTR);
    return n < 0 || (n == 0 && wait) ? POLLHUP : one.revents;
}

/* A spare, which is asked for when none is there. MP_EEOF: the server is gone. */
static int take_offer(server *s, mp__popen *popen, mp_connection **channel)
{
    uint64_t asked = 0; /* the number of our wish, unless it was answered */
    int r = 0;

    while (r == 0) {
        short events = look(s, asked != 0);

        if (events & (POLLHUP | POLLERR | POLLNVAL))
            return MP_EEOF;
        if (events) {
            mp__hooks_hold_forks(); /* until it is known whose they are */
            r = read_offer(s, popen, channel, &asked);
            mp__hooks_let_forks();
        } else {
            r = mp__server_wish(s, s->spares ? s->spares : 1, true);
            asked = s->wishes;
        }
    }
    return r < 0 ? r : 0;
}

/* ---- requests ---- */

static int send_request(
    server *s, mp_connection *channel, const mp__job *job, const mp__lines *lines)
{
    char *directory = getcwd(NULL, 0);
    bool moved = directory && (!s->directory || strcmp(directory, s->directory) != 0);
    int r =
        mp__orders_send(channel, job, moved ? directory : NULL, lines->lifeline[0], lines->life[1]);

    free(directory);
    return r;
}

/* It is known as a child before it is told: so its end is seen, whenever that comes. */
static int request(server *s, const mp__job *job, const mp__lines *lines, mp__popen *popen)
{
    mp_connection *channel = NULL;
    int r = take_offer(s, popen, &channel);

    if (r < 0)
        return r;
    r = mp__server_own(s, popen);
    if (r == 0)
        r = send_request(s, channel, job, lines);
    if (r < 0)
        mp__server_disown(popen);
    mp_connection_free(channel);
    return r;
}

/* Without an offer at hand, or without sockets for those that the server makes by itself. */
static bool runs_low(const server *s)
{
    return s->spares && (s->end_count <= s->spares || !look(s, false));
}

/* A spare that is dead has not read the request. */
int mp__server_request(server *s, const mp__job *job, const mp__lines *lines, mp__popen *popen)
{
    int r = MP_EPIPE;

    for (int i = 0; i < REQUESTS_MAX && (r == MP_EPIPE || r == MP_ECONNRESET); i++)
        r = request(s, job, lines, popen);
    if (r == 0 && runs_low(s))
        (void)mp__server_wish(s, s->spares, false); /* the next one finds out if it is dead */
    return r;
}
