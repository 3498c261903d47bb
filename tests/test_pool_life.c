/* SPDX-License-Identifier: MIT
 *
 * test_pool_life.c - how pools and their workers begin and end: close, join,
 * terminate, free; initializers, maxtasksperchild, exit handlers. Workers that
 * die are test_pool_crash.c's business.
 */
#include "pools.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- tasks ---- */

static int tell_pid(mp_call *call)
{
    return mp_return(call, (long)getpid());
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
    return r == MP_EEOF ? 0 : 3;
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

static void check_map(mp_pool *pool, size_t count)
{
    long in[1000], out[1000];

    for (size_t i = 0; i < count; i++)
        in[i] = (long)i;
    memset(out, 0, sizeof(out));
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, count), MP_ITEMS(out, count)), 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(out[i], i * i);
}

/* All that gives work is refused. */
static void check_refuses(mp_pool *pool, int code)
{
    long in[] = { 1 }, out[1];

    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(1)), code);
    assert_int_equal(mp_pool_map(pool, square, MP_ITEMS(in, 1), MP_ITEMS(out, 1)), code);
    assert_null(mp_pool_apply_async(pool, square, MP_ARGS(1)));
    assert_int_equal(mp_last_error()->code, code);
    assert_null(mp_pool_map_async(pool, square, MP_ITEMS(in, 1), MP_ITEMS(out, 1)));
    assert_int_equal(mp_last_error()->code, code);
    assert_null(mp_pool_imap(pool, square, MP_ITEMS(in, 1)));
    assert_int_equal(mp_last_error()->code, code);
}

/* ---- close and join ---- */

static void a_closed_pool_does_what_it_was_given(void **state)
{
    enum { N = 50 };
    mp_pool *pool = make_pool(.processes = 2);
    mp_result *results[N];

    (void)state;
    for (long i = 0; i < N; i++)
        results[i] = mp_pool_apply_async(pool, square, MP_ARGS(i));
    assert_int_equal(mp_pool_close(pool), 0);
    check_refuses(pool, MP_ECLOSED);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    assert_int_equal(mp_pool_pids(pool, NULL, 0), 0);
    for (long i = 0; i < N; i++) {
        mp_message message = MP_MESSAGE_INIT;
        long x;

        assert_true(mp_result_ready(results[i]));
        assert_int_equal(mp_result_get(results[i], &message, 0), 0);
        assert_int_equal(mp_unpack(&message, &x), 0);
        assert_int_equal(x, i * i);
        mp_message_clear(&message);
        mp_result_free(results[i]);
    }
    mp_pool_free(pool);
}

static void join_waits_for_the_last_task(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_connection *gate;
    mp_result *result = occupy(pool, &gate);

    (void)state;
    assert_int_equal(mp_pool_join(pool, 0), MP_ERUNNING);
    assert_int_equal(mp_pool_close(pool), 0);
    assert_int_equal(mp_pool_join(pool, 0), MP_ETIMEDOUT);
    assert_int_equal(mp_pool_join(pool, 0.01), MP_ETIMEDOUT);
    assert_int_equal(mp_pool_join(pool, -1), MP_ETIMEDOUT);
    mp_connection_free(gate);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    assert_int_equal(mp_result_successful(result), 1);
    mp_result_free(result);
    mp_pool_free(pool);
}

static void closing_joining_and_terminating_again_do_nothing(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);

    (void)state;
    check_map(pool, 10);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mp_pool_close(pool), 0);
        assert_int_equal(mp_pool_close(pool), 0);
        assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
        assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
        assert_int_equal(mp_pool_terminate(pool), 0);
        assert_int_equal(mp_pool_terminate(pool), 0);
        assert_int_equal(mp_pool_join(pool, 0), 0);
        check_refuses(pool, MP_ECLOSED);
    }
    assert_int_equal(mp_pool_processes(pool), 2);
    assert_int_equal(mp_pool_pids(pool, NULL, 0), 0);
    mp_pool_free(pool);
}

