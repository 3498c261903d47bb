/* SPDX-License-Identifier: MIT
 *
 * test_pool.c - calls of a pool that wait: apply, map and starmap; what goes in
 * and comes out, and how failures are told. What does not wait is
 * test_pool_async.c's business, imaps are test_pool_imap.c's, how a pool begins
 * and ends is test_pool_life.c's.
 */
#include "pools.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- tasks ---- */

static int nothing(mp_call *call)
{
    (void)call;
    return 0;
}

/* Gives back what it was given. */
static int echo(mp_call *call)
{
    msgpack_object value;

    return mp_unpack(call, &value) ? 1 : mp_return(call, value);
}

static _Noreturn int block_for_ever(mp_call *call)
{
    (void)call;
    for (;;)
        (void)pause();
}

/* ---- apply ---- */

static void apply_gives_the_answer(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_message answer = MP_MESSAGE_INIT;
    long x;

    (void)state;
    for (long i = -3; i < 20; i++) {
        assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(i), &answer), 0);
        assert_int_equal(mp_unpack(&answer, &x), 0);
        assert_int_equal(x, i * i);
    }
    mp_message_clear(&answer);
    mp_pool_free(pool);
}

static int count_arguments(mp_call *call)
{
    return mp_unpack(call, NULL) ? mp_return(call, "not one") : mp_return(call, "one");
}

static void apply_needs_no_arguments_and_no_answer(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message answer = MP_MESSAGE_INIT;
    const char *text;

    (void)state;
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(3), NULL), 0);
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(3)), 0);
    assert_int_equal(mp_pool_apply(pool, count_arguments, MP_ARGS(), &answer), 0);
    assert_int_equal(mp_unpack(&answer, &text), 0);
    assert_string_equal(text, "not one");
    assert_int_equal(mp_pool_apply(pool, count_arguments, mp_none(), &answer), 0);
    assert_int_equal(mp_unpack(&answer, &text), 0);
    assert_string_equal(text, "not one");

    assert_int_equal(mp_pool_apply(pool, nothing, MP_ARGS(), &answer), 0);
    assert_int_equal(answer.value.type, MSGPACK_OBJECT_NIL);
    mp_message_clear(&answer);
    mp_pool_free(pool);
}

static int repeat_arguments(mp_call *call)
{
    mp_bytes_view bytes;
    msgpack_object list, dict;
    const char *text, *absent;
    long number;
    double fraction;
    bool flag;

    if (mp_unpack(call, &number, &text, &bytes, &fraction, &flag, &absent, &list, &dict))
        return mp_raise(call, 1, "%s", mp_last_error()->text);
    return mp_return(call, mp_list(dict, list, absent, flag, fraction,
                               mp_bytes(bytes.data, bytes.size), text, number));
}

static void values_of_all_kinds_arrive_and_come_back(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message answer = MP_MESSAGE_INIT;
    mp_bytes_view bytes;
    msgpack_object list;
    const char *text, *absent;
    long number, first;
    double fraction, second;
    bool flag;

    (void)state;
    assert_int_equal(mp_pool_apply(pool, repeat_arguments,
                         MP_ARGS(LONG_MIN, "text", mp_bytes("\0\1\2", 3), 0.1, (bool)true, NULL,
                             mp_list(7, 2.5), mp_dict("a", 1)),
                         &answer),
        0);
    assert_int_equal(
        mp_unpack(&answer, NULL, &list, &absent, &flag, &fraction, &bytes, &text, &number), 0);
    assert_int_equal(mp_unpack(&list, &first, &second), 0);
    assert_true(number == LONG_MIN && fraction == 0.1 && flag && first == 7 && second == 2.5);
    assert_string_equal(text, "text");
    assert_null(absent);
    assert_int_equal(bytes.size, 3);
    assert_memory_equal(bytes.data, "\0\1\2", 3);
    mp_message_clear(&answer);
    mp_pool_free(pool);
}

static int reverse_bytes(mp_call *call)
{
    mp_bytes_view in;
    char *out;
    int r;

    if (mp_unpack(call, &in) || !(out = malloc(in.size + 1)))
        return 1;
    for (size_t i = 0; i < in.size; i++)
        out[i] = ((const char *)in.data)[in.size - 1 - i];
    r = mp_return(call, mp_bytes(out, in.size));
    free(out);
    return r;
}

static void arguments_and_answers_of_any_size_travel(void **state)
{
    static const size_t sizes[] = { 0, 1, 200, 247, 248, 249, 4000, 65535, 65536, 65537, 1000000,
        5000000 };
    mp_pool *pool = make_pool(.processes = 2);
    mp_message answer = MP_MESSAGE_INIT;
    char *data = malloc(5000000);

    (void)state;
    assert_non_null(data);
    for (size_t i = 0; i < 5000000; i++)
        data[i] = (char)(i * 31 >> 3);
    for (size_t k = 0; k < sizeof(sizes) / sizeof(*sizes); k++) {
        mp_bytes_view bytes;
        size_t wrong = 0;

        assert_int_equal(
            mp_pool_apply(pool, reverse_bytes, MP_ARGS(mp_bytes(data, sizes[k])), &answer), 0);
        assert_int_equal(mp_unpack(&answer, &bytes), 0);
        assert_int_equal(bytes.size, sizes[k]);
        for (size_t i = 0; i < bytes.size; i++)
            wrong += ((const char *)bytes.data)[i] != data[sizes[k] - 1 - i];
        assert_int_equal(wrong, 0);
    }
    free(data);
    mp_message_clear(&answer);
    mp_pool_free(pool);
}

/* ---- functions ---- */

/* A copy of a shared library of the system, loaded, whose file is gone again. */
static void *load_and_remove(char path[])
{
    char buffer[65536];
    void *library;
    Dl_info info;
    ssize_t n;
    int from, to = mkstemp(path);

    assert_true(to >= 0 && dladdr(dlsym(RTLD_DEFAULT, "msgpack_version"), &info));
    from = open(info.dli_fname, O_RDONLY);
    while ((n = read(from, buffer, sizeof(buffer))) > 0)
        assert_int_equal(write(to, buffer, (size_t)n), n);
    (void)close(from);
    (void)close(to);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    (void)unlink(path);
    return library;
}

/* Each says what it lacks, whatever other functions lack. */
static void a_function_that_workers_cannot_find_fails_alone(void **state)
{
    char paths[2][32] = { "/tmp/mp-test-XXXXXX", "/tmp/mp-test-XXXXXX" };
    mp_pool *pool;
    void *libraries[2];
    long in[] = { 1, 2, 3 }, out[3];
    mp_task_error error;

    (void)state;
    if (!dlsym(RTLD_DEFAULT, "msgpack_version"))
        skip(); /* no shared library to take */
    pool = make_pool(.processes = 2);
    for (int i = 0; i < 2; i++)
        libraries[i] = load_and_remove(paths[i]);
    for (int i = 0; i < 4; i++) {
        mp_function lost = NULL;

        assert_non_null(libraries[i % 2]);
        *(void **)&lost = dlsym(libraries[i % 2], "msgpack_version");
        assert_int_equal(
            mp_pool_map(pool, lost, MP_ITEMS(in, 3), MP_ITEMS(out, 3), .error = &error),
            MP_EFUNCTION);
        assert_non_null(strstr(error.text, paths[i % 2]));
    }
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, 3), MP_ITEMS(out, 3)), 0);
    assert_int_equal(out[2], 9);
    (void)dlclose(libraries[0]);
    (void)dlclose(libraries[1]);
    mp_pool_free(pool);
}

