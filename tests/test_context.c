/* SPDX-License-Identifier: MIT
 *
 * test_context.c - which start method is in force: how it is chosen, when it is
 * fixed, what it is called, and that a child and its parent agree.
 */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = { "fork", "spawn", "forkserver" };

static void forget_the_choice(void)
{
    assert_int_equal(mp_set_start_method(NULL, .force = true), 0);
    assert_null(mp_get_start_method(true));
}

/* Sends the method and its name as the child sees them. */
static int tell_method(mp_call *call)
{
    mp_connection *answers;

    if (mp_unpack(call, &answers))
        return 1;
    return mp_connection_send(answers, mp_list(mp_get_start_method(true),
                                           mp_context_get_start_method(mp_get_context(NULL)))) != 0;
}

/* Starts it with a connection as its only argument; what it answers is in message. */
static void ask(const mp_context *context, mp_function target, mp_message *message)
{
    mp_connection *here, *there;
    mp_process *process;

    assert_int_equal(mp_pipe(&here, &there), 0);
    process = start_process(.target = target, .args = MP_ARGS(there), .context = context);
    mp_connection_free(there);
    assert_int_equal(mp_connection_recv(here, message), 0);
    assert_int_equal(finish(process), 0);
    mp_connection_free(here);
}

/* ---- contexts ---- */

static void a_context_says_its_name_and_is_always_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        const mp_context *context = mp_get_context(names[i]);

        assert_non_null(context);
        assert_string_equal(mp_context_get_start_method(context), names[i]);
        assert_ptr_equal(mp_get_context(names[i]), context);
    }
    assert_ptr_equal(mp_get_context(NULL), mp_get_context(NULL));
}

static void an_unknown_context_is_an_error_that_names_it(void **state)
{
    (void)state;
    mp_clear_error();
    assert_null(mp_get_context("thread"));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_non_null(strstr(mp_last_error()->text, "thread"));
    assert_null(mp_get_context("Spawn"));
    assert_null(mp_get_context(""));
}

static void the_child_of_a_context_sees_the_same_method(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    const char *method, *context;

    ask(mp_get_context(*state), tell_method, &message);
    assert_int_equal(mp_unpack(&message, &method, &context), 0);
    assert_string_equal(method, *state);
    assert_string_equal(context, *state);
    mp_message_clear(&message);
}

static void the_default_context_follows_every_change(void **state)
{
    const mp_context *context = mp_get_context(NULL);
    mp_message message = MP_MESSAGE_INIT;
    const char *method;

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mp_set_start_method(names[i], .force = true), 0);
        assert_string_equal(mp_get_start_method(true), names[i]);
        assert_string_equal(mp_get_start_method(false), names[i]);
        assert_string_equal(mp_context_get_start_method(context), names[i]);
        ask(NULL, tell_method, &message);
        assert_int_equal(mp_unpack(&message, &method, NULL), 0);
        assert_string_equal(method, names[i]);
    }
    mp_message_clear(&message);
}

/* ---- choosing once ---- */

static void the_method_is_chosen_once_unless_forced(void **state)
{
    (void)state;
    forget_the_choice();
    assert_int_equal(mp_set_start_method("spawn"), 0);
    assert_int_equal(mp_set_start_method("fork"), MP_ECONTEXT);
    assert_non_null(strstr(mp_last_error()->text, "spawn"));
    assert_int_equal(mp_set_start_method("spawn"), MP_ECONTEXT);
    assert_string_equal(mp_get_start_method(true), "spawn");
    assert_int_equal(mp_set_start_method("forkserver", .force = true), 0);
    assert_string_equal(mp_get_start_method(true), "forkserver");
}

static void an_unknown_method_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(mp_set_start_method("spawn", .force = true), 0);
    assert_int_equal(mp_set_start_method("thread", .force = true), MP_EINVAL);
    assert_string_equal(mp_get_start_method(true), "spawn");
    forget_the_choice();
    assert_int_equal(mp_set_start_method("thread"), MP_EINVAL);
    assert_null(mp_get_start_method(true));
}

static void asking_for_the_method_fixes_it(void **state)
{
    (void)state;
    forget_the_choice();
    assert_non_null(mp_get_start_method(false));
    assert_int_equal(mp_set_start_method("spawn"), MP_ECONTEXT);
}

