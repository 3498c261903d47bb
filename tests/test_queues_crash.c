/* SPDX-License-Identifier: MIT
 *
 * test_queues_crash.c - processes that are killed inside a queue: after each single
 * instruction of put and get, while they sleep, and at random. Whoever is left goes
 * on at once, and no item is lost or doubled but that of the dead.
 */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- helpers ---- */

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static mp_queue *make_queue(void)
{
    mp_queue *queue = mp_joinable_queue_new();

    if (!queue)
        fail_msg("no queue: %s", mp_last_error()->text);
    return queue;
}

/* The number an item begins with; -1: none came, -2: what came is no such item. */
static long get_number(mp_queue *queue, double timeout)
{
    mp_message message = MP_MESSAGE_INIT;
    long number = -1;
    int r = mp_queue_get(queue, &message, timeout);

    if (r == 0 && mp_unpack(&message, &number, NULL) < 0)
        number = -2;
    if (r < 0 && r != MP_EEMPTY)
        number = -2;
    mp_message_clear(&message);
    return number;
}

/* ---- one instruction after the other ---- */

enum { BEFORE = 3, VICTIM = 100, AFTER = 200 };

/* What the victim does. */
enum deed { PUT, PUT_GROWING, PUT_HANDLE, GET, GET_SHRINKING, GET_HANDLE, DONE, DEEDS };

static const char *const deed_names[DEEDS] = { "put", "put that makes the ring grow",
    "put of a handle", "get", "get that makes the ring shrink", "get of a handle", "task_done" };

#define LARGE ((size_t)80000)               /* more than the ring has at first */
#define ENORMOUS (((size_t)4 << 20) + 1000) /* more than it keeps */

static int do_deed(enum deed deed, mp_queue *queue, mp_connection *line, mp_message *message)
{
    static char bytes[LARGE];

    switch (deed) {
    case PUT:
        return mp_queue_put(queue, mp_list(VICTIM, 0), MP_FOREVER);
    case PUT_GROWING:
        return mp_queue_put(queue, mp_list(VICTIM, mp_struct(&bytes)), MP_FOREVER);
    case PUT_HANDLE:
        return mp_queue_put(queue, mp_list(VICTIM, line), MP_FOREVER);
    case DONE:
        return mp_queue_task_done(queue);
    default:
        return mp_queue_get(queue, message, MP_FOREVER);
    }
}

/* Tells its pid, waits until somebody traces it, and marks the beginning and the end. */
static int suffer(mp_call *call)
{
    mp_queue *queue;
    mp_connection *line;
    mp_message message = MP_MESSAGE_INIT, warm = MP_MESSAGE_INIT;
    int deed, r = mp_unpack(call, &queue, &line, &deed);

    if (r == 0)
        r = mp_connection_send(line, (long)getpid());
    if (r == 0)
        r = mp_connection_recv(line, &warm);
    (void)raise(SIGUSR1);
    if (r == 0)
        r = do_deed((enum deed)deed, queue, line, &message);
    (void)raise(SIGUSR2);
    mp_message_clear(&message);
    mp_message_clear(&warm);
    return r != 0;
}

/* The items before the victim came. */
static void fill(mp_queue *queue, enum deed deed, mp_connection *line)
{
    static const size_t sizes[BEFORE] = { 100000, 550000, 0 }; /* an eighth, but for the first */
    static char bytes[ENORMOUS];

    if (deed == GET_SHRINKING)
        assert_int_equal(mp_queue_put(queue, mp_list(-1, mp_struct(&bytes)), 0), 0);
    for (int i = 0; i < BEFORE; i++) {
        int r;

        if (deed == GET_HANDLE || deed == PUT_HANDLE)
            r = mp_queue_put(queue, mp_list(i, line), 0);
        else if (deed == GET_SHRINKING)
            r = mp_queue_put(queue, mp_list(i, mp_bytes(bytes, sizes[i])), 0);
        else
            r = mp_queue_put(queue, mp_list(i, 0), 0);
        if (r < 0)
            fail_msg("put: %s", mp_last_error()->text);
    }
    if (deed == GET_SHRINKING)
        assert_int_equal(get_number(queue, 0), -1);
}

/* How the stop of a traced process came about; 0: it has ended. */
static int stopped_by(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, __WALL) < 0)
        if (errno != EINTR)
            return 0;
    return WIFSTOPPED(status) ? WSTOPSIG(status) : 0;
}

#if defined(__x86_64__)
/*
 * A copy of many bytes is one instruction here, and as many steps as bytes: it is done at
 * once, up to a breakpoint behind it. Whether there was one.
 */
