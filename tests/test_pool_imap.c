/* SPDX-License-Identifier: MIT
 *
 * test_pool_imap.c - imap and imap_unordered: answers one by one, input that is
 * read lazily, errors of items and of the input.
 */
#include "pools.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- tasks ---- */

static int refuse_every_third(mp_call *call)
{
    long x;

    if (mp_unpack(call, &x))
        return 1;
    return x % 3 == 0 ? mp_raise(call, 1000 + (int)x, "no %ld please", x) : mp_return(call, x);
}

static int tell_index(mp_call *call)
{
    return mp_return(call, mp_call_index(call));
}

/* Sends the number it got, or waits until the connection it got is closed. */
static int send_or_wait(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    bool waits;
    int r = 0;

    if (mp_unpack(call, &line, &waits))
        return 1;
    if (waits)
        r = mp_connection_recv(line, &message) != MP_EEOF;
    mp_message_clear(&message);
    return r ? 2 : mp_return(call, waits);
}

/* ---- input ---- */

typedef struct {
    long next, end; /* the numbers to be produced */
    long bad;       /* where an error comes instead */
    int error;
} counter;

static int count_up(void *state, mp_call *item)
{
    counter *c = state;

    if (c->error && c->next == c->bad)
        return c->error > 0 ? mp_raise(item, c->error, "the input broke at %ld", c->next)
                            : c->error;
    return c->next == c->end ? MP_EEOF : mp_return(item, c->next++);
}

static int pair_up(void *state, mp_call *item)
{
    counter *c = state;

    if (c->next == c->end)
        return MP_EEOF;
    c->next++;
    return mp_return(item, mp_list(c->next, c->next + 1));
}

static int forget_the_item(void *state, mp_call *item)
{
    (void)state;
    (void)item;
    return 0;
}

/* ---- helpers ---- */

static int next_long(mp_imap *imap, long *x)
{
    mp_message message = MP_MESSAGE_INIT;
    int r = mp_imap_next(imap, &message, PATIENCE);

    if (r == 0)
        assert_int_equal(mp_unpack(&message, x), 0);
    mp_message_clear(&message);
    return r;
}

/* Squares of 0 to count - 1 come, in order or not, and then the end. */
static void expect_squares(mp_imap *imap, long count, bool ordered)
{
    static bool seen[10000];
    long x;

    assert_non_null(imap);
    memset(seen, 0, sizeof(seen));
    for (long i = 0; i < count; i++) {
        size_t index;

        assert_int_equal(next_long(imap, &x), 0);
        index = mp_imap_index(imap);
        assert_true(index < (size_t)count && !seen[index]);
        seen[index] = true;
        assert_int_equal(x, index * index);
        if (ordered)
            assert_int_equal(index, i);
        assert_int_equal(mp_imap_error(imap)->code, 0);
    }
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);
}

static void check_works(mp_pool *pool)
{
    long in[] = { 1, 2, 3 }, out[3] = { 0 };

    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, 3), MP_ITEMS(out, 3)), 0);
    assert_true(out[0] == 1 && out[1] == 4 && out[2] == 9);
}

/* ---- order ---- */

static void imap_answers_in_order(void **state)
{
    mp_pool *pool = make_pool(.processes = 3);
    long in[1000];
    counter c = { .end = 1000 };

    (void)state;
    for (long i = 0; i < 1000; i++)
        in[i] = i;
    expect_squares(mp_pool_imap(pool, square, MP_ITEMS(in, 10)), 10, true);
    expect_squares(mp_pool_imap(pool, square, MP_ITEMS(in, 1000)), 1000, true);
    expect_squares(mp_pool_imap(pool, square, MP_GENERATE(count_up, &c)), 1000, true);
    mp_pool_free(pool);
}

static void imap_unordered_gives_each_answer_once(void **state)
{
    mp_pool *pool = make_pool(.processes = 3);
    long in[1000];
    counter c = { .end = 1000 };

    (void)state;
    for (long i = 0; i < 1000; i++)
        in[i] = i;
    expect_squares(mp_pool_imap_unordered(pool, square, MP_ITEMS(in, 10)), 10, false);
    expect_squares(mp_pool_imap_unordered(pool, square, MP_ITEMS(in, 1000)), 1000, false);
    expect_squares(mp_pool_imap_unordered(pool, square, MP_GENERATE(count_up, &c)), 1000, false);
    mp_pool_free(pool);
}