static void asking_for_the_default_context_fixes_it(void **state)
{
    (void)state;
    forget_the_choice();
    assert_non_null(mp_get_context(NULL));
    assert_non_null(mp_get_start_method(true));
    assert_int_equal(mp_set_start_method("spawn"), MP_ECONTEXT);
}

static int nothing(mp_call *call)
{
    (void)call;
    return 0;
}

static void a_start_fixes_the_method_and_a_description_does_not(void **state)
{
    mp_process *process;

    (void)state;
    forget_the_choice();
    process = mp_process_new(.target = nothing);
    assert_non_null(process);
    assert_null(mp_get_start_method(true));
    assert_int_equal(finish(support_start(process)), 0);
    assert_non_null(mp_get_start_method(true));
    assert_int_equal(mp_set_start_method("spawn"), MP_ECONTEXT);
}

static void pipes_and_lists_of_methods_do_not_fix_the_method(void **state)
{
    mp_connection *here, *there;

    (void)state;
    forget_the_choice();
    assert_int_equal(mp_pipe(&here, &there), 0);
    mp_connection_free(here);
    mp_connection_free(there);
    assert_non_null(mp_get_context("spawn"));
    assert_non_null(mp_get_all_start_methods());
    assert_null(mp_get_start_method(true));
}

static void the_guard_does_not_fix_the_method(void **state)
{
    int inside = 0;

    (void)state;
    forget_the_choice();
    MP_MAIN () {
        inside++;
    }
    assert_int_equal(inside, 1);
    assert_null(mp_get_start_method(true));
    assert_int_equal(mp_set_start_method("spawn"), 0);
    assert_string_equal(mp_get_start_method(true), "spawn");
}

static void a_start_in_an_explicit_context_does_not_fix_the_method(void **state)
{
    forget_the_choice();
    assert_int_equal(
        finish(start_process(.target = nothing, .context = mp_get_context(*state))), 0);
    assert_null(mp_get_start_method(true));
    assert_int_equal(mp_set_start_method("fork"), 0);
}

/* ---- what there is, and the environment ---- */

static void all_methods_are_listed_the_default_first(void **state)
{
    const char *const *methods = mp_get_all_start_methods();

    (void)state;
    for (int i = 0; i < 3; i++) {
        int found = 0;

        for (size_t k = 0; methods[k]; k++)
            found += strcmp(methods[k], names[i]) == 0;
        assert_int_equal(found, 1);
    }
    assert_null(methods[3]);
#if defined(__linux__)
    assert_string_equal(methods[0], "fork");
#endif
    assert_int_equal(unsetenv("MP_START_METHOD"), 0);
    forget_the_choice();
    assert_string_equal(mp_get_start_method(false), methods[0]);
}

static outcome out;

/* What it printed, which must contain the text so many times. */
static void expect(const char *text, int count)
{
    if (count_text(out.output, text) != count)
        fail_msg("not %d times \"%s\" in:\n%s", count, text, out.output);
}

static void run(const char *program, const char *argument, const char *method)
{
    char setting[64];
    const char *const argv[] = { program_path(program), argument, NULL };
    const char *const environment[] = { setting, NULL };

    (void)snprintf(setting, sizeof(setting), "MP_START_METHOD=%s", method);
    run_program(argv, environment, PATIENCE, &out);
}

static void the_environment_chooses_the_method(void **state)
{
    char text[64];

    run("main_method", NULL, *state);
    (void)snprintf(text, sizeof(text), "method %s\n", (const char *)*state);
    expect(text, 1);
    (void)snprintf(text, sizeof(text), "child Process-1 by %s\n", (const char *)*state);
    expect(text, 1);
    assert_int_equal(out.status, 0);
}

static void a_choice_in_the_program_comes_before_the_environment(void **state)
{
    (void)state;
    assert_int_equal(setenv("MP_START_METHOD", "spawn", 1), 0);
    forget_the_choice();
    assert_int_equal(mp_set_start_method("forkserver"), 0);
    assert_string_equal(mp_get_start_method(false), "forkserver");
    forget_the_choice();
    assert_string_equal(mp_get_start_method(false), "spawn");
    assert_int_equal(unsetenv("MP_START_METHOD"), 0);
}

