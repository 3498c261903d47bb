/* SPDX-License-Identifier: MIT
 *
 * test_synchronize_stress.c - eight processes use one object at once, many times,
 * and what it promises is checked each time. STRESS=100000 in the environment is
 * the number of times for each process (a few thousand unless told).
 */
#include "boards.h"

#include <sched.h>
#include <signal.h>

enum { PROCESSES = 8, ROOM = 3 };
enum { INSIDE, TOTAL, GONE, PING = 16, PONG = 32, NEWS = 48, COPY = 40 }; /* numbers on the board */

static int times(void)
{
    const char *text = getenv("STRESS");

    return text ? atoi(text) : HAS_ASAN || HAS_TSAN ? 300 : 5000;
}

/* ---- what each process does ---- */

static int use_lock(mp_call *call)
{
    mp_connection *travelling;
    mp_lock *lock;
    int count, depth;
    board *b;

    if (mp_unpack(call, &lock, &travelling, &count, &depth) || !(b = board_of(travelling)))
        return 99;
    for (int i = 0; i < count; i++) {
        for (int d = 0; d < depth; d++)
            if (mp_lock_acquire(lock, i % 2 ? MP_FOREVER : PATIENCE))
                return 1;
        if (atomic_fetch_add(&b->n[INSIDE], 1) != 0)
            return 2;
        b->plain++;
        atomic_fetch_sub(&b->n[INSIDE], 1);
        for (int d = 0; d < depth; d++)
            if (mp_lock_release(lock))
                return 3;
    }
    return 0;
}

static int use_semaphore(mp_call *call)
{
    mp_connection *travelling;
    mp_semaphore *semaphore;
    int count;
    board *b;

    if (mp_unpack(call, &semaphore, &travelling, &count) || !(b = board_of(travelling)))
        return 99;
    for (int i = 0; i < count; i++) {
        if (mp_semaphore_acquire(semaphore, i % 2 ? MP_FOREVER : PATIENCE))
            return 1;
        if (atomic_fetch_add(&b->n[INSIDE], 1) >= ROOM)
            return 2;
        atomic_fetch_add(&b->n[TOTAL], 1);
        atomic_fetch_sub(&b->n[INSIDE], 1);
        if (mp_semaphore_release(semaphore))
            return 3;
    }
    return 0;
}

/* Even ones put, odd ones take; there is room for a few. */
static int use_condition(mp_call *call)
{
    mp_connection *travelling;
    mp_condition *full, *empty;
    int count, number, r = 0;
    board *b;

    if (mp_unpack(call, &full, &empty, &travelling, &count, &number) || !(b = board_of(travelling)))
        return 99;
    for (int i = 0; i < count && r == 0; i++) {
        bool puts = number % 2 == 0;
        int limit = puts ? ROOM : 0;

        r = mp_condition_acquire(full, PATIENCE);
        while (r == 0 && b->plain == limit)
            r = mp_condition_wait(puts ? full : empty, PATIENCE);
        if (r < 0 || b->plain < 0 || b->plain > ROOM)
            return mp_perror("condition"), 1;
        b->plain += puts ? 1 : -1;
        r = mp_condition_notify(puts ? empty : full, 1);
        if (r == 0)
            r = mp_condition_release(full);
    }
    return r < 0;
}

/* A token goes round: each waits for its event and sets that of the next. */
static int use_events(mp_call *call)
{
    mp_connection *travelling;
    mp_event *mine, *next;
    int count, number;
    board *b;

    if (mp_unpack(call, &mine, &next, &travelling, &count, &number) || !(b = board_of(travelling)))
        return 99;
    for (int i = 0; i < count; i++) {
        if (mp_event_wait(mine, PATIENCE) || mp_event_clear(mine))
            return mp_perror("event"), 1;
        if (b->plain++ != (long)i * PROCESSES + number)
            return 2;
        if (mp_event_set(next))
            return 3;
    }
    return 0;
}

static int use_barrier(mp_call *call)
{
    mp_connection *travelling;
    mp_barrier *barrier;
    int count;
    board *b;

    if (mp_unpack(call, &barrier, &travelling, &count) || !(b = board_of(travelling)))
        return 99;
    for (int i = 0; i < count; i++) {
        atomic_fetch_add(&b->n[TOTAL], 1);
        if (mp_barrier_wait(barrier, PATIENCE) < 0)
            return mp_perror("barrier"), 1;
        if (atomic_load(&b->n[TOTAL]) < (i + 1) * PROCESSES)
            return 2;
        if (mp_barrier_wait(barrier, PATIENCE) < 0)
            return 3;
    }
    return 0;
}

