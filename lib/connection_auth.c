/* SPDX-License-Identifier: MIT
 *
 * connection_auth.c - the messages of the handshake, and who sends which when.
 *
 *     who asks                             who answers
 *     #CHALLENGE# and a nonce        ->
 *                                    <-    the nonce, signed with the key
 *     #WELCOME# or #FAILURE#         ->
 *
 * A nonce begins with the name of a digest, "{sha256}"; CPython up to 3.11 knows no
 * names, has nonces of 20 bytes, and signs with MD5, 16 bytes without a name.
 */
#include "connection_auth_internal.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <multiprocessing/connection.h>

#include "error_internal.h"
#include "fd_internal.h"
#include "hmac_internal.h"
#include "socket_internal.h"

#define CHALLENGE "#CHALLENGE#"
#define WELCOME "#WELCOME#"
#define FAILURE "#FAILURE#"
#define LENGTH(text) (sizeof(text) - 1)
#define OLD_NONCE 20
#define OLD_RESPONSE 16
#define UNREAD_MAX 1024 /* steps in which what is unread is thrown away: more than fit */

static const struct {
    const char *name;
    size_t length;
    enum mp__digest digest;
} digests[] = {
    { "{sha256}", LENGTH("{sha256}"), MP__SHA256 },
    { "{md5}", LENGTH("{md5}"), MP__MD5 },
};

/* ---- messages ---- */

static bool begins_with(const uint8_t *data, size_t size, const char *text, size_t length)
{
    return size >= length && memcmp(data, text, length) == 0;
}

/* The digest that is named at the beginning: its place, or -1. */
static int named_digest(const uint8_t *data, size_t size)
{
    for (int i = 0; i < 2; i++)
        if (begins_with(data, size, digests[i].name, digests[i].length))
            return i;
    return -1;
}

static int make_challenge(uint8_t nonce[MP__AUTH_NONCE], uint8_t *out, size_t *size)
{
    memcpy(nonce, digests[0].name, digests[0].length);
    if (getentropy(nonce + digests[0].length, MP__AUTH_NONCE - digests[0].length) < 0)
        return mp__fail_errno("no random bytes for a challenge");
    memcpy(out, CHALLENGE, LENGTH(CHALLENGE));
    memcpy(out + LENGTH(CHALLENGE), nonce, MP__AUTH_NONCE);
    *size = LENGTH(CHALLENGE) + MP__AUTH_NONCE;
    return 0;
}

/* The answer to a challenge; out has room for MP__AUTH_MESSAGE bytes. */
static int make_response(const void *key, size_t key_size, const uint8_t *message, size_t size,
    uint8_t *out, size_t *out_size)
{
    const uint8_t *nonce = message + LENGTH(CHALLENGE);
    size_t name = 0, nonce_size;
    enum mp__digest digest = MP__MD5;
    int named;

    if (!begins_with(message, size, CHALLENGE, LENGTH(CHALLENGE)))
        return mp__fail(MP_EAUTHENTICATION, "the peer sent no challenge: it wants no key, or does "
                                            "not speak this protocol");
    nonce_size = size - LENGTH(CHALLENGE);
    named = named_digest(nonce, nonce_size);
    if (nonce_size < OLD_NONCE || (named < 0 && nonce_size != OLD_NONCE))
        return mp__fail(MP_EAUTHENTICATION, "the peer wants a digest that is not known here; it "
                                            "may be sha256 or md5");
    if (named >= 0 && nonce_size != OLD_NONCE) {
        digest = digests[named].digest;
        name = digests[named].length;
        memcpy(out, digests[named].name, name);
    }
    mp__hmac(digest, key, key_size, nonce, nonce_size, out + name);
    *out_size = name + mp__hmac_size(digest);
    return 0;
}

