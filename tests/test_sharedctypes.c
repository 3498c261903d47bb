/* SPDX-License-Identifier: MIT
 *
 * test_sharedctypes.c - typed arrays and values in shared memory: their elements,
 * what does not fit, that every process has the same ones, and the locks of those
 * that have one.
 */
#include "boards.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
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
    assert_null(mp_raw_array_data(a, long long));
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
    if (HAS_64_BITS) {
        assert_null(mp_raw_array_new(char, PTRDIFF_MAX));
        assert_true(mp_last_error()->code == MP_ENOMEM || mp_last_error()->code == MP_ENOSPC);
    }
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

/* ---- Array and Value: with a lock ---- */

static mp_array *locked(mp_array *array)
{
    if (!array)
        fail_msg("array: %s", mp_last_error()->text);
    return array;
}

static bool is_held(int r)
{
    return r == 0 || r == MP_EOWNERDEAD;
}

static bool is_locked(const mp_array *a)
{
    return mp_lock_locked(mp_array_get_lock(a));
}

static void locked_elements_are_set_and_got(void **state)
{
    static const short from[] = { 1, -2, 3 };
    mp_array *zeros = locked(mp_array_new(double, 100)),
             *a = locked(mp_array_new(short, 3, .from = from));
    mp_value *v = locked(mp_value_new(long long, -7)),
             *p = locked(mp_value_new(struct point, .y = 2));
    struct point point = { 4, 5.5 };
    short small = 0;
    long long number = 0;
    double real = 1;

    (void)state;
    assert_int_equal(mp_array_len(zeros), 100);
    assert_int_equal(mp_array_get(zeros, 99, &real), 0);
    assert_true(real == 0);
    assert_int_equal(mp_array_get(a, -2, &small), 0);
    assert_int_equal(small, -2);
    assert_int_equal(mp_value_get(v, &number), 0);
    assert_int_equal(number, -7);
    assert_int_equal(mp_value_set(v, 1LL << 40), 0);
    assert_true(*mp_value_data(v, long long) == 1LL << 40);
    assert_true(mp_value_data(p, struct point)->y == 2);
    assert_int_equal(mp_value_set(p, mp_struct(&point)), 0);
    assert_int_equal(mp_value_get(p, &point), 0);
    assert_true(point.x == 4 && point.y == 5.5);
    mp_array_free(zeros);
    mp_array_free(a);
    mp_value_free(v);
    mp_value_free(p);
    mp_array_free(NULL);
}

static void what_does_not_fit_changes_nothing_and_leaves_no_lock_held(void **state)
{
    mp_array *a = locked(mp_array_new(short, 3));
    signed char tiny = 9;
    short small = 9;

    (void)state;
    assert_int_equal(mp_array_set(a, 1, 1000), 0);
    assert_int_equal(mp_array_get(a, 3, &small), MP_EINDEX);
    assert_int_equal(mp_array_get(a, -4, &small), MP_EINDEX);
    assert_int_equal(mp_array_get(a, 1, &tiny), MP_ERANGE);
    assert_int_equal(mp_array_set(a, 1, 40000), MP_ERANGE);
    assert_int_equal(mp_array_set(a, 1, "text"), MP_ETYPE);
    assert_int_equal(mp_array_set(a, 9, 1), MP_EINDEX);
    assert_null(mp_array_data(a, int));
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
    assert_false(is_locked(a));
    assert_true(small == 9 && tiny == 9);
    assert_int_equal(mp_array_data(a, short)[1], 1000);
    mp_array_free(a);
}