static bool skip_copy(pid_t pid)
{
    unsigned long at = (unsigned long)ptrace(
        PTRACE_PEEKUSER, pid, (void *)offsetof(struct user_regs_struct, rip), NULL);
    unsigned long code = (unsigned long)ptrace(PTRACE_PEEKTEXT, pid, (void *)at, NULL);

    if ((code & 0xffff) != 0xa4f3 && (code & 0xffff) != 0xa5f3 && (code & 0xffffff) != 0xa548f3)
        return false; /* no rep movsb, movsl, movsq */
    at += (code & 0xff00) == 0x4800 ? 3 : 2;
    code = (unsigned long)ptrace(PTRACE_PEEKTEXT, pid, (void *)at, NULL);
    (void)ptrace(PTRACE_POKETEXT, pid, (void *)at, (void *)((code & ~0xfful) | 0xcc));
    (void)ptrace(PTRACE_CONT, pid, NULL, NULL);
    assert_int_equal(stopped_by(pid), SIGTRAP);
    (void)ptrace(PTRACE_POKETEXT, pid, (void *)at, (void *)code);
    (void)ptrace(PTRACE_POKEUSER, pid, (void *)offsetof(struct user_regs_struct, rip), (void *)at);
    return true;
}
#else
static bool skip_copy(pid_t pid)
{
    (void)pid;
    return false;
}
#endif

/* Ends a traced process that is stopped. A tracer that is not the parent must look at its end. */
static void end_traced(pid_t pid, bool is_child)
{
    (void)kill(pid, SIGKILL);
    if (!is_child)
        (void)stopped_by(pid);
}

/* Not where the system forbids it, and not with a sanitizer, whose instructions are not ours. */
static void skip_unless_traceable(void)
{
    pid_t pid = HAS_ASAN || HAS_TSAN || !HAS_64_BITS ? -1 : fork(); /* else copies take minutes */
    bool traceable;

    if (pid == 0)
        for (;;)
            (void)pause();
    traceable = pid > 0 && ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0;
    if (pid > 0) {
        (void)kill(pid, SIGKILL);
        while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
    }
    if (!traceable)
        skip();
}

/* From the mark of the beginning so many steps. Whether the end was reached before. */
static bool step(pid_t pid, long steps)
{
    for (long i = 0; i < steps; i++) {
        int sig;

        if (skip_copy(pid))
            continue;
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0)
            fail_msg("singlestep: %s", strerror(errno));
        sig = stopped_by(pid);
        if (sig == SIGUSR2 || sig == 0)
            return true;
        if (sig != SIGTRAP)
            fail_msg("the victim got signal %d", sig);
    }
    return false;
}

/* What is left must be what was there, but for the deed of the victim; in order, and at once. */
static void check_survivors(mp_queue *queue, enum deed deed, long steps, double *longest)
{
    bool gets = deed == GET || deed == GET_SHRINKING || deed == GET_HANDLE;
    double begin = now(), elapsed;
    long number, expected = 0;
    int count = 0;

    if (mp_queue_put(queue, mp_list(AFTER, 0), PATIENCE) < 0)
        fail_msg(
            "%s, killed after %ld steps: put: %s", deed_names[deed], steps, mp_last_error()->text);
    while ((number = get_number(queue, 0)) >= 0) {
        count++;
        if (number == 1 && expected == 0 && gets)
            expected = 1; /* the first one went with the victim */
        if (number == AFTER && expected == VICTIM)
            expected = AFTER; /* the victim's never came */
        if (number != expected)
            break;
        expected = expected == BEFORE - 1 ? (gets || deed == DONE ? AFTER : VICTIM)
                   : expected == VICTIM   ? AFTER
                   : expected == AFTER    ? -1
                                          : expected + 1;
    }
    elapsed = now() - begin;
    if (number != -1 || expected != -1 || mp_queue_qsize(queue) != 0)
        fail_msg("%s, killed after %ld steps: item %ld came instead of %ld after %d; %s",
            deed_names[deed], steps, number, expected, count, mp_last_error()->text);
    if (elapsed > *longest)
        *longest = elapsed;
    while (mp_queue_task_done(queue) == 0)
        ;
    assert_int_equal(mp_queue_join(queue, 0), 0);
}

/* A victim that is traced, stopped where its deed begins. */
static mp_process *start_victim(
    enum deed deed, mp_queue *queue, mp_connection *here, mp_connection *there, pid_t *traced)
{
    mp_process *p = start_process(.target = suffer, .args = MP_ARGS(queue, there, (int)deed));
    mp_message message = MP_MESSAGE_INIT;
    long pid;

    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_unpack(&message, &pid), 0);
    mp_message_clear(&message);
    if (ptrace(PTRACE_SEIZE, (pid_t)pid, NULL, NULL) < 0)
        fail_msg("trace: %s", strerror(errno));
    assert_int_equal(mp_connection_send(here, 0), 0);
    assert_int_equal(stopped_by((pid_t)pid), SIGUSR1);
    *traced = (pid_t)pid;
    return p;
}

