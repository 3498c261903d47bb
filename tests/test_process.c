/* SPDX-License-Identifier: MIT
 *
 * test_process.c - the life of a process as its parent sees it, and what a
 * child finds. How processes end together is test_exit.c's business.
 */
#include "support.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- what children do ---- */

static int nothing(mp_call *call)
{
    (void)call;
    return 0;
}

static int return_code(mp_call *call)
{
    int code;

    return mp_unpack(call, &code) ? 99 : code;
}

static int exit_with_code(mp_call *call)
{
    int code;

    if (mp_unpack(call, &code))
        return 99;
    exit(code);
}

static int end_at_once_with_code(mp_call *call)
{
    int code;

    if (mp_unpack(call, &code))
        return 99;
    _exit(code);
}

/* Says that it runs, then waits for the end of the connection, or of the world. */
static int say_and_wait(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r;

    if (mp_unpack(call, &line))
        return 99;
    if (mp_connection_send(line, "running"))
        return 98;
    r = mp_connection_recv(line, &message);
    mp_message_clear(&message);
    return r == MP_EEOF ? 0 : 97;
}

/* A child that runs until the returned connection is closed. */
static mp_process *start_waiting(mp_connection **line)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *theirs;
    mp_process *p;
    const char *word;

    assert_int_equal(mp_pipe(line, &theirs), 0);
    p = start_process(.target = say_and_wait, .args = MP_ARGS(theirs));
    mp_connection_free(theirs);
    assert_int_equal(mp_connection_recv(*line, &message), 0);
    assert_int_equal(mp_unpack(&message, &word), 0);
    assert_string_equal(word, "running");
    mp_message_clear(&message);
    return p;
}

/* ---- this process ---- */

static void the_root_process_knows_itself(void **state)
{
    mp_process *self = mp_current_process();
    const void *key;
    size_t size;

    (void)state;
    assert_true(mp_process_is_alive(self));
    assert_false(mp_process_daemon(self));
    assert_int_equal(mp_process_authkey(self, &key, &size), 0);
    assert_int_equal(size, 32);
    assert_int_equal(mp_process_ident(self), getpid());
    assert_int_equal(mp_process_exitcode(self), MP_EXITCODE_NONE);
    assert_string_equal(mp_process_name(self), "MainProcess");
    assert_null(mp_parent_process());
}

static void cpu_count_is_positive_and_can_be_overridden(void **state)
{
    (void)state;
    assert_true(mp_cpu_count() >= 1);
    assert_true(mp_cpu_count() <= sysconf(_SC_NPROCESSORS_ONLN));
    assert_int_equal(setenv("MP_CPU_COUNT", "77", 1), 0);
    assert_int_equal(mp_cpu_count(), 77);
    assert_int_equal(unsetenv("MP_CPU_COUNT"), 0);
}

/* ---- arguments ---- */

static int check_arguments(mp_call *call)
{
    msgpack_object list;
    mp_bytes_view bytes;
    const char *text;
    int number, first;
    double second;

    if (mp_unpack(call, &number, &text, &bytes, &list, NULL))
        return 1;
    if (mp_unpack(&list, &first, &second))
        return 2;
    return number == -5 && strcmp(text, "text") == 0 && bytes.size == 3 &&
                   memcmp(bytes.data, "\0\1\2", 3) == 0 && first == 7 && second == 2.5
               ? 0
               : 3;
}

static void arguments_arrive_unchanged(void **state)
{
    (void)state;
    assert_int_equal(
        finish(start_process(.target = check_arguments,
            .args = MP_ARGS(-5, "text", mp_bytes("\0\1\2", 3), mp_list(7, 2.5), mp_dict("a", 1)))),
        0);
}

static int check_big_argument(mp_call *call)
{
    mp_bytes_view bytes;

    if (mp_unpack(call, &bytes))
        return 1;
    for (size_t i = 0; i < bytes.size; i++)
        if (((const unsigned char *)bytes.data)[i] != (unsigned char)(i * 7))
            return 2;
    return bytes.size == 8 << 20 ? 0 : 3;
}

static void arguments_larger_than_any_pipe_buffer_arrive(void **state)
{
    size_t size = 8 << 20;
    unsigned char *data = malloc(size);

    (void)state;
    assert_non_null(data);
    for (size_t i = 0; i < size; i++)
        data[i] = (unsigned char)(i * 7);
    assert_int_equal(
        finish(start_process(.target = check_big_argument, .args = MP_ARGS(mp_bytes(data, size)))),
        0);
    free(data);
}

