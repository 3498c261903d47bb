/* SPDX-License-Identifier: MIT
 *
 * test_queues.c - queues: what they hold, how long one waits for it, who can have
 * one, and that memory comes back. Processes that die inside are
 * test_queues_crash.c's business.
 */
#include "support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "queues_ring_internal.h"
#include "reduction_internal.h"

/* ---- helpers ---- */

#define make_queue(...) check_queue(mp_queue_new(__VA_ARGS__))
#define make_joinable_queue(...) check_queue(mp_joinable_queue_new(__VA_ARGS__))

static mp_queue *check_queue(mp_queue *queue)
{
    if (!queue)
        fail_msg("no queue: %s", mp_last_error()->text);
    return queue;
}

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The next item, a number; or -1. */
static long get_number(mp_queue *queue, double timeout)
{
    mp_message message = MP_MESSAGE_INIT;
    long number = -1;

    if (mp_queue_get(queue, &message, timeout) < 0 || mp_unpack(&message, &number) < 0)
        number = -1;
    mp_message_clear(&message);
    return number;
}

static int get_code(mp_queue *queue, double timeout)
{
    mp_message message = MP_MESSAGE_INIT;
    int r = mp_queue_get(queue, &message, timeout);

    mp_message_clear(&message);
    return r;
}

/* ---- _TestQueue ---- */

/* When it is told to: takes six items, then says so. */
static int take_six(mp_call *call)
{
    mp_queue *queue;
    mp_connection *line;
    int r = mp_unpack(call, &queue, &line);
    mp_message message = MP_MESSAGE_INIT;

    if (r == 0)
        r = mp_connection_recv(line, &message);
    for (long i = 1; i <= 6 && r == 0; i++)
        if (get_number(queue, PATIENCE) != i)
            r = -1;
    if (r == 0)
        r = mp_connection_send(line, mp_none());
    mp_message_clear(&message);
    return r != 0;
}

static void check_that_it_is_full(mp_queue *queue)
{
    double begin;

    assert_int_equal(mp_queue_full(queue), 1);
    assert_int_equal(mp_queue_empty(queue), 0);
    assert_int_equal(mp_queue_put_nowait(queue, 7), MP_EFULL);
    assert_int_equal(mp_queue_put(queue, 7, 0), MP_EFULL);
    assert_int_equal(mp_queue_put(queue, 7, -1), MP_EFULL);
    begin = now();
    assert_int_equal(mp_queue_put(queue, 7, 0.1), MP_EFULL);
    assert_true(now() - begin >= 0.1);
}

static void a_bounded_queue_is_full_until_somebody_takes(void **state)
{
    mp_queue *queue = make_queue(.maxsize = 6);
    mp_connection *here, *there;
    mp_message message = MP_MESSAGE_INIT;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = take_six, .args = MP_ARGS(queue, there));
    assert_int_equal(mp_queue_empty(queue), 1);
    assert_int_equal(mp_queue_full(queue), 0);
    assert_int_equal(mp_queue_put(queue, 1, MP_FOREVER), 0);
    assert_int_equal(mp_queue_put(queue, 2, PATIENCE), 0);
    assert_int_equal(mp_queue_put(queue, 3, 0), 0);
    assert_int_equal(mp_queue_put(queue, 4, -1), 0);
    assert_int_equal(mp_queue_put_nowait(queue, 5), 0);
    assert_int_equal(mp_queue_put_nowait(queue, 6), 0);
    check_that_it_is_full(queue);
    assert_int_equal(mp_connection_send(here, mp_none()), 0);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_queue_empty(queue), 1);
    assert_int_equal(mp_queue_full(queue), 0);
    assert_int_equal(finish(p), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_queue_free(queue);
}

static int put_four(mp_call *call)
{
    mp_queue *queue;
    int r = mp_unpack(call, &queue);

    for (int i = 2; i <= 5 && r == 0; i++)
        r = mp_queue_put(queue, i, MP_FOREVER);
    return r != 0;
}

static void items_come_in_order_until_it_is_empty(void **state)
{
    mp_queue *queue = make_queue();
    mp_message message = MP_MESSAGE_INIT;
    mp_process *p;
    double begin;

    (void)state;
    assert_int_equal(mp_queue_empty(queue), 1);
    p = start_process(.target = put_four, .args = MP_ARGS(queue));
    assert_int_equal(get_number(queue, MP_FOREVER), 2);
    assert_int_equal(get_number(queue, PATIENCE), 3);
    assert_int_equal(finish(p), 0);
    assert_int_equal(mp_queue_empty(queue), 0);
    assert_int_equal(get_number(queue, 0), 4);
    assert_int_equal(mp_queue_get_nowait(queue, &message), 0);
    assert_int_equal(message.value.via.i64, 5);
    assert_int_equal(mp_queue_empty(queue), 1);
    assert_int_equal(get_code(queue, 0), MP_EEMPTY);
    assert_int_equal(get_code(queue, -1), MP_EEMPTY);
    assert_int_equal(mp_queue_get_nowait(queue, &message), MP_EEMPTY);
    begin = now();
    assert_int_equal(get_code(queue, 0.1), MP_EEMPTY);
    assert_true(now() - begin >= 0.1);
    mp_message_clear(&message);
    mp_queue_free(queue);
}

static int put_ten_more(mp_call *call)
{
    mp_queue *queue;
    int r = mp_unpack(call, &queue);

    for (int i = 10; i < 20 && r == 0; i++)
        r = mp_queue_put(queue, i, MP_FOREVER);
    return r != 0;
}

