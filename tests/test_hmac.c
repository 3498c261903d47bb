/* SPDX-License-Identifier: MIT
 *
 * test_hmac.c - the digests behind the handshake against published vectors (RFC 2202,
 * RFC 4231) and, of all lengths around a block, against Python's.
 */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hmac_internal.h"

static const char *hmac_text(
    enum mp__digest digest, const void *key, size_t key_size, const void *data, size_t size)
{
    static char text[2 * MP__DIGEST_MAX + 1];
    uint8_t out[MP__DIGEST_MAX];

    mp__hmac(digest, key, key_size, data, size, out);
    for (size_t i = 0; i < mp__hmac_size(digest); i++)
        (void)snprintf(text + 2 * i, 3, "%02x", out[i]);
    return text;
}

static void published_vectors_are_met(void **state)
{
    static const char short_key[] = "Jefe", what[] = "what do ya want for nothing?";
    char long_key[131], key80[80];
    const char *larger = "Test Using Larger Than Block-Size Key - Hash Key First";

    (void)state;
    memset(long_key, 0xaa, sizeof(long_key));
    memset(key80, 0xaa, sizeof(key80));
    assert_string_equal(hmac_text(MP__SHA256, short_key, 4, what, 28),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    assert_string_equal(hmac_text(MP__SHA256, long_key, sizeof(long_key), larger, strlen(larger)),
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    assert_string_equal(
        hmac_text(MP__MD5, short_key, 4, what, 28), "750c783e6ab0b503eaa86e310a5db738");
    assert_string_equal(hmac_text(MP__MD5, key80, sizeof(key80), larger, strlen(larger)),
        "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd");
}

/* Key and data are counted, so that Python can make the same. */
static void all_lengths_are_as_pythons(void **state)
{
    static const char script[] = "import hmac, sys\n"
                                 "k = bytes((i * 7 + 1) % 256 for i in range(200))\n"
                                 "d = bytes((i * 13 + 5) % 256 for i in range(200))\n"
                                 "for g in ('md5', 'sha256'):\n"
                                 "    for n in range(0, 200, 5):\n"
                                 "        for m in range(0, 200, 3):\n"
                                 "            print(hmac.new(k[:n], d[:m], g).hexdigest()[:8])\n";
    static outcome out;
    uint8_t key[200], data[200];
    const char *at = out.output;

    (void)state;
    for (unsigned i = 0; i < 200; i++) {
        key[i] = (uint8_t)(i * 7 + 1);
        data[i] = (uint8_t)(i * 13 + 5);
    }
    if (!run_python(script, "", &out))
        return;
    for (int digest = MP__MD5; digest <= MP__SHA256; digest++)
        for (size_t n = 0; n < 200; n += 5)
            for (size_t m = 0; m < 200; m += 3, at += 9)
                assert_memory_equal(hmac_text((enum mp__digest)digest, key, n, data, m), at, 8);
}

static void what_differs_is_not_equal(void **state)
{
    uint8_t a[32] = { 0 }, b[32] = { 0 };

    (void)state;
    assert_true(mp__hmac_equal(a, b, sizeof(a)));
    for (size_t i = 0; i < sizeof(a); i++) {
        b[i] = 0x80;
        assert_false(mp__hmac_equal(a, b, sizeof(a)));
        assert_true(mp__hmac_equal(a, b, i));
        b[i] = 0;
    }
}

static const struct CMUnitTest tests[] = {
    ONCE(published_vectors_are_met),
    ONCE(all_lengths_are_as_pythons),
    ONCE(what_differs_is_not_equal),
};

TESTS_MAIN(tests)
