/* SPDX-License-Identifier: MIT
 *
 * test_main.c - what a child finds when it begins, and what becomes of the code
 * before the guard: environment, arguments, folder, descriptors, signals,
 * standard streams, the binary itself, and the fork server's preload hook.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static outcome out;

static bool is(void **state, const char *method)
{
    return strcmp(*state, method) == 0;
}

/* Fails unless the program printed the text so many times. */
static void expect(const char *text, int count)
{
    int found = count_text(out.output, text);

    if (found != count)
        fail_msg("\"%s\" %d times, not %d, in:\n%.8000s", text, found, count, out.output);
}

static void run(void **state, const char *const argv[])
{
    char method[64];
    const char *const environment[] = { method, NULL };

    (void)snprintf(method, sizeof(method), "MP_START_METHOD=%s", (const char *)*state);
    run_program(argv, environment, PATIENCE, &out);
}

static void run_with(void **state, const char *name, const char *argument)
{
    run(state, (const char *const[]){ program_path(name), argument, NULL });
}

/* Starts it with a connection as its only argument; what it answers is in message. */
static void ask(mp_function target, mp_message *message)
{
    mp_connection *here, *there;
    mp_process *process;

    assert_int_equal(mp_pipe(&here, &there), 0);
    process = start_process(.target = target, .args = MP_ARGS(there));
    mp_connection_free(there);
    assert_int_equal(mp_connection_recv(here, message), 0);
    assert_int_equal(finish(process), 0);
    mp_connection_free(here);
}

static int nothing(mp_call *call)
{
    (void)call;
    return 0;
}

/* ---- the programs in the documents ---- */

static void the_programs_in_the_documents_print_the_same_under_each_method(void **state)
{
    run_with(state, "design", NULL);
    assert_string_equal(out.output, "hello bob from Process-1\n42 2.5 done\nexit code 0\n");
    assert_int_equal(out.status, 0);
    run_with(state, "design_pool", NULL);
    assert_string_equal(out.output, "1\n4\n9\n16\n25\n");
    assert_int_equal(out.status, 0);
}

/* ---- environment and arguments ---- */

static void no_code_of_the_program_sees_how_a_child_is_told_what_it_is(void **state)
{
    int runs = is(state, "fork") ? 1 : 2;

    run_with(state, "main_environment", NULL);
    expect("constructor: 0\n", runs);
    expect("main: 0\n", runs);
    expect("target: 0\n", 1);
    assert_int_equal(out.status, 0);
}

static void proc_does_not_show_how_a_child_was_told_what_it_is(void **state)
{
    run_with(state, "main_environment", NULL);
    expect("/proc: 0\n", 1);
}

static int tell_variable(mp_call *call)
{
    mp_connection *answers;

    if (mp_unpack(call, &answers))
        return 1;
    return mp_connection_send(answers, (const char *)getenv("MAIN_TEST")) != 0;
}

/* Of the server: as it was when that began. */
static void a_child_has_the_environment_of_its_parent(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    const char *value;

    assert_int_equal(setenv("MAIN_TEST", "1", 1), 0);
    ask(tell_variable, &message);
    assert_int_equal(mp_unpack(&message, &value), 0);
    assert_string_equal(value, "1");
    assert_int_equal(setenv("MAIN_TEST", "2", 1), 0);
    ask(tell_variable, &message);
    assert_int_equal(mp_unpack(&message, &value), 0);
    assert_string_equal(value, is(state, "forkserver") ? "1" : "2");
    assert_int_equal(unsetenv("MAIN_TEST"), 0);
    mp_message_clear(&message);
}

/* The root prints one line and each of two children another: all three must be equal. */
static void judge_arguments(int count)
{
    char line[128], *end = strchr(out.output, '\n');
    size_t length = end ? (size_t)(end - out.output) + 1 : 0;
    int said = 0;

    assert_in_range(length, 1, sizeof(line) - 1);
    memcpy(line, out.output, length);
    line[length] = '\0';
    assert_int_equal(sscanf(line, "%d arguments", &said), 1);
    assert_int_equal(said, count);
    expect(line, 3);
    assert_int_equal(out.status, 0);
}

static void a_child_has_the_arguments_its_parent_had_before_it_changed_them(void **state)
{
    run(state, (const char *const[]){ program_path("main_arguments"), "-a", "b,c,d", "", "--",
                   "e f", "g\nh", "", NULL });
    judge_arguments(8);
}

