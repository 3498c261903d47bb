/* SPDX-License-Identifier: MIT
 *
 * test_exit.c - how processes end together: exit hooks, daemons, children that
 * are joined, and other code that reaps.
 */
#include "support.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pid_internal.h"

static mp_connection *diary; /* of the process that is about to end */

static void write_diary(void *word)
{
    (void)mp_connection_send(diary, (const char *)word);
}

static void write_c_handler(void)
{
    write_diary("atexit");
}

static void expect_word(mp_connection *line, const char *expected)
{
    mp_message message = MP_MESSAGE_INIT;
    const char *word;

    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &word), 0);
    assert_string_equal(word, expected);
    mp_message_clear(&message);
}

static void expect_end(mp_connection *line)
{
    mp_message message = MP_MESSAGE_INIT;

    assert_int_equal(mp_connection_recv(line, &message), MP_EEOF);
    mp_message_clear(&message);
}

/* Starts a process that writes into the returned connection. */
static mp_process *start_writer(mp_function target, bool daemon, mp_connection **line)
{
    mp_connection *theirs;
    mp_process *p;

    assert_int_equal(mp_pipe(line, &theirs), 0);
    p = start_process(.target = target, .args = MP_ARGS(theirs), .daemon = daemon ? 1 : MP_NO);
    mp_connection_free(theirs);
    return p;
}

/* ---- hooks ---- */

static int register_hooks(mp_call *call)
{
    if (mp_unpack(call, &diary))
        return 1;
    mp_connection_keep(diary);
    if (mp_atexit(write_diary, (void *)"low", -5) || mp_atexit(write_diary, (void *)"first", 3) ||
        mp_atexit(write_diary, (void *)"second", 3) || mp_atexit(write_diary, (void *)"high", 9))
        return 2;
    return mp_atexit(NULL, NULL, 0) == MP_EINVAL ? 0 : 3;
}

static int register_hooks_and_exit(mp_call *call)
{
    exit(register_hooks(call) + 40);
}

static void hooks_run_by_priority_then_newest_first(void **state)
{
    static const char *const expected[] = { "high", "second", "first", "low" };
    mp_connection *line;
    mp_process *p = start_writer(register_hooks, false, &line);

    (void)state;
    for (size_t i = 0; i < 4; i++)
        expect_word(line, expected[i]);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
}

static void hooks_run_on_exit_too(void **state)
{
    mp_connection *line;
    mp_process *p = start_writer(register_hooks_and_exit, false, &line);

    (void)state;
    expect_word(line, "high");
    assert_int_equal(finish(p), 40);
    mp_connection_free(line);
}

static int register_c_handler(mp_call *call)
{
    if (mp_unpack(call, &diary))
        return 1;
    mp_connection_keep(diary);
    return atexit(write_c_handler);
}

static void handlers_of_atexit_registered_in_the_child_run(void **state)
{
    mp_connection *line;
    mp_process *p;

    (void)state;
    p = start_writer(register_c_handler, false, &line);
    expect_word(line, "atexit");
    expect_end(line);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
}

/* A process with handlers of its own starts another: those are not inherited. */
static int start_inner_with_handlers_about(mp_call *call)
{
    mp_process *p;

    if (register_hooks(call) || atexit(write_c_handler))
        return 1;
    p = mp_process_new(.context = mp_get_context("fork"));
    if (!p || mp_process_start(p) || mp_process_join(p, PATIENCE) || mp_process_exitcode(p))
        return 2;
    write_diary((void *)"joined");
    _exit(0);
}

static void handlers_of_the_parent_do_not_run_in_a_copy_of_it(void **state)
{
    mp_connection *line;
    mp_process *p = start_writer(start_inner_with_handlers_about, false, &line);

    (void)state;
    expect_word(line, "joined");
    expect_end(line);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
}

/* ---- children at exit ---- */

static int wait_for_end_of_line(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r;

    if (mp_unpack(call, &line))
        return 1;
    r = mp_connection_recv(line, &message);
    mp_message_clear(&message);
    return r == MP_EEOF ? 0 : 2;
}

