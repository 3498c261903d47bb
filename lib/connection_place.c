/* SPDX-License-Identifier: MIT
 *
 * connection_place.c - where a listener listens: an address of its own where none was
 * asked for, and paths, which are removed in the end.
 */
#include "connection_place_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "error_internal.h"
#include "hooks_internal.h"

#define NAME "/listener" /* in a folder of our own */

/* ---- of our own choice ---- */

/* Where temporary files are, from the root on: we may work elsewhere later. */
static char *find_temporary(void)
{
    const char *tmp = getenv("TMPDIR");
    char *whole;

    if (!tmp || !*tmp)
        tmp = "/tmp";
    whole = *tmp == '/' ? strdup(tmp) : realpath(tmp, NULL);
    if (!whole)
        (void)mp__fail(-errno, "no folder TMPDIR at %s: %s", tmp, strerror(errno));
    return whole;
}

/* A folder in there, and a name in it. */
static int make_path(mp__place *p)
{
    char *tmp = find_temporary();
    size_t room = sizeof(((struct sockaddr_un *)NULL)->sun_path) - sizeof(NAME);
    int n;

    if (!tmp)
        return mp_last_error()->code;
    n = snprintf(p->text, sizeof(p->text), "%s/mp-XXXXXX", tmp);
    free(tmp);
    if (n < 0 || (size_t)n > room)
        return mp__fail(MP_ENAMETOOLONG, "TMPDIR is too long for the path of a Unix socket");
    if (!mkdtemp(p->text))
        return mp__fail_errno("cannot make a folder for a socket");
    p->folder = strdup(p->text);
    if (!p->folder) {
        (void)rmdir(p->text);
        return mp__fail(MP_ENOMEM, "out of memory for a listener");
    }
    (void)strcat(p->text, NAME);
    return 0;
}

int mp__place_find(mp__place *p, const char *text, const char *family, mp__address *address)
{
    int r = 0;

    p->creator = mp__hooks_pid();
    if (text)
        (void)snprintf(p->text, sizeof(p->text), "%s", text);
    else if (!family || strcmp(family, "AF_UNIX") == 0)
        r = make_path(p);
    else /* a localhost that has no address of IPv6 is no rarity */
        (void)snprintf(p->text, sizeof(p->text), "%s",
            strcmp(family, "AF_INET6") == 0 ? "[::1]:0" : "localhost:0");
    return r < 0 ? r : mp__address_read(text ? text : p->text, family, true, address);
}

/* ---- the socket ---- */

/* Whether a listener that was killed may have left its path there. */
static bool is_socket(const char *path)
{
    struct stat status;

    return path && stat(path, &status) == 0 && S_ISSOCK(status.st_mode);
}

static int remember_path(mp__place *p, const char *path)
{
    struct stat status;

    if (!path || stat(path, &status) < 0)
        return 0;
    p->path = realpath(path, NULL); /* wherever we work later */
    p->device = status.st_dev;
    p->inode = status.st_ino;
    if (p->path)
        return 0;
    (void)unlink(path);
    return mp__fail(MP_ENOMEM, "out of memory for a listener");
}

/* What the system says of where it is. */
static void note_address(mp__place *p, int fd, const mp__address *asked)
{
    mp__address address = { .size = sizeof(address.name) };

    p->is_abstract = asked->name.ss_family == AF_UNIX && !mp__address_path(asked);
    (void)getsockname(fd, (struct sockaddr *)&address.name, &address.size);
    mp__address_write(&address, p->text);
}

int mp__place_bind(mp__place *p, int fd, const mp__address *address)
{
    int yes = 1, e;

    if (address->name.ss_family != AF_UNIX)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(fd, (const struct sockaddr *)&address->name, address->size) == 0) {
        note_address(p, fd, address);
        return remember_path(p, mp__address_path(address));
    }
    e = errno;
    return mp__fail(-e, "cannot listen at %s: %s%s", p->text, strerror(e),
        e == EADDRINUSE && is_socket(mp__address_path(address))
            ? " (a path stays when its listener was killed: remove it then)"
            : "");
}

/* Somebody may have put another socket there. */
void mp__place_remove(const mp__place *p)
{
    struct stat status;

    if (p->creator != mp__hooks_pid())
        return;
    if (p->path && stat(p->path, &status) == 0 && status.st_dev == p->device &&
        status.st_ino == p->inode)
        (void)unlink(p->path);
    if (p->folder)
        (void)rmdir(p->folder);
}

void mp__place_done(mp__place *p)
{
    free(p->path);
    free(p->folder);
    p->path = p->folder = NULL;
}
