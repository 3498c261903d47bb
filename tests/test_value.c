/* SPDX-License-Identifier: MIT
 *
 * test_value.c - every kind of value made, carried and taken apart, and what
 * is refused on the way. Hostile bytes are test_message.c's business.
 */
#include "support.h"

#include <fcntl.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "value_internal.h"

/* Sends the value through a pipe; the message is the caller's to clear. */
static void carry(msgpack_object value, mp_message *message)
{
    mp_connection *a, *b;

    assert_int_equal(mp_pipe(&a, &b), 0);
    if (mp_connection_send(a, value) < 0 || mp_connection_recv(b, message) < 0)
        fail_msg("carry: %s", mp_last_error()->text);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* What sending says of the value; nothing may be on its way when it is refused. */
static int refuse(msgpack_object value)
{
    mp_connection *a, *b;
    int r;

    assert_int_equal(mp_pipe(&a, &b), 0);
    r = mp_connection_send(a, value);
    assert_int_equal(mp_connection_poll(b, 0), 0);
    mp_connection_free(a);
    mp_connection_free(b);
    return r;
}

static void assert_sentence_has(const char *words)
{
    if (!strstr(mp_last_error()->text, words))
        fail_msg("\"%s\" is not in: %s", words, mp_last_error()->text);
}

/* A value of that type arrives in a variable of that type. */
#define ARRIVES(type, number)                           \
    do {                                                \
        mp_message carried = MP_MESSAGE_INIT;           \
        type sent = (number), got = (type)(sent == 0);  \
        carry(MP__VALUE(sent), &carried);               \
        assert_int_equal(mp_unpack(&carried, &got), 0); \
        assert_true(got == sent);                       \
        mp_message_clear(&carried);                     \
    } while (0)

/* A variable of that type takes the number. */
#define TAKES(type, number)                             \
    do {                                                \
        mp_message carried = MP_MESSAGE_INIT;           \
        type got = 0;                                   \
        carry(MP__VALUE(number), &carried);             \
        assert_int_equal(mp_unpack(&carried, &got), 0); \
        assert_true(got == (type)(number));             \
        mp_message_clear(&carried);                     \
    } while (0)

/* A variable of that type refuses the value and stays as it is. */
#define REFUSES(type, value, code)                           \
    do {                                                     \
        mp_message carried = MP_MESSAGE_INIT;                \
        char before[sizeof(type)];                           \
        type got;                                            \
        memset(before, 1, sizeof(before));                   \
        memcpy(&got, before, sizeof(got));                   \
        carry(MP__VALUE(value), &carried);                   \
        assert_int_equal(mp_unpack(&carried, &got), (code)); \
        assert_memory_equal(&got, before, sizeof(got));      \
        mp_message_clear(&carried);                          \
    } while (0)

/* ---- numbers ---- */

static void every_integer_type_arrives_with_its_extremes(void **state)
{
    (void)state;
    ARRIVES(char, CHAR_MIN);
    ARRIVES(char, CHAR_MAX);
    ARRIVES(signed char, SCHAR_MIN);
    ARRIVES(signed char, SCHAR_MAX);
    ARRIVES(short, SHRT_MIN);
    ARRIVES(short, SHRT_MAX);
    ARRIVES(int, INT_MIN);
    ARRIVES(int, INT_MAX);
    ARRIVES(long, LONG_MIN);
    ARRIVES(long, LONG_MAX);
    ARRIVES(long long, LLONG_MIN);
    ARRIVES(long long, LLONG_MAX);
    ARRIVES(unsigned char, UCHAR_MAX);
    ARRIVES(unsigned short, USHRT_MAX);
    ARRIVES(unsigned, UINT_MAX);
    ARRIVES(unsigned long, ULONG_MAX);
    ARRIVES(unsigned long long, ULLONG_MAX);
    ARRIVES(unsigned long long, 0);
    ARRIVES(bool, true);
    ARRIVES(bool, false);
}

/* Where the encoding changes its width, an off-by-one would show. */
static void integers_around_each_power_of_two_arrive(void **state)
{
    (void)state;
    for (int bit = 0; bit < 63; bit++)
        for (long long delta = -2; delta <= 2; delta++) {
            ARRIVES(long long, (1LL << bit) + delta);
            ARRIVES(long long, -(1LL << bit) + delta);
            ARRIVES(unsigned long long, (2ULL << bit) + (unsigned long long)delta);
        }
}

static void signed_variables_refuse_what_is_out_of_range(void **state)
{
    (void)state;
    TAKES(signed char, -128LL);
    TAKES(signed char, 127LL);
    REFUSES(signed char, -129, MP_ERANGE);
    REFUSES(signed char, 128, MP_ERANGE);
    REFUSES(short, -32769, MP_ERANGE);
    REFUSES(short, 32768, MP_ERANGE);
    REFUSES(int, (long long)INT_MIN - 1, MP_ERANGE);
    REFUSES(int, (long long)INT_MAX + 1, MP_ERANGE);
    REFUSES(int, LLONG_MIN, MP_ERANGE);
    REFUSES(long long, (unsigned long long)LLONG_MAX + 1, MP_ERANGE);
    REFUSES(long long, ULLONG_MAX, MP_ERANGE);
}

static void unsigned_variables_refuse_what_is_out_of_range(void **state)
{
    (void)state;
    TAKES(unsigned char, 255LL);
    REFUSES(unsigned char, 256, MP_ERANGE);
    REFUSES(unsigned char, -1, MP_ERANGE);
    REFUSES(unsigned short, 65536, MP_ERANGE);
    REFUSES(unsigned short, -1, MP_ERANGE);
    REFUSES(unsigned, (long long)UINT_MAX + 1, MP_ERANGE);
    REFUSES(unsigned, -1, MP_ERANGE);
    REFUSES(unsigned long long, -1, MP_ERANGE);
    REFUSES(unsigned long long, LLONG_MIN, MP_ERANGE);
}

static void plain_char_has_the_range_of_this_platform(void **state)
{
    (void)state;
    TAKES(char, (long)CHAR_MIN);
    TAKES(char, (long)CHAR_MAX);
    REFUSES(char, CHAR_MIN - 1, MP_ERANGE);
    REFUSES(char, CHAR_MAX + 1, MP_ERANGE);
}

static void bools_and_the_integers_0_and_1_are_alike(void **state)
{
    (void)state;
    TAKES(bool, 0);
    TAKES(bool, 1);
    TAKES(int, (bool)true);
    TAKES(unsigned char, (bool)false);
    REFUSES(bool, 2, MP_ERANGE);
    REFUSES(bool, -1, MP_ERANGE);
    REFUSES(bool, 1.0, MP_ETYPE);
    REFUSES(bool, "yes", MP_ETYPE);
    REFUSES(bool, mp_none(), MP_ETYPE);
}

static void floats_and_doubles_arrive_bit_for_bit(void **state)
{
    (void)state;
    ARRIVES(double, 0.1);
    ARRIVES(double, DBL_MAX);
    ARRIVES(double, -DBL_TRUE_MIN);
    ARRIVES(double, INFINITY);
    ARRIVES(double, -INFINITY);
    ARRIVES(float, 0.1f);
    ARRIVES(float, FLT_MAX);
    ARRIVES(float, FLT_TRUE_MIN);
    ARRIVES(float, INFINITY);
    ARRIVES(float, -INFINITY);
}

static void nan_and_minus_zero_arrive(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    double nan_double = 0, zero = 1;
    float nan_float = 0;

    (void)state;
    carry(mp_list((double)NAN, (float)NAN, -0.0), &message);
    assert_int_equal(mp_unpack(&message, &nan_double, &nan_float, &zero), 0);
    assert_true(isnan(nan_double));
    assert_true(isnan(nan_float));
    assert_true(zero == 0 && signbit(zero));
    assert_int_equal(mp_unpack(&message, &nan_float, &nan_double, NULL), 0);
    assert_true(isnan(nan_float) && isnan(nan_double));
    mp_message_clear(&message);
}

static void a_double_takes_integers_that_it_holds_exactly(void **state)
{
    const long long most = 1LL << 53;

    (void)state;
    TAKES(double, 7);
    TAKES(double, most);
    TAKES(double, -most);
    TAKES(double, most + 2);
    TAKES(double, LLONG_MIN);
    TAKES(double, 1ULL << 63);
    REFUSES(double, most + 1, MP_ERANGE);
    REFUSES(double, -most - 1, MP_ERANGE);
    REFUSES(double, LLONG_MAX, MP_ERANGE);
    REFUSES(double, ULLONG_MAX, MP_ERANGE);
}

static void a_float_takes_numbers_that_it_holds_exactly(void **state)
{
    (void)state;
    TAKES(float, 0.5);
    TAKES(float, (double)FLT_MAX);
    TAKES(float, (double)INFINITY);
    TAKES(float, 1 << 24);
    TAKES(double, 0.1f);
    REFUSES(float, (1 << 24) + 1, MP_ERANGE);
    REFUSES(float, -(1 << 24) - 1, MP_ERANGE);
    REFUSES(float, 0.1, MP_ERANGE);
    REFUSES(float, 1e300, MP_ERANGE);
    REFUSES(float, DBL_TRUE_MIN, MP_ERANGE);
}

static void numbers_are_not_taken_for_each_other(void **state)
{
    (void)state;
    REFUSES(int, 1.0, MP_ETYPE);
    REFUSES(unsigned long, 1.0f, MP_ETYPE);
    REFUSES(int, "1", MP_ETYPE);
    REFUSES(int, mp_none(), MP_ETYPE);
    REFUSES(int, mp_list(1), MP_ETYPE);
    REFUSES(double, "1", MP_ETYPE);
    REFUSES(double, (bool)true, MP_ETYPE);
    REFUSES(const char *, 1, MP_ETYPE);
    REFUSES(mp_bytes_view, 1, MP_ETYPE);
    REFUSES(mp_connection *, 1, MP_ETYPE);
}

/* ---- text and bytes ---- */

static void text_arrives_with_its_nul_whatever_follows(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    char *writable = (char[]){ "second" };
    const char *a = NULL, *b = NULL;
    char *c = NULL;
    int between = 0;

    (void)state;
    carry(mp_list("first", 300, writable, "\xc3\xa9\xff"), &message);
    assert_int_equal(mp_unpack(&message, &a, &between, &b, &c), 0);
    assert_string_equal(a, "first");
    assert_int_equal(between, 300);
    assert_string_equal(b, "second");
    assert_string_equal(c, "\xc3\xa9\xff");
    mp_message_clear(&message);
}

static void text_of_each_length_class_arrives(void **state)
{
    static const size_t lengths[] = { 0, 1, 31, 32, 255, 256, 65535, 65536, 70000 };
    static char text[70001];

    (void)state;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        mp_message message = MP_MESSAGE_INIT;
        const char *got = NULL;

        memset(text, 'x', sizeof(text));
        text[lengths[i]] = '\0';
        carry(MP__VALUE(text), &message);
        assert_int_equal(mp_unpack(&message, &got), 0);
        assert_string_equal(got, text);
        mp_message_clear(&message);
    }
}