static void a_pool_may_end_before_it_has_begun(void **state)
{
    (void)state;
    mp_pool_free(make_pool(.processes = 3));
    for (int i = 0; i < 3; i++) {
        mp_pool *pool = make_pool(.processes = 3);

        if (i > 0)
            assert_int_equal((i == 1 ? mp_pool_close : mp_pool_terminate)(pool), 0);
        if (i > 0)
            assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
        mp_pool_free(pool);
    }
}

/* ---- terminate and free ---- */

static void terminate_ends_ten_thousand_tasks_at_once(void **state)
{
    enum { N = 10000 };
    static long in[N];
    mp_pool *pool = make_pool(.processes = 3);
    mp_connection *gates[3];
    mp_result *blockers[3], *map;

    (void)state;
    for (int i = 0; i < 3; i++)
        blockers[i] = occupy(pool, &gates[i]);
    map = mp_pool_map_async(pool, square, MP_ITEMS(in, N));
    assert_non_null(map);
    assert_int_equal(mp_pool_terminate(pool), 0);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    assert_int_equal(mp_pool_pids(pool, NULL, 0), 0);
    assert_true(mp_result_ready(map));
    assert_int_equal(mp_result_get(map, NULL, 0), MP_ETERMINATED);
    check_refuses(pool, MP_ECLOSED);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mp_result_get(blockers[i], NULL, 0), MP_ETERMINATED);
        mp_connection_free(gates[i]);
        mp_result_free(blockers[i]);
    }
    mp_result_free(map);
    mp_pool_free(pool);
}

static int ignore_sigterm(mp_call *call)
{
    (void)call;
    (void)signal(SIGTERM, SIG_IGN);
    return 0;
}

static void terminate_ends_workers_that_ignore_sigterm(void **state)
{
    mp_pool *pool = make_pool(.processes = 1, .initializer = ignore_sigterm);
    mp_connection *gate;
    mp_result *result = occupy(pool, &gate);

    (void)state;
    assert_int_equal(mp_pool_terminate(pool), 0);
    assert_int_equal(mp_pool_pids(pool, NULL, 0), 0);
    mp_connection_free(gate);
    mp_result_free(result);
    mp_pool_free(pool);
}

static void a_pool_with_work_may_be_freed(void **state)
{
    (void)state;
    for (int closed = 0; closed < 2; closed++) {
        mp_pool *pool = make_pool(.processes = 2);
        mp_connection *gate;
        mp_result *result = occupy(pool, &gate);

        if (closed)
            assert_int_equal(mp_pool_close(pool), 0);
        mp_pool_free(pool);
        assert_int_equal(mp_result_get(result, NULL, 0), MP_ETERMINATED);
        mp_result_free(result);
        mp_connection_free(gate);
    }
}

static void *terminate_pool(void *pool)
{
    return (void *)(intptr_t)mp_pool_terminate(pool);
}

static void a_thread_may_terminate_the_pool_that_another_waits_for(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_connection *gate;
    mp_result *result = occupy(pool, &gate);
    pthread_t thread;
    void *code;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, terminate_pool, pool), 0);
    assert_int_equal(mp_result_get(result, NULL, PATIENCE), MP_ETERMINATED);
    assert_int_equal(pthread_join(thread, &code), 0);
    assert_null(code);
    mp_connection_free(gate);
    mp_result_free(result);
    mp_pool_free(pool);
}

static void *join_pool(void *pool)
{
    return (void *)(intptr_t)mp_pool_join(pool, PATIENCE);
}

static void threads_may_join_while_another_closes(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_connection *gate;
    mp_result *result = occupy(pool, &gate);
    pthread_t threads[3];
    void *code;

    (void)state;
    assert_int_equal(mp_pool_close(pool), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, join_pool, pool), 0);
    mp_connection_free(gate);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], &code), 0);
        assert_null(code);
    }
    assert_int_equal(mp_result_successful(result), 1);
    mp_result_free(result);
    mp_pool_free(pool);
}

/* ---- exit handlers of workers ---- */

static mp_connection *exit_line;

static void say_goodbye(void *unused)
{
    (void)unused;
    (void)mp_connection_send(exit_line, "goodbye");
}

static int promise_goodbye(mp_call *call)
{
    return mp_unpack(call, &exit_line) || !mp_connection_keep(exit_line) ||
           mp_atexit(say_goodbye, NULL, 0);
}

