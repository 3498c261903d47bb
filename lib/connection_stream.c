/* SPDX-License-Identifier: MIT
 *
 * connection_stream.c - whole messages over a socket or pipe: first the length, then
 * the bytes, as CPython frames them. What the bytes mean is value_message.c's business.
 *
 * A length is read once and kept: whoever finds the message too long leaves it
 * pending. There is no read-ahead, so that the descriptor can be polled and
 * passed on at any time.
 */
#include "connection_internal.h"

#include <string.h>

#include "clock_internal.h"
#include "connection_object_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "socket_internal.h"

#define LONG_FORM UINT32_MAX           /* -1: an 8-byte length follows */
#define SHORT_MAX UINT32_C(0x7fffffff) /* longest message with a 4-byte length */
#define FIRST_STEP ((size_t)1 << 20)   /* bytes reserved on a peer's word alone */
#define SMALL_MAX 256                  /* bytes that are sent together with their length */
#define KEEP_MAX ((size_t)4 << 20)     /* memory a connection keeps for sending */

/* ---- sending ---- */

static void put32(uint8_t bytes[4], uint32_t number)
{
    bytes[0] = (uint8_t)(number >> 24);
    bytes[1] = (uint8_t)(number >> 16);
    bytes[2] = (uint8_t)(number >> 8);
    bytes[3] = (uint8_t)number;
}

static uint32_t get32(const uint8_t bytes[4])
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static size_t put_header(uint8_t header[12], uint64_t length)
{
    if (length <= SHORT_MAX) {
        put32(header, (uint32_t)length);
        return 4;
    }
    put32(header, LONG_FORM);
    put32(header + 4, (uint32_t)(length >> 32));
    put32(header + 8, (uint32_t)length);
    return 12;
}

/* Its parts, and how many: a small message is one, which costs the kernel less than two. */
static int make_frame(
    uint8_t start[12 + SMALL_MAX], const void *data, size_t size, struct iovec parts[2])
{
    size_t length = put_header(start, size);

    parts[0] = (struct iovec){ start, length };
    parts[1] = (struct iovec){ (void *)data, size };
    if (size > SMALL_MAX)
        return 2;
    if (size)
        memcpy(start + length, data, size);
    parts[0].iov_len += size;
    return 1;
}

/* With the writing lock held. */
static int send_frame(
    mp_connection *c, int fd, const void *data, size_t size, const mp__parcel *parcel)
{
    uint8_t start[12 + SMALL_MAX];
    struct iovec parts[2];
    int count = make_frame(start, data, size, parts);
    int r = mp__fd_interruptible() ? mp__fd_wait(fd, POLLOUT, MP__NEVER) : 0;

    if (r < 0)
        return r;
    if (parcel->count && !c->is_local)
        return mp__fail(MP_EHANDLE, "handles travel through Unix sockets only; make the pipe with "
                                    "both directions");
    return c->is_socket ? mp__fd_send(fd, parts, count, parcel->fds, parcel->count)
                        : mp__socket_write(fd, parts, count);
}

int mp__connection_send_packed(
    mp_connection *c, const void *data, size_t size, const mp__parcel *parcel)
{
    int r = mp__connection_writable_fd(c);

    if (r < 0)
        return r;
    (void)pthread_mutex_lock(&c->writing);
    r = send_frame(c, r, data, size, parcel);
    (void)pthread_mutex_unlock(&c->writing);
    return r;
}

int mp__connection_send(mp_connection *c, msgpack_object value)
{
    mp__parcel parcel;
    int fd = mp__connection_writable_fd(c);
    int r;

    if (fd < 0)
        return fd;
    parcel.count = 0;
    (void)pthread_mutex_lock(&c->writing);
    r = mp__value_pack(value, &c->packed, &parcel);
    if (r == 0)
        r = send_frame(c, fd, c->packed.data, c->packed.size, &parcel);
    mp__buffer_reset(&c->packed, KEEP_MAX);
    (void)pthread_mutex_unlock(&c->writing);
    return r;
}