static void empty_text_is_text_and_none_is_null(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    const char *empty = NULL, *none = "untouched", *null = "untouched";
    mp_bytes_view view = { NULL, 1 }, no_view = { "", 1 };

    (void)state;
    carry(mp_list("", mp_none(), (const char *)NULL, "", NULL), &message);
    assert_int_equal(mp_unpack(&message, &empty, &none, &null, &view, &no_view), 0);
    assert_string_equal(empty, "");
    assert_null(none);
    assert_null(null);
    assert_non_null(view.data);
    assert_int_equal(view.size, 0);
    assert_null(no_view.data);
    assert_int_equal(no_view.size, 0);
    mp_message_clear(&message);
}

static void text_with_a_nul_inside_only_fits_a_view(void **state)
{
    msgpack_object text = { .type = MSGPACK_OBJECT_STR, .via.str = { 3, "a\0b" } };
    mp_message message = MP_MESSAGE_INIT;
    const char *got = NULL;
    mp_bytes_view view = { NULL, 0 };

    (void)state;
    carry(text, &message);
    assert_int_equal(mp_unpack(&message, &got), MP_ERANGE);
    assert_null(got);
    assert_sentence_has("mp_bytes_view");
    assert_int_equal(mp_unpack(&message, &view), 0);
    assert_int_equal(view.size, 3);
    assert_memory_equal(view.data, "a\0b", 3);
    mp_message_clear(&message);
}

