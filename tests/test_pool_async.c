/* SPDX-License-Identifier: MIT
 *
 * test_pool_async.c - calls of a pool that do not wait: results, callbacks and
 * what they may do, cancelling, waiting for several, threads.
 */
#include "pools.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- tasks ---- */

static int refuse_odd(mp_call *call)
{
    long x;

    if (mp_unpack(call, &x))
        return 1;
    return x % 2 ? mp_raise(call, 42, "%ld is odd", x) : mp_return(call, x);
}

/* Says that it runs, and ends when the other end is closed. */
static int say_and_wait(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r;

    if (mp_unpack(call, &line))
        return 1;
    if (mp_connection_send(line, "running"))
        return 2;
    r = mp_connection_recv(line, &message);
    mp_message_clear(&message);
    return r == MP_EEOF ? mp_return(call, "done") : 3;
}

static int say(mp_call *call)
{
    mp_connection *line;

    return mp_unpack(call, &line) || mp_connection_send(line, "ran");
}

/* ---- helpers ---- */

/* A task that keeps a worker busy until the gate is closed; when this returns it runs. */
static mp_result *occupy(mp_pool *pool, mp_connection **gate)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *theirs;
    mp_result *result;

    assert_int_equal(mp_pipe(gate, &theirs), 0);
    result = mp_pool_apply_async(pool, say_and_wait, MP_ARGS(theirs));
    assert_non_null(result);
    mp_connection_free(theirs);
    assert_int_equal(mp_connection_recv(*gate, &message), 0);
    mp_message_clear(&message);
    return result;
}

static mp_result *start_square(mp_pool *pool, long x)
{
    mp_result *result = mp_pool_apply_async(pool, square, MP_ARGS(x));

    assert_non_null(result);
    return result;
}

static long get_long(mp_result *result)
{
    mp_message message = MP_MESSAGE_INIT;
    long x;

    assert_int_equal(mp_result_get(result, &message, PATIENCE), 0);
    assert_int_equal(mp_unpack(&message, &x), 0);
    mp_message_clear(&message);
    return x;
}

static void check_works(mp_pool *pool)
{
    mp_message answer = MP_MESSAGE_INIT;
    long x;

    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(11), &answer), 0);
    assert_int_equal(mp_unpack(&answer, &x), 0);
    assert_int_equal(x, 121);
    mp_message_clear(&answer);
}

/* ---- results ---- */

static void a_result_is_got_later_and_again(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_result *result = start_square(pool, 7);

    (void)state;
    assert_int_equal(get_long(result), 49);
    assert_int_equal(get_long(result), 49);
    assert_int_equal(mp_result_get(result, NULL, 0), 0);
    assert_int_equal(mp_result_wait(result, 0), 0);
    assert_true(mp_result_ready(result));
    assert_int_equal(mp_result_successful(result), 1);
    assert_int_equal(mp_result_error(result)->code, 0);
    mp_result_free(result);
    mp_pool_free(pool);
}

static void a_result_is_not_ready_while_its_task_runs(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *gate;
    mp_result *result = occupy(pool, &gate);
    const char *text;

    (void)state;
    mp_clear_error();
    assert_false(mp_result_ready(result));
    assert_int_equal(mp_last_error()->code, 0);
    assert_int_equal(mp_result_successful(result), MP_ERUNNING);
    assert_int_equal(mp_result_get(result, &message, 0), MP_ETIMEDOUT);
    assert_int_equal(mp_result_get(result, &message, -1), MP_ETIMEDOUT);
    assert_int_equal(mp_result_get(result, NULL, 0.01), MP_ETIMEDOUT);
    assert_int_equal(mp_result_wait(result, 0.01), MP_ETIMEDOUT);
    mp_connection_free(gate);
    assert_int_equal(mp_result_wait(result, PATIENCE), 0);
    assert_true(mp_result_ready(result));
    assert_int_equal(mp_result_get(result, &message, 0), 0);
    assert_int_equal(mp_unpack(&message, &text), 0);
    assert_string_equal(text, "done");
    mp_message_clear(&message);
    mp_result_free(result);
    mp_pool_free(pool);
}

static void a_result_becomes_ready_while_nobody_waits(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_result *result = start_square(pool, 3);

    (void)state;
    while (!mp_result_ready(result))
        (void)sched_yield();
    assert_int_equal(get_long(result), 9);
    mp_result_free(result);
    mp_pool_free(pool);
}