/* Whether it is the nonce, signed with the key. */
static bool is_right(const void *key, size_t key_size, const uint8_t nonce[MP__AUTH_NONCE],
    const uint8_t *response, size_t size)
{
    int named = size == OLD_RESPONSE ? -1 : named_digest(response, size);
    enum mp__digest digest = named < 0 ? MP__MD5 : digests[named].digest;
    size_t name = named < 0 ? 0 : digests[named].length;
    uint8_t expected[MP__DIGEST_MAX];

    if (size != name + mp__hmac_size(digest))
        return false;
    mp__hmac(digest, key, key_size, nonce, MP__AUTH_NONCE, expected);
    return mp__hmac_equal(expected, response + name, mp__hmac_size(digest));
}

static int wrong_key(void)
{
    return mp__fail(MP_EAUTHENTICATION, "the peer does not know the key");
}

static int check_verdict(const uint8_t *message, size_t size)
{
    if (size == LENGTH(WELCOME) && memcmp(message, WELCOME, size) == 0)
        return 0;
    return mp__fail(MP_EAUTHENTICATION, "the peer did not accept our key");
}

/* ---- over a socket that is not waited for ---- */

void mp__handshake_begin(mp__handshake *h, bool listener, const void *key, size_t key_size)
{
    h->key = key;
    h->key_size = key_size;
    h->asks = listener;
    h->has_begun = false;
    h->halves = 2;
    h->got = h->heard = 0;
}

/* A few bytes fit into a fresh socket, unless the peer reads nothing at all. */
static int put(int fd, const void *message, size_t size)
{
    uint8_t header[4] = { 0, 0, 0, (uint8_t)size };
    struct iovec parts[2] = { { header, sizeof(header) }, { (void *)message, size } };
    ssize_t n = mp__fd_try_send(fd, parts, 2, &fd, 0);

    if (n < 0 && n != MP_EAGAIN)
        return (int)n;
    return n == (ssize_t)(sizeof(header) + size)
               ? 0
               : mp__fail(MP_EAUTHENTICATION, "the peer reads nothing");
}

/* How many bytes the frame has: its head, and what that tells. 0: none of this protocol. */
static size_t frame_size(const mp__handshake *h)
{
    uint32_t length = 0;

    if (h->got < 4)
        return 4;
    for (int i = 0; i < 4; i++)
        length = length << 8 | h->frame[i];
    return length && length <= MP__AUTH_MESSAGE ? 4 + length : 0;
}

/*
 * Receives without waiting. Descriptors that come along are closed, and *some is set:
 * they may be sockets that linger, for which that would wait until all is sent.
 */