static void five_thousand_arguments_reach_a_child(void **state)
{
    enum { COUNT = 5001 };
    static char texts[COUNT][40]; /* 200 KB: more than one argument or pipe can hold */
    static const char *argv[COUNT + 1];

    argv[0] = program_path("main_arguments");
    for (int i = 1; i < COUNT; i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "argument %05d of five thousand,%d", i, i);
        argv[i] = texts[i];
    }
    run(state, argv);
    judge_arguments(COUNT);
}

/* ---- the working directory ---- */

static int tell_directory(mp_call *call)
{
    char directory[4096];
    mp_connection *answers;

    if (mp_unpack(call, &answers) || !getcwd(directory, sizeof(directory)))
        return 1;
    return mp_connection_send(answers, directory) != 0;
}

static void expect_directory(const char *directory)
{
    mp_message message = MP_MESSAGE_INIT;
    const char *there;

    assert_int_equal(chdir(directory), 0);
    ask(tell_directory, &message);
    assert_int_equal(mp_unpack(&message, &there), 0);
    assert_string_equal(there, directory);
    mp_message_clear(&message);
}

static void a_child_works_where_its_parent_is_when_it_starts_it(void **state)
{
    char home[4096], folder[] = "/tmp/mp_main_XXXXXX";

    (void)state;
    assert_non_null(getcwd(home, sizeof(home)));
    assert_non_null(mkdtemp(folder));
    expect_directory(home);
    expect_directory("/");
    expect_directory(folder);
    expect_directory(home);
    expect_directory(folder);
    assert_int_equal(chdir(home), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* Where the child of a server works then is not said: it runs, or the start is refused. */
static void a_deleted_directory_does_not_hang_a_start(void **state)
{
    char home[4096], folder[] = "/tmp/mp_main_XXXXXX";
    mp_process *process;
    int r;

    (void)state;
    assert_non_null(getcwd(home, sizeof(home)));
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(rmdir(folder), 0);
    process = mp_process_new(.target = nothing);
    assert_non_null(process);
    r = mp_process_start(process);
    assert_int_equal(chdir(home), 0);
    if (r == 0)
        assert_int_equal(finish(process), 0);
    else
        mp_process_free(process);
    assert_true(r == 0 || r == MP_ENOENT);
}

/* ---- descriptors ---- */

/* Sends its descriptors, a line each: "7=pipe:[4711]". */
static int tell_descriptors(mp_call *call)
{
    char text[16384] = "", path[64], target[512];
    mp_connection *answers;
    size_t used = 0;

    if (mp_unpack(call, &answers))
        return 1;
    for (int fd = 0; fd < 1024 && used < sizeof(text) - sizeof(target) - 16; fd++) {
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n = readlink(path, target, sizeof(target) - 1);
        if (n >= 0)
            used +=
                (size_t)snprintf(text + used, sizeof(text) - used, "%d=%.*s\n", fd, (int)n, target);
    }
    return mp_connection_send(answers, text) != 0;
}

/* Whether what our descriptor leads to stands in the list. */
static bool is_listed(const char *list, int fd)
{
    char path[64], target[512] = "=";
    ssize_t n;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    n = readlink(path, target + 1, sizeof(target) - 3);
    assert_true(n > 0);
    (void)snprintf(target + 1 + n, 2, "\n");
    return strstr(list, target) != NULL;
}

static void only_fork_hands_on_descriptors_the_user_opened(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    const char *list;
    int stray[2], high;

    assert_int_equal(pipe(stray), 0); /* without close-on-exec */
    high = fcntl(stray[0], F_DUPFD, 700);
    assert_int_equal(high, 700);
    ask(tell_descriptors, &message);
    assert_int_equal(mp_unpack(&message, &list), 0);
    assert_int_equal(is_listed(list, stray[1]), is(state, "fork"));
    assert_int_equal(strstr(list, "\n700=") != NULL, is(state, "fork"));
    assert_true(strncmp(list, "0=/dev/null\n1=", 14) == 0);
    mp_message_clear(&message);
    (void)close(high);
    (void)close(stray[0]);
    (void)close(stray[1]);
}

static void no_method_hands_on_connections_that_are_not_arguments(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b, *receiver, *sender;
    const char *list;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = true), 0);
    ask(tell_descriptors, &message);
    assert_int_equal(mp_unpack(&message, &list), 0);
    assert_false(is_listed(list, mp_connection_fileno(a)));
    assert_false(is_listed(list, mp_connection_fileno(b)));
    assert_false(is_listed(list, mp_connection_fileno(receiver)));
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
    mp_connection_free(receiver);
    mp_connection_free(sender);
}

