/* SPDX-License-Identifier: MIT
 *
 * test_synchronize.c - locks, semaphores and events, and how all such objects
 * travel. Conditions, barriers and violent deaths have programs of their own.
 */
#include "boards.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "synchronize_internal.h"

/* ---- Lock ---- */

static void a_lock_is_acquired_once_and_released_once(void **state)
{
    mp_lock *lock = mp_lock_new();

    (void)state;
    assert_int_equal(mp_lock_acquire(lock, MP_FOREVER), 0);
    assert_true(mp_lock_locked(lock));
    assert_int_equal(mp_lock_acquire(lock, 0), MP_ETIMEDOUT);
    assert_int_equal(mp_lock_acquire(lock, -1), MP_ETIMEDOUT);
    assert_int_equal(mp_lock_acquire(lock, MP_FOREVER), MP_EDEADLOCK);
    assert_int_equal(mp_lock_acquire(lock, 0.01), MP_EDEADLOCK);
    assert_int_equal(mp_lock_release(lock), 0);
    assert_false(mp_lock_locked(lock));
    assert_int_equal(mp_lock_release(lock), MP_ENOTHELD);
    mp_lock_free(lock);
    mp_lock_free(NULL);
}

static void an_rlock_is_released_as_often_as_acquired(void **state)
{
    mp_lock *lock = mp_rlock_new();
    char text[64];

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(mp_lock_acquire(lock, i ? 0 : MP_FOREVER), 0);
    assert_string_equal(mp_lock_repr(lock, text, sizeof(text)), "<RLock(this thread, 3)>");
    for (int i = 0; i < 3; i++) {
        assert_true(mp_lock_locked(lock));
        assert_int_equal(mp_lock_release(lock), 0);
    }
    assert_false(mp_lock_locked(lock));
    assert_int_equal(mp_lock_release(lock), MP_ENOTHELD);
    assert_string_equal(mp_lock_repr(lock, text, sizeof(text)), "<RLock(None, 0)>");
    mp_lock_free(lock);
}

static void *look_at_a_lock(void *argument)
{
    static char text[64];
    mp_lock *lock = argument;

    if (mp_lock_release(lock) != MP_ENOTHELD || mp_lock_acquire(lock, 0.01) != MP_ETIMEDOUT)
        return NULL;
    return mp_lock_repr(lock, text, sizeof(text));
}

static void what_another_thread_holds_cannot_be_released(void **state)
{
    mp_lock *locks[] = { mp_lock_new(), mp_rlock_new() };
    static const char *const texts[] = { "<Lock(owner=another thread)>",
        "<RLock(another thread, 1)>" };
    char text[64];

    (void)state;
    assert_string_equal(mp_lock_repr(locks[0], text, sizeof(text)), "<Lock(owner=None)>");
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        void *seen;

        assert_int_equal(mp_lock_acquire(locks[i], MP_FOREVER), 0);
        assert_int_equal(pthread_create(&thread, NULL, look_at_a_lock, locks[i]), 0);
        assert_int_equal(pthread_join(thread, &seen), 0);
        assert_non_null(seen);
        assert_string_equal(seen, texts[i]);
        assert_int_equal(mp_lock_release(locks[i]), 0);
        mp_lock_free(locks[i]);
    }
}

/* Holds it until told. */
static int hold(mp_call *call)
{
    mp_event *held, *over;
    mp_lock *lock;
    bool release;

    if (mp_unpack(call, &lock, &held, &over, &release))
        return 99;
    if (mp_lock_acquire(lock, MP_FOREVER) || mp_event_set(held) || mp_event_wait(over, MP_FOREVER))
        return 1;
    return release && mp_lock_release(lock);
}

