/* SPDX-License-Identifier: MIT
 *
 * test_sharedctypes.c - typed arrays and values in shared memory: their elements,
 * what does not fit, and that every process has the same ones.
 */
#include "support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "heap_internal.h"
#include "reduction_internal.h"

struct point {
    int x;
    double y;
};

/* ---- helpers ---- */

static mp_raw_array *made(mp_raw_array *array)
{
    if (!array)
        fail_msg("array: %s", mp_last_error()->text);
    return array;
}

#define make_array(...) made(mp_raw_array_new(__VA_ARGS__))
#define make_value(...) made(mp_raw_value_new(__VA_ARGS__))

static void check_refused(mp_raw_array *array, int code)
{
    assert_null(array);
    assert_int_equal(mp_last_error()->code, code);
}

/* ---- elements ---- */

static void arrays_are_zeros_and_values_what_they_are_given(void **state)
{
    mp_raw_array *a = make_array(double, 100);
    mp_raw_value *v = make_value(long, -7), *p = make_value(struct point, .y = 2.5);
    struct point point;
    double real = 1;
    long number = 0;

    (void)state;
    assert_int_equal(mp_raw_array_len(a), 100);
    assert_int_equal(mp_raw_array_itemsize(a), sizeof(double));
    for (int i = 0; i < 100; i++) {
        assert_int_equal(mp_raw_array_get(a, i, &real), 0);
        assert_true(real == 0);
    }
    assert_int_equal(mp_raw_value_get(v, &number), 0);
    assert_int_equal(number, -7);
    assert_int_equal(mp_raw_array_len(v), 1);
    assert_int_equal(mp_raw_value_get(p, &point), 0);
    assert_int_equal(point.x, 0);
    assert_true(point.y == 2.5);
    mp_raw_array_free(a);
    mp_raw_value_free(v);
    mp_raw_value_free(p);
    mp_raw_array_free(NULL);
}

static void arrays_begin_with_what_they_are_given(void **state)
{
    static const short from[] = { 1, -2, 3 };
    mp_raw_array *a = make_array(short, 3, .from = from);
    const short *data = mp_raw_array_data(a, short);

    (void)state;
    assert_non_null(data);
    assert_memory_equal(data, from, sizeof(from));
    mp_raw_array_free(a);
}

/* Each type of integer holds its ends, and nothing beyond them. */
#define CHECK_ENDS(type, least, most)                                       \
    do {                                                                    \
        mp_raw_array *a = make_array(type, 2);                              \
        type value = 1;                                                     \
                                                                            \
        assert_int_equal(mp_raw_array_set(a, 0, (type)(least)), 0);         \
        assert_int_equal(mp_raw_array_set(a, 1, (type)(most)), 0);          \
        assert_int_equal(mp_raw_array_get(a, 0, &value), 0);                \
        assert_true(value == (type)(least));                                \
        assert_int_equal(mp_raw_array_get(a, -1, &value), 0);               \
        assert_true(value == (type)(most));                                 \
        assert_true(mp_raw_array_data(a, type)[1] == (type)(most));         \
        assert_int_equal(mp_raw_array_set(a, 0, "text"), MP_ETYPE);         \
        if (sizeof(type) < 8) {                                             \
            assert_int_equal(mp_raw_array_set(a, 0, INT64_MAX), MP_ERANGE); \
            assert_int_equal(mp_raw_array_set(a, 0, INT64_MIN), MP_ERANGE); \
        }                                                                   \
        mp_raw_array_free(a);                                               \
    } while (0)

static void every_integer_type_holds_its_ends(void **state)
{
    (void)state;
    CHECK_ENDS(char, CHAR_MIN, CHAR_MAX);
    CHECK_ENDS(signed char, SCHAR_MIN, SCHAR_MAX);
    CHECK_ENDS(unsigned char, 0, UCHAR_MAX);
    CHECK_ENDS(short, SHRT_MIN, SHRT_MAX);
    CHECK_ENDS(unsigned short, 0, USHRT_MAX);
    CHECK_ENDS(int, INT_MIN, INT_MAX);
    CHECK_ENDS(unsigned int, 0, UINT_MAX);
    CHECK_ENDS(long, LONG_MIN, LONG_MAX);
    CHECK_ENDS(unsigned long, 0, ULONG_MAX);
    CHECK_ENDS(long long, LLONG_MIN, LLONG_MAX);
    CHECK_ENDS(unsigned long long, 0, ULLONG_MAX);
    CHECK_ENDS(int8_t, INT8_MIN, INT8_MAX);
    CHECK_ENDS(uint16_t, 0, UINT16_MAX);
    CHECK_ENDS(uint64_t, 0, UINT64_MAX);
    CHECK_ENDS(wchar_t, WCHAR_MIN, WCHAR_MAX);
}