/* ---- several threads ---- */

enum { FETCHERS = 4, SHARED = 5000 };

typedef struct {
    mp_imap *imap;
    atomic_uchar *seen;
    int r; /* of the last call */
} fetcher;

static void *fetch_some(void *argument)
{
    fetcher *f = argument;
    mp_message message = MP_MESSAGE_INIT;

    while ((f->r = mp_imap_next(f->imap, &message, PATIENCE)) == 0) {
        long x = -1;

        if (mp_unpack(&message, &x) || x < 0 || x >= SHARED)
            break;
        (void)atomic_fetch_add(&f->seen[x], 1);
    }
    mp_message_clear(&message);
    return NULL;
}

static void share(mp_imap *imap)
{
    static atomic_uchar seen[SHARED];
    fetcher fetchers[FETCHERS];
    pthread_t threads[FETCHERS];

    assert_non_null(imap);
    for (int i = 0; i < SHARED; i++)
        atomic_store(&seen[i], 0);
    for (int i = 0; i < FETCHERS; i++) {
        fetchers[i] = (fetcher){ imap, seen, 0 };
        assert_int_equal(pthread_create(&threads[i], NULL, fetch_some, &fetchers[i]), 0);
    }
    for (int i = 0; i < FETCHERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(fetchers[i].r, MP_EEOF);
    }
    for (int i = 0; i < SHARED; i++)
        assert_int_equal(atomic_load(&seen[i]), 1);
    mp_imap_free(imap);
}

static int echo(mp_call *call)
{
    long x;

    return mp_unpack(call, &x) ? -1 : mp_return(call, x);
}

static void threads_may_share_an_imap(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    counter c = { .end = SHARED }, d = { .end = SHARED }, e = { .end = SHARED };

    (void)state;
    share(mp_pool_imap(pool, echo, MP_GENERATE(count_up, &c)));
    share(mp_pool_imap_unordered(pool, echo, MP_GENERATE(count_up, &d)));
    share(mp_pool_imap(pool, echo, MP_GENERATE(count_up, &e), .window = 1));
    mp_pool_free(pool);
}

/* Says what the item is, and then that there is none. */
static int change_its_mind(void *state, mp_call *item)
{
    return mp_return(item, (mp_connection *)state) ? -1 : MP_EEOF;
}

static void an_item_that_is_taken_back_leaves_no_descriptor(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_imap *imap;
    int before;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_pool_apply(pool, echo, MP_ARGS(1), NULL), 0); /* its worker is there */
    before = count_descriptors();
    imap = mp_pool_imap(pool, echo, MP_GENERATE(change_its_mind, there));
    assert_non_null(imap);
    assert_int_equal(mp_imap_next(imap, &message, PATIENCE), MP_EEOF);
    mp_imap_free(imap);
    assert_int_equal(count_descriptors(), before);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_pool_free(pool);
}

/* The descriptor is only lent as long as the item is not taken. */
static int give_what_cannot_be_packed(void *state, mp_call *item)
{
    return mp_return(item, mp_list((mp_connection *)state, mp_dict("a key without a value")));
}

static void an_item_that_cannot_be_packed_takes_nothing(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_imap *imap;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    imap = mp_pool_imap(pool, echo, MP_GENERATE(give_what_cannot_be_packed, there));
    assert_non_null(imap);
    assert_true(mp_imap_next(imap, &message, PATIENCE) < 0);
    mp_imap_free(imap);
    assert_int_equal(mp_connection_send(there, 5), 0);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_pool_free(pool);
}

typedef struct {
    mp_imap *imap;
    long given;
    int r;
} self_fed;

static int fetch_from_itself(void *state, mp_call *item)
{
    mp_message message = MP_MESSAGE_INIT;
    self_fed *s = state;

    if (s->imap)
        s->r = mp_imap_next(s->imap, &message, PATIENCE);
    mp_message_clear(&message);
    return s->given == 2 ? MP_EEOF : mp_return(item, s->given++);
}

