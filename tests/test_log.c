/* SPDX-License-Identifier: MIT
 *
 * test_log.c - the library's log: which records are written, by whom, and what
 * is in them. The level is the whole process's, so a program of its own
 * (log_records.c) writes them.
 */
#include "support.h"

#include "error_internal.h"

#include <limits.h>
#include <stdio.h>
#include <unistd.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static outcome out;

/* Fails unless the program printed the text so many times. */
static void expect(const char *text, int count)
{
    int found = count_text(out.output, text);

    if (found != count)
        fail_msg("\"%s\" %d times, not %d, in:\n%.8000s", text, found, count, out.output);
}

/* Under a start method, or none; variable is one more for the environment, or NULL. */
static void run(void **state, const char *job, const char *argument, const char *variable)
{
    const char *const argv[] = { program_path("log_records"), job, argument, NULL };
    char method[64];
    const char *const environment[] = { method, variable, NULL };

    (void)unsetenv("MP_LOG");
    (void)snprintf(
        method, sizeof(method), "MP_START_METHOD=%s", *state ? (const char *)*state : "fork");
    run_program(argv, environment, PATIENCE, &out);
    if (out.status != 0)
        fail_msg("%s ended with %d:\n%.8000s", job, out.status, out.output);
}

/* ---- levels ---- */

static const struct {
    int level;
    const char *name;
} levels[] = { { 1, "SUBDEBUG" }, { MP_LOG_SUBDEBUG, "SUBDEBUG" }, { MP_LOG_DEBUG, "DEBUG" },
    { MP_LOG_INFO, "INFO" }, { MP_LOG_SUBWARNING, "SUBWARNING" }, { MP_LOG_WARNING, "WARNING" },
    { 35, "WARNING" }, { MP_LOG_ERROR, "ERROR" }, { MP_LOG_OFF, "OFF" } };

/* The records a process of that name and level writes, when it writes one at each. */
static void expect_records(const char *process, int threshold)
{
    char text[128];

    for (size_t i = 0; i < COUNT(levels); i++) {
        (void)snprintf(text, sizeof(text), "%s writes at %d\n", process, levels[i].level);
        expect(text, levels[i].level >= threshold);
    }
}

static void expect_level(const char *process, int level)
{
    char text[128];

    (void)snprintf(text, sizeof(text), "%s has level %d\n", process, level);
    expect(text, 1);
}

/* Each bears the name of its level; one between two names has the lower one's. */
static void expect_names(int threshold)
{
    char text[64];

    for (size_t i = 0; i < COUNT(levels); i++) {
        int count = 0;

        for (size_t k = 0; k < COUNT(levels); k++)
            count += strcmp(levels[k].name, levels[i].name) == 0 && levels[k].level >= threshold;
        (void)snprintf(text, sizeof(text), "[%s/MainProcess pid ", levels[i].name);
        expect(text, count);
    }
}

static void records_at_or_above_the_level_reach_stderr(void **state)
{
    static const int thresholds[] = { 0, 5, 6, 10, 20, 22, 25, 30, 40, 41, 100 };
    char number[16];

    for (size_t i = 0; i < COUNT(thresholds); i++) {
        (void)snprintf(number, sizeof(number), "%d", thresholds[i]);
        run(state, "levels", number, NULL);
        expect_records("MainProcess", thresholds[i]);
        expect_names(thresholds[i]);
    }
}

static void off_and_above_drop_every_record_of_lower_levels(void **state)
{
    run(state, "levels", "101", NULL);
    assert_string_equal(out.output, "");
    run(state, "levels", "100", "MP_LOG=debug");
    expect(" writes at ", 1);
}

static void the_level_asked_for_is_the_level_set(void **state)
{
    static const int set[] = { MP_LOG_SUBDEBUG, 0, 17, MP_LOG_ERROR, MP_LOG_OFF, INT_MAX };
    int before = mp_log_get_level();

    (void)state;
    for (size_t i = 0; i < COUNT(set); i++) {
        mp_log_to_stderr(set[i]);
        assert_int_equal(mp_log_get_level(), set[i]);
    }
    mp_log_to_stderr(-1);
    assert_int_equal(mp_log_get_level(), 0);
    mp_log_to_stderr(before);
    run(state, "ask", NULL, NULL);
    expect_level("MainProcess", MP_LOG_WARNING);
}

