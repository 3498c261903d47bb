/* SPDX-License-Identifier: MIT
 *
 * connection_address.c - addresses: what a text means, and what is said of a socket.
 */
#include "connection_address_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "error_internal.h"

/* The port behind the last colon, if there is one that looks like it. */
static const char *find_port(const char *text)
{
    const char *colon = strrchr(text, ':');

    return colon && colon[1] && colon[1 + strspn(colon + 1, "0123456789")] == '\0' ? colon : NULL;
}

/* hint: what to do if it was meant as something else, or "". */
static int no_host(const char *text, const char *hint)
{
    return mp__fail(MP_EINVAL, "\"%s\" is not host:port or [host]:port, with a port up to %d%s",
        text, UINT16_MAX, hint);
}

/* Whether a number of IPv4 stands before the end or a colon: nobody calls a path so. */
static bool begins_with_number(const char *text)
{
    char number[INET_ADDRSTRLEN];
    size_t length = strcspn(text, ":");
    struct in_addr address;

    if (length >= sizeof(number))
        return false;
    memcpy(number, text, length);
    number[length] = '\0';
    return inet_pton(AF_INET, number, &address) == 1;
}

/* As it looks, where no family is told. Python's hosts are IPv4. */
static int guess_family(const char *text)
{
    const char *port = find_port(text);

    if (*text == '@' || strchr(text, '/'))
        return AF_UNIX;
    if (port && *text != '[')
        return AF_INET;
    if (port && port[-1] == ']')
        return AF_INET6;
    if (*text == '[' || begins_with_number(text))
        return no_host(text, "; a path that looks so needs the family AF_UNIX");
    return AF_UNIX;
}

static int family_of(const char *text, const char *family)
{
    static const struct {
        const char *name;
        int family;
    } families[] = { { "AF_UNIX", AF_UNIX }, { "AF_INET", AF_INET }, { "AF_INET6", AF_INET6 } };

    for (size_t i = 0; family && i < sizeof(families) / sizeof(*families); i++)
        if (strcmp(family, families[i].name) == 0)
            return families[i].family;
    if (family)
        return mp__fail(MP_EINVAL,
            "there is no family \"%s\" here: it is AF_UNIX, AF_INET or AF_INET6", family);
    if (strncmp(text, "\\\\", 2) == 0)
        return mp__fail(MP_EINVAL, "\"%s\" is the name of a pipe of Windows", text);
    return guess_family(text);
}

static int read_path(const char *text, mp__address *address)
{
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    size_t length = strlen(text), room = sizeof(name.sun_path) - (*text != '@');

    if (length == 0)
        return mp__fail(MP_EINVAL, "an empty path");
    if (length > room) /* an abstract name is not ended by a NUL, but begins with one */
        return mp__fail(MP_ENAMETOOLONG, "the path of a Unix socket has at most %zu bytes, not %zu",
            room, length);
    memcpy(name.sun_path, text, length);
    if (*text == '@')
        name.sun_path[0] = '\0';
    memcpy(&address->name, &name, sizeof(name));
    address->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (*text != '@'));
    return 0;
}

/* Into a host without brackets, and a port. */
static int split(const char *text, char host[MP__ADDRESS_TEXT], const char **port)
{
    const char *colon = find_port(text);
    size_t length = colon ? (size_t)(colon - text) : 0;

    if (!colon || strtoul(colon + 1, NULL, 10) > UINT16_MAX ||
        (*text == '[' && text[length - 1] != ']'))
        return no_host(text, "");
    *port = colon + 1;
    if (*text == '[') {
        text++;
        length -= 2;
    }
    if (length >= MP__ADDRESS_TEXT)
        return mp__fail(MP_ENAMETOOLONG, "a host of %zu bytes", length);
    memcpy(host, text, length);
    host[length] = '\0';
    return 0;
}

static int look_up(const char *text, int family, bool local, mp__address *address)
{
    struct addrinfo hints = { .ai_family = family,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICSERV | (local ? AI_PASSIVE : 0) };
    struct addrinfo *found = NULL;
    char host[MP__ADDRESS_TEXT] = "";
    const char *port = NULL;
    int r = split(text, host, &port), e;

    if (r < 0)
        return r;
    e = getaddrinfo(*host ? host : NULL, port, &hints, &found);
    if (e)
        return mp__fail(e == EAI_MEMORY ? MP_ENOMEM : -EHOSTUNREACH, "\"%s\" is not found: %s",
            text, gai_strerror(e));
    memcpy(&address->name, found->ai_addr, found->ai_addrlen);
    address->size = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

int mp__address_read(const char *text, const char *family, bool local, mp__address *address)
{
    int kind = family_of(text, family);

    if (kind < 0)
        return kind;
    return kind == AF_UNIX ? read_path(text, address) : look_up(text, kind, local, address);
}

const char *mp__address_path(const mp__address *address)
{
    const struct sockaddr_un *name = (const struct sockaddr_un *)&address->name;

    if (name->sun_family != AF_UNIX || address->size <= offsetof(struct sockaddr_un, sun_path))
        return NULL;
    return *name->sun_path ? name->sun_path : NULL;
}

static void write_unix(const mp__address *address, char text[MP__ADDRESS_TEXT])
{
    const struct sockaddr_un *name = (const struct sockaddr_un *)&address->name;
    size_t begin = offsetof(struct sockaddr_un, sun_path);
    int length = address->size > begin ? (int)(address->size - begin) : 0;

    if (length && !*name->sun_path)
        (void)snprintf(text, MP__ADDRESS_TEXT, "@%.*s", length - 1, name->sun_path + 1);
    else
        (void)snprintf(text, MP__ADDRESS_TEXT, "%.*s", length, name->sun_path);
}

void mp__address_write(const mp__address *address, char text[MP__ADDRESS_TEXT])
{
    char host[MP__ADDRESS_TEXT - 16], port[8];
    bool six = address->name.ss_family == AF_INET6;

    if (address->name.ss_family == AF_UNIX)
        write_unix(address, text);
    else if (getnameinfo((const struct sockaddr *)&address->name, address->size, host, sizeof(host),
                 port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        (void)snprintf(
            text, MP__ADDRESS_TEXT, "%s%s%s:%s", six ? "[" : "", host, six ? "]" : "", port);
    else
        *text = '\0';
}