static void what_was_put_before_a_child_started_comes_once(void **state)
{
    mp_queue *queue = make_queue();
    mp_process *p;

    (void)state;
    for (int i = 0; i < 10; i++)
        assert_int_equal(mp_queue_put(queue, i, MP_FOREVER), 0);
    p = start_process(.target = put_ten_more, .args = MP_ARGS(queue));
    for (int i = 0; i < 20; i++)
        assert_int_equal(get_number(queue, PATIENCE), i);
    assert_int_equal(get_code(queue, 0), MP_EEMPTY);
    assert_int_equal(finish(p), 0);
    mp_queue_free(queue);
}

static void qsize_follows_put_and_get(void **state)
{
    mp_queue *queue = make_queue();

    (void)state;
    assert_int_equal(mp_queue_qsize(queue), 0);
    assert_int_equal(mp_queue_put(queue, 1, MP_FOREVER), 0);
    assert_int_equal(mp_queue_qsize(queue), 1);
    assert_int_equal(mp_queue_put(queue, 5, MP_FOREVER), 0);
    assert_int_equal(mp_queue_qsize(queue), 2);
    assert_int_equal(get_number(queue, 0), 1);
    assert_int_equal(mp_queue_qsize(queue), 1);
    assert_int_equal(get_number(queue, 0), 5);
    assert_int_equal(mp_queue_qsize(queue), 0);
    assert_int_equal(mp_queue_full(queue), 0);
    mp_queue_free(queue);
}

/* Takes items until none; a number negative ends it. */
static int work_off(mp_call *call)
{
    mp_queue *queue;
    int r = mp_unpack(call, &queue);

    while (r == 0 && get_number(queue, PATIENCE) >= 0)
        r = mp_queue_task_done(queue);
    return r != 0;
}

