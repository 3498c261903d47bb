/* SPDX-License-Identifier: MIT
 *
 * test_guard.c - programs that use the main guard wrongly, or not at all, end
 * soon, say why, and never start themselves without end. Each program prints
 * "main PID" when it begins, so the lines count the runs of main().
 */
#include "support.h"

#include <stdio.h>
#include <string.h>

#define LIMIT 10.0 /* seconds; an endless chain is killed then */
#define SOON 2.0   /* seconds it should take */
#define HANDFUL 10 /* runs of main() that no case here may exceed */

static outcome out;

static bool is_fork(void **state)
{
    return strcmp(*state, "fork") == 0;
}

static bool is_forkserver(void **state)
{
    return strcmp(*state, "forkserver") == 0;
}

/* Fails unless the text was printed so many times. */
static void expect(const char *text, int count)
{
    int found = count_text(out.output, text);

    if (found != count)
        fail_msg("\"%s\" %d times, not %d, in:\n%s", text, found, count, out.output);
}

/* Runs of main(): lines that begin with "main ". */
static int count_mains(void)
{
    return count_text(out.output, "\nmain ") + (strncmp(out.output, "main ", 5) == 0);
}

static void expect_mains(int count)
{
    if (count_mains() != count)
        fail_msg("%d runs of main(), not %d, in:\n%s", count_mains(), count, out.output);
}

static void run(void **state, const char *name, const char *mode, const char *extra)
{
    char method[64];
    const char *const argv[] = { program_path(name), mode, NULL };
    const char *const environment[] = { method, extra, NULL };

    (void)snprintf(method, sizeof(method), "MP_START_METHOD=%s", (const char *)*state);
    run_program(argv, environment, LIMIT, &out);
    if (out.seconds > SOON)
        print_message("%s under %s took %.1f s\n", name, (const char *)*state, out.seconds);
    if (count_mains() > HANDFUL)
        fail_msg("%d runs of main(): there is no end to it:\n%s", count_mains(), out.output);
}

/* ---- no guard, or one that children do not reach ---- */

static void without_a_guard_only_fork_may_start_a_process(void **state)
{
    run(state, "guard_none", NULL, NULL);
    expect_mains(1);
    expect("target\n", is_fork(state));
    expect("MP_EGUARD: ", !is_fork(state));
    expect("MP_MAIN() { ... }", !is_fork(state)); /* the sentence shows what to write */
    assert_int_equal(out.status, is_fork(state) ? 0 : 1);
}

/* A fork server is tried twice, then start fails; a spawned child has an exit code. */
static void judge_children_that_missed_the_guard(void **state)
{
    int attempts = is_fork(state) ? 0 : is_forkserver(state) ? 2 : 1;

    expect_mains(1 + attempts);
    expect("target\n", is_fork(state));
    expect("left\nmain() without reaching MP_MAIN(), so its function was never called.", attempts);
    expect("exit code 0\n", is_fork(state));
    expect("exit code 1\n", attempts == 1);
    expect("MP_EFORKSERVER: ", is_forkserver(state));
    assert_int_equal(out.status, is_forkserver(state) ? 3 : 0);
}

static void a_child_that_returns_before_the_guard_never_runs_its_target(void **state)
{
    run(state, "guard_missed", "return", NULL);
    judge_children_that_missed_the_guard(state);
}

static void a_child_that_exits_before_the_guard_never_runs_its_target(void **state)
{
    run(state, "guard_missed", "exit", NULL);
    judge_children_that_missed_the_guard(state);
}

static void what_a_child_printed_before_it_missed_the_guard_is_not_lost(void **state)
{
    run(state, "guard_missed", "return", NULL);
    expect("not the first run\n", is_fork(state) ? 0 : is_forkserver(state) ? 2 : 1);
}

/* ---- a start before the guard ---- */

static void a_start_before_the_guard_is_refused_and_the_one_inside_works(void **state)
{
    run(state, "guard_late", "always", NULL);
    expect_mains(is_fork(state) ? 1 : 2);
    expect("early: MP_EGUARD: spawn and forkserver need the main guard", !is_fork(state));
    expect("early: MP_EGUARD: a process was to be started before this child has finished its "
           "bootstrap",
        !is_fork(state));
    expect("inside: ", 0);
    expect("target\n", is_fork(state) ? 2 : 1);
    assert_int_equal(out.status, 0);
}

static void without_a_guard_only_fork_may_make_a_pool(void **state)
{
    run(state, "guard_pool", "none", NULL);
    expect_mains(1);
    expect("target\n", is_fork(state));
    expect("early: MP_EGUARD: spawn and forkserver need the main guard", !is_fork(state));
    assert_int_equal(out.status, is_fork(state) ? 0 : 1);
}

static void a_pool_before_the_guard_is_refused_and_the_one_inside_works(void **state)
{
    run(state, "guard_pool", "late", NULL);
    expect_mains(is_fork(state) ? 1 : 2);
    expect("early: MP_EGUARD: ", is_fork(state) ? 0 : 2);
    expect("inside: ", 0);
    expect("target\n", is_fork(state) ? 2 : 1);
    assert_int_equal(out.status, 0);
}