static void a_generator_cannot_fetch_from_the_imap_it_feeds(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message message = MP_MESSAGE_INIT;
    self_fed s = { .imap = NULL };
    mp_imap *imap = mp_pool_imap(pool, echo, MP_GENERATE(fetch_from_itself, &s), .window = 1);

    (void)state;
    s.imap = imap;
    for (int i = 0; i < 2; i++)
        assert_int_equal(mp_imap_next(imap, &message, PATIENCE), 0);
    assert_int_equal(s.r, MP_EDEADLOCK);
    assert_int_equal(mp_imap_next(imap, &message, PATIENCE), MP_EEOF);
    mp_imap_free(imap);
    mp_message_clear(&message);
    mp_pool_free(pool);
}

/* The first item waits; the others come. */
static void unordered_answers_come_as_they_are_ready(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_imap *imap;
    bool waited;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    {
        msgpack_object items[] = { mp_list(there, (bool)true), mp_list(there, (bool)false),
            mp_list(there, (bool)false) };

        imap = mp_pool_imap_unordered(pool, send_or_wait, MP_ITEMS(items, 3), .spread = true);
        assert_non_null(imap);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(mp_imap_next(imap, &message, PATIENCE), 0);
            assert_int_equal(mp_unpack(&message, &waited), 0);
            assert_false(waited);
        }
        assert_int_equal(mp_imap_next(imap, &message, 0.01), MP_ETIMEDOUT);
        assert_int_equal(mp_imap_next(imap, &message, 0), MP_ETIMEDOUT);
        mp_connection_free(here);
        assert_int_equal(mp_imap_next(imap, &message, PATIENCE), 0);
        assert_int_equal(mp_imap_index(imap), 0);
        assert_int_equal(mp_imap_next(imap, &message, PATIENCE), MP_EEOF);
        mp_imap_free(imap);
    }
    mp_connection_free(there);
    mp_message_clear(&message);
    mp_pool_free(pool);
}

static void windows_of_all_sizes_give_the_same(void **state)
{
    static const size_t windows[] = { 1, 2, 3, 10, 99, 100, 1000 };
    mp_pool *pool = make_pool(.processes = 2);
    long in[100];

    (void)state;
    for (long i = 0; i < 100; i++)
        in[i] = i;
    for (size_t k = 0; k < sizeof(windows) / sizeof(*windows); k++) {
        expect_squares(
            mp_pool_imap(pool, square, MP_ITEMS(in, 100), .window = windows[k]), 100, true);
        expect_squares(
            mp_pool_imap_unordered(pool, square, MP_ITEMS(in, 100), .window = windows[k]), 100,
            false);
    }
    mp_pool_free(pool);
}

static void an_imap_of_nothing_is_at_its_end(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    counter c = { .end = 0 };

    (void)state;
    expect_squares(mp_pool_imap(pool, square, MP_ITEMS((long *)NULL, 0)), 0, true);
    expect_squares(mp_pool_imap_unordered(pool, square, MP_ITEMS((long *)NULL, 0)), 0, false);
    expect_squares(mp_pool_imap(pool, square, MP_GENERATE(count_up, &c)), 0, true);
    mp_pool_free(pool);
}

static void several_imaps_and_maps_go_on_side_by_side(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    counter a = { .end = 50 }, b = { .end = 50 };
    mp_imap *first = mp_pool_imap(pool, square, MP_GENERATE(count_up, &a));
    mp_imap *second = mp_pool_imap(pool, square, MP_GENERATE(count_up, &b));
    long x;

    (void)state;
    for (long i = 0; i < 50; i++) {
        assert_int_equal(next_long(first, &x), 0);
        assert_int_equal(x, i * i);
        assert_int_equal(next_long(second, &x), 0);
        assert_int_equal(x, i * i);
        check_works(pool);
    }
    expect_squares(first, 0, true);
    expect_squares(second, 0, true);
    mp_pool_free(pool);
}

/* ---- laziness ---- */