static void check_goodbyes(mp_connection *line, int count)
{
    mp_message message = MP_MESSAGE_INIT;

    while (count--)
        assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_connection_recv(line, &message), MP_EEOF);
    mp_message_clear(&message);
}

static void workers_leave_by_way_of_their_exit_handlers(void **state)
{
    (void)state;
    for (int closes = 0; closes < 2; closes++) {
        mp_connection *here, *there;
        mp_pool *pool;

        assert_int_equal(mp_pipe(&here, &there), 0);
        pool =
            make_pool(.processes = 2, .initializer = promise_goodbye, .initargs = MP_ARGS(there));
        mp_connection_free(there);
        check_map(pool, 20);
        if (closes) {
            assert_int_equal(mp_pool_close(pool), 0);
            assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
        }
        mp_pool_free(pool);
        check_goodbyes(here, 2);
        mp_connection_free(here);
    }
}

/* ---- maxtasksperchild ---- */

static int compare_longs(const void *a, const void *b)
{
    return *(const long *)a < *(const long *)b ? -1 : *(const long *)a > *(const long *)b;
}

/* How many items each process ran: the most, and how many processes there were. */
static void count_pids(long *pids, size_t count, size_t *most, size_t *processes)
{
    *most = *processes = 0;
    qsort(pids, count, sizeof(*pids), compare_longs);
    for (size_t i = 0, n = 0; i < count; i++) {
        n = i && pids[i] == pids[i - 1] ? n + 1 : 1;
        *processes += n == 1;
        *most = n > *most ? n : *most;
    }
}

static void workers_are_replaced_after_so_many_items(void **state)
{
    static const int limits[] = { 1, 2, 3, 7 };
    enum { N = 60 };

    (void)state;
    for (int k = 0; k < 4; k++) {
        mp_pool *pool = make_pool(.processes = 2, .maxtasksperchild = limits[k]);
        size_t most, processes;
        long in[N] = { 0 }, out[N];

        assert_int_equal(mp_pool_map(pool, tell_pid, MP_ITEMS(in, N), MP_ITEMS(out, N)), 0);
        count_pids(out, N, &most, &processes);
        assert_true(most <= (size_t)limits[k]);
        assert_true(processes >= (size_t)(N / limits[k]));
        check_map(pool, 20);
        assert_int_equal(mp_pool_close(pool), 0);
        assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
        mp_pool_free(pool);
    }
}

static bool share_one(const pid_t *some, const pid_t *others, size_t count)
{
    for (size_t i = 0; i < count * count; i++)
        if (some[i / count] == others[i % count])
            return true;
    return false;
}

static void all_workers_are_new_after_a_hundred_tasks(void **state)
{
    enum { N = 100 };
    mp_pool *pool = make_pool(.processes = 3, .maxtasksperchild = 10);
    mp_result *results[N];
    pid_t before[3], after[3];

    (void)state;
    assert_int_equal(mp_pool_pids(pool, before, 3), 3);
    for (long i = 0; i < N; i++)
        results[i] = mp_pool_apply_async(pool, square, MP_ARGS(i));
    for (long i = 0; i < N; i++) {
        mp_message message = MP_MESSAGE_INIT;
        long x;

        assert_int_equal(mp_result_get(results[i], &message, PATIENCE), 0);
        assert_int_equal(mp_unpack(&message, &x), 0);
        assert_int_equal(x, i * i);
        mp_message_clear(&message);
        mp_result_free(results[i]);
    }
    do { /* whoever was slow gets his share now */
        check_map(pool, 90);
        assert_int_equal(mp_pool_pids(pool, after, 3), 3);
    } while (share_one(before, after, 3));
    assert_int_equal(mp_pool_close(pool), 0);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    mp_pool_free(pool);
}