static void join_returns_when_every_item_is_done(void **state)
{
    mp_queue *queue = make_joinable_queue();
    mp_process *workers[4];

    (void)state;
    for (int i = 0; i < 4; i++)
        workers[i] = start_process(.target = work_off, .args = MP_ARGS(queue));
    assert_int_equal(mp_queue_join(queue, 0), 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(mp_queue_put(queue, i, MP_FOREVER), 0);
    assert_int_equal(mp_queue_join(queue, MP_FOREVER), 0);
    assert_int_equal(mp_queue_qsize(queue), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(mp_queue_put(queue, "no number", MP_FOREVER), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(finish(workers[i]), 0);
    assert_int_equal(mp_queue_join(queue, 0.01), MP_ETIMEDOUT); /* the four ends */
    for (int i = 0; i < 4; i++)
        assert_int_equal(mp_queue_task_done(queue), 0);
    assert_int_equal(mp_queue_join(queue, 0), 0);
    assert_int_equal(mp_queue_task_done(queue), MP_EINVAL);
    mp_queue_free(queue);
}

static void only_a_joinable_queue_counts_tasks(void **state)
{
    mp_queue *queue = make_queue();

    (void)state;
    assert_int_equal(mp_queue_task_done(queue), MP_EINVAL);
    assert_int_equal(mp_queue_join(queue, 0), MP_EINVAL);
    mp_queue_free(queue);
}

static void a_timeout_is_not_over_early(void **state)
{
    mp_queue *queue = make_queue(.maxsize = 1);
    double begin = now();

    (void)state;
    assert_int_equal(get_code(queue, 0.2), MP_EEMPTY);
    assert_true(now() - begin >= 0.19);
    assert_int_equal(mp_queue_put(queue, 1, 0), 0);
    begin = now();
    assert_int_equal(mp_queue_put(queue, 2, 0.2), MP_EFULL);
    assert_true(now() - begin >= 0.19);
    mp_queue_free(queue);
}

static void what_cannot_be_packed_is_an_error_of_put(void **state)
{
    mp_queue *queue = make_queue(.maxsize = 1);
    msgpack_object lists[40];

    (void)state;
    lists[0] = mp_none();
    for (int i = 1; i < 40; i++) {
        lists[i].type = MSGPACK_OBJECT_ARRAY;
        lists[i].via.array.size = 1;
        lists[i].via.array.ptr = &lists[i - 1];
    }
    assert_int_equal(mp_queue_put(queue, (void *)&queue, MP_FOREVER), MP_ETYPE);
    assert_int_equal(mp_queue_put(queue, lists[39], MP_FOREVER), MP_ETOODEEP);
    assert_int_equal(mp_queue_qsize(queue), 0);
    assert_int_equal(mp_queue_full(queue), 0); /* it took no place */
    assert_int_equal(mp_queue_put(queue, 42, 0), 0);
    assert_int_equal(mp_queue_full(queue), 1);
    assert_int_equal(get_number(queue, 0), 42);
    mp_queue_free(queue);
}

static void check_that_it_is_closed(mp_queue *queue)
{
    mp_message message = MP_MESSAGE_INIT;

    assert_true(mp_queue_closed(queue));
    assert_int_equal(mp_queue_put(queue, 1, MP_FOREVER), MP_ECLOSED);
    assert_int_equal(mp_queue_put_nowait(queue, 1), MP_ECLOSED);
    assert_int_equal(mp_queue_get(queue, &message, MP_FOREVER), MP_ECLOSED);
    assert_int_equal(mp_queue_get_nowait(queue, &message), MP_ECLOSED);
    assert_int_equal(mp_queue_empty(queue), MP_ECLOSED);
    assert_int_equal(mp_queue_full(queue), MP_ECLOSED);
    assert_int_equal(mp_queue_qsize(queue), MP_ECLOSED);
    assert_int_equal(mp_queue_join(queue, 0), MP_ECLOSED);
    assert_int_equal(mp_queue_task_done(queue), MP_ECLOSED);
    assert_int_equal(mp_wait(&(mp_wait_item){ .queue = queue }, 1, 0), MP_ECLOSED);
    assert_null(mp_process_new(.target = work_off, .args = MP_ARGS(queue)));
    assert_int_equal(mp_last_error()->code, MP_ECLOSED);
    mp_message_clear(&message);
}

static void a_closed_queue_refuses_everything(void **state)
{
    int before = count_descriptors();
    mp_queue *queues[] = { make_queue(), make_joinable_queue(), mp_simple_queue_new() };

    (void)state;
    assert_int_equal(mp_queue_put(queues[0], 1, 0), 0); /* used or not */
    for (int i = 0; i < 3; i++) {
        mp_queue_close(queues[i]);
        check_that_it_is_closed(queues[i]);
        mp_queue_close(queues[i]); /* again: nothing */
        check_that_it_is_closed(queues[i]);
    }
    assert_int_equal(count_descriptors(), before);
    for (int i = 0; i < 3; i++)
        mp_queue_free(queues[i]);
}

static void null_is_no_queue(void **state)
{
    mp_queue *none = NULL, *queue = make_queue();
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    mp_queue_free(NULL);
    mp_queue_close(NULL);
    assert_null(mp_queue_keep(NULL));
    assert_int_equal(mp_queue_put(none, 1, 0), MP_EINVAL);
    assert_int_equal(mp_queue_get(none, &message, 0), MP_EINVAL);
    assert_int_equal(mp_queue_get(queue, NULL, 0), MP_EINVAL);
    assert_int_equal(mp_queue_qsize(none), MP_EINVAL);
    mp_queue_free(queue);
}

/* ---- TestSimpleQueue ---- */

/* Puts two items once the parent saw it empty; the parent sees when. */
static int put_when_told(mp_call *call)
{
    mp_queue *queue;
    mp_connection *line;
    mp_message message = MP_MESSAGE_INIT;
    int r = mp_unpack(call, &queue, &line);

    if (r == 0)
        r = mp_connection_recv(line, &message);
    for (int i = 0; i < 2 && r == 0; i++)
        r = mp_queue_put(queue, i == 0, MP_FOREVER);
    if (r == 0)
        r = mp_connection_send(line, mp_none());
    mp_message_clear(&message);
    return r != 0;
}

static void a_simple_queue_is_empty_or_not_for_all(void **state)
{
    mp_queue *queue = check_queue(mp_simple_queue_new());
    mp_connection *here, *there;
    mp_message message = MP_MESSAGE_INIT;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = put_when_told, .args = MP_ARGS(queue, there));
    assert_int_equal(mp_queue_empty(queue), 1);
    assert_int_equal(mp_connection_send(here, mp_none()), 0);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_queue_empty(queue), 0);
    assert_int_equal(get_number(queue, MP_FOREVER), 1);
    assert_int_equal(get_number(queue, MP_FOREVER), 0);
    assert_int_equal(mp_queue_empty(queue), 1);
    assert_int_equal(finish(p), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_queue_free(queue);
}

/* ---- nothing is lost, nobody is held up ---- */

static int put_a_hundred(mp_call *call)
{
    mp_queue *queue;
    int first, r = mp_unpack(call, &queue, &first);

    for (int i = 0; i < 100 && r == 0; i++)
        r = mp_queue_put(queue, first + i, 0);
    return r != 0;
}

static void items_outlive_the_process_that_put_them(void **state)
{
    mp_queue *queue = make_queue();

    (void)state;
    assert_int_equal(finish(start_process(.target = put_a_hundred, .args = MP_ARGS(queue, 0))), 0);
    assert_int_equal(
        finish(start_process(.target = put_a_hundred, .args = MP_ARGS(queue, 100))), 0);
    for (int i = 0; i < 200; i++)
        assert_int_equal(get_number(queue, 0), i);
    mp_queue_free(queue);
}

#define KEPT 8600000 /* bytes at most that a queue keeps for what is to come, on any system */

/* 60 MB that nobody reads, in items of many sizes; then they come back, and the memory goes. */
static void put_never_blocks_and_memory_comes_back(void **state)
{
    enum { ITEMS = 20000, LONGEST = 6000 };
    mp_queue *queue = make_queue();
    mp_message message = MP_MESSAGE_INIT;
    static char bytes[LONGEST];
    mp_bytes_view view;
    int number;

    (void)state;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < ITEMS; i++) {
            memset(bytes, i & 0xff, sizeof(bytes));
            assert_int_equal(
                mp_queue_put(queue, mp_list(i, mp_bytes(bytes, (size_t)(i * 7 % LONGEST))), 0), 0);
        }
        assert_true(count_nameless_memory() > 50000000);
        assert_int_equal(mp_queue_qsize(queue), ITEMS);
        for (int i = 0; i < ITEMS; i++) {
            assert_int_equal(mp_queue_get(queue, &message, 0), 0);
            assert_int_equal(mp_unpack(&message, &number, &view), 0);
            assert_int_equal(number, i);
            assert_int_equal(view.size, i * 7 % LONGEST);
            memset(bytes, i & 0xff, sizeof(bytes));
            assert_memory_equal(view.data, bytes, view.size);
            if (i == ITEMS - 2)
                assert_true(count_nameless_memory() < KEPT); /* before the last one, too */
        }
        assert_true(count_nameless_memory() < KEPT);
    }
    mp_message_clear(&message);
    mp_queue_free(queue);
}

/* Items of lengths that meet the end of the ring in every way. */
static void items_wrap_at_the_end_of_the_ring(void **state)
{
    mp_queue *queue = make_queue();
    mp_message message = MP_MESSAGE_INIT;
    static char bytes[70000];
    mp_bytes_view view;

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * 31 >> 3);
    for (size_t i = 0; i < 3000; i++) {
        size_t size = i * i * 13 % (i % 100 == 99 ? sizeof(bytes) : 3000);

        assert_int_equal(mp_queue_put(queue, mp_bytes(bytes, size), 0), 0);
        assert_int_equal(mp_queue_put(queue, mp_bytes(bytes + 1, 1), 0), 0);
        for (int j = 0; j < 2; j++) {
            assert_int_equal(mp_queue_get(queue, &message, 0), 0);
            assert_int_equal(mp_unpack(&message, &view), 0);
            assert_int_equal(view.size, j ? 1 : size);
            assert_memory_equal(view.data, bytes + j, view.size);
        }
    }
    mp_message_clear(&message);
    mp_queue_free(queue);
}

