/* SPDX-License-Identifier: MIT
 *
 * hmac_internal.h - a proof that one has a key, without telling it.
 */
#ifndef MP__HMAC_INTERNAL_H
#define MP__HMAC_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mp__digest { MP__MD5, MP__SHA256 };

#define MP__DIGEST_MAX 32 /* bytes of the longer one */

/* How many bytes the proof has: 16 or 32. */
size_t mp__hmac_size(enum mp__digest digest);

/* HMAC (RFC 2104) of data; out has room for MP__DIGEST_MAX bytes. An empty key is a key. */
void mp__hmac(enum mp__digest digest, const void *key, size_t key_size, const void *data,
    size_t size, uint8_t *out);

/* Whether both are equal, in a time that does not tell where they differ. */
bool mp__hmac_equal(const uint8_t *a, const uint8_t *b, size_t size);

#endif