static void the_input_is_read_no_further_than_the_window(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    counter c = { .end = -1 }; /* without end */
    mp_imap *imap = mp_pool_imap(pool, square, MP_GENERATE(count_up, &c), .window = 5);
    long x;

    (void)state;
    assert_non_null(imap);
    assert_int_equal(c.next, 5);
    check_works(pool);
    assert_int_equal(c.next, 5);
    for (long i = 0; i < 100; i++) {
        assert_int_equal(next_long(imap, &x), 0);
        assert_int_equal(x, i * i);
        assert_int_equal(c.next, i + 5);
    }
    mp_imap_free(imap);
    assert_int_equal(c.next, 104);

    c = (counter){ .end = -1 };
    imap = mp_pool_imap_unordered(pool, square, MP_GENERATE(count_up, &c));
    assert_int_equal(c.next, 32);
    mp_imap_free(imap);
    check_works(pool);
    mp_pool_free(pool);
}

static void an_imap_may_be_freed_at_any_time(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    long in[100], x;

    (void)state;
    for (long i = 0; i < 100; i++)
        in[i] = i;
    for (int fetched = 0; fetched < 60; fetched += 20) {
        mp_imap *imap = mp_pool_imap_unordered(pool, square, MP_ITEMS(in, 100));

        for (int i = 0; i < fetched; i++)
            assert_int_equal(next_long(imap, &x), 0);
        mp_imap_free(imap);
        check_works(pool);
    }
    mp_pool_free(pool);
}

/* ---- items ---- */

static void spread_items_are_taken_apart(void **state)
{
    msgpack_object items[] = { mp_list(2, 3), mp_list(4, 5), mp__from_signed(3), mp_list(6, 7) };
    mp_pool *pool = make_pool(.processes = 2);
    counter c = { .end = 20 };
    mp_imap *imap = mp_pool_imap(pool, multiply, MP_GENERATE(pair_up, &c), .spread = true);
    long x;

    (void)state;
    for (long i = 1; i <= 20; i++) {
        assert_int_equal(next_long(imap, &x), 0);
        assert_int_equal(x, i * (i + 1));
    }
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);

    imap = mp_pool_imap(pool, multiply, MP_ITEMS(items, 2), .spread = true);
    assert_int_equal(next_long(imap, &x), 0);
    assert_int_equal(x, 6);
    assert_int_equal(next_long(imap, &x), 0);
    assert_int_equal(x, 20);
    mp_imap_free(imap);
    mp_pool_free(pool);
}

static int measure(mp_call *call)
{
    const char *text;

    return mp_unpack(call, &text) ? 1 : mp_return(call, strlen(text));
}

static int halve(mp_call *call)
{
    double x;

    return mp_unpack(call, &x) ? 1 : mp_return(call, x / 2);
}

typedef struct {
    int a, b;
} two;

static int add_two(mp_call *call)
{
    two t;

    return mp_unpack(call, &t) ? 1 : mp_return(call, t.a + t.b);
}

static void items_of_all_types_travel(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    const char *words[] = { "one", "three" };
    double halves[] = { 1.5, -3 }, y;
    two pairs[] = { { 1, 2 }, { 3, 4 } };
    mp_message message = MP_MESSAGE_INIT;
    mp_imap *imap = mp_pool_imap(pool, measure, MP_ITEMS(words, 2));
    long x;

    (void)state;
    assert_int_equal(next_long(imap, &x), 0);
    assert_int_equal(x, 3);
    assert_int_equal(next_long(imap, &x), 0);
    assert_int_equal(x, 5);
    mp_imap_free(imap);

    imap = mp_pool_imap(pool, halve, MP_ITEMS(halves, 2));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mp_imap_next(imap, &message, PATIENCE), 0);
        assert_int_equal(mp_unpack(&message, &y), 0);
        assert_true(y == halves[i] / 2);
    }
    mp_imap_free(imap);
    mp_message_clear(&message);

    imap = mp_pool_imap(pool, add_two, MP_ITEMS(pairs, 2));
    assert_int_equal(next_long(imap, &x), 0);
    assert_int_equal(x, 3);
    assert_int_equal(next_long(imap, &x), 0);
    assert_int_equal(x, 7);
    mp_imap_free(imap);

    imap = mp_pool_imap_unordered(pool, tell_index, MP_ITEMS(halves, 2));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(next_long(imap, &x), 0);
        assert_int_equal(x, mp_imap_index(imap));
    }
    mp_imap_free(imap);
    mp_pool_free(pool);
}