/* Arguments: a diary, and the line its child waits for. */
static int leave_a_child_running(mp_call *call)
{
    mp_connection *line;
    mp_process *p;

    if (mp_unpack(call, &diary, &line))
        return 1;
    mp_connection_keep(diary);
    p = mp_process_new(.target = wait_for_end_of_line, .args = MP_ARGS(line));
    if (!p || mp_process_start(p) || mp_atexit(write_diary, (void *)"before", 0) ||
        mp_atexit(write_diary, (void *)"after", -1))
        return 2;
    mp_process_free(p); /* also a freed one is joined */
    return 0;
}

static void an_exiting_process_joins_its_children(void **state)
{
    mp_connection *here, *there, *line, *theirs;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_pipe(&line, &theirs), 0);
    p = start_process(.target = leave_a_child_running, .args = MP_ARGS(there, theirs));
    mp_connection_free(there);
    mp_connection_free(theirs);
    expect_word(here, "before");
    assert_int_equal(mp_connection_poll(here, 0), 0);
    assert_true(mp_process_is_alive(p));
    mp_connection_free(line);
    expect_word(here, "after");
    assert_int_equal(finish(p), 0);
    mp_connection_free(here);
}

static int say_and_wait_for_ever(mp_call *call)
{
    mp_connection *line;

    if (mp_unpack(call, &line) || mp_connection_send(line, "running"))
        return 1;
    while (pause())
        ;
    return 0;
}

static int say_and_ignore_sigterm(mp_call *call)
{
    (void)signal(SIGTERM, SIG_IGN);
    return say_and_wait_for_ever(call);
}

/* Starts a daemon and waits until it runs. */
static int start_daemon(mp_connection *line, mp_function target)
{
    mp_process *p = mp_process_new(.target = target, .args = MP_ARGS(line), .daemon = true);

    return p && mp_process_start(p) == 0 ? 0 : 2;
}

/* The end of the daemon is the end of the line: nobody else holds it. */
static int leave_a_daemon(mp_call *call, mp_function target)
{
    mp_connection *line, *go;
    mp_message message = MP_MESSAGE_INIT;
    int r;

    if (mp_unpack(call, &line, &go) || start_daemon(line, target))
        return 1;
    r = mp_connection_recv(go, &message); /* until the parent has heard of the daemon */
    mp_message_clear(&message);
    return r == MP_EEOF ? 0 : 3;
}

static int leave_an_obedient_daemon(mp_call *call)
{
    return leave_a_daemon(call, say_and_wait_for_ever);
}

static int leave_a_stubborn_daemon(mp_call *call)
{
    return leave_a_daemon(call, say_and_ignore_sigterm);
}

static void expect_daemon_to_end(mp_function owner, bool killed)
{
    mp_connection *line, *theirs, *go, *went;
    mp_process *p;

    assert_int_equal(mp_pipe(&line, &theirs), 0);
    assert_int_equal(mp_pipe(&go, &went), 0);
    p = start_process(.target = owner, .args = MP_ARGS(theirs, went));
    mp_connection_free(theirs);
    mp_connection_free(went);
    expect_word(line, "running");
    if (killed)
        assert_int_equal(mp_process_kill(p), 0);
    mp_connection_free(go);
    expect_end(line);
    assert_int_equal(finish(p), killed ? -SIGKILL : 0);
    mp_connection_free(line);
}

static void daemons_are_terminated_when_their_parent_exits(void **state)
{
    (void)state;
    expect_daemon_to_end(leave_an_obedient_daemon, false);
}

static void daemons_that_ignore_sigterm_are_killed(void **state)
{
    (void)state;
    expect_daemon_to_end(leave_a_stubborn_daemon, false);
}

static void daemons_die_with_a_parent_that_is_killed(void **state)
{
    (void)state;
    expect_daemon_to_end(leave_a_stubborn_daemon, true);
}

/* It may not kill the daemon any more. */
static int leave_a_daemon_and_be_nobody(mp_call *call)
{
    int r = leave_a_stubborn_daemon(call);

    return r ? r : setresuid(65534, 65534, 65534) ? 4 : 0;
}

static void daemons_of_a_process_that_lost_its_rights_are_killed(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* there are none to lose */
    expect_daemon_to_end(leave_a_daemon_and_be_nobody, false);
}

/* A daemon with a daemon: the inner one inherits the flag. */
static int nest_daemons(mp_call *call)
{
    mp_connection *line;

    if (mp_unpack(call, &line) || start_daemon(line, say_and_ignore_sigterm))
        return 1;
    while (pause())
        ;
    return 0;
}