static void a_failed_result_tells_why_each_time(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_result *result = mp_pool_apply_async(pool, refuse, MP_ARGS());
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    assert_non_null(result);
    for (int i = 0; i < 2; i++) {
        mp_clear_error();
        assert_int_equal(mp_result_get(result, &message, PATIENCE), MP_ERAISED);
        assert_non_null(strstr(mp_last_error()->text, "refused"));
    }
    assert_int_equal(mp_result_wait(result, 0), 0);
    assert_int_equal(mp_result_successful(result), 0);
    assert_int_equal(mp_result_error(result)->raised, 42);
    assert_string_equal(mp_result_error(result)->function, "refuse");
    mp_result_free(result);
    mp_pool_free(pool);
}

static void a_map_without_waiting_fills_its_output(void **state)
{
    enum { N = 200 };
    msgpack_object pairs[] = { mp_list(2, 3), mp_list(4, 5), mp_list(6, 7) };
    mp_pool *pool = make_pool(.processes = 2);
    mp_message message = MP_MESSAGE_INIT;
    mp_result *map, *starmap;
    long in[N], out[N], products[3];

    (void)state;
    for (int i = 0; i < N; i++)
        in[i] = i;
    map = mp_pool_map_async(pool, square, MP_ITEMS(in, N), MP_ITEMS(out, N));
    starmap = mp_pool_starmap_async(pool, multiply, MP_ITEMS(pairs, 3), MP_ITEMS(products, 3));
    assert_true(map && starmap);
    assert_int_equal(mp_result_get(starmap, NULL, PATIENCE), 0);
    assert_true(products[0] == 6 && products[1] == 20 && products[2] == 42);
    assert_int_equal(mp_result_get(map, NULL, PATIENCE), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(out[i], i * i);
    assert_int_equal(mp_result_get(map, &message, 0), MP_EINVAL);
    mp_result_free(map);
    mp_result_free(starmap);
    mp_pool_free(pool);
}

static void a_map_that_fails_tells_the_first_that_failed(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    long in[] = { 2, 4, 5, 6, 7 }, out[5] = { 0 };
    int status[5];
    mp_result *map =
        mp_pool_map_async(pool, refuse_odd, MP_ITEMS(in, 5), MP_ITEMS(out, 5), .status = status);

    (void)state;
    assert_non_null(map);
    assert_int_equal(mp_result_get(map, NULL, PATIENCE), MP_ERAISED);
    assert_int_equal(mp_result_error(map)->index, 2);
    assert_true(out[0] == 2 && out[1] == 4 && out[2] == 0 && out[3] == 6 && out[4] == 0);
    assert_true(status[1] == 0 && status[2] == MP_ERAISED && status[4] == MP_ERAISED);
    mp_result_free(map);
    mp_pool_free(pool);
}

static void a_map_of_nothing_is_ready(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_result *map = mp_pool_map_async(pool, square, MP_ITEMS((long *)NULL, 0), .chunksize = 3);

    (void)state;
    assert_non_null(map);
    assert_true(mp_result_ready(map));
    assert_int_equal(mp_result_successful(map), 1);
    assert_int_equal(mp_result_get(map, NULL, 0), 0);
    mp_result_free(map);
    mp_pool_free(pool);
}

static void hundreds_of_tasks_are_answered(void **state)
{
    enum { N = 500 };
    mp_pool *pool = make_pool(.processes = 3);
    static mp_result *results[N];

    (void)state;
    for (long i = 0; i < N; i++)
        results[i] = start_square(pool, i);
    for (long i = N; i-- > 0;) {
        assert_int_equal(get_long(results[i]), i * i);
        mp_result_free(results[i]);
    }
    mp_pool_free(pool);
}

static void the_task_of_a_freed_result_goes_on(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *gate, *here, *there;
    mp_result *first = occupy(pool, &gate);

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    mp_result_free(mp_pool_apply_async(pool, say, MP_ARGS(there)));
    mp_connection_free(there);
    mp_connection_free(gate);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_result_free(first);
    mp_pool_free(pool);
}

static void results_outlive_their_pool(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_result *done = start_square(pool, 5), *failed, *lost;
    mp_connection *gate;

    (void)state;
    failed = mp_pool_apply_async(pool, refuse, MP_ARGS());
    assert_int_equal(mp_result_wait(failed, PATIENCE), 0);
    lost = occupy(pool, &gate);
    mp_pool_free(pool);
    mp_connection_free(gate);
    assert_int_equal(get_long(done), 25);
    assert_true(mp_result_ready(done));
    assert_int_equal(mp_result_get(failed, NULL, 0), MP_ERAISED);
    assert_int_equal(mp_result_get(lost, NULL, PATIENCE), MP_ETERMINATED);
    assert_int_equal(mp_result_error(lost)->code, MP_ETERMINATED);
    assert_int_equal(mp_result_cancel(lost), MP_EALREADY);
    mp_result_free(done);
    mp_result_free(failed);
    mp_result_free(lost);
}

/* ---- cancelling ---- */

static void a_task_that_was_cancelled_before_it_began_never_does(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *gate, *here, *there;
    mp_result *first = occupy(pool, &gate), *second;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    second = mp_pool_apply_async(pool, say, MP_ARGS(there));
    mp_connection_free(there);
    assert_int_equal(mp_result_cancel(second), 0);
    assert_int_equal(mp_result_cancel(second), MP_EALREADY);
    assert_true(mp_result_ready(second));
    assert_int_equal(mp_result_get(second, NULL, 0), MP_ECANCELLED);
    assert_int_equal(mp_result_error(second)->code, MP_ECANCELLED);
    mp_connection_free(gate);
    assert_int_equal(mp_result_get(first, NULL, PATIENCE), 0);
    check_works(pool);
    mp_result_free(first);
    mp_result_free(second);
    mp_pool_free(pool);
    assert_int_equal(mp_connection_recv(here, &message), MP_EEOF);
    mp_connection_free(here);
    mp_message_clear(&message);
}

static void a_task_that_is_cancelled_while_it_runs_loses_its_worker(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *gate;
    mp_result *first = occupy(pool, &gate), *second = start_square(pool, 4);

    (void)state;
    assert_int_equal(mp_result_cancel(first), 0);
    assert_int_equal(mp_result_get(first, NULL, PATIENCE), MP_ECANCELLED);
    assert_int_equal(mp_connection_recv(gate, &message), MP_EEOF);
    mp_connection_free(gate);
    mp_message_clear(&message);
    assert_int_equal(get_long(second), 16);
    mp_result_free(first);
    mp_result_free(second);
    mp_pool_free(pool);
}

static void a_map_is_cancelled_as_a_whole(void **state)
{
    enum { N = 100 };
    mp_pool *pool = make_pool(.processes = 1);
    mp_connection *gate;
    mp_result *first = occupy(pool, &gate), *map;
    long in[N] = { 0 }, out[N] = { 0 };
    int status[N];

    (void)state;
    map = mp_pool_map_async(pool, square, MP_ITEMS(in, N), MP_ITEMS(out, N), .status = status);
    assert_non_null(map);
    assert_int_equal(mp_result_cancel(map), 0);
    assert_int_equal(mp_result_get(map, NULL, 0), MP_ECANCELLED);
    for (int i = 0; i < N; i++)
        assert_int_equal(status[i], MP_ECANCELLED);
    mp_connection_free(gate);
    assert_int_equal(mp_result_get(first, NULL, PATIENCE), 0);
    mp_result_free(first);
    mp_result_free(map);
    mp_pool_free(pool);
}

static void some_of_many_are_cancelled_and_the_rest_is_done(void **state)
{
    enum { N = 50 };
    mp_pool *pool = make_pool(.processes = 2);
    mp_result *results[N];
    mp_connection *gates[2];
    mp_result *blockers[2];

    (void)state;
    for (int i = 0; i < 2; i++)
        blockers[i] = occupy(pool, &gates[i]);
    for (int i = 0; i < N; i++)
        results[i] = start_square(pool, i);
    for (int i = 0; i < N; i += 2)
        assert_int_equal(mp_result_cancel(results[i]), 0);
    assert_int_equal(mp_pool_close(pool), 0);
    for (int i = 0; i < 2; i++)
        mp_connection_free(gates[i]);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    for (int i = 0; i < N; i++) {
        if (i % 2)
            assert_int_equal(get_long(results[i]), i * i);
        else
            assert_int_equal(mp_result_get(results[i], NULL, 0), MP_ECANCELLED);
        mp_result_free(results[i]);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mp_result_successful(blockers[i]), 1);
        mp_result_free(blockers[i]);
    }
    mp_pool_free(pool);
}