static void floats_doubles_and_bools_are_checked_too(void **state)
{
    mp_raw_array *f = make_array(float, 1), *d = make_array(double, 1), *b = make_array(bool, 1);
    double real = 0;
    float single = 0;
    bool flag = false;

    (void)state;
    assert_int_equal(mp_raw_array_set(f, 0, 0.1), 0); /* rounded, as C does */
    assert_int_equal(mp_raw_array_get(f, 0, &single), 0);
    assert_true(single == 0.1f);
    assert_int_equal(mp_raw_array_get(f, 0, &real), 0);
    assert_true(real == (double)0.1f);
    assert_int_equal(mp_raw_array_set(f, 0, 1e300), MP_ERANGE);
    assert_int_equal(mp_raw_array_set(f, 0, HUGE_VAL), 0);
    assert_int_equal(mp_raw_array_set(d, 0, 1e300), 0);
    assert_int_equal(mp_raw_array_get(d, 0, &single), MP_ERANGE);
    assert_int_equal(mp_raw_array_set(d, 0, 3), 0);
    assert_int_equal(mp_raw_array_get(d, 0, &real), 0);
    assert_true(real == 3);
    assert_int_equal(mp_raw_array_set(b, 0, 1), 0);
    assert_int_equal(mp_raw_array_get(b, 0, &flag), 0);
    assert_true(flag);
    assert_int_equal(mp_raw_array_set(b, 0, 2), MP_ERANGE);
    mp_raw_array_free(f);
    mp_raw_array_free(d);
    mp_raw_array_free(b);
}

static void structs_are_set_and_got_whole(void **state)
{
    mp_raw_array *a = make_array(struct point, 3);
    struct point in = { 3, 4.5 }, out = { 0, 0 };
    int number;

    (void)state;
    assert_int_equal(mp_raw_array_set(a, 1, mp_struct(&in)), 0);
    assert_int_equal(mp_raw_array_get(a, 1, &out), 0);
    assert_int_equal(out.x, 3);
    assert_true(out.y == 4.5);
    assert_true(mp_raw_array_data(a, struct point)[1].y == 4.5);
    assert_int_equal(mp_raw_array_set(a, 0, 5), MP_ETYPE);
    assert_int_equal(mp_raw_array_set(a, 0, mp_bytes("four", 4)), MP_ERANGE);
    assert_int_equal(mp_raw_array_get(a, 1, &number), MP_ETYPE);
    mp_raw_array_free(a);
}

static void an_index_may_count_from_the_end_and_is_checked(void **state)
{
    static const ptrdiff_t wrong[] = { 3, 4, -4, -5, PTRDIFF_MAX, PTRDIFF_MIN };
    mp_raw_array *a = make_array(int, 3);
    int number = 5;

    (void)state;
    assert_int_equal(mp_raw_array_set(a, -3, 1), 0);
    assert_int_equal(mp_raw_array_get(a, 0, &number), 0);
    assert_int_equal(number, 1);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        assert_int_equal(mp_raw_array_get(a, wrong[i], &number), MP_EINDEX);
        assert_int_equal(mp_raw_array_set(a, wrong[i], 9), MP_EINDEX);
    }
    assert_int_equal(number, 1);
    mp_raw_array_free(a);
}

static void the_pointer_is_for_the_right_type_only(void **state)
{
    mp_raw_array *a = make_array(int, 3);

    (void)state;
    assert_non_null(mp_raw_array_data(a, int));
    assert_null(mp_raw_array_data(a, unsigned));
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
    assert_null(mp_raw_array_data(a, long));
    assert_null(mp_raw_array_data(a, float));
    assert_null(mp_raw_array_data(a, struct point));
    mp_raw_array_free(a);
}