static void without_a_target_the_process_does_nothing(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.name = "idle")), 0);
}

static void arguments_that_cannot_be_packed_are_refused(void **state)
{
    int local = 0;

    (void)state;
    assert_null(mp_process_new(.target = nothing, .args = MP_ARGS((void *)&local)));
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
    assert_null(mp_process_new(.target = nothing, .args = mp_dict("a", 1)));
    assert_int_equal(mp_last_error()->code, MP_ETYPE);
}

static void start_lets_go_of_the_arguments(void **state)
{
    mp_connection *here, *there;
    mp_process *p;
    int before = count_descriptors(), after;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = mp_process_new(.target = nothing, .args = MP_ARGS(here, there));
    assert_non_null(p);
    mp_connection_free(here);
    mp_connection_free(there);
    after = count_descriptors();
    assert_int_equal(after, before + 2);
    assert_int_equal(mp_process_start(p), 0);
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    assert_int_equal(mp_process_close(p), 0);
    if (strcmp(*state, "forkserver") != 0)
        assert_int_equal(count_descriptors(), before);
    mp_process_free(p);
}

/* ---- the life cycle ---- */

/* Sends what a child knows of itself and its parent. */
static int describe_self(mp_call *call)
{
    mp_process *self = mp_current_process(), *parent = mp_parent_process();
    mp_connection *line;
    const void *key;
    size_t size;

    if (mp_unpack(call, &line) || mp_process_authkey(self, &key, &size))
        return 1;
    return mp_connection_send(
               line, mp_list(mp_process_name(self), (long)mp_process_pid(self), (long)getpid(),
                         mp_bytes(key, size), (bool)mp_process_daemon(self),
                         mp_process_name(parent), (long)mp_process_pid(parent),
                         (bool)mp_process_is_alive(self), (bool)mp_process_is_alive(parent))) != 0;
}

static void a_process_lives_from_start_to_join(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_process *p;
    const char *name, *parent_name;
    mp_bytes_view key;
    long pid, real_pid, parent_pid;
    bool daemon, alive, parent_alive;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = mp_process_new(.target = describe_self, .args = MP_ARGS(there), .name = "anna");
    assert_non_null(p);
    assert_int_equal(mp_process_set_authkey(p, "secret", 6), 0);
    assert_false(mp_process_is_alive(p));
    assert_int_equal(mp_process_exitcode(p), MP_EXITCODE_NONE);
    assert_int_equal(mp_process_pid(p), 0);
    assert_int_equal(mp_active_children(NULL, 0), 0);

    assert_int_equal(mp_process_start(p), 0);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_unpack(&message, &name, &pid, &real_pid, &key, &daemon, &parent_name,
                         &parent_pid, &alive, &parent_alive),
        0);
    assert_string_equal(name, "anna");
    assert_int_equal(pid, real_pid);
    assert_int_equal(pid, mp_process_pid(p));
    assert_int_equal(key.size, 6);
    assert_memory_equal(key.data, "secret", 6);
    assert_false(daemon);
    assert_string_equal(parent_name, "MainProcess");
    assert_int_equal(parent_pid, getpid());
    assert_true(alive);
    assert_true(parent_alive);

    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    assert_int_equal(mp_process_join(p, 0), 0);
    assert_int_equal(mp_process_exitcode(p), 0);
    assert_false(mp_process_is_alive(p));
    mp_message_clear(&message);
    mp_process_free(p);
    mp_connection_free(here);
    mp_connection_free(there);
}

static void active_children_lists_a_child_between_start_and_join(void **state)
{
    mp_connection *line;
    mp_process *p = start_waiting(&line), *listed = NULL;

    (void)state;
    assert_int_equal(mp_active_children(&listed, 1), 1);
    assert_ptr_equal(listed, p);
    assert_true(mp_process_is_alive(p));
    mp_connection_free(line);
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    assert_int_equal(mp_active_children(&listed, 1), 0);
    mp_process_free(p);
}

static void the_sentinel_is_ready_when_the_process_has_ended(void **state)
{
    mp_process *p = mp_process_new(.target = nothing);
    mp_connection *line;
    mp_wait_item item;

    (void)state;
    assert_int_equal(mp_process_sentinel(p), MP_ENOTSTARTED);
    mp_process_free(p);
    p = start_waiting(&line);
    assert_true(mp_process_sentinel(p) > 2);
    item = MP_WAIT(mp_process_sentinel(p));
    assert_int_equal(mp_wait(&item, 1, 0), 0);
    mp_connection_free(line);
    assert_int_equal(mp_wait(&item, 1, PATIENCE), 1);
    assert_true(item.ready);
    assert_int_equal(finish(p), 0);
}

