/* SPDX-License-Identifier: MIT
 *
 * test_shareable_list.c - lists in shared memory: their values, what does not fit,
 * memory that is damaged, how they travel, and that CPython has the same list.
 */
#include "support.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm_internal.h"

/* ---- helpers ---- */

static mp_shareable_list *make(mp_shareable_list *list)
{
    if (!list)
        fail_msg("list: %s", mp_last_error()->text);
    return list;
}

#define make_list(...) make(mp_shareable_list_new(.items = mp_list(__VA_ARGS__)))

static void check_refused(mp_shareable_list *list, int code)
{
    assert_null(list);
    assert_int_equal(mp_last_error()->code, code);
}

#define refused(code, ...) check_refused(mp_shareable_list_new(__VA_ARGS__), code)

static const char *name_of(const mp_shareable_list *list)
{
    return mp_shared_memory_name(mp_shareable_list_shm(list));
}

static char *bytes_of(const mp_shareable_list *list)
{
    return mp_shared_memory_buf(mp_shareable_list_shm(list));
}

static void check_format(const mp_shareable_list *list, const char *expected)
{
    char text[200];

    assert_int_equal(mp_shareable_list_format(list, text, sizeof(text)), strlen(expected));
    assert_string_equal(text, expected);
}

/* Whether the item is that text or those bytes. */
static bool holds(mp_shareable_list *list, ptrdiff_t index, bool text, const char *expected)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_bytes_view view = { NULL, 0 };
    bool equal = mp_shareable_list_get(list, index, &message) == 0 &&
                 message.value.type == (text ? MSGPACK_OBJECT_STR : MSGPACK_OBJECT_BIN) &&
                 mp_unpack(&message, &view) == 0 && view.size == strlen(expected) &&
                 memcmp(view.data, expected, view.size) == 0;

    mp_message_clear(&message);
    return equal;
}

static int64_t integer_at(mp_shareable_list *list, ptrdiff_t index)
{
    int64_t number = 0;

    if (mp_shareable_list_get(list, index, &number) < 0)
        fail_msg("item %td: %s", index, mp_last_error()->text);
    return number;
}

/* ---- values ---- */

/* The list of CPython's own test. */
static mp_shareable_list *make_mixture(void)
{
    return make_list("howdy", mp_bytes("HoWdY", 5), -273.154, 100, mp_none(), (bool)true, 42);
}

static void items_of_every_type_come_back(void **state)
{
    mp_shareable_list *list = make_mixture();
    mp_message message = MP_MESSAGE_INIT;
    const char *text;
    double real;
    bool flag = false;

    (void)state;
    assert_int_equal(mp_shareable_list_len(list), 7);
    check_format(list, "8s8sdqxxxxxx?xxxxxxxx?q");
    assert_true(holds(list, 0, true, "howdy"));
    assert_true(holds(list, 1, false, "HoWdY"));
    assert_int_equal(mp_shareable_list_get(list, 2, &real), 0);
    assert_true(real == -273.154);
    assert_int_equal(integer_at(list, 3), 100);
    assert_int_equal(mp_shareable_list_get(list, 4, &message), 0);
    assert_int_equal(message.value.type, MSGPACK_OBJECT_NIL);
    assert_int_equal(mp_shareable_list_get(list, 5, &flag), 0);
    assert_true(flag);
    assert_int_equal(integer_at(list, 6), 42);
    assert_int_equal(mp_shareable_list_get(list, 0, &message), 0);
    assert_int_equal(mp_unpack(&message, &text), 0);
    assert_string_equal(text, "howdy");
    mp_message_clear(&message);
    mp_shareable_list_free(list);
}

static void the_size_is_pythons(void **state)
{
    mp_shareable_list *list = make_mixture();

    (void)state;
    /* 8 (1 + 8) offsets, seven slots of 8, formats of 56, codes of 7 */
    assert_int_equal(mp_shared_memory_size(mp_shareable_list_shm(list)), 191);
    mp_shareable_list_free(list);
}

