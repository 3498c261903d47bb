/* SPDX-License-Identifier: MIT
 *
 * test_synchronize_crash.c - a process is killed at every instruction of every
 * operation, in turn: the others go on.
 *
 * Under each start method a child (the arena) gets the objects and forks victims.
 * A victim stops before its operation; the arena lets it go so many single steps
 * and kills it. One thread of the arena, the bystander, uses the same object all
 * the while. What it did not get because the victim never came so far, it gets
 * from the arena afterwards; what it does not get then was lost.
 */
#include "boards.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "synchronize_internal.h"

#define SOON 0.1       /* seconds in which survivors go on, on a machine that is not loaded */
#define STEPS_MAX 3000 /* where there is no futex, a wait is a loop */

typedef struct arena {
    mp_lock *lock;
    mp_semaphore *semaphore;
    mp_condition *condition;
    mp_event *event;
    mp_barrier *barrier;
    int stride, start;
    int kills, slow;       /* so many; so many of them were noticed late */
    const char *complaint; /* what went wrong */
    pthread_t bystander;
    atomic_int tid;  /* of the bystander */
    atomic_int done; /* it is through */
    int said;        /* what its call returned */
} arena;

/* One operation to be killed in. */
typedef struct operation {
    const char *name;
    bool (*prepare)(arena *a); /* in the arena, before; NULL: nothing */
    bool (*ready)(arena *a);   /* in the victim, before it stops; NULL: nothing */
    void (*run)(arena *a);     /* in the victim, stepped through */
    void (*unblock)(arena *a); /* in the arena, when the victim sleeps; NULL: it is killed then */
    int (*bystand)(arena *a);  /* the bystander; NULL: there is none */
    bool (*help)(arena *a);    /* what the dead one owed the bystander, if it did */
    bool (*check)(arena *a);   /* all is well, and as before */
} operation;

static bool complain(arena *a, const char *what)
{
    if (!a->complaint)
        a->complaint = what;
    return false;
}

static bool held(int r)
{
    return r == 0 || r == MP_EOWNERDEAD;
}

/* ---- bystanders ---- */

static const operation *now_running;

static void *bystand(void *argument)
{
    arena *a = argument;

    atomic_store(&a->tid, (int)syscall(SYS_gettid));
    a->said = now_running->bystand(a);
    atomic_store(&a->done, 1);
    return NULL;
}

static char state_of(int tid)
{
    char path[64], text[256];
    char *end;
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        (void)close(fd);
    text[n > 0 ? n : 0] = '\0';
    end = strrchr(text, ')');
    return end ? end[2] : 'X';
}

static bool start_bystander(arena *a)
{
    atomic_store(&a->tid, 0);
    atomic_store(&a->done, 0);
    if (!now_running->bystand)
        return true;
    if (pthread_create(&a->bystander, NULL, bystand, a))
        return complain(a, "no thread");
    while (!atomic_load(&a->done) && (!atomic_load(&a->tid) || state_of(a->tid) != 'S'))
        (void)sched_yield();
    return true;
}

static bool wait_for_bystander(arena *a, double seconds)
{
    double end = seconds_now() + seconds;

    while (!atomic_load(&a->done) && seconds_now() < end)
        nap();
    return atomic_load(&a->done);
}

static bool end_bystander(arena *a)
{
    double begin = seconds_now();

    if (!now_running->bystand)
        return true;
    if (!now_running->help(a) || !wait_for_bystander(a, PATIENCE))
        return complain(a, "the bystander waits for ever");
    a->slow += seconds_now() - begin > SOON;
    (void)pthread_join(a->bystander, NULL);
    return true;
}

/* ---- victims ---- */

static void be_a_victim(arena *a)
{
    if (now_running->ready && !now_running->ready(a))
        _exit(98);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(97);
    (void)raise(SIGSTOP);
    now_running->run(a);
    (void)raise(SIGSTOP);
    _exit(0);
}