static void wrong_types_and_counts_are_refused(void **state)
{
    const char *text = NULL;
    mp_raw_array *a = make_array(int, 1);

    (void)state;
    check_refused(mp_raw_array_new(const char *, 3), MP_ETYPE);
    check_refused(mp_raw_array_new(mp_connection *, 3), MP_ETYPE);
    check_refused(mp_raw_array_new(msgpack_object, 3), MP_ETYPE);
    check_refused(mp_raw_array_new(mp_bytes_view, 3), MP_ETYPE);
    check_refused(mp_raw_array_new(int, 0), MP_EINVAL);
    check_refused(mp_raw_array_new(int, SIZE_MAX), MP_EINVAL);
    check_refused(mp_raw_array_new(double, SIZE_MAX / 8 + 2), MP_EINVAL);
    assert_null(mp_raw_array_new(char, PTRDIFF_MAX));
    assert_true(mp_last_error()->code == MP_ENOMEM || mp_last_error()->code == MP_ENOSPC);
    assert_int_equal(mp_raw_array_get(a, 0, &text), MP_ETYPE);
    assert_null(text);
    mp_raw_array_free(a);
}

static void a_copy_is_independent(void **state)
{
    mp_raw_value *v = make_value(struct point, 1, 2.5), *copy = made(mp_raw_value_copy(v));

    (void)state;
    mp_raw_value_data(v, struct point)->x = 99;
    assert_int_equal(mp_raw_value_data(copy, struct point)->x, 1);
    assert_true(mp_raw_value_data(copy, struct point)->y == 2.5);
    mp_raw_value_free(v);
    mp_raw_value_free(copy);
}

/* ---- other processes ---- */

/* The child of CPython's own test. */
static int double_all(mp_call *call)
{
    mp_raw_value *x, *y, *z, *p;
    mp_raw_array *array, *text;
    long number;
    double real;

    if (mp_unpack(call, &x, &y, &z, &p, &array, &text))
        return 99;
    if (mp_raw_value_get(x, &number) || mp_raw_value_set(x, 2 * number))
        return 98;
    if (mp_raw_value_get(y, &real) || mp_raw_value_set(y, 2 * real))
        return 97;
    *mp_raw_value_data(z, long long) *= 2;
    mp_raw_value_data(p, struct point)->x *= 2;
    mp_raw_value_data(p, struct point)->y *= 2;
    for (size_t i = 0; i < mp_raw_array_len(array); i++)
        mp_raw_array_data(array, double)[i] *= 2;
    strcat(mp_raw_array_data(text, char), "hello");
    return 0;
}

static void a_child_doubles_values_of_all_sorts(void **state)
{
    mp_raw_value *x = make_value(int, 7), *y = make_value(double, 1.0 / 3.0),
                 *z = make_value(long long, (long long)1 << 33),
                 *p = make_value(struct point, 3, 2);
    mp_raw_array *array = make_array(double, 10), *text = make_array(char, 20);

    (void)state;
    for (int i = 0; i < 10; i++)
        assert_int_equal(mp_raw_array_set(array, i, i), 0);
    strcpy(mp_raw_array_data(text, char), "hello");
    assert_int_equal(
        finish(start_process(.target = double_all, .args = MP_ARGS(x, y, z, p, array, text))), 0);
    assert_int_equal(*mp_raw_value_data(x, int), 14);
    assert_true(*mp_raw_value_data(y, double) == 2.0 / 3.0);
    assert_true(*mp_raw_value_data(z, long long) == (long long)1 << 34);
    assert_int_equal(mp_raw_value_data(p, struct point)->x, 6);
    assert_true(mp_raw_value_data(p, struct point)->y == 4);
    for (int i = 0; i < 10; i++)
        assert_true(mp_raw_array_data(array, double)[i] == 2 * i);
    assert_string_equal(mp_raw_array_data(text, char), "hellohello");
    mp_raw_value_free(x);
    mp_raw_value_free(y);
    mp_raw_value_free(z);
    mp_raw_value_free(p);
    mp_raw_array_free(array);
    mp_raw_array_free(text);
}

static int count_up(mp_call *call)
{
    mp_raw_value *counter;
    atomic_long *number;

    if (mp_unpack(call, &counter) || !(number = mp_raw_value_data(counter, atomic_long)))
        return 99;
    for (int i = 0; i < 10000; i++)
        atomic_fetch_add(number, 1);
    return 0;
}

static void an_atomic_counter_needs_no_lock(void **state)
{
    mp_raw_value *counter = made(mp_raw_array_new(atomic_long, 1));
    mp_process *p[4];

    (void)state;
    for (int i = 0; i < 4; i++)
        p[i] = start_process(.target = count_up, .args = MP_ARGS(counter));
    for (int i = 0; i < 4; i++)
        assert_int_equal(finish(p[i]), 0);
    assert_int_equal(*mp_raw_value_data(counter, atomic_long), 40000);
    mp_raw_value_free(counter);
}

