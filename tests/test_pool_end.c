/* SPDX-License-Identifier: MIT
 *
 * test_pool_end.c - terminate and free in bounded time from any state, Ctrl-C, and
 * what becomes of workers when their root is killed. The worst times are printed;
 * what is asserted leaves room for loaded machines.
 */
#include "pools.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#include "crash.h"

#define BIG ((size_t)8 << 20)
#define SECONDS_MAX 8.0 /* the promise is one, on a machine that is not loaded */

static double worst;

static void note_time(double begin)
{
    double seconds = now() - begin;

    if (seconds > worst)
        worst = seconds;
    assert_true(seconds < SECONDS_MAX);
}

static void free_in_time(mp_pool *pool)
{
    double begin = now();

    mp_pool_free(pool);
    note_time(begin);
}

/* ---- tasks ---- */

static int give_back(mp_call *call)
{
    mp_bytes_view bytes;

    return mp_unpack(call, &bytes) ? 1 : mp_return(call, mp_bytes(bytes.data, bytes.size));
}

static int block(mp_call *call)
{
    mp_connection *line;

    if (mp_unpack(call, &line) || mp_connection_send(line, 1))
        return 1;
    for (;;)
        (void)pause();
    return 0;
}

static int ignore_sigterm(mp_call *call)
{
    (void)call;
    return signal(SIGTERM, SIG_IGN) == SIG_ERR;
}

/* Starts as many tasks that never end, and sees them run. */
static void occupy(mp_pool *pool, int count)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;

    assert_int_equal(mp_pipe(&here, &there), 0);
    for (int i = 0; i < count; i++) {
        mp_result *result = mp_pool_apply_async(pool, block, MP_ARGS(there));

        assert_non_null(result);
        mp_result_free(result);
    }
    for (int i = 0; i < count; i++)
        assert_int_equal(mp_connection_recv(here, &message), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
}

/* ---- from any state ---- */

static void a_pool_with_full_pipes_both_ways_ends_in_time(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    void *big = calloc(1, BIG);
    mp_result *results[8];

    (void)state;
    assert_non_null(big);
    for (int i = 0; i < 8; i++) {
        results[i] = mp_pool_apply_async(pool, give_back, MP_ARGS(mp_bytes(big, BIG)));
        assert_non_null(results[i]);
    }
    free(big);
    free_in_time(pool);
    for (int i = 0; i < 8; i++) {
        int r = mp_result_get(results[i], NULL, PATIENCE);

        assert_true(r == 0 || r == MP_ETERMINATED);
        mp_result_free(results[i]);
    }
}

static void a_pool_with_stopped_workers_ends_in_time(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    pid_t pids[2];

    (void)state;
    occupy(pool, 2);
    assert_int_equal(mp_pool_pids(pool, pids, 2), 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(kill(pids[i], SIGSTOP), 0);
    free_in_time(pool);
}

static void a_pool_whose_workers_ignore_sigterm_ends_in_time(void **state)
{
    mp_pool *pool = make_pool(.processes = 2, .initializer = ignore_sigterm);

    (void)state;
    occupy(pool, 2);
    free_in_time(pool);
}

static void a_pool_whose_workers_still_begin_ends_in_time(void **state)
{
    mp_connection *here, *there;
    mp_message message = MP_MESSAGE_INIT;
    mp_pool *pool;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    pool = make_pool(.processes = 2, .initializer = block, .initargs = MP_ARGS(there));
    assert_int_equal(mp_connection_recv(here, &message), 0);
    free_in_time(pool);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
}

static void a_pool_that_was_just_made_ends_in_time(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++)
        free_in_time(make_pool(.processes = 3));
}

/* ---- while others use it ---- */

typedef struct user {
    mp_pool *pool;
    mp_connection *line; /* for the tasks */
    int r;
} user;

static void *wait_in_map(void *argument)
{
    user *u = argument;
    msgpack_object items[2] = { MP__VALUE(u->line), MP__VALUE(u->line) };

    u->r = mp_pool_map(u->pool, block, MP_ITEMS(items, 2));
    return NULL;
}

static void *wait_in_apply(void *argument)
{
    user *u = argument;

    u->r = mp_pool_apply(u->pool, block, MP_ARGS(u->line), NULL);
    return NULL;
}