static void check_held_by_a_child(mp_lock *lock)
{
    mp_event *held = mp_event_new(), *over = mp_event_new();
    mp_process *p = start_process(.target = hold, .args = MP_ARGS(lock, held, over, true));
    char text[64], pid[32];

    assert_int_equal(mp_event_wait(held, PATIENCE), 0);
    assert_true(mp_lock_locked(lock));
    assert_int_equal(mp_lock_acquire(lock, 0), MP_ETIMEDOUT);
    assert_int_equal(mp_lock_acquire(lock, 0.02), MP_ETIMEDOUT);
    (void)snprintf(pid, sizeof(pid), "process %d", (int)mp_process_pid(p));
    assert_non_null(strstr(mp_last_error()->text, pid));
    assert_non_null(strstr(mp_lock_repr(lock, text, sizeof(text)), pid));
    assert_int_equal(mp_lock_release(lock), MP_ENOTHELD);
    assert_int_equal(mp_event_set(over), 0);
    assert_int_equal(mp_lock_acquire(lock, PATIENCE), 0);
    assert_int_equal(mp_lock_release(lock), 0);
    assert_false(mp_lock_locked(lock));
    assert_int_equal(finish(p), 0);
    mp_event_free(held);
    mp_event_free(over);
    mp_lock_free(lock);
}

static void a_lock_held_by_a_child_is_seen_as_locked(void **state)
{
    (void)state;
    check_held_by_a_child(mp_lock_new());
}

static void an_rlock_held_by_a_child_is_seen_as_locked(void **state)
{
    (void)state;
    check_held_by_a_child(mp_rlock_new());
}

static void a_lock_whose_holder_ended_goes_to_the_next_who_is_told_once(void **state)
{
    (void)state;
    for (int kill = 0; kill < 2; kill++) {
        mp_event *held = mp_event_new(), *over = mp_event_new();
        mp_lock *lock = kill ? mp_lock_new() : mp_rlock_new();
        mp_process *p = start_process(.target = hold, .args = MP_ARGS(lock, held, over, false));
        char pid[32];

        assert_int_equal(mp_event_wait(held, PATIENCE), 0);
        (void)snprintf(pid, sizeof(pid), "process %d", (int)mp_process_pid(p));
        assert_int_equal(kill ? mp_process_kill(p) : mp_event_set(over), 0);
        assert_int_equal(mp_lock_acquire(lock, PATIENCE), MP_EOWNERDEAD);
        assert_non_null(strstr(mp_last_error()->text, pid));
        assert_true(mp_lock_locked(lock));
        assert_int_equal(mp_lock_release(lock), 0);
        assert_int_equal(mp_lock_acquire(lock, 0), 0);
        assert_int_equal(mp_lock_release(lock), 0);
        assert_int_equal(finish(p), kill ? -SIGKILL : 0);
        mp_event_free(held);
        mp_event_free(over);
        mp_lock_free(lock);
    }
}

static void *acquire_and_end(void *argument)
{
    return mp_lock_acquire(argument, MP_FOREVER) == 0 ? argument : NULL;
}

static void a_thread_that_ends_holding_a_lock_is_a_holder_that_died(void **state)
{
    mp_lock *lock = mp_lock_new();
    pthread_t thread;
    void *seen;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, acquire_and_end, lock), 0);
    assert_int_equal(pthread_join(thread, &seen), 0);
    assert_ptr_equal(seen, lock);
    assert_int_equal(mp_lock_acquire(lock, PATIENCE), MP_EOWNERDEAD);
    assert_int_equal(mp_lock_release(lock), 0);
    mp_lock_free(lock);
}

static void a_forked_child_does_not_hold_what_its_parent_holds(void **state)
{
    mp_lock *lock = mp_rlock_new();
    int status;
    pid_t pid;

    (void)state;
    assert_int_equal(mp_lock_acquire(lock, MP_FOREVER), 0);
    pid = fork();
    if (pid == 0)
        _exit(mp_lock_release(lock) == MP_ENOTHELD && mp_lock_acquire(lock, 0) == MP_ETIMEDOUT ? 0
                                                                                               : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(mp_lock_release(lock), 0);
    mp_lock_free(lock);
}

/* What a thread holds is in a list of the kernel's that leads through the lock's memory. */
static void a_lock_that_is_freed_while_held_breaks_nothing(void **state)
{
    mp_lock *lock = mp_lock_new(), *other = mp_lock_new();

    (void)state;
    mp_log_to_stderr(MP_LOG_OFF);
    assert_int_equal(mp_lock_acquire(lock, MP_FOREVER), 0);
    assert_int_equal(mp_lock_acquire(other, MP_FOREVER), 0);
    mp_lock_free(lock);
    assert_int_equal(mp_lock_release(other), 0);
    assert_int_equal(mp_lock_acquire(other, MP_FOREVER), 0);
    assert_int_equal(mp_lock_release(other), 0);
    mp_lock_free(other);
    mp_log_to_stderr(MP_LOG_WARNING);
}

/* ---- mutual exclusion, between threads and processes at once ---- */

typedef struct counting {
    mp_lock *lock;
    board *board;
    int rounds;
} counting;

static void *count_in_a_thread(void *argument)
{
    counting *c = argument;

    for (int i = 0; i < c->rounds; i++) {
        if (mp_lock_acquire(c->lock, i % 3 ? MP_FOREVER : PATIENCE))
            return NULL;
        c->board->plain++;
        if (mp_lock_release(c->lock))
            return NULL;
    }
    return c;
}

static bool count_in_threads(counting *c)
{
    pthread_t threads[2];
    bool good = true;

    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, count_in_a_thread, c))
            return false;
    for (int i = 0; i < 2; i++) {
        void *seen;

        good &= pthread_join(threads[i], &seen) == 0 && seen == c;
    }
    return good;
}