static int square_part(mp_call *call)
{
    mp_raw_array *in, *out;
    size_t from, to;

    if (mp_unpack(call, &in, &out, &from, &to) || !mp_raw_array_readonly(in) ||
        mp_raw_array_readonly(out))
        return -1;
    for (size_t i = from; i < to; i++)
        mp_raw_array_data(out, double)[i] =
            mp_raw_array_data(in, double)[i] * mp_raw_array_data(in, double)[i];
    return 0;
}

static void tasks_read_one_array_and_write_another(void **state)
{
    enum { N = 1000, PARTS = 8 };
    mp_pool *pool = mp_pool_new(.processes = 2);
    mp_raw_array *in = make_array(double, N, .readonly = true), *out = make_array(double, N);
    mp_result *results[PARTS];

    (void)state;
    assert_non_null(pool);
    assert_false(mp_raw_array_readonly(in)); /* its creator fills it */
    for (int i = 0; i < N; i++)
        mp_raw_array_data(in, double)[i] = i;
    for (size_t i = 0; i < PARTS; i++)
        results[i] = mp_pool_apply_async(
            pool, square_part, MP_ARGS(in, out, N / PARTS * i, N / PARTS * (i + 1)));
    for (int i = 0; i < PARTS; i++) {
        assert_non_null(results[i]);
        assert_int_equal(mp_result_get(results[i], NULL, PATIENCE), 0);
        mp_result_free(results[i]);
    }
    for (int i = 0; i < N; i++)
        assert_true(mp_raw_array_data(out, double)[i] == (double)i * i);
    mp_raw_array_free(in);
    mp_raw_array_free(out);
    mp_pool_free(pool);
}

static int write_read_only(mp_call *call)
{
    struct rlimit none = { 0, 0 };
    mp_raw_array *a;

    if (mp_unpack(call, &a))
        return 99;
    if (mp_raw_array_set(a, 0, 1) != MP_EPERM)
        return 98;
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)signal(SIGSEGV, SIG_DFL); /* a sanitizer would make an exit code of it */
    mp_raw_array_data(a, int)[0] = 1;
    return 0;
}

static void a_receiver_of_a_read_only_array_cannot_write(void **state)
{
    mp_raw_array *a = make_array(int, 10, .readonly = true);

    (void)state;
    assert_int_equal(mp_raw_array_set(a, 0, 5), 0);
    assert_int_equal(
        finish(start_process(.target = write_read_only, .args = MP_ARGS(a))), -SIGSEGV);
    assert_int_equal(mp_raw_array_data(a, int)[0], 5);
    mp_raw_array_free(a);
}

static mp_raw_value *global;

static int set_global(mp_call *call)
{
    (void)call;
    return mp_raw_value_set(global, 8) < 0;
}

static void a_child_made_by_fork_inherits_values(void **state)
{
    (void)state;
    global = make_value(int, 7);
    assert_int_equal(finish(start_process(.target = set_global)), 0);
    assert_int_equal(*mp_raw_value_data(global, int), 8);
    mp_raw_value_free(global);
}

static void arrays_in_messages_can_be_kept(void **state)
{
    mp_raw_array *a = make_array(int, 2), *lent, *kept;
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_connection_send(here, mp_list(a, a)), 0);
    assert_int_equal(mp_connection_recv(there, &message), 0);
    assert_int_equal(mp_unpack(&message, &lent, &kept), 0);
    kept = mp_raw_array_keep(kept);
    mp_raw_array_free(lent); /* nothing: it is lent */
    mp_message_clear(&message);
    assert_int_equal(mp_raw_array_set(kept, 1, 12), 0);
    assert_int_equal(mp_raw_array_data(a, int)[1], 12);
    mp_raw_array_free(kept);
    mp_raw_array_free(a);
    mp_connection_free(here);
    mp_connection_free(there);
}