enum { STEPPED, ASLEEP, OVER };

/* What the step came to: done, or sleeping in the kernel, or the operation is over. */
static int look_at(pid_t pid)
{
    int status;

    for (int i = 0;; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP ? STEPPED : OVER;
        if (i > 50 && state_of(pid) == 'S')
            return ASLEEP;
        if (i > 20)
            (void)sched_yield();
    }
}

/* So many steps; to sleep is one, too. False if the operation was over before. */
static bool walk(arena *a, pid_t pid, int steps)
{
    int helps = 0;

    for (int i = 0; i < steps; i++) {
        int seen = ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0 ? OVER : look_at(pid);

        for (; seen == ASLEEP; seen = look_at(pid)) {
            if (++i >= steps)
                return true;
            if (!now_running->unblock || ++helps > 1000)
                return false;
            now_running->unblock(a);
        }
        if (seen == OVER)
            return false;
    }
    return true;
}

/* True while there may be more steps. */
static bool kill_after(arena *a, int steps, bool *more)
{
    int status;
    pid_t pid;

    if (now_running->prepare && !now_running->prepare(a))
        return complain(a, "prepare");
    pid = fork();
    if (pid == 0)
        be_a_victim(a);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        return complain(a, "the victim does not begin");
    if (!start_bystander(a))
        return false;
    *more = walk(a, pid, steps);
    (void)kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) == pid && !WIFSIGNALED(status) && !WIFEXITED(status))
        ;
    a->kills++;
    return end_bystander(a) && (now_running->check(a) || complain(a, "check"));
}

/* All kinds of places near the beginning, fewer of those that only come round again. */
static int next_stride(const arena *a, int steps)
{
    return a->stride > 1 ? a->stride + steps / 40 : 1;
}

static bool kill_everywhere(arena *a, const operation *o)
{
    double begin = seconds_now();
    bool more = true;
    int steps;

    now_running = o;
    for (steps = a->start; more && steps < STEPS_MAX; steps += next_stride(a, steps)) {
        if (kill_after(a, steps, &more))
            continue;
        fprintf(stderr, "%s, killed after %d steps: %s; %s\n", o->name, steps, a->complaint,
            mp_last_error()->text);
        return false;
    }
    if (getenv("VERBOSE"))
        fprintf(stderr, "%s: %d steps, %g s\n", o->name, steps, seconds_now() - begin);
    return true;
}

/* ---- Lock ---- */

static bool lock_is_well(arena *a)
{
    return held(mp_lock_acquire(a->lock, PATIENCE)) && mp_lock_release(a->lock) == 0 &&
           mp_lock_acquire(a->lock, 0) == 0 && mp_lock_release(a->lock) == 0;
}

static bool acquire_lock(arena *a)
{
    return held(mp_lock_acquire(a->lock, PATIENCE));
}

static void run_acquire(arena *a)
{
    (void)mp_lock_acquire(a->lock, MP_FOREVER);
}

static void run_acquire_timed(arena *a)
{
    (void)mp_lock_acquire(a->lock, PATIENCE);
}

static void run_release(arena *a)
{
    (void)mp_lock_release(a->lock);
}

static void arena_releases(arena *a)
{
    (void)mp_lock_release(a->lock);
}

static bool lock_is_well_again(arena *a)
{
    arena_releases(a); /* if it was not yet */
    return lock_is_well(a);
}

static int use_lock(arena *a)
{
    int r = mp_lock_acquire(a->lock, PATIENCE);

    return held(r) ? mp_lock_release(a->lock) : r;
}

static bool owe_nothing(arena *a)
{
    (void)a;
    return true;
}

/* ---- Semaphore ---- */

/* Its value becomes n. */
static bool set_semaphore(arena *a, int n)
{
    while (mp_semaphore_acquire(a->semaphore, 0) == 0)
        ;
    while (mp_semaphore_get_value(a->semaphore) < n)
        if (mp_semaphore_release(a->semaphore))
            return false;
    return mp_semaphore_get_value(a->semaphore) == n;
}