/* ---- many at a time ---- */

enum { SIDE = 4 };

static int produce(mp_call *call)
{
    static const char padding[300];
    mp_queue *queue;
    int me, count, r = mp_unpack(call, &queue, &me, &count);

    for (int i = 0; i < count && r == 0; i++) {
        if (i % 50 == 0)
            r = mp_queue_put(queue, mp_list(me, i, mp_bytes(padding, (size_t)(i % 299))), PATIENCE);
        else
            r = mp_queue_put(queue, mp_list(me, i, mp_none()), PATIENCE);
    }
    return r != 0;
}

/* Reports how many items it had, and their sum; those of one producer must come in order. */
static int consume(mp_call *call)
{
    mp_queue *queue, *results;
    mp_message message = MP_MESSAGE_INIT;
    int last[SIDE] = { -1, -1, -1, -1 }, producer, number;
    long long count = 0, sum = 0;
    int r = mp_unpack(call, &queue, &results);

    while (r == 0 && (r = mp_queue_get(queue, &message, PATIENCE)) == 0) {
        r = mp_unpack(&message, &producer, &number, NULL);
        if (r < 0 || producer < 0)
            break;
        if (number <= last[producer])
            return 98;
        last[producer] = number;
        count++;
        sum += (long long)number * (producer + 1);
    }
    if (r == 0)
        r = mp_queue_put(results, mp_list(count, sum), 0);
    mp_message_clear(&message);
    return r != 0;
}

/* So many items from each producer; the sums must agree. */
static void check_traffic(mp_queue *queue, int each)
{
    mp_process *producers[SIDE], *consumers[SIDE];
    mp_queue *results = make_queue();
    mp_message message = MP_MESSAGE_INIT;
    long long count = 0, sum = 0, expected = 0, c, s;

    for (int i = 0; i < SIDE; i++) {
        consumers[i] = start_process(.target = consume, .args = MP_ARGS(queue, results));
        producers[i] = start_process(.target = produce, .args = MP_ARGS(queue, i, each));
        expected += (long long)each * (each - 1) / 2 * (i + 1);
    }
    for (int i = 0; i < SIDE; i++)
        assert_int_equal(finish(producers[i]), 0);
    for (int i = 0; i < SIDE; i++)
        assert_int_equal(mp_queue_put(queue, mp_list(-1, 0, mp_none()), PATIENCE), 0);
    for (int i = 0; i < SIDE; i++)
        assert_int_equal(finish(consumers[i]), 0);
    for (int i = 0; i < SIDE; i++) {
        assert_int_equal(mp_queue_get(results, &message, 0), 0);
        assert_int_equal(mp_unpack(&message, &c, &s), 0);
        count += c;
        sum += s;
    }
    assert_int_equal(count, (long long)SIDE * each);
    assert_int_equal(sum, expected);
    assert_int_equal(mp_queue_qsize(queue), 0);
    mp_message_clear(&message);
    mp_queue_free(results);
}

/* 8 processes, 100,000 operations each: fewer where every instruction is watched. */
#define MANY (HAS_ASAN || HAS_TSAN ? 10000 : 100000)

static void several_producers_and_consumers_lose_nothing(void **state)
{
    mp_queue *queue = make_queue();

    (void)state;
    check_traffic(queue, MANY);
    assert_true(count_nameless_memory() < KEPT);
    mp_queue_free(queue);
}

static void a_small_bound_holds_up_nobody_for_ever(void **state)
{
    static const long sizes[] = { 1, 3, 100 };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        mp_queue *queue = make_queue(.maxsize = sizes[i]);

        check_traffic(queue, MANY / 50);
        mp_queue_free(queue);
    }
}

typedef struct thread_work {
    mp_queue *queue;
    _Atomic long long sum;
    int failed;
} thread_work;

static void *put_from_thread(void *argument)
{
    thread_work *w = argument;

    for (int i = 1; i <= 2000; i++)
        if (mp_queue_put(w->queue, i, PATIENCE) < 0)
            w->failed = 1;
    return NULL;
}

static void *get_from_thread(void *argument)
{
    thread_work *w = argument;
    long number;

    while ((number = get_number(w->queue, PATIENCE)) > 0)
        atomic_fetch_add(&w->sum, number);
    return NULL;
}

static void threads_may_share_a_queue(void **state)
{
    static const long sizes[] = { 0, 5 };

    (void)state;
    for (int k = 0; k < 2; k++) {
        thread_work work = { make_queue(.maxsize = sizes[k]), 0, 0 };
        pthread_t putters[2], getters[2];

        for (int i = 0; i < 2; i++) {
            assert_int_equal(pthread_create(&getters[i], NULL, get_from_thread, &work), 0);
            assert_int_equal(pthread_create(&putters[i], NULL, put_from_thread, &work), 0);
        }
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_join(putters[i], NULL), 0);
        for (int i = 0; i < 2; i++)
            assert_int_equal(mp_queue_put(work.queue, 0, PATIENCE), 0);
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_join(getters[i], NULL), 0);
        assert_int_equal(work.failed, 0);
        assert_int_equal(atomic_load(&work.sum), 2 * 2000 * 2001 / 2);
        mp_queue_free(work.queue);
    }
}

/* ---- mp_wait ---- */