static void no_array_is_no_crash(void **state)
{
    int number = 5;

    (void)state;
    assert_int_equal(mp_array_get(NULL, 0, &number), MP_EINVAL);
    assert_int_equal(mp_array_set(NULL, 0, 1), MP_EINVAL);
    assert_int_equal(mp_array_acquire(NULL, 0), MP_EINVAL);
    assert_int_equal(mp_array_release(NULL), MP_EINVAL);
    assert_null(mp_array_get_lock(NULL));
    assert_null(mp_array_get_obj(NULL));
    assert_null(mp_array_data(NULL, int));
    assert_null(mp_array_keep(NULL));
    assert_null(mp_array_new(int, 0));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_null(mp_array_new(char *, 3));
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
    assert_int_equal(number, 5);
}

static void a_lock_of_its_own_is_an_rlock(void **state)
{
    mp_value *v = locked(mp_value_new(int, 5));
    int number = 0;
    char text[64];

    (void)state;
    assert_int_equal(mp_value_acquire(v, MP_FOREVER), 0);
    assert_int_equal(mp_value_acquire(v, 0), 0);
    assert_string_equal(
        mp_lock_repr(mp_value_get_lock(v), text, sizeof(text)), "<RLock(this thread, 2)>");
    assert_int_equal(mp_value_get(v, &number), 0);
    assert_int_equal(mp_value_set(v, number + 1), 0);
    assert_int_equal(mp_value_release(v), 0);
    assert_int_equal(mp_lock_release(mp_value_get_lock(v)), 0);
    assert_int_equal(mp_value_release(v), MP_ENOTHELD);
    assert_int_equal(*mp_raw_value_data(mp_value_get_obj(v), int), 6);
    mp_value_free(v);
}

static void a_given_lock_is_shared_by_all_it_was_given_to(void **state)
{
    mp_lock *lock = mp_rlock_new();
    mp_array *a = locked(mp_array_new(int, 3, .lock = lock));
    mp_value *v = locked(mp_value_new_with(lock, double, 2.5)),
             *w = locked(mp_value_new_with(mp_value_get_lock(v), double, 1.5));
    double real = 0;

    (void)state;
    assert_int_equal(mp_lock_acquire(lock, 0), 0);
    assert_true(is_locked(a) && is_locked(v) && is_locked(w));
    assert_int_equal(mp_value_get(w, &real), 0);
    assert_true(real == 1.5);
    assert_int_equal(mp_array_release(a), 0);
    assert_false(mp_lock_locked(lock) || is_locked(v));
    mp_lock_free(lock); /* they have objects of their own over it */
    assert_int_equal(mp_value_acquire(v, 0), 0);
    assert_true(is_locked(a) && is_locked(w));
    assert_int_equal(mp_value_release(w), 0);
    mp_array_free(a);
    mp_value_free(v);
    mp_value_free(w);
}

static void who_holds_a_plain_lock_is_told_instead_of_waiting_for_itself(void **state)
{
    mp_lock *lock = mp_lock_new();
    mp_value *v = locked(mp_value_new_with(lock, int, 5));
    int number = 3;

    (void)state;
    assert_int_equal(mp_value_acquire(v, MP_FOREVER), 0);
    assert_int_equal(mp_value_get(v, &number), MP_EDEADLOCK);
    assert_int_equal(mp_value_set(v, 9), MP_EDEADLOCK);
    assert_int_equal(number, 3);
    assert_int_equal(++*mp_value_data(v, int), 6);
    assert_int_equal(mp_value_release(v), 0);
    assert_false(mp_lock_locked(lock));
    mp_value_free(v);
    mp_lock_free(lock);
}

static void without_a_lock_there_is_nothing_to_acquire(void **state)
{
    mp_array *a = locked(mp_array_new(int, 3, .lock = MP_NO_LOCK));
    mp_value *v = locked(mp_value_new_with(MP_NO_LOCK, int, 5));
    int number = 0;

    (void)state;
    assert_null(mp_array_get_lock(a));
    assert_int_equal(mp_array_acquire(a, 0), MP_EINVAL);
    assert_int_equal(mp_array_release(a), MP_EINVAL);
    assert_int_equal(mp_array_set(a, -1, 7), 0);
    assert_int_equal(mp_array_data(a, int)[2], 7);
    assert_int_equal(mp_value_get(v, &number), 0);
    assert_int_equal(number, 5);
    assert_int_equal(mp_array_get(a, 3, &number), MP_EINDEX);
    mp_array_free(a);
    mp_value_free(v);
}