static void closing_early_replaces_workers_until_all_is_done(void **state)
{
    (void)state;
    for (int processes = 1; processes <= 4; processes *= 2) {
        mp_pool *pool = make_pool(.processes = processes, .maxtasksperchild = 1);
        mp_result *results[10];

        for (int i = 0; i < 10; i++)
            results[i] = mp_pool_apply_async(pool, i % 3 ? square : refuse, MP_ARGS(i));
        assert_int_equal(mp_pool_close(pool), 0);
        assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
        for (int i = 0; i < 10; i++) {
            assert_int_equal(mp_result_get(results[i], NULL, 0), i % 3 ? 0 : MP_ERAISED);
            mp_result_free(results[i]);
        }
        mp_pool_free(pool);
    }
}

static void a_pool_that_replaces_workers_may_be_freed_at_any_time(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        mp_pool *pool = make_pool(.processes = 2, .maxtasksperchild = 1);
        mp_result *results[10];

        for (int i = 0; i < 10; i++)
            results[i] = mp_pool_apply_async(pool, square, MP_ARGS(i));
        for (int i = 0; i < n; i++)
            assert_int_equal(mp_result_get(results[i], NULL, PATIENCE), 0);
        mp_pool_free(pool);
        for (int i = 0; i < 10; i++) {
            int r = mp_result_get(results[i], NULL, 0);

            assert_true(r == 0 || r == MP_ETERMINATED);
            mp_result_free(results[i]);
        }
    }
}

/* ---- initializers ---- */

static int initialized_with, initialized_times;

static int initialize(mp_call *call)
{
    initialized_times++;
    return mp_unpack(call, &initialized_with, NULL);
}

static int tell_initialized(mp_call *call)
{
    return mp_return(call, 100 * initialized_times + initialized_with);
}

static void the_initializer_runs_once_in_each_worker_before_its_first_item(void **state)
{
    enum { N = 100 };
    mp_pool *pool = make_pool(.processes = 3, .initializer = initialize,
        .initargs = MP_ARGS(23, "text"), .maxtasksperchild = 10);
    int in[N] = { 0 }, out[N];

    (void)state;
    assert_int_equal(mp_pool_map(pool, tell_initialized, MP_ITEMS(in, N), MP_ITEMS(out, N)), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(out[i], 123);
    assert_int_equal(initialized_times, 0);
    mp_pool_free(pool);
}

static int fail_to_initialize(mp_call *call)
{
    mp_connection *line;

    if (mp_unpack(call, &line) || mp_connection_send(line, "tried"))
        return 1;
    return mp_raise(call, 7, "no fuel in the tank");
}

static void a_pool_whose_initializer_always_fails_is_broken(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_task_error error;
    mp_result *result;
    mp_pool *pool;
    int tries = 0;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    pool = make_pool(.processes = 2, .initializer = fail_to_initialize, .initargs = MP_ARGS(there));
    mp_connection_free(there);
    result = mp_pool_apply_async(pool, square, MP_ARGS(1));
    assert_non_null(result);
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(1), .error = &error), MP_EBROKEN);
    assert_int_equal(error.code, MP_EBROKEN);
    assert_non_null(strstr(error.text, "no fuel in the tank"));
    assert_non_null(strstr(mp_last_error()->text, "no fuel in the tank"));
    assert_int_equal(mp_result_get(result, NULL, PATIENCE), MP_EBROKEN);
    assert_non_null(strstr(mp_result_error(result)->text, "no fuel in the tank"));
    check_refuses(pool, MP_EBROKEN);
    assert_non_null(strstr(mp_last_error()->text, "no fuel in the tank"));
    mp_result_free(result);
    mp_pool_free(pool);
    while (mp_connection_recv(here, &message) == 0)
        tries++;
    assert_in_range(tries, 5, 6); /* 3 + processes in a row; another may just have begun */
    mp_message_clear(&message);
    mp_connection_free(here);
}

static void a_broken_pool_may_be_closed_and_joined(void **state)
{
    mp_connection *here, *there;
    mp_pool *pool;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    pool = make_pool(.processes = 1, .initializer = fail_to_initialize, .initargs = MP_ARGS(there));
    mp_connection_free(there);
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(1)), MP_EBROKEN);
    assert_int_equal(mp_pool_close(pool), 0);
    assert_int_equal(mp_pool_join(pool, PATIENCE), 0);
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(1)), MP_EBROKEN);
    assert_int_equal(mp_pool_terminate(pool), 0);
    mp_pool_free(pool);
    mp_connection_free(here);
}