static int put_one(mp_call *call)
{
    mp_queue *queue;

    return mp_unpack(call, &queue) || mp_queue_put(queue, 7, MP_FOREVER);
}

static void mp_wait_sees_an_item_among_other_things(void **state)
{
    mp_queue *queue = make_queue(), *other = make_queue();
    mp_connection *here, *there;
    mp_message message = MP_MESSAGE_INIT;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    for (int i = 0; i < 3; i++) {
        mp_wait_item items[] = { MP_WAIT(here), MP_WAIT(queue), MP_WAIT(other) };

        assert_int_equal(mp_wait(items, 3, 0), 0);
        assert_int_equal(mp_wait(items, 3, 0.01), 0);
        p = start_process(.target = put_one, .args = MP_ARGS(queue));
        assert_int_equal(mp_wait(items, 3, PATIENCE), 1);
        assert_true(!items[0].ready && items[1].ready && !items[2].ready);
        assert_int_equal(mp_wait(items, 3, MP_FOREVER), 1); /* it is still there */
        assert_int_equal(get_number(queue, 0), 7);
        assert_int_equal(mp_wait(items, 3, 0.01), 0); /* not any more */
        assert_int_equal(finish(p), 0);
        assert_int_equal(mp_connection_send(there, 1), 0);
        assert_int_equal(mp_wait(items, 3, PATIENCE), 1);
        assert_true(items[0].ready && !items[1].ready && !items[2].ready);
        assert_int_equal(get_code(queue, 0), MP_EEMPTY);
        assert_int_equal(mp_connection_recv(here, &message), 0);
        if (i == 2)
            break;
        assert_int_equal(mp_connection_send(there, 1), 0);
        assert_int_equal(mp_queue_put(other, 1, 0), 0);
        assert_int_equal(mp_wait(items, 3, PATIENCE), 2);
        assert_int_equal(get_number(other, 0), 1);
        assert_int_equal(mp_connection_recv(here, &message), 0);
    }
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_queue_free(queue);
    mp_queue_free(other);
}

/* Takes whatever it can get of what mp_wait announces; answers how many. */
static int take_by_polling(mp_call *call)
{
    mp_queue *queue, *results;
    int r = mp_unpack(call, &queue, &results);
    long number = 0;
    int count = 0;

    while (r >= 0 && number != -2) {
        mp_wait_item item = MP_WAIT(queue);

        r = mp_wait(&item, 1, PATIENCE);
        if (r == 0)
            return 97;
        number = get_number(queue, 0);
        count += number >= 0;
        if (number == 0) { /* the end: for the next one, too */
            count--;
            number = mp_queue_put(queue, 0, 0) == 0 ? -2 : -3;
        }
    }
    return r < 0 || mp_queue_put(results, count, 0);
}

static void several_may_poll_one_queue(void **state)
{
    enum { ITEMS = 2000 };
    mp_queue *queue = make_queue(), *results = make_queue();
    mp_process *pollers[3];
    long sum = 0;

    (void)state;
    for (int i = 0; i < 3; i++)
        pollers[i] = start_process(.target = take_by_polling, .args = MP_ARGS(queue, results));
    for (int i = 1; i <= ITEMS; i++)
        assert_int_equal(mp_queue_put(queue, i, 0), 0);
    assert_int_equal(mp_queue_put(queue, 0, 0), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(finish(pollers[i]), 0);
    for (int i = 0; i < 3; i++)
        sum += get_number(results, 0);
    assert_int_equal(sum, ITEMS);
    mp_queue_free(queue);
    mp_queue_free(results);
}

/* ---- handles ---- */

/* For each connection that comes, sends it the number that came along; NULL ends it. */
static int answer_on_each(mp_call *call)
{
    mp_queue *queue;
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line = NULL;
    int number, r = mp_unpack(call, &queue);

    do {
        if (r == 0)
            r = mp_queue_get(queue, &message, PATIENCE);
        if (r == 0)
            r = mp_unpack(&message, &number, &line);
        if (r == 0 && line)
            r = mp_connection_send(line, number);
    } while (r == 0 && line);
    mp_message_clear(&message);
    return r != 0;
}

static void connections_travel_as_items(void **state)
{
    enum { LINES = 50 };
    mp_queue *queue = make_queue();
    mp_connection *lines[LINES], *none = NULL;
    mp_message message = MP_MESSAGE_INIT;
    mp_process *p;
    int number;

    (void)state;
    for (int i = 0; i < LINES; i++) {
        mp_connection *there;

        assert_int_equal(mp_pipe(&lines[i], &there), 0);
        assert_int_equal(mp_queue_put(queue, mp_list(i, there), 0), 0);
        mp_connection_free(there); /* it is in the queue */
    }
    assert_int_equal(mp_queue_put(queue, mp_list(-1, none), 0), 0);
    p = start_process(.target = answer_on_each, .args = MP_ARGS(queue));
    for (int i = 0; i < LINES; i++) {
        assert_int_equal(mp_connection_recv(lines[i], &message), 0);
        assert_int_equal(mp_unpack(&message, &number), 0);
        assert_int_equal(number, i);
        assert_int_equal(mp_connection_recv(lines[i], &message), MP_EEOF); /* nobody has it */
        mp_connection_free(lines[i]);
    }
    assert_int_equal(finish(p), 0);
    mp_message_clear(&message);
    mp_queue_free(queue);
}

/* Gets a queue by each way there is, and puts a word into each. */
static int put_into_each(mp_call *call)
{
    mp_queue *first, *second = NULL, *third;
    mp_connection *line;
    mp_message one = MP_MESSAGE_INIT, two = MP_MESSAGE_INIT;
    int r = mp_unpack(call, &first, &line);

    if (r == 0)
        r = mp_connection_recv(line, &one);
    if (r == 0)
        r = mp_unpack(&one, &second);
    if (r == 0)
        r = mp_queue_get(first, &two, PATIENCE);
    if (r == 0)
        r = mp_unpack(&two, &third);
    if (r == 0)
        r = mp_queue_put(mp_queue_keep(second), 2, 0);
    mp_message_clear(&one);
    if (r == 0)
        r = mp_queue_put(second, 22, 0); /* kept: the message's end is not its */
    if (r == 0)
        r = mp_queue_put(third, 3, 0);
    mp_message_clear(&two);
    mp_queue_free(second);
    return r != 0;
}

static void queues_travel_in_arguments_messages_and_queues(void **state)
{
    mp_queue *first = make_queue(), *second = make_queue(), *third = make_queue();
    mp_connection *here, *there;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = put_into_each, .args = MP_ARGS(first, there));
    assert_int_equal(mp_connection_send(here, second), 0);
    assert_int_equal(mp_queue_put(first, third, 0), 0);
    assert_int_equal(get_number(second, PATIENCE), 2);
    assert_int_equal(get_number(second, PATIENCE), 22);
    assert_int_equal(get_number(third, PATIENCE), 3);
    assert_int_equal(finish(p), 0);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_queue_free(first);
    mp_queue_free(second);
    mp_queue_free(third);
}