/* Again and again, so that memory which others had before comes back. */
static void arrays_made_by_size_are_zeros_each_time(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) {
        mp_array *a = locked(mp_array_new(int, 1000));

        for (int k = 0; k < 1000; k++)
            assert_int_equal(mp_array_data(a, int)[k], 0);
        memset(mp_array_data(a, int), 0xff, 1000 * sizeof(int));
        mp_array_free(a);
    }
}

/* The same child as above, through the locked functions. */
static int double_all_locked(mp_call *call)
{
    mp_value *x, *y, *z, *c, *p;
    mp_array *array, *text;
    long long number;
    struct point point;
    mp_lock *lock;
    double real;

    if (mp_unpack(call, &x, &y, &z, &c, &p, &array, &text, &lock))
        return 99;
    if (mp_value_get(x, &number) || mp_value_set(x, 2 * number))
        return 98;
    if (mp_value_get(y, &real) || mp_value_set(y, 2 * real))
        return 97;
    if (mp_value_get(z, &number) || mp_value_set(z, 2 * number))
        return 96;
    if (mp_value_get(c, &number) || number != 'x' || mp_value_set(c, 'y'))
        return 92;
    if (mp_value_get(p, &point))
        return 95;
    point.x *= 2;
    point.y *= 2;
    if (mp_value_set(p, mp_struct(&point)) || mp_lock_acquire(lock, PATIENCE) || !is_locked(array))
        return 94;
    for (size_t i = 0; i < mp_array_len(array); i++)
        if (mp_array_get(array, (ptrdiff_t)i, &real) || mp_array_set(array, (ptrdiff_t)i, 2 * real))
            return 93;
    strcat(mp_array_data(text, char), "hello");
    return mp_lock_release(lock) < 0 || is_locked(text);
}

static void a_child_doubles_locked_values_of_all_sorts(void **state)
{
    mp_lock *lock = mp_rlock_new();
    mp_value *x = locked(mp_value_new(short, 7)), *y = locked(mp_value_new(double, 1.0 / 3.0)),
             *z = locked(mp_value_new_with(lock, long long, (long long)1 << 33)),
             *c = locked(mp_value_new(char, 'x')),
             *p = locked(mp_value_new_with(MP_NO_LOCK, struct point, 3, 2));
    mp_array *array = locked(mp_array_new(double, 10, .lock = lock)),
             *text = locked(
                 mp_array_new(char, 20, .from = "hello\0\0\0\0\0\0\0\0\0\0\0\0\0\0", .lock = lock));

    (void)state;
    for (int i = 0; i < 10; i++)
        assert_int_equal(mp_array_set(array, i, i), 0);
    assert_int_equal(finish(start_process(.target = double_all_locked,
                         .args = MP_ARGS(x, y, z, c, p, array, text, lock))),
        0);
    assert_int_equal(*mp_value_data(x, short), 14);
    assert_true(*mp_value_data(y, double) == 2.0 / 3.0);
    assert_true(*mp_value_data(z, long long) == (long long)1 << 34);
    assert_int_equal(*mp_value_data(c, char), 'y');
    assert_int_equal(mp_value_data(p, struct point)->x, 6);
    assert_true(mp_value_data(p, struct point)->y == 4);
    for (int i = 0; i < 10; i++)
        assert_true(mp_array_data(array, double)[i] == 2 * i);
    assert_string_equal(mp_array_data(text, char), "hellohello");
    mp_value_free(x);
    mp_value_free(y);
    mp_value_free(z);
    mp_value_free(c);
    mp_value_free(p);
    mp_array_free(array);
    mp_array_free(text);
    mp_lock_free(lock);
}