static void an_index_may_count_from_the_end_and_is_checked(void **state)
{
    mp_shareable_list *list = make_mixture();
    long number = -1;

    (void)state;
    assert_int_equal(integer_at(list, -1), 42);
    assert_true(holds(list, -7, true, "howdy"));
    assert_int_equal(mp_shareable_list_get(list, 7, &number), MP_EINDEX);
    assert_int_equal(mp_shareable_list_get(list, -8, &number), MP_EINDEX);
    assert_int_equal(mp_shareable_list_get(list, PTRDIFF_MAX, &number), MP_EINDEX);
    assert_int_equal(mp_shareable_list_get(list, PTRDIFF_MIN, &number), MP_EINDEX);
    assert_int_equal(mp_shareable_list_set(list, 7, 1), MP_EINDEX);
    assert_int_equal(mp_shareable_list_set(list, -8, 1), MP_EINDEX);
    assert_int_equal(number, -1);
    mp_shareable_list_free(list);
}

static void items_are_set_to_other_values_and_types(void **state)
{
    mp_shareable_list *list = make_mixture();
    bool flag = true;

    (void)state;
    assert_int_equal(mp_shareable_list_set(list, 3, 42), 0);
    assert_int_equal(integer_at(list, 3), 42);
    assert_int_equal(mp_shareable_list_set(list, 4, "some"), 0); /* from none */
    assert_int_equal(mp_shareable_list_set(list, 2, 5), 0);      /* a double becomes an integer */
    assert_int_equal(mp_shareable_list_set(list, 6, mp_bytes("12345678", 8)), 0);
    assert_int_equal(mp_shareable_list_set(list, 5, (bool)false), 0);
    assert_true(holds(list, 4, true, "some"));
    assert_true(holds(list, 6, false, "12345678"));
    assert_int_equal(mp_shareable_list_get(list, 5, &flag), 0);
    check_format(list, "8s8sqq8sxxxxxxx?8s");
    assert_int_equal(mp_shareable_list_set(list, 0, mp_none()), 0);
    check_format(list, "xxxxxx?x8sqq8sxxxxxxx?8s");
    assert_int_equal(mp_shareable_list_set(list, 0, "again"), 0);
    assert_true(holds(list, 0, true, "again"));
    mp_shareable_list_free(list);
}

static void integers_are_exact_to_their_ends(void **state)
{
    mp_shareable_list *list = make_list(INT64_MAX, INT64_MIN, 0, -1, 1.5f);
    int64_t number = 0;
    signed char small = 0;
    double real = 0;

    (void)state;
    assert_int_equal(mp_shareable_list_get(list, 0, &number), 0);
    assert_true(number == INT64_MAX);
    assert_int_equal(mp_shareable_list_get(list, 1, &number), 0);
    assert_true(number == INT64_MIN);
    assert_int_equal(mp_shareable_list_get(list, 1, &small), MP_ERANGE);
    assert_int_equal(mp_shareable_list_get(list, 3, &small), 0);
    assert_int_equal(small, -1);
    assert_int_equal(mp_shareable_list_get(list, 4, &real), 0);
    assert_true(real == 1.5);
    assert_int_equal(mp_shareable_list_set(list, 0, UINT64_MAX), MP_ERANGE);
    assert_int_equal(mp_shareable_list_get(list, 0, &number), 0);
    assert_true(number == INT64_MAX);
    mp_shareable_list_free(list);
    refused(MP_ERANGE, .items = mp_list(1, UINT64_MAX));
}

static void text_has_the_room_it_had_at_first(void **state)
{
    mp_shareable_list *list = make_list("12345678", "", 1);

    (void)state;
    check_format(list, "16s8sq");
    assert_int_equal(mp_shareable_list_set(list, 0, "1234567890123456"), 0);
    assert_true(holds(list, 0, true, "1234567890123456"));
    assert_int_equal(mp_shareable_list_set(list, 0, "12345678901234567"), MP_ERANGE);
    assert_true(holds(list, 0, true, "1234567890123456"));
    assert_int_equal(mp_shareable_list_set(list, 1, "123456789"), MP_ERANGE);
    assert_int_equal(mp_shareable_list_set(list, 2, "12345678"), 0);
    assert_int_equal(mp_shareable_list_set(list, 2, "123456789"), MP_ERANGE);
    assert_true(holds(list, 2, true, "12345678"));
    mp_shareable_list_free(list);
}