static int put_square(mp_call *call)
{
    mp_queue *queue;
    int number;

    if (mp_unpack(call, &queue, &number) || mp_queue_put(queue, number * number, 0))
        return 1;
    return mp_return(call, queue); /* and back */
}

static void queues_travel_in_tasks_of_a_pool(void **state)
{
    mp_queue *queue = make_queue(), *back;
    mp_pool *pool = mp_pool_new(.processes = 2);
    mp_message answer = MP_MESSAGE_INIT;
    long sum = 0;

    (void)state;
    assert_non_null(pool);
    for (int i = 0; i < 10; i++)
        assert_int_equal(mp_pool_apply(pool, put_square, MP_ARGS(queue, i), &answer), 0);
    assert_int_equal(mp_unpack(&answer, &back), 0);
    assert_int_equal(mp_queue_qsize(back), 10);
    for (int i = 0; i < 10; i++)
        sum += get_number(back, 0);
    assert_int_equal(sum, 285);
    assert_int_equal(mp_queue_qsize(queue), 0);
    mp_message_clear(&answer);
    mp_pool_free(pool);
    mp_queue_free(queue);
}

static mp_queue *global;

static int use_global(mp_call *call)
{
    (void)call;
    return get_number(global, PATIENCE) != 11 || mp_queue_put(global, 12, 0);
}

static void a_child_made_by_fork_has_the_queues_of_its_variables(void **state)
{
    mp_process *p;

    (void)state;
    global = make_queue();
    assert_int_equal(mp_queue_put(global, 11, 0), 0);
    p = start_process(.target = use_global, .context = mp_get_context("fork"));
    assert_int_equal(finish(p), 0);
    assert_int_equal(get_number(global, PATIENCE), 12);
    mp_queue_free(global);
}

/* A queue that lies in itself: the system sees that nobody has it any more. */
static void a_queue_may_lie_in_itself(void **state)
{
    mp_queue *queue = make_queue(), *again;
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    for (int i = 0; i < 20; i++)
        assert_int_equal(mp_queue_put(queue, queue, 0), 0);
    assert_int_equal(mp_queue_get(queue, &message, 0), 0);
    assert_int_equal(mp_unpack(&message, &again), 0);
    assert_int_equal(mp_queue_qsize(again), 19);
    mp_message_clear(&message);
    mp_queue_free(queue);
}

static void many_handles_are_an_error_and_not_a_deadlock(void **state)
{
    mp_queue *queue = make_queue();
    mp_connection *here, *there;
    mp_message message = MP_MESSAGE_INIT;
    int count = 0, number, r;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    do
        r = mp_queue_put(queue, mp_list(count, there), MP_FOREVER);
    while (r == 0 && ++count < 100000);
    assert_int_equal(r, MP_EAGAIN);
    print_message("%d items with a handle each\n", count);
    assert_true(count >= 200);
    assert_int_equal(mp_queue_qsize(queue), count);
    assert_int_equal(mp_queue_put(queue, mp_list(count, mp_none()), 0), 0); /* without: no limit */
    for (int i = 0; i <= count; i++) {
        assert_int_equal(mp_queue_get(queue, &message, 0), 0);
        assert_int_equal(mp_unpack(&message, &number, NULL), 0);
        assert_int_equal(number, i);
    }
    assert_int_equal(mp_queue_put(queue, there, 0), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_queue_free(queue);
}

static int get_at_the_limit(mp_call *call)
{
    mp_queue *queue;
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    struct rlimit limit, tight;
    int r = mp_unpack(call, &queue);

    if (r < 0 || getrlimit(RLIMIT_NOFILE, &limit))
        return 99;
    tight = limit;
    tight.rlim_cur = 3; /* what is open stays open */
    (void)setrlimit(RLIMIT_NOFILE, &tight);
    r = mp_queue_get(queue, &message, 0);
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (r != MP_EMFILE)
        return 98;
    r = mp_queue_get(queue, &message, 0); /* it is still there */
    if (r == 0)
        r = mp_unpack(&message, &line);
    if (r == 0)
        r = mp_connection_send(line, 5);
    mp_message_clear(&message);
    return r != 0;
}

static void too_many_descriptors_leave_the_item_in_the_queue(void **state)
{
    mp_queue *queue = make_queue();
    mp_connection *here, *there;
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_queue_put(queue, there, 0), 0);
    mp_connection_free(there);
    assert_int_equal(finish(start_process(.target = get_at_the_limit, .args = MP_ARGS(queue))), 0);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_queue_free(queue);
}

/* ---- limits ---- */