static int sum_up(mp_call *call)
{
    int number, sum = 0;
    mp_array *a;

    if (mp_unpack(call, &a))
        return 99;
    for (size_t i = 0; i < mp_array_len(a); i++) {
        if (mp_array_get(a, (ptrdiff_t)i, &number))
            return 1;
        sum += number;
        if (mp_array_set(a, (ptrdiff_t)i, sum))
            return 2;
    }
    return 0;
}

/* CPython's test of Array: a part is written by one under the lock, the rest by a child. */
static void a_child_sums_an_array_up_in_place(void **state)
{
    static const int from[] = { 680, 626, 934, 821, 150, 233, 548, 982, 714, 831 },
                     part[] = { 1, 2, 3, 4 };
    mp_array *a = locked(mp_array_new(int, 10, .from = from));
    int sum = 0, number;

    (void)state;
    assert_int_equal(mp_array_acquire(a, MP_FOREVER), 0);
    memcpy(mp_array_data(a, int) + 4, part, sizeof(part));
    assert_int_equal(mp_array_release(a), 0);
    assert_int_equal(finish(start_process(.target = sum_up, .args = MP_ARGS(a))), 0);
    for (int i = 0; i < 10; i++) {
        sum += i >= 4 && i < 8 ? part[i - 4] : from[i];
        assert_int_equal(mp_array_get(a, i, &number), 0);
        assert_int_equal(number, sum);
    }
    mp_array_free(a);
}

static int look_at_a_value(mp_call *call)
{
    mp_connection *travelling;
    int number = -1;
    mp_value *v;
    board *b;

    if (mp_unpack(call, &v, &travelling) || !(b = board_of(travelling)))
        return 99;
    if (mp_value_acquire(v, 0) != MP_ETIMEDOUT)
        return 98;
    atomic_store(&b->n[0], 1);
    return mp_value_get(v, &number) || number != 2;
}

static void a_get_waits_for_who_holds_the_lock(void **state)
{
    mp_value *v = locked(mp_value_new(int, 0));
    mp_connection *travelling;
    board *b = new_board(&travelling);
    mp_process *p;

    (void)state;
    assert_int_equal(mp_value_acquire(v, MP_FOREVER), 0);
    p = start_process(.target = look_at_a_value, .args = MP_ARGS(v, travelling));
    await(&b->n[0], 1);
    *mp_value_data(v, int) = 1; /* half done: nobody sees it */
    nap();
    *mp_value_data(v, int) = 2;
    assert_int_equal(mp_value_release(v), 0);
    assert_int_equal(finish(p), 0);
    mp_value_free(v);
    free_board(b, travelling);
}

enum { COUNTERS = 8 };

static int increments(void)
{
    return HAS_ASAN || HAS_TSAN ? 1000 : 10000;
}

static int increment(mp_value *counter)
{
    for (int i = 0; i < increments(); i++) {
        if (mp_value_acquire(counter, MP_FOREVER))
            return 1;
        *mp_value_data(counter, long) += 1;
        if (mp_value_release(counter))
            return 2;
    }
    return 0;
}

static int count_up_locked(mp_call *call)
{
    mp_value *counter;

    return mp_unpack(call, &counter) ? 99 : increment(counter);
}

static void eight_processes_count_exactly_under_the_lock(void **state)
{
    mp_value *counter = locked(mp_value_new(long, 0));
    mp_process *p[COUNTERS];

    (void)state;
    for (int i = 0; i < COUNTERS; i++)
        p[i] = start_process(.target = count_up_locked, .args = MP_ARGS(counter));
    for (int i = 0; i < COUNTERS; i++)
        assert_int_equal(finish(p[i]), 0);
    assert_int_equal(*mp_value_data(counter, long), (long)COUNTERS * increments());
    assert_false(is_locked(counter));
    mp_value_free(counter);
}