/* ---- waiting for several ---- */

static void wait_any_finds_the_one_that_is_ready(void **state)
{
    mp_pool *pool = make_pool(.processes = 3);
    mp_connection *gates[3];
    mp_result *results[4];

    (void)state;
    for (int i = 0; i < 3; i++)
        results[i] = occupy(pool, &gates[i]);
    results[3] = NULL;
    assert_int_equal(mp_pool_wait_any(pool, results, 4, 0), MP_ETIMEDOUT);
    assert_int_equal(mp_pool_wait_any(pool, results, 3, 0.01), MP_ETIMEDOUT);
    mp_connection_free(gates[1]);
    assert_int_equal(mp_pool_wait_any(pool, results, 4, PATIENCE), 1);
    assert_int_equal(mp_pool_wait_any(pool, results, 4, 0), 1);
    mp_result_free(results[1]);
    results[1] = NULL; /* leaves a gap */
    assert_int_equal(mp_pool_wait_any(pool, results, 4, 0), MP_ETIMEDOUT);
    mp_connection_free(gates[2]);
    assert_int_equal(mp_pool_wait_any(pool, results, 4, PATIENCE), 2);
    mp_connection_free(gates[0]);
    assert_int_equal(mp_result_get(results[0], NULL, PATIENCE), 0);
    assert_int_equal(mp_pool_wait_any(pool, results, 4, 0), 0);
    mp_result_free(results[0]);
    mp_result_free(results[2]);
    mp_pool_free(pool);
}