/* ---- handles ---- */

static int write_into(mp_call *call)
{
    mp_connection *line;
    long number;

    return mp_unpack(call, &line, &number) || mp_connection_send(line, number);
}

/* A new pipe with a message in it: the reading end is the answer. */
static int make_full_pipe(mp_call *call)
{
    mp_connection *reader, *writer;
    long number;
    int r;

    if (mp_unpack(call, &number) || mp_pipe(&reader, &writer, .oneway = true))
        return 1;
    r = mp_connection_send(writer, number);
    if (r == 0)
        r = mp_return(call, mp_list(reader, number));
    mp_connection_free(writer);
    mp_connection_free(reader);
    return r;
}

static void expect_number(mp_connection *line, long number)
{
    mp_message message = MP_MESSAGE_INIT;
    long x;

    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &x), 0);
    assert_int_equal(x, number);
    mp_message_clear(&message);
}

static void handles_travel_as_arguments(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_connection *here, *there;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    for (long i = 0; i < 10; i++) {
        assert_int_equal(mp_pool_apply(pool, write_into, MP_ARGS(there, i)), 0);
        expect_number(here, i);
    }
    mp_connection_free(there);
    mp_connection_free(here);
    mp_pool_free(pool);
}

static void handles_travel_as_items(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_connection *here[3], *there[3];

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(mp_pipe(&here[i], &there[i]), 0);
    {
        msgpack_object items[] = { mp_list(there[0], 10), mp_list(there[1], 11),
            mp_list(there[2], 12) };

        assert_int_equal(mp_pool_starmap(pool, write_into, MP_ITEMS(items, 3)), 0);
    }
    for (int i = 0; i < 3; i++) {
        mp_connection_free(there[i]);
        expect_number(here[i], 10 + i);
        mp_connection_free(here[i]);
    }
    mp_pool_free(pool);
}

/* Says something through the line it got. */
static int sign(mp_call *call)
{
    mp_connection *line;
    int r = mp_unpack(call, &line);

    return r == 0 ? mp_connection_send(line, 7L) : r;
}

static void arrays_of_handles_are_items(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_connection *here[3], *there[4];
    mp_message message = MP_MESSAGE_INIT;
    long numbers[3] = { 1, 2, 3 };
    mp_imap *imap;

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(mp_pipe(&here[i], &there[i]), 0);
    assert_int_equal(mp_pool_map(pool, sign, MP_ITEMS(there, 3)), 0);
    imap = mp_pool_imap(pool, sign, MP_ITEMS(there, 3));
    for (int i = 0; i < 3; i++)
        assert_int_equal(mp_imap_next(imap, &message, PATIENCE), 0);
    mp_message_clear(&message);
    mp_imap_free(imap);
    there[3] = NULL; /* arrives as none, which is no connection */
    assert_int_equal(mp_pool_map(pool, sign, MP_ITEMS(&there[3], 1)), MP_ERAISED);
    assert_int_equal(
        mp_pool_map(pool, square, MP_ITEMS(numbers, 3), MP_ITEMS(there, 3)), MP_EINVAL);
    for (int i = 0; i < 3; i++) {
        mp_connection_free(there[i]);
        expect_number(here[i], 7);
        expect_number(here[i], 7);
        mp_connection_free(here[i]);
    }
    mp_pool_free(pool);
}

static void handles_travel_as_answers(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_message answers[20];
    long in[20];

    (void)state;
    for (int i = 0; i < 20; i++) {
        in[i] = 100 + i;
        answers[i] = (mp_message)MP_MESSAGE_INIT;
    }
    assert_int_equal(mp_pool_map(pool, make_full_pipe, MP_ITEMS(in, 20), MP_ITEMS(answers, 20)), 0);
    for (int i = 0; i < 20; i++) {
        mp_connection *line;
        long number;

        assert_int_equal(mp_unpack(&answers[i], &line, &number), 0);
        assert_int_equal(number, 100 + i);
        expect_number(line, number);
        mp_message_clear(&answers[i]);
    }
    mp_pool_free(pool);
}

static void an_answer_with_handles_that_nobody_wants_leaves_no_descriptors(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    int before = count_descriptors();
    long in[] = { 1, 2, 3 };

    (void)state;
    assert_int_equal(mp_pool_apply(pool, make_full_pipe, MP_ARGS(1), NULL), 0);
    assert_int_equal(mp_pool_map(pool, make_full_pipe, MP_ITEMS(in, 3)), 0);
    assert_int_equal(count_descriptors(), before);
    mp_pool_free(pool);
}

/* ---- map ---- */

static void check_map(mp_pool *pool, size_t count, size_t chunksize)
{
    long in[1000], out[1000];

    for (size_t i = 0; i < count; i++) {
        in[i] = (long)i;
        out[i] = -1;
    }
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, count), MP_ITEMS(out, count),
                         .chunksize = chunksize),
        0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(out[i], i * i);
}

static void map_keeps_the_order(void **state)
{
    mp_pool *pool = make_pool(.processes = 3);

    (void)state;
    check_map(pool, 10, 0);
    check_map(pool, 100, 20);
    check_map(pool, 1, 0);
    for (size_t chunksize = 0; chunksize <= 2000; chunksize = 3 * chunksize + 1)
        check_map(pool, 1000, chunksize);
    check_map(pool, 1000, SIZE_MAX / 2 + 1);
    check_map(pool, 7, SIZE_MAX);
    mp_pool_free(pool);
}

static void map_needs_no_output(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    const long in[] = { 1, 2, 3 };

    (void)state;
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, 3)), 0);
    assert_int_equal(mp_pool_map(pool, nothing, MP_ITEMS(in, 3)), 0);
    mp_pool_free(pool);
}

static void a_map_of_nothing_is_done_at_once(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_task_error error = { .code = 1 };
    long none[1];

    (void)state;
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(none, 0), MP_ITEMS(none, 0)), 0);
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS((long *)NULL, 0)), 0);
    assert_int_equal(
        mp_pool_map(pool, square, MP_ITEMS(none, 0), .chunksize = 5, .error = &error), 0);
    assert_int_equal(error.code, 0);
    assert_int_equal(mp_pool_starmap(pool, multiply, MP_ITEMS((msgpack_object *)NULL, 0)), 0);
    mp_pool_free(pool);
}

static void starmap_takes_lists_apart(void **state)
{
    msgpack_object store[100][2], items[100];
    mp_pool *pool = make_pool(.processes = 2);
    long out[100] = { 0 };

    (void)state;
    for (int i = 0; i < 100; i++) {
        store[i][0] = mp__from_signed(i);
        store[i][1] = mp__from_signed(i + 1);
        items[i] = mp__list(2, store[i]);
    }
    for (size_t chunksize = 0; chunksize <= 20; chunksize += 10) {
        assert_int_equal(mp_pool_starmap(pool, multiply, MP_ITEMS(items, 100), MP_ITEMS(out, 100),
                             .chunksize = chunksize),
            0);
        for (int i = 0; i < 100; i++)
            assert_int_equal(out[i], i * (i + 1));
        memset(out, 0, sizeof(out));
    }
    mp_pool_free(pool);
}