static void an_empty_variable_chooses_the_default(void **state)
{
    char text[64];

    (void)state;
    run("main_method", NULL, "");
    (void)snprintf(text, sizeof(text), "method %s\n", mp_get_all_start_methods()[0]);
    expect(text, 1);
    assert_int_equal(out.status, 0);
}

static void nonsense_in_the_environment_is_an_error_of_asking_and_of_starting(void **state)
{
    (void)state;
    run("main_method", NULL, "thread");
    expect("MP_EINVAL: MP_START_METHOD is \"thread\": it must be fork, spawn or forkserver\n", 2);
    expect("child ", 0);
    assert_int_equal(out.status, 1);
}

static void nonsense_in_the_environment_does_not_matter_to_an_explicit_context(void **state)
{
    (void)state;
    assert_int_equal(setenv("MP_START_METHOD", "thread", 1), 0);
    forget_the_choice();
    assert_null(mp_get_start_method(false));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_null(mp_get_context(NULL));
    assert_int_equal(
        finish(start_process(.target = nothing, .context = mp_get_context("spawn"))), 0);
    assert_int_equal(mp_set_start_method("fork"), 0);
    assert_int_equal(unsetenv("MP_START_METHOD"), 0);
}

/* ---- names ---- */

static void processes_are_numbered_and_their_children_below_them(void **state)
{
    run("main_method", NULL, *state);
    expect("child Process-1 by", 1);
    expect("grandchild Process-1:1\n", 1);
    expect("grandchild Process-1:2\n", 1);
}

static void an_explicit_context_shows_in_the_name(void **state)
{
    const char *prefix = strcmp(*state, "fork") == 0    ? "Fork"
                         : strcmp(*state, "spawn") == 0 ? "Spawn"
                                                        : "ForkServer";
    char text[64];

    run("main_method", *state, "");
    (void)snprintf(text, sizeof(text), "child %sProcess-1 by %s\n", prefix, (const char *)*state);
    expect(text, 1);
    expect("grandchild Process-1:2\n", 1); /* its method is its default: no prefix */
    assert_int_equal(out.status, 0);
}

static void only_an_explicit_context_shows_in_a_described_name(void **state)
{
    mp_process *plain, *explicit;

    plain = mp_process_new(.target = nothing);
    explicit = mp_process_new(.target = nothing, .context = mp_get_context(*state));
    assert_int_equal(strncmp(mp_process_name(plain), "Process-", 8), 0);
    assert_null(strstr(mp_process_name(plain), ":"));
    assert_non_null(strstr(mp_process_name(explicit), "Process-"));
    assert_int_not_equal(strncmp(mp_process_name(explicit), "Process-", 8), 0);
    mp_process_free(plain);
    mp_process_free(explicit);
}

/* ---- methods mixed ---- */

static int answer(mp_call *call)
{
    mp_connection *answers;

    if (mp_unpack(call, &answers))
        return 1;
    return mp_connection_send(answers, mp_list(42, mp_get_start_method(true))) != 0;
}

/* Hands its connection on to a child of its own, started by the method it is told. */
static int hand_on(mp_call *call)
{
    mp_connection *answers;
    const char *method;
    mp_process *process;
    int code;

    if (mp_unpack(call, &method, &answers))
        return 1;
    process = mp_process_new(.target = answer, .args = MP_ARGS(answers),
        .context = mp_get_context(method));
    if (!process || mp_process_start(process) < 0)
        return 2;
    mp_connection_close(answers);
    (void)mp_process_join(process, PATIENCE);
    code = mp_process_exitcode(process);
    mp_process_free(process);
    return code;
}

static void hand_through(const char *outer, const char *inner)
{
    mp_connection *here, *there;
    mp_message message = MP_MESSAGE_INIT;
    mp_process *process;
    const char *method;
    int number;

    assert_int_equal(mp_pipe(&here, &there), 0);
    process = start_process(.target = hand_on, .args = MP_ARGS(inner, there),
        .context = mp_get_context(outer));
    mp_connection_free(there);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_unpack(&message, &number, &method), 0);
    assert_int_equal(number, 42);
    assert_string_equal(method, inner);
    assert_int_equal(mp_connection_recv(here, &message), MP_EEOF);
    assert_int_equal(finish(process), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
}

