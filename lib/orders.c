/* SPDX-License-Identifier: MIT
 *
 * orders.c - what a new process is told to be, as one message: a head, then parts
 * of the sizes it names. The arguments of a child follow as a message of their own,
 * unless there are none. Both sides are on one machine and of one version.
 *
 * This is no MessagePack: a child without arguments then has no use for that, and
 * not for the memory it takes.
 */
#include "orders_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "function_internal.h"
#include "log_internal.h"
#include "socket_internal.h"

#define VERSION 3

enum role { ROLE_CHILD, ROLE_SERVER };

/* PATH comes first: it is read where it lies. The others but AUTHKEY are texts with their NUL. */
enum part { PATH, AUTHKEY, MODULE, DIRECTORY, NAME, PARENT_NAME, PARTS };

typedef struct head {
    uint32_t version, role;
    uint32_t sizes[PARTS]; /* 0: there is none */
    uint32_t identity_size;
    uint8_t identity[MP__IDENTITY_MAX];
    uint64_t offset; /* of the target, or the hook, in MODULE */
    int64_t parent;
    int32_t level;          /* of the log */
    int32_t lifeline, life; /* places among the descriptors, or -1 */
    int32_t report, on_error;
    uint32_t depth, method;
    uint8_t daemon, has_arguments;
} head;

/* ---- telling ---- */

static int describe(head *h, void (*function)(void), const char **module)
{
    mp__function target;
    int r;

    *module = NULL;
    if (!function)
        return 0;
    r = mp__function_describe(function, &target);
    if (r < 0)
        return r;
    *module = target.module;
    h->offset = target.offset;
    h->identity_size = (uint32_t)target.identity_size;
    memcpy(h->identity, target.identity, target.identity_size);
    return 0;
}

/* Appends a descriptor to what travels; its place is what the receiver is told. */
static int put_descriptor(mp__parcel *parcel, int fd)
{
    if (fd < 0)
        return -1;
    parcel->fds[parcel->count++] = fd;
    return (int)parcel->count - 1;
}

static mp_bytes_view text(const char *chars)
{
    return (mp_bytes_view){ chars, chars ? strlen(chars) + 1 : 0 };
}

static int send_parts(
    mp_connection *channel, head *h, const mp_bytes_view parts[PARTS], const mp__parcel *parcel)
{
    mp__buffer bytes = { 0 };
    int r;

    for (int i = 0; i < PARTS; i++)
        h->sizes[i] = (uint32_t)parts[i].size;
    r = mp__buffer_append(&bytes, h, sizeof(*h));
    for (int i = 0; i < PARTS && r == 0; i++)
        r = mp__buffer_append(&bytes, parts[i].data, parts[i].size);
    if (r == 0)
        r = mp__connection_send_packed(channel, bytes.data, bytes.size, parcel);
    mp__buffer_done(&bytes);
    return r;
}

int mp__orders_send(
    mp_connection *channel, const mp__job *job, const char *directory, int lifeline, int life)
{
    const mp__identity *id = &job->identity;
    mp__parcel parcel = { .count = 0 };
    head h = {
        .version = VERSION,
        .role = ROLE_CHILD,
        .parent = id->parent,
        .level = mp_log_get_level(),
        .lifeline = put_descriptor(&parcel, lifeline),
        .life = put_descriptor(&parcel, life),
        .depth = id->depth,
        .method = id->method,
        .daemon = id->daemon,
        .has_arguments = job->arguments->size > 1, /* a list of one byte is empty */
    };
    const char *module;
    int r = describe(&h, (void (*)(void))job->target, &module);

    if (r == 0)
        r = send_parts(channel, &h,
            (mp_bytes_view[PARTS]){
                [PATH] = { id->path, id->path_length * sizeof(*id->path) },
                [AUTHKEY] = { id->authkey, id->authkey_size },
                [MODULE] = text(module),
                [DIRECTORY] = text(directory),
                [NAME] = text(id->name),
                [PARENT_NAME] = text(id->parent_name),
            },
            &parcel);
    if (r == 0 && h.has_arguments)
        r = mp__connection_send_packed(
            channel, job->arguments->data, job->arguments->size, job->parcel);
    return r;
}

int mp__orders_send_server(mp_connection *channel, int (*hook)(void), int on_error, int report)
{
    mp__parcel parcel = { .count = 0 };
    head h = {
        .version = VERSION,
        .role = ROLE_SERVER,
        .level = mp_log_get_level(),
        .report = put_descriptor(&parcel, report),
        .on_error = on_error,
    };
    const char *module;
    int r = describe(&h, (void (*)(void))hook, &module);

    return r < 0 ? r
                 : send_parts(
                       channel, &h, (mp_bytes_view[PARTS]){ [MODULE] = text(module) }, &parcel);
}

/* ---- being told ---- */

static int malformed(void)
{
    return mp__fail(MP_EPROTOCOL, "malformed bootstrap message");
}

/* The parts behind the head, where they lie. */
static int take_apart(const mp__buffer *bytes, const head **out, mp_bytes_view parts[PARTS])
{
    const head *h = (const head *)bytes->data;
    const char *at = bytes->data + sizeof(*h);
    size_t left;

    if (bytes->size < sizeof(h->version) || h->version != VERSION)
        return mp__fail(MP_EPROTOCOL, "the parent uses another version of this library");
    if (bytes->size < sizeof(*h) || h->identity_size > sizeof(h->identity))
        return malformed();
    left = bytes->size - sizeof(*h);
    for (int i = 0; i < PARTS; i++) {
        size_t size = h->sizes[i];

        if (size > left || (size && i > AUTHKEY && at[size - 1] != '\0'))
            return malformed();
        parts[i] = (mp_bytes_view){ size ? at : NULL, size };
        at += size;
        left -= size;
    }
    *out = h;
    return left ? malformed() : 0;
}