static void bytes_arrive_as_they_are(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_bytes_view bytes = { NULL, 0 }, empty = { NULL, 1 }, nothing = { NULL, 1 };

    (void)state;
    carry(mp_list(mp_bytes("\0\xff\0", 3), mp_bytes("x", 0), mp_bytes(NULL, 0)), &message);
    assert_int_equal(mp_unpack(&message, &bytes, &empty, &nothing), 0);
    assert_int_equal(bytes.size, 3);
    assert_memory_equal(bytes.data, "\0\xff\0", 3);
    assert_non_null(empty.data);
    assert_int_equal(empty.size, 0);
    assert_non_null(nothing.data);
    assert_int_equal(nothing.size, 0);
    mp_message_clear(&message);
    REFUSES(const char *, mp_bytes("text?", 5), MP_ETYPE);
}

/* ---- structs ---- */

typedef struct point {
    double x, y;
    int label;
} point;

static void a_struct_travels_as_its_bytes(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    point sent, got;

    (void)state;
    memset(&sent, 0x5a, sizeof(sent)); /* the padding too */
    sent.x = 1.5;
    memset(&got, 0, sizeof(got));
    carry(mp_struct(&sent), &message);
    assert_int_equal(mp_unpack(&message, &got), 0);
    assert_memory_equal(&got, &sent, sizeof(sent));
    mp_message_clear(&message);
}

static void an_array_travels_by_its_address(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    point sent[3] = { { 1, 2, 3 }, { 4, 5, 6 }, { 7, 8, 9 } }, got[3];
    long numbers[4] = { 1, -2, 3, LONG_MIN }, same[4] = { 0 };

    (void)state;
    carry(mp_list(mp_struct(&sent), mp_struct(&numbers)), &message);
    assert_int_equal(mp_unpack(&message, &got, &same), 0);
    for (int i = 0; i < 3; i++)
        assert_true(got[i].x == sent[i].x && got[i].label == sent[i].label);
    assert_memory_equal(same, numbers, sizeof(numbers));
    mp_message_clear(&message);
}

static void a_struct_takes_bytes_of_its_size_only(void **state)
{
    char bytes[sizeof(point) + 1] = { 0 };

    (void)state;
    REFUSES(point, mp_bytes(bytes, sizeof(point) + 1), MP_ERANGE);
    REFUSES(point, mp_bytes(bytes, sizeof(point) - 1), MP_ERANGE);
    REFUSES(point, mp_bytes(bytes, 0), MP_ERANGE);
    REFUSES(point, "text", MP_ETYPE);
    REFUSES(point, mp_none(), MP_ETYPE);
}

/* ---- lists and dicts ---- */

static void lists_nest(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    msgpack_object inner, innermost;
    long one = 0, two = 0;
    const char *three = NULL;

    (void)state;
    carry(mp_list(1, mp_list(2, mp_list("three"), mp_list())), &message);
    assert_int_equal(mp_unpack(&message, &one, &inner), 0);
    assert_int_equal(mp_unpack(&inner, &two, &innermost, NULL), 0);
    assert_int_equal(innermost.type, MSGPACK_OBJECT_ARRAY);
    assert_int_equal(innermost.via.array.size, 1);
    assert_int_equal(mp_unpack(&innermost.via.array.ptr[0], &three), 0);
    assert_int_equal(one, 1);
    assert_int_equal(two, 2);
    assert_string_equal(three, "three");
    mp_message_clear(&message);
}

static void an_empty_list_is_a_list_of_no_values(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    int x = 7, y = 8;

    (void)state;
    carry(mp_list(), &message);
    assert_int_equal(message.value.type, MSGPACK_OBJECT_ARRAY);
    assert_int_equal(message.value.via.array.size, 0);
    assert_int_equal(mp_unpack(&message), 0);
    assert_int_equal(mp_unpack(&message, &x, &y), MP_ECOUNT);
    assert_int_equal(x, 7);
    mp_message_clear(&message);
}

static void a_list_holds_32_values(void **state)
{
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    carry(mp_list(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
              23, 24, 25, 26, 27, 28, 29, 30, 31),
        &message);
    assert_int_equal(message.value.via.array.size, 32);
    for (uint32_t i = 0; i < 32; i++)
        assert_int_equal(message.value.via.array.ptr[i].via.u64, i);
    mp_message_clear(&message);
}

static void twenty_values_are_taken_apart_at_once(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    int v[20] = { 0 };

    (void)state;
    carry(mp_list(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19), &message);
    assert_int_equal(
        mp_unpack(&message, &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9],
            &v[10], &v[11], &v[12], &v[13], &v[14], &v[15], &v[16], &v[17], &v[18], &v[19]),
        0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(v[i], i);
    mp_message_clear(&message);
}