static int count_up(mp_call *call)
{
    mp_connection *travelling;
    counting c;

    if (mp_unpack(call, &c.lock, &travelling, &c.rounds))
        return 99;
    c.board = board_of(travelling);
    return !c.board || !count_in_threads(&c);
}

static void one_thread_of_all_processes_is_inside(void **state)
{
    enum { CHILDREN = 3, ROUNDS = 3000 };
    mp_lock *lock = *(const char *)*state == 's' ? mp_rlock_new() : mp_lock_new();
    mp_process *children[CHILDREN];
    mp_connection *travelling;
    board *b = new_board(&travelling);
    counting c = { lock, b, ROUNDS };

    for (int i = 0; i < CHILDREN; i++)
        children[i] = start_process(.target = count_up, .args = MP_ARGS(lock, travelling, ROUNDS));
    assert_true(count_in_threads(&c));
    for (int i = 0; i < CHILDREN; i++)
        assert_int_equal(finish(children[i]), 0);
    assert_int_equal(b->plain, (CHILDREN + 1) * 2 * ROUNDS);
    mp_lock_free(lock);
    free_board(b, travelling);
}

/* ---- Semaphore ---- */

static void a_semaphore_counts(void **state)
{
    mp_semaphore *s = mp_semaphore_new(2);

    (void)state;
    assert_int_equal(mp_semaphore_get_value(s), 2);
    assert_int_equal(mp_semaphore_acquire(s, MP_FOREVER), 0);
    assert_false(mp_semaphore_locked(s));
    assert_int_equal(mp_semaphore_acquire(s, 0), 0);
    assert_true(mp_semaphore_locked(s));
    assert_int_equal(mp_semaphore_acquire(s, 0), MP_ETIMEDOUT);
    for (int i = 1; i <= 4; i++) {
        assert_int_equal(mp_semaphore_release(s), 0);
        assert_int_equal(mp_semaphore_get_value(s), i);
    }
    mp_semaphore_free(s);
    mp_semaphore_free(NULL);
    assert_null(mp_semaphore_new(-1));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    s = mp_semaphore_new(MP_SEMAPHORE_MAX);
    assert_int_equal(mp_semaphore_release(s), MP_ERANGE);
    mp_semaphore_free(s);
}

static void a_bounded_semaphore_has_its_first_value_at_most(void **state)
{
    mp_semaphore *s = mp_bounded_semaphore_new(2);

    (void)state;
    assert_int_equal(mp_semaphore_release(s), MP_ENOTHELD);
    assert_int_equal(mp_semaphore_acquire(s, 0), 0);
    assert_int_equal(mp_semaphore_acquire(s, 0), 0);
    assert_int_equal(mp_semaphore_acquire(s, 0.01), MP_ETIMEDOUT);
    assert_int_equal(mp_semaphore_release(s), 0);
    assert_int_equal(mp_semaphore_release(s), 0);
    assert_int_equal(mp_semaphore_release(s), MP_ENOTHELD);
    assert_int_equal(mp_semaphore_get_value(s), 2);
    mp_semaphore_free(s);
    assert_null(mp_bounded_semaphore_new(-7));
}