static bool semaphore_is_two(arena *a)
{
    return set_semaphore(a, 2);
}

static bool semaphore_is_none(arena *a)
{
    return set_semaphore(a, 0);
}

static void run_take(arena *a)
{
    (void)mp_semaphore_acquire(a->semaphore, MP_FOREVER);
}

static void run_give(arena *a)
{
    (void)mp_semaphore_release(a->semaphore);
}

static int take_one(arena *a)
{
    return mp_semaphore_acquire(a->semaphore, PATIENCE);
}

/* If there is one, the bystander has to find it; if not, the dead one has it or never gave it. */
static bool give_if_none(arena *a)
{
    while (!atomic_load(&a->done)) {
        if (mp_semaphore_get_value(a->semaphore) == 0 && !wait_for_bystander(a, 0.004))
            return mp_semaphore_get_value(a->semaphore) > 0 ||
                   mp_semaphore_release(a->semaphore) == 0;
        nap();
    }
    return true;
}

static bool semaphore_is_well(arena *a)
{
    return a->said == 0 && set_semaphore(a, 2) && mp_semaphore_acquire(a->semaphore, 0) == 0;
}

/* ---- Condition ---- */

static bool acquire_condition(arena *a)
{
    return held(mp_condition_acquire(a->condition, PATIENCE));
}

static void run_wait(arena *a)
{
    (void)mp_condition_wait(a->condition, MP_FOREVER);
}

static void run_notify(arena *a)
{
    (void)mp_condition_acquire(a->condition, MP_FOREVER);
    (void)mp_condition_notify(a->condition, 1);
    (void)mp_condition_release(a->condition);
}

static void run_notify_all(arena *a)
{
    (void)mp_condition_acquire(a->condition, MP_FOREVER);
    (void)mp_condition_notify_all(a->condition);
    (void)mp_condition_release(a->condition);
}

static void arena_notifies(arena *a)
{
    if (acquire_condition(a)) {
        (void)mp_condition_notify(a->condition, 1);
        (void)mp_condition_release(a->condition);
    }
}

static int wait_for_a_notice(arena *a)
{
    int r;

    if (!acquire_condition(a))
        return -1;
    r = mp_condition_wait(a->condition, PATIENCE);
    return held(r) && mp_condition_release(a->condition) == 0 ? 0 : r;
}

/* The dead one may have notified, or not. */
static bool notify_if_not_done(arena *a)
{
    if (!wait_for_bystander(a, 0.005))
        arena_notifies(a);
    return true;
}

static void *wait_and_say(void *argument)
{
    arena *a = argument;

    return wait_for_a_notice(a) == 0 ? a : NULL;
}

/* Nobody waits any more; a new one does, and is woken by one notice. */
static bool condition_is_well(arena *a)
{
    pthread_t thread;
    void *seen = NULL;
    unsigned waiting = 1;
    bool good = acquire_condition(a);

    good = good && mp__condition_waiters(a->condition) == 0 &&
           mp_condition_release(a->condition) == 0 &&
           pthread_create(&thread, NULL, wait_and_say, a) == 0;
    if (!good)
        return false;
    do {
        (void)acquire_condition(a);
        waiting = mp__condition_waiters(a->condition);
        (void)mp_condition_notify(a->condition, 1);
        (void)mp_condition_release(a->condition);
    } while (waiting == 0);
    return pthread_join(thread, &seen) == 0 && seen == a && waiting == 1;
}

/* ---- Event ---- */

static bool clear_event(arena *a)
{
    return mp_event_clear(a->event) == 0;
}

static bool set_event(arena *a)
{
    return mp_event_set(a->event) == 0;
}

static void run_set(arena *a)
{
    (void)mp_event_set(a->event);
}