static int wait_for_the_end(mp_call *call)
{
    mp_connection *connection;
    mp_message message = MP_MESSAGE_INIT;
    int r;

    if (mp_unpack(call, &connection))
        return 1;
    r = mp_connection_recv(connection, &message);
    mp_message_clear(&message);
    return r == MP_EEOF ? 0 : 2;
}

/* The end of one child shows as the end of its stream though its younger siblings live. */
static void siblings_do_not_keep_each_others_pipes_open(void **state)
{
    enum { COUNT = 4 };
    mp_connection *here[COUNT], *there;
    mp_process *children[COUNT];
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(mp_pipe(&here[i], &there), 0);
        children[i] = start_process(.target = wait_for_the_end, .args = MP_ARGS(there));
        mp_connection_free(there);
    }
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(mp_process_kill(children[i]), 0);
        assert_int_equal(mp_connection_poll(here[i], PATIENCE), 1);
        assert_int_equal(mp_connection_recv(here[i], &message), MP_EEOF);
        mp_connection_free(here[i]);
        assert_int_equal(finish(children[i]), -SIGKILL);
    }
    mp_message_clear(&message);
}

/* The other way round: what only we hold closes with us, for the child to see. */
static void a_child_sees_the_end_though_younger_siblings_live(void **state)
{
    enum { COUNT = 4 };
    mp_connection *here[COUNT], *there;
    mp_process *children[COUNT];

    (void)state;
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(mp_pipe(&here[i], &there), 0);
        children[i] = start_process(.target = wait_for_the_end, .args = MP_ARGS(there));
        mp_connection_free(there);
    }
    for (int i = 0; i < COUNT; i++) {
        mp_connection_free(here[i]);
        assert_int_equal(finish(children[i]), 0);
    }
}

/* ---- signals ---- */

/* For each signal: default, ignored, caught or ? when it cannot be asked; large: blocked. */
static int tell_signals(mp_call *call)
{
    char text[NSIG] = "";
    mp_connection *answers;
    sigset_t blocked;

    if (mp_unpack(call, &answers) || sigprocmask(SIG_BLOCK, NULL, &blocked) < 0)
        return 1;
    for (int sig = 1; sig < NSIG; sig++) {
        struct sigaction action;

        if (sigaction(sig, NULL, &action) < 0)
            text[sig - 1] = '?';
        else if (action.sa_handler == SIG_DFL)
            text[sig - 1] = 'd';
        else
            text[sig - 1] = action.sa_handler == SIG_IGN ? 'i' : 'c';
        if (sigismember(&blocked, sig) == 1)
            text[sig - 1] = (char)(text[sig - 1] - 'a' + 'A');
    }
    return mp_connection_send(answers, text) != 0;
}

/* Sanitizers have handlers of their own in every program. */
static bool is_of_the_sanitizer(int sig)
{
    return (HAS_ASAN || HAS_TSAN) && (sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE);
}

static void handle(int sig)
{
    (void)sig;
}

static struct sigaction dispositions[NSIG];
static sigset_t mask;

/* Handlers, ignored signals, and all but the watchdog's blocked. */
static void disturb_signals(void)
{
    static const int ignored[] = { SIGUSR1, SIGPIPE, SIGTERM, SIGQUIT };
    static const int caught[] = { SIGUSR2, SIGINT, SIGWINCH, SIGCHLD, SIGHUP };
    struct sigaction action = { .sa_handler = handle };
    sigset_t block;

    for (int sig = 1; sig < NSIG; sig++)
        (void)sigaction(sig, NULL, &dispositions[sig]);
    for (size_t i = 0; i < sizeof(caught) / sizeof(*caught); i++)
        (void)sigaction(caught[i], &action, NULL);
    for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
        (void)signal(ignored[i], SIG_IGN);
    sigfillset(&block);
    sigdelset(&block, SIGALRM);
    (void)sigprocmask(SIG_BLOCK, &block, &mask);
}

static void restore_signals(void)
{
    (void)sigprocmask(SIG_SETMASK, &mask, NULL);
    for (int sig = 1; sig < NSIG; sig++)
        (void)sigaction(sig, &dispositions[sig], NULL);
}

