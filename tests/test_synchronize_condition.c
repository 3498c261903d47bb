/* SPDX-License-Identifier: MIT
 *
 * test_synchronize_condition.c - conditions: who is woken, how many, and what a
 * wait comes to.
 */
#include "boards.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "synchronize_internal.h"

enum { SLEEPING, WOKEN, TIMED_OUT, ORDER }; /* numbers on the board */

/* ---- who waits ---- */

static int sleep_and_say(mp_condition *condition, board *b, double timeout)
{
    int r, e;

    if (mp_condition_acquire(condition, MP_FOREVER))
        return 1;
    atomic_fetch_add(&b->n[SLEEPING], 1);
    r = mp_condition_wait(condition, timeout);
    atomic_fetch_add(&b->n[r == 0 ? WOKEN : TIMED_OUT], 1);
    e = mp_condition_release(condition);
    return (r && r != MP_ETIMEDOUT) || e;
}

static int sleeper(mp_call *call)
{
    mp_connection *travelling;
    mp_condition *condition;
    double timeout;
    board *b;

    if (mp_unpack(call, &condition, &travelling, &timeout) || !(b = board_of(travelling)))
        return 99;
    return sleep_and_say(condition, b, timeout);
}

typedef struct crowd {
    mp_condition *condition;
    mp_connection *travelling;
    board *board;
    mp_process *children[3];
    pthread_t threads[3];
    double timeout;
} crowd;

static void *sleep_in_a_thread(void *argument)
{
    crowd *c = argument;

    return sleep_and_say(c->condition, c->board, c->timeout) ? NULL : c;
}

/* So many processes and as many threads wait, when this returns. */
static void gather(crowd *c, int count, double timeout)
{
    int already = atomic_load(&c->board->n[SLEEPING]);

    c->timeout = timeout;
    for (int i = 0; i < count; i++) {
        c->children[i] =
            start_process(.target = sleeper, .args = MP_ARGS(c->condition, c->travelling, timeout));
        assert_int_equal(pthread_create(&c->threads[i], NULL, sleep_in_a_thread, c), 0);
    }
    await(&c->board->n[SLEEPING], already + 2 * count);
    assert_int_equal(mp_condition_acquire(c->condition, PATIENCE), 0); /* now all are asleep */
    assert_int_equal(mp_condition_release(c->condition), 0);
}

static void disperse(crowd *c, int count)
{
    for (int i = 0; i < count; i++) {
        void *seen;

        assert_int_equal(pthread_join(c->threads[i], &seen), 0);
        assert_ptr_equal(seen, c);
        assert_int_equal(finish(c->children[i]), 0);
    }
}

static crowd new_crowd(void)
{
    crowd c = { .condition = mp_condition_new(NULL) };

    assert_non_null(c.condition);
    c.board = new_board(&c.travelling);
    return c;
}

static unsigned waiters(crowd *c)
{
    unsigned count;

    assert_int_equal(mp_condition_acquire(c->condition, PATIENCE), 0);
    count = mp__condition_waiters(c->condition);
    assert_int_equal(mp_condition_release(c->condition), 0);
    return count;
}

static void free_crowd(crowd *c)
{
    assert_int_equal(waiters(c), 0);
    mp_condition_free(c->condition);
    free_board(c->board, c->travelling);
}

static void notify(crowd *c, int n)
{
    assert_int_equal(mp_condition_acquire(c->condition, PATIENCE), 0);
    assert_int_equal(
        n < 0 ? mp_condition_notify_all(c->condition) : mp_condition_notify(c->condition, n), 0);
    assert_int_equal(mp_condition_release(c->condition), 0);
}

/* ---- notifying ---- */

static void notify_wakes_one_at_a_time(void **state)
{
    crowd c = new_crowd();

    (void)state;
    gather(&c, 1, MP_FOREVER);
    assert_int_equal(atomic_load(&c.board->n[WOKEN]), 0);
    notify(&c, 1);
    await(&c.board->n[WOKEN], 1);
    assert_int_equal(waiters(&c), 1);
    assert_int_equal(atomic_load(&c.board->n[WOKEN]), 1);
    notify(&c, 1);
    await(&c.board->n[WOKEN], 2);
    disperse(&c, 1);
    free_crowd(&c);
}