static void close_is_for_processes_that_have_ended(void **state)
{
    mp_connection *line;
    mp_process *p = start_waiting(&line);

    (void)state;
    assert_int_equal(mp_process_close(p), MP_ERUNNING);
    mp_connection_free(line);
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    assert_int_equal(mp_process_close(p), 0);
    assert_int_equal(mp_process_close(p), 0);
    assert_int_equal(mp_process_join(p, 0), MP_ECLOSED);
    assert_int_equal(mp_process_start(p), MP_ECLOSED);
    assert_int_equal(mp_process_terminate(p), MP_ECLOSED);
    assert_int_equal(mp_process_sentinel(p), MP_ECLOSED);
    assert_int_equal(mp_process_pid(p), 0);
    assert_false(mp_process_is_alive(p));
    assert_non_null(mp_process_name(p));
    assert_false(mp_process_daemon(p));
    mp_process_free(p);
}

static void a_process_starts_once(void **state)
{
    mp_process *p = start_process(.target = nothing);

    (void)state;
    assert_int_equal(mp_process_start(p), MP_ESTARTED);
    assert_int_equal(mp_process_set_daemon(p, true), MP_ESTARTED);
    assert_int_equal(finish(p), 0);
}

static void what_needs_a_started_process_says_so(void **state)
{
    mp_process *p = mp_process_new(.target = nothing);

    (void)state;
    assert_int_equal(mp_process_join(p, 0), MP_ENOTSTARTED);
    assert_int_equal(mp_process_terminate(p), MP_ENOTSTARTED);
    assert_int_equal(mp_process_close(p), 0);
    mp_process_free(p);
    mp_process_free(NULL);
    assert_int_equal(mp_process_join(NULL, 0), MP_EINVAL);
}

/* ---- exit codes ---- */

static void exit_codes_are_the_low_eight_bits(void **state)
{
    static const int given[] = { 0, 1, 8, 255, 256, -1, 300 };
    static const int seen[] = { 0, 1, 8, 255, 0, 255, 44 };

    (void)state;
    for (size_t i = 0; i < sizeof(given) / sizeof(*given); i++) {
        assert_int_equal(
            finish(start_process(.target = return_code, .args = MP_ARGS(given[i]))), seen[i]);
        assert_int_equal(
            finish(start_process(.target = end_at_once_with_code, .args = MP_ARGS(given[i]))),
            seen[i]);
        assert_int_equal(
            finish(start_process(.target = exit_with_code, .args = MP_ARGS(given[i]))), seen[i]);
    }
}

static int raise_an_error(mp_call *call)
{
    mp_connection *err;

    if (mp_unpack(call, &err) || dup2(mp_connection_fileno(err), 2) < 0)
        return 9;
    return mp_raise(call, MP_ERANGE, "the number %d is too big", 7);
}

static void a_raised_error_reaches_stderr_in_one_line(void **state)
{
    mp_connection *reader, *writer;
    char text[512] = "", expected[256];
    mp_process *p;
    ssize_t n;
    long pid;

    (void)state;
    assert_int_equal(mp_pipe(&reader, &writer, .oneway = true), 0);
    p = start_process(.target = raise_an_error, .args = MP_ARGS(writer), .name = "bad");
    mp_connection_free(writer);
    pid = (long)mp_process_pid(p);
    assert_int_equal(finish(p), 1);
    n = read(mp_connection_fileno(reader), text, sizeof(text) - 1);
    assert_true(n > 0);
    (void)snprintf(expected, sizeof(expected), "bad pid %ld: the number 7 is too big\n", pid);
    assert_string_equal(text, expected);
    mp_connection_free(reader);
}

/* ---- signals ---- */

static void end_by(int (*end)(mp_process *), int sig)
{
    mp_connection *line;
    mp_process *p = start_waiting(&line);

    assert_int_equal(mp_process_join(p, 0), MP_ETIMEDOUT);
    assert_int_equal(mp_process_join(p, -1), MP_ETIMEDOUT);
    assert_int_equal(mp_process_exitcode(p), MP_EXITCODE_NONE);
    assert_int_equal(end(p), 0);
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    assert_int_equal(mp_process_exitcode(p), -sig);
    assert_int_equal(mp_active_children(NULL, 0), 0);
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    assert_int_equal(end(p), 0); /* it has ended: nothing happens */
    mp_process_free(p);
    mp_connection_free(line);
}