static void starmap_wants_lists(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    msgpack_object items[] = { mp_list(2, 3), mp__from_signed(4), mp_list(5, 6) };
    mp_task_error error;
    long out[3] = { 0 };
    int status[3];

    (void)state;
    assert_int_equal(mp_pool_starmap(pool, multiply, MP_ITEMS(items, 3), MP_ITEMS(out, 3),
                         .status = status, .error = &error),
        MP_ETYPE);
    assert_int_equal(error.index, 1);
    assert_true(out[0] == 6 && out[1] == 0 && out[2] == 30);
    assert_true(status[0] == 0 && status[1] == MP_ETYPE && status[2] == 0);
    mp_pool_free(pool);
}

/* ---- types of items ---- */

static int echo_signed(mp_call *call)
{
    long long x;

    return mp_unpack(call, &x) ? 1 : mp_return(call, x);
}

static int echo_unsigned(mp_call *call)
{
    unsigned long long x;

    return mp_unpack(call, &x) ? 1 : mp_return(call, x);
}

#define check_integers(function, type, ...)                                                  \
    do {                                                                                     \
        type in[] = { __VA_ARGS__ }, out[sizeof(in) / sizeof(*in)] = { 0 };                  \
        size_t n = sizeof(in) / sizeof(*in);                                                 \
                                                                                             \
        assert_int_equal(mp_pool_map(pool, function, MP_ITEMS(in, n), MP_ITEMS(out, n)), 0); \
        assert_memory_equal(in, out, sizeof(in));                                            \
    } while (0)

static void integers_of_every_width_are_items_and_answers(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);

    (void)state;
    check_integers(echo_signed, char, CHAR_MIN, 0, CHAR_MAX, 'x');
    check_integers(echo_signed, signed char, SCHAR_MIN, -1, 0, SCHAR_MAX);
    check_integers(echo_signed, short, SHRT_MIN, -1, 0, SHRT_MAX);
    check_integers(echo_signed, int, INT_MIN, -1, 0, INT_MAX);
    check_integers(echo_signed, long, LONG_MIN, -1, 0, LONG_MAX);
    check_integers(echo_signed, long long, LLONG_MIN, -1, 0, LLONG_MAX);
    check_integers(echo_unsigned, unsigned char, 0, 1, UCHAR_MAX);
    check_integers(echo_unsigned, unsigned short, 0, 1, USHRT_MAX);
    check_integers(echo_unsigned, unsigned, 0, 1, UINT_MAX);
    check_integers(echo_unsigned, unsigned long, 0, 1, ULONG_MAX);
    check_integers(echo_unsigned, unsigned long long, 0, 1, ULLONG_MAX);
    check_integers(echo, int8_t, INT8_MIN, INT8_MAX);
    check_integers(echo, uint64_t, 0, UINT64_MAX);
    mp_pool_free(pool);
}

static int negate(mp_call *call)
{
    bool flag;

    return mp_unpack(call, &flag) ? 1 : mp_return(call, (bool)!flag);
}

static void bools_are_items_and_answers(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    bool in[] = { true, false, true }, out[] = { true, false, true };

    (void)state;
    assert_int_equal(mp_pool_map(pool, negate, MP_ITEMS(in, 3), MP_ITEMS(out, 3)), 0);
    assert_true(!out[0] && out[1] && !out[2]);
    mp_pool_free(pool);
}

static int halve(mp_call *call)
{
    double x;

    return mp_unpack(call, &x) ? 1 : mp_return(call, x / 2);
}

static void floats_and_doubles_are_items_and_answers(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    double in[] = { 0.1, -0.0, DBL_MAX, (double)INFINITY, DBL_MIN }, out[5] = { 0 };
    float small[] = { 0.5f, FLT_MAX, (float)-INFINITY, 3 }, halves[4] = { 0 };
    double nothing_at_all = (double)NAN;

    (void)state;
    assert_int_equal(mp_pool_map(pool, halve, MP_ITEMS(in, 5), MP_ITEMS(out, 5)), 0);
    for (int i = 0; i < 5; i++)
        assert_true(out[i] == in[i] / 2);
    assert_true(signbit(out[1]));
    assert_int_equal(mp_pool_map(pool, halve, MP_ITEMS(small, 4), MP_ITEMS(halves, 4)), 0);
    for (int i = 0; i < 4; i++)
        assert_true(halves[i] == small[i] / 2);
    assert_int_equal(mp_pool_map(pool, halve, MP_ITEMS(&nothing_at_all, 1), MP_ITEMS(out, 1)), 0);
    assert_true(isnan(out[0]));
    mp_pool_free(pool);
}

typedef struct point {
    double x, y;
    int number;
    char name[12];
} point;

static int mirror(mp_call *call)
{
    point p, q;

    if (mp_unpack(call, &p))
        return 1;
    q = p;
    q.x = p.y;
    q.y = p.x;
    return mp_return(call, mp_struct(&q));
}

static void structs_are_items_and_answers(void **state)
{
    enum { N = 500 };
    static point in[N], out[N];
    mp_pool *pool = make_pool(.processes = 2);

    (void)state;
    memset(out, 0, sizeof(out));
    for (int i = 0; i < N; i++)
        in[i] = (point){ .x = i, .y = -i / 3.0, .number = i, .name = "point" };
    assert_int_equal(mp_pool_map(pool, mirror, MP_ITEMS(in, N), MP_ITEMS(out, N)), 0);
    for (int i = 0; i < N; i++) {
        assert_true(out[i].x == in[i].y && out[i].y == in[i].x && out[i].number == i);
        assert_string_equal(out[i].name, "point");
    }
    mp_pool_free(pool);
}

typedef struct page {
    unsigned number;
    unsigned char bytes[5000];
} page;

static int fill_page(mp_call *call)
{
    page p;

    if (mp_unpack(call, &p))
        return 1;
    for (size_t i = 0; i < sizeof(p.bytes); i++)
        p.bytes[i] = (unsigned char)(p.bytes[i] + p.number + i);
    return mp_return(call, mp_struct(&p));
}

static void structs_larger_than_what_a_ring_takes_are_items_and_answers(void **state)
{
    enum { N = 100 };
    static page in[N], out[N];
    mp_pool *pool = make_pool(.processes = 2);

    (void)state;
    memset(out, 0, sizeof(out));
    for (unsigned i = 0; i < N; i++) {
        in[i].number = i;
        memset(in[i].bytes, (int)i, sizeof(in[i].bytes));
    }
    assert_int_equal(mp_pool_map(pool, fill_page, MP_ITEMS(in, N), MP_ITEMS(out, N)), 0);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(out[i].number, i);
        for (size_t k = 0; k < sizeof(out[i].bytes); k++)
            if (out[i].bytes[k] != (unsigned char)(2 * i + k))
                fail_msg("page %u, byte %zu", i, k);
    }
    mp_pool_free(pool);
}

static int measure(mp_call *call)
{
    const char *text;

    return mp_unpack(call, &text) ? 1 : mp_return(call, text ? (int)strlen(text) : -1);
}