static void notify_all_wakes_all_that_wait_and_none_that_timed_out(void **state)
{
    crowd c = new_crowd();

    (void)state;
    gather(&c, 3, 0.01);
    await(&c.board->n[TIMED_OUT], 6);
    disperse(&c, 3);
    assert_int_equal(atomic_load(&c.board->n[WOKEN]), 0);
    gather(&c, 3, MP_FOREVER);
    notify(&c, -1);
    disperse(&c, 3);
    assert_int_equal(atomic_load(&c.board->n[WOKEN]), 6);
    free_crowd(&c);
}

static void notify_n_wakes_exactly_n_that_live(void **state)
{
    crowd c = new_crowd();

    (void)state;
    gather(&c, 3, MP_FOREVER);
    notify(&c, 2);
    await(&c.board->n[WOKEN], 2);
    assert_int_equal(waiters(&c), 4);
    assert_int_equal(atomic_load(&c.board->n[WOKEN]), 2);
    notify(&c, 4);
    await(&c.board->n[WOKEN], 6);
    notify(&c, 3);
    disperse(&c, 3);
    assert_int_equal(atomic_load(&c.board->n[WOKEN]), 6);
    free_crowd(&c);
}

static int sleep_in_order(mp_call *call)
{
    mp_connection *travelling;
    mp_condition *condition;
    int number, r;
    board *b;

    if (mp_unpack(call, &condition, &travelling, &number) || !(b = board_of(travelling)))
        return 99;
    r = mp_condition_acquire(condition, MP_FOREVER);
    atomic_fetch_add(&b->n[SLEEPING], 1);
    if (r == 0)
        r = mp_condition_wait(condition, MP_FOREVER);
    atomic_store(&b->n[ORDER + atomic_load(&b->n[WOKEN])], number);
    atomic_fetch_add(&b->n[WOKEN], 1);
    return r < 0 || mp_condition_release(condition) < 0;
}

static void who_waits_longest_is_woken_first(void **state)
{
    crowd c = new_crowd();

    (void)state;
    for (int i = 0; i < 3; i++) {
        c.children[i] =
            start_process(.target = sleep_in_order, .args = MP_ARGS(c.condition, c.travelling, i));
        await(&c.board->n[SLEEPING], i + 1);
        assert_int_equal(waiters(&c), (unsigned)i + 1); /* it let go of the lock */
    }
    for (int i = 0; i < 3; i++) {
        notify(&c, 1);
        await(&c.board->n[WOKEN], i + 1);
        assert_int_equal(atomic_load(&c.board->n[ORDER + i]), i);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(finish(c.children[i]), 0);
    free_crowd(&c);
}

static void dead_waiters_are_not_counted(void **state)
{
    crowd c = new_crowd();

    (void)state;
    gather(&c, 3, MP_FOREVER);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mp_process_kill(c.children[i]), 0);
        assert_int_equal(finish(c.children[i]), -SIGKILL);
    }
    notify(&c, 3); /* the three threads, whichever came first */
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_join(c.threads[i], NULL), 0);
    assert_int_equal(atomic_load(&c.board->n[WOKEN]), 3);
    free_crowd(&c);
}

/* ---- what a wait comes to ---- */

static void a_wait_ends_after_its_timeout(void **state)
{
    mp_condition *condition = mp_condition_new(NULL);
    double begin = seconds_now();

    (void)state;
    assert_int_equal(mp_condition_wait(condition, 0), MP_ENOTHELD);
    assert_int_equal(mp_condition_notify(condition, 1), MP_ENOTHELD);
    assert_int_equal(mp_condition_notify_all(condition), MP_ENOTHELD);
    assert_int_equal(mp_condition_acquire(condition, 0), 0);
    assert_int_equal(mp_condition_notify(condition, -1), MP_EINVAL);
    assert_int_equal(mp_condition_notify(condition, 5), 0); /* nobody there: it is not kept */
    assert_int_equal(mp_condition_wait(condition, 0.03), MP_ETIMEDOUT);
    assert_true(seconds_now() - begin >= 0.03);
    assert_int_equal(mp_condition_wait(condition, 0), MP_ETIMEDOUT);
    assert_int_equal(mp_condition_wait(condition, -1), MP_ETIMEDOUT);
    assert_int_equal(mp_condition_release(condition), 0);
    assert_int_equal(mp_condition_release(condition), MP_ENOTHELD);
    mp_condition_free(condition);
    mp_condition_free(NULL);
}