static ssize_t receive_no_descriptors(int fd, void *data, size_t size, bool *some)
{
    struct linger none = { .l_onoff = 1, .l_linger = 0 };
    int fds[MP__FDS_MAX];
    size_t count = 0;
    ssize_t n = mp__fd_try_receive(fd, data, size, fds, &count, some);

    for (size_t i = 0; i < count; i++) /* it fails for what is no socket */
        (void)setsockopt(fds[i], SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    mp__fd_close_all(fds, count);
    *some |= count > 0;
    return n;
}

/* 1 when a whole frame is there. */
static int fetch(mp__handshake *h, int fd)
{
    bool some = false;
    size_t size;
    ssize_t n;

    while ((size = frame_size(h)) > h->got) {
        n = receive_no_descriptors(fd, h->frame + h->got, size - h->got, &some);
        if (some)
            return mp__fail(MP_EAUTHENTICATION, "the peer sent descriptors in the handshake");
        if (n == MP_EAGAIN)
            return 0;
        if (n <= 0)
            return n < 0 ? (int)n : mp__fail(MP_EEOF, "the peer left during the handshake");
        h->got += (size_t)n;
        h->heard += (size_t)n;
    }
    return size ? 1 : mp__fail(MP_EAUTHENTICATION, "the peer does not speak this protocol");
}

/* The proof that we asked for has come. */
static int judge(const mp__handshake *h, int fd, const uint8_t *message, size_t size)
{
    bool right = is_right(h->key, h->key_size, h->nonce, message, size);
    int r;

    if (right)
        mp__socket_let_descriptors(fd, true); /* who hears that may send some at once */
    r = put(fd, right ? WELCOME : FAILURE, LENGTH(WELCOME));
    return right ? r : wrong_key();
}

static int prove(const mp__handshake *h, int fd, const uint8_t *message, size_t size)
{
    uint8_t response[MP__AUTH_MESSAGE];
    size_t response_size = 0;
    int r = make_response(h->key, h->key_size, message, size, response, &response_size);

    return r < 0 ? r : put(fd, response, response_size);
}

static int ask(mp__handshake *h, int fd)
{
    uint8_t message[MP__AUTH_MESSAGE];
    size_t size = 0;
    int r = make_challenge(h->nonce, message, &size);

    h->has_begun = true;
    return r < 0 ? r : put(fd, message, size);
}

/* A message has come. Sets *over when that was the end of a half. */
static int take(mp__handshake *h, int fd, bool *over)
{
    const uint8_t *message = h->frame + 4;
    size_t size = h->got - 4;

    h->got = 0;
    *over = h->asks || h->has_begun;
    if (h->asks)
        return judge(h, fd, message, size);
    if (h->has_begun)
        return check_verdict(message, size);
    h->has_begun = true;
    return prove(h, fd, message, size);
}

int mp__handshake_advance(mp__handshake *h, int fd)
{
    bool over = false;
    int r = 0;

    while (h->halves) {
        if (h->asks && !h->has_begun)
            r = ask(h, fd);
        if (r == 0)
            r = fetch(h, fd);
        if (r > 0)
            r = take(h, fd, &over);
        else
            return r;
        if (r < 0)
            return r;
        if (!over)
            continue;
        h->halves--;
        h->asks = !h->asks;
        h->has_begun = false;
    }
    return 1;
}

/* Nothing new comes after the shutdown, so it has an end. */
void mp__handshake_end(int fd)
{
    mp_error why = *mp_last_error(); /* it may end because of that, so that stays */
    uint8_t unread[4096];
    bool some = false;
    int steps = 0;

    (void)shutdown(fd, SHUT_RDWR); /* who has left already is not there to be told */
    while (steps++ < UNREAD_MAX && receive_no_descriptors(fd, unread, sizeof(unread), &some) > 0)
        ;
    (void)mp__fail(why.code, "%s", why.text);
}

/* ---- over any connection ---- */

static int check_key(const void *key, size_t size)
{
    return key || !size ? 0 : mp__fail(MP_EINVAL, "a key at NULL");
}

static int receive(mp_connection *c, uint8_t *message, size_t *size)
{
    int r = mp_connection_recv_bytes_into(c, message, MP__AUTH_MESSAGE, size);

    return r == MP_ETOOSHORT ? mp__fail(MP_EAUTHENTICATION, "the peer does not speak this protocol")
                             : r;
}

int mp_deliver_challenge(mp_connection *c, const void *key, size_t size)
{
    uint8_t nonce[MP__AUTH_NONCE] = { 0 }, message[MP__AUTH_MESSAGE] = { 0 };
    size_t length = 0;
    bool right;
    int r = check_key(key, size);

    if (r == 0)
        r = make_challenge(nonce, message, &length);
    if (r == 0)
        r = mp_connection_send_bytes(c, message, length);
    if (r == 0)
        r = receive(c, message, &length);
    if (r < 0)
        return r;
    right = is_right(key, size, nonce, message, length);
    r = mp_connection_send_bytes(c, right ? WELCOME : FAILURE, LENGTH(WELCOME));
    return right ? r : wrong_key();
}

int mp_answer_challenge(mp_connection *c, const void *key, size_t size)
{
    uint8_t message[MP__AUTH_MESSAGE] = { 0 }, response[MP__AUTH_MESSAGE];
    size_t length = 0;
    int r = check_key(key, size);

    if (r == 0)
        r = receive(c, message, &length);
    if (r == 0)
        r = make_response(key, size, message, length, response, &length);
    if (r == 0)
        r = mp_connection_send_bytes(c, response, length);
    if (r == 0)
        r = receive(c, message, &length);
    return r < 0 ? r : check_verdict(message, length);
}