static void a_child_has_default_dispositions_and_blocks_nothing(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    const char *text;

    (void)state;
    disturb_signals();
    ask(tell_signals, &message);
    restore_signals();
    assert_int_equal(mp_unpack(&message, &text), 0);
    for (int sig = 1; sig < NSIG; sig++)
        if (!strchr("d?", text[sig - 1]) && !is_of_the_sanitizer(sig))
            fail_msg("signal %d is %c in the child: %s", sig, text[sig - 1], text);
    mp_message_clear(&message);
}

/* nohup program: its children are not to be ended by the hang-up either. */
static void a_child_of_a_program_under_nohup_ignores_the_hangup_too(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    const char *text;
    char found;

    (void)state;
    (void)signal(SIGHUP, SIG_IGN);
    ask(tell_signals, &message);
    (void)signal(SIGHUP, SIG_DFL);
    assert_int_equal(mp_unpack(&message, &text), 0);
    found = text[SIGHUP - 1];
    mp_message_clear(&message);
    assert_int_equal(found, 'i');
}

/* ---- standard streams ---- */

/* 0 when stdin is /dev/null, at its end, also through stdio. */
static int look_at_stdin(mp_call *call)
{
    struct stat s;
    char byte;

    (void)call;
    if (fstat(STDIN_FILENO, &s) < 0 || !S_ISCHR(s.st_mode) || s.st_rdev != makedev(1, 3))
        return 1;
    if (getchar() != EOF)
        return 2;
    return read(STDIN_FILENO, &byte, 1) == 0 ? 0 : 3;
}

/* Has stdin lead to the descriptor (-1: nowhere) and starts a child; puts stdin back. */
static int exit_code_with_stdin(int fd, mp_function target)
{
    int old = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 10);
    int code;

    assert_true(old >= 0);
    if (fd >= 0)
        assert_int_equal(dup2(fd, STDIN_FILENO), STDIN_FILENO);
    else
        assert_int_equal(close(STDIN_FILENO), 0);
    code = finish(start_process(.target = target));
    assert_int_equal(dup2(old, STDIN_FILENO), STDIN_FILENO);
    (void)close(old);
    return code;
}

static void stdin_of_a_child_is_dev_null(void **state)
{
    int input[2];
    char byte = 0;

    (void)state;
    assert_int_equal(pipe2(input, O_CLOEXEC), 0);
    assert_int_equal(write(input[1], "x", 1), 1);
    assert_int_equal(exit_code_with_stdin(input[0], look_at_stdin), 0);
    assert_int_equal(read(input[0], &byte, 1), 1); /* nobody took it */
    assert_int_equal(byte, 'x');
    (void)close(input[0]);
    (void)close(input[1]);
}

static void what_the_parent_has_read_ahead_is_not_read_by_a_child(void **state)
{
    int input[2], old = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 10);

    (void)state;
    assert_int_equal(pipe2(input, O_CLOEXEC), 0);
    assert_int_equal(write(input[1], "abc", 3), 3);
    (void)close(input[1]);
    assert_int_equal(dup2(input[0], STDIN_FILENO), STDIN_FILENO);
    assert_int_equal(getchar(), 'a'); /* and b, c are in the buffer */
    assert_int_equal(finish(start_process(.target = look_at_stdin)), 0);
    assert_int_equal(getchar(), 'b');
    assert_int_equal(getchar(), 'c');
    assert_int_equal(getchar(), EOF);
    clearerr(stdin);
    assert_int_equal(dup2(old, STDIN_FILENO), STDIN_FILENO);
    (void)close(old);
    (void)close(input[0]);
}

static int has_a_child_with_stdin(mp_call *call)
{
    mp_process *process;
    int code;

    if (look_at_stdin(call) != 0 || close(STDIN_FILENO) < 0)
        return 10;
    process = mp_process_new(.target = look_at_stdin);
    if (!process || mp_process_start(process) < 0)
        return 11;
    (void)mp_process_join(process, PATIENCE);
    code = mp_process_exitcode(process);
    mp_process_free(process);
    return code;
}

/* Then the first descriptor the library opens would get the place of stdin. */
static void a_parent_and_a_child_without_stdin_can_start_children(void **state)
{
    (void)state;
    assert_int_equal(exit_code_with_stdin(-1, look_at_stdin), 0);
    assert_int_equal(exit_code_with_stdin(-1, has_a_child_with_stdin), 0);
}