static void a_dict_keeps_its_pairs_in_order(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    msgpack_object_kv *pair;
    const char *key = NULL;
    double half = 0;

    (void)state;
    carry(mp_dict("half", 0.5, 2, mp_list("x", 'y'), "half", mp_dict()), &message);
    assert_int_equal(message.value.type, MSGPACK_OBJECT_MAP);
    assert_int_equal(message.value.via.map.size, 3);
    pair = message.value.via.map.ptr;
    assert_int_equal(mp_unpack(&pair[0].key, &key), 0);
    assert_int_equal(mp_unpack(&pair[0].val, &half), 0);
    assert_string_equal(key, "half");
    assert_true(half == 0.5);
    assert_int_equal(pair[1].key.via.u64, 2);
    assert_int_equal(pair[1].val.via.array.size, 2);
    assert_int_equal(pair[2].val.type, MSGPACK_OBJECT_MAP);
    assert_int_equal(pair[2].val.via.map.size, 0);
    mp_message_clear(&message);
}

static void a_list_of_any_length_is_made_and_read_at_run_time(void **state)
{
    enum { N = 300 };
    msgpack_object items[N];
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    for (int i = 0; i < N; i++)
        items[i] = i % 2 ? mp_object(i) : mp_object("even");
    carry(mp_list_of(N, items), &message);
    assert_int_equal(mp_len(&message.value), N);
    for (int i = 0; i < N; i++) {
        const char *text = "";
        int number = 0;

        if (i % 2)
            assert_int_equal(mp_unpack(mp_list_get(&message.value, (size_t)i), &number), 0);
        else
            assert_int_equal(mp_unpack(mp_list_get(&message.value, (size_t)i), &text), 0);
        assert_true(i % 2 ? number == i : strcmp(text, "even") == 0);
    }
    assert_null(mp_list_get(&message.value, N));
    assert_null(mp_dict_get(&message.value, "even"));
    mp_message_clear(&message);
    if (HAS_64_BITS)
        assert_int_equal(refuse(mp_list_of((size_t)UINT32_MAX + 1, NULL)), MP_ETOOLONG);
}

static void the_values_of_a_dict_are_found_by_their_keys(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    int number;

    (void)state;
    carry(mp_dict("one", 1, 2, "two", "", 3, "one", 11), &message);
    assert_int_equal(mp_len(&message.value), 4);
    assert_int_equal(mp_unpack(mp_dict_get(&message.value, "one"), &number), 0);
    assert_int_equal(number, 11); /* as in Python, where the last one stays */
    assert_int_equal(mp_unpack(mp_dict_get(&message.value, ""), &number), 0);
    assert_int_equal(number, 3);
    assert_null(mp_dict_get(&message.value, "on"));
    assert_null(mp_dict_get(&message.value, NULL));
    assert_null(mp_dict_get(NULL, "one"));
    assert_null(mp_list_get(&message.value, 0));
    assert_int_equal(mp_len(NULL), 0);
    assert_int_equal(mp_unpack(mp_dict_get(&message.value, "no"), &number), MP_EINVAL);
    mp_message_clear(&message);
}

static void a_dict_holds_16_pairs(void **state)
{
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    carry(mp_dict(0, "a", 1, "b", 2, "c", 3, "d", 4, "e", 5, "f", 6, "g", 7, "h", 8, "i", 9, "j",
              10, "k", 11, "l", 12, "m", 13, "n", 14, "o", 15, "p"),
        &message);
    assert_int_equal(message.value.via.map.size, 16);
    for (uint32_t i = 0; i < 16; i++) {
        const char *letter = NULL;

        assert_int_equal(message.value.via.map.ptr[i].key.via.u64, i);
        assert_int_equal(mp_unpack(&message.value.via.map.ptr[i].val, &letter), 0);
        assert_int_equal(letter[0], 'a' + (int)i);
    }
    mp_message_clear(&message);
}

static void a_ready_object_is_taken_as_it_is(void **state)
{
    mp_message first = MP_MESSAGE_INIT, second = MP_MESSAGE_INIT;
    const char *text = NULL;
    int number = 0;

    (void)state;
    carry(mp_list("again", -3), &first);
    carry(first.value, &second); /* what came goes on */
    mp_message_clear(&first);
    assert_int_equal(mp_unpack(&second, &text, &number), 0);
    assert_string_equal(text, "again");
    assert_int_equal(number, -3);
    mp_message_clear(&second);
}

static void extensions_of_the_program_arrive(void **state)
{
    static const int8_t types[] = { 0, 5, 0x6f, -1, -128 };

    (void)state;
    for (size_t i = 0; i < sizeof(types); i++) {
        msgpack_object sent = { .type = MSGPACK_OBJECT_EXT, .via.ext = { types[i], 3, "abc" } };
        mp_message message = MP_MESSAGE_INIT;

        carry(sent, &message);
        assert_int_equal(message.value.type, MSGPACK_OBJECT_EXT);
        assert_int_equal(message.value.via.ext.type, types[i]);
        assert_int_equal(message.value.via.ext.size, 3);
        assert_memory_equal(message.value.via.ext.ptr, "abc", 3);
        mp_message_clear(&message);
    }
}

static void a_handle_arrives_inside_lists_and_dicts(void **state)
{
    mp_message message = MP_MESSAGE_INIT, answer = MP_MESSAGE_INIT;
    mp_connection *near, *far, *got = NULL, *none = NULL;
    msgpack_object dict;
    int number = 0;

    (void)state;
    assert_int_equal(mp_pipe(&near, &far), 0);
    none = near;
    carry(mp_list(mp_dict("far", far), (mp_connection *)NULL), &message);
    mp_connection_free(far);
    assert_int_equal(mp_unpack(&message, &dict, &none), 0);
    assert_null(none);
    assert_int_equal(mp_unpack(&dict.via.map.ptr[0].val, &got), 0);
    assert_int_equal(mp_connection_send(got, 42), 0);
    assert_int_equal(mp_connection_recv(near, &answer), 0);
    assert_int_equal(mp_unpack(&answer, &number), 0);
    assert_int_equal(number, 42);
    mp_message_clear(&answer);
    mp_message_clear(&message); /* closes got */
    assert_int_equal(mp_connection_recv(near, &answer), MP_EEOF);
    mp_message_clear(&answer);
    mp_connection_free(near);
}