static bool has_four(void *argument)
{
    return atomic_load(&((board *)argument)->n[10]) == 4;
}

static bool has_five(void *argument)
{
    return atomic_load(&((board *)argument)->n[10]) == 5;
}

static int count_to_four(mp_call *call)
{
    mp_connection *travelling;
    mp_condition *condition;
    board *b;
    int r;

    if (mp_unpack(call, &condition, &travelling) || !(b = board_of(travelling)))
        return 99;
    for (int i = 0; i < 4; i++) {
        r = mp_condition_acquire(condition, PATIENCE);
        if (r == 0) {
            atomic_fetch_add(&b->n[10], 1);
            r = mp_condition_notify(condition, 1);
        }
        if (r < 0 || mp_condition_release(condition) < 0)
            return 1;
    }
    return 0;
}

static void wait_for_waits_until_the_predicate_says_so(void **state)
{
    crowd c = new_crowd();
    mp_process *p;
    double begin;

    (void)state;
    p = start_process(.target = count_to_four, .args = MP_ARGS(c.condition, c.travelling));
    assert_int_equal(mp_condition_wait_for(c.condition, has_four, c.board, 1), MP_ENOTHELD);
    assert_int_equal(mp_condition_acquire(c.condition, PATIENCE), 0);
    assert_int_equal(mp_condition_wait_for(c.condition, has_four, c.board, PATIENCE), 0);
    assert_int_equal(atomic_load(&c.board->n[10]), 4);
    begin = seconds_now();
    assert_int_equal(mp_condition_wait_for(c.condition, has_five, c.board, 0.05), MP_ETIMEDOUT);
    assert_true(seconds_now() - begin >= 0.05);
    assert_int_equal(mp_condition_wait_for(c.condition, has_four, c.board, -1), 0);
    assert_int_equal(mp_condition_wait_for(c.condition, NULL, NULL, 0), MP_EINVAL);
    assert_int_equal(mp_condition_release(c.condition), 0);
    assert_int_equal(finish(p), 0);
    free_crowd(&c);
}

