/* SPDX-License-Identifier: MIT
 *
 * test_synchronize_barrier.c - barriers: parties in lockstep, and how one breaks.
 */
#include "boards.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

enum { PARTIES = 5 };
enum { ENTERED, PASSED, BROKEN, FIRSTS, ACTIONS, GOOD, READY };

/* ---- parties: one thread here, processes for the others ---- */

typedef struct group {
    mp_barrier *barrier;
    mp_connection *travelling;
    board *board;
    mp_process *children[PARTIES];
} group;

static group new_group(mp_barrier *barrier)
{
    group g = { .barrier = barrier };

    assert_non_null(barrier);
    g.board = new_board(&g.travelling);
    return g;
}

static void free_group(group *g)
{
    mp_barrier_free(g->barrier);
    free_board(g->board, g->travelling);
}

static void start_others(group *g, mp_function target, int argument)
{
    for (int i = 1; i < PARTIES; i++)
        g->children[i] =
            start_process(.target = target, .args = MP_ARGS(g->barrier, g->travelling, argument));
}

static void finish_others(group *g)
{
    for (int i = 1; i < PARTIES; i++)
        assert_int_equal(finish(g->children[i]), 0);
}

static int take_part(mp_call *call, mp_barrier **barrier, board **b, int *argument)
{
    mp_connection *travelling;

    if (mp_unpack(call, barrier, &travelling, argument) || !(*b = board_of(travelling)))
        return -1;
    mp_barrier_set_argument(*barrier, *b);
    return 0;
}

/* ---- lockstep ---- */

/* Before a round is over all have entered it; before it begins, all have left the one before. */
static bool go_rounds(mp_barrier *barrier, board *b, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        int r;

        if (atomic_load(&b->n[PASSED]) < i * PARTIES - PARTIES)
            return false;
        atomic_fetch_add(&b->n[ENTERED], 1);
        r = mp_barrier_wait(barrier, MP_FOREVER);
        if (r < 0 || r >= PARTIES || atomic_load(&b->n[ENTERED]) < (i + 1) * PARTIES)
            return false;
        atomic_fetch_add(&b->n[FIRSTS], r == 0);
        atomic_fetch_add(&b->n[10 + r], 1);
        atomic_fetch_add(&b->n[PASSED], 1);
    }
    return true;
}

static int walk(mp_call *call)
{
    mp_barrier *barrier;
    board *b;
    int rounds;

    if (take_part(call, &barrier, &b, &rounds))
        return 99;
    return !go_rounds(barrier, b, rounds);
}

static void walk_together(int rounds)
{
    group g = new_group(mp_barrier_new(PARTIES));

    start_others(&g, walk, rounds);
    assert_true(go_rounds(g.barrier, g.board, rounds));
    finish_others(&g);
    assert_int_equal(atomic_load(&g.board->n[FIRSTS]), rounds);
    for (int i = 0; i < PARTIES; i++) /* each number once a round */
        assert_int_equal(atomic_load(&g.board->n[10 + i]), rounds);
    assert_int_equal(mp_barrier_n_waiting(g.barrier), 0);
    assert_int_equal(mp_barrier_parties(g.barrier), PARTIES);
    assert_false(mp_barrier_broken(g.barrier));
    free_group(&g);
}

static void parties_pass_in_lockstep(void **state)
{
    (void)state;
    walk_together(1);
}

static void ten_rounds_pass_in_lockstep(void **state)
{
    (void)state;
    walk_together(10);
}

static void a_thousand_rounds_pass_in_lockstep(void **state)
{
    (void)state;
    walk_together(1000);
}

static void a_barrier_of_one_never_blocks(void **state)
{
    mp_barrier *barrier = mp_barrier_new(1);

    (void)state;
    assert_int_equal(mp_barrier_wait(barrier, MP_FOREVER), 0);
    assert_int_equal(mp_barrier_wait(barrier, 0), 0);
    mp_barrier_free(barrier);
    mp_barrier_free(NULL);
    assert_null(mp_barrier_new(0));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_null(mp_barrier_new(MP_BARRIER_PARTIES_MAX + 1));
    assert_null(mp_barrier_new(2, .timeout = -1));
}

/* ---- the action ---- */

static int count_action(void *argument)
{
    atomic_fetch_add(&((board *)argument)->n[ACTIONS], 1);
    return 0;
}

static void the_action_runs_once_a_round(void **state)
{
    group g = new_group(mp_barrier_new(PARTIES, .action = count_action));

    (void)state;
    mp_barrier_set_argument(g.barrier, g.board);
    start_others(&g, walk, 3);
    assert_true(go_rounds(g.barrier, g.board, 3));
    assert_int_equal(atomic_load(&g.board->n[ACTIONS]), 3);
    finish_others(&g);
    free_group(&g);
}

static int fail_action(void *argument)
{
    (void)argument;
    return 17;
}

