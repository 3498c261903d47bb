/* SPDX-License-Identifier: MIT
 *
 * test_endurance.c - many processes, one after the other and side by side, and
 * what is left of them: nothing.
 */
#include "support.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int nothing(mp_call *call)
{
    (void)call;
    return 0;
}

static void run(int count)
{
    for (int i = 0; i < count; i++)
        assert_int_equal(finish(start_process(.target = nothing, .args = MP_ARGS(i, "text"))), 0);
}

/* 10,000 processes, 2,000 that are exec'd; fewer where a sanitizer makes each slow. */
static void nothing_is_left_of_ten_thousand_processes(void **state)
{
    int count = strcmp(*state, "spawn") == 0 ? 2000 : 10000;
    int descriptors, children;
    size_t memory;

    support_allow(600);
    run(100); /* what is made once is made */
    descriptors = count_descriptors();
    children = count_children();
    memory = memory_in_use();
    run(HAS_ASAN || HAS_TSAN ? count / 20 : count);
    assert_int_equal(count_descriptors(), descriptors);
    assert_int_equal(count_children(), children);
    assert_true(memory_in_use() <= memory + 4096);
}

/* Nobody joins these; starting more reaps them. */
static void processes_that_are_only_freed_do_not_pile_up(void **state)
{
    int limit = 100; /* twice what runs at once, or the least that is worth a look */

    for (int i = 0; i < 500; i++) {
        mp_process *p = start_process(.target = nothing);
        mp_wait_item end = MP_WAIT(p);

        assert_int_equal(mp_wait(&end, 1, PATIENCE), 1);
        mp_process_free(p);
        assert_true(count_children() <= limit);
    }
    do /* an end may be seen a moment before it can be reaped */
        assert_int_equal(mp_active_children(NULL, 0), 0);
    while (count_children() > (strcmp(*state, "forkserver") == 0));
}

/* Squares what comes until nothing comes any more. */
static int square(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    long x;

    if (mp_unpack(call, &line))
        return 1;
    while (mp_connection_recv(line, &message) == 0)
        if (mp_unpack(&message, &x) || mp_connection_send(line, x * x))
            return 2;
    mp_message_clear(&message);
    return mp_last_error()->code == MP_EEOF ? 0 : 3;
}

static void two_hundred_workers_share_a_thousand_items(void **state)
{
    enum { WORKERS = 200, ITEMS = 1000 };
    static mp_connection *lines[WORKERS];
    static mp_process *workers[WORKERS];
    mp_message message = MP_MESSAGE_INIT;
    long sum = 0, square_of_it;

    (void)state;
    for (int i = 0; i < WORKERS; i++) {
        mp_connection *theirs;

        assert_int_equal(mp_pipe(&lines[i], &theirs), 0);
        workers[i] = start_process(.target = square, .args = MP_ARGS(theirs));
        mp_connection_free(theirs);
    }
    for (long item = 0; item < ITEMS; item++)
        assert_int_equal(mp_connection_send(lines[item % WORKERS], item), 0);
    for (long item = 0; item < ITEMS; item++) {
        assert_int_equal(mp_connection_recv(lines[item % WORKERS], &message), 0);
        assert_int_equal(mp_unpack(&message, &square_of_it), 0);
        sum += square_of_it;
    }
    assert_int_equal(sum, 332833500);
    for (int i = 0; i < WORKERS; i++) {
        mp_connection_free(lines[i]);
        assert_int_equal(finish(workers[i]), 0);
    }
    mp_message_clear(&message);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(nothing_is_left_of_ten_thousand_processes),
    UNDER_EACH(processes_that_are_only_freed_do_not_pile_up),
    UNDER_EACH(two_hundred_workers_share_a_thousand_items),
};

TESTS_MAIN(tests)