static void the_environment_sets_the_level_by_name_or_number(void **state)
{
    static const struct {
        const char *variable;
        int level;
    } cases[] = { { "MP_LOG=subdebug", 5 }, { "MP_LOG=debug", 10 }, { "MP_LOG=DEBUG", 10 },
        { "MP_LOG=Info", 20 }, { "MP_LOG=subwarning", 25 }, { "MP_LOG=warning", 30 },
        { "MP_LOG=error", 40 }, { "MP_LOG=off", 100 }, { "MP_LOG=0", 0 }, { "MP_LOG=5", 5 },
        { "MP_LOG=22", 22 }, { "MP_LOG=100", 100 } };

    for (size_t i = 0; i < COUNT(cases); i++) {
        run(state, "ask", NULL, cases[i].variable);
        expect_level("MainProcess", cases[i].level);
    }
}

static void nonsense_in_the_environment_leaves_the_level_alone(void **state)
{
    static const char *const nonsense[] = { "MP_LOG=", "MP_LOG=loud", "MP_LOG=10x", "MP_LOG=-1",
        "MP_LOG=debug ", "MP_LOG=101", "MP_LOG=99999999999999999999" };

    for (size_t i = 0; i < COUNT(nonsense); i++) {
        run(state, "ask", NULL, nonsense[i]);
        expect_level("MainProcess", MP_LOG_WARNING);
    }
}

/* ---- children ---- */

/* Anna, her child Berta, Clara, who set her own level for her child Dora, then Emma and Fritz. */
static void expect_family(int level)
{
    expect_level("Anna", level);
    expect_records("Anna", level);
    expect_level("Berta", level);
    expect_records("Berta", level);
    expect_level("Dora", MP_LOG_SUBDEBUG);
    expect_records("Dora", MP_LOG_SUBDEBUG);
    expect_level("MainProcess", level);
    expect_level("Emma", MP_LOG_ERROR);
    expect_records("Emma", MP_LOG_ERROR);
    expect_level("Fritz", MP_LOG_DEBUG);
    expect_records("Fritz", MP_LOG_DEBUG);
}

static void children_inherit_the_level(void **state)
{
    run(state, "family", "20", NULL);
    expect_family(MP_LOG_INFO);
}

static void children_inherit_the_level_of_the_environment(void **state)
{
    run(state, "family", NULL, "MP_LOG=info");
    expect_family(MP_LOG_INFO);
}

static void children_inherit_what_the_program_set_against_the_environment(void **state)
{
    run(state, "family", "25", "MP_LOG=debug");
    expect_family(MP_LOG_SUBWARNING);
}

/* ---- what is in a record ---- */

/* "file:N: ... line N", wherever that is. */
static void expect_place(const char *words, bool placed)
{
    const char *at = strstr(out.output, words);
    char text[128];
    int line;

    assert_non_null(at);
    assert_int_equal(sscanf(at + strlen(words), "%d", &line), 1);
    (void)snprintf(text, sizeof(text), "] %s%d\n", words, line);
    expect(text, !placed);
    (void)snprintf(text, sizeof(text), "] log_records.c:%d: %s%d\n", line, words, line);
    expect(text, placed);
}

static void from_debug_down_a_record_names_file_and_line(void **state)
{
    static const char *const thresholds[] = { "0", "5", "10", "11", "20", "30" };

    for (size_t i = 0; i < COUNT(thresholds); i++) {
        bool placed = i < 3;

        run(state, "places", thresholds[i], NULL);
        expect_place("root is in line ", placed);
        expect_place("child is in line ", placed);
        expect("] file.c:7: from afar\n", placed);
        expect("] file.h:8: from near\n", placed);
        expect("] from near\n", !placed);
    }
}