static void a_semaphore_is_waited_for_as_long_as_told(void **state)
{
    mp_semaphore *s = mp_semaphore_new(0);
    double begin = seconds_now();

    (void)state;
    assert_int_equal(mp_semaphore_acquire(s, 0), MP_ETIMEDOUT);
    assert_int_equal(mp_semaphore_acquire(s, -5), MP_ETIMEDOUT);
    assert_true(seconds_now() - begin < PATIENCE);
    for (int i = 0; i < 3; i++) {
        begin = seconds_now();
        assert_int_equal(mp_semaphore_acquire(s, 0.03), MP_ETIMEDOUT);
        assert_true(seconds_now() - begin >= 0.03);
    }
    assert_int_equal(mp_semaphore_release(s), 0);
    assert_int_equal(mp_semaphore_acquire(s, 0.03), 0);
    mp_semaphore_free(s);
}

/* Takes from one and gives to the other. */
static int carry(mp_call *call)
{
    mp_semaphore *from, *to;
    int rounds;

    if (mp_unpack(call, &from, &to, &rounds))
        return 99;
    for (int i = 0; i < rounds; i++)
        if (mp_semaphore_acquire(from, i % 2 ? MP_FOREVER : PATIENCE) || mp_semaphore_release(to))
            return 1;
    return 0;
}

static void units_of_semaphores_are_neither_lost_nor_made(void **state)
{
    enum { PAIRS = 2, ROUNDS = 3000 };
    mp_semaphore *here = mp_semaphore_new(3), *there = mp_bounded_semaphore_new(3);
    mp_process *children[2 * PAIRS];

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(mp_semaphore_acquire(there, 0), 0);
    for (int i = 0; i < PAIRS; i++) {
        children[2 * i] = start_process(.target = carry, .args = MP_ARGS(here, there, ROUNDS));
        children[2 * i + 1] = start_process(.target = carry, .args = MP_ARGS(there, here, ROUNDS));
    }
    for (int i = 0; i < 2 * PAIRS; i++)
        assert_int_equal(finish(children[i]), 0);
    assert_int_equal(mp_semaphore_get_value(here), 3);
    assert_int_equal(mp_semaphore_get_value(there), 0);
    mp_semaphore_free(here);
    mp_semaphore_free(there);
}

/* ---- Event ---- */

static int set_event(mp_call *call)
{
    mp_event *event;

    return mp_unpack(call, &event) ? 99 : mp_event_set(event) < 0;
}

static void an_event_is_set_and_cleared_and_waited_for(void **state)
{
    mp_event *event = mp_event_new();
    mp_process *p;

    (void)state;
    assert_false(mp_event_is_set(event));
    assert_int_equal(mp_event_wait(event, 0), MP_ETIMEDOUT);
    assert_int_equal(mp_event_wait(event, -1), MP_ETIMEDOUT);
    assert_int_equal(mp_event_wait(event, 0.02), MP_ETIMEDOUT);
    assert_int_equal(mp_event_set(event), 0);
    assert_int_equal(mp_event_set(event), 0);
    assert_true(mp_event_is_set(event));
    assert_int_equal(mp_event_wait(event, 0), 0);
    assert_int_equal(mp_event_wait(event, MP_FOREVER), 0);
    assert_int_equal(mp_event_clear(event), 0);
    assert_int_equal(mp_event_clear(event), 0);
    assert_false(mp_event_is_set(event));
    p = start_process(.target = set_event, .args = MP_ARGS(event));
    assert_int_equal(mp_event_wait(event, PATIENCE), 0);
    assert_int_equal(finish(p), 0);
    mp_event_free(event);
    mp_event_free(NULL);
}

static int wait_and_count(mp_call *call)
{
    mp_connection *travelling;
    mp_event *event;
    board *b;
    int r;

    if (mp_unpack(call, &event, &travelling) || !(b = board_of(travelling)))
        return 99;
    atomic_fetch_add(&b->n[0], 1);
    r = mp_event_wait(event, MP_FOREVER);
    atomic_fetch_add(&b->n[1], 1);
    return r < 0;
}

