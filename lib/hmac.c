/* SPDX-License-Identifier: MIT
 *
 * hmac.c - HMAC with SHA-256 (FIPS 180-4) and MD5 (RFC 1321), as CPython's
 * connections authenticate by: MD5 up to 3.11.
 *
 * They are here since a library for them would be linked into every child that is
 * exec'd, which takes longer to load than most handshakes; and they never change.
 */
#include "hmac_internal.h"

#include <string.h>

#define BLOCK 64 /* bytes that both digests take in at a time */

typedef struct hash {
    enum mp__digest digest;
    uint32_t state[8];
    uint64_t size; /* bytes taken in */
    uint8_t block[BLOCK];
} hash;

static uint32_t rotate_left(uint32_t x, unsigned n)
{
    return x << n | x >> (32 - n);
}

static uint32_t rotate_right(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

/* Where byte i of a word of 32 bits belongs: SHA-256 is big-endian, MD5 is not. */
static unsigned shift_of(enum mp__digest digest, unsigned i)
{
    return 8 * (digest == MP__SHA256 ? 3 - i : i);
}

static void load_words(const hash *h, uint32_t words[16])
{
    for (unsigned i = 0; i < BLOCK; i++) {
        if (i % 4 == 0)
            words[i / 4] = 0;
        words[i / 4] |= (uint32_t)h->block[i] << shift_of(h->digest, i % 4);
    }
}

/* ---- SHA-256 ---- */

static const uint32_t sha256_begin[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };

/* The first 32 bits of the fractions of the cube roots of the first 64 primes. */
static const uint32_t sha256_constants[64] = { 0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5,
    0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
    0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
    0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2 };

static void sha256_schedule(const hash *h, uint32_t w[64])
{
    load_words(h, w);
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];

        w[i] = w[i - 16] + (rotate_right(a, 7) ^ rotate_right(a, 18) ^ a >> 3) + w[i - 7] +
               (rotate_right(b, 17) ^ rotate_right(b, 19) ^ b >> 10);
    }
}

static void sha256_compress(hash *h)
{
    uint32_t w[64], s[8];

    sha256_schedule(h, w);
    memcpy(s, h->state, sizeof(s));
    for (int i = 0; i < 64; i++) {
        uint32_t a = s[0], e = s[4];
        uint32_t one = s[7] + (rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25)) +
                       ((e & s[5]) ^ (~e & s[6])) + sha256_constants[i] + w[i];
        uint32_t two = (rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22)) +
                       ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));

        memmove(s + 1, s, 7 * sizeof(*s));
        s[0] = one + two;
        s[4] += one;
    }
    for (int i = 0; i < 8; i++)
        h->state[i] += s[i];
}

/* ---- MD5 ---- */

static const uint32_t md5_begin[8] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476 };

/* The integer parts of 2^32 * |sin(1)|, |sin(2)|, ... */
static const uint32_t md5_constants[64] = { 0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee,
    0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be,
    0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821, 0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa,
    0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8, 0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed,
    0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a, 0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c,
    0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70, 0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05,
    0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665, 0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039,
    0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1, 0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1,
    0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391 };

static const unsigned md5_turns[4][4] = { { 7, 12, 17, 22 }, { 5, 9, 14, 20 }, { 4, 11, 16, 23 },
    { 6, 10, 15, 21 } };

/* The function of a round, and which word of the block step i takes. */
static uint32_t md5_mix(int i, uint32_t b, uint32_t c, uint32_t d, int *word)
{
    switch (i / 16) {
    case 0:
        *word = i;
        return (b & c) | (~b & d);
    case 1:
        *word = (5 * i + 1) % 16;
        return (d & b) | (~d & c);
    case 2:
        *word = (3 * i + 5) % 16;
        return b ^ c ^ d;
    default:
        *word = 7 * i % 16;
        return c ^ (b | ~d);
    }
}

static void md5_compress(hash *h)
{
    uint32_t words[16], s[4];

    load_words(h, words);
    memcpy(s, h->state, sizeof(s));
    for (int i = 0; i < 64; i++) {
        int word;
        uint32_t f = md5_mix(i, s[1], s[2], s[3], &word);
        uint32_t turned =
            rotate_left(s[0] + f + md5_constants[i] + words[word], md5_turns[i / 16][i % 4]);

        s[0] = s[3];
        s[3] = s[2];
        s[2] = s[1];
        s[1] += turned;
    }
    for (int i = 0; i < 4; i++)
        h->state[i] += s[i];
}

/* ---- both ---- */

static void begin(hash *h, enum mp__digest digest)
{
    h->digest = digest;
    h->size = 0;
    memcpy(h->state, digest == MP__SHA256 ? sha256_begin : md5_begin, sizeof(h->state));
}

static void compress(hash *h)
{
    if (h->digest == MP__SHA256)
        sha256_compress(h);
    else
        md5_compress(h);
}

static void take_in(hash *h, const void *data, size_t size)
{
    const uint8_t *bytes = data;

    for (size_t i = 0; i < size; i++) {
        h->block[h->size++ % BLOCK] = bytes[i];
        if (h->size % BLOCK == 0)
            compress(h);
    }
}

/* The end is padded with a bit, zeros, and the length in bits. */
static void finish(hash *h, uint8_t *out)
{
    uint64_t bits = 8 * h->size;
    uint8_t length[8];

    take_in(h, "\x80", 1);
    while (h->size % BLOCK != BLOCK - sizeof(length))
        take_in(h, "", 1);
    for (unsigned i = 0; i < 8; i++)
        length[i] = (uint8_t)(bits >> 8 * (h->digest == MP__SHA256 ? 7 - i : i));
    take_in(h, length, sizeof(length));
    for (unsigned i = 0; i < mp__hmac_size(h->digest); i++)
        out[i] = (uint8_t)(h->state[i / 4] >> shift_of(h->digest, i % 4));
}

size_t mp__hmac_size(enum mp__digest digest)
{
    return digest == MP__SHA256 ? 32 : 16;
}

/* The digest of the key, each byte with that pattern, and the data. */
static void digest_keyed(
    hash *h, const uint8_t key[BLOCK], uint8_t pattern, const void *data, size_t size, uint8_t *out)
{
    uint8_t padded[BLOCK];

    for (int i = 0; i < BLOCK; i++)
        padded[i] = key[i] ^ pattern;
    begin(h, h->digest);
    take_in(h, padded, BLOCK);
    take_in(h, data, size);
    finish(h, out);
    explicit_bzero(padded, sizeof(padded));
}

void mp__hmac(enum mp__digest digest, const void *key, size_t key_size, const void *data,
    size_t size, uint8_t *out)
{
    uint8_t padded[BLOCK] = { 0 }, inner[MP__DIGEST_MAX];
    hash h;

    begin(&h, digest);
    if (key_size > BLOCK) {
        take_in(&h, key, key_size);
        finish(&h, padded);
    } else if (key_size) {
        memcpy(padded, key, key_size);
    }
    digest_keyed(&h, padded, 0x36, data, size, inner);
    digest_keyed(&h, padded, 0x5c, inner, mp__hmac_size(digest), out);
    explicit_bzero(padded, sizeof(padded));
    explicit_bzero(&h, sizeof(h));
}

bool mp__hmac_equal(const uint8_t *a, const uint8_t *b, size_t size)
{
    unsigned different = 0;

    for (size_t i = 0; i < size; i++)
        different |= (unsigned)(a[i] ^ b[i]);
    return different == 0;
}