static void wait_any_wants_results_of_its_pool(void **state)
{
    mp_pool *pool = make_pool(.processes = 1), *other = make_pool(.processes = 1);
    mp_result *result = start_square(other, 1), *none[2] = { NULL, NULL };

    (void)state;
    assert_int_equal(mp_pool_wait_any(pool, &result, 0, MP_FOREVER), MP_EINVAL);
    assert_int_equal(mp_pool_wait_any(pool, NULL, 0, MP_FOREVER), MP_EINVAL);
    assert_int_equal(mp_pool_wait_any(pool, none, 2, MP_FOREVER), MP_EINVAL);
    assert_int_equal(mp_pool_wait_any(pool, &result, 1, MP_FOREVER), MP_EINVAL);
    assert_int_equal(mp_pool_wait_any(other, &result, 1, PATIENCE), 0);
    mp_result_free(result);
    mp_pool_free(other);
    mp_pool_free(pool);
}

static void the_descriptor_is_readable_when_a_result_is_news(void **state)
{
    enum { N = 20 };
    mp_pool *pool = make_pool(.processes = 2);
    int fd = mp_pool_fileno(pool), left = N;
    mp_result *results[N];
    long sum = 0;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(mp_pool_fileno(pool), fd);
    assert_int_equal(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0), 0);
    for (int i = 0; i < N; i++)
        results[i] = start_square(pool, i);
    while (left) { /* an event loop */
        struct pollfd one = { .fd = fd, .events = POLLIN };
        int at;

        assert_int_equal(poll(&one, 1, (int)PATIENCE * 1000), 1);
        while (left && (at = mp_pool_wait_any(pool, results, N, 0)) >= 0) {
            sum += get_long(results[at]);
            mp_result_free(results[at]);
            results[at] = NULL;
            left--;
        }
    }
    assert_int_equal(sum, 2470);
    mp_pool_free(pool);
}

/* ---- callbacks ---- */

typedef struct {
    mp_pool *pool;
    mp_result *other;
    atomic_int calls, errors;
    int code, ready;
    long value;
} note;

static void count_call(mp_result *result, void *user)
{
    note *n = user;

    n->ready = mp_result_ready(result) && mp_result_successful(result) >= 0;
    n->code = mp_result_error(result)->code;
    n->calls++;
}

static void count_error(mp_result *result, void *user)
{
    note *n = user;

    n->code = mp_result_error(result)->code;
    n->errors++;
}

static void exactly_one_callback_runs_before_the_result_is_ready(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    note n = { .code = 77 };
    mp_result *result = mp_pool_apply_async(pool, square, MP_ARGS(2), .callback = count_call,
        .error_callback = count_error, .user = &n);

    (void)state;
    assert_int_equal(get_long(result), 4);
    assert_true(n.calls == 1 && n.errors == 0 && n.code == 0 && n.ready);
    mp_result_free(result);

    result = mp_pool_apply_async(pool, refuse, MP_ARGS(2), .callback = count_call,
        .error_callback = count_error, .user = &n);
    assert_int_equal(mp_result_get(result, NULL, PATIENCE), MP_ERAISED);
    assert_true(n.calls == 1 && n.errors == 1 && n.code == MP_ERAISED);
    mp_result_free(result);
    mp_pool_free(pool);
}

static long sum_of_output;

static void sum_output(mp_result *result, void *user)
{
    (void)result;
    sum_of_output = 0;
    for (int i = 0; i < 50; i++)
        sum_of_output += ((long *)user)[i];
}