/* ---- errors ---- */

static void a_failing_item_is_told_at_its_place_and_the_next_follow(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    long in[] = { 1, 2, 3, 4, 5, 6, 7 }, x = -1;
    mp_imap *imap = mp_pool_imap(pool, refuse_every_third, MP_ITEMS(in, 7));

    (void)state;
    for (int i = 0; i < 7; i++) {
        if (in[i] % 3) {
            assert_int_equal(next_long(imap, &x), 0);
            assert_int_equal(x, in[i]);
            assert_int_equal(mp_imap_error(imap)->code, 0);
        } else {
            assert_int_equal(next_long(imap, &x), MP_ERAISED);
            assert_int_equal(mp_imap_error(imap)->raised, 1000 + in[i]);
            assert_non_null(strstr(mp_last_error()->text, "please"));
        }
        assert_int_equal(mp_imap_index(imap), i);
    }
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);

    imap = mp_pool_imap_unordered(pool, refuse_every_third, MP_ITEMS(in, 7));
    for (int i = 0; i < 7; i++) {
        int r = next_long(imap, &x);
        size_t index = mp_imap_index(imap);

        assert_int_equal(r, in[index] % 3 ? 0 : MP_ERAISED);
        assert_int_equal(mp_imap_error(imap)->index, r ? index : 0);
    }
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);
    mp_pool_free(pool);
}

static void check_broken_input(mp_pool *pool, long bad, int error, int expected, bool ordered)
{
    counter c = { .end = 20, .bad = bad, .error = error };
    const mp_task_options options = {
        .name = "square", .function = square, .in = MP_GENERATE(count_up, &c)
    };
    mp_imap *imap = mp_pool_imap_create(pool, &options, ordered);
    long x;

    assert_non_null(imap);
    for (long i = 0; i < bad; i++) {
        assert_int_equal(next_long(imap, &x), 0);
        if (ordered)
            assert_int_equal(x, i * i);
    }
    assert_int_equal(next_long(imap, &x), expected);
    if (error > 0)
        assert_non_null(strstr(mp_last_error()->text, "the input broke"));
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);
    check_works(pool);
}

static void an_error_of_the_input_comes_after_the_answers_before_it(void **state)
{
    static const long places[] = { 0, 1, 4, 19 };
    mp_pool *pool = make_pool(.processes = 2);

    (void)state;
    for (int i = 0; i < 4; i++) {
        check_broken_input(pool, places[i], MP_EIO, MP_EIO, true);
        check_broken_input(pool, places[i], 5, MP_ERAISED, true);
        check_broken_input(pool, places[i], MP_EIO, MP_EIO, false);
        check_broken_input(pool, places[i], 5, MP_ERAISED, false);
    }
    mp_pool_free(pool);
}

static void a_generator_without_an_item_is_an_error(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_imap *imap = mp_pool_imap(pool, square, MP_GENERATE(forget_the_item, NULL));
    long x;

    (void)state;
    assert_int_equal(next_long(imap, &x), MP_EINVAL);
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);
    mp_pool_free(pool);
}

static void an_item_that_cannot_be_packed_ends_the_input(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    msgpack_object items[] = { mp_list(2, 3), mp__from_signed(3), mp_list(4, 5) };
    mp_imap *imap = mp_pool_imap(pool, multiply, MP_ITEMS(items, 3), .spread = true);
    long x;

    (void)state;
    assert_int_equal(next_long(imap, &x), 0);
    assert_int_equal(next_long(imap, &x), MP_ETYPE);
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);
    mp_pool_free(pool);
}

static int return_pointer(mp_call *call)
{
    return mp_return(call, (void *)call);
}

static void answers_that_cannot_be_packed_are_errors_of_their_items(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    long in[20] = { 0 }, x;
    mp_imap *imap = mp_pool_imap(pool, return_pointer, MP_ITEMS(in, 20));

    (void)state;
    for (int i = 0; i < 20; i++)
        assert_int_equal(next_long(imap, &x), MP_EENCODING);
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);
    check_works(pool);
    mp_pool_free(pool);
}