/* ---- what cannot be packed ---- */

static void a_pointer_to_something_is_refused(void **state)
{
    void *pointer = &state;

    (void)state;
    assert_int_equal(refuse(MP__VALUE(pointer)), MP_ETYPE);
    assert_sentence_has("mp_struct");
    assert_int_equal(refuse(mp_list(1, mp_dict("deep", mp_list(pointer)))), MP_ETYPE);
    assert_int_equal(refuse(mp_bytes(NULL, 1)), MP_ETYPE);
    assert_int_equal(refuse(mp_list_of(2, NULL)), MP_ETYPE);
}

static void a_pointer_is_no_slot(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    int number = 7, *pointer = &number, numbers[2] = { 0, 0 };

    (void)state;
    carry(mp_bytes(&(int *){ NULL }, sizeof(pointer)), &message);
    assert_int_equal(mp_unpack(&message, &pointer), MP_ETYPE);
    assert_sentence_has("pointer");
    assert_ptr_equal(pointer, &number);
    carry(mp_struct(&((int[2]){ 1, 2 })), &message);
    assert_int_equal(mp_unpack(&message, &numbers), 0); /* an array is none */
    assert_int_equal(numbers[1], 2);
    mp_message_clear(&message);
}

static void an_odd_dict_is_refused(void **state)
{
    (void)state;
    assert_int_equal(refuse(mp_dict("key")), MP_ETYPE);
    assert_sentence_has("pairs");
    assert_int_equal(refuse(mp_dict("key", 1, "other")), MP_ETYPE);
}

static void bytes_above_4_gib_are_refused_unread(void **state)
{
    (void)state;
    if (!HAS_64_BITS)
        skip(); /* there are none */
    assert_int_equal(refuse(mp_bytes("short", (size_t)(UINT64_C(1) << 33))), MP_ETOOLONG);
    assert_sentence_has("mp_connection_send_bytes");
    assert_int_equal(refuse(mp_bytes("short", (size_t)UINT32_MAX + 1)), MP_ETOOLONG);
    assert_int_equal(refuse(mp_list(mp_bytes("short", SIZE_MAX))), MP_ETOOLONG);
}

static void extension_types_of_the_library_are_refused(void **state)
{
    (void)state;
    for (int type = 0x70; type <= 0x7f; type++) {
        msgpack_object forged = { .type = MSGPACK_OBJECT_EXT };

        forged.via.ext.type = (int8_t)type;
        forged.via.ext.size = 5;
        forged.via.ext.ptr = "\1\0\0\0\3";
        assert_int_equal(refuse(forged), MP_ETYPE);
        assert_int_equal(refuse(mp_list(forged)), MP_ETYPE);
    }
}

static void an_object_of_no_type_is_refused(void **state)
{
    msgpack_object nonsense = { .type = (msgpack_object_type)0x55 };

    (void)state;
    assert_int_equal(refuse(nonsense), MP_ETYPE);
}

/* Lists (or dicts, every second level) of that depth around none. */
static msgpack_object nest(msgpack_object *levels, unsigned depth)
{
    levels[0] = levels[1] = mp_none();
    for (unsigned i = 0; i < depth; i++) {
        levels += 2;
        levels[0] = i % 2 ? mp__dict(2, levels - 2) : mp__list(1, levels - 2);
        levels[1] = mp_none();
    }
    return levels[0];
}

static void lists_nest_32_deep_and_no_deeper(void **state)
{
    msgpack_object levels[2 * 64];
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    carry(nest(levels, 32), &message);
    for (const msgpack_object *at = &message.value; at->type != MSGPACK_OBJECT_NIL;)
        at = at->type == MSGPACK_OBJECT_MAP ? &at->via.map.ptr[0].key : &at->via.array.ptr[0];
    mp_message_clear(&message);
    assert_int_equal(refuse(nest(levels, 33)), MP_ETOODEEP);
    assert_int_equal(refuse(nest(levels, 60)), MP_ETOODEEP);
    assert_sentence_has("32");
}

static void a_refused_value_leaves_the_buffer_as_it_was(void **state)
{
    mp__buffer bytes = { 0 };
    mp__parcel parcel;
    void *pointer = &state;
    size_t size;

    (void)state;
    parcel.count = 0;
    assert_int_equal(mp__value_pack(mp_list("kept"), &bytes, &parcel), 0);
    size = bytes.size;
    assert_int_equal(mp__value_pack(mp_list("lost", 1, pointer), &bytes, &parcel), MP_ETYPE);
    assert_int_equal(bytes.size, size);
    assert_int_equal(parcel.count, 0);
    mp__buffer_done(&bytes);
}

static void a_refused_process_argument_makes_no_process(void **state)
{
    void *pointer = &state;
    msgpack_object levels[2 * 64];

    (void)state;
    assert_null(mp_process_new(.args = MP_ARGS(pointer)));
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
    assert_null(mp_process_new(.args = nest(levels, 33)));
    assert_int_equal(mp_last_error()->code, MP_ETOODEEP);
}

/* ---- taking apart ---- */

static void another_number_of_values_is_refused(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    int a = 7, b = 8, c = 9;

    (void)state;
    carry(mp_list(1, 2), &message);
    assert_int_equal(mp_unpack(&message, &a, &b, &c), MP_ECOUNT);
    assert_sentence_has("2 values arrived, 3 are expected");
    assert_int_equal(mp_unpack(&message), MP_ECOUNT);
    assert_int_equal(mp_unpack(&message, &a), MP_ETYPE);
    assert_int_equal(a, 7);
    assert_int_equal(b, 8);
    assert_int_equal(c, 9);
    assert_int_equal(mp_unpack(&message, &a, &b), 0);
    assert_int_equal(a, 1);
    mp_message_clear(&message);
}

