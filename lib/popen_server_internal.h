/* SPDX-License-Identifier: MIT
 *
 * popen_server_internal.h - servers: processes that fork children for this one.
 */
#ifndef MP__POPEN_SERVER_INTERNAL_H
#define MP__POPEN_SERVER_INTERNAL_H

#include "forkserver_internal.h"
#include "popen_internal.h"

/* A server; a dead one is kept until its last child has ended. Under mp__lock. */
typedef struct mp__server mp__server;
struct mp__server {
    mp__popen popen;
    mp_connection *channel;
    int statuses;
    int ends[MP__ENDS_MAX]; /* to spares that were not taken, and to those to come */
    size_t end_count;
    uint64_t used;  /* ends that are gone; the next has the next number */
    uint64_t owned; /* the serial of the last child, and what spares after it came to */
    mp__status early[MP__ENDS_MAX];
    size_t early_count;
    uint64_t wishes;     /* of offers that were waited for */
    unsigned spares;     /* it shall have, as far as it is asked in advance; 0: none */
    char *directory;     /* where it works: where we did when it was started */
    mp__popen *children; /* whose end is not known yet */
    unsigned waiters;    /* threads that use its descriptors without mp__lock, and who keeps it */
    bool current;        /* the fork server of this process */
    bool mute;           /* it did not say in time how a child ended */
    mp__server *next;
};

/* One that does not run yet, and is not on the list. NULL: out of memory. */
mp__server *mp__server_new(void);

/* Frees one that never ran. NULL is allowed. */
void mp__server_discard(mp__server *server);

/* It runs: channel, statuses and popen are there. */
void mp__server_enlist(mp__server *server);

/* The one that is current, or NULL. */
mp__server *mp__server_current(void);

/* Not current any more: it goes with its last child. */
void mp__server_retire(mp__server *server);

/* It may be freed as far as this thread is concerned. */
void mp__server_release(mp__server *server);

/* Ends and frees those that are not current, kept or needed by a child. */
void mp__server_end_useless(void);

bool mp__server_has_hung_up(const mp__server *server);

/* Whether a request failed so because the server is dead. */
bool mp__server_is_dead(int r);

/* The lines of a child to be; our ends are in *popen, and so known as ours, from now on. */
int mp__server_open_lines(const mp__job *job, mp__lines *lines, mp__popen *popen);

/* The child is that server's, which tells how it ends. MP_EPIPE: it has ended already. */
int mp__server_own(mp__server *server, mp__popen *popen);

/* It is as if it had never been. */
void mp__server_disown(mp__popen *popen);

/* Says that there shall be so many offers; waits: for one of them. */
int mp__server_wish(mp__server *server, size_t count, bool waits);

/* Starts a child, one at a time. */
int mp__server_request(
    mp__server *server, const mp__job *job, const mp__lines *lines, mp__popen *popen);

/* The end of a request that returned r, which is returned: closes what is not needed. */
int mp__server_settle(int r, mp__lines *lines, mp__popen *popen);

#endif
