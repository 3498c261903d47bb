/* SPDX-License-Identifier: MIT
 *
 * fuzz_authentication.c - a peer that says anything instead of the handshake: as
 * listener and as client, step by step and over a connection. It never gets in.
 */
#include "fuzz.h"

#include "connection_auth_internal.h"

static const char key[] = "a key that nobody guesses";

/* Both ends do not block: what is not there is not waited for. */
static void open_pair(int fds[2], const uint8_t *data, size_t size)
{
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    write_all(fds[1], data, size);
}

static void shake_hands(const uint8_t *data, size_t size, bool listener)
{
    mp__handshake h;
    int fds[2];

    open_pair(fds, data, size);
    mp__handshake_begin(&h, listener, key, sizeof(key));
    must(mp__handshake_advance(&h, fds[0]) != 1);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void challenge(const uint8_t *data, size_t size, bool listener)
{
    mp_connection *c;
    int fds[2];

    open_pair(fds, data, size);
    (void)shutdown(fds[1], SHUT_WR);
    c = mp_connection_new(&fds[0]);
    must(c != NULL);
    if (listener)
        must(mp_deliver_challenge(c, key, sizeof(key)) < 0);
    else
        (void)mp_answer_challenge(c, key, sizeof(key)); /* who asks decides */
    mp_connection_free(c);
    (void)close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 4096)
        return 0;
    if (data[0] & 2)
        challenge(data + 1, size - 1, data[0] & 1);
    else
        shake_hands(data + 1, size - 1, data[0] & 1);
    return 0;
}