/* ---- eight of them ---- */

static void finish_all(mp_process **children)
{
    for (int i = 0; i < PROCESSES; i++)
        assert_int_equal(finish(children[i]), 0);
}

static void press_lock(mp_lock *lock, int depth)
{
    mp_process *children[PROCESSES];
    mp_connection *travelling;
    board *b = new_board(&travelling);

    for (int i = 0; i < PROCESSES; i++)
        children[i] =
            start_process(.target = use_lock, .args = MP_ARGS(lock, travelling, times(), depth));
    finish_all(children);
    assert_int_equal(b->plain, (long)PROCESSES * times());
    assert_false(mp_lock_locked(lock));
    mp_lock_free(lock);
    free_board(b, travelling);
}

static void locks_under_pressure(void **state)
{
    (void)state;
    press_lock(mp_lock_new(), 1);
}

static void rlocks_under_pressure(void **state)
{
    (void)state;
    press_lock(mp_rlock_new(), 3);
}

static void press_semaphore(mp_semaphore *semaphore)
{
    mp_process *children[PROCESSES];
    mp_connection *travelling;
    board *b = new_board(&travelling);

    for (int i = 0; i < PROCESSES; i++)
        children[i] =
            start_process(.target = use_semaphore, .args = MP_ARGS(semaphore, travelling, times()));
    finish_all(children);
    assert_int_equal(atomic_load(&b->n[TOTAL]), PROCESSES * times());
    assert_int_equal(mp_semaphore_get_value(semaphore), ROOM);
    mp_semaphore_free(semaphore);
    free_board(b, travelling);
}

static void semaphores_under_pressure(void **state)
{
    (void)state;
    press_semaphore(mp_semaphore_new(ROOM));
}

static void bounded_semaphores_under_pressure(void **state)
{
    (void)state;
    press_semaphore(mp_bounded_semaphore_new(ROOM));
}

static void conditions_under_pressure(void **state)
{
    mp_lock *lock = mp_lock_new();
    mp_condition *full = mp_condition_new(lock), *empty = mp_condition_new(lock);
    mp_process *children[PROCESSES];
    mp_connection *travelling;
    board *b = new_board(&travelling);

    (void)state;
    for (int i = 0; i < PROCESSES; i++)
        children[i] = start_process(.target = use_condition,
            .args = MP_ARGS(full, empty, travelling, times(), i));
    finish_all(children);
    assert_int_equal(b->plain, 0);
    mp_condition_free(full);
    mp_condition_free(empty);
    mp_lock_free(lock);
    free_board(b, travelling);
}

static void events_under_pressure(void **state)
{
    mp_process *children[PROCESSES];
    mp_event *events[PROCESSES];
    mp_connection *travelling;
    board *b = new_board(&travelling);

    (void)state;
    for (int i = 0; i < PROCESSES; i++)
        assert_non_null(events[i] = mp_event_new());
    for (int i = 0; i < PROCESSES; i++)
        children[i] = start_process(.target = use_events,
            .args = MP_ARGS(events[i], events[(i + 1) % PROCESSES], travelling, times(), i));
    assert_int_equal(mp_event_set(events[0]), 0);
    finish_all(children);
    assert_int_equal(b->plain, (long)PROCESSES * times());
    for (int i = 0; i < PROCESSES; i++)
        mp_event_free(events[i]);
    free_board(b, travelling);
}

/* Until the number is that: at once, or the two do not meet. */
static void meet(atomic_int *number, int round)
{
    while (atomic_load_explicit(number, memory_order_acquire) < round)
        (void)sched_yield();
}

static int tell_and_set(mp_call *call)
{
    mp_connection *travelling;
    mp_event *event;
    int rounds;
    board *b;

    if (mp_unpack(call, &event, &travelling, &rounds) || !(b = board_of(travelling)))
        return 99;
    for (int i = 1; i <= rounds; i++) {
        meet(&b->n[PING], i);
        atomic_store_explicit(&b->n[NEWS], 1, memory_order_relaxed);
        if (mp_event_set(event))
            return 1;
        atomic_store_explicit(&b->n[PONG], i, memory_order_release);
    }
    return 0;
}