static void one_wrong_slot_leaves_all_untouched(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    long a = 7, c = 9;
    const char *b = "before";
    unsigned char narrow = 10;

    (void)state;
    carry(mp_list(1, "two", 300), &message);
    assert_int_equal(mp_unpack(&message, &a, &c, &c), MP_ETYPE);
    assert_sentence_has("value 2 is text, not an integer");
    assert_int_equal(mp_unpack(&message, &a, &b, &narrow), MP_ERANGE);
    assert_sentence_has("value 3 does not fit");
    assert_int_equal(a, 7);
    assert_string_equal(b, "before");
    assert_int_equal(c, 9);
    assert_int_equal(narrow, 10);
    mp_message_clear(&message);
}

static void sentences_say_what_came_and_what_was_expected(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    msgpack_object ext = { .type = MSGPACK_OBJECT_EXT, .via.ext = { 1, 1, "x" } };
    const char *text = NULL;
    mp_connection *connection = NULL;
    point p;
    double d;

    (void)state;
    carry(mp_list(1.5, mp_bytes("x", 1), mp_dict(), ext), &message);
    assert_int_equal(mp_unpack(&message, &text, NULL, NULL, NULL), MP_ETYPE);
    assert_sentence_has("value 1 is a float, not text");
    assert_int_equal(mp_unpack(&message, NULL, &d, NULL, NULL), MP_ETYPE);
    assert_sentence_has("value 2 is bytes, not a double");
    assert_int_equal(mp_unpack(&message, NULL, NULL, &p, NULL), MP_ETYPE);
    assert_sentence_has("value 3 is a dict, not the bytes of a struct");
    assert_int_equal(mp_unpack(&message, NULL, NULL, NULL, &connection), MP_ETYPE);
    assert_sentence_has("value 4 is an extension, not a connection");
    mp_message_clear(&message);
}

static void null_skips_any_value(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    int last = 0;

    (void)state;
    carry(mp_list("text", mp_list(1, 2), mp_none(), 5), &message);
    assert_int_equal(mp_unpack(&message, NULL, NULL, NULL, &last), 0);
    assert_int_equal(last, 5);
    assert_int_equal(mp_unpack(&message, NULL), 0);
    assert_int_equal(
        mp_unpack(&message, (const char **)NULL, NULL, (mp_lock **)NULL, (int *)NULL), 0);
    mp_message_clear(&message);
}

static void several_slots_take_lists_apart_and_nothing_else(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    int a = 7, b = 8;

    (void)state;
    carry(MP__VALUE(5), &message);
    assert_int_equal(mp_unpack(&message, &a, &b), MP_ETYPE);
    assert_sentence_has("an integer cannot be taken apart");
    assert_int_equal(mp_unpack(&message), MP_ETYPE);
    carry(mp_dict(1, 2), &message);
    assert_int_equal(mp_unpack(&message, &a, &b), MP_ETYPE);
    assert_int_equal(a, 7);
    assert_int_equal(b, 8);
    mp_message_clear(&message);
}

static void only_calls_messages_and_objects_are_taken_apart(void **state)
{
    mp_message message = MP_MESSAGE_INIT, other = MP_MESSAGE_INIT;
    int number = 7, wanted = 8;

    (void)state;
    assert_int_equal(mp_unpack(&number, &wanted), MP_EINVAL);
    assert_sentence_has("this is none");
    assert_int_equal(mp_unpack(mp_dict_get(&message.value, "key"), &wanted), MP_EINVAL);
    assert_sentence_has("no such item or key");
    assert_int_equal(mp_unpack(&message, &other), MP_EINVAL);
    assert_int_equal(mp_unpack(NULL, &wanted), MP_EINVAL);
    assert_int_equal(wanted, 8);
}

static void a_cleared_message_holds_none_and_is_used_again(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    int number = 7;

    (void)state;
    carry(MP__VALUE("first"), &message);
    carry(MP__VALUE(2), &message);
    assert_int_equal(mp_unpack(&message, &number), 0);
    assert_int_equal(number, 2);
    mp_message_clear(&message);
    mp_message_clear(&message);
    assert_int_equal(message.value.type, MSGPACK_OBJECT_NIL);
    assert_int_equal(mp_unpack(&message, &number), MP_ETYPE);
    mp_message_clear(NULL);
}

/* The memory of a large value is not kept for the small ones that follow. */
static void large_and_small_values_take_turns_in_one_message(void **state)
{
    enum {
        N = 5000,
        TURNS = 20,
        SLACK = 65536
    }; /* of malloc's; a large value needs 5 times that */
    static msgpack_object pairs[N][2], lists[N];
    mp_message message = MP_MESSAGE_INIT;
    size_t before = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        pairs[i][0] = pairs[i][1] = mp_object(i);
        lists[i] = mp_list_of(2, pairs[i]);
    }
    for (int turn = 0; turn < TURNS; turn++) {
        int last[2], small = 0;

        carry(mp_list_of(N, lists), &message);
        assert_int_equal(mp_unpack(mp_list_get(&message.value, N - 1), &last[0], &last[1]), 0);
        assert_int_equal(last[0] + last[1], 2 * (N - 1));
        carry(MP__VALUE(turn), &message);
        assert_int_equal(mp_unpack(&message, &small), 0);
        assert_int_equal(small, turn);
        if (turn == 0)
            before = memory_in_use();
    }
    assert_in_range(memory_in_use(), 0, before + SLACK);
    mp_message_clear(&message);
}