static void check_big(size_t size)
{
    mp_queue *queue = make_queue();
    mp_message message = MP_MESSAGE_INIT;
    char *bytes = malloc(size);
    mp_bytes_view view;

    assert_non_null(bytes);
    for (size_t i = 0; i < size; i += 4096)
        bytes[i] = (char)(i >> 12);
    bytes[size - 1] = 77;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mp_queue_put(queue, i, 0), 0);
        assert_int_equal(mp_queue_put(queue, mp_bytes(bytes, size), 0), 0);
        assert_int_equal(get_number(queue, 0), i);
        assert_int_equal(mp_queue_get(queue, &message, 0), 0);
        assert_int_equal(mp_unpack(&message, &view), 0);
        assert_int_equal(view.size, size);
        for (size_t k = 0; k < size; k += 4096)
            if (((const char *)view.data)[k] != (char)(k >> 12) && k != size - 1)
                fail_msg("byte %zu of %zu differs", k, size);
        assert_int_equal(((const char *)view.data)[size - 1], 77);
        assert_true(count_nameless_memory() < 200000);
    }
    mp_message_clear(&message);
    mp_queue_free(queue);
    free(bytes);
}

static void big_items_pass(void **state)
{
    (void)state;
    check_big((size_t)5 << 20);
    check_big((size_t)64 << 20);
    if (getenv("MP_TEST_BIG"))
        check_big((size_t)3 << 30);
}

static void a_message_above_the_limit_stays(void **state)
{
    mp_queue *queue = make_queue();

    (void)state;
    assert_int_equal(mp_queue_put(queue, "longer than ten bytes", 0), 0);
    assert_int_equal(mp_set_limits(&(mp_limits){ .message_bytes = 10 }), 0);
    assert_int_equal(get_code(queue, 0), MP_ETOOLONG);
    assert_int_equal(mp_queue_qsize(queue), 1);
    assert_int_equal(mp_set_limits(&(mp_limits){ .message_bytes = UINT64_C(16) << 30 }), 0);
    assert_int_equal(get_code(queue, 0), 0);
    mp_queue_free(queue);
}

/* ---- interrupts ---- */

static int be_interrupted(mp_call *call)
{
    mp_queue *queue;

    if (mp_unpack(call, &queue) || mp_allow_interrupt())
        return 99;
    mp_interrupt();
    if (get_code(queue, MP_FOREVER) != MP_EINTR)
        return 1;
    if (mp_queue_put(queue, 1, MP_FOREVER))
        return 2;
    mp_interrupt();
    if (mp_queue_put(queue, 2, MP_FOREVER) != MP_EINTR)
        return 3;
    mp_interrupt();
    if (mp_queue_join(queue, MP_FOREVER) != MP_EINTR)
        return 4;
    mp_interrupt();
    if (mp_wait(&(mp_wait_item){ .queue = queue }, 1, MP_FOREVER) != 1)
        return 5; /* what is there comes first, and the interrupt stays */
    if (get_number(queue, MP_FOREVER) != 1)
        return 6;
    if (mp_wait(&(mp_wait_item){ .queue = queue }, 1, MP_FOREVER) != MP_EINTR)
        return 7;
    return 0;
}

static void an_interrupt_ends_a_wait(void **state)
{
    mp_queue *queue = make_joinable_queue(.maxsize = 1);

    (void)state;
    assert_int_equal(finish(start_process(.target = be_interrupted, .args = MP_ARGS(queue))), 0);
    assert_int_equal(mp_queue_qsize(queue), 0);
    mp_queue_free(queue);
}

/* ---- bytes that are not trusted ---- */

static int rebuild(const int *fds, size_t count, size_t size)
{
    static const uint8_t state[MP__STATE_MAX];
    int copies[MP__KIND_FDS_MAX];
    void *object = NULL;
    int r;

    for (size_t i = 0; i < count; i++)
        copies[i] = dup(fds[i]);
    r = mp__queue_kind.rebuild(state, size, copies, count, &object);
    if (r == 0)
        mp__queue_kind.free(object);
    for (size_t i = 0; i < count; i++)
        mp__fd_drop(&copies[i]);
    return r;
}

static void malformed_queues_are_refused(void **state)
{
    mp_queue *queue = make_queue();
    mp__reduced reduced = { .size = 0 };
    int wrong[3], file;
    char name[] = "/tmp/mp-test-XXXXXX";

    (void)state;
    assert_int_equal(mp__queue_kind.reduce(queue, &reduced), 0);
    assert_int_equal(rebuild(reduced.fds, 3, 0), 0);
    assert_int_equal(rebuild(reduced.fds, 3, 1), MP_EPROTOCOL);
    for (size_t n = 0; n < 3; n++)
        assert_int_equal(rebuild(reduced.fds, n, 0), MP_EPROTOCOL);
    for (int i = 0; i < 3; i++) {
        memcpy(wrong, reduced.fds, sizeof(wrong));
        wrong[i] = reduced.fds[(i + 1) % 3];
        assert_int_equal(rebuild(wrong, 3, 0), i == 1 ? 0 : MP_EPROTOCOL); /* two of one socket */
    }
    file = mkstemp(name);
    assert_true(file >= 0);
    (void)unlink(name);
    memcpy(wrong, reduced.fds, sizeof(wrong));
    wrong[0] = file;
    assert_int_equal(rebuild(wrong, 3, 0), MP_EPROTOCOL); /* too short */
    assert_int_equal(ftruncate(file, 1 << 20), 0);
    assert_int_equal(rebuild(wrong, 3, 0), MP_EPROTOCOL); /* zeros */
    (void)close(file);
    mp_queue_free(queue);
}

static unsigned random_number(void)
{
    static unsigned seed = 12345;

    seed = seed * 1103515245u + 12345u;
    return seed >> 8;
}