static void texts_are_items(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    const char *words[] = { "", "one", "two words", NULL };
    char first[] = "mine", *mine[] = { first };
    int out[4] = { 0 };

    (void)state;
    assert_int_equal(mp_pool_map(pool, measure, MP_ITEMS(words, 4), MP_ITEMS(out, 4)), 0);
    assert_true(out[0] == 0 && out[1] == 3 && out[2] == 9 && out[3] == -1);
    assert_int_equal(mp_pool_map(pool, measure, MP_ITEMS(mine, 1), MP_ITEMS(out, 1)), 0);
    assert_int_equal(out[0], 4);
    mp_pool_free(pool);
}

typedef char short_name[8];

static int measure_name(mp_call *call)
{
    short_name text;

    return mp_unpack(call, &text) ? 1 : mp_return(call, (int)strlen(text));
}

static void arrays_are_items_and_other_pointers_are_not(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    short_name names[] = { "", "one", "seven77" };
    int out[3] = { -1, -1, -1 }, *pointers[] = { &out[0], &out[1] };
    mp_imap *imap = mp_pool_imap(pool, measure, MP_ITEMS(pointers, 2));

    (void)state;
    assert_null(imap);
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
    assert_int_equal(mp_pool_map(pool, measure, MP_ITEMS(pointers, 2), MP_ITEMS(out, 2)), MP_ETYPE);
    assert_non_null(strstr(mp_last_error()->text, "pointers"));
    assert_int_equal(mp_pool_map(pool, measure_name, MP_ITEMS(names, 3), MP_ITEMS(out, 3)), 0);
    assert_true(out[0] == 0 && out[1] == 3 && out[2] == 7);
    mp_pool_free(pool);
}

static void messages_take_answers_of_any_kind(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    msgpack_object in[] = { mp__from_signed(-7), mp__from_text("text"), mp_none(),
        mp_list(1, mp_list(2, 3)), mp_bytes("\0x", 2) };
    mp_message out[5];
    const char *text;
    long a, b;

    (void)state;
    for (int i = 0; i < 5; i++)
        out[i] = (mp_message)MP_MESSAGE_INIT;
    for (int round = 0; round < 3; round++) { /* their memory is used again */
        msgpack_object inner;
        mp_bytes_view bytes;

        assert_int_equal(mp_pool_map(pool, echo, MP_ITEMS(in, 5), MP_ITEMS(out, 5)), 0);
        assert_int_equal(mp_unpack(&out[0], &a), 0);
        assert_int_equal(a, -7);
        assert_int_equal(mp_unpack(&out[1], &text), 0);
        assert_string_equal(text, "text");
        assert_int_equal(out[2].value.type, MSGPACK_OBJECT_NIL);
        assert_int_equal(mp_unpack(&out[3], &a, &inner), 0);
        assert_int_equal(mp_unpack(&inner, &a, &b), 0);
        assert_true(a == 2 && b == 3);
        assert_int_equal(mp_unpack(&out[4], &bytes), 0);
        assert_int_equal(bytes.size, 2);
    }
    assert_int_equal(mp_pool_map(pool, nothing, MP_ITEMS(in, 5), MP_ITEMS(out, 5)), 0);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(out[i].value.type, MSGPACK_OBJECT_NIL);
        mp_message_clear(&out[i]);
    }
    mp_pool_free(pool);
}

/* ---- failures ---- */

static int refuse_every_third(mp_call *call)
{
    long x;

    if (mp_unpack(call, &x))
        return 1;
    return x % 3 == 0 ? mp_raise(call, 1000 + (int)x, "no %ld please", x) : mp_return(call, x);
}

static void a_raised_error_arrives_with_code_text_and_origin(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message answer = MP_MESSAGE_INIT;
    mp_task_error error = { .code = 1 };
    pid_t pid;

    (void)state;
    assert_int_equal(mp_pool_pids(pool, &pid, 1), 1);
    assert_int_equal(
        mp_pool_apply(pool, refuse_every_third, MP_ARGS(9), &answer, .error = &error), MP_ERAISED);
    assert_int_equal(error.code, MP_ERAISED);
    assert_int_equal(error.raised, 1009);
    assert_int_equal(error.index, 0);
    assert_int_equal(error.pid, pid);
    assert_int_equal(error.exitcode, 0);
    assert_true(error.seconds >= 0 && error.seconds < PATIENCE);
    assert_string_equal(error.function, "refuse_every_third");
    assert_non_null(strstr(error.worker, "PoolWorker-"));
    assert_non_null(strstr(error.text, "refuse_every_third"));
    assert_non_null(strstr(error.text, error.worker));
    assert_non_null(strstr(error.text, "no 9 please"));
    assert_int_equal(mp_last_error()->code, MP_ERAISED);
    assert_string_equal(mp_last_error()->text, error.text);
    assert_int_equal(answer.value.type, MSGPACK_OBJECT_NIL);

    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(2), &answer, .error = &error), 0);
    assert_int_equal(error.code, 0);
    mp_message_clear(&answer);
    mp_pool_free(pool);
}

static int return_code(mp_call *call)
{
    int code;

    return mp_unpack(call, &code) ? 99 : code;
}

static int fail_to_unpack(mp_call *call)
{
    long a, b, c;

    return mp_unpack(call, &a, &b, &c);
}

static int raise_zero(mp_call *call)
{
    return mp_raise(call, 0, "for no reason");
}

static void anything_but_zero_is_an_error(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_task_error error;

    (void)state;
    assert_int_equal(mp_pool_apply(pool, return_code, MP_ARGS(0), .error = &error), 0);
    assert_int_equal(mp_pool_apply(pool, return_code, MP_ARGS(5), .error = &error), MP_ERAISED);
    assert_int_equal(error.raised, 5);
    assert_int_equal(
        mp_pool_apply(pool, return_code, MP_ARGS(INT_MIN), .error = &error), MP_ERAISED);
    assert_int_equal(error.raised, INT_MIN);
    assert_int_equal(
        mp_pool_apply(pool, return_code, MP_ARGS(MP_EWORKERLOST), .error = &error), MP_ERAISED);
    assert_int_equal(error.raised, MP_EWORKERLOST);
    assert_int_equal(mp_pool_apply(pool, raise_zero, MP_ARGS(), .error = &error), MP_ERAISED);
    assert_non_null(strstr(error.text, "for no reason"));
    assert_int_equal(mp_pool_apply(pool, fail_to_unpack, MP_ARGS(1), .error = &error), MP_ERAISED);
    assert_int_equal(error.raised, MP_ECOUNT);
    assert_non_null(strstr(error.text, "last error"));
    mp_pool_free(pool);
}

static int raise_long_text(mp_call *call)
{
    char text[1000];

    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    return mp_raise(call, 3, "%s", text);
}