static int take_descriptor(mp_message *message, int place, int *fd)
{
    mp__parcel *parcel = message->own->parcel;

    *fd = -1;
    if (place < 0)
        return 0;
    if (!parcel || (size_t)place >= parcel->count || parcel->fds[place] < 0)
        return mp__fail(MP_EPROTOCOL, "a descriptor is missing in the bootstrap message");
    *fd = parcel->fds[place];
    parcel->fds[place] = -1;
    return 0;
}

/* The target or hook; NULL where there is none. */
static int find(const head *h, const char *module, void (**function)(void))
{
    mp__function description = {
        .module = module, .offset = h->offset, .identity_size = h->identity_size
    };

    *function = NULL;
    if (!module)
        return 0;
    memcpy(description.identity, h->identity, h->identity_size);
    return mp__function_find(&description, function);
}

static int receive_server(
    const head *h, const mp_bytes_view *parts, mp_message *message, mp__server_orders *orders)
{
    void (*hook)(void);
    int r;

    mp_log_to_stderr(h->level);
    r = find(h, parts[MODULE].data, &hook);
    if (r == 0)
        r = take_descriptor(message, h->report, &orders->report);
    if (r == 0) {
        orders->hook = (int (*)(void))hook;
        orders->on_error = h->on_error;
    }
    return r;
}

static int go_to(const char *directory)
{
    if (directory && chdir(directory) < 0)
        return mp__fail(-errno, "cannot work in %s: %s", directory, strerror(errno));
    return 0;
}

static int receive_arguments(mp_connection *channel, const head *h, mp_message *arguments)
{
    if (h->has_arguments)
        return mp_connection_recv(channel, arguments);
    arguments->value = mp_list();
    return 0;
}

static int receive_child(
    mp_connection *channel, const head *h, const mp_bytes_view *parts, mp__child *child)
{
    void (*target)(void);
    int r = take_descriptor(&child->request, h->lifeline, &child->lifeline);

    if (r == 0)
        r = take_descriptor(&child->request, h->life, &child->life);
    if (r == 0 && !(parts[NAME].size && parts[PARENT_NAME].size))
        r = malformed();
    if (r == 0)
        r = receive_arguments(channel, h, &child->call.arguments);
    if (r < 0)
        return r;
    child->told = true;
    child->identity = (mp__identity){ parts[NAME].data, parts[PARENT_NAME].data, parts[PATH].data,
        parts[PATH].size / sizeof(uint32_t), parts[AUTHKEY].data, parts[AUTHKEY].size, h->daemon,
        h->depth, (enum mp__method)h->method, (pid_t)h->parent };
    mp__log_set_name(child->identity.name);
    mp_log_to_stderr(h->level);
    r = find(h, parts[MODULE].data, &target);
    child->target = (mp_function)target;
    return r == 0 ? go_to(parts[DIRECTORY].data) : r;
}

int mp__orders_receive(mp_connection *channel, mp__child *child, mp__server_orders *orders)
{
    mp_message *message = &child->request;
    mp_bytes_view parts[PARTS];
    const head *h = NULL;
    int r = mp__connection_recv_raw(channel, message);

    if (r == 0)
        r = take_apart(&message->own->bytes, &h, parts);
    if (r < 0)
        return r;
    orders->server = h->role == ROLE_SERVER;
    return orders->server ? receive_server(h, parts, message, orders)
                          : receive_child(channel, h, parts, child);
}

/* ---- practising ---- */

static int send_exercise(mp_connection *sender)
{
    static const uint32_t path[] = { 0 };
    mp__buffer arguments = { .size = 1 }; /* none */
    mp__parcel nothing = { .count = 0 };
    mp__job job = {
        .identity = { .name = mp__log_name(), .parent_name = "", .path = path, .path_length = 1 },
        .target = (mp_function)(void (*)(void))mp__orders_exercise,
        .arguments = &arguments,
        .parcel = &nothing,
    };

    return mp__orders_send(sender, &job, NULL, -1, -1);
}

int mp__orders_exercise(mp_message *exercise)
{
    mp_connection *ends[2] = { NULL, NULL };
    int fds[2] = { -1, -1 };
    int r = mp__socket_pair(fds);

    for (int i = 0; i < 2 && r == 0; i++)
        r = mp__connection_adopt_socket(&fds[i], &ends[i]);
    if (r == 0)
        r = send_exercise(ends[0]);
    if (r == 0)
        r = mp__connection_recv_raw(ends[1], exercise);
    mp_connection_free(ends[0]);
    mp_connection_free(ends[1]);
    mp__fd_close_all(fds, 2);
    return r;
}

void mp__orders_practise(mp_connection *channel, const mp_message *exercise)
{
    mp__child child = { .request = *exercise };
    mp_bytes_view parts[PARTS] = { { NULL, 0 } };
    mp__parcel parcel;
    const head *h = NULL;
    bool lost = false;
    char byte;

    parcel.count = 0;
    (void)mp__fd_try_peek(
        mp_connection_fileno(channel), &byte, 1, parcel.fds, &parcel.count, &lost);
    mp__parcel_close(&parcel);
    if (take_apart(&exercise->own->bytes, &h, parts) == 0)
        (void)receive_child(channel, h, parts, &child);
    (void)fflush(NULL);
    (void)mp__clock_now();
}