/* Waits and says what came of it. */
static int wait_once(mp_call *call)
{
    mp_barrier *barrier;
    board *b;
    int unused, r;

    if (take_part(call, &barrier, &b, &unused))
        return 99;
    atomic_fetch_add(&b->n[ENTERED], 1);
    r = mp_barrier_wait(barrier, MP_FOREVER);
    atomic_fetch_add(&b->n[r >= 0                   ? PASSED
                           : r == MP_EBROKENBARRIER ? BROKEN
                           : r == MP_ERAISED        ? ACTIONS
                                                    : READY],
        1);
    return 0;
}

static void an_action_that_fails_breaks_the_barrier(void **state)
{
    group g = new_group(mp_barrier_new(PARTIES, .action = fail_action));
    int r;

    (void)state;
    start_others(&g, wait_once, 0);
    r = mp_barrier_wait(g.barrier, MP_FOREVER);
    finish_others(&g);
    assert_true(r == MP_EBROKENBARRIER || r == MP_ERAISED);
    assert_int_equal(atomic_load(&g.board->n[BROKEN]) + (r == MP_EBROKENBARRIER), PARTIES - 1);
    assert_int_equal(atomic_load(&g.board->n[ACTIONS]) + (r == MP_ERAISED), 1);
    assert_true(mp_barrier_broken(g.barrier));
    free_group(&g);
}

/* ---- breaking ---- */

static void start_waiting(group *g)
{
    start_others(g, wait_once, 0);
    while (mp_barrier_n_waiting(g->barrier) < PARTIES - 1)
        nap();
}

static void abort_breaks_it_for_all(void **state)
{
    group g = new_group(mp_barrier_new(PARTIES));

    (void)state;
    start_waiting(&g);
    assert_int_equal(mp_barrier_abort(g.barrier), 0);
    finish_others(&g);
    assert_int_equal(atomic_load(&g.board->n[BROKEN]), PARTIES - 1);
    assert_true(mp_barrier_broken(g.barrier));
    assert_int_equal(mp_barrier_n_waiting(g.barrier), 0);
    assert_int_equal(mp_barrier_wait(g.barrier, MP_FOREVER), MP_EBROKENBARRIER);
    free_group(&g);
}

static void reset_breaks_it_for_those_that_wait_and_it_works_again(void **state)
{
    group g = new_group(mp_barrier_new(PARTIES));

    (void)state;
    start_waiting(&g);
    assert_int_equal(mp_barrier_reset(g.barrier), 0);
    finish_others(&g);
    assert_int_equal(atomic_load(&g.board->n[BROKEN]), PARTIES - 1);
    assert_false(mp_barrier_broken(g.barrier));
    start_others(&g, wait_once, 0);
    assert_true(mp_barrier_wait(g.barrier, MP_FOREVER) >= 0);
    finish_others(&g);
    assert_int_equal(atomic_load(&g.board->n[PASSED]), PARTIES - 1);
    free_group(&g);
}

static void reset_repairs_a_broken_one(void **state)
{
    group g = new_group(mp_barrier_new(PARTIES));

    (void)state;
    assert_int_equal(mp_barrier_abort(g.barrier), 0);
    assert_int_equal(mp_barrier_wait(g.barrier, 1), MP_EBROKENBARRIER);
    assert_int_equal(mp_barrier_reset(g.barrier), 0);
    start_others(&g, walk, 10);
    assert_true(go_rounds(g.barrier, g.board, 10));
    finish_others(&g);
    free_group(&g);
}

static void a_party_that_is_late_breaks_it_for_all(void **state)
{
    group g = new_group(mp_barrier_new(PARTIES + 1)); /* one never comes */

    (void)state;
    start_waiting(&g);
    assert_int_equal(mp_barrier_wait(g.barrier, 0.01), MP_EBROKENBARRIER);
    finish_others(&g);
    assert_int_equal(atomic_load(&g.board->n[BROKEN]), PARTIES - 1);
    assert_true(mp_barrier_broken(g.barrier));
    free_group(&g);
}

static void its_own_timeout_is_that_of_waits_without_one(void **state)
{
    group g = new_group(mp_barrier_new(PARTIES, .timeout = 0.05));
    double begin = seconds_now();

    (void)state;
    start_others(&g, wait_once, 0);
    finish_others(&g);
    assert_int_equal(atomic_load(&g.board->n[BROKEN]), PARTIES - 1);
    assert_true(seconds_now() - begin >= 0.05);
    assert_int_equal(mp_barrier_wait(g.barrier, MP_FOREVER), MP_EBROKENBARRIER);
    free_group(&g);
}

static void a_party_that_dies_waiting_breaks_it(void **state)
{
    (void)state;
    for (int victim = 1; victim < PARTIES; victim++) {
        group g = new_group(mp_barrier_new(PARTIES));

        start_waiting(&g);
        assert_int_equal(mp_process_kill(g.children[victim]), 0);
        assert_int_equal(finish(g.children[victim]), -SIGKILL);
        for (int i = 1; i < PARTIES; i++)
            if (i != victim)
                assert_int_equal(finish(g.children[i]), 0);
        assert_int_equal(atomic_load(&g.board->n[BROKEN]), PARTIES - 2);
        assert_true(mp_barrier_broken(g.barrier));
        free_group(&g);
    }
}