static void run_clear(arena *a)
{
    (void)mp_event_clear(a->event);
}

static void run_event_wait(arena *a)
{
    (void)mp_event_wait(a->event, MP_FOREVER);
}

static void arena_sets(arena *a)
{
    (void)mp_event_set(a->event);
}

static int wait_for_event(arena *a)
{
    return mp_event_wait(a->event, PATIENCE);
}

/* A set event has to be seen without help. */
static bool set_if_not_set(arena *a)
{
    return mp_event_is_set(a->event) || mp_event_set(a->event) == 0;
}

static bool event_is_well(arena *a)
{
    return mp_event_set(a->event) == 0 && mp_event_wait(a->event, 0) == 0 &&
           mp_event_clear(a->event) == 0 && mp_event_wait(a->event, 0) == MP_ETIMEDOUT;
}

/* ---- Barrier, of two ---- */

static void run_barrier(arena *a)
{
    (void)mp_barrier_wait(a->barrier, MP_FOREVER);
}

static int wait_at_barrier(arena *a)
{
    return mp_barrier_wait(a->barrier, MP_FOREVER);
}

static void *wait_at_barrier_too(void *argument)
{
    return mp_barrier_wait(((arena *)argument)->barrier, PATIENCE) >= 0 ? argument : NULL;
}

static void arena_comes_to_barrier(arena *a)
{
    if (mp_barrier_n_waiting(a->barrier) == 1)
        (void)mp_barrier_wait(a->barrier, PATIENCE);
}

/* If the dead one had come, the bystander gets to know; if not, it waits alone. */
static bool abort_if_alone(arena *a)
{
    bool alone = mp_barrier_n_waiting(a->barrier) == 1;

    if (wait_for_bystander(a, !alone ? PATIENCE : a->kills % 8 ? 0 : 0.07))
        return true;
    return alone && mp_barrier_abort(a->barrier) == 0;
}

static bool barrier_is_well(arena *a)
{
    pthread_t thread;
    void *seen = NULL;
    int r;

    if (mp_barrier_reset(a->barrier) || mp_barrier_broken(a->barrier) ||
        mp_barrier_n_waiting(a->barrier) || pthread_create(&thread, NULL, wait_at_barrier_too, a))
        return false;
    r = mp_barrier_wait(a->barrier, PATIENCE);
    return pthread_join(thread, &seen) == 0 && seen == a && r >= 0;
}

/* ---- all of them ---- */

static const operation lock_operations[] = {
    { "acquire", NULL, NULL, run_acquire, NULL, use_lock, owe_nothing, lock_is_well },
    { "acquire what is held", acquire_lock, NULL, run_acquire, arena_releases, NULL, NULL,
        lock_is_well_again },
    { "acquire what is held, timed", acquire_lock, NULL, run_acquire_timed, arena_releases, NULL,
        NULL, lock_is_well_again },
    { "release", NULL, acquire_lock, run_release, NULL, use_lock, owe_nothing, lock_is_well },
};

static const operation other_operations[] = {
    { "semaphore acquire", semaphore_is_two, NULL, run_take, NULL, take_one, give_if_none,
        semaphore_is_well },
    { "semaphore acquire, asleep", semaphore_is_none, NULL, run_take, run_give, take_one,
        give_if_none, semaphore_is_well },
    { "semaphore release", semaphore_is_none, NULL, run_give, NULL, take_one, give_if_none,
        semaphore_is_well },
    { "condition wait", NULL, acquire_condition, run_wait, arena_notifies, NULL, NULL,
        condition_is_well },
    { "condition notify", NULL, NULL, run_notify, NULL, wait_for_a_notice, notify_if_not_done,
        condition_is_well },
    { "condition notify_all", NULL, NULL, run_notify_all, NULL, wait_for_a_notice,
        notify_if_not_done, condition_is_well },
    { "event set", clear_event, NULL, run_set, NULL, wait_for_event, set_if_not_set,
        event_is_well },
    { "event clear", set_event, NULL, run_clear, NULL, wait_for_event, set_if_not_set,
        event_is_well },
    { "event wait", clear_event, NULL, run_event_wait, arena_sets, wait_for_event, set_if_not_set,
        event_is_well },
};