static int tell_standard_streams(mp_call *call)
{
    mp_connection *answers;

    if (mp_unpack(call, &answers))
        return 1;
    return mp_connection_send(answers, mp_list(fcntl(1, F_GETFD), fcntl(2, F_GETFD))) != 0;
}

static void close_standard_streams(int *kept)
{
    (void)fflush(NULL);
    for (int i = 0; i < 3; i++)
        kept[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
    for (int i = 0; i < 3; i++)
        (void)close(i);
}

static void restore_standard_streams(const int *kept)
{
    for (int i = 0; i < 3; i++) {
        (void)dup2(kept[i], i);
        (void)close(kept[i]);
    }
}

/* What a system's daemon may be started with: none of the three. Nothing takes their places. */
static void a_parent_without_standard_streams_can_start_children(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_process *process;
    int kept[3], output, errors, r;

    (void)state;
    close_standard_streams(kept);
    r = mp_pipe(&here, &there);
    process =
        r < 0 ? NULL : mp_process_new(.target = tell_standard_streams, .args = MP_ARGS(there));
    r = process ? mp_process_start(process) : r;
    restore_standard_streams(kept);
    assert_int_equal(r, 0);
    assert_non_null(process);
    mp_connection_free(there);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_unpack(&message, &output, &errors), 0);
    assert_int_equal(output, -1);
    assert_int_equal(errors, -1);
    assert_int_equal(finish(process), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
}

/*
 * The text before the guard: under fork the root's only, under spawn that of each
 * of 8 children too, under forkserver that of the server.
 */
static void judge_output(void **state)
{
    char text[32];

    expect("<before the guard>", is(state, "fork") ? 1 : is(state, "spawn") ? 9 : 2);
    expect("<hook>", is(state, "forkserver"));
    expect("<inside>", 1);
    expect("<end>", 1);
    for (int i = 0; i < 8; i++) {
        (void)snprintf(text, sizeof(text), "<start %d>", i);
        expect(text, 1);
        (void)snprintf(text, sizeof(text), "<child %d>", i);
        expect(text, 1);
    }
    assert_int_equal(out.status, 0);
}

static void everything_printed_into_a_pipe_appears_once(void **state)
{
    run_with(state, "main_output", NULL);
    judge_output(state);
}

static void everything_printed_into_a_file_appears_once(void **state)
{
    char folder[] = "/tmp/mp_main_XXXXXX";

    assert_non_null(mkdtemp(folder));
    run(state,
        (const char *const[]){ "/bin/sh", "-c", "cd \"$1\" && \"$0\" > file && cat file && rm file",
            program_path("main_output"), folder, NULL });
    assert_int_equal(rmdir(folder), 0);
    judge_output(state);
}

/* ---- preload ---- */

static void judge_preload(void **state, int hooks, bool failed, const char *last)
{
    bool server = is(state, "forkserver");
    char text[64];

    expect("hook: ", server ? hooks : 0);
    expect("child: ", 2);
    expect(server && hooks ? "preloaded 1\n" : "preloaded 0\n", server && hooks ? 2 + hooks : 2);
    expect("the preload hook failed\n", server && failed);
    (void)snprintf(text, sizeof(text), "the last is %s, ", last);
    expect(text, server ? 2 + hooks : 2);
    assert_int_equal(out.status, 0);
}

static void the_hook_runs_once_in_the_server_and_never_elsewhere(void **state)
{
    run_with(state, "main_preload", "works");
    judge_preload(state, 1, false, "works");
    expect("2 arguments", is(state, "forkserver") ? 3 : 2);
}

static void a_hook_that_works_may_be_required(void **state)
{
    run_with(state, "main_preload", "strict");
    judge_preload(state, 1, false, "strict");
}

static void the_hook_and_the_children_see_the_arguments(void **state)
{
    enum { COUNT = 5001 };
    static char texts[COUNT][40];
    static const char *argv[COUNT + 1];

    argv[0] = program_path("main_preload");
    argv[1] = "works";
    for (int i = 2; i < COUNT; i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "argument-%05d-of-five-thousand", i);
        argv[i] = texts[i];
    }
    run(state, argv);
    judge_preload(state, 1, false, texts[COUNT - 1]);
    expect(": 5001 arguments, ", is(state, "forkserver") ? 3 : 2);
}