static void a_long_text_of_an_error_is_cut(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_task_error error;

    (void)state;
    assert_int_equal(mp_pool_apply(pool, raise_long_text, MP_ARGS(), .error = &error), MP_ERAISED);
    assert_true(strlen(error.text) < sizeof(error.text));
    assert_non_null(strstr(error.text, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"));
    check_map(pool, 100, 0);
    mp_pool_free(pool);
}

static void a_failing_item_stops_no_other(void **state)
{
    enum { N = 100 };
    mp_pool *pool = make_pool(.processes = 3);
    mp_task_error error;
    long in[N], out[N];
    int status[N];

    (void)state;
    for (size_t chunksize = 0; chunksize < 60; chunksize += 25) {
        for (int i = 0; i < N; i++) {
            in[i] = i + 1;
            out[i] = -1;
            status[i] = 77;
        }
        assert_int_equal(mp_pool_map(pool, refuse_every_third, MP_ITEMS(in, N), MP_ITEMS(out, N),
                             .chunksize = chunksize, .status = status, .error = &error),
            MP_ERAISED);
        assert_int_equal(error.index, 2);
        assert_int_equal(error.raised, 1003);
        assert_non_null(strstr(error.text, "item 2"));
        for (int i = 0; i < N; i++) {
            assert_int_equal(status[i], in[i] % 3 ? 0 : MP_ERAISED);
            assert_int_equal(out[i], in[i] % 3 ? in[i] : -1);
        }
    }
    mp_pool_free(pool);
}

static int narrow(mp_call *call)
{
    long x;

    if (mp_unpack(call, &x))
        return 1;
    return x == 1 ? mp_return(call, "text") : mp_return(call, x);
}

static void answers_that_do_not_fit_are_errors(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    long in[] = { 127, 128, 1, -129, 5 };
    signed char out[5] = { 1, 2, 3, 4, 5 };
    int status[5];

    (void)state;
    assert_int_equal(mp_pool_map(pool, narrow, MP_ITEMS(in, 5), MP_ITEMS(out, 5), .status = status),
        MP_EENCODING);
    assert_true(out[0] == 127 && out[1] == 2 && out[2] == 3 && out[3] == 4 && out[4] == 5);
    assert_true(status[0] == 0 && status[1] == MP_EENCODING && status[2] == MP_EENCODING &&
                status[3] == MP_EENCODING && status[4] == 0);
    mp_pool_free(pool);
}

static int return_pointer(mp_call *call)
{
    return mp_return(call, (void *)call);
}

static int return_nested(mp_call *call)
{
    msgpack_object lists[40];

    lists[0] = mp_none();
    for (int i = 1; i < 40; i++)
        lists[i] = mp__list(1, &lists[i - 1]);
    return mp_return(call, lists[39]);
}

static void answers_that_cannot_be_packed_are_errors_and_the_pool_goes_on(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_message answer = MP_MESSAGE_INIT;
    mp_task_error error;
    long x;

    (void)state;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(mp_pool_apply(pool, i % 2 ? return_nested : return_pointer, MP_ARGS(),
                             &answer, .error = &error),
            MP_EENCODING);
        assert_int_equal(error.code, MP_EENCODING);
        assert_non_null(strstr(error.text, "cannot be packed"));
    }
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(4), &answer), 0);
    assert_int_equal(mp_unpack(&answer, &x), 0);
    assert_int_equal(x, 16);
    mp_message_clear(&answer);
    mp_pool_free(pool);
}

static void a_function_that_gives_no_value_where_one_is_expected_has_failed(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_task_error error;
    int in[] = { 1 }, out[] = { 5 };

    (void)state;
    assert_int_equal(
        mp_pool_map(pool, nothing, MP_ITEMS(in, 1), MP_ITEMS(out, 1), .error = &error), MP_ERAISED);
    assert_int_equal(error.raised, MP_ECOUNT);
    assert_int_equal(out[0], 5);
    mp_pool_free(pool);
}

/* The code of the second of two answers. */
static int answer_twice(mp_call *call)
{
    return mp_return(call, 1) ? 1 : mp_return(call, 2);
}

static void a_call_is_answered_once(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_task_error error;

    (void)state;
    assert_int_equal(mp_pool_apply(pool, answer_twice, MP_ARGS(), .error = &error), MP_ERAISED);
    assert_int_equal(error.raised, MP_EALREADY);
    mp_pool_free(pool);
}

/* What could not be packed is left out; another answer may follow. */
static int answer_at_the_second_try(mp_call *call)
{
    if (mp_return(call, (void *)call) != MP_ETYPE)
        return 1;
    return mp_return(call, "instead");
}

static void after_an_answer_that_was_refused_another_may_follow(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message answer = MP_MESSAGE_INIT;
    const char *text;

    (void)state;
    assert_int_equal(mp_pool_apply(pool, answer_at_the_second_try, MP_ARGS(), &answer), 0);
    assert_int_equal(mp_unpack(&answer, &text), 0);
    assert_string_equal(text, "instead");
    mp_message_clear(&answer);
    mp_pool_free(pool);
}

static void arguments_that_cannot_be_packed_fail_in_the_caller(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    msgpack_object lists[40];
    mp_task_error error;

    (void)state;
    lists[0] = mp_none();
    for (int i = 1; i < 40; i++)
        lists[i] = mp__list(1, &lists[i - 1]);
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS((void *)pool), .error = &error), MP_ETYPE);
    assert_int_equal(error.code, MP_ETYPE);
    assert_string_equal(error.function, "square");
    assert_string_equal(error.text, mp_last_error()->text);
    assert_int_equal(mp_pool_apply(pool, square, mp_dict("a", 1)), MP_ETYPE);
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(lists[39])), MP_ETOODEEP);
    assert_null(mp_pool_apply_async(pool, square, MP_ARGS((void *)pool)));
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
    check_map(pool, 10, 0);
    mp_pool_free(pool);
}

static void items_that_cannot_be_packed_fail_and_the_others_are_run(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    msgpack_object lists[40], items[30];
    mp_task_error error;
    int status[30], out[30];

    (void)state;
    lists[0] = mp_none();
    for (int i = 1; i < 40; i++)
        lists[i] = mp__list(1, &lists[i - 1]);
    for (int i = 0; i < 30; i++)
        items[i] = i % 10 == 4 ? lists[39] : mp__from_signed(i);
    assert_int_equal(mp_pool_map(pool, echo, MP_ITEMS(items, 30), MP_ITEMS(out, 30),
                         .status = status, .error = &error),
        MP_ETOODEEP);
    assert_int_equal(error.index, 4);
    assert_string_equal(error.worker, "");
    for (int i = 0; i < 30; i++) {
        assert_int_equal(status[i], i % 10 == 4 ? MP_ETOODEEP : 0);
        if (i % 10 != 4)
            assert_int_equal(out[i], i);
    }
    mp_pool_free(pool);
}

static void a_function_that_workers_could_not_find_is_refused(void **state)
{
    static char data[16];
    mp_function wrong = (mp_function)(uintptr_t)data;
    mp_pool *pool = make_pool(.processes = 1);
    long in[] = { 1 };

    (void)state;
    assert_int_equal(mp_pool_apply(pool, wrong, MP_ARGS(1)), MP_EFUNCTION);
    assert_int_equal(mp_pool_map(pool, wrong, MP_ITEMS(in, 1)), MP_EFUNCTION);
    assert_null(mp_pool_imap(pool, wrong, MP_ITEMS(in, 1)));
    assert_int_equal(mp_last_error()->code, MP_EFUNCTION);
    check_map(pool, 10, 0);
    mp_pool_free(pool);
}