/* ---- many, and nonsense ---- */

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* CPython's test of its heap: blocks come and go, and none lies in another. */
static void blocks_come_and_go_without_touching_each_other(void **state)
{
    enum { BLOCKS = 50 };
    mp_raw_array *blocks[BLOCKS] = { NULL };
    int before = count_descriptors();
    uint32_t random = 7;

    (void)state;
    for (int round = 0; round < 5000; round++) {
        uint32_t k = next_random(&random) % BLOCKS;

        if (blocks[k]) {
            const unsigned char *data = mp_raw_array_data(blocks[k], unsigned char);

            for (size_t i = 0; i < mp_raw_array_len(blocks[k]); i++)
                if (data[i] != (unsigned char)k)
                    fail_msg("block %u was written to", k);
            mp_raw_array_free(blocks[k]);
            blocks[k] = NULL;
        } else {
            size_t size = next_random(&random) % 10000 + 1;

            blocks[k] = made(mp_raw_array_new(unsigned char, size));
            memset(mp_raw_array_data(blocks[k], unsigned char), (int)k, size);
        }
    }
    for (int k = 0; k < BLOCKS; k++)
        mp_raw_array_free(blocks[k]);
    assert_int_equal(count_descriptors(), before);
}

static void malformed_arrays_are_errors(void **state)
{
    struct {
        uint64_t size, count;
        uint8_t type, flags, unused[6];
    } good = { .size = 8, .count = 10, .type = MP__SLOT_FLOAT }, bad[10];
    int fds[2] = { memfd_create("test", MFD_CLOEXEC), -1 };
    const mp__kind *kind = &mp__raw_array_kind;
    void *built = NULL;

    (void)state;
    assert_int_equal(ftruncate(fds[0], 80), 0);
    for (int i = 0; i < 10; i++)
        bad[i] = good;
    bad[0].size = 0;
    bad[1].count = 0;
    bad[2].count = 11;
    bad[3].size = UINT64_MAX;
    bad[4].count = UINT64_MAX;
    bad[5].count = UINT64_MAX / 8 + 2; /* it would wrap */
    bad[6].type = MP__SLOT_TEXT;
    bad[7].type = 200;
    bad[8].flags = 2;
    bad[9].size = 5;
    for (int i = 0; i < 10; i++)
        assert_int_equal(
            kind->rebuild((uint8_t *)&bad[i], sizeof(bad[i]), fds, 1, &built), MP_EPROTOCOL);
    for (size_t size = 0; size < sizeof(good); size++)
        assert_int_equal(kind->rebuild((uint8_t *)&good, size, fds, 1, &built), MP_EPROTOCOL);
    assert_int_equal(kind->rebuild((uint8_t *)&good, sizeof(good), fds, 0, &built), MP_EPROTOCOL);
    assert_int_equal(
        kind->rebuild((uint8_t *)&good, sizeof(good), &fds[1], 1, &built), MP_EPROTOCOL);
    assert_null(built);
    assert_int_equal(kind->rebuild((uint8_t *)&good, sizeof(good), fds, 1, &built), 0);
    assert_int_equal(mp_raw_array_len(built), 10);
    mp_raw_array_free(built);
}

static void without_descriptors_arrays_are_an_error(void **state)
{
    struct rlimit old, tight;
    int next = dup(0);

    (void)state;
    (void)close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    tight = old;
    tight.rlim_cur = (rlim_t)next;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    check_refused(mp_raw_array_new(int, 1), MP_EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

static const struct CMUnitTest tests[] = {
    ONCE(arrays_are_zeros_and_values_what_they_are_given),
    ONCE(arrays_begin_with_what_they_are_given),
    ONCE(every_integer_type_holds_its_ends),
    ONCE(floats_doubles_and_bools_are_checked_too),
    ONCE(structs_are_set_and_got_whole),
    ONCE(an_index_may_count_from_the_end_and_is_checked),
    ONCE(the_pointer_is_for_the_right_type_only),
    ONCE(wrong_types_and_counts_are_refused),
    ONCE(a_copy_is_independent),
    UNDER_EACH(a_child_doubles_values_of_all_sorts),
    UNDER_EACH(an_atomic_counter_needs_no_lock),
    UNDER_EACH(tasks_read_one_array_and_write_another),
    UNDER_EACH(a_receiver_of_a_read_only_array_cannot_write),
    UNDER(a_child_made_by_fork_inherits_values, "fork"),
    ONCE(arrays_in_messages_can_be_kept),
    ONCE(blocks_come_and_go_without_touching_each_other),
    ONCE(malformed_arrays_are_errors),
    ONCE(without_descriptors_arrays_are_an_error),
};

TESTS_MAIN(tests)