static void terminate_ends_it_with_sigterm(void **state)
{
    (void)state;
    end_by(mp_process_terminate, SIGTERM);
}

static void kill_ends_it_with_sigkill(void **state)
{
    (void)state;
    end_by(mp_process_kill, SIGKILL);
}

static void interrupt_ends_it_with_sigint(void **state)
{
    (void)state;
    end_by(mp_process_interrupt, SIGINT);
}

static int crash(mp_call *call)
{
    struct rlimit none = { 0, 0 };

    (void)call;
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)raise(SIGSEGV);
    return 0;
}

static void a_crash_is_told_by_its_signal(void **state)
{
    int code = finish(start_process(.target = crash));

    (void)state;
    if (HAS_ASAN || HAS_TSAN)
        assert_int_not_equal(code, 0); /* the sanitizer reports it and exits */
    else
        assert_int_equal(code, -SIGSEGV);
}

/* ---- daemons, names, parents ---- */

static int answer_daemon(mp_call *call)
{
    mp_process *inner;
    int flags;

    (void)call;
    flags = mp_process_daemon(mp_current_process());
    inner = mp_process_new(.target = nothing);
    flags |= mp_process_daemon(inner) << 1;
    mp_process_free(inner);
    inner = mp_process_new(.target = nothing, .daemon = MP_NO);
    flags |= mp_process_daemon(inner) << 2;
    mp_process_free(inner);
    return flags;
}

static void the_daemon_flag_is_inherited_unless_given(void **state)
{
    mp_process *p = mp_process_new(.target = nothing);

    (void)state;
    assert_false(mp_process_daemon(p));
    assert_int_equal(mp_process_set_daemon(p, true), 0);
    assert_true(mp_process_daemon(p));
    mp_process_free(p);
    assert_int_equal(finish(start_process(.target = answer_daemon)), 0);
    assert_int_equal(finish(start_process(.target = answer_daemon, .daemon = MP_NO)), 0);
    assert_int_equal(finish(start_process(.target = answer_daemon, .daemon = true)), 3);
}

static void names_can_be_set(void **state)
{
    mp_process *p = mp_process_new(.target = nothing);

    (void)state;
    assert_int_equal(mp_process_set_name(p, "x"), 0);
    assert_string_equal(mp_process_name(p), "x");
    assert_int_equal(mp_process_set_name(p, NULL), MP_EINVAL);
    mp_process_free(p);
}

/* The grandchild: tells that its parent lives, then that it has seen its end. */
static int watch_parent(mp_call *call)
{
    mp_process *parent = mp_parent_process();
    mp_connection *line;

    if (mp_unpack(call, &line))
        return 1;
    if (mp_connection_send(line, (bool)mp_process_is_alive(parent)) ||
        mp_process_join(parent, PATIENCE))
        return 2;
    return mp_connection_send(line, (bool)mp_process_is_alive(parent)) != 0;
}

static int start_watcher_and_wait(mp_call *call)
{
    mp_connection *line;
    mp_process *p;

    if (mp_unpack(call, &line))
        return 1;
    p = mp_process_new(.target = watch_parent, .args = MP_ARGS(line));
    if (!p || mp_process_start(p))
        return 2;
    return mp_process_join(p, PATIENCE); /* killed meanwhile */
}

static bool receive_bool(mp_connection *line)
{
    mp_message message = MP_MESSAGE_INIT;
    bool value = false;

    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &value), 0);
    mp_message_clear(&message);
    return value;
}

static void a_grandchild_sees_the_end_of_its_parent(void **state)
{
    mp_connection *here, *there;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = start_watcher_and_wait, .args = MP_ARGS(there));
    mp_connection_free(there);
    assert_true(receive_bool(here));
    assert_int_equal(mp_process_kill(p), 0);
    assert_int_equal(finish(p), -SIGKILL);
    assert_false(receive_bool(here));
    assert_int_equal(mp_connection_poll(here, PATIENCE), 1); /* the orphan ends too */
    mp_connection_free(here);
}