static void a_set_event_wakes_all_that_wait(void **state)
{
    mp_event *event = mp_event_new();
    mp_process *children[4];
    mp_connection *travelling;
    board *b = new_board(&travelling);

    (void)state;
    for (int i = 0; i < 4; i++)
        children[i] = start_process(.target = wait_and_count, .args = MP_ARGS(event, travelling));
    await(&b->n[0], 4);
    assert_int_equal(atomic_load(&b->n[1]), 0);
    assert_int_equal(mp_event_set(event), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(finish(children[i]), 0);
    assert_int_equal(atomic_load(&b->n[1]), 4);
    mp_event_free(event);
    free_board(b, travelling);
}

/* ---- travelling ---- */

static bool use_all(mp_lock *lock, mp_lock *rlock, mp_semaphore *semaphore, mp_condition *condition,
    mp_event *event, mp_barrier *barrier)
{
    return mp_lock_acquire(lock, PATIENCE) == 0 && mp_lock_release(lock) == 0 &&
           mp_lock_acquire(rlock, PATIENCE) == 0 && mp_lock_acquire(rlock, PATIENCE) == 0 &&
           mp_lock_release(rlock) == 0 && mp_lock_release(rlock) == 0 &&
           mp_semaphore_acquire(semaphore, PATIENCE) == 0 && mp_semaphore_release(semaphore) == 0 &&
           mp_condition_acquire(condition, PATIENCE) == 0 &&
           mp_condition_notify(condition, 1) == 0 && mp_condition_release(condition) == 0 &&
           mp_event_set(event) == 0 && mp_barrier_wait(barrier, PATIENCE) >= 0;
}

static int use_arguments(mp_call *call)
{
    mp_semaphore *semaphore;
    mp_condition *condition;
    mp_lock *lock, *rlock;
    mp_barrier *barrier;
    mp_event *event;

    if (mp_unpack(call, &lock, &rlock, &semaphore, &condition, &event, &barrier))
        return mp_perror("use"), 99;
    return !use_all(lock, rlock, semaphore, condition, event, barrier);
}

typedef struct things {
    mp_lock *lock, *rlock;
    mp_semaphore *semaphore;
    mp_condition *condition;
    mp_event *event;
    mp_barrier *barrier;
} things;

static things make_things(void)
{
    things t = { mp_lock_new(), mp_rlock_new(), mp_semaphore_new(1), mp_condition_new(NULL),
        mp_event_new(), mp_barrier_new(2) };

    assert_true(t.lock && t.rlock && t.semaphore && t.condition && t.event && t.barrier);
    return t;
}

static void free_things(things *t)
{
    mp_lock_free(t->lock);
    mp_lock_free(t->rlock);
    mp_semaphore_free(t->semaphore);
    mp_condition_free(t->condition);
    mp_event_free(t->event);
    mp_barrier_free(t->barrier);
}

#define LIST_OF(t) \
    mp_list((t).lock, (t).rlock, (t).semaphore, (t).condition, (t).event, (t).barrier)

static void all_travel_as_arguments(void **state)
{
    things t = make_things();
    mp_process *p = start_process(.target = use_arguments, .args = LIST_OF(t));

    (void)state;
    assert_int_equal(mp_event_wait(t.event, PATIENCE), 0);
    assert_true(mp_barrier_wait(t.barrier, PATIENCE) >= 0);
    assert_int_equal(finish(p), 0);
    free_things(&t);
}

/* The objects of a message live until it is cleared, those that are kept longer. */
static int use_message(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    things t;
    int r;

    if (mp_unpack(call, &line) || mp_connection_recv(line, &message) ||
        mp_unpack(&message, &t.lock, &t.rlock, &t.semaphore, &t.condition, &t.event, &t.barrier))
        return mp_perror("receive"), 99;
    mp_lock_free(t.lock); /* lent: nothing happens */
    (void)mp_lock_keep(t.lock), (void)mp_lock_keep(t.rlock), (void)mp_semaphore_keep(t.semaphore);
    (void)mp_condition_keep(t.condition), (void)mp_event_keep(t.event);
    (void)mp_barrier_keep(t.barrier);
    mp_message_clear(&message);
    r = !use_all(t.lock, t.rlock, t.semaphore, t.condition, t.event, t.barrier);
    free_things(&t);
    return r;
}

static void all_travel_in_messages(void **state)
{
    things t = make_things();
    mp_connection *here, *there;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = use_message, .args = MP_ARGS(there));
    mp_connection_free(there);
    assert_int_equal(mp_connection_send(here, LIST_OF(t)), 0);
    assert_true(mp_barrier_wait(t.barrier, PATIENCE) >= 0);
    assert_int_equal(finish(p), 0);
    assert_true(mp_event_is_set(t.event));
    mp_connection_free(here);
    free_things(&t);
}