int mp_connection_send_bytes(mp_connection *c, const void *data, size_t size)
{
    static const mp__parcel none; /* no descriptors */

    if (!data && size)
        return mp__fail(MP_EINVAL, "bytes at NULL");
    return mp__connection_send_packed(c, data, size, &none);
}

/* ---- receiving, with the reading lock held ---- */

/* The first bytes of a message, and with the first one its descriptors. */
static ssize_t begin(mp_connection *c, int fd, void *data, size_t size)
{
    int r = mp__fd_interruptible() ? mp__fd_wait(fd, POLLIN, MP__NEVER) : 0;

    if (r < 0)
        return r;
    if (c->is_socket)
        return mp__spin_receive(
            &c->spin, fd, data, size, c->parcel.fds, &c->parcel.count, &c->incomplete);
    if (r == 0) /* it was not waited for yet */
        mp__spin_wait(&c->spin, fd);
    return mp__fd_read(fd, data, size);
}

/* The stream is no use any more. */
static int break_off(mp_connection *c, int why)
{
    atomic_store(&c->broken, why);
    return why;
}

/* size bytes, or MP_ETRUNCATED. A failure in the middle of a message breaks the stream for good. */
static int read_rest(mp_connection *c, int fd, void *data, size_t size)
{
    while (size) {
        ssize_t n = mp__fd_read(fd, data, size);

        if (n <= 0)
            return break_off(
                c, n < 0 ? (int)n : mp__fail(MP_ETRUNCATED, "the stream ended inside a message"));
        data = (char *)data + n;
        size -= (size_t)n;
    }
    return 0;
}

static int read_header(mp_connection *c, int fd)
{
    uint8_t header[8];
    uint64_t length;
    ssize_t n = begin(c, fd, header, 4);
    int r;

    if (n < 0)
        return (int)n;
    if (n == 0)
        return mp__fail(MP_EEOF, "no more messages: all other ends of this connection are closed");
    r = read_rest(c, fd, header + n, (size_t)(4 - n));
    if (r < 0)
        return r;
    length = get32(header);
    if (length == LONG_FORM) {
        r = read_rest(c, fd, header, 8);
        if (r == 0)
            length = (uint64_t)get32(header) << 32 | get32(header + 4);
    } else if (length > SHORT_MAX) {
        r = break_off(c, mp__fail(MP_EPROTOCOL, "a message of negative length arrived: the peer "
                                                "does not speak this protocol, or its memory is "
                                                "damaged"));
    }
    if (r < 0)
        return r;
    c->length = length;
    c->has_length = true;
    return 0;
}

/* Knows the length of the next message, at most maxlength; a longer one stays pending. */
static int await(mp_connection *c, int fd, uint64_t maxlength)
{
    int r = 0;

    if (c->broken)
        return mp__fail(c->broken, "this connection broke before: %s", mp_strerror(c->broken));
    if (!c->has_length)
        r = read_header(c, fd);
    if (r == 0 && c->length > mp__limit_message())
        r = mp__fail(MP_ETOOLONG, "a message of %llu bytes arrived; mp_set_limits allows %llu",
            (unsigned long long)c->length, (unsigned long long)mp__limit_message());
    if (r == 0 && c->length > maxlength)
        r = mp__fail(MP_ETOOLONG, "a message of %llu bytes arrived, longer than %llu",
            (unsigned long long)c->length, (unsigned long long)maxlength);
    return r;
}

/* The bytes of the pending message. Memory grows as they come, not as they are announced. */
static int read_body(mp_connection *c, int fd, mp__buffer *bytes)
{
    size_t length = (size_t)c->length, step;
    int r;

    for (bytes->size = 0; bytes->size < length; bytes->size += step) {
        size_t room = bytes->capacity ? bytes->capacity - 1 : 0; /* one byte is spare, for a NUL */

        if (bytes->size == room || room < FIRST_STEP) {
            size_t wanted = room < FIRST_STEP     ? FIRST_STEP
                            : room > SIZE_MAX / 4 ? length
                                                  : 2 * room;

            r = mp__buffer_reserve(bytes, (wanted < length ? wanted : length) + 1);
            if (r < 0) /* the message stays pending, unless a part of it is lost */
                return bytes->size ? break_off(c, r) : r;
            room = bytes->capacity - 1;
        }
        step = (room < length ? room : length) - bytes->size;
        r = read_rest(c, fd, bytes->data + bytes->size, step);
        if (r < 0)
            return r;
    }
    c->has_length = false;
    return length ? 0 : mp__buffer_reserve(bytes, 1);
}