/* Two levels below, depth first, each sends its path. */
static int recurse(mp_call *call)
{
    mp_connection *line;
    const char *path;
    char below[32];

    if (mp_unpack(call, &line, &path) || mp_connection_send(line, path))
        return 1;
    for (int i = 0; strlen(path) < 2 && i < 2; i++) {
        mp_process *p;

        (void)snprintf(below, sizeof(below), "%s%d", path, i);
        p = mp_process_new(.target = recurse, .args = MP_ARGS(line, below));
        if (!p || mp_process_start(p) || mp_process_join(p, PATIENCE) || mp_process_exitcode(p))
            return 2;
        mp_process_free(p);
    }
    return 0;
}

static void children_of_children_report_depth_first(void **state)
{
    static const char *const expected[] = { "", "0", "00", "01", "1", "10", "11" };
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_process *p;
    const char *path;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = recurse, .args = MP_ARGS(there, ""));
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(mp_connection_recv(here, &message), 0);
        assert_int_equal(mp_unpack(&message, &path), 0);
        assert_string_equal(path, expected[i]);
    }
    assert_int_equal(finish(p), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
}

/* ---- many ---- */

static void many_processes_end_well(void **state)
{
    enum { MANY = 100 };
    int count = strcmp(*state, "spawn") == 0 ? 20 : MANY;
    mp_process *p[MANY];

    for (int i = 0; i < count; i++)
        p[i] = start_process(.target = return_code, .args = MP_ARGS(i));
    for (int i = 0; i < count; i++)
        assert_int_equal(finish(p[i]), i);
}

static int wait_for_ever(mp_call *call)
{
    (void)call;
    while (pause())
        ;
    return 0;
}

static void many_processes_are_terminated_right_after_start(void **state)
{
    enum { MANY = 100 };
    int count = strcmp(*state, "spawn") == 0 ? 20 : MANY;
    mp_process *p[MANY];

    for (int i = 0; i < count; i++)
        p[i] = start_process(.target = wait_for_ever);
    for (int i = 0; i < count; i++)
        assert_int_equal(mp_process_terminate(p[i]), 0);
    for (int i = 0; i < count; i++)
        assert_int_equal(finish(p[i]), -SIGTERM);
}

static void an_interrupt_right_after_start_arrives(void **state)
{
    (void)state;
    for (int i = 0; i < 30; i++) {
        mp_process *p = start_process(.target = wait_for_ever);

        assert_int_equal(mp_process_interrupt(p), 0);
        assert_int_equal(finish(p), -SIGINT);
    }
}

static void a_freed_process_goes_on_and_is_reaped_later(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    mp_process *p = start_waiting(&line);
    int sentinel = dup(mp_process_sentinel(p));
    mp_wait_item item;

    (void)state;
    mp_process_free(p);
    assert_int_equal(mp_active_children(NULL, 0), 0);
    item = MP_WAIT(sentinel);
    assert_int_equal(mp_wait(&item, 1, 0), 0);
    mp_connection_free(line);
    assert_int_equal(mp_wait(&item, 1, PATIENCE), 1);
    (void)close(sentinel);
    while (count_children() > 0 && strcmp(*state, "forkserver") != 0)
        assert_int_equal(mp_active_children(NULL, 0), 0);
    (void)mp_active_children(NULL, 0);
    mp_message_clear(&message);
}

static void *join_it(void *process)
{
    return (void *)(intptr_t)mp_process_join(process, PATIENCE);
}

static void several_threads_may_join_one_process(void **state)
{
    mp_connection *line;
    mp_process *p = start_waiting(&line);
    pthread_t threads[4];
    void *result;

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, join_it, p), 0);
    mp_connection_free(line);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_int_equal((intptr_t)result, 0);
    }
    assert_int_equal(finish(p), 0);
}

static void *kill_and_join(void *count)
{
    for (intptr_t i = 0; i < (intptr_t)count; i++) {
        mp_process *p = mp_process_new(.target = wait_for_ever);

        if (!p || mp_process_start(p) || mp_process_kill(p) || mp_process_join(p, PATIENCE) ||
            mp_process_exitcode(p) != -SIGKILL)
            return (void *)1;
        mp_process_free(p);
    }
    return NULL;
}

/* How a child of the fork server was killed one thread may hear while another waits for it. */
static void threads_may_join_children_that_are_killed(void **state)
{
    intptr_t count = strcmp(*state, "spawn") == 0 ? 30 : 300;
    pthread_t threads[2];
    void *result;

    if (HAS_TSAN && strcmp(*state, "spawn") != 0)
        skip(); /* TSan cannot follow a fork of a process with threads */
    mp_log_to_stderr(MP_LOG_ERROR);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, kill_and_join, (void *)count), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
    mp_log_to_stderr(MP_LOG_WARNING);
}