/* ---- time ---- */

static void a_call_that_takes_too_long_is_cancelled(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_task_error error;
    long in[] = { 1, 2, 3, 4, 5, 6, 7, 8 }, out[8] = { 0 };
    int status[8];

    (void)state;
    assert_int_equal(
        mp_pool_apply(pool, block_for_ever, MP_ARGS(), .timeout = 0.01, .error = &error),
        MP_ETIMEDOUT);
    assert_int_equal(error.code, MP_ETIMEDOUT);
    assert_int_equal(mp_last_error()->code, MP_ETIMEDOUT);
    assert_int_equal(mp_pool_map(pool, block_for_ever, MP_ITEMS(in, 8), MP_ITEMS(out, 8),
                         .timeout = 0.01, .status = status),
        MP_ETIMEDOUT);
    for (int i = 0; i < 8; i++)
        assert_int_equal(status[i], MP_ETIMEDOUT);
    check_map(pool, 100, 0);
    mp_pool_free(pool);
}

/* What is left of a deadline that has passed is below 0. */
static void a_call_whose_time_is_over_is_cancelled(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);

    (void)state;
    assert_int_equal(
        mp_pool_apply(pool, block_for_ever, MP_ARGS(), .timeout = -0.01), MP_ETIMEDOUT);
    assert_int_equal(mp_pool_apply(pool, block_for_ever, MP_ARGS(), .timeout = NAN), MP_ETIMEDOUT);
    check_map(pool, 100, 0);
    mp_pool_free(pool);
}

/* Blocks for item 0 only: it is begun first. */
static int block_at_zero(mp_call *call)
{
    long x;

    if (mp_unpack(call, &x))
        return 1;
    return x ? mp_return(call, x) : block_for_ever(call);
}

static void the_status_tells_what_was_done_before_the_time_was_over(void **state)
{
    enum { N = 20 };
    mp_pool *pool = make_pool(.processes = 2);
    long in[N], out[N];
    int status[N], done = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        in[i] = i;
        out[i] = -1;
    }
    assert_int_equal(mp_pool_map(pool, block_at_zero, MP_ITEMS(in, N), MP_ITEMS(out, N),
                         .timeout = 0.5, .status = status),
        MP_ETIMEDOUT);
    assert_int_equal(status[0], MP_ETIMEDOUT);
    for (int i = 0; i < N; i++) {
        assert_true(status[i] == 0 || status[i] == MP_ETIMEDOUT);
        assert_int_equal(out[i], status[i] == 0 ? i : -1);
        done += status[i] == 0;
    }
    assert_true(done < N);
    mp_pool_free(pool);
}

/* ---- who works ---- */

static int tell_worker(mp_call *call)
{
    mp_process *self = mp_current_process();

    return mp_return(call,
        mp_list(mp_pool_worker_index(), mp_process_name(self), (long)getpid(),
            (bool)mp_process_daemon(self), (long)mp_call_index(call), (bool)mp_call_expired(call)));
}

static void workers_are_daemons_with_places_and_names(void **state)
{
    enum { N = 60 };
    mp_pool *pool = make_pool(.processes = 3);
    mp_message out[N];
    pid_t pids[4] = { 0 };
    int in[N];

    (void)state;
    assert_int_equal(mp_pool_processes(pool), 3);
    assert_int_equal(mp_pool_worker_index(), -1);
    assert_int_equal(mp_pool_pids(pool, pids, 4), 3);
    assert_int_equal(mp_pool_pids(pool, NULL, 0), 3);
    assert_int_equal(pids[3], 0);
    for (int i = 0; i < N; i++)
        out[i] = (mp_message)MP_MESSAGE_INIT;
    assert_int_equal(mp_pool_map(pool, tell_worker, MP_ITEMS(in, N), MP_ITEMS(out, N)), 0);
    for (int i = 0; i < N; i++) {
        const char *name;
        long pid, number;
        bool daemon, expired;
        char prefix[64];
        int index;

        assert_int_equal(mp_unpack(&out[i], &index, &name, &pid, &daemon, &number, &expired), 0);
        assert_in_range(index, 0, 2);
        assert_int_equal(pid, pids[index]);
        assert_int_equal(number, i);
        assert_true(daemon);
        assert_false(expired);
        (void)snprintf(prefix, sizeof(prefix), "%sPoolWorker-",
            strcmp(*state, "fork") == 0    ? "Fork"
            : strcmp(*state, "spawn") == 0 ? "Spawn"
                                           : "ForkServer");
        assert_ptr_equal(strstr(name, prefix), name);
        mp_message_clear(&out[i]);
    }
    mp_pool_free(pool);
}

static int inner_index(mp_call *call)
{
    (void)call;
    return mp_pool_worker_index() == -1 && mp_call_index(call) == 0 ? 0 : 1;
}

/* The exit code of a plain process, started by a worker. */
static int start_plain(mp_call *call)
{
    mp_process *p = mp_process_new(.target = inner_index);
    int code = 99;

    if (p && mp_process_start(p) == 0 && mp_process_join(p, PATIENCE) == 0)
        code = mp_process_exitcode(p);
    mp_process_free(p);
    return mp_return(call, code);
}

/* In a copy of a worker it returns, too, as many a program's error path does. */
static int copy_and_square(mp_call *call)
{
    pid_t pid = fork();
    long x;

    if (mp_unpack(call, &x) || pid < 0)
        return 1;
    if (pid == 0)
        return mp_return(call, -1L);
    return waitpid(pid, NULL, 0) == pid ? mp_return(call, x * x) : 2;
}

static void a_copy_of_a_worker_answers_nothing(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    long in[100], out[100];

    (void)state;
    for (long i = 0; i < 100; i++)
        in[i] = i;
    assert_int_equal(mp_pool_map(pool, copy_and_square, MP_ITEMS(in, 100), MP_ITEMS(out, 100)), 0);
    for (long i = 0; i < 100; i++)
        assert_int_equal(out[i], i * i);
    check_map(pool, 100, 0);
    mp_pool_free(pool);
}

static void a_process_started_by_a_worker_has_no_place_in_the_pool(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    int in[] = { 1, 2, 3 }, out[] = { 9, 9, 9 };

    (void)state;
    assert_int_equal(mp_pool_map(pool, start_plain, MP_ITEMS(in, 3), MP_ITEMS(out, 3)), 0);
    assert_true(out[0] == 0 && out[1] == 0 && out[2] == 0);
    mp_pool_free(pool);
}

/* Sums squares by a pool of its own. */
static int use_inner_pool(mp_call *call)
{
    mp_pool *pool;
    long x, in[50], out[50], sum = 0;
    int r;

    if (mp_unpack(call, &x))
        return 1;
    pool = mp_pool_new(.processes = 2);
    if (!pool)
        return mp_raise(call, 1, "%s", mp_last_error()->text);
    for (int i = 0; i < 50; i++)
        in[i] = x + i;
    r = mp_pool_map(pool, square, MP_ITEMS(in, 50), MP_ITEMS(out, 50));
    for (int i = 0; i < 50 && r == 0; i++)
        sum += out[i];
    if (r < 0)
        (void)mp_raise(call, r, "%s", mp_last_error()->text);
    mp_pool_free(pool);
    return r < 0 ? 1 : mp_return(call, sum);
}