/* Takes a ticket from the pipe it is given; fails as long as there are bad ones. */
static int draw_ticket(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *tickets;
    bool good = false;
    int r;

    if (mp_unpack(call, &tickets))
        return 1;
    r = mp_connection_recv(tickets, &message);
    if (r == 0)
        r = mp_unpack(&message, &good);
    mp_message_clear(&message);
    return r < 0 || !good ? mp_raise(call, 7, "a bad ticket") : 0;
}

/* A pool of one worker: two would read one pipe at a time, each a part of a message. */
static mp_pool *make_pool_with_tickets(mp_connection **booth, const char *tickets, int limit)
{
    mp_connection *theirs;
    mp_pool *pool;

    assert_int_equal(mp_pipe(booth, &theirs), 0);
    for (; *tickets; tickets++)
        assert_int_equal(mp_connection_send(*booth, (bool)(*tickets == 'g')), 0);
    pool = make_pool(.processes = 1, .initializer = draw_ticket, .initargs = MP_ARGS(theirs),
        .maxtasksperchild = limit);
    mp_connection_free(theirs);
    return pool;
}

static void an_initializer_may_fail_three_times(void **state)
{
    mp_connection *booth;
    mp_pool *pool = make_pool_with_tickets(&booth, "bbbg", 0);

    (void)state;
    check_map(pool, 100);
    mp_pool_free(pool);
    mp_connection_free(booth);
}

static void an_initializer_may_fail_in_replacements(void **state)
{
    mp_connection *booth;
    mp_pool *pool = make_pool_with_tickets(&booth, "gbbgbbbgbg", 5);

    (void)state;
    check_map(pool, 20);
    mp_pool_free(pool);
    mp_connection_free(booth);
}

static void a_pool_whose_replacements_never_begin_is_broken(void **state)
{
    mp_connection *booth;
    mp_pool *pool = make_pool_with_tickets(&booth, "gbbbbbbbb", 5);
    long in[20] = { 0 }, out[20];
    int status[20], done = 0;

    (void)state;
    assert_int_equal(
        mp_pool_map(pool, tell_pid, MP_ITEMS(in, 20), MP_ITEMS(out, 20), .status = status),
        MP_EBROKEN);
    assert_non_null(strstr(mp_last_error()->text, "a bad ticket"));
    for (int i = 0; i < 20; i++) {
        assert_true(status[i] == 0 || status[i] == MP_EBROKEN);
        done += status[i] == 0;
    }
    assert_int_equal(done, 5);
    mp_pool_free(pool);
    mp_connection_free(booth);
}

static int return_seven(mp_call *call)
{
    (void)call;
    return 7;
}

static void an_initializer_that_returns_a_code_has_failed(void **state)
{
    mp_pool *pool = make_pool(.processes = 1, .initializer = return_seven);

    (void)state;
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(1)), MP_EBROKEN);
    assert_non_null(strstr(mp_last_error()->text, "it returned 7"));
    mp_pool_free(pool);
}

/* ---- starts that fail ---- */

static void a_pool_that_cannot_start_leaves_nothing(void **state)
{
    int before, children, failures = 0;
    struct rlimit old, few;
    mp_pool *pool = NULL;

    assert_int_equal(finish(start_process()), 0); /* what is made once is made */
    before = count_descriptors();
    children = count_children();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    for (few = old, few.rlim_cur = 8; !pool; few.rlim_cur++) {
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        pool = mp_pool_new(.processes = 5);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
        if (pool)
            break;
        failures++;
        assert_int_equal(mp_last_error()->code, MP_EMFILE);
        assert_int_equal(mp_active_children(NULL, 0), 0);
        if (strcmp(*state, "forkserver") == 0)
            continue; /* it may have lost its server, and made another: see the census */
        assert_int_equal(count_descriptors(), before);
        assert_int_equal(count_children(), children);
    }
    assert_true(failures > 10);
    check_map(pool, 100);
    mp_pool_free(pool);
}

/* ---- the program ---- */

static int program_state = 1;