/* Nobody passes with one that is dead, also when the last comes before it was noticed. */
static void the_last_to_come_does_not_pass_with_a_dead_one(void **state)
{
    mp_barrier *barrier = mp_barrier_new(2);
    mp_connection *travelling;
    board *b = new_board(&travelling);
    mp_process *p = start_process(.target = wait_once, .args = MP_ARGS(barrier, travelling, 0));

    (void)state;
    while (mp_barrier_n_waiting(barrier) < 1)
        nap();
    assert_int_equal(mp_process_kill(p), 0);
    assert_int_equal(finish(p), -SIGKILL);
    assert_int_equal(mp_barrier_wait(barrier, MP_FOREVER), MP_EBROKENBARRIER);
    mp_barrier_free(barrier);
    free_board(b, travelling);
}

static int die_in_action(void *argument)
{
    (void)argument;
    return raise(SIGKILL);
}

static void a_party_that_dies_in_the_action_breaks_it(void **state)
{
    group g = new_group(mp_barrier_new(PARTIES - 1, .action = die_in_action));
    int killed = 0;

    (void)state;
    start_others(&g, wait_once, 0);
    for (int i = 1; i < PARTIES; i++)
        killed += finish(g.children[i]) == -SIGKILL;
    assert_int_equal(killed, 1);
    assert_int_equal(atomic_load(&g.board->n[BROKEN]), PARTIES - 2);
    free_group(&g);
}

/* ---- more threads than parties ---- */

enum { PASSES = 4000 };
static atomic_int passes;

/* Until there were enough: then the one that is left over must not wait for ever. */
static void *pass_many_times(void *argument)
{
    while (mp_barrier_wait(argument, MP_FOREVER) >= 0)
        if (atomic_fetch_add(&passes, 1) >= PASSES)
            (void)mp_barrier_abort(argument);
    return mp_last_error()->code == MP_EBROKENBARRIER ? argument : NULL;
}

static void more_threads_than_parties_share_it(void **state)
{
    mp_barrier *barrier = mp_barrier_new(2);
    pthread_t threads[5];

    (void)state;
    for (int i = 0; i < 5; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, pass_many_times, barrier), 0);
    for (int i = 0; i < 5; i++) {
        void *seen;

        assert_int_equal(pthread_join(threads[i], &seen), 0);
        assert_ptr_equal(seen, barrier);
    }
    mp_barrier_free(barrier);
}

/* ---- who comes early for the next round ---- */

static atomic_bool action_runs, early_one_came;

static int wait_for_the_early_one(void *argument)
{
    (void)argument;
    atomic_store(&action_runs, true);
    while (!atomic_load(&early_one_came))
        nap();
    for (int i = 0; i < 50; i++) /* its time, 10 ms, is over: were it counted, it would break us */
        nap();
    return 0;
}

static void *come_early(void *barrier)
{
    int r;

    while (!atomic_load(&action_runs))
        nap();
    atomic_store(&early_one_came, true);
    r = mp_barrier_wait(barrier, 0.01);
    return r == MP_EBROKENBARRIER ? barrier : NULL;
}

static void *pass_once(void *barrier)
{
    return mp_barrier_wait(barrier, PATIENCE) >= 0 ? barrier : NULL;
}

/* As in Python: it waits for the round to be over, and its time runs from then. */
static void who_comes_early_does_not_break_the_round_before(void **state)
{
    mp_barrier *barrier = mp_barrier_new(2, .action = wait_for_the_early_one);
    void *(*const roles[])(void *) = { pass_once, pass_once, come_early };
    pthread_t threads[3];

    (void)state;
    atomic_store(&action_runs, false);
    atomic_store(&early_one_came, false);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, roles[i], barrier), 0);
    for (int i = 0; i < 3; i++) {
        void *seen;

        assert_int_equal(pthread_join(threads[i], &seen), 0);
        assert_ptr_equal(seen, barrier);
    }
    mp_barrier_free(barrier);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(parties_pass_in_lockstep),
    UNDER_EACH(ten_rounds_pass_in_lockstep),
    UNDER_EACH(a_thousand_rounds_pass_in_lockstep),
    ONCE(a_barrier_of_one_never_blocks),
    UNDER_EACH(the_action_runs_once_a_round),
    UNDER_EACH(an_action_that_fails_breaks_the_barrier),
    UNDER_EACH(abort_breaks_it_for_all),
    UNDER_EACH(reset_breaks_it_for_those_that_wait_and_it_works_again),
    UNDER_EACH(reset_repairs_a_broken_one),
    UNDER_EACH(a_party_that_is_late_breaks_it_for_all),
    UNDER_EACH(its_own_timeout_is_that_of_waits_without_one),
    UNDER_EACH(a_party_that_dies_waiting_breaks_it),
    UNDER_EACH(the_last_to_come_does_not_pass_with_a_dead_one),
    UNDER_EACH(a_party_that_dies_in_the_action_breaks_it),
    ONCE(more_threads_than_parties_share_it),
    ONCE(who_comes_early_does_not_break_the_round_before),
};

TESTS_MAIN(tests)