static int use_in_task(mp_call *call)
{
    int r = use_arguments(call);

    return r ? mp_raise(call, -1, "code %d", r) : mp_return(call, 7);
}

static void all_travel_to_tasks_of_a_pool(void **state)
{
    things t = make_things();
    mp_pool *pool = mp_pool_new(.processes = 2);
    mp_message answer = MP_MESSAGE_INIT;
    mp_result *results[2];
    int seven;

    (void)state;
    assert_non_null(pool);
    for (int i = 0; i < 2; i++)
        assert_non_null(results[i] = mp_pool_apply_async(pool, use_in_task, LIST_OF(t)));
    for (int i = 0; i < 2; i++) {
        if (mp_result_get(results[i], &answer, PATIENCE))
            fail_msg("%s", mp_last_error()->text);
        assert_int_equal(mp_unpack(&answer, &seven), 0);
        mp_result_free(results[i]);
    }
    mp_message_clear(&answer);
    mp_pool_free(pool);
    free_things(&t);
}

static void a_plain_fork_inherits_all(void **state)
{
    things t = make_things();
    int status;
    pid_t pid;

    (void)state;
    pid = fork();
    if (pid == 0) {
        status = !use_all(t.lock, t.rlock, t.semaphore, t.condition, t.event, t.barrier);
        free_things(&t);
        _exit(status);
    }
    assert_true(mp_barrier_wait(t.barrier, PATIENCE) >= 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(mp_event_is_set(t.event));
    free_things(&t);
}

/* ---- what arrives is checked ---- */

static const mp__kind *const kinds[] = { &mp__lock_kind, &mp__semaphore_kind, &mp__condition_kind,
    &mp__event_kind, &mp__barrier_kind };

/* Whatever comes instead of its memory, rebuilding is an error and takes nothing. */
static void refuse(const mp__kind *kind, int first, int second, size_t count)
{
    int fds[] = { first, second };
    void *object = NULL;

    assert_int_equal(kind->rebuild((const uint8_t *)"", 0, fds, count, &object), MP_EPROTOCOL);
    assert_null(object);
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
}

static void memory_that_is_nonsense_is_refused(void **state)
{
    static const size_t sizes[] = { 1, 24, 4096, 1 << 20 };

    (void)state;
    for (size_t k = 0; k < 5; k++) {
        int ends[2];

        refuse(kinds[k], -1, -1, 0);
        refuse(kinds[k], -1, -1, 3);
        for (size_t i = 0; i < 4; i++)
            refuse(kinds[k], mp__shm_open(sizes[i]), mp__shm_open(sizes[i]),
                1 + (kinds[k] == &mp__condition_kind));
        assert_int_equal(pipe(ends), 0);
        refuse(kinds[k], ends[0], ends[1], 1 + (kinds[k] == &mp__condition_kind));
    }
}

/* The size of one is that of another's parties. */
static void a_barrier_that_lies_about_itself_is_refused(void **state)
{
    mp_barrier *barrier = mp_barrier_new(3);
    mp__reduced reduced = { .size = 0 };
    unsigned char *memory = NULL;
    void *at = NULL, *object = NULL;
    int fds[1];

    (void)state;
    assert_int_equal(mp__barrier_kind.reduce(barrier, &reduced), 0);
    assert_int_equal(mp__shm_map(reduced.fds[0], 4096, &at), 0);
    memory = at;
    for (size_t i = 0; i < 64; i++) {
        unsigned char old = memory[i];

        memory[i] ^= 0x5a;
        fds[0] = dup(reduced.fds[0]);
        if (mp__barrier_kind.rebuild((const uint8_t *)"", 0, fds, 1, &object) == 0)
            mp__barrier_kind.free(object); /* a byte that says nothing about the size */
        else if (fds[0] >= 0)
            (void)close(fds[0]);
        memory[i] = old;
    }
    mp__shm_unmap(at, 4096);
    mp_barrier_free(barrier);
}

/* The same object twice in a process is one: held by one, it is held by the other. */
static void what_arrives_twice_is_the_same_lock(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_lock *lock = mp_rlock_new(), *again;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_connection_send(here, lock), 0);
    assert_int_equal(mp_connection_recv(there, &message), 0);
    assert_int_equal(mp_unpack(&message, &again), 0);
    assert_ptr_not_equal(again, lock);
    assert_int_equal(mp_lock_acquire(again, 0), 0);
    assert_int_equal(mp_lock_acquire(lock, 0), 0);
    assert_int_equal(mp_lock_release(again), 0);
    mp_message_clear(&message);
    assert_true(mp_lock_locked(lock));
    assert_int_equal(mp_lock_release(lock), 0);
    assert_int_equal(mp_lock_release(lock), MP_ENOTHELD);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_lock_free(lock);
}