static void *terminate_it(void *argument)
{
    user *u = argument;

    u->r = mp_pool_terminate(u->pool);
    return NULL;
}

static void who_waits_is_told_that_the_pool_was_terminated(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    pthread_t threads[2];
    user users[2];
    double begin;

    if (HAS_TSAN)
        skip(); /* it cannot follow a fork of a process with threads */
    assert_int_equal(mp_pipe(&here, &there), 0);
    users[0] = users[1] = (user){ make_pool(.processes = 3), there, 0 };
    (void)state;
    assert_int_equal(pthread_create(&threads[0], NULL, wait_in_map, &users[0]), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, wait_in_apply, &users[1]), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(mp_connection_recv(here, &message), 0);
    begin = now();
    assert_int_equal(mp_pool_terminate(users[0].pool), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    note_time(begin);
    assert_int_equal(users[0].r, MP_ETERMINATED);
    assert_int_equal(users[1].r, MP_ETERMINATED);
    mp_pool_free(users[0].pool);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
}

static void two_threads_may_terminate_at_once(void **state)
{
    pthread_t threads[2];
    user users[2];

    (void)state;
    for (int round = 0; round < 5; round++) {
        mp_pool *pool = make_pool(.processes = 2);
        double begin;

        occupy(pool, 1);
        users[0] = users[1] = (user){ .pool = pool };
        begin = now();
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, terminate_it, &users[i]), 0);
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
        note_time(begin);
        assert_true(users[0].r == 0 && users[1].r == 0);
        mp_pool_free(pool);
    }
}

static void end_in_callback(mp_result *result, void *pool)
{
    (void)result;
    assert_int_equal(mp_pool_terminate(pool), 0);
}

static void a_callback_may_terminate_a_busy_pool(void **state)
{
    mp_pool *pool = make_pool(.processes = 2);
    mp_result *result, *other;
    double begin = now();

    (void)state;
    occupy(pool, 1);
    other = mp_pool_apply_async(pool, square, MP_ARGS(4)); /* first: no call comes after the end */
    result =
        mp_pool_apply_async(pool, square, MP_ARGS(3), .callback = end_in_callback, .user = pool);
    assert_int_equal(mp_result_get(result, NULL, PATIENCE), 0);
    assert_int_equal(mp_result_wait(other, PATIENCE), 0);
    note_time(begin);
    mp_result_free(result);
    mp_result_free(other);
    mp_pool_free(pool);
}

/* ---- at random instants ---- */

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Gives some work of each kind, and lets some time go by, measured in work. */
static void stir(mp_pool *pool, unsigned *seed, const void *big)
{
    long numbers[200], squares[200];

    for (long i = 0; i < 200; i++)
        numbers[i] = i;
    for (unsigned i = next_random(seed) % 4; i > 0; i--)
        mp_result_free(
            mp_pool_apply_async(pool, give_back, MP_ARGS(mp_bytes(big, next_random(seed) % BIG))));
    for (unsigned i = next_random(seed) % 20; i > 0; i--)
        mp_result_free(mp_pool_apply_async(pool, square, MP_ARGS((int)i)));
    for (unsigned i = next_random(seed) % 3; i > 0; i--)
        assert_int_equal(
            mp_pool_map(pool, square, MP_ITEMS(numbers, 200), MP_ITEMS(squares, 200)), 0);
}

static void a_pool_ends_in_time_at_random_instants(void **state)
{
    const char *text = getenv("SEED"), *many = getenv("END_ROUNDS");
    unsigned seed = text ? (unsigned)atoi(text) : 2026;
    void *big = calloc(1, BIG);

    (void)state;
    print_message("SEED=%u\n", seed);
    assert_non_null(big);
    support_allow(600);
    for (int round = many ? atoi(many) : 40; round > 0; round--) {
        mp_pool *pool = make_pool(.processes = 1 + (int)(next_random(&seed) % 3));

        stir(pool, &seed, big);
        if (next_random(&seed) % 2)
            assert_int_equal(mp_pool_close(pool), 0);
        if (next_random(&seed) % 4 == 0)
            assert_int_equal(mp_pool_terminate(pool), 0);
        free_in_time(pool);
    }
    free(big);
    print_message("the worst end took %.3f s\n", worst);
}