static int tell_program_state(mp_call *call)
{
    return mp_return(call, program_state);
}

static void replacements_see_the_program_as_it_was_when_the_pool_was_made(void **state)
{
    mp_pool *pool;
    int in[20] = { 0 }, out[20];

    program_state = 5;
    pool = make_pool(.processes = 2, .maxtasksperchild = 2);
    program_state = 6;
    assert_int_equal(mp_pool_map(pool, tell_program_state, MP_ITEMS(in, 20), MP_ITEMS(out, 20)), 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(out[i], strcmp(*state, "fork") == 0 ? 5 : 1);
    mp_pool_free(pool);
    program_state = 1;
}

static void check_program(const char *method, const char *how)
{
    char name[64];
    const char *argv[] = { program_path("pool_left"), how, NULL };
    const char *environment[] = { name, "ASAN_OPTIONS=detect_leaks=0",
        NULL }; /* it leaves a pool */
    static outcome out;

    (void)snprintf(name, sizeof(name), "MP_START_METHOD=%s", method);
    run_program(argv, environment, 30, &out);
    assert_string_equal(out.output, "4 9\n");
    assert_int_equal(out.status, 0);
    assert_true(out.seconds < (HAS_ASAN || HAS_TSAN ? 10 : 2));
}

static void a_program_may_end_without_freeing_its_pool(void **state)
{
    check_program(*state, "");
}

static void a_program_may_end_while_its_pool_is_busy(void **state)
{
    check_program(*state, "busy");
}

static void a_program_may_exit_in_a_callback(void **state)
{
    check_program(*state, "exit");
}

static int use_pool(mp_call *call)
{
    mp_pool *pool = mp_pool_new(.processes = 4);
    long in[] = { 1, 2, 3 }, out[3] = { 0 };
    int r;

    (void)call;
    if (!pool)
        return 1;
    r = mp_pool_map(pool, square, MP_ITEMS(in, 3), MP_ITEMS(out, 3));
    mp_pool_free(pool);
    return r == 0 && out[0] == 1 && out[1] == 4 && out[2] == 9 ? 0 : 2;
}

/* As it leaves, its pool is not freed. */
static int leave_pool(mp_call *call)
{
    mp_pool *pool = mp_pool_new(.processes = 2);

    (void)call;
    return pool && mp_pool_apply(pool, square, MP_ARGS(1)) == 0 ? 0 : 1;
}

static void a_process_may_have_a_pool(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = use_pool)), 0);
    assert_int_equal(finish(start_process(.target = use_pool, .daemon = true)), 0);
    assert_int_equal(finish(start_process(.target = leave_pool)), 0);
}

static void several_pools_live_side_by_side(void **state)
{
    mp_pool *pools[4];

    (void)state;
    for (int i = 0; i < 4; i++)
        pools[i] = make_pool(.processes = 2);
    for (int i = 0; i < 4; i++)
        check_map(pools[i], 50);
    mp_pool_free(pools[1]);
    check_map(pools[2], 50);
    mp_pool_free(pools[3]);
    check_map(pools[0], 50);
    mp_pool_free(pools[0]);
    check_map(pools[2], 50);
    mp_pool_free(pools[2]);
}

static void a_pool_has_the_context_it_is_given(void **state)
{
    static const char *const methods[] = { "fork", "spawn", "forkserver" };

    (void)state;
    for (int i = 0; i < 3; i++) {
        mp_pool *pool = make_pool(.processes = 1, .context = mp_get_context(methods[i]));

        check_map(pool, 10);
        mp_pool_free(pool);
    }
}

/* ---- threads ---- */

typedef struct {
    atomic_bool stop;
    const char *failure;
} busy_thread;

static void *allocate_all_the_time(void *argument)
{
    busy_thread *b = argument;

    while (!b->stop)
        free(malloc(100));
    return NULL;
}