static void whoever_sees_the_end_sees_the_exit_code(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        mp_process *p = start_process(.target = wait_for_ever);
        struct pollfd end = { .fd = mp_process_sentinel(p), .events = POLLIN };

        assert_int_equal(mp_process_kill(p), 0);
        assert_int_equal(poll(&end, 1, (int)(PATIENCE * 1000)), 1);
        if (i % 3 == 0)
            assert_false(mp_process_is_alive(p));
        else if (i % 3 == 1)
            assert_int_equal(mp_process_join(p, 0), 0);
        assert_int_equal(mp_process_exitcode(p), -SIGKILL);
        mp_process_free(p);
    }
}

typedef struct {
    mp_process *process;
    pthread_barrier_t *together;
    int r;
} starter;

static void *start_it(void *argument)
{
    starter *s = argument;

    (void)pthread_barrier_wait(s->together);
    s->r = mp_process_start(s->process);
    return NULL;
}

static void one_of_two_threads_starts_a_process(void **state)
{
    pthread_barrier_t together;

    if (HAS_TSAN && strcmp(*state, "spawn") != 0)
        skip(); /* TSan cannot follow a fork of a process with threads */
    mp_log_to_stderr(MP_LOG_ERROR);
    assert_int_equal(pthread_barrier_init(&together, NULL, 2), 0);
    for (int round = 0; round < 30; round++) {
        mp_process *p = mp_process_new(.target = return_code, .args = MP_ARGS(7));
        starter s[2] = { { p, &together, 1 }, { p, &together, 1 } };
        pthread_t threads[2];

        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, start_it, &s[i]), 0);
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_true(
            (s[0].r == 0 && s[1].r == MP_ESTARTED) || (s[1].r == 0 && s[0].r == MP_ESTARTED));
        assert_int_equal(finish(p), 7);
    }
    (void)pthread_barrier_destroy(&together);
    mp_log_to_stderr(MP_LOG_WARNING);
}

static pthread_mutex_t guarded = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool started_all;

static void guard(void)
{
    (void)pthread_mutex_lock(&guarded);
}

static void unguard(void)
{
    (void)pthread_mutex_unlock(&guarded);
}

static void *fork_by_hand(void *argument)
{
    while (!atomic_load(&started_all)) {
        pid_t pid = fork();

        if (pid == 0)
            _exit(0);
        (void)waitpid(pid, NULL, 0);
    }
    return argument;
}

static int start_beside_forks(mp_call *call)
{
    pthread_t thread;
    int failed = 0;

    (void)call;
    mp_log_to_stderr(MP_LOG_ERROR);
    if (pthread_atfork(guard, unguard, unguard) ||
        pthread_create(&thread, NULL, fork_by_hand, NULL))
        return 1;
    for (int i = 0; i < 200; i++) {
        mp_process *p = mp_process_new(.target = return_code, .args = MP_ARGS(7));

        failed += !p || mp_process_start(p) || mp_process_join(p, PATIENCE) ||
                  mp_process_exitcode(p) != 7;
        mp_process_free(p);
    }
    atomic_store(&started_all, true);
    return pthread_join(thread, NULL) || failed;
}

/* Forks of other threads run the handlers before they come to ours. */
static void handlers_of_fork_may_take_locks(void **state)
{
    (void)state;
    if (HAS_TSAN)
        skip(); /* TSan cannot follow a fork of a process with threads */
    assert_int_equal(finish(start_process(.target = start_beside_forks)), 0);
}

/* What a join waits for stays open until it returns. */
static void a_process_may_be_closed_while_it_is_joined(void **state)
{
    if (HAS_TSAN && strcmp(*state, "spawn") != 0)
        skip(); /* TSan cannot follow a fork of a process with threads */
    mp_log_to_stderr(MP_LOG_ERROR);
    for (int round = 0; round < 50; round++) {
        mp_connection *line;
        mp_process *p = start_waiting(&line);
        pthread_t thread;
        void *result;

        assert_int_equal(pthread_create(&thread, NULL, join_it, p), 0);
        mp_connection_free(line);
        while (mp_process_close(p) == MP_ERUNNING)
            (void)sched_yield();
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_true((intptr_t)result == 0 || (intptr_t)result == MP_ECLOSED);
        mp_process_free(p);
    }
    mp_log_to_stderr(MP_LOG_WARNING);
}