/* One victim. False once it reaches the end of its deed in fewer steps. */
static bool try(enum deed deed, long steps, bool is_child, double *longest)
{
    mp_queue *queue = make_queue();
    mp_connection *here, *there;
    mp_process *p;
    pid_t pid = -1;
    bool over;

    assert_int_equal(mp_pipe(&here, &there), 0);
    fill(queue, deed, there);
    p = start_victim(deed, queue, here, there, &pid);
    over = step(pid, steps);
    end_traced(pid, is_child);
    assert_int_equal(finish(p), -SIGKILL);
    if (over && deed == GET_SHRINKING) /* it did, so its instructions were among the steps */
        assert_true(count_nameless_memory() < 1000000);
    check_survivors(queue, deed, steps, longest);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_queue_free(queue);
    return !over;
}

/*
 * One victim after every stride instructions, at others each time the test runs: all of
 * them take minutes, which MP_TEST_STEPS=1 spends.
 */
static void kill_at_every_step(const char *method, long stride)
{
    bool is_child = strcmp(method, "forkserver") != 0;
    const char *wish = getenv("MP_TEST_STEPS");
    int late = 0, victims = 0;

    if (wish)
        stride = atol(wish);
    support_allow(wish ? 3600 : 240);
    for (int deed = 0; deed < DEEDS; deed++) {
        long steps = (long)getpid() % stride;
        double longest = 0;

        for (; try((enum deed)deed, steps, is_child, &longest); steps += stride) {
            victims++;
            late += longest > 0.1;
            assert_true(longest < 5);
            longest = 0;
        }
        if (wish)
            print_message("%s: %ld instructions\n", deed_names[deed], steps);
    }
    if (late * 50 > victims + 50)
        fail_msg("after %d of %d deaths the others went on only after 100 ms", late, victims);
}

static void a_process_killed_after_any_instruction_wedges_nobody(void **state)
{
    skip_unless_traceable();
    kill_at_every_step(*state, strcmp(*state, "fork") == 0 ? 61 : 211);
}

/* While the victim is stopped somewhere inside, calls with a timeout come back. */
static void check_held_up(enum deed deed, long steps, bool is_child, int *held, int *free)
{
    mp_queue *queue = make_queue();
    mp_connection *here, *there;
    double begin;
    mp_process *p;
    pid_t pid = -1;
    int r;

    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_victim(deed, queue, here, there, &pid);
    (void)step(pid, steps);
    begin = now();
    r = mp_queue_put(queue, mp_list(AFTER, 0), 0.02);
    assert_true(r == 0 || r == MP_EFULL);
    (*held) += r == MP_EFULL;
    (*free) += r == 0;
    assert_int_not_equal(get_number(queue, 0.02), -2);
    assert_true(now() - begin < 5);
    end_traced(pid, is_child);
    assert_int_equal(finish(p), -SIGKILL);
    assert_int_equal(mp_queue_put(queue, mp_list(AFTER, 0), PATIENCE), 0); /* it goes on */
    mp_connection_free(here);
    mp_connection_free(there);
    mp_queue_free(queue);
}

static void a_stopped_process_holds_up_others_no_longer_than_they_say(void **state)
{
    bool is_child = strcmp(*state, "forkserver") != 0;
    int held = 0, free = 0;

    skip_unless_traceable();
    for (long steps = 20; steps < 1400 || (steps < 10000 && (!held || !free)); steps += 20)
        check_held_up(PUT, steps, is_child, &held, &free);
    assert_true(held > 0 && free > 0);
}

/* ---- asleep ---- */

static int sleep_in_get(mp_call *call)
{
    mp_queue *queue;

    return mp_unpack(call, &queue) ? 99 : (int)get_number(queue, MP_FOREVER) != 7;
}

static int sleep_in_wait(mp_call *call)
{
    mp_queue *queue;

    return mp_unpack(call, &queue)
               ? 99
               : mp_wait(&(mp_wait_item){ .queue = queue }, 1, MP_FOREVER) != 1 ||
                     get_number(queue, 0) != 7;
}

static int sleep_in_put(mp_call *call)
{
    mp_queue *queue;

    return mp_unpack(call, &queue) ? 99 : mp_queue_put(queue, mp_list(7, 0), MP_FOREVER) != 0;
}

/* Until a process sleeps in the kernel; it may be on its way to another sleep, which is good, too. */
static void wait_until_asleep(const mp_process *p)
{
    char path[64], state = 'R';

    (void)snprintf(path, sizeof(path), "/proc/%ld/stat", (long)mp_process_pid(p));
    for (int in_a_row = 0; in_a_row < 20;) {
        struct timespec pause = { 0, 1000000 };
        FILE *file = fopen(path, "re");

        assert_non_null(file);
        if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
            state = '?';
        (void)fclose(file);
        in_a_row = state == 'S' ? in_a_row + 1 : 0;
        (void)nanosleep(&pause, NULL); /* the kernel tells nobody that a process went to sleep */
    }
}