static const size_t locks[] = { offsetof(mp__queue_shared, put_lock),
    offsetof(mp__queue_shared, get_lock) };

/*
 * Words of the memory are overwritten, except for the locks: whatever the calls say, they
 * come back, and nothing crashes.
 */
static void overwrite_something(int fd)
{
    size_t at = random_number() % 3 ? random_number() % 1024 : 65536 + random_number() % 4096;
    uint64_t word = random_number();

    at = at / 8 * 8;
    for (int i = 0; i < 2; i++)
        if (at >= locks[i] && at < locks[i] + sizeof(mp__mutex))
            return;
    word = random_number() % 2 ? word << 32 | random_number() : word % 64;
    assert_int_equal(pwrite(fd, &word, sizeof(word), (off_t)at), sizeof(word));
}

static void overwritten_memory_crashes_nobody(void **state)
{
    (void)state;
    for (int round = 0; round < 300; round++) {
        mp_queue *queue = make_queue(.maxsize = round % 3);
        mp__reduced reduced = { .size = 0 };
        mp_message message = MP_MESSAGE_INIT;

        assert_int_equal(mp__queue_kind.reduce(queue, &reduced), 0);
        for (int i = 0; i < 20; i++) {
            (void)mp_queue_put(queue, mp_list(i, "some words", 2.5), 0);
            if (i % 5 == 4)
                overwrite_something(reduced.fds[0]);
            (void)mp_queue_get(queue, &message, 0);
            (void)mp_queue_qsize(queue);
        }
        mp_message_clear(&message);
        mp_queue_free(queue);
    }
}

static void an_item_beyond_the_limits_stays(void **state)
{
    mp_limits usual = { .elements = UINT64_C(1) << 28, .depth = 32 };
    mp_message message = MP_MESSAGE_INIT;
    mp_queue *queue = make_queue();
    int number;

    (void)state;
    assert_int_equal(mp_queue_put(queue, mp_list(1, mp_list(mp_list(2))), 0), 0);
    assert_int_equal(mp_set_limits(&(mp_limits){ .elements = 4 }), 0);
    assert_int_equal(mp_queue_get(queue, &message, 0), MP_ETOOLONG);
    assert_int_equal(mp_set_limits(&usual), 0);
    assert_int_equal(mp_set_limits(&(mp_limits){ .depth = 2 }), 0);
    assert_int_equal(mp_queue_get(queue, &message, 0), MP_ETOODEEP);
    assert_int_equal(mp_set_limits(&usual), 0);
    assert_int_equal(mp_queue_qsize(queue), 1);
    assert_int_equal(mp_queue_get(queue, &message, 0), 0);
    assert_int_equal(mp_unpack(&message, &number, NULL), 0);
    assert_int_equal(number, 1);
    mp_message_clear(&message);
    mp_queue_free(queue);
}

static void the_message_that_lends_a_queue_is_not_got_into(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_queue *queue = make_queue(), *lent;

    (void)state;
    assert_int_equal(mp_queue_put(queue, queue, 0), 0);
    assert_int_equal(mp_queue_put(queue, 7, 0), 0);
    assert_int_equal(mp_queue_get(queue, &message, 0), 0);
    assert_int_equal(mp_unpack(&message, &lent), 0);
    assert_int_equal(mp_queue_get(lent, &message, 0), MP_EINVAL);
    assert_int_equal(mp_queue_qsize(lent), 1);
    mp_queue_keep(lent);
    assert_int_equal(mp_queue_get(lent, &message, 0), 0);
    mp_message_clear(&message);
    mp_queue_free(lent);
    mp_queue_free(queue);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(a_bounded_queue_is_full_until_somebody_takes),
    UNDER_EACH(items_come_in_order_until_it_is_empty),
    UNDER_EACH(what_was_put_before_a_child_started_comes_once),
    UNDER_EACH(qsize_follows_put_and_get),
    UNDER_EACH(join_returns_when_every_item_is_done),
    ONCE(only_a_joinable_queue_counts_tasks),
    UNDER_EACH(a_timeout_is_not_over_early),
    UNDER_EACH(what_cannot_be_packed_is_an_error_of_put),
    UNDER_EACH(a_closed_queue_refuses_everything),
    ONCE(null_is_no_queue),
    UNDER_EACH(a_simple_queue_is_empty_or_not_for_all),
    UNDER_EACH(items_outlive_the_process_that_put_them),
    ONCE(put_never_blocks_and_memory_comes_back),
    ONCE(items_wrap_at_the_end_of_the_ring),
    UNDER_EACH(several_producers_and_consumers_lose_nothing),
    UNDER_EACH(a_small_bound_holds_up_nobody_for_ever),
    ONCE(threads_may_share_a_queue),
    UNDER_EACH(mp_wait_sees_an_item_among_other_things),
    UNDER_EACH(several_may_poll_one_queue),
    UNDER_EACH(connections_travel_as_items),
    UNDER_EACH(queues_travel_in_arguments_messages_and_queues),
    UNDER_EACH(queues_travel_in_tasks_of_a_pool),
    ONCE(a_child_made_by_fork_has_the_queues_of_its_variables),
    ONCE(a_queue_may_lie_in_itself),
    ONCE(many_handles_are_an_error_and_not_a_deadlock),
    UNDER_EACH(too_many_descriptors_leave_the_item_in_the_queue),
    ONCE(big_items_pass),
    ONCE(a_message_above_the_limit_stays),
    ONCE(an_item_beyond_the_limits_stays),
    ONCE(the_message_that_lends_a_queue_is_not_got_into),
    UNDER_EACH(an_interrupt_ends_a_wait),
    ONCE(malformed_queues_are_refused),
    ONCE(overwritten_memory_crashes_nobody),
};

TESTS_MAIN(tests)