static int leave_nested_daemons(mp_call *call)
{
    return leave_a_daemon(call, nest_daemons);
}

static void the_whole_tree_of_daemons_goes_down_with_its_root(void **state)
{
    (void)state;
    expect_daemon_to_end(leave_nested_daemons, true);
}

/* ---- threads ---- */

static void *block(void *argument)
{
    while (pause())
        ;
    return argument;
}

static int return_with_a_thread(mp_call *call)
{
    pthread_t thread;

    (void)call;
    return pthread_create(&thread, NULL, block, NULL) ? 1 : 6;
}

static void a_child_ends_with_its_target_whatever_its_threads_do(void **state)
{
    (void)state;
    if (HAS_TSAN)
        skip(); /* TSan waits for the threads of a process that exits */
    assert_int_equal(finish(start_process(.target = return_with_a_thread)), 6);
}

/* ---- other code that reaps ---- */

static int return_three(mp_call *call)
{
    (void)call;
    return 3;
}

/* In a process that ignores SIGCHLD the system reaps: codes are lost, nothing hangs. */
static int join_with_sigchld_ignored(mp_call *call)
{
    (void)call;
    (void)signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 10; i++) {
        mp_process *p = mp_process_new(.target = return_three);
        int r, code;

        if (!p || mp_process_start(p))
            return 1;
        r = mp_process_join(p, PATIENCE);
        code = mp_process_exitcode(p);
        if (!(r == 0 && code == 3) && !(r == MP_ECHILD && code == MP_EXITCODE_LOST))
            return 2;
        if (mp_process_terminate(p) || mp_process_is_alive(p))
            return 3;
        mp_process_free(p);
    }
    return 0;
}

static void an_ignored_sigchld_hangs_nothing(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = join_with_sigchld_ignored)), 0);
}

static atomic_bool enough;

static void *reap_everything(void *argument)
{
    while (!atomic_load(&enough))
        (void)waitpid(-1, NULL, WNOHANG);
    return argument;
}

static int join_beside_a_reaper(mp_call *call)
{
    pthread_t reaper;

    (void)call;
    mp_log_to_stderr(MP_LOG_OFF); /* fork warns of the thread */
    if (pthread_create(&reaper, NULL, reap_everything, NULL))
        return 1;
    for (int i = 0; i < 50; i++) {
        mp_process *p = mp_process_new(.target = return_three);
        int r = !p ? -1 : mp_process_start(p) ? -2 : mp_process_join(p, PATIENCE);
        int code = p ? mp_process_exitcode(p) : 0;

        if (!(r == 0 && code == 3) && !(r == MP_ECHILD && code == MP_EXITCODE_LOST))
            return 2;
        mp_process_free(p);
    }
    atomic_store(&enough, true);
    return pthread_join(reaper, NULL);
}

static void a_thread_that_reaps_everything_hangs_nothing(void **state)
{
    (void)state;
    if (HAS_TSAN)
        skip(); /* TSan cannot follow a fork of a process with threads */
    assert_int_equal(finish(start_process(.target = join_beside_a_reaper)), 0);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(hooks_run_by_priority_then_newest_first),
    UNDER_EACH(hooks_run_on_exit_too),
    UNDER_EACH(handlers_of_atexit_registered_in_the_child_run),
    UNDER_EACH(handlers_of_the_parent_do_not_run_in_a_copy_of_it),
    UNDER_EACH(an_exiting_process_joins_its_children),
    UNDER_EACH(daemons_are_terminated_when_their_parent_exits),
    UNDER_EACH(daemons_that_ignore_sigterm_are_killed),
    UNDER_EACH(daemons_of_a_process_that_lost_its_rights_are_killed),
    UNDER_EACH(daemons_die_with_a_parent_that_is_killed),
    UNDER_EACH(the_whole_tree_of_daemons_goes_down_with_its_root),
    UNDER_EACH(a_child_ends_with_its_target_whatever_its_threads_do),
    UNDER_EACH(an_ignored_sigchld_hangs_nothing),
    UNDER_EACH(a_thread_that_reaps_everything_hangs_nothing),
};

TESTS_MAIN(tests)