static void the_callback_of_a_map_finds_the_whole_output(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    long in[50], out[50];
    note n = { .code = 0 };
    mp_result *map;

    (void)state;
    for (int i = 0; i < 50; i++)
        in[i] = i;
    map = mp_pool_map_async(
        pool, square, MP_ITEMS(in, 50), MP_ITEMS(out, 50), .callback = sum_output, .user = out);
    assert_int_equal(mp_result_get(map, NULL, PATIENCE), 0);
    assert_int_equal(sum_of_output, 40425);
    mp_result_free(map);

    map = mp_pool_map_async(pool, refuse_odd, MP_ITEMS(in, 50), .callback = count_call,
        .error_callback = count_error, .user = &n);
    assert_int_equal(mp_result_get(map, NULL, PATIENCE), MP_ERAISED);
    assert_true(n.calls == 0 && n.errors == 1);
    mp_result_free(map);

    map = mp_pool_map_async(pool, square, MP_ITEMS(in, 0), .callback = count_call, .user = &n);
    assert_int_equal(mp_result_get(map, NULL, PATIENCE), 0);
    assert_int_equal(n.calls, 1);
    mp_result_free(map);
    mp_pool_free(pool);
}

static void callbacks_run_while_nobody_waits(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    note n = { .code = 0 };

    (void)state;
    mp_result_free(
        mp_pool_apply_async(pool, square, MP_ARGS(1), .callback = count_call, .user = &n));
    while (!n.calls)
        (void)sched_yield();
    mp_pool_free(pool);
}

static void callbacks_of_cancelled_and_terminated_tasks_are_told(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    note cancelled = { .code = 0 }, terminated = { .code = 0 };
    mp_connection *gate;
    mp_result *first = occupy(pool, &gate), *second, *third;

    (void)state;
    second = mp_pool_apply_async(
        pool, square, MP_ARGS(1), .error_callback = count_error, .user = &cancelled);
    third = mp_pool_apply_async(
        pool, square, MP_ARGS(1), .error_callback = count_error, .user = &terminated);
    assert_int_equal(mp_result_cancel(second), 0);
    assert_int_equal(mp_result_wait(second, PATIENCE), 0);
    assert_true(cancelled.errors == 1 && cancelled.code == MP_ECANCELLED);
    assert_int_equal(mp_pool_terminate(pool), 0);
    assert_true(terminated.errors == 1 && terminated.code == MP_ETERMINATED);
    mp_connection_free(gate);
    mp_result_free(first);
    mp_result_free(second);
    mp_result_free(third);
    mp_pool_free(pool);
}

/* Uses the pool in all ways that do not wait for the callback itself. */
static void use_pool(mp_result *result, void *user)
{
    long in[] = { 1, 2, 3 }, out[3] = { 0 };
    mp_message message = MP_MESSAGE_INIT;
    note *n = user;
    mp_result *more = mp_pool_apply_async(n->pool, square, MP_ARGS(6));
    mp_imap *imap = mp_pool_imap(n->pool, square, MP_ITEMS(in, 3));
    long x = 0;

    (void)result;
    if (mp_result_get(more, &message, PATIENCE) == 0 && mp_unpack(&message, &x) == 0)
        n->value += x;
    if (mp_pool_apply(n->pool, square, MP_ARGS(1), &message) == 0 && mp_unpack(&message, &x) == 0)
        n->value += x;
    if (mp_pool_map(n->pool, square, MP_ITEMS(in, 3), MP_ITEMS(out, 3)) == 0)
        n->value += out[0] + out[1] + out[2];
    while (imap && mp_imap_next(imap, &message, PATIENCE) == 0)
        n->value += 1000;
    mp_imap_free(imap);
    mp_result_free(more);
    mp_message_clear(&message);
    n->calls++;
}

static void a_callback_may_use_the_pool(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    note n = { .pool = pool };
    mp_result *result =
        mp_pool_apply_async(pool, square, MP_ARGS(2), .callback = use_pool, .user = &n);

    (void)state;
    assert_int_equal(get_long(result), 4);
    assert_int_equal(n.value, 36 + 1 + 14 + 3000);
    mp_result_free(result);

    n = (note){ .pool = pool }; /* now while nobody waits */
    result = mp_pool_apply_async(pool, square, MP_ARGS(2), .callback = use_pool, .user = &n);
    while (!n.calls)
        (void)sched_yield();
    assert_int_equal(n.value, 36 + 1 + 14 + 3000);
    mp_result_free(result);
    mp_pool_free(pool);
}