static void judge_children_that_started_too_early(void **state)
{
    expect_mains(is_fork(state) ? 1 : 2);
    expect("early: MP_EGUARD: ", !is_fork(state));
    expect("bootstrap. The main guard is missing", !is_fork(state));
    expect("target\n", 1);
    assert_int_equal(out.status, 0);
}

static void a_child_cannot_start_a_process_before_its_guard(void **state)
{
    run(state, "guard_late", "child", NULL);
    judge_children_that_started_too_early(state);
}

/* Python does not notice this one. */
static void a_child_cannot_even_fork_a_process_before_its_guard(void **state)
{
    run(state, "guard_late", "child-fork", NULL);
    judge_children_that_started_too_early(state);
}

static void a_start_in_a_constructor_is_refused(void **state)
{
    run(state, "guard_constructor", NULL, NULL);
    expect_mains(is_fork(state) ? 1 : 2);
    expect("constructor: MP_EGUARD: ", is_fork(state) ? 0 : 2);
    expect("target\n", is_fork(state) ? 2 : 1);
    assert_int_equal(out.status, 0);
}

/* The fork server that the first start made serves the second one too. */
static void a_guard_in_a_constructor_is_a_guard(void **state)
{
    run(state, "guard_constructor", NULL, "GUARD_THERE=1");
    expect_mains(is_fork(state) ? 1 : is_forkserver(state) ? 2 : 3);
    expect("MP_EGUARD", 0);
    expect("target\n", 2);
    assert_int_equal(out.status, 0);
}

/* ---- children of children ---- */

static void the_guard_is_false_in_a_child_which_may_start_children(void **state)
{
    run(state, "guard_nested", "3", NULL);
    expect_mains(is_fork(state) ? 1 : 4);
    expect("the guard let a child in\n", 0);
    expect("level 3\n", 1);
    expect("MP_E", 0);
    assert_int_equal(out.status, 0);
}

static void a_chain_of_children_stops_at_the_depth_limit(void **state)
{
    run(state, "guard_nested", "1000000", "MP_MAX_DEPTH=3");
    expect_mains(is_fork(state) ? 1 : 4);
    expect("level ", 3);
    expect("MP_EDEPTH: ", 1);
    expect("deeper than 3; MP_MAX_DEPTH", 1);
    assert_int_equal(out.status, 7); /* the code of the last child, handed up */
}

/* Each child is below one more server or spawned process, so the counting of mains stops here. */
static void without_a_limit_in_the_environment_the_depth_is_16(void **state)
{
    char method[64];
    const char *const argv[] = { program_path("guard_nested"), "1000000", NULL };
    const char *const environment[] = { method, NULL };

    (void)snprintf(method, sizeof(method), "MP_START_METHOD=%s", (const char *)*state);
    run_program(argv, environment, LIMIT, &out);
    expect("level ", 16);
    expect("MP_EDEPTH: ", 1);
    expect_mains(is_fork(state) ? 1 : 17);
    assert_int_equal(out.status, 7);
}

/* ---- a program that runs itself ---- */

static void a_program_run_by_its_own_child_before_the_guard_starts_nothing(void **state)
{
    run(state, "guard_system", "before", NULL);
    expect_mains(is_fork(state) ? 1 : 3); /* the root, its child or server, and what that ran */
    expect("MP_EGUARD: this program was started by a child of the same program", !is_fork(state));
    expect("target\n", 1); /* of the first root: its child did reach the guard */
    expect("endless\n", 0);
    assert_int_equal(out.status, 0);
}

/* At most 8 copies of the program stand above a root that may start: that one makes 9. */
static void a_program_run_by_its_own_children_stops_after_8_copies(void **state)
{
    run(state, "guard_system", "after", NULL);
    expect("endless\n", 0);
    expect("MP_EDEPTH: this program runs below itself", 1);
    assert_in_range(count_mains(), 2, 9);
    assert_in_range(count_text(out.output, "target\n"), 1, 8);
    assert_int_equal(out.status, 1);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(without_a_guard_only_fork_may_start_a_process),
    UNDER_EACH(a_child_that_returns_before_the_guard_never_runs_its_target),
    UNDER_EACH(a_child_that_exits_before_the_guard_never_runs_its_target),
    UNDER_EACH(what_a_child_printed_before_it_missed_the_guard_is_not_lost),
    UNDER_EACH(a_start_before_the_guard_is_refused_and_the_one_inside_works),
    UNDER_EACH(without_a_guard_only_fork_may_make_a_pool),
    UNDER_EACH(a_pool_before_the_guard_is_refused_and_the_one_inside_works),
    UNDER_EACH(a_child_cannot_start_a_process_before_its_guard),
    UNDER_EACH(a_child_cannot_even_fork_a_process_before_its_guard),
    UNDER_EACH(a_start_in_a_constructor_is_refused),
    UNDER_EACH(a_guard_in_a_constructor_is_a_guard),
    UNDER_EACH(the_guard_is_false_in_a_child_which_may_start_children),
    UNDER_EACH(a_chain_of_children_stops_at_the_depth_limit),
    UNDER_EACH(without_a_limit_in_the_environment_the_depth_is_16),
    UNDER_EACH(a_program_run_by_its_own_child_before_the_guard_starts_nothing),
    UNDER_EACH(a_program_run_by_its_own_children_stops_after_8_copies),
};

TESTS_MAIN(tests)