static void a_connection_reaches_a_grandchild_of_any_method(void **state)
{
    for (int i = 0; i < 3; i++)
        hand_through(*state, names[i]);
}

static int send_number(mp_call *call)
{
    mp_connection *numbers;
    int number;

    if (mp_unpack(call, &number, &numbers))
        return 1;
    return mp_connection_send(numbers, number) != 0;
}

static void one_connection_serves_children_of_all_methods_at_once(void **state)
{
    mp_connection *here, *there;
    mp_message message = MP_MESSAGE_INIT;
    mp_process *processes[3];
    int number, sum = 0;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    for (int i = 0; i < 3; i++)
        processes[i] = start_process(.target = send_number, .args = MP_ARGS(1 << i, there),
            .context = mp_get_context(names[i]));
    mp_connection_free(there);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mp_connection_recv(here, &message), 0);
        assert_int_equal(mp_unpack(&message, &number), 0);
        sum += number;
    }
    assert_int_equal(sum, 7);
    assert_int_equal(mp_connection_recv(here, &message), MP_EEOF);
    for (int i = 0; i < 3; i++)
        assert_int_equal(finish(processes[i]), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
}

/* ---- preload ---- */

static void a_preload_hook_may_make_a_pipe_and_nothing_is_printed_of_it(void **state)
{
    (void)state;
    run("main_preload", "pipe", "forkserver");
    expect("child: 2 arguments, ", 2);
    expect("preloaded 1\n", 2);
    assert_int_equal(count_text(out.output, "\n"), 2);
    assert_int_equal(out.status, 0);
}

static int hook(void)
{
    return 0;
}

static void an_unknown_on_error_is_refused(void **state)
{
    (void)state;
    assert_int_equal(mp_set_forkserver_preload(hook, .on_error = (enum mp_on_error)3), MP_EINVAL);
    assert_int_equal(
        mp_set_forkserver_preload(hook, .on_error = (enum mp_on_error) - 1), MP_EINVAL);
    assert_int_equal(mp_set_forkserver_preload(hook, .on_error = MP_ON_ERROR_WARN), 0);
    assert_int_equal(mp_set_forkserver_preload(NULL), 0);
}

static const struct CMUnitTest tests[] = {
    ONCE(a_context_says_its_name_and_is_always_the_same),
    ONCE(an_unknown_context_is_an_error_that_names_it),
    UNDER_EACH(the_child_of_a_context_sees_the_same_method),
    ONCE(the_default_context_follows_every_change),
    ONCE(the_method_is_chosen_once_unless_forced),
    ONCE(an_unknown_method_is_refused_and_changes_nothing),
    ONCE(asking_for_the_method_fixes_it),
    ONCE(asking_for_the_default_context_fixes_it),
    ONCE(a_start_fixes_the_method_and_a_description_does_not),
    ONCE(pipes_and_lists_of_methods_do_not_fix_the_method),
    ONCE(the_guard_does_not_fix_the_method),
    UNDER_EACH(a_start_in_an_explicit_context_does_not_fix_the_method),
    ONCE(all_methods_are_listed_the_default_first),
    UNDER_EACH(the_environment_chooses_the_method),
    ONCE(a_choice_in_the_program_comes_before_the_environment),
    ONCE(an_empty_variable_chooses_the_default),
    ONCE(nonsense_in_the_environment_is_an_error_of_asking_and_of_starting),
    ONCE(nonsense_in_the_environment_does_not_matter_to_an_explicit_context),
    UNDER_EACH(processes_are_numbered_and_their_children_below_them),
    UNDER_EACH(an_explicit_context_shows_in_the_name),
    UNDER_EACH(only_an_explicit_context_shows_in_a_described_name),
    UNDER_EACH(a_connection_reaches_a_grandchild_of_any_method),
    ONCE(one_connection_serves_children_of_all_methods_at_once),
    ONCE(a_preload_hook_may_make_a_pipe_and_nothing_is_printed_of_it),
    ONCE(an_unknown_on_error_is_refused),
};

TESTS_MAIN(tests)