/* It is set already: who clears it, finds no news and waits must be woken all the same. */
static void a_set_beside_a_clear_is_seen(void **state)
{
    mp_event *event = mp_event_new();
    mp_connection *travelling;
    board *b = new_board(&travelling);
    int rounds = 200 * times(), news;
    double end = seconds_now() + 1; /* who shares a CPU with others needs a slice for each round */
    mp_process *p =
        start_process(.target = tell_and_set, .args = MP_ARGS(event, travelling, rounds));

    (void)state;
    for (int i = 1; i <= rounds && seconds_now() < end; i++) {
        assert_int_equal(mp_event_set(event), 0);
        atomic_store(&b->n[NEWS], 0);
        atomic_store_explicit(&b->n[PING], i, memory_order_release);
        for (volatile int k = 0; k < i % 60; k++)
            continue;
        assert_int_equal(mp_event_clear(event), 0);
        news = atomic_load_explicit(&b->n[NEWS], memory_order_relaxed);
        meet(&b->n[PONG], i);
        assert_true(news || mp_event_is_set(event));
    }
    atomic_store(&b->n[PING], rounds); /* it need not wait for the others */
    assert_int_equal(finish(p), 0);
    mp_event_free(event);
    free_board(b, travelling);
}

static void barriers_under_pressure(void **state)
{
    mp_barrier *barrier = mp_barrier_new(PROCESSES);
    mp_process *children[PROCESSES];
    mp_connection *travelling;
    board *b = new_board(&travelling);

    (void)state;
    for (int i = 0; i < PROCESSES; i++)
        children[i] =
            start_process(.target = use_barrier, .args = MP_ARGS(barrier, travelling, times() / 2));
    finish_all(children);
    assert_int_equal(atomic_load(&b->n[TOTAL]), PROCESSES * (times() / 2));
    mp_barrier_free(barrier);
    free_board(b, travelling);
}

/* ---- with deaths ---- */

/* Two numbers are equal whenever the lock is free, but after a death, which is told. */
static int change_two(mp_call *call)
{
    mp_connection *travelling;
    mp_lock *lock;
    board *b;
    int r;

    if (mp_unpack(call, &lock, &travelling) || !(b = board_of(travelling)))
        return 99;
    while (!atomic_load(&b->n[GONE])) {
        r = mp_lock_acquire(lock, PATIENCE);
        if (r == MP_EOWNERDEAD)
            atomic_store(&b->n[COPY], (int)b->plain), r = 0;
        if (r)
            return mp_perror("lock"), 1;
        if (b->plain != atomic_load(&b->n[COPY]))
            return 3;
        b->plain++;
        atomic_fetch_add(&b->n[COPY], 1);
        atomic_fetch_add(&b->n[TOTAL], 1);
        if (mp_lock_release(lock))
            return 2;
    }
    return 0;
}

static void nobody_finds_it_half_done_without_being_told(void **state)
{
    enum { DEATHS = 20, ALIVE = 3 };
    mp_process *children[ALIVE];
    mp_lock *lock = mp_lock_new();
    mp_connection *travelling;
    board *b = new_board(&travelling);

    (void)state;
    for (int i = 0; i < ALIVE; i++)
        children[i] = start_process(.target = change_two, .args = MP_ARGS(lock, travelling));
    for (int i = 0; i < DEATHS; i++) {
        int before = atomic_load(&b->n[TOTAL]);

        await(&b->n[TOTAL], before + 20);
        assert_int_equal(mp_process_kill(children[i % ALIVE]), 0);
        assert_int_equal(finish(children[i % ALIVE]), -SIGKILL);
        children[i % ALIVE] =
            start_process(.target = change_two, .args = MP_ARGS(lock, travelling));
    }
    atomic_store(&b->n[GONE], 1);
    for (int i = 0; i < ALIVE; i++)
        assert_int_equal(finish(children[i]), 0);
    mp_lock_free(lock);
    free_board(b, travelling);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(locks_under_pressure),
    UNDER_EACH(rlocks_under_pressure),
    UNDER_EACH(semaphores_under_pressure),
    UNDER_EACH(bounded_semaphores_under_pressure),
    UNDER_EACH(conditions_under_pressure),
    UNDER_EACH(events_under_pressure),
    UNDER_EACH(a_set_beside_a_clear_is_seen),
    UNDER_EACH(barriers_under_pressure),
    UNDER_EACH(nobody_finds_it_half_done_without_being_told),
};

TESTS_MAIN(tests)