static void check_sleepers(mp_function sleeper, mp_queue *queue)
{
    mp_process *victims[3], *survivor;

    for (int i = 0; i < 3; i++)
        victims[i] = start_process(.target = sleeper, .args = MP_ARGS(queue));
    for (int i = 0; i < 3; i++)
        wait_until_asleep(victims[i]);
    survivor = start_process(.target = sleeper, .args = MP_ARGS(queue));
    wait_until_asleep(survivor);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mp_process_kill(victims[i]), 0);
        assert_int_equal(finish(victims[i]), -SIGKILL);
    }
    if (sleeper == sleep_in_put)
        assert_int_equal(get_number(queue, 0), 0);
    else
        assert_int_equal(mp_queue_put(queue, mp_list(7, 0), 0), 0);
    assert_int_equal(finish(survivor), 0);
}

static void sleepers_that_are_killed_take_no_wake_up_along(void **state)
{
    mp_queue *queue = make_queue(), *full = mp_queue_new(.maxsize = 1);

    (void)state;
    check_sleepers(sleep_in_get, queue);
    check_sleepers(sleep_in_wait, queue);
    assert_int_equal(mp_queue_put(full, mp_list(0, 0), 0), 0);
    check_sleepers(sleep_in_put, full);
    assert_int_equal(mp_queue_qsize(queue), 0);
    assert_int_equal(get_number(full, 0), 7);
    mp_queue_free(queue);
    mp_queue_free(full);
}

/* ---- at random ---- */

enum { MOVERS = 4, KILLS = 60, ITEMS = 400 };

/* Takes numbers and puts them back at the end, for ever. */
static int move_items(mp_call *call)
{
    mp_queue *from, *to;
    mp_message message = MP_MESSAGE_INIT;
    int r = mp_unpack(call, &from, &to);

    while (r == 0) {
        r = mp_queue_get(from, &message, MP_FOREVER);
        if (r == 0)
            r = mp_queue_put(to, message.value, MP_FOREVER);
    }
    mp_message_clear(&message);
    return 1;
}

/* Each number at most once, and not fewer than those the dead can have had in their hands. */
static void count_numbers(mp_queue *queue, bool *seen, int *count)
{
    long number;

    while ((number = get_number(queue, 0)) >= 0) {
        assert_true(number < ITEMS);
        assert_false(seen[number]);
        seen[number] = true;
        (*count)++;
    }
    assert_int_equal(number, -1);
}

static void random_kills_cost_at_most_what_the_dead_had_in_hand(void **state)
{
    static char padding[500];
    mp_queue *a = make_queue(), *b = make_queue();
    bool seen[ITEMS] = { false };
    mp_process *movers[MOVERS];
    unsigned seed = 7;
    int count = 0;

    (void)state;
    for (int i = 0; i < ITEMS; i++)
        assert_int_equal(
            mp_queue_put(a, mp_list(i, mp_bytes(padding, (size_t)(i * 37 % 500))), 0), 0);
    for (int i = 0; i < MOVERS; i++)
        movers[i] =
            start_process(.target = move_items, .args = i % 2 ? MP_ARGS(a, b) : MP_ARGS(b, a));
    for (int i = 0; i < KILLS; i++) {
        struct timespec pause = { 0, (long)((seed = seed * 1103515245u + 12345u) >> 8) % 3000000 };
        int k = i % MOVERS;

        (void)nanosleep(&pause, NULL); /* so that the kill comes at a random moment */
        assert_int_equal(mp_process_kill(movers[k]), 0);
        assert_int_equal(finish(movers[k]), -SIGKILL);
        movers[k] =
            start_process(.target = move_items, .args = k % 2 ? MP_ARGS(a, b) : MP_ARGS(b, a));
    }
    for (int i = 0; i < MOVERS; i++) {
        assert_int_equal(mp_process_kill(movers[i]), 0);
        assert_int_equal(finish(movers[i]), -SIGKILL);
    }
    count_numbers(a, seen, &count);
    count_numbers(b, seen, &count);
    assert_true(count >= ITEMS - KILLS - MOVERS);
    mp_queue_free(a);
    mp_queue_free(b);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(a_process_killed_after_any_instruction_wedges_nobody),
    UNDER_EACH(a_stopped_process_holds_up_others_no_longer_than_they_say),
    UNDER_EACH(sleepers_that_are_killed_take_no_wake_up_along),
    UNDER_EACH(random_kills_cost_at_most_what_the_dead_had_in_hand),
};

TESTS_MAIN(tests)