static void a_program_with_threads_may_have_a_pool(void **state)
{
    busy_thread b = { .failure = NULL };
    pthread_t threads[2];

    if (HAS_TSAN && strcmp(*state, "spawn") != 0)
        skip();                     /* TSan cannot follow a fork of a process with threads */
    mp_log_to_stderr(MP_LOG_ERROR); /* fork warns of threads, once */
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, allocate_all_the_time, &b), 0);
    for (int i = 0; i < 3; i++) {
        mp_pool *pool = make_pool(.processes = 2, .maxtasksperchild = 3);

        check_map(pool, 30);
        mp_pool_free(pool);
    }
    b.stop = true;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    mp_log_to_stderr(MP_LOG_WARNING);
}

static void *make_and_use_pools(void *argument)
{
    busy_thread *b = argument;

    for (int i = 0; i < 5 && !b->failure; i++) {
        mp_pool *pool = mp_pool_new(.processes = 2);
        long in[] = { 1, 2, 3 }, out[3] = { 0 };

        if (!pool || mp_pool_map(pool, square, MP_ITEMS(in, 3), MP_ITEMS(out, 3)) || out[2] != 9)
            b->failure = mp_last_error()->text;
        mp_pool_free(pool);
    }
    return NULL;
}

static void threads_may_make_pools_of_their_own(void **state)
{
    busy_thread users[3] = { { .failure = NULL } };
    pthread_t threads[3];

    if (HAS_TSAN && strcmp(*state, "spawn") != 0)
        skip();
    mp_log_to_stderr(MP_LOG_ERROR);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, make_and_use_pools, &users[i]), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < 3; i++)
        assert_null(users[i].failure);
    mp_log_to_stderr(MP_LOG_WARNING);
}

/* What a fresh child has of other people's channels. */
static int count_sockets(mp_call *call)
{
    struct stat status;
    int count = 0;

    (void)call;
    for (int fd = 3; fd < 256; fd++)
        count += fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
    return count;
}

static atomic_bool pools_are_made;

static void *make_pools(void *failed)
{
    for (int i = 0; i < 100; i++) {
        mp_pool *pool = mp_pool_new(.processes = 2);

        *(bool *)failed |= !pool;
        mp_pool_free(pool);
    }
    atomic_store(&pools_are_made, true);
    return NULL;
}

/* Who is forked while another thread makes a pool would keep its ends open. */
static void a_child_holds_no_channel_of_a_pool_that_another_thread_makes(void **state)
{
    pthread_t thread;
    bool failed = false;
    int alone;

    (void)state;
    if (HAS_TSAN)
        skip();
    mp_log_to_stderr(MP_LOG_ERROR); /* fork with threads is the point */
    (void)finish(start_process());  /* what is made once is made */
    alone = finish(start_process(.target = count_sockets));
    atomic_store(&pools_are_made, false);
    assert_int_equal(pthread_create(&thread, NULL, make_pools, &failed), 0);
    while (!atomic_load(&pools_are_made))
        assert_int_equal(finish(start_process(.target = count_sockets)), alone);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_false(failed);
    mp_log_to_stderr(MP_LOG_WARNING);
}

static int wait_at_line(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r = mp_unpack(call, &line);

    if (r == 0)
        r = mp_connection_recv(line, &message) != MP_EEOF;
    mp_message_clear(&message);
    return r;
}

static int sockets_of_a_copy(void)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0)
        _exit(count_sockets(NULL));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Or it would keep workers alive when their pool is not any more. */
static void a_child_made_by_hand_holds_no_channel_of_a_pool(void **state)
{
    mp_process *running;
    mp_connection *line;
    int before = sockets_of_a_copy();
    mp_pool *pool = make_pool(.processes = 3);

    (void)state;
    assert_int_equal(mp_pool_apply(pool, square, MP_ARGS(3), NULL), 0);
    assert_int_equal(sockets_of_a_copy(), before);
    running = start_with_line(wait_at_line, &line);
    assert_int_equal(sockets_of_a_copy(), before + 1); /* the line is the program's */
    mp_connection_free(line);
    assert_int_equal(finish(running), 0);
    mp_pool_free(pool);
}

static int wait_at_gate_and_drop(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *gate, *dropped;
    int r = mp_unpack(call, &gate, &dropped);

    if (r == 0)
        r = mp_connection_recv(gate, &message) != MP_EEOF;
    mp_message_clear(&message);
    return r;
}