static void a_failing_hook_is_ignored_unless_told_otherwise(void **state)
{
    run_with(state, "main_preload", "default");
    judge_preload(state, 1, false, "default");
    run_with(state, "main_preload", "ignore");
    judge_preload(state, 1, false, "ignore");
}

static void a_failing_hook_can_be_a_warning(void **state)
{
    run_with(state, "main_preload", "warn");
    judge_preload(state, 1, true, "warn");
}

static void a_failing_hook_can_be_an_error_of_start(void **state)
{
    run_with(state, "main_preload", "fail");
    if (!is(state, "forkserver")) {
        judge_preload(state, 0, false, "fail");
        return;
    }
    expect("child: ", 0);
    expect("MP_EFORKSERVER: ", 2); /* each start */
    expect("preload hook fails in it (see stderr)", 2);
    expect("the preload hook failed\n", 4); /* each start tries a second server */
    assert_int_equal(out.status, 1);
}

static void what_a_failing_hook_printed_is_not_lost(void **state)
{
    run_with(state, "main_preload", "fail");
    expect("hook: 2 arguments, ", is(state, "forkserver") ? 4 : 0);
}

/* ---- the ways to start a program ---- */

static void judge_basic(void)
{
    expect("answer 49\n", 1);
    assert_int_equal(out.status, 0);
}

static void a_program_may_be_started_by_its_absolute_path(void **state)
{
    run_with(state, "main_basic", NULL);
    judge_basic();
}

static void a_program_may_be_started_by_a_relative_path(void **state)
{
    char home[4096], folder[8192];

    assert_non_null(getcwd(home, sizeof(home)));
    (void)snprintf(folder, sizeof(folder), "%s", program_path(""));
    assert_int_equal(chdir(folder), 0);
    run(state, (const char *const[]){ "./main_basic", NULL });
    assert_int_equal(chdir(home), 0);
    judge_basic();
}

static void a_program_may_be_found_through_path(void **state)
{
    char path[8192 + 32];

    (void)snprintf(path, sizeof(path), "PATH=%s:/usr/bin:/bin", program_path(""));
    run(state, (const char *const[]){ "/usr/bin/env", path, "main_basic", NULL });
    judge_basic();
}

static void a_program_may_be_started_through_a_symbolic_link(void **state)
{
    char folder[] = "/tmp/mp_main_XXXXXX", link[64];

    assert_non_null(mkdtemp(folder));
    (void)snprintf(link, sizeof(link), "%s/other name", folder);
    assert_int_equal(symlink(program_path("main_basic"), link), 0);
    run(state, (const char *const[]){ link, NULL });
    assert_int_equal(unlink(link), 0);
    assert_int_equal(rmdir(folder), 0);
    judge_basic();
}

static void copy_file(const char *from, const char *to)
{
    static char data[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int copy = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    ssize_t n;

    assert_true(in >= 0 && copy >= 0);
    while ((n = read(in, data, sizeof(data))) > 0)
        assert_int_equal(write(copy, data, (size_t)n), n);
    assert_int_equal(n, 0);
    (void)close(in);
    (void)close(copy);
}

/* Runs a copy of the program that puts another one (or nothing) in its place. */
static void run_and_replace(void **state, const char *when, const char *other)
{
    char folder[] = "/tmp/mp_main_XXXXXX", self[64], with[64];

    assert_non_null(mkdtemp(folder));
    (void)snprintf(self, sizeof(self), "%s/self", folder);
    (void)snprintf(with, sizeof(with), "%s/with", folder);
    copy_file(program_path("main_replaced"), self);
    if (other)
        copy_file(other, with);
    run(state, (const char *const[]){ self, when, other ? with : "delete", NULL });
    (void)unlink(self);
    assert_int_equal(rmdir(folder), 0); /* fails if the program did not do its part */
    expect("child 0\n", strcmp(when, "late") == 0);
    expect("child 1\n", 1);
    expect("child 2\n", 1);
    assert_int_equal(out.status, 0);
}

static void a_deleted_program_goes_on_starting_children(void **state)
{
    run_and_replace(state, "early", NULL);
    run_and_replace(state, "late", NULL);
}

static void a_replaced_program_goes_on_starting_children_of_the_old_one(void **state)
{
    run_and_replace(state, "early", "/bin/true");
    run_and_replace(state, "late", program_path("main_basic"));
}

/* ---- another executable ---- */

static void a_wrong_executable_is_an_error_of_start_and_a_right_one_helps(void **state)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    mp_process *process = mp_process_new(.target = nothing);
    int children = count_children();

    (void)state;
    assert_true(n > 0);
    self[n] = '\0';
    assert_int_equal(mp_set_executable("/nonexistent/program"), 0);
    assert_int_equal(mp_process_start(process), MP_ENOENT);
    assert_non_null(strstr(mp_last_error()->text, "/nonexistent/program"));
    assert_int_equal(mp_set_executable("/etc/passwd"), 0);
    assert_int_equal(mp_process_start(process), MP_EACCES);
    assert_int_equal(count_children(), children);
    assert_int_equal(mp_process_pid(process), 0);
    assert_int_equal(mp_set_executable(self), 0);
    assert_int_equal(finish(support_start(process)), 0);
    assert_int_equal(mp_set_executable(NULL), 0);
}