/* Gets and sets of all, so that a race could be seen. */
static void *count_in_a_thread(void *counter)
{
    long number;

    if (increment(counter) || mp_value_get((mp_value *)counter, &number) || number < increments())
        return counter;
    return NULL;
}

static void threads_count_exactly_under_the_lock(void **state)
{
    mp_value *counter = locked(mp_value_new(long, 0));
    pthread_t threads[4];
    void *failed;

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_in_a_thread, counter), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_int_equal(*mp_value_data(counter, long), 4L * increments());
    mp_value_free(counter);
}

static int find_one_lock_in_all(mp_call *call)
{
    mp_array *a, *b;
    mp_lock *lock;
    mp_value *own;
    int number;

    if (mp_unpack(call, &a, &lock, &b, &own) || mp_array_acquire(a, PATIENCE))
        return 99;
    if (!mp_lock_locked(lock) || !is_locked(b) || is_locked(own))
        return 98;
    if (mp_array_get(b, 0, &number) || mp_array_set(b, 0, number + 1))
        return 97; /* it is held by this thread, so nothing waits */
    if (mp_lock_release(lock))
        return 96;
    return is_locked(a) || mp_array_release(b) != MP_ENOTHELD;
}

static void a_given_lock_travels_with_all_it_guards(void **state)
{
    mp_lock *lock = mp_rlock_new();
    mp_array *a = locked(mp_array_new(int, 1, .lock = lock)),
             *b = locked(mp_array_new(int, 1, .lock = lock));
    mp_value *own = locked(mp_value_new(int, 1));

    (void)state;
    assert_int_equal(
        finish(start_process(.target = find_one_lock_in_all, .args = MP_ARGS(a, lock, b, own))), 0);
    assert_int_equal(mp_array_data(b, int)[0], 1);
    mp_array_free(a);
    mp_array_free(b);
    mp_value_free(own);
    mp_lock_free(lock);
}

/* ---- holders that die ---- */

static int die_holding(mp_call *call)
{
    mp_value *v;

    if (mp_unpack(call, &v) || !is_held(mp_value_acquire(v, PATIENCE)))
        return 99;
    *mp_value_data(v, long long) = 5;
    (void)raise(SIGKILL);
    return 98;
}

static void get_and_set_work_after_a_holder_died_and_say_so_once(void **state)
{
    mp_value *v = locked(mp_value_new(long long, 1));
    long long number = 0;

    (void)state;
    assert_int_equal(finish(start_process(.target = die_holding, .args = MP_ARGS(v))), -SIGKILL);
    assert_int_equal(mp_value_get(v, &number), MP_EOWNERDEAD);
    assert_int_equal(mp_last_error()->code, MP_EOWNERDEAD);
    assert_int_equal(number, 5);
    assert_false(is_locked(v));
    assert_int_equal(mp_value_get(v, &number), 0);
    assert_int_equal(finish(start_process(.target = die_holding, .args = MP_ARGS(v))), -SIGKILL);
    assert_int_equal(mp_value_set(v, 6), MP_EOWNERDEAD);
    assert_int_equal(*mp_value_data(v, long long), 6);
    assert_false(is_locked(v));
    assert_int_equal(mp_value_set(v, 7), 0);
    assert_int_equal(finish(start_process(.target = die_holding, .args = MP_ARGS(v))), -SIGKILL);
    assert_int_equal(mp_value_acquire(v, PATIENCE), MP_EOWNERDEAD);
    assert_int_equal(mp_value_get(v, &number), 0); /* it is ours */
    assert_int_equal(mp_value_release(v), 0);
    assert_int_equal(mp_value_acquire(v, 0), 0);
    assert_int_equal(mp_value_release(v), 0);
    mp_value_free(v);
}