#if HAS_GLIBC(34)
/* A copy that the library does not hear of. */
static int make_copy_that_exits(mp_call *call)
{
    pid_t pid = _Fork();

    (void)call;
    if (pid == 0)
        exit(77);
    return waitpid(pid, NULL, 0) == pid ? 3 : 99;
}

static void the_exit_of_a_copy_is_not_that_of_the_process(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = make_copy_that_exits)), 3);
}
#endif

static void *start_and_finish(void *count)
{
    for (intptr_t i = 0; i < (intptr_t)count; i++) {
        mp_process *p = mp_process_new(.target = return_code, .args = MP_ARGS(5));

        if (!p || mp_process_start(p) || mp_process_join(p, PATIENCE) ||
            mp_process_exitcode(p) != 5)
            return (void *)1;
        mp_process_free(p);
    }
    return NULL;
}

static void several_threads_may_start_processes(void **state)
{
    pthread_t threads[4];
    void *result;

    if (HAS_TSAN && strcmp(*state, "spawn") != 0)
        skip();                     /* TSan cannot follow a fork of a process with threads */
    mp_log_to_stderr(MP_LOG_ERROR); /* fork warns of threads, once */
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, start_and_finish, (void *)10), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
    mp_log_to_stderr(MP_LOG_WARNING);
}

/* ---- stdio ---- */

/* Closes its streams, or breaks them, before it returns. */
static int break_own_streams(mp_call *call)
{
    (void)call;
    printf("lost");
    (void)close(1);
    (void)close(2);
    return 0;
}

static int start_inner_without_streams(mp_call *call)
{
    mp_process *p;

    (void)call;
    (void)close(1);
    (void)close(2);
    p = mp_process_new(.target = nothing);
    if (!p || mp_process_start(p) || mp_process_join(p, PATIENCE))
        return 1;
    return mp_process_exitcode(p);
}

static void a_parent_without_stdout_can_start_children(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = start_inner_without_streams)), 0);
}

static void a_child_that_breaks_its_streams_ends_well(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = break_own_streams)), 0);
}

static int read_stdin_and_start_inner(mp_call *call)
{
    mp_process *p;

    (void)call;
    if (getchar() != EOF)
        return 1;
    p = mp_process_new(.target = return_code, .args = MP_ARGS(6));
    if (!p || mp_process_start(p) || mp_process_join(p, PATIENCE))
        return 2;
    return mp_process_exitcode(p);
}

static void stdin_is_empty_and_children_of_children_work(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = read_stdin_and_start_inner)), 6);
}

/* ---- subclassing, in C a function and its state ---- */

static int upper_case(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    const char *text;
    char upper[64];

    if (mp_unpack(call, &line))
        return 1;
    while (mp_connection_recv(line, &message) == 0 && mp_unpack(&message, &text) == 0 && text) {
        size_t n = 0;

        for (; text[n] && n < sizeof(upper) - 1; n++)
            upper[n] = (char)(text[n] >= 'a' && text[n] <= 'z' ? text[n] - 32 : text[n]);
        upper[n] = '\0';
        if (mp_connection_send(line, upper))
            return 2;
    }
    mp_message_clear(&message);
    return 0;
}

static void a_process_serves_until_it_is_told_to_stop(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    const char *text;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = upper_case, .args = MP_ARGS(there));
    mp_connection_free(there);
    assert_int_equal(mp_connection_send(here, "hello"), 0);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_unpack(&message, &text), 0);
    assert_string_equal(text, "HELLO");
    assert_int_equal(mp_connection_send(here, mp_none()), 0);
    assert_int_equal(finish(p), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
}

/* ---- objects of other processes ---- */

static mp_process *of_the_parent;

static int use_object_of_parent(mp_call *call)
{
    (void)call;
    if (!of_the_parent)
        return 50; /* a fresh or served child does not have it */
    return mp_process_join(of_the_parent, 0) == MP_ECREATOR &&
                   mp_process_start(of_the_parent) == MP_ECREATOR &&
                   mp_process_kill(of_the_parent) == MP_ECREATOR &&
                   mp_process_set_name(of_the_parent, "mine") == MP_ECREATOR
               ? 51
               : 52;
}

