/* SPDX-License-Identifier: MIT
 *
 * test_mutex.c - the floor that locks and queues stand on: robust mutexes and
 * words to sleep on, between processes. They know nothing of start methods.
 */
#include "support.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock_internal.h"
#include "futex_internal.h"
#include "mutex_internal.h"

typedef struct board {
    mp__mutex mutex;
    atomic_uint word, steps;
    unsigned counter;
} board;

static board *make_board(void)
{
    board *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(b != MAP_FAILED);
    assert_int_equal(mp__mutex_init(&b->mutex), 0);
    return b;
}

static void drop_board(board *b)
{
    assert_int_equal(munmap(b, sizeof(*b)), 0);
}

static pid_t fork_child(void)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    return pid;
}

static int reap(pid_t pid)
{
    int status = 0;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void wait_for_step(board *b, unsigned step)
{
    unsigned seen;

    while ((seen = atomic_load(&b->steps)) < step)
        (void)mp__futex_wait(&b->steps, seen, mp__clock_deadline(PATIENCE));
}

static void say_step(board *b)
{
    atomic_fetch_add(&b->steps, 1);
    mp__futex_wake(&b->steps, INT_MAX);
}

static void a_mutex_of_a_dead_process_goes_to_the_next_who_is_told_once(void **state)
{
    board *b = make_board();
    pid_t pid = fork_child();

    (void)state;
    if (pid == 0) {
        (void)mp__mutex_enter(&b->mutex);
        say_step(b);
        for (;;)
            (void)pause();
    }
    wait_for_step(b, 1);
    assert_int_equal(mp__mutex_lock(&b->mutex, 0), MP_ETIMEDOUT);
    assert_int_equal(mp__mutex_lock(&b->mutex, mp__clock_deadline(0.02)), MP_ETIMEDOUT);
    assert_int_equal(mp__mutex_unlock(&b->mutex), MP_EPERM);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(mp__mutex_lock(&b->mutex, MP__NEVER), MP_EOWNERDEAD);
    assert_int_equal(reap(pid), -SIGKILL);
    assert_int_equal(mp__mutex_unlock(&b->mutex), 0);
    assert_int_equal(mp__mutex_enter(&b->mutex), 0);
    assert_int_equal(mp__mutex_unlock(&b->mutex), 0);
    assert_int_equal(mp__mutex_unlock(&b->mutex), MP_EPERM);
    drop_board(b);
}

static void *lock_and_end(void *argument)
{
    (void)mp__mutex_enter(&((board *)argument)->mutex);
    return NULL;
}

static void a_mutex_of_a_thread_that_ended_goes_to_the_next(void **state)
{
    board *b = make_board();
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, lock_and_end, b), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(mp__mutex_lock(&b->mutex, mp__clock_deadline(PATIENCE)), MP_EOWNERDEAD);
    assert_int_equal(mp__mutex_unlock(&b->mutex), 0);
    drop_board(b);
}

static void count_up(board *b, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        (void)mp__mutex_enter(&b->mutex);
        b->counter++;
        (void)mp__mutex_unlock(&b->mutex);
    }
}

static void one_process_at_a_time_is_inside(void **state)
{
    enum { CHILDREN = 4, ROUNDS = 20000 };
    board *b = make_board();
    pid_t pids[CHILDREN];

    (void)state;
    for (int i = 0; i < CHILDREN; i++)
        if ((pids[i] = fork_child()) == 0) {
            count_up(b, ROUNDS);
            _exit(0);
        }
    for (int i = 0; i < CHILDREN; i++)
        assert_int_equal(reap(pids[i]), 0);
    assert_int_equal(b->counter, CHILDREN * ROUNDS);
    drop_board(b);
}

static void a_word_is_waited_for_until_it_changes_or_the_time_is_over(void **state)
{
    board *b = make_board();
    int64_t begin = mp__clock_now();
    pid_t pid;

    (void)state;
    assert_int_equal(mp__futex_wait(&b->word, 1, MP__NEVER), 0);
    assert_int_equal(mp__futex_wait(&b->word, 0, 0), MP_ETIMEDOUT);
    assert_int_equal(mp__futex_wait(&b->word, 0, begin + 20000000), MP_ETIMEDOUT);
    assert_true(mp__clock_now() >= begin + 20000000);
    pid = fork_child();
    if (pid == 0) {
        atomic_store(&b->word, 7);
        mp__futex_wake(&b->word, 1);
        _exit(0);
    }
    while (atomic_load(&b->word) == 0)
        assert_int_equal(mp__futex_wait(&b->word, 0, MP__NEVER), 0);
    assert_int_equal(reap(pid), 0);
    drop_board(b);
}

static void interrupt_at_alarm(int sig)
{
    (void)sig;
    mp_interrupt();
}

/* In a child, so that the runner itself stays undisturbed. */
static int be_interrupted(board *b)
{
    struct sigaction action = { .sa_handler = interrupt_at_alarm };
    int r;

    if (mp_allow_interrupt() < 0 || sigaction(SIGUSR1, &action, NULL) < 0)
        return 1;
    say_step(b);
    r = mp__mutex_lock(&b->mutex, MP__NEVER);
    if (r != MP_EINTR)
        return 2;
    say_step(b);
    r = 0;
    while (r == 0)
        r = mp__futex_wait(&b->word, 0, MP__NEVER);
    return r == MP_EINTR ? 0 : 3;
}

static void waits_end_when_a_handler_interrupts(void **state)
{
    board *b = make_board();
    pid_t pid;

    (void)state;
    assert_int_equal(mp__mutex_enter(&b->mutex), 0);
    pid = fork_child();
    if (pid == 0)
        _exit(be_interrupted(b));
    wait_for_step(b, 1);
    assert_int_equal(kill(pid, SIGUSR1), 0);
    wait_for_step(b, 2);
    assert_int_equal(kill(pid, SIGUSR1), 0);
    assert_int_equal(reap(pid), 0);
    assert_int_equal(mp__mutex_unlock(&b->mutex), 0);
    drop_board(b);
}

static const struct CMUnitTest tests[] = {
    ONCE(a_mutex_of_a_dead_process_goes_to_the_next_who_is_told_once),
    ONCE(a_mutex_of_a_thread_that_ended_goes_to_the_next),
    ONCE(one_process_at_a_time_is_inside),
    ONCE(a_word_is_waited_for_until_it_changes_or_the_time_is_over),
    ONCE(waits_end_when_a_handler_interrupts),
};

TESTS_MAIN(tests)