static void a_failed_access_leaves_it_to_the_next_to_tell_of_a_death(void **state)
{
    mp_value *v = locked(mp_value_new(long long, 1));
    short number = 3;
    long long real = 0;

    (void)state;
    assert_int_equal(finish(start_process(.target = die_holding, .args = MP_ARGS(v))), -SIGKILL);
    assert_int_equal(mp_array_get(v, 1, &real), MP_EINDEX);
    assert_false(is_locked(v));
    *mp_value_data(v, long long) = 1LL << 40;
    assert_int_equal(mp_value_get(v, &number), MP_ERANGE);
    assert_int_equal(mp_value_set(v, "text"), MP_ETYPE);
    assert_int_equal(number, 3);
    assert_int_equal(mp_value_get(v, &real), MP_EOWNERDEAD);
    assert_true(real == 1LL << 40);
    assert_int_equal(mp_last_error()->code, MP_EOWNERDEAD);
    assert_int_equal(mp_value_get(v, &real), 0);
    assert_false(is_locked(v));
    mp_value_free(v);
}

static int increment_and_be_killed(mp_call *call)
{
    mp_connection *travelling;
    mp_value *counter;
    board *b;

    if (mp_unpack(call, &counter, &travelling) || !(b = board_of(travelling)))
        return 99;
    for (;;) {
        if (!is_held(mp_value_acquire(counter, MP_FOREVER)))
            return 98;
        *mp_value_data(counter, long) += 1;
        atomic_fetch_add(&b->n[0], 1);
        if (mp_value_release(counter))
            return 97;
    }
}

/* Whoever is killed wherever, the others go on, and no more is missing than was being added. */
static void killed_counters_stop_nobody(void **state)
{
    mp_value *counter = locked(mp_value_new(long, 0));
    mp_connection *travelling;
    board *b = new_board(&travelling);
    mp_process *p[4];
    long said, number = 0;
    int deaths = 4;

    (void)state;
    for (int i = 0; i < 4; i++)
        p[i] =
            start_process(.target = increment_and_be_killed, .args = MP_ARGS(counter, travelling));
    for (int i = 0; i < 4; i++) {
        await(&b->n[0], atomic_load(&b->n[0]) + 100);
        assert_int_equal(mp_process_kill(p[i]), 0);
        assert_int_equal(finish(p[i]), -SIGKILL);
    }
    assert_true(is_held(mp_value_get(counter, &number)));
    assert_int_equal(mp_value_get(counter, &number), 0);
    said = atomic_load(&b->n[0]);
    assert_true(number >= said && number <= said + deaths);
    mp_value_free(counter);
    free_board(b, travelling);
}

static void interrupt(int sig)
{
    (void)sig;
    mp_interrupt();
}

static int be_interrupted(mp_call *call)
{
    struct sigaction action = { .sa_handler = interrupt };
    mp_connection *travelling;
    int number = 7;
    mp_value *v;
    board *b;

    if (mp_unpack(call, &v, &travelling) || !(b = board_of(travelling)))
        return 99;
    if (mp_allow_interrupt() || sigaction(SIGUSR1, &action, NULL))
        return 98;
    (void)poll(NULL, 0, 0); /* TSan loses a signal that comes during the first call that blocks */
    atomic_store(&b->n[0], 1);
    if (mp_value_get(v, &number) != MP_EINTR || number != 7)
        return 97;
    atomic_store(&b->n[0], 2);
    if (mp_value_set(v, 8) != MP_EINTR)
        return 96;
    return mp_value_release(v) != MP_ENOTHELD;
}

static void an_interrupted_get_or_set_does_nothing_and_holds_nothing(void **state)
{
    mp_value *v = locked(mp_value_new(int, 5));
    mp_connection *travelling;
    board *b = new_board(&travelling);
    mp_process *p;

    (void)state;
    assert_int_equal(mp_value_acquire(v, MP_FOREVER), 0);
    p = start_process(.target = be_interrupted, .args = MP_ARGS(v, travelling));
    for (int i = 1; i <= 2; i++) {
        await(&b->n[0], i);
        assert_int_equal(kill(mp_process_pid(p), SIGUSR1), 0);
    }
    assert_int_equal(finish(p), 0);
    assert_int_equal(*mp_value_data(v, int), 5);
    assert_int_equal(mp_value_release(v), 0);
    assert_false(is_locked(v));
    mp_value_free(v);
    free_board(b, travelling);
}