/* A whole message was read. One that lost handles is an error, and the next one is in step. */
static int end_message(mp_connection *c)
{
    if (!c->incomplete)
        return 0;
    c->incomplete = false;
    mp__parcel_drop(&c->parcel);
    return mp__fail(MP_EMFILE, "descriptors that came with a message were lost, and the message "
                               "with them: this process may not open more (ulimit -n)");
}

static int receive(mp_connection *c, mp_message *message, uint64_t maxlength)
{
    mp__message *own = mp__message_own(message);
    int fd = mp__connection_readable_fd(c);
    int r;

    if (fd < 0 || !own)
        return fd < 0 ? fd : MP_ENOMEM;
    if (mp__message_lends(message, &c->handle))
        return mp__fail(MP_EINVAL, "a connection cannot receive into the message that lends it; "
                                   "mp_connection_keep makes it yours");
    (void)pthread_mutex_lock(&c->reading);
    r = await(c, fd, maxlength);
    if (r == 0) {
        mp__message_reset(message);
        r = read_body(c, fd, &own->bytes);
    }
    if (r == 0)
        r = end_message(c);
    if (r == 0)
        r = mp__message_take(message, &c->parcel);
    (void)pthread_mutex_unlock(&c->reading);
    return r;
}

/* ---- receiving ---- */

int mp__connection_recv_raw(mp_connection *c, mp_message *message)
{
    return receive(c, message, UINT64_MAX);
}

int mp_connection_recv(mp_connection *c, mp_message *message)
{
    int r;

    if (!message)
        return mp__fail(MP_EINVAL, "mp_connection_recv needs a message to receive into");
    r = receive(c, message, UINT64_MAX);
    return r < 0 ? r : mp__value_decode(message);
}

int mp_connection_recv_bytes(mp_connection *c, mp_message *message, size_t maxlength)
{
    int r;

    if (!message)
        return mp__fail(MP_EINVAL, "mp_connection_recv_bytes needs a message to receive into");
    r = receive(c, message, maxlength);
    if (r < 0)
        return r;
    mp__message_drop_handles(message);
    message->data = message->own->bytes.data;
    message->size = message->own->bytes.size;
    return 0;
}

/* With the reading lock held. The descriptors that came along stay in c->parcel. */
static int receive_into(mp_connection *c, int fd, void *buffer, size_t capacity, size_t *size)
{
    int r = await(c, fd, UINT64_MAX);

    if (r < 0)
        return r;
    if (c->length > capacity) {
        *size = (size_t)c->length;
        return mp__fail(MP_ETOOSHORT,
            "the message has %zu bytes, the buffer %zu; it is still pending", *size, capacity);
    }
    r = read_rest(c, fd, buffer, (size_t)c->length);
    c->has_length = false;
    if (r == 0)
        r = end_message(c);
    if (r == 0)
        *size = (size_t)c->length;
    return r;
}

int mp_connection_recv_bytes_into(mp_connection *c, void *buffer, size_t capacity, size_t *size)
{
    int fd = mp__connection_readable_fd(c);
    int r;

    if (fd < 0)
        return fd;
    if (!size || (!buffer && capacity))
        return mp__fail(MP_EINVAL, "mp_connection_recv_bytes_into needs a buffer and a size");
    (void)pthread_mutex_lock(&c->reading);
    r = receive_into(c, fd, buffer, capacity, size);
    if (r == 0)
        mp__parcel_drop(&c->parcel);
    (void)pthread_mutex_unlock(&c->reading);
    return r;
}

int mp_connection_poll(mp_connection *c, double timeout)
{
    int fd = mp__connection_readable_fd(c);

    if (fd < 0 || mp__connection_pending(c))
        return fd < 0 ? fd : 1;
    return mp__fd_wait(fd, POLLIN, mp__clock_deadline(timeout));
}