static void messages_of_each_kind_give_their_memory_back(void **state)
{
    enum { TURNS = 200, SLACK = 65536 };
    const point place = { 1, 2, 3 };
    const msgpack_object values[] = { MP__VALUE("text"), MP__VALUE(""), mp_bytes("bytes", 5),
        mp_struct(&place), mp_list(1, "two"), mp_dict("three", 3), MP__VALUE(4), MP__VALUE(5.0),
        mp_none() };
    size_t before = 0;

    (void)state;
    for (int turn = 0; turn < TURNS; turn++) {
        for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
            mp_message message = MP_MESSAGE_INIT;

            carry(values[i], &message);
            assert_int_equal(message.value.type, values[i].type);
            mp_message_clear(&message);
        }
        if (turn == 0)
            before = memory_in_use();
    }
    assert_in_range(memory_in_use(), 0, before + SLACK);
}

/* ---- calls ---- */

static int add_twenty(mp_call *call)
{
    int v[20], sum = 0;

    if (mp_unpack(call, &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9],
            &v[10], &v[11], &v[12], &v[13], &v[14], &v[15], &v[16], &v[17], &v[18], &v[19]))
        return 255;
    for (int i = 0; i < 20; i++)
        sum += v[i];
    return sum;
}

static void a_call_has_twenty_arguments(void **state)
{
    (void)state;
    assert_int_equal(
        finish(start_process(.target = add_twenty,
            .args = MP_ARGS(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3))),
        31);
}

/* One argument is still a list of one: the slot takes the argument, not the list. */
static int take_one_argument(mp_call *call)
{
    msgpack_object only;
    int a, b;

    if (mp_unpack(call) != MP_ECOUNT || mp_unpack(call, &a, &b) != MP_ECOUNT)
        return 1;
    if (mp_unpack(call, &only) < 0 || only.type != MSGPACK_OBJECT_ARRAY)
        return 2;
    return mp_unpack(&only, &a, &b) == 0 && a == 4 && b == 5 ? 42 : 3;
}

static int take_no_argument(mp_call *call)
{
    int a = 0;

    return mp_unpack(call) == 0 && mp_unpack(call, &a) == MP_ECOUNT ? 42 : 1;
}

static void arguments_are_always_a_list(void **state)
{
    (void)state;
    assert_int_equal(
        finish(start_process(.target = take_one_argument, .args = MP_ARGS(mp_list(4, 5)))), 42);
    assert_int_equal(finish(start_process(.target = take_no_argument, .args = MP_ARGS())), 42);
    assert_int_equal(finish(start_process(.target = take_no_argument)), 42);
}

static int echo(mp_call *call)
{
    mp_connection *answers;
    msgpack_object value;

    if (mp_unpack(call, &answers, &value))
        return 1;
    return mp_connection_send(answers, value) != 0;
}

static void assert_mixture(mp_message *answer)
{
    point p = { 0, 0, 0 };
    bool yes = false;
    double half = 0;
    const char *text = NULL, *none = "untouched";
    mp_bytes_view bytes = { NULL, 0 };
    long long least = 0;

    assert_int_equal(mp_unpack(answer, &yes, &half, &text, &none, &bytes, &least, &p, NULL), 0);
    assert_true(yes);
    assert_true(half == 0.5);
    assert_string_equal(text, "text");
    assert_null(none);
    assert_memory_equal(bytes.data, "by\0tes", 6);
    assert_true(least == LLONG_MIN);
    assert_true(p.x == 1 && p.y == 2 && p.label == 3);
}

static void values_of_all_kinds_go_to_a_child_and_back(void **state)
{
    mp_connection *here, *there;
    mp_message answer = MP_MESSAGE_INIT;
    point p = { 1, 2, 3 };
    mp_process *child;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    child = start_process(.target = echo,
        .args = MP_ARGS(there, mp_list((bool)true, 0.5, "text", mp_none(), mp_bytes("by\0tes", 6),
                                   LLONG_MIN, mp_struct(&p), mp_dict("key", mp_list()))));
    mp_connection_free(there);
    assert_int_equal(mp_connection_recv(here, &answer), 0);
    assert_mixture(&answer);
    assert_int_equal(finish(child), 0);
    mp_message_clear(&answer);
    mp_connection_free(here);
}

static int return_values(mp_call *call)
{
    void *pointer = call;
    msgpack_object levels[2 * 64];

    if (mp_return(call, pointer) != MP_ETYPE)
        return 1;
    if (mp_return(call, nest(levels, 33)) != MP_ETOODEEP)
        return 2;
    if (mp_return(call, mp_list("fine", 1)) != 0)
        return 3;
    return mp_return(call, 5) == MP_EALREADY ? 42 : 4;
}

static void mp_return_checks_the_answer_in_a_process(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = return_values)), 42);
}

/* ---- raising ---- */

/* From now on what this process and its children write to stderr goes into a file. */
static int capture_begin(int *saved)
{
    int file = memfd_create("stderr", MFD_CLOEXEC);

    assert_true(file >= 0);
    (void)fflush(stderr);
    *saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    assert_true(*saved >= 0);
    assert_int_equal(dup2(file, STDERR_FILENO), STDERR_FILENO);
    return file;
}

static void capture_end(int file, int saved, char *text, size_t capacity)
{
    ssize_t n = pread(file, text, capacity - 1, 0);

    (void)dup2(saved, STDERR_FILENO);
    (void)close(saved);
    (void)close(file);
    assert_true(n >= 0);
    text[n] = '\0';
}

static int raise_an_error(mp_call *call)
{
    return mp_raise(call, -42, "disk %d is full,\nsaid %s", 3, "the child");
}

static int raise_and_recover(mp_call *call)
{
    (void)mp_raise(call, MP_EIO, "never mind");
    return 0;
}