/* ---- the end of the pool ---- */

static void an_imap_that_was_fetched_does_not_keep_a_closed_pool_from_ending(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    long in[] = { 0, 1, 2 }, x;
    mp_imap *imap = mp_pool_imap(pool, square, MP_ITEMS(in, 3));

    (void)state;
    for (long i = 0; i < 3; i++)
        assert_int_equal(next_long(imap, &x), 0);
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    assert_int_equal(mp_pool_close(pool), 0);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);
    mp_pool_free(pool);
}

/* All of its input fits into the window, and is read. */
static void what_an_imap_was_given_is_done_when_the_pool_closes(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    long in[] = { 0, 1, 2 };
    mp_imap *imap = mp_pool_imap(pool, square, MP_ITEMS(in, 3));

    (void)state;
    assert_int_equal(mp_pool_close(pool), 0);
    assert_null(mp_pool_imap(pool, square, MP_ITEMS(in, 3)));
    assert_int_equal(mp_last_error()->code, MP_ECLOSED);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    expect_squares(imap, 3, true);
    mp_pool_free(pool);
}

static void an_imap_outlives_its_pool(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    counter c = { .end = -1 };
    mp_imap *imap = mp_pool_imap(pool, square, MP_GENERATE(count_up, &c), .window = 4);
    int r, more = 0;
    long x;

    (void)state;
    assert_int_equal(next_long(imap, &x), 0);
    mp_pool_free(pool);
    do /* what was answered before may still come */
        r = next_long(imap, &x);
    while (r == 0 && ++more < 4);
    assert_int_equal(r, MP_ETERMINATED);
    assert_int_equal(next_long(imap, &x), MP_EEOF);
    mp_imap_free(imap);
}

static void fetching_without_an_imap_or_a_message_is_an_error(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message message = MP_MESSAGE_INIT;
    long in[] = { 3 };
    mp_imap *imap = mp_pool_imap(pool, square, MP_ITEMS(in, 1));

    (void)state;
    assert_int_equal(mp_imap_next(NULL, &message, 0), MP_EINVAL);
    assert_int_equal(mp_imap_next(imap, NULL, 0), MP_EINVAL);
    assert_int_equal(mp_imap_next(imap, &message, PATIENCE), 0);
    mp_message_clear(&message);
    mp_imap_free(imap);
    mp_pool_free(pool);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(imap_answers_in_order),
    UNDER_EACH(imap_unordered_gives_each_answer_once),
    UNDER_EACH(unordered_answers_come_as_they_are_ready),
    UNDER_EACH(windows_of_all_sizes_give_the_same),
    UNDER_EACH(an_imap_of_nothing_is_at_its_end),
    UNDER_EACH(several_imaps_and_maps_go_on_side_by_side),
    UNDER_EACH(the_input_is_read_no_further_than_the_window),
    UNDER_EACH(an_imap_may_be_freed_at_any_time),
    UNDER_EACH(spread_items_are_taken_apart),
    UNDER_EACH(items_of_all_types_travel),
    UNDER_EACH(a_failing_item_is_told_at_its_place_and_the_next_follow),
    UNDER_EACH(an_error_of_the_input_comes_after_the_answers_before_it),
    UNDER_EACH(a_generator_without_an_item_is_an_error),
    UNDER_EACH(an_item_that_cannot_be_packed_ends_the_input),
    UNDER_EACH(answers_that_cannot_be_packed_are_errors_of_their_items),
    UNDER_EACH(an_imap_that_was_fetched_does_not_keep_a_closed_pool_from_ending),
    UNDER_EACH(threads_may_share_an_imap),
    UNDER_EACH(an_item_that_is_taken_back_leaves_no_descriptor),
    UNDER_EACH(an_item_that_cannot_be_packed_takes_nothing),
    UNDER_EACH(a_generator_cannot_fetch_from_the_imap_it_feeds),
    UNDER_EACH(what_an_imap_was_given_is_done_when_the_pool_closes),
    UNDER_EACH(an_imap_outlives_its_pool),
    UNDER_EACH(fetching_without_an_imap_or_a_message_is_an_error),
};

TESTS_MAIN(tests)