/* All levels are let go, and are there again. */
static void a_wait_lets_go_of_all_levels_of_the_lock(void **state)
{
    crowd c = new_crowd();
    mp_process *p;

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(mp_condition_acquire(c.condition, PATIENCE), 0);
    p = start_process(.target = count_to_four, .args = MP_ARGS(c.condition, c.travelling));
    assert_int_equal(mp_condition_wait_for(c.condition, has_four, c.board, PATIENCE), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(mp_condition_release(c.condition), 0);
    assert_int_equal(mp_condition_release(c.condition), MP_ENOTHELD);
    assert_int_equal(finish(p), 0);
    free_crowd(&c);
}

/* The lock is the user's, and it and the condition may travel apart. */
static int notify_by_the_lock(mp_call *call)
{
    mp_condition *condition;
    mp_lock *lock;

    if (mp_unpack(call, &lock, &condition))
        return 99;
    return mp_lock_acquire(lock, PATIENCE) || mp_condition_notify(condition, 1) ||
           mp_lock_release(lock);
}

static void a_condition_over_a_given_lock_uses_that(void **state)
{
    mp_lock *lock = mp_lock_new();
    mp_condition *condition = mp_condition_new(lock);
    mp_process *p;

    (void)state;
    assert_int_equal(mp_lock_acquire(lock, 0), 0);
    assert_int_equal(mp_condition_acquire(condition, 0), MP_ETIMEDOUT);
    p = start_process(.target = notify_by_the_lock, .args = MP_ARGS(lock, condition));
    assert_int_equal(mp_condition_wait(condition, PATIENCE), 0);
    assert_int_equal(mp_condition_release(condition), 0);
    assert_false(mp_lock_locked(lock));
    mp_lock_free(lock);
    assert_int_equal(mp_condition_acquire(condition, 0), 0);
    assert_int_equal(mp_condition_release(condition), 0);
    assert_int_equal(finish(p), 0);
    mp_condition_free(condition);
}

static int notify_and_die(mp_call *call)
{
    mp_condition *condition;

    if (mp_unpack(call, &condition) || mp_condition_acquire(condition, PATIENCE) ||
        mp_condition_notify(condition, 1))
        return 99;
    return raise(SIGKILL);
}

static void a_waiter_is_told_when_the_lock_it_gets_back_is_from_a_dead_one(void **state)
{
    mp_condition *condition = mp_condition_new(NULL);
    mp_process *p;

    (void)state;
    assert_int_equal(mp_condition_acquire(condition, 0), 0);
    p = start_process(.target = notify_and_die, .args = MP_ARGS(condition));
    assert_int_equal(mp_condition_wait(condition, PATIENCE), MP_EOWNERDEAD);
    assert_int_equal(mp_condition_notify(condition, 1), 0);
    assert_int_equal(mp_condition_release(condition), 0);
    assert_int_equal(finish(p), -SIGKILL);
    mp_condition_free(condition);
}

/* ---- interrupts ---- */

static void interrupt(int sig)
{
    (void)sig;
    mp_interrupt();
}

static int wait_for_an_interrupt(mp_call *call)
{
    struct sigaction action = { .sa_handler = interrupt };
    mp_condition *condition;

    if (mp_unpack(call, &condition) || mp_allow_interrupt() || sigaction(SIGUSR1, &action, NULL) ||
        mp_condition_acquire(condition, PATIENCE))
        return 99;
    return mp_condition_wait(condition, MP_FOREVER) != MP_EINTR ||
           mp_condition_release(condition) != 0;
}

static void a_wait_says_how_it_ended(void **state)
{
    crowd c = new_crowd();
    mp_process *p;

    (void)state;
    p = start_process(.target = wait_for_an_interrupt, .args = MP_ARGS(c.condition));
    while (waiters(&c) == 0)
        nap();
    assert_int_equal(kill(mp_process_pid(p), SIGUSR1), 0);
    assert_int_equal(finish(p), 0);
    free_crowd(&c);
}

static int wait_for_both(mp_call *call)
{
    struct sigaction action = { .sa_handler = interrupt };
    mp_condition *condition;
    mp_event *event;

    if (mp_unpack(call, &condition, &event) || mp_allow_interrupt() ||
        sigaction(SIGUSR1, &action, NULL) || mp_condition_acquire(condition, PATIENCE))
        return 99;
    if (mp_condition_wait(condition, MP_FOREVER) != MP_EOWNERDEAD)
        return 1;
    return mp_condition_release(condition) != 0 || mp_event_wait(event, PATIENCE) != MP_EINTR;
}

static int interrupt_and_die(mp_call *call)
{
    mp_condition *condition;
    pid_t pid;

    if (mp_unpack(call, &condition, &pid) || mp_condition_acquire(condition, PATIENCE))
        return 99;
    return kill(pid, SIGUSR1) || raise(SIGKILL);
}

/* Both are told: that the holder died now, the interrupt by the next call that blocks. */
static void an_interrupt_is_not_lost_beside_a_death(void **state)
{
    crowd c = new_crowd();
    mp_event *event = mp_event_new();
    mp_process *p, *killer;

    (void)state;
    p = start_process(.target = wait_for_both, .args = MP_ARGS(c.condition, event));
    while (waiters(&c) == 0)
        nap();
    killer =
        start_process(.target = interrupt_and_die, .args = MP_ARGS(c.condition, mp_process_pid(p)));
    assert_int_equal(finish(killer), -SIGKILL);
    assert_int_equal(finish(p), 0);
    mp_event_free(event);
    free_crowd(&c);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(notify_wakes_one_at_a_time),
    UNDER_EACH(notify_all_wakes_all_that_wait_and_none_that_timed_out),
    UNDER_EACH(notify_n_wakes_exactly_n_that_live),
    UNDER_EACH(who_waits_longest_is_woken_first),
    UNDER_EACH(dead_waiters_are_not_counted),
    ONCE(a_wait_ends_after_its_timeout),
    UNDER_EACH(wait_for_waits_until_the_predicate_says_so),
    UNDER_EACH(a_wait_lets_go_of_all_levels_of_the_lock),
    UNDER_EACH(a_condition_over_a_given_lock_uses_that),
    UNDER_EACH(a_waiter_is_told_when_the_lock_it_gets_back_is_from_a_dead_one),
    UNDER_EACH(a_wait_says_how_it_ended),
    UNDER_EACH(an_interrupt_is_not_lost_beside_a_death),
};

TESTS_MAIN(tests)