static void a_task_may_use_a_pool_of_its_own(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_task_error error = { .code = 0 };
    long in[6], out[6];

    (void)state;
    check_map(pool, 100, 0); /* the workers are not new, their copies must be */
    for (int i = 0; i < 6; i++)
        in[i] = i;
    if (mp_pool_map(pool, use_inner_pool, MP_ITEMS(in, 6), MP_ITEMS(out, 6), .error = &error))
        fail_msg("%s", error.text);
    for (int i = 0; i < 6; i++) {
        long sum = 0;

        for (long k = 0; k < 50; k++)
            sum += (i + k) * (i + k);
        assert_int_equal(out[i], sum);
    }
    check_map(pool, 100, 0);
    mp_pool_free(pool);
}

static mp_pool *own_pool; /* under fork its workers have it, too */

static int use_own_pool(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    long x[] = { 1 };

    if (!own_pool)
        return mp_return(call, MP_ECREATOR); /* not a copy of the program that made it */
    if (mp_pool_map(own_pool, square, MP_ITEMS(x, 1)) != MP_ECREATOR ||
        mp_pool_close(own_pool) != MP_ECREATOR || mp_pool_terminate(own_pool) != MP_ECREATOR ||
        mp_pool_join(own_pool, 0) != MP_ECREATOR || mp_pool_fileno(own_pool) != MP_ECREATOR ||
        mp_pool_wait_any(own_pool, NULL, 0, 0) != MP_ECREATOR ||
        mp_pool_apply_async(own_pool, square, MP_ARGS(1)) ||
        mp_pool_imap(own_pool, square, MP_ITEMS(x, 1)) || mp_pool_pids(own_pool, NULL, 0) != 0)
        return 1;
    mp_pool_free(own_pool);
    return mp_return(call, mp_pool_apply(own_pool, square, MP_ARGS(1), &message));
}

static int make_only_under_fork(mp_call *call)
{
    (void)call;
    return own_pool ? 0 : 1;
}

static void a_task_cannot_use_the_pool_it_runs_in(void **state)
{
    mp_pool *pool;
    mp_message answer = MP_MESSAGE_INIT;
    int r;

    own_pool = make_pool(.processes = 1);
    pool = make_pool(.processes = 1);
    assert_int_equal(mp_pool_apply(pool, make_only_under_fork, MP_ARGS()),
        strcmp(*state, "fork") == 0 ? 0 : MP_ERAISED);
    assert_int_equal(mp_pool_apply(pool, use_own_pool, MP_ARGS(), &answer), 0);
    assert_int_equal(mp_unpack(&answer, &r), 0);
    assert_int_equal(r, MP_ECREATOR);
    check_map(own_pool, 10, 0);
    mp_message_clear(&answer);
    mp_pool_free(pool);
    mp_pool_free(own_pool);
    own_pool = NULL;
}

static int use_pool_of_parent(mp_call *call)
{
    mp_message answer = MP_MESSAGE_INIT;
    int r = mp_pool_apply(own_pool, square, MP_ARGS(2), &answer);

    (void)call;
    mp_message_clear(&answer);
    return r == (own_pool ? MP_ECREATOR : MP_EINVAL) ? 0 : 1;
}

static void another_process_cannot_use_a_pool(void **state)
{
    (void)state;
    own_pool = make_pool(.processes = 2);
    assert_int_equal(finish(start_process(.target = use_pool_of_parent)), 0);
    check_map(own_pool, 10, 0);
    mp_pool_free(own_pool);
    own_pool = NULL;
}

/* ---- progress ---- */

typedef struct {
    size_t calls, last, total;
    bool backwards;
    mp_pool *pool;
} progress;

static void watch_progress(size_t done, size_t total, void *user)
{
    progress *p = user;
    long in[] = { 3 }, out[] = { 0 };

    p->calls++;
    p->backwards |= done < p->last;
    p->last = done;
    p->total = total;
    if (p->pool && mp_pool_map(p->pool, square, MP_ITEMS(in, 1), MP_ITEMS(out, 1)) == 0)
        p->backwards |= out[0] != 9;
}

static void progress_is_told_and_ends_with_all(void **state)
{
    enum { N = 300 };
    mp_pool *pool = make_pool(.processes = 2);
    progress p = { .pool = NULL };
    long in[N], out[N];

    (void)state;
    for (int i = 0; i < N; i++)
        in[i] = i;
    for (int round = 0; round < 2; round++) {
        p = (progress){ .pool = round ? pool : NULL }; /* it may use the pool */
        assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, N), MP_ITEMS(out, N),
                             .on_progress = watch_progress, .user = &p),
            0);
        assert_true(p.calls >= 1);
        assert_int_equal(p.last, N);
        assert_int_equal(p.total, N);
        assert_false(p.backwards);
    }
    mp_pool_free(pool);
}

static void a_bar_shows_the_progress_on_stderr(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO), r;
    char text[4096];
    long in[] = { 1, 2, 3, 4 };
    size_t n;

    (void)state;
    assert_true(file && saved >= 0);
    (void)dup2(fileno(file), STDERR_FILENO);
    r = mp_pool_map(pool, square, MP_ITEMS(in, 4), .progress = true);
    (void)dup2(saved, STDERR_FILENO);
    (void)close(saved);
    assert_int_equal(r, 0);
    rewind(file);
    n = fread(text, 1, sizeof(text) - 1, file);
    text[n] = '\0';
    (void)fclose(file);
    assert_non_null(strstr(text, "square [##############################] 4/4\n"));
    mp_pool_free(pool);
}

/* ---- misuse ---- */

static void making_a_pool_with_nonsense_is_an_error(void **state)
{
    (void)state;
    assert_null(mp_pool_new(.processes = -1));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_null(mp_pool_new(.processes = INT_MIN));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_null(mp_pool_new(.processes = 1, .maxtasksperchild = -1));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_null(mp_pool_new(.processes = 1, .initializer = nothing, .initargs = mp_dict("a", 1)));
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
    assert_null(
        mp_pool_new(.processes = 1, .initializer = nothing, .initargs = MP_ARGS((void *)state)));
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
}

static void without_a_number_there_is_a_worker_for_each_cpu(void **state)
{
    mp_pool *pool;

    (void)state;
    assert_int_equal(setenv("MP_CPU_COUNT", "3", 1), 0);
    pool = make_pool();
    assert_int_equal(unsetenv("MP_CPU_COUNT"), 0);
    assert_int_equal(mp_pool_processes(pool), 3);
    assert_int_equal(mp_pool_pids(pool, NULL, 0), 3);
    mp_pool_free(pool);
}