static void without_descriptors_there_is_an_error(void **state)
{
    struct rlimit old, none;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_null(mp_lock_new());
    assert_int_equal(mp_last_error()->code, MP_EMFILE);
    assert_null(mp_semaphore_new(1));
    assert_null(mp_condition_new(NULL));
    assert_null(mp_event_new());
    assert_null(mp_barrier_new(2));
    assert_int_equal(mp_last_error()->code, MP_EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

static void shared_memory_that_is_something_else_is_refused(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_semaphore *wrong;
    mp_lock *lock = mp_lock_new();

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_connection_send(here, lock), 0);
    assert_int_equal(mp_connection_recv(there, &message), 0);
    assert_int_equal(mp_unpack(&message, &wrong), MP_ETYPE);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_lock_free(lock);
}

static void no_object_is_no_crash(void **state)
{
    char text[8];

    (void)state;
    assert_int_equal(mp_lock_acquire(NULL, 0), MP_EINVAL);
    assert_int_equal(mp_lock_release(NULL), MP_EINVAL);
    assert_int_equal(mp_semaphore_acquire(NULL, 0), MP_EINVAL);
    assert_int_equal(mp_semaphore_release(NULL), MP_EINVAL);
    assert_int_equal(mp_condition_wait(NULL, 0), MP_EINVAL);
    assert_int_equal(mp_condition_notify(NULL, 1), MP_EINVAL);
    assert_int_equal(mp_event_set(NULL), MP_EINVAL);
    assert_int_equal(mp_event_wait(NULL, 0), MP_EINVAL);
    assert_int_equal(mp_barrier_wait(NULL, 0), MP_EINVAL);
    assert_int_equal(mp_barrier_abort(NULL), MP_EINVAL);
    assert_string_equal(mp_lock_repr(NULL, text, sizeof(text)), "NULL");
}

/* ---- mp_interrupt ---- */

static void interrupt(int sig)
{
    (void)sig;
    mp_interrupt();
}

/* Each of these blocks until it is interrupted. */
static int block_on(int what, things *t)
{
    switch (what) {
    case 0:
        return mp_lock_acquire(t->lock, MP_FOREVER);
    case 1:
        return mp_semaphore_acquire(t->semaphore, MP_FOREVER);
    case 2:
        return mp_event_wait(t->event, MP_FOREVER);
    case 3:
        return mp_condition_wait(t->condition, MP_FOREVER);
    default:
        return mp_barrier_wait(t->barrier, MP_FOREVER);
    }
}

static int block_and_be_interrupted(mp_call *call)
{
    struct sigaction action = { .sa_handler = interrupt };
    mp_connection *travelling;
    things t;
    board *b;
    int r;

    if (mp_unpack(call, &t.lock, &t.rlock, &t.semaphore, &t.condition, &t.event, &t.barrier,
            &travelling) ||
        !(b = board_of(travelling)))
        return 99;
    if (mp_allow_interrupt() || sigaction(SIGUSR1, &action, NULL) ||
        mp_condition_acquire(t.condition, PATIENCE))
        return 98;
    for (int i = 0; i < 5; i++) {
        atomic_store(&b->n[0], i + 1);
        r = block_on(i, &t);
        if (r != MP_EINTR)
            return mp_perror("block"), i + 1;
    }
    return mp_condition_release(t.condition) < 0; /* it is held after the wait */
}

static void every_wait_ends_when_a_handler_interrupts(void **state)
{
    things t = make_things();
    mp_connection *travelling;
    board *b = new_board(&travelling);
    mp_process *p;

    (void)state;
    assert_int_equal(mp_lock_acquire(t.lock, MP_FOREVER), 0);
    assert_int_equal(mp_semaphore_acquire(t.semaphore, MP_FOREVER), 0);
    p = start_process(.target = block_and_be_interrupted,
        .args = MP_ARGS(t.lock, t.rlock, t.semaphore, t.condition, t.event, t.barrier, travelling));
    for (int i = 0; i < 5; i++) {
        await(&b->n[0], i + 1);
        assert_int_equal(kill(mp_process_pid(p), SIGUSR1), 0);
    }
    assert_int_equal(finish(p), 0);
    assert_true(mp_barrier_broken(t.barrier));
    assert_int_equal(mp_lock_release(t.lock), 0);
    free_things(&t);
    free_board(b, travelling);
}

static mp_lock *freed_by_another;

/* Holds a lock that is freed meanwhile, and goes on to use others. */
static void *go_on_without_it(void *line)
{
    mp_lock *other = mp_lock_new();
    mp_message message = MP_MESSAGE_INIT;
    intptr_t r = mp_lock_acquire(freed_by_another, MP_FOREVER);

    r |= mp_connection_send(line, 1) | mp_connection_recv(line, &message);
    for (int i = 0; i < 3; i++)
        r |= mp_lock_acquire(other, MP_FOREVER) | mp_lock_release(other);
    mp_message_clear(&message);
    mp_lock_free(other);
    return (void *)r;
}

static void a_lock_that_another_thread_holds_may_be_freed(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    pthread_t thread;
    void *r;

    (void)state;
    mp_log_to_stderr(MP_LOG_ERROR); /* it warns */
    freed_by_another = mp_lock_new();
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(pthread_create(&thread, NULL, go_on_without_it, there), 0);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    mp_lock_free(freed_by_another);
    assert_int_equal(mp_connection_send(here, 2), 0);
    assert_int_equal(pthread_join(thread, &r), 0);
    assert_ptr_equal(r, NULL);
    mp_log_to_stderr(MP_LOG_WARNING);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
}

static const struct CMUnitTest tests[] = {
    ONCE(a_lock_is_acquired_once_and_released_once),
    ONCE(an_rlock_is_released_as_often_as_acquired),
    ONCE(what_another_thread_holds_cannot_be_released),
    UNDER_EACH(a_lock_held_by_a_child_is_seen_as_locked),
    UNDER_EACH(an_rlock_held_by_a_child_is_seen_as_locked),
    UNDER_EACH(a_lock_whose_holder_ended_goes_to_the_next_who_is_told_once),
    ONCE(a_thread_that_ends_holding_a_lock_is_a_holder_that_died),
    ONCE(a_forked_child_does_not_hold_what_its_parent_holds),
    ONCE(a_lock_that_is_freed_while_held_breaks_nothing),
    UNDER_EACH(one_thread_of_all_processes_is_inside),
    ONCE(a_semaphore_counts),
    ONCE(a_bounded_semaphore_has_its_first_value_at_most),
    ONCE(a_semaphore_is_waited_for_as_long_as_told),
    UNDER_EACH(units_of_semaphores_are_neither_lost_nor_made),
    UNDER_EACH(an_event_is_set_and_cleared_and_waited_for),
    UNDER_EACH(a_set_event_wakes_all_that_wait),
    UNDER_EACH(all_travel_as_arguments),
    UNDER_EACH(all_travel_in_messages),
    UNDER_EACH(all_travel_to_tasks_of_a_pool),
    ONCE(a_plain_fork_inherits_all),
    ONCE(shared_memory_that_is_something_else_is_refused),
    ONCE(memory_that_is_nonsense_is_refused),
    ONCE(a_barrier_that_lies_about_itself_is_refused),
    ONCE(what_arrives_twice_is_the_same_lock),
    ONCE(without_descriptors_there_is_an_error),
    ONCE(no_object_is_no_crash),
    ONCE(a_lock_that_another_thread_holds_may_be_freed),
    UNDER_EACH(every_wait_ends_when_a_handler_interrupts),
};

TESTS_MAIN(tests)
