/* SPDX-License-Identifier: MIT
 *
 * fuzz_connection.c - a stream of frames, over a pipe or a socket, with descriptors
 * or without: received as values and as bytes until it ends or breaks.
 */
#include "fuzz.h"

#define MOST 16384 /* fits into any pipe */

static int open_stream(bool socket, int raw[2])
{
    return socket ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, raw) : pipe(raw);
}

/* With so many descriptors of memory that holds the same bytes. */
static void send_with(int fd, const uint8_t *data, size_t size, size_t count)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)] = { 0 };
    struct iovec part = { (void *)data, size };
    struct msghdr message = { .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = count ? control : NULL,
        .msg_controllen = count ? (socklen_t)CMSG_SPACE(sizeof(int) * count) : 0 };
    struct cmsghdr *head = (struct cmsghdr *)control;
    int fds[4];

    for (size_t i = 0; i < count; i++)
        fds[i] = memory_of(data, size);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = (socklen_t)CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(head), fds, sizeof(int) * count);
    must(sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)size);
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]);
}

static int receive_one(mp_connection *c, mp_message *message, unsigned how)
{
    char buffer[64];
    size_t size;
    int r;

    switch (how % 4) {
    case 0:
        return mp_connection_recv_bytes(c, message, MP_ANY_LENGTH);
    case 1:
        return mp_connection_recv_bytes_into(c, buffer, sizeof(buffer), &size);
    default:
        r = mp_connection_recv(c, message);
        if (r == 0)
            take_apart(&message->value);
        return r;
    }
}

static bool goes_on(int r)
{
    return r == 0 || r == MP_EPROTOCOL || r == MP_ETOODEEP || r == MP_EMFILE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *c;
    int raw[2];

    if (size < 2 || size > MOST)
        return 0;
    must(open_stream(data[0] & 1, raw) == 0);
    if (data[0] & 1)
        send_with(raw[1], data + 1, size - 1, data[0] >> 1 & 3);
    else
        write_all(raw[1], data + 1, size - 1);
    (void)close(raw[1]);
    c = mp_connection_new(&raw[0]);
    must(c != NULL);
    for (unsigned i = 0; i < size && goes_on(receive_one(c, &message, i + (data[0] >> 3))); i++)
        continue;
    mp_message_clear(&message);
    mp_connection_free(c);
    return 0;
}