/* CPython makes room for five characters, and loses the last of them. */
static void text_is_measured_in_bytes(void **state)
{
    static const char text[] = "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9";
    mp_shareable_list *list = make_list(text);

    (void)state;
    check_format(list, "16s");
    assert_true(holds(list, 0, true, text));
    mp_shareable_list_free(list);
}

static void what_would_be_lost_is_refused(void **state)
{
    mp_shareable_list *list;

    (void)state;
    refused(MP_ERANGE, .items = mp_list(mp_bytes("nul\0", 4)));
    assert_non_null(strstr(mp_last_error()->text, "NUL"));
    list = make_list(mp_bytes("a\0b", 3), mp_bytes(NULL, 0));
    assert_int_equal(mp_shareable_list_set(list, 0, mp_bytes("\0", 1)), MP_ERANGE);
    {
        mp_message message = MP_MESSAGE_INIT;
        mp_bytes_view view;

        assert_int_equal(mp_shareable_list_get(list, 0, &message), 0);
        assert_int_equal(mp_unpack(&message, &view), 0);
        assert_int_equal(view.size, 3);
        assert_memory_equal(view.data, "a\0b", 3);
        assert_int_equal(mp_shareable_list_get(list, 1, &message), 0);
        assert_int_equal(mp_unpack(&message, &view), 0);
        assert_int_equal(view.size, 0);
        mp_message_clear(&message);
    }
    mp_shareable_list_free(list);
}

static void other_types_are_refused(void **state)
{
    mp_shareable_list *list = make_list(1);

    (void)state;
    refused(MP_ETYPE, .items = mp_list(1, mp_list(2)));
    refused(MP_ETYPE, .items = mp_list(list));
    refused(MP_ETYPE, .items = mp__from_signed(1));
    refused(MP_EINVAL, .name = NULL);
    assert_int_equal(mp_shareable_list_set(list, 0, mp_list(1)), MP_ETYPE);
    assert_int_equal(mp_shareable_list_set(list, 0, list), MP_ETYPE);
    assert_int_equal(integer_at(list, 0), 1);
    mp_shareable_list_free(list);
}

static void items_go_only_where_they_fit(void **state)
{
    mp_shareable_list *list = make_list("text", 300, 2.5);
    const char *text = NULL;
    unsigned char small = 7;
    msgpack_object object;
    int number = 8;
    struct {
        char bytes[4];
    } four;

    (void)state;
    assert_int_equal(mp_shareable_list_get(list, 0, &number), MP_ETYPE);
    assert_int_equal(mp_shareable_list_get(list, 1, &small), MP_ERANGE);
    assert_int_equal(mp_shareable_list_get(list, 2, &number), MP_ETYPE);
    assert_int_equal(mp_shareable_list_get(list, 0, &text), MP_EINVAL);
    assert_int_equal(mp_shareable_list_get(list, 0, &object), MP_EINVAL);
    assert_int_equal(mp_shareable_list_get(list, 0, &four), MP_ETYPE);
    assert_null(text);
    assert_int_equal(small, 7);
    assert_int_equal(number, 8);
    assert_int_equal(mp_shareable_list_set(list, 0, mp_bytes("abcd", 4)), 0);
    assert_int_equal(mp_shareable_list_get(list, 0, &four), 0);
    assert_memory_equal(four.bytes, "abcd", 4);
    mp_shareable_list_free(list);
}

static void long_text_is_kept_or_refused(void **state)
{
    size_t most = 9999991;
    char *text = malloc(most + 2);
    mp_shareable_list *list;

    (void)state;
    memset(text, 't', most + 2);
    list = make(mp_shareable_list_new(.items = mp_list(mp_bytes(text, most)), .anonymous = true));
    check_format(list, "9999992s");
    mp_shareable_list_free(list);
    refused(MP_ETOOLONG, .items = mp_list(mp_bytes(text, most + 1)), .anonymous = true);
    free(text);
}