static void calls_without_a_pool_are_errors(void **state)
{
    long in[] = { 1 };
    mp_result *result = NULL;

    (void)state;
    mp_pool_free(NULL);
    mp_result_free(NULL);
    mp_imap_free(NULL);
    assert_int_equal(mp_pool_processes(NULL), 0);
    assert_int_equal(mp_pool_pids(NULL, NULL, 0), 0);
    assert_int_equal(mp_pool_close(NULL), MP_EINVAL);
    assert_int_equal(mp_pool_terminate(NULL), MP_EINVAL);
    assert_int_equal(mp_pool_join(NULL, 0), MP_EINVAL);
    assert_int_equal(mp_pool_fileno(NULL), MP_EINVAL);
    assert_int_equal(mp_pool_wait_any(NULL, &result, 1, 0), MP_EINVAL);
    assert_int_equal(mp_pool_apply(NULL, square, MP_ARGS(1)), MP_EINVAL);
    assert_null(mp_pool_apply_async(NULL, square, MP_ARGS(1)));
    assert_int_equal(mp_pool_map(NULL, square, MP_ITEMS(in, 1)), MP_EINVAL);
    assert_null(mp_pool_map_async(NULL, square, MP_ITEMS(in, 1)));
    assert_null(mp_pool_imap(NULL, square, MP_ITEMS(in, 1)));
    assert_int_equal(mp_result_get(NULL, NULL, 0), MP_EINVAL);
    assert_int_equal(mp_result_wait(NULL, 0), MP_EINVAL);
    assert_false(mp_result_ready(NULL));
    assert_int_equal(mp_result_successful(NULL), MP_EINVAL);
    assert_int_equal(mp_result_cancel(NULL), MP_EINVAL);
    assert_null(mp_result_error(NULL));
    assert_int_equal(mp_imap_next(NULL, NULL, 0), MP_EINVAL);
}

static int generate_nothing(void *user, mp_call *item)
{
    (void)user;
    (void)item;
    return MP_EEOF;
}

static void calls_with_nonsense_are_errors(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    msgpack_object objects[] = { mp_none() };
    mp_message messages[] = { MP_MESSAGE_INIT };
    long in[] = { 1, 2 }, out[2];
    const char *texts[] = { "a" };

    (void)state;
    assert_int_equal(mp_pool_apply(pool, NULL, MP_ARGS(1)), MP_EINVAL);
    assert_null(mp_pool_apply_async(pool, NULL, MP_ARGS(1)));
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(1), .retries = -1), MP_EINVAL);
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(1), .time_limit = -0.1), MP_EINVAL);
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, 2), .soft_time_limit = NAN), MP_EINVAL);
    assert_int_equal(mp_pool_map(pool, NULL, MP_ITEMS(in, 2)), MP_EINVAL);
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, 2), .retries = -1), MP_EINVAL);
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, 2), MP_ITEMS(out, 1)), MP_EINVAL);
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS((long *)NULL, 2)), MP_EINVAL);
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(messages, 1)), MP_EINVAL);
    assert_int_equal(mp_pool_map(pool, square, MP_GENERATE(generate_nothing, NULL)), MP_EINVAL);
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, 1), MP_ITEMS(texts, 1)), MP_EINVAL);
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, 1), MP_ITEMS(objects, 1)), MP_EINVAL);
    assert_int_equal(mp_pool_starmap(pool, square, MP_ITEMS(in, 2)), MP_EINVAL);
    assert_null(mp_pool_map_async(pool, square, MP_ITEMS(in, 2), MP_ITEMS(out, 1)));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_null(mp_pool_imap(pool, NULL, MP_ITEMS(in, 2)));
    assert_null(mp_pool_imap(pool, square, MP_ITEMS(in, 2), MP_ITEMS(out, 2)));
    assert_null(mp_pool_imap(pool, square, MP_ITEMS((long *)NULL, 2)));
    assert_null(mp_pool_imap(pool, square, MP_ITEMS(messages, 1)));
    assert_null(mp_pool_imap(pool, square, MP_ITEMS(in, 2), .retries = -1));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_int_equal(mp_pool_join(pool, 0), MP_ERUNNING);
    check_map(pool, 10, 0);
    mp_pool_free(pool);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(apply_gives_the_answer),
    UNDER_EACH(apply_needs_no_arguments_and_no_answer),
    UNDER_EACH(values_of_all_kinds_arrive_and_come_back),
    UNDER_EACH(arguments_and_answers_of_any_size_travel),
    UNDER_EACH(a_function_that_workers_cannot_find_fails_alone),
    UNDER_EACH(handles_travel_as_arguments),
    UNDER_EACH(handles_travel_as_items),
    UNDER_EACH(arrays_of_handles_are_items),
    UNDER_EACH(handles_travel_as_answers),
    UNDER_EACH(an_answer_with_handles_that_nobody_wants_leaves_no_descriptors),
    UNDER_EACH(map_keeps_the_order),
    UNDER_EACH(map_needs_no_output),
    UNDER_EACH(a_map_of_nothing_is_done_at_once),
    UNDER_EACH(starmap_takes_lists_apart),
    UNDER_EACH(starmap_wants_lists),
    UNDER_EACH(integers_of_every_width_are_items_and_answers),
    UNDER_EACH(bools_are_items_and_answers),
    UNDER_EACH(floats_and_doubles_are_items_and_answers),
    UNDER_EACH(structs_are_items_and_answers),
    UNDER_EACH(structs_larger_than_what_a_ring_takes_are_items_and_answers),
    UNDER_EACH(texts_are_items),
    UNDER_EACH(arrays_are_items_and_other_pointers_are_not),
    UNDER_EACH(messages_take_answers_of_any_kind),
    UNDER_EACH(a_raised_error_arrives_with_code_text_and_origin),
    UNDER_EACH(anything_but_zero_is_an_error),
    UNDER_EACH(a_long_text_of_an_error_is_cut),
    UNDER_EACH(a_failing_item_stops_no_other),
    UNDER_EACH(answers_that_do_not_fit_are_errors),
    UNDER_EACH(answers_that_cannot_be_packed_are_errors_and_the_pool_goes_on),
    UNDER_EACH(a_function_that_gives_no_value_where_one_is_expected_has_failed),
    UNDER_EACH(a_call_is_answered_once),
    UNDER_EACH(after_an_answer_that_was_refused_another_may_follow),
    UNDER_EACH(arguments_that_cannot_be_packed_fail_in_the_caller),
    UNDER_EACH(items_that_cannot_be_packed_fail_and_the_others_are_run),
    UNDER_EACH(a_function_that_workers_could_not_find_is_refused),
    UNDER_EACH(a_call_that_takes_too_long_is_cancelled),
    UNDER_EACH(a_call_whose_time_is_over_is_cancelled),
    UNDER_EACH(the_status_tells_what_was_done_before_the_time_was_over),
    UNDER_EACH(workers_are_daemons_with_places_and_names),
    UNDER_EACH(a_copy_of_a_worker_answers_nothing),
    UNDER_EACH(a_process_started_by_a_worker_has_no_place_in_the_pool),
    UNDER_EACH(a_task_may_use_a_pool_of_its_own),
    UNDER_EACH(a_task_cannot_use_the_pool_it_runs_in),
    UNDER_EACH(another_process_cannot_use_a_pool),
    UNDER_EACH(progress_is_told_and_ends_with_all),
    UNDER_EACH(a_bar_shows_the_progress_on_stderr),
    UNDER_EACH(making_a_pool_with_nonsense_is_an_error),
    UNDER_EACH(without_a_number_there_is_a_worker_for_each_cpu),
    ONCE(calls_without_a_pool_are_errors),
    UNDER_EACH(calls_with_nonsense_are_errors),
};

TESTS_MAIN(tests)
