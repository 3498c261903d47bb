/* SPDX-License-Identifier: MIT
 *
 * connection_auth_internal.h - CPython's handshake: each side proves to the other that
 * it has the key. It needs no thread of its own and waits for nobody.
 */
#ifndef MP__CONNECTION_AUTH_INTERNAL_H
#define MP__CONNECTION_AUTH_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MP__AUTH_MESSAGE 256 /* the longest message of it */
#define MP__AUTH_NONCE 48    /* what is to be signed: "{sha256}" and 40 random bytes */

/* One side of it, over a fresh socket. */
typedef struct mp__handshake {
    const void *key; /* lent */
    size_t key_size;
    bool asks;                     /* this half: we ask for a proof; else we give one */
    bool has_begun;                /* this half: the question was sent, or answered */
    unsigned halves;               /* that are left */
    uint8_t nonce[MP__AUTH_NONCE]; /* what we asked for a signature of */
    uint8_t frame[4 + MP__AUTH_MESSAGE];
    size_t got;   /* bytes of the frame that comes */
    size_t heard; /* bytes in all */
} mp__handshake;

/* A listener asks first. */
void mp__handshake_begin(mp__handshake *handshake, bool listener, const void *key, size_t key_size);

/*
 * Goes on as far as it can: 1 when all is proved, 0 when fd must become readable first, or
 * a code: MP_EAUTHENTICATION, MP_EEOF, MP_ECONNRESET.
 */
int mp__handshake_advance(mp__handshake *handshake, int fd);

/*
 * Ends it before fd is closed: what lies unread there may be descriptors whose closing
 * waits, which should not be done with a lock held.
 */
void mp__handshake_end(int fd);

#endif