static void values_are_counted_and_found_as_python_compares(void **state)
{
    mp_shareable_list *list =
        make_list(1, 1.0, (bool)true, "1", mp_bytes("1", 1), mp_none(), (bool)false, INT64_MAX, -1);
    size_t count = 99, index = 99;

    (void)state;
    assert_int_equal(mp_shareable_list_count(list, 1, &count), 0);
    assert_int_equal(count, 3);
    assert_int_equal(mp_shareable_list_count(list, "1", &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(mp_shareable_list_count(list, 0.0, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(mp_shareable_list_count(list, 2, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(mp_shareable_list_count(list, (double)INT64_MAX, &count), 0);
    assert_int_equal(count, 0); /* which is one more */
    assert_int_equal(mp_shareable_list_count(list, UINT64_MAX, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(mp_shareable_list_count(list, (double)NAN, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(mp_shareable_list_count(list, -1.0, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(mp_shareable_list_count(list, 1.5, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(mp_shareable_list_count(list, HUGE_VAL, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(mp_shareable_list_index(list, "1", &index), 0);
    assert_int_equal(index, 3);
    assert_int_equal(mp_shareable_list_index(list, mp_bytes("1", 1), &index), 0);
    assert_int_equal(index, 4);
    assert_int_equal(mp_shareable_list_index(list, mp_none(), &index), 0);
    assert_int_equal(index, 5);
    assert_int_equal(mp_shareable_list_index(list, (bool)true, &index), 0);
    assert_int_equal(index, 0);
    assert_int_equal(mp_shareable_list_index(list, -1, &index), 0);
    assert_int_equal(index, 8);
    assert_int_equal(mp_shareable_list_index(list, "missing", &index), MP_EINVAL);
    assert_int_equal(index, 8);
    mp_shareable_list_free(list);
}

static void a_list_may_be_empty(void **state)
{
    mp_shareable_list *list = make_list(), *other;
    size_t count = 9;
    int number;

    (void)state;
    assert_int_equal(mp_shareable_list_len(list), 0);
    check_format(list, "");
    assert_int_equal(mp_shareable_list_get(list, 0, &number), MP_EINDEX);
    assert_int_equal(mp_shareable_list_get(list, -1, &number), MP_EINDEX);
    assert_int_equal(mp_shareable_list_count(list, 1, &count), 0);
    assert_int_equal(count, 0);
    other = make(mp_shareable_list_new(.name = name_of(list)));
    assert_int_equal(mp_shareable_list_len(other), 0);
    mp_shareable_list_free(other);
    mp_shareable_list_free(list);
}

static void formats_are_cut_as_snprintf_does(void **state)
{
    mp_shareable_list *list = make_list(1, 2.0, "x");
    char text[5] = "....";

    (void)state;
    assert_int_equal(mp_shareable_list_format(list, NULL, 0), 4);
    assert_int_equal(mp_shareable_list_format(list, text, 1), 4);
    assert_string_equal(text, "");
    assert_int_equal(mp_shareable_list_format(list, text, 4), 4);
    assert_string_equal(text, "qd8");
    assert_int_equal(mp_shareable_list_format(list, text, 5), 4);
    assert_string_equal(text, "qd8s");
    mp_shareable_list_free(list);
}

/* ---- names, and other processes ---- */

static void a_list_is_attached_by_its_name(void **state)
{
    mp_shareable_list *list =
        make(mp_shareable_list_new(.items = mp_list(1, "two"), .name = "mp-test-list"));
    mp_shareable_list *other = make(mp_shareable_list_new(.name = "mp-test-list"));

    (void)state;
    refused(MP_EEXIST, .items = mp_list(1), .name = "mp-test-list");
    assert_int_equal(mp_shareable_list_set(other, 0, 11), 0);
    assert_int_equal(integer_at(list, 0), 11);
    assert_true(holds(other, 1, true, "two"));
    mp_shareable_list_free(other);
    mp_shareable_list_free(list);
    refused(MP_ENOENT, .name = "mp-test-list");
    mp_shareable_list_free(NULL);
}

static void a_closed_list_is_an_error(void **state)
{
    mp_shareable_list *list = make_list(1);
    char text[9];
    size_t n;
    int number;

    (void)state;
    mp_shared_memory_close(mp_shareable_list_shm(list));
    assert_int_equal(mp_shareable_list_get(list, 0, &number), MP_ECLOSED);
    assert_int_equal(mp_shareable_list_set(list, 0, 1), MP_ECLOSED);
    assert_int_equal(mp_shareable_list_count(list, 1, &n), MP_ECLOSED);
    assert_int_equal(mp_shareable_list_index(list, 1, &n), MP_ECLOSED);
    assert_int_equal(mp_shareable_list_format(list, text, sizeof(text)), 0);
    assert_int_equal(mp_shareable_list_len(list), 1);
    mp_shareable_list_free(list);
}

static int double_items(mp_call *call)
{
    mp_shareable_list *list, *anonymous;
    long number;

    if (mp_unpack(call, &list, &anonymous))
        return 99;
    for (size_t i = 0; i < mp_shareable_list_len(list); i++)
        if (mp_shareable_list_get(list, (ptrdiff_t)i, &number) ||
            mp_shareable_list_set(list, (ptrdiff_t)i, 2 * number))
            return 98;
    return mp_shareable_list_set(anonymous, -1, "from the child") ? 97 : 0;
}

static void a_child_changes_lists_in_its_arguments(void **state)
{
    mp_shareable_list *list = make_list(1, 2, 3);
    mp_shareable_list *anonymous = make(
        mp_shareable_list_new(.items = mp_list("room for text of the child"), .anonymous = true));

    (void)state;
    assert_int_equal(
        finish(start_process(.target = double_items, .args = MP_ARGS(list, anonymous))), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(integer_at(list, i), 2 * (i + 1));
    assert_true(holds(anonymous, 0, true, "from the child"));
    assert_int_equal(mp_shared_memory_unlink(mp_shareable_list_shm(list)), 0);
    assert_int_equal(/* it travels without its name */
        finish(start_process(.target = double_items, .args = MP_ARGS(list, anonymous))), 0);
    assert_int_equal(integer_at(list, 2), 12);
    mp_shareable_list_free(list);
    mp_shareable_list_free(anonymous);
}

static void a_list_in_a_message_can_be_kept(void **state)
{
    mp_shareable_list *list = make_list(5);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;
    mp_shareable_list *lent, *kept;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send(a, list), 0);
    assert_int_equal(mp_connection_send(a, list), 0);
    assert_int_equal(mp_connection_recv(b, &message), 0);
    assert_int_equal(mp_unpack(&message, &lent), 0);
    kept = mp_shareable_list_keep(lent);
    assert_int_equal(mp_connection_recv(b, &message), 0);
    assert_int_equal(mp_unpack(&message, &lent), 0);
    mp_shareable_list_free(lent);
    assert_int_equal(integer_at(kept, 0), 5);
    mp_message_clear(&message);
    mp_shareable_list_free(kept);
    mp_shareable_list_free(list);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* A name is seen only when all is in place: an attaching process never finds half a list. */
static void *attach_until_told(void *argument)
{
    atomic_int *stop = argument;

    while (!*stop) {
        mp_shareable_list *list = mp_shareable_list_new(.name = "mp-test-race");
        long number = 0;

        if (!list && mp_last_error()->code != MP_ENOENT)
            return "attach";
        if (list && (mp_shareable_list_len(list) != 2 || mp_shareable_list_get(list, 1, &number) ||
                        number != 77))
            return "content";
        mp_shareable_list_free(list);
    }
    return NULL;
}

/* Whether the system gives a name to what is complete. */
static bool names_come_late(void)
{
    int fd = mp__shm_draft("mp-test-draft");
    bool late = shm_unlink("/mp-test-draft") < 0;

    assert_true(fd >= 0);
    (void)close(fd);
    return late;
}

static void a_name_appears_with_all_items_in_place(void **state)
{
    atomic_int stop = 0;
    pthread_t thread;
    void *wrong;

    (void)state;
    if (!names_come_late()) {
        print_message("SKIPPED: here a name is there before its memory\n");
        return;
    }
    assert_int_equal(pthread_create(&thread, NULL, attach_until_told, &stop), 0);
    for (int i = 0; i < 500; i++) {
        mp_shareable_list *list = make(mp_shareable_list_new(.items = mp_list("some text", 77),
            .name = "mp-test-race", .track = MP_NO));

        assert_int_equal(mp_shared_memory_unlink(mp_shareable_list_shm(list)), 0);
        mp_shareable_list_free(list);
    }
    stop = 1;
    assert_int_equal(pthread_join(thread, &wrong), 0);
    if (wrong)
        fail_msg("%s", (const char *)wrong);
}

/* ---- damage ---- */

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Everything one can do with a list, whatever it says. */
static void use_all(mp_shareable_list *list)
{
    mp_message message = MP_MESSAGE_INIT;
    char text[100];
    size_t n;

    for (size_t i = 0; i < mp_shareable_list_len(list) && i < 20; i++) {
        int r = mp_shareable_list_get(list, (ptrdiff_t)i, &message);

        assert_true(r == 0 || r == MP_EPROTOCOL);
    }
    (void)mp_shareable_list_count(list, "text", &n);
    (void)mp_shareable_list_index(list, 5, &n);
    (void)mp_shareable_list_format(list, text, sizeof(text));
    (void)mp_shareable_list_set(list, 0, "xyz");
    mp_message_clear(&message);
}

static void damaged_memory_is_an_error_not_a_crash(void **state)
{
    mp_shareable_list *list = make_mixture();
    size_t size = mp_shared_memory_size(mp_shareable_list_shm(list));
    char whole[191];
    uint32_t random = 1;
    int refusals = 0;

    (void)state;
    memcpy(whole, bytes_of(list), size);
    for (int round = 0; round < 3000; round++) {
        mp_shareable_list *other;

        for (uint32_t n = next_random(&random) % 3 + 1; n; n--)
            bytes_of(list)[next_random(&random) % size] = (char)next_random(&random);
        use_all(list); /* what was whole when it was attached */
        other = mp_shareable_list_new(.name = name_of(list));
        if (other)
            use_all(other);
        else
            refusals += mp_last_error()->code == MP_EPROTOCOL;
        mp_shareable_list_free(other);
        memcpy(bytes_of(list), whole, size);
    }
    assert_true(refusals > 500);
    mp_shareable_list_free(list);
}

static void lengths_that_lie_are_refused(void **state)
{
    static const int64_t wrong[] = { -1, 8, 100, INT64_MAX, INT64_MIN, INT64_MAX / 8 };
    mp_shareable_list *list = make_mixture();
    char whole[191];

    (void)state;
    memcpy(whole, bytes_of(list), 191);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        for (size_t at = 0; at < 9; at++) {
            memcpy(bytes_of(list), whole, 191);
            memcpy(bytes_of(list) + 8 * at, &wrong[i], 8);
            if (memcmp(bytes_of(list), whole, 191) != 0) /* it may be right there */
                refused(MP_EPROTOCOL, .name = name_of(list));
        }
    }
    mp_shareable_list_free(list);
}

static void short_memory_is_no_list(void **state)
{
    (void)state;
    for (size_t size = 1; size < 16; size += 7) {
        mp_shared_memory *m = mp_shared_memory_new(.create = true, .size = size);

        assert_non_null(m);
        refused(MP_EPROTOCOL, .name = mp_shared_memory_name(m));
        mp_shared_memory_free(m);
    }
}

/* ---- CPython ---- */

#define ATTACH                                                        \
    "import sys\n"                                                    \
    "from multiprocessing import shared_memory, resource_tracker\n"   \
    "def attach(name):\n"                                             \
    "    l = shared_memory.ShareableList(name=name)\n"                \
    "    resource_tracker.unregister(l.shm._name, 'shared_memory')\n" \
    "    return l\n"

static void python_reads_and_sets_our_list(void **state)
{
    static outcome out;
    mp_shareable_list *list = make_list("howdy", mp_bytes("HoWdY", 5), -273.154, 100, mp_none(),
        (bool)true, 42, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", INT64_MIN, (bool)false, "");
    double real;

    (void)state;
    if (run_python(ATTACH "l = attach(sys.argv[1])\n"
                          "print(ascii(list(l)), l.format, len(l), l.count(42), l.index(100))\n"
                          "l[0] = 'bye'\n"
                          "l[3] = 2.5\n"
                          "l[4] = b'bytes'\n"
                          "l[5] = None\n"
                          "l[6] = -7\n"
                          "l[2] = True\n"
                          "l.shm.close()\n",
            name_of(list), &out)) {
        assert_string_equal(out.output,
            "['howdy', b'HoWdY', -273.154, 100, None, True, 42, '\\xe9\\xe9\\xe9\\xe9\\xe9', "
            "-9223372036854775808, False, ''] "
            "8s8sdqxxxxxx?xxxxxxxx?q16sqxxxxxxx?8s 11 1 3\n");
        assert_true(holds(list, 0, true, "bye"));
        assert_int_equal(mp_shareable_list_get(list, 3, &real), 0);
        assert_true(real == 2.5);
        assert_true(holds(list, 4, false, "bytes"));
        assert_int_equal(integer_at(list, 6), -7);
        assert_int_equal(integer_at(list, 2), 1);
        check_format(list, "8s8sxxxxxxx?d8sxxxxxx?xq16sqxxxxxxx?8s");
    }
    mp_shareable_list_free(list);
}

static void we_read_and_set_a_list_of_python(void **state)
{
    static outcome out;
    mp_shareable_list *list;
    char name[64];

    (void)state;
    if (!run_python("from multiprocessing import shared_memory, resource_tracker\n"
                    "l = shared_memory.ShareableList(['text', b'bytes', 1.5, -3, None, True, "
                    "'a longer text', 2**63 - 1])\n"
                    "resource_tracker.unregister(l.shm._name, 'shared_memory')\n"
                    "print(l.shm.name, end='')\n"
                    "l.shm.close()\n",
            NULL, &out))
        return;
    (void)snprintf(name, sizeof(name), "%.63s", out.output);
    list = make(mp_shareable_list_new(.name = name));
    assert_int_equal(mp_shareable_list_len(list), 8);
    check_format(list, "8s8sdqxxxxxx?xxxxxxxx?16sq");
    assert_true(holds(list, 0, true, "text"));
    assert_true(holds(list, 1, false, "bytes"));
    assert_int_equal(integer_at(list, 3), -3);
    assert_int_equal(integer_at(list, 5), 1);
    assert_true(holds(list, 6, true, "a longer text"));
    assert_int_equal(integer_at(list, 7), INT64_MAX);
    assert_int_equal(mp_shareable_list_set(list, 0, "12345678"), 0);
    assert_int_equal(mp_shareable_list_set(list, 1, 8), 0);
    assert_int_equal(mp_shareable_list_set(list, 2, mp_none()), 0);
    assert_int_equal(mp_shareable_list_set(list, 3, "three"), 0);
    assert_int_equal(mp_shareable_list_set(list, 4, (bool)false), 0);
    assert_int_equal(mp_shareable_list_set(list, 6, mp_bytes("\0b", 2)), 0);
    assert_int_equal(mp_shareable_list_set(list, 7, 0.125), 0);
    assert_true(run_python(ATTACH "print(list(attach(sys.argv[1])))\n", name, &out));
    assert_string_equal(
        out.output, "['12345678', 8, None, 'three', False, True, b'\\x00b', 0.125]\n");
    assert_int_equal(mp_shared_memory_unlink(mp_shareable_list_shm(list)), 0);
    mp_shareable_list_free(list);
}

static const struct CMUnitTest tests[] = {
    ONCE(items_of_every_type_come_back),
    ONCE(the_size_is_pythons),
    ONCE(an_index_may_count_from_the_end_and_is_checked),
    ONCE(items_are_set_to_other_values_and_types),
    ONCE(integers_are_exact_to_their_ends),
    ONCE(text_has_the_room_it_had_at_first),
    ONCE(text_is_measured_in_bytes),
    ONCE(what_would_be_lost_is_refused),
    ONCE(other_types_are_refused),
    ONCE(items_go_only_where_they_fit),
    ONCE(long_text_is_kept_or_refused),
    ONCE(values_are_counted_and_found_as_python_compares),
    ONCE(a_list_may_be_empty),
    ONCE(formats_are_cut_as_snprintf_does),
    ONCE(a_list_is_attached_by_its_name),
    ONCE(a_closed_list_is_an_error),
    UNDER_EACH(a_child_changes_lists_in_its_arguments),
    ONCE(a_list_in_a_message_can_be_kept),
    ONCE(a_name_appears_with_all_items_in_place),
    ONCE(damaged_memory_is_an_error_not_a_crash),
    ONCE(lengths_that_lie_are_refused),
    ONCE(short_memory_is_no_list),
    ONCE(python_reads_and_sets_our_list),
    ONCE(we_read_and_set_a_list_of_python),
};

TESTS_MAIN(tests)