/* ---- on their way ---- */

static int add_to_all(mp_call *call)
{
    mp_array *a;
    int amount;

    if (mp_unpack(call, &a, &amount) || !is_held(mp_array_acquire(a, PATIENCE)))
        return -1;
    for (size_t i = 0; i < mp_array_len(a); i++)
        mp_array_data(a, int)[i] += amount;
    return mp_array_release(a);
}

static void tasks_change_an_array_under_its_lock(void **state)
{
    enum { TASKS = 40 };
    mp_pool *pool = mp_pool_new(.processes = 2);
    mp_array *a = locked(mp_array_new(int, 100));
    mp_result *results[TASKS];

    (void)state;
    assert_non_null(pool);
    for (int i = 0; i < TASKS; i++)
        assert_non_null(results[i] = mp_pool_apply_async(pool, add_to_all, MP_ARGS(a, 3)));
    for (int i = 0; i < TASKS; i++) {
        assert_int_equal(mp_result_get(results[i], NULL, PATIENCE), 0);
        mp_result_free(results[i]);
    }
    for (int i = 0; i < 100; i++)
        assert_int_equal(mp_array_data(a, int)[i], 3 * TASKS);
    mp_array_free(a);
    mp_pool_free(pool);
}

static void locked_arrays_in_messages_can_be_kept(void **state)
{
    mp_array *a = locked(mp_array_new(int, 2)), *lent, *kept;
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_raw_array *raw;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_connection_send(here, mp_list(a, a, mp_array_get_obj(a))), 0);
    assert_int_equal(mp_connection_recv(there, &message), 0);
    assert_int_equal(mp_unpack(&message, &raw, NULL, NULL), MP_ETYPE); /* it has a lock */
    assert_int_equal(mp_unpack(&message, &lent, &kept, &raw), 0);
    assert_int_equal(mp_raw_array_set(raw, 0, 4), 0);
    kept = mp_array_keep(kept);
    mp_array_free(lent); /* nothing: it is lent */
    mp_message_clear(&message);
    assert_int_equal(mp_array_acquire(kept, 0), 0);
    assert_true(is_locked(a));
    assert_int_equal(mp_array_set(kept, 1, 12), 0);
    assert_int_equal(mp_array_release(kept), 0);
    assert_true(mp_array_data(a, int)[0] == 4 && mp_array_data(a, int)[1] == 12);
    mp_array_free(a);
    assert_int_equal(mp_array_set(kept, 1, 13), 0);
    mp_array_free(kept);
    mp_connection_free(here);
    mp_connection_free(there);
}