/* ---- Ctrl-C ---- */

/* In a session of its own whose terminal is the other side of master. */
static pid_t start_on_terminal(const char *method, const char *argument, int *master)
{
    char variable[64];
    pid_t pid;

    (void)snprintf(variable, sizeof(variable), "MP_START_METHOD=%s", method);
    *master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(*master >= 0);
    assert_true(grantpt(*master) == 0 && unlockpt(*master) == 0);
    (void)fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const char *name = ptsname(*master);
        int slave;

        for (int sig = 1; sig < NSIG; sig++)
            (void)signal(sig, SIG_DFL);
        (void)setsid();
        slave = name ? open(name, O_RDWR) : -1;
        if (slave < 0 || ioctl(slave, TIOCSCTTY, 0) < 0)
            _exit(126);
        for (int fd = 0; fd < 3; fd++)
            (void)dup2(slave, fd);
        (void)close(slave);
        (void)putenv(variable);
        execl(program_path("pool_interrupt"), "pool_interrupt", argument, (char *)NULL);
        _exit(127);
    }
    return pid;
}

/* Reads until the text has come that often, or until nobody holds the terminal. */
static void read_terminal(int master, const char *text, int count, char *output, size_t size)
{
    size_t used = strlen(output);
    ssize_t n = 1;

    while ((!text || count_text(output, text) < count) && n > 0 && used < size - 1) {
        n = read(master, output + used, size - 1 - used);
        if (n > 0)
            output[used += (size_t)n] = '\0';
    }
}

static int interrupt_program(const char *method, const char *argument, char *output, size_t size)
{
    int master = -1, status = 0;
    pid_t pid = start_on_terminal(method, argument, &master);
    double begin;

    *output = '\0';
    read_terminal(master, "ready", 2, output, size);
    *output = '\0';
    begin = now();
    assert_int_equal(write(master, "\003", 1), 1);
    read_terminal(master, NULL, 0, output, size); /* to the end: all of its session are gone */
    assert_int_equal(waitpid(pid, &status, 0), pid);
    note_time(begin);
    (void)close(master);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void ctrl_c_ends_a_busy_program_at_once(void **state)
{
    char output[4096];

    assert_int_equal(interrupt_program(*state, NULL, output, sizeof(output)), -SIGINT);
    assert_true(count_text(output, "\n") <= 1);
}

static void a_handler_of_the_program_may_end_the_map(void **state)
{
    char output[4096];

    assert_int_equal(interrupt_program(*state, "handle", output, sizeof(output)), 7);
}

/* ---- the root is killed ---- */

static void nothing_outlives_a_root_that_is_killed(void **state)
{
    static const char *const states[] = { "idle", "busy", "writing", "nested" };
    static outcome out;
    char method[64];

    (void)snprintf(method, sizeof(method), "MP_START_METHOD=%s", (const char *)*state);
    for (size_t i = 0; i < 4; i++) {
        run_program((const char *const[]){ program_path("pool_orphans"), states[i], NULL },
            (const char *const[]){ method, NULL }, PATIENCE, &out);
        if (out.status != -SIGKILL)
            fail_msg("%s: %d, %s", states[i], out.status, out.output);
    }
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(a_pool_with_full_pipes_both_ways_ends_in_time),
    UNDER_EACH(a_pool_with_stopped_workers_ends_in_time),
    UNDER_EACH(a_pool_whose_workers_ignore_sigterm_ends_in_time),
    UNDER_EACH(a_pool_whose_workers_still_begin_ends_in_time),
    UNDER_EACH(a_pool_that_was_just_made_ends_in_time),
    UNDER_EACH(who_waits_is_told_that_the_pool_was_terminated),
    UNDER_EACH(two_threads_may_terminate_at_once),
    UNDER_EACH(a_callback_may_terminate_a_busy_pool),
    UNDER_EACH(a_pool_ends_in_time_at_random_instants),
    UNDER_EACH(ctrl_c_ends_a_busy_program_at_once),
    UNDER_EACH(a_handler_of_the_program_may_end_the_map),
    UNDER_EACH(nothing_outlives_a_root_that_is_killed),
};

TESTS_MAIN(tests)