static void a_process_belongs_to_its_creator(void **state)
{
    int expected = strcmp(*state, "fork") == 0 ? 51 : 50;

    of_the_parent = mp_process_new(.target = nothing);
    assert_non_null(of_the_parent);
    assert_int_equal(finish(start_process(.target = use_object_of_parent)), expected);
    mp_process_free(of_the_parent);
    of_the_parent = NULL;
}

/* ---- a thread that the target leaves running ---- */

static atomic_uint looks; /* of it, in the child */

static void *look_for_ever(void *event)
{
    while (!mp_event_is_set(event))
        (void)atomic_fetch_add(&looks, 1);
    return NULL;
}

/* At exit: until it has looked often since. */
static void wait_for_looks(void *argument)
{
    unsigned begun = atomic_load(&looks);

    (void)argument;
    while (atomic_load(&looks) - begun < 100000)
        (void)sched_yield();
}

static int leave_a_thread(mp_call *call)
{
    pthread_t thread;
    mp_event *event;

    if (mp_unpack(call, &event) || mp_atexit(wait_for_looks, NULL, 0) ||
        pthread_create(&thread, NULL, look_for_ever, event))
        return 99;
    while (atomic_load(&looks) == 0)
        (void)sched_yield();
    return 7;
}

static void a_thread_that_is_left_may_use_the_arguments_to_the_end(void **state)
{
    mp_event *event = mp_event_new();

    (void)state;
    assert_non_null(event);
    assert_int_equal(finish(start_process(.target = leave_a_thread, .args = MP_ARGS(event))), 7);
    mp_event_free(event);
}

static const struct CMUnitTest tests[] = {
    ONCE(the_root_process_knows_itself),
    ONCE(cpu_count_is_positive_and_can_be_overridden),
    UNDER_EACH(arguments_arrive_unchanged),
    UNDER_EACH(arguments_larger_than_any_pipe_buffer_arrive),
    UNDER_EACH(without_a_target_the_process_does_nothing),
    ONCE(arguments_that_cannot_be_packed_are_refused),
    UNDER_EACH(start_lets_go_of_the_arguments),
    UNDER_EACH(a_process_lives_from_start_to_join),
    UNDER_EACH(active_children_lists_a_child_between_start_and_join),
    UNDER_EACH(the_sentinel_is_ready_when_the_process_has_ended),
    UNDER_EACH(close_is_for_processes_that_have_ended),
    UNDER_EACH(a_process_starts_once),
    ONCE(what_needs_a_started_process_says_so),
    UNDER_EACH(exit_codes_are_the_low_eight_bits),
    UNDER_EACH(a_raised_error_reaches_stderr_in_one_line),
    UNDER_EACH(terminate_ends_it_with_sigterm),
    UNDER_EACH(kill_ends_it_with_sigkill),
    UNDER_EACH(interrupt_ends_it_with_sigint),
    UNDER_EACH(a_crash_is_told_by_its_signal),
    UNDER_EACH(the_daemon_flag_is_inherited_unless_given),
    ONCE(names_can_be_set),
    UNDER_EACH(a_grandchild_sees_the_end_of_its_parent),
    UNDER_EACH(children_of_children_report_depth_first),
    UNDER_EACH(many_processes_end_well),
    UNDER_EACH(many_processes_are_terminated_right_after_start),
    UNDER_EACH(an_interrupt_right_after_start_arrives),
    UNDER_EACH(a_freed_process_goes_on_and_is_reaped_later),
    UNDER_EACH(several_threads_may_join_one_process),
    UNDER_EACH(several_threads_may_start_processes),
    UNDER_EACH(threads_may_join_children_that_are_killed),
    UNDER_EACH(whoever_sees_the_end_sees_the_exit_code),
    UNDER_EACH(one_of_two_threads_starts_a_process),
    UNDER_EACH(handlers_of_fork_may_take_locks),
    UNDER_EACH(a_process_may_be_closed_while_it_is_joined),
#if HAS_GLIBC(34)
    UNDER_EACH(the_exit_of_a_copy_is_not_that_of_the_process),
#endif
    UNDER_EACH(a_parent_without_stdout_can_start_children),
    UNDER_EACH(a_child_that_breaks_its_streams_ends_well),
    UNDER_EACH(stdin_is_empty_and_children_of_children_work),
    UNDER_EACH(a_process_serves_until_it_is_told_to_stop),
    UNDER_EACH(a_process_belongs_to_its_creator),
    UNDER_EACH(a_thread_that_is_left_may_use_the_arguments_to_the_end),
};

TESTS_MAIN(tests)