/* A task that waits for its worker has a duplicate of its connection, which is the pool's. */
static void a_child_does_not_hold_what_lies_in_a_pool(void **state)
{
    mp_pool *pool = make_pool(.processes = 1);
    mp_connection *gate, *far, *here, *there, *line;
    mp_message message = MP_MESSAGE_INIT;
    mp_result *first, *second;
    mp_process *running;

    (void)state;
    assert_int_equal(mp_pipe(&gate, &far), 0);
    assert_int_equal(mp_pipe(&here, &there), 0);
    first = mp_pool_apply_async(pool, wait_at_gate_and_drop, MP_ARGS(far, far));
    second = mp_pool_apply_async(pool, wait_at_gate_and_drop, MP_ARGS(far, there));
    mp_connection_free(far);
    mp_connection_free(there);
    running = start_with_line(wait_at_line, &line);
    mp_connection_free(gate);
    assert_int_equal(mp_result_get(first, NULL, PATIENCE), 0);
    assert_int_equal(mp_result_get(second, NULL, PATIENCE), 0);
    assert_int_equal(mp_connection_poll(here, PATIENCE), 1); /* while the child still runs */
    assert_int_equal(mp_connection_recv(here, &message), MP_EEOF);
    mp_message_clear(&message);
    mp_connection_free(line);
    assert_int_equal(finish(running), 0);
    mp_connection_free(here);
    mp_result_free(first);
    mp_result_free(second);
    mp_pool_free(pool);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(a_child_made_by_hand_holds_no_channel_of_a_pool),
    UNDER_EACH(a_child_does_not_hold_what_lies_in_a_pool),
    UNDER_EACH(a_child_holds_no_channel_of_a_pool_that_another_thread_makes),
    UNDER_EACH(a_closed_pool_does_what_it_was_given),
    UNDER_EACH(join_waits_for_the_last_task),
    UNDER_EACH(closing_joining_and_terminating_again_do_nothing),
    UNDER_EACH(a_pool_may_end_before_it_has_begun),
    UNDER_EACH(terminate_ends_ten_thousand_tasks_at_once),
    UNDER_EACH(terminate_ends_workers_that_ignore_sigterm),
    UNDER_EACH(a_pool_with_work_may_be_freed),
    UNDER_EACH(a_thread_may_terminate_the_pool_that_another_waits_for),
    UNDER_EACH(threads_may_join_while_another_closes),
    UNDER_EACH(workers_leave_by_way_of_their_exit_handlers),
    UNDER_EACH(workers_are_replaced_after_so_many_items),
    UNDER_EACH(all_workers_are_new_after_a_hundred_tasks),
    UNDER_EACH(closing_early_replaces_workers_until_all_is_done),
    UNDER_EACH(a_pool_that_replaces_workers_may_be_freed_at_any_time),
    UNDER_EACH(the_initializer_runs_once_in_each_worker_before_its_first_item),
    UNDER_EACH(a_pool_whose_initializer_always_fails_is_broken),
    UNDER_EACH(a_broken_pool_may_be_closed_and_joined),
    UNDER_EACH(an_initializer_may_fail_three_times),
    UNDER_EACH(an_initializer_may_fail_in_replacements),
    UNDER_EACH(a_pool_whose_replacements_never_begin_is_broken),
    UNDER_EACH(an_initializer_that_returns_a_code_has_failed),
    UNDER_EACH(a_pool_that_cannot_start_leaves_nothing),
    UNDER_EACH(replacements_see_the_program_as_it_was_when_the_pool_was_made),
    UNDER_EACH(a_program_may_end_without_freeing_its_pool),
    UNDER_EACH(a_program_may_end_while_its_pool_is_busy),
    UNDER_EACH(a_program_may_exit_in_a_callback),
    UNDER_EACH(a_process_may_have_a_pool),
    UNDER_EACH(several_pools_live_side_by_side),
    UNDER_EACH(a_pool_has_the_context_it_is_given),
    UNDER_EACH(a_program_with_threads_may_have_a_pool),
    UNDER_EACH(threads_may_make_pools_of_their_own),
};

TESTS_MAIN(tests)