/* For each "process PID is NAME" there is a record with both. */
static int count_introductions(void)
{
    static const char words[] = "process ";
    int count = 0;

    for (const char *at = strstr(out.output, words); at; at = strstr(at + 1, words)) {
        char name[64], record[128];
        long pid;

        if (sscanf(at, "process %ld is %63[^\n]", &pid, name) != 2)
            continue;
        (void)snprintf(record, sizeof(record), "[WARNING/%s pid %ld] hello\n", name, pid);
        expect(record, 1);
        count++;
    }
    return count;
}

static void a_record_names_its_process_and_pid(void **state)
{
    run(state, "names", NULL, NULL);
    assert_int_equal(count_introductions(), 7);
    expect(" is MainProcess\n", 1);
    expect(" is worker 1\n", 1);
    expect(" is renamed\n", 2);
}

static void a_record_is_one_line_whatever_is_in_it(void **state)
{
    int lines;

    run(state, "lines", NULL, NULL);
    lines = count_text(out.output, "\n");
    assert_int_equal(lines, 5);
    assert_int_equal(count_text(out.output, "[WARNING/"), lines);
    assert_int_equal(count_text(out.output, "\n[WARNING/"), lines - 1);
    expect("] one two  three \n", 1);
    expect("] \n", 1);
    expect("] long xxxx", 1);
    expect("[WARNING/two lines pid ", 1);
    expect("] end\n", 1);
    assert_in_range(strlen(out.output), 500, lines * PIPE_BUF); /* what is too long is cut */
}

static void records_of_many_processes_and_threads_stay_whole(void **state)
{
    static const char filling[] = "the quick brown fox jumps over the lazy dog";
    enum { PROCESSES = 3, EACH = 50, ALL = EACH * (2 * PROCESSES + 1) };
    char text[256];

    run(state, "crowd", NULL, NULL);
    assert_int_equal(count_text(out.output, "\n"), ALL);
    assert_int_equal(count_text(out.output, "[ERROR/"), ALL);
    for (int i = 0; i < ALL; i++) {
        char name[16] = { (char)('a' + i / EACH / 2), 0 };
        const char *thread = i / EACH % 2 ? "thread" : "main";
        bool root = i / EACH == 2 * PROCESSES;

        (void)snprintf(text, sizeof(text), "] %s %s %d: %s.\n", root ? "MainProcess" : name,
            root ? "root" : thread, i % EACH, filling);
        expect(text, 1);
    }
}

static void without_stderr_records_are_dropped(void **state)
{
    run(state, "closed", NULL, NULL);
    assert_string_equal(out.output, "still here\n");
}

/* ---- nobody reads ---- */

static int log_to_nobody(mp_call *call)
{
    int ends[2];

    (void)call;
    if (pipe(ends) < 0 || close(ends[0]) < 0 || dup2(ends[1], STDERR_FILENO) < 0)
        return 1;
    (void)mp__fail(MP_ERANGE, "before");
    mp_log(MP_LOG_ERROR, "nobody reads this");
    return mp_last_error()->code == MP_ERANGE ? 7 : 2;
}

static void a_record_nobody_reads_is_dropped_without_harm(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = log_to_nobody)), 7);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(a_record_nobody_reads_is_dropped_without_harm),
    ONCE(records_at_or_above_the_level_reach_stderr),
    ONCE(off_and_above_drop_every_record_of_lower_levels),
    ONCE(the_level_asked_for_is_the_level_set),
    ONCE(the_environment_sets_the_level_by_name_or_number),
    ONCE(nonsense_in_the_environment_leaves_the_level_alone),
    UNDER_EACH(children_inherit_the_level),
    UNDER_EACH(children_inherit_the_level_of_the_environment),
    UNDER_EACH(children_inherit_what_the_program_set_against_the_environment),
    UNDER_EACH(from_debug_down_a_record_names_file_and_line),
    UNDER_EACH(a_record_names_its_process_and_pid),
    ONCE(a_record_is_one_line_whatever_is_in_it),
    UNDER_EACH(records_of_many_processes_and_threads_stay_whole),
    ONCE(without_stderr_records_are_dropped),
};

TESTS_MAIN(tests)