/* Each starts the next: a chain. */
static void start_next(mp_result *result, void *user)
{
    note *n = user;

    mp_result_free(result);
    if (++n->value < 100 &&
        !mp_pool_apply_async(n->pool, square, MP_ARGS(n->value), .callback = start_next, .user = n))
        n->errors++;
    if (n->value == 100)
        n->calls = 1;
}

static void a_callback_may_start_the_next_task(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    note n = { .pool = pool };

    (void)state;
    assert_non_null(
        mp_pool_apply_async(pool, square, MP_ARGS(0), .callback = start_next, .user = &n));
    while (!n.calls)
        (void)sched_yield();
    assert_int_equal(n.errors, 0);
    assert_int_equal(n.value, 100);
    mp_pool_free(pool);
}

/* What a callback may do with the result it is about. */
static void use_the_answer(mp_result *result, void *user)
{
    note *n = user;
    mp_message message = MP_MESSAGE_INIT;
    mp_result *both[] = { NULL, result };
    long answer = 0;

    n->value += mp_result_ready(result) && mp_result_successful(result) == 1;
    n->value += mp_result_wait(result, MP_FOREVER) == 0;
    n->value += mp_result_get(result, &message, MP_FOREVER) == 0 &&
                mp_unpack(&message, &answer) == 0 && answer == 4;
    n->value += mp_pool_wait_any(n->pool, both, 2, MP_FOREVER) == 1;
    n->value += mp_result_cancel(result) == MP_EALREADY;
    n->value += mp_pool_join(n->pool, MP_FOREVER) == MP_ERUNNING;
    n->value += mp_pool_close(n->pool) == 0;
    n->value += mp_pool_join(n->pool, MP_FOREVER) == MP_EDEADLOCK;
    mp_message_clear(&message);
    n->calls++;
}

static void a_callback_has_the_answer_and_cannot_join(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    note n = { .pool = pool };
    mp_result *result =
        mp_pool_apply_async(pool, square, MP_ARGS(2), .callback = use_the_answer, .user = &n);

    (void)state;
    assert_int_equal(get_long(result), 4);
    assert_int_equal(n.value, 8);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    mp_result_free(result);
    mp_pool_free(pool);
}

/* Waits for the other, whose callback waits for this one. */
static void wait_for_other(mp_result *result, void *user)
{
    note *n = user;

    (void)result;
    n->errors += mp_result_wait(n->other, PATIENCE) != 0;
    n->calls++;
}

static void two_callbacks_may_wait_for_each_other(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    note a = { .pool = pool }, b = { .pool = pool };
    mp_connection *gate;
    mp_result *blocker = occupy(pool, &gate), *first, *second;

    (void)state;
    first = mp_pool_apply_async(pool, square, MP_ARGS(2), .callback = wait_for_other, .user = &a);
    second = mp_pool_apply_async(pool, square, MP_ARGS(3), .callback = wait_for_other, .user = &b);
    a.other = second;
    b.other = first;
    assert_false(mp_result_ready(blocker)); /* takes the lock: the notes are written before */
    mp_connection_free(gate);
    assert_int_equal(get_long(first), 4);
    assert_int_equal(get_long(second), 9);
    assert_true(a.calls == 1 && b.calls == 1);
    assert_int_equal(a.errors + b.errors, 0);
    mp_result_free(blocker);
    mp_result_free(first);
    mp_result_free(second);
    mp_pool_free(pool);
}

enum { CALLBACKS = 2000, CHAIN = 300 };

static int depth, deepest;

static void use_the_pool(mp_result *result, void *user)
{
    note *n = user;

    (void)result;
    if (++depth > deepest)
        deepest = depth;
    n->errors += mp_pool_apply(n->pool, square, MP_ARGS(3), NULL) != 0;
    n->calls++;
    depth--;
}

/* While one waits others could be called, each of which waits... The stack is not endless. */
static void callbacks_that_wait_do_not_nest_without_end(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    note n = { .pool = pool };
    mp_result *results[CALLBACKS];

    (void)state;
    depth = deepest = 0;
    for (int i = 0; i < CALLBACKS; i++)
        results[i] =
            mp_pool_apply_async(pool, square, MP_ARGS(2), .callback = use_the_pool, .user = &n);
    for (int i = 0; i < CALLBACKS; i++) {
        assert_int_equal(mp_result_get(results[i], NULL, PATIENCE), 0);
        mp_result_free(results[i]);
    }
    assert_int_equal(n.calls, CALLBACKS);
    assert_int_equal(n.errors, 0);
    assert_true(deepest < 500);
    mp_pool_free(pool);
}