static void a_plain_fork_inherits_values_and_not_who_holds_them(void **state)
{
    mp_value *v = locked(mp_value_new(long, 0));
    int status;
    pid_t pid;

    (void)state;
    assert_int_equal(mp_value_acquire(v, MP_FOREVER), 0);
    pid = fork();
    if (pid == 0)
        _exit(mp_value_release(v) == MP_ENOTHELD ? increment(v) : 9);
    assert_true(pid > 0);
    assert_int_equal(mp_value_release(v), 0);
    assert_int_equal(increment(v), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(*mp_value_data(v, long), 2L * increments());
    mp_value_free(v);
}

static void malformed_locked_arrays_are_errors(void **state)
{
    mp_lock *lock = mp_rlock_new();
    mp_array *a = locked(mp_array_new(int, 3, .lock = lock));
    const mp__kind *kind = &mp__array_kind;
    int before = count_descriptors();
    mp__reduced good = { .size = 0 };
    void *built = NULL;
    int fds[3], junk[3];

    (void)state;
    assert_int_equal(kind->reduce(a, &good), 0);
    assert_int_equal(good.count, 2);
    for (int i = 0; i < 2; i++)
        fds[i] = fcntl(good.fds[i], F_DUPFD_CLOEXEC, 0);
    fds[2] = -1;
    for (size_t count = 0; count <= 3; count++)
        for (size_t size = 0; size <= good.size; size++) {
            bool right = size == good.size && (count == 1 || count == 2);

            for (int i = 0; i < 3; i++) /* the lock's place, too, with elements in it */
                junk[i] = fcntl(good.fds[0], F_DUPFD_CLOEXEC, 0);
            assert_int_equal(
                kind->rebuild(good.state, size, junk, count, &built) == 0, right && count == 1);
            for (int i = 0; i < 3; i++)
                if (junk[i] >= 0)
                    (void)close(junk[i]);
            mp_array_free(built);
            built = NULL;
        }
    assert_int_equal(kind->rebuild(good.state, good.size, fds + 1, 2, &built), MP_EPROTOCOL);
    assert_int_equal(kind->rebuild(good.state, good.size, fds + 2, 1, &built), MP_EPROTOCOL);
    assert_int_equal(kind->rebuild(good.state, good.size, fds, 2, &built), 0);
    assert_true(fds[0] == -1 && fds[1] == -1);
    assert_int_equal(mp_array_set(built, 2, 5), 0);
    assert_int_equal(mp_array_data(a, int)[2], 5);
    mp_array_free(built);
    assert_int_equal(count_descriptors(), before);
    mp_array_free(a);
    mp_lock_free(lock);
}

static void with_too_few_descriptors_locked_arrays_are_an_error(void **state)
{
    int before = count_descriptors(), next = dup(0);
    struct rlimit old, tight;

    (void)state;
    (void)close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    tight = old;
    for (int i = 0; i < 2; i++) {
        tight.rlim_cur = (rlim_t)(next + i);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
        assert_null(mp_array_new(int, 1));
        assert_int_equal(mp_last_error()->code, MP_EMFILE);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(count_descriptors(), before);
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
    ONCE(locked_elements_are_set_and_got),
    ONCE(what_does_not_fit_changes_nothing_and_leaves_no_lock_held),
    ONCE(no_array_is_no_crash),
    ONCE(a_lock_of_its_own_is_an_rlock),
    ONCE(a_given_lock_is_shared_by_all_it_was_given_to),
    ONCE(who_holds_a_plain_lock_is_told_instead_of_waiting_for_itself),
    ONCE(without_a_lock_there_is_nothing_to_acquire),
    ONCE(arrays_made_by_size_are_zeros_each_time),
    UNDER_EACH(a_child_doubles_locked_values_of_all_sorts),
    UNDER_EACH(a_child_sums_an_array_up_in_place),
    UNDER_EACH(a_get_waits_for_who_holds_the_lock),
    UNDER_EACH(eight_processes_count_exactly_under_the_lock),
    ONCE(threads_count_exactly_under_the_lock),
    UNDER_EACH(a_given_lock_travels_with_all_it_guards),
    UNDER_EACH(get_and_set_work_after_a_holder_died_and_say_so_once),
    UNDER_EACH(a_failed_access_leaves_it_to_the_next_to_tell_of_a_death),
    UNDER_EACH(killed_counters_stop_nobody),
    UNDER_EACH(an_interrupted_get_or_set_does_nothing_and_holds_nothing),
    UNDER_EACH(tasks_change_an_array_under_its_lock),
    ONCE(locked_arrays_in_messages_can_be_kept),
    ONCE(a_plain_fork_inherits_values_and_not_who_holds_them),
    ONCE(malformed_locked_arrays_are_errors),
    ONCE(with_too_few_descriptors_locked_arrays_are_an_error),
};

TESTS_MAIN(tests)