static const operation barrier_operations[] = {
    { "barrier wait, first", NULL, NULL, run_barrier, arena_comes_to_barrier, NULL, NULL,
        barrier_is_well },
    { "barrier wait, last", NULL, NULL, run_barrier, NULL, wait_at_barrier, abort_if_alone,
        barrier_is_well },
};

static int fight(mp_call *call, const operation *operations, size_t count)
{
    arena *a = &(arena){ .start = 0 };

    if (mp_unpack(call, &a->lock, &a->semaphore, &a->condition, &a->event, &a->barrier, &a->start,
            &a->stride))
        return 99;
    for (size_t i = 0; i < count; i++)
        if (!kill_everywhere(a, &operations[i]))
            return 1;
    if (a->slow * 5 > a->kills || getenv("KILL_EVERY"))
        fprintf(stderr, "%d of %d deaths were noticed after %g s\n", a->slow, a->kills, SOON);
    return a->slow * 5 > a->kills;
}

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static int fight_for_locks(mp_call *call)
{
    return fight(call, lock_operations, COUNT(lock_operations));
}

static int fight_for_others(mp_call *call)
{
    return fight(call, other_operations, COUNT(other_operations));
}

static int fight_for_barriers(mp_call *call)
{
    return fight(call, barrier_operations, COUNT(barrier_operations));
}

/*
 * Every few instructions, other ones under each method; all of them, which takes
 * minutes, with KILL_EVERY=1.
 */
static int stride_for(const char *method)
{
    if (getenv("KILL_EVERY"))
        return atoi(getenv("KILL_EVERY"));
    if (HAS_ASAN || HAS_TSAN)
        return 307; /* most instructions are the sanitizer's */
    return strcmp(method, "fork") == 0 ? 11 : 41;
}

static void run_arena(const char *method, mp_function target)
{
    mp_semaphore *semaphore;
    mp_condition *condition;
    mp_barrier *barrier;
    mp_event *event;
    mp_process *p;
    mp_lock *lock;

    if (HAS_TSAN)
        skip(); /* it sees threads, not deaths */
    lock = mp_lock_new();
    semaphore = mp_semaphore_new(0);
    condition = mp_condition_new(NULL);
    event = mp_event_new();
    barrier = mp_barrier_new(2);
    support_allow(900);
    p = start_process(.target = target, .args = MP_ARGS(lock, semaphore, condition, event, barrier,
                                            (int)strlen(method) % 4, stride_for(method)));
    assert_int_equal(mp_process_join(p, 900), 0);
    assert_int_equal(finish(p), 0);
    assert_false(mp_lock_locked(lock));
    assert_int_equal(mp_lock_acquire(lock, 0), 0);
    assert_int_equal(mp_lock_release(lock), 0);
    mp_lock_free(lock);
    mp_semaphore_free(semaphore);
    mp_condition_free(condition);
    mp_event_free(event);
    mp_barrier_free(barrier);
}

static void a_process_killed_at_any_instruction_leaves_locks_usable(void **state)
{
    run_arena(*state, fight_for_locks);
}

static void a_process_killed_at_any_instruction_leaves_the_others_usable(void **state)
{
    run_arena(*state, fight_for_others);
}

static void a_process_killed_at_any_instruction_leaves_barriers_usable(void **state)
{
    run_arena(*state, fight_for_barriers);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(a_process_killed_at_any_instruction_leaves_locks_usable),
    UNDER_EACH(a_process_killed_at_any_instruction_leaves_the_others_usable),
    UNDER_EACH(a_process_killed_at_any_instruction_leaves_barriers_usable),
};

TESTS_MAIN(tests)