/* What a callback waits for is called at any depth. */
static void callbacks_may_wait_for_each_other_in_a_long_row(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    note notes[CHAIN];
    mp_connection *gate;
    mp_result *blocker = occupy(pool, &gate), *results[CHAIN];

    (void)state;
    for (int i = 0; i < CHAIN; i++) {
        notes[i] = (note){ .pool = pool };
        results[i] = mp_pool_apply_async(
            pool, square, MP_ARGS(i), .callback = wait_for_other, .user = &notes[i]);
    }
    for (int i = 0; i < CHAIN; i++)
        notes[i].other = results[i + 1 < CHAIN ? i + 1 : i];
    assert_false(mp_result_ready(blocker)); /* takes the lock: the notes are written before */
    mp_connection_free(gate);
    for (int i = 0; i < CHAIN; i++)
        assert_int_equal(mp_result_wait(results[i], PATIENCE), 0);
    for (int i = 0; i < CHAIN; i++) {
        assert_true(notes[i].calls == 1 && notes[i].errors == 0);
        mp_result_free(results[i]);
    }
    mp_result_free(blocker);
    mp_pool_free(pool);
}

static void terminate_it(mp_result *result, void *user)
{
    note *n = user;

    (void)result;
    n->code = mp_pool_terminate(n->pool);
    n->value = mp_pool_apply(n->pool, square, MP_ARGS(1));
    n->calls++;
}

static void a_callback_may_terminate_the_pool(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    note n = { .pool = pool, .code = 77 };
    mp_connection *gate;
    mp_result *blocker = occupy(pool, &gate), *result;

    (void)state;
    result = mp_pool_apply_async(pool, square, MP_ARGS(2), .callback = terminate_it, .user = &n);
    assert_int_equal(get_long(result), 4);
    assert_true(n.calls == 1 && n.code == 0 && n.value == MP_ECLOSED);
    assert_int_equal(mp_result_get(blocker, NULL, PATIENCE), MP_ETERMINATED);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    mp_connection_free(gate);
    mp_result_free(blocker);
    mp_result_free(result);
    mp_pool_free(pool);
}

static void free_pool(mp_result *result, void *user)
{
    note *n = user;

    (void)result;
    mp_pool_free(n->pool);
    n->calls++;
}

static void free_both(mp_result *result, void *user)
{
    mp_result_free(result);
    free_pool(NULL, user);
}

/*
 * What is left of such a pool is let go some time after its callback, by whichever
 * thread is last. The server of forkserver is made before we count.
 */
static int count_before_pool(void)
{
    assert_int_equal(finish(start_process()), 0);
    return count_descriptors();
}

static void await_descriptors(int count)
{
    while (count_descriptors() > count)
        (void)sched_yield();
}

static void a_callback_may_free_the_pool(void **state)
{
    int before = count_before_pool();
    mp_pool *pool = make_pool(.processes = 2);
    note n = { .pool = pool };

    (void)state;
    assert_non_null(
        mp_pool_apply_async(pool, square, MP_ARGS(2), .callback = free_both, .user = &n));
    while (!n.calls)
        (void)sched_yield();
    await_descriptors(before);
}

/* The callback may run in get, on this very thread. */
static void a_callback_may_free_the_pool_while_its_result_is_waited_for(void **state)
{
    int before = count_before_pool();
    mp_pool *pool = make_pool(.processes = 2);
    note n = { .pool = pool };
    mp_result *result =
        mp_pool_apply_async(pool, square, MP_ARGS(2), .callback = free_pool, .user = &n);

    (void)state;
    assert_int_equal(get_long(result), 4);
    assert_int_equal(n.calls, 1);
    mp_result_free(result);
    await_descriptors(before);
}

/* ---- threads ---- */

typedef struct {
    mp_pool *pool;
    int seed;
    const char *failure;
} user_thread;

static void *use_from_thread(void *argument)
{
    user_thread *u = argument;
    mp_message message = MP_MESSAGE_INIT;

    for (int round = 0; round < 30 && !u->failure; round++) {
        long in[20], out[20], x;
        mp_result *result;

        for (int i = 0; i < 20; i++)
            in[i] = u->seed * 1000 + round * 20 + i;
        if (mp_pool_map(u->pool, square, MP_ITEMS(in, 20), MP_ITEMS(out, 20)))
            u->failure = "map";
        for (int i = 0; i < 20; i++)
            if (out[i] != in[i] * in[i])
                u->failure = "map: wrong";
        if (mp_pool_apply(u->pool, square, MP_ARGS(in[3]), &message) || mp_unpack(&message, &x) ||
            x != in[3] * in[3])
            u->failure = "apply";
        result = mp_pool_apply_async(u->pool, square, MP_ARGS(in[4]));
        if (!result || mp_result_get(result, &message, PATIENCE) || mp_unpack(&message, &x) ||
            x != in[4] * in[4])
            u->failure = "apply_async";
        mp_result_free(result);
    }
    mp_message_clear(&message);
    return NULL;
}