/* Its functions are others: calling them would be a jump into nowhere. */
static void the_executable_of_another_program_is_noticed(void **state)
{
    mp_process *process = mp_process_new(.target = nothing);
    int r;

    (void)state;
    assert_int_equal(mp_set_executable(program_path("main_basic")), 0);
    r = mp_process_start(process);
    assert_int_equal(mp_set_executable(NULL), 0);
    assert_int_equal(r, 0);
    assert_int_equal(finish(process), 1);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(the_programs_in_the_documents_print_the_same_under_each_method),
    UNDER_EACH(no_code_of_the_program_sees_how_a_child_is_told_what_it_is),
    UNDER_EACH(proc_does_not_show_how_a_child_was_told_what_it_is),
    UNDER_EACH(a_child_has_the_environment_of_its_parent),
    UNDER_EACH(a_child_has_the_arguments_its_parent_had_before_it_changed_them),
    UNDER_EACH(five_thousand_arguments_reach_a_child),
    UNDER_EACH(a_child_works_where_its_parent_is_when_it_starts_it),
    UNDER_EACH(a_deleted_directory_does_not_hang_a_start),
    UNDER_EACH(only_fork_hands_on_descriptors_the_user_opened),
    UNDER_EACH(no_method_hands_on_connections_that_are_not_arguments),
    UNDER_EACH(siblings_do_not_keep_each_others_pipes_open),
    UNDER_EACH(a_child_sees_the_end_though_younger_siblings_live),
    UNDER_EACH(a_child_has_default_dispositions_and_blocks_nothing),
    UNDER_EACH(a_child_of_a_program_under_nohup_ignores_the_hangup_too),
    UNDER_EACH(stdin_of_a_child_is_dev_null),
    UNDER_EACH(what_the_parent_has_read_ahead_is_not_read_by_a_child),
    UNDER_EACH(a_parent_and_a_child_without_stdin_can_start_children),
    UNDER_EACH(a_parent_without_standard_streams_can_start_children),
    UNDER_EACH(everything_printed_into_a_pipe_appears_once),
    UNDER_EACH(everything_printed_into_a_file_appears_once),
    UNDER_EACH(the_hook_runs_once_in_the_server_and_never_elsewhere),
    UNDER_EACH(a_hook_that_works_may_be_required),
    UNDER_EACH(the_hook_and_the_children_see_the_arguments),
    UNDER_EACH(a_failing_hook_is_ignored_unless_told_otherwise),
    UNDER_EACH(a_failing_hook_can_be_a_warning),
    UNDER_EACH(a_failing_hook_can_be_an_error_of_start),
    UNDER_EACH(what_a_failing_hook_printed_is_not_lost),
    UNDER_EACH(a_program_may_be_started_by_its_absolute_path),
    UNDER_EACH(a_program_may_be_started_by_a_relative_path),
    UNDER_EACH(a_program_may_be_found_through_path),
    UNDER_EACH(a_program_may_be_started_through_a_symbolic_link),
    UNDER_EACH(a_deleted_program_goes_on_starting_children),
    UNDER_EACH(a_replaced_program_goes_on_starting_children_of_the_old_one),
    UNDER(a_wrong_executable_is_an_error_of_start_and_a_right_one_helps, "spawn"),
    UNDER(a_wrong_executable_is_an_error_of_start_and_a_right_one_helps, "forkserver"),
    UNDER(the_executable_of_another_program_is_noticed, "spawn"),
    UNDER(the_executable_of_another_program_is_noticed, "forkserver"),
};

TESTS_MAIN(tests)