static void a_raised_error_is_one_line_on_stderr(void **state)
{
    char text[4096], line[128];
    int saved, file = capture_begin(&saved);
    mp_process *child = start_process(.target = raise_an_error, .name = "Raiser");
    long pid = (long)mp_process_pid(child);
    int code = finish(child);

    (void)state;
    capture_end(file, saved, text, sizeof(text));
    (void)snprintf(line, sizeof(line), "Raiser pid %ld: disk 3 is full, said the child\n", pid);
    assert_int_equal(code, 1);
    assert_string_equal(text, line);
}

static int take_text(mp_call *call)
{
    const char *text;

    if (mp_unpack(call, &text) == 0)
        return 0;
    (void)mp_unpack(NULL, &text); /* another error, which is not what it ends of */
    return 3;
}

static void arguments_that_are_refused_are_one_line_on_stderr(void **state)
{
    char text[4096], line[128];
    int saved, file = capture_begin(&saved);
    mp_process *child = start_process(.target = take_text, .args = MP_ARGS(1), .name = "Taker");
    long pid = (long)mp_process_pid(child);
    int code = finish(child);

    (void)state;
    capture_end(file, saved, text, sizeof(text));
    (void)snprintf(line, sizeof(line),
        "Taker pid %ld: its arguments were refused: value 1 is an integer, not text\n", pid);
    assert_int_equal(code, 3);
    assert_string_equal(text, line);
}

static void an_error_is_not_told_by_a_child_that_ends_well(void **state)
{
    char text[4096];
    int saved, file = capture_begin(&saved);
    int code = finish(start_process(.target = raise_and_recover));

    (void)state;
    capture_end(file, saved, text, sizeof(text));
    assert_int_equal(code, 0);
    assert_string_equal(text, "");
}

static int look_at_what_was_raised(mp_call *call)
{
    if (mp_raise(call, MP_EIO, "%s", "no disk") != 1 || mp_last_error()->code != MP_EIO)
        return 1;
    if (strcmp(mp_last_error()->text, "no disk") != 0)
        return 2;
    if (mp_raise(call, 0, "no code") != 1 || mp_last_error()->code != MP_ERAISED)
        return 3;
    exit(42); /* not by returning: nothing shall be told */
}

static void a_raised_error_is_the_last_error(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = look_at_what_was_raised)), 42);
}

static const struct CMUnitTest tests[] = {
    ONCE(every_integer_type_arrives_with_its_extremes),
    ONCE(integers_around_each_power_of_two_arrive),
    ONCE(signed_variables_refuse_what_is_out_of_range),
    ONCE(unsigned_variables_refuse_what_is_out_of_range),
    ONCE(plain_char_has_the_range_of_this_platform),
    ONCE(bools_and_the_integers_0_and_1_are_alike),
    ONCE(floats_and_doubles_arrive_bit_for_bit),
    ONCE(nan_and_minus_zero_arrive),
    ONCE(a_double_takes_integers_that_it_holds_exactly),
    ONCE(a_float_takes_numbers_that_it_holds_exactly),
    ONCE(numbers_are_not_taken_for_each_other),
    ONCE(text_arrives_with_its_nul_whatever_follows),
    ONCE(text_of_each_length_class_arrives),
    ONCE(empty_text_is_text_and_none_is_null),
    ONCE(text_with_a_nul_inside_only_fits_a_view),
    ONCE(bytes_arrive_as_they_are),
    ONCE(a_struct_travels_as_its_bytes),
    ONCE(an_array_travels_by_its_address),
    ONCE(a_struct_takes_bytes_of_its_size_only),
    ONCE(lists_nest),
    ONCE(an_empty_list_is_a_list_of_no_values),
    ONCE(a_list_holds_32_values),
    ONCE(twenty_values_are_taken_apart_at_once),
    ONCE(a_dict_keeps_its_pairs_in_order),
    ONCE(a_list_of_any_length_is_made_and_read_at_run_time),
    ONCE(the_values_of_a_dict_are_found_by_their_keys),
    ONCE(a_dict_holds_16_pairs),
    ONCE(a_ready_object_is_taken_as_it_is),
    ONCE(extensions_of_the_program_arrive),
    ONCE(a_handle_arrives_inside_lists_and_dicts),
    ONCE(a_pointer_to_something_is_refused),
    ONCE(a_pointer_is_no_slot),
    ONCE(an_odd_dict_is_refused),
    ONCE(bytes_above_4_gib_are_refused_unread),
    ONCE(extension_types_of_the_library_are_refused),
    ONCE(an_object_of_no_type_is_refused),
    ONCE(lists_nest_32_deep_and_no_deeper),
    ONCE(a_refused_value_leaves_the_buffer_as_it_was),
    ONCE(a_refused_process_argument_makes_no_process),
    ONCE(another_number_of_values_is_refused),
    ONCE(one_wrong_slot_leaves_all_untouched),
    ONCE(sentences_say_what_came_and_what_was_expected),
    ONCE(null_skips_any_value),
    ONCE(several_slots_take_lists_apart_and_nothing_else),
    ONCE(only_calls_messages_and_objects_are_taken_apart),
    ONCE(a_cleared_message_holds_none_and_is_used_again),
    ONCE(large_and_small_values_take_turns_in_one_message),
    ONCE(messages_of_each_kind_give_their_memory_back),
    UNDER_EACH(a_call_has_twenty_arguments),
    UNDER_EACH(arguments_are_always_a_list),
    UNDER_EACH(values_of_all_kinds_go_to_a_child_and_back),
    UNDER_EACH(mp_return_checks_the_answer_in_a_process),
    UNDER_EACH(a_raised_error_is_one_line_on_stderr),
    UNDER_EACH(arguments_that_are_refused_are_one_line_on_stderr),
    UNDER_EACH(an_error_is_not_told_by_a_child_that_ends_well),
    UNDER_EACH(a_raised_error_is_the_last_error),
};

TESTS_MAIN(tests)