static void threads_share_a_pool(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    pthread_t threads[4];
    user_thread users[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        users[i] = (user_thread){ pool, i, NULL };
        assert_int_equal(pthread_create(&threads[i], NULL, use_from_thread, &users[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < 4; i++)
        if (users[i].failure)
            fail_msg("thread %d: %s", i, users[i].failure);
    mp_pool_free(pool);
}

static void *wait_for_result(void *result)
{
    return (void *)(intptr_t)mp_result_get(result, NULL, PATIENCE);
}

static void several_threads_wait_for_one_result(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_connection *gate;
    mp_result *result = occupy(pool, &gate);
    pthread_t threads[3];
    void *code;

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wait_for_result, result), 0);
    assert_int_equal(mp_result_get(result, NULL, 0.01), MP_ETIMEDOUT);
    mp_connection_free(gate);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], &code), 0);
        assert_null(code);
    }
    mp_result_free(result);
    mp_pool_free(pool);
}

static void cancelling_from_a_thread_ends_the_wait_of_another(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_connection *gate;
    mp_result *result = occupy(pool, &gate);
    pthread_t thread;
    void *code;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_result, result), 0);
    assert_int_equal(mp_result_cancel(result), 0);
    assert_int_equal(pthread_join(thread, &code), 0);
    assert_int_equal((intptr_t)code, MP_ECANCELLED);
    mp_connection_free(gate);
    mp_result_free(result);
    mp_pool_free(pool);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(a_result_is_got_later_and_again),
    UNDER_EACH(a_result_is_not_ready_while_its_task_runs),
    UNDER_EACH(a_result_becomes_ready_while_nobody_waits),
    UNDER_EACH(a_failed_result_tells_why_each_time),
    UNDER_EACH(a_map_without_waiting_fills_its_output),
    UNDER_EACH(a_map_that_fails_tells_the_first_that_failed),
    UNDER_EACH(a_map_of_nothing_is_ready),
    UNDER_EACH(hundreds_of_tasks_are_answered),
    UNDER_EACH(the_task_of_a_freed_result_goes_on),
    UNDER_EACH(results_outlive_their_pool),
    UNDER_EACH(a_task_that_was_cancelled_before_it_began_never_does),
    UNDER_EACH(a_task_that_is_cancelled_while_it_runs_loses_its_worker),
    UNDER_EACH(a_map_is_cancelled_as_a_whole),
    UNDER_EACH(some_of_many_are_cancelled_and_the_rest_is_done),
    UNDER_EACH(wait_any_finds_the_one_that_is_ready),
    UNDER_EACH(wait_any_wants_results_of_its_pool),
    UNDER_EACH(the_descriptor_is_readable_when_a_result_is_news),
    UNDER_EACH(exactly_one_callback_runs_before_the_result_is_ready),
    UNDER_EACH(the_callback_of_a_map_finds_the_whole_output),
    UNDER_EACH(callbacks_run_while_nobody_waits),
    UNDER_EACH(callbacks_of_cancelled_and_terminated_tasks_are_told),
    UNDER_EACH(a_callback_may_use_the_pool),
    UNDER_EACH(a_callback_may_start_the_next_task),
    UNDER_EACH(a_callback_has_the_answer_and_cannot_join),
    UNDER_EACH(two_callbacks_may_wait_for_each_other),
    UNDER_EACH(callbacks_that_wait_do_not_nest_without_end),
    UNDER_EACH(callbacks_may_wait_for_each_other_in_a_long_row),
    UNDER_EACH(a_callback_may_terminate_the_pool),
    UNDER_EACH(a_callback_may_free_the_pool),
    UNDER_EACH(a_callback_may_free_the_pool_while_its_result_is_waited_for),
    UNDER_EACH(threads_share_a_pool),
    UNDER_EACH(several_threads_wait_for_one_result),
    UNDER_EACH(cancelling_from_a_thread_ends_the_wait_of_another),
};

TESTS_MAIN(tests)
