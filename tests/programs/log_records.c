/* SPDX-License-Identifier: MIT
 *
 * log_records.c - writes records into the log for test_log.c to read, from the
 * root process and from children. What the records should say goes to stdout.
 */
#include <multiprocessing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CROWD = 3, EACH = 50 };

static const char *my_name(void)
{
    return mp_process_name(mp_current_process());
}

static void tell_level(void)
{
    (void)dprintf(STDOUT_FILENO, "%s has level %d\n", my_name(), mp_log_get_level());
}

static void write_each_level(void)
{
    static const int levels[] = { 1, 5, 10, 20, 25, 30, 35, 40, 100 };

    for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++)
        mp_log(levels[i], "%s writes at %d", my_name(), levels[i]);
}

/* 0 if the child ended with 0. */
static int run_child(mp_function target, const char *name)
{
    mp_process *p = mp_process_new(.target = target, .name = name);
    int r = p ? mp_process_start(p) : mp_last_error()->code;

    if (r == 0)
        r = mp_process_join(p, MP_FOREVER);
    if (r == 0)
        r = mp_process_exitcode(p);
    mp_process_free(p);
    return r;
}

/* ---- levels ---- */

static int levels(const char *level)
{
    (void)close(STDOUT_FILENO); /* what is seen came out of stderr */
    mp_log_to_stderr(atoi(level));
    write_each_level();
    return 0;
}

static int ask(const char *unused)
{
    (void)unused;
    tell_level();
    return 0;
}

static int write_in_child(mp_call *call)
{
    (void)call;
    tell_level();
    write_each_level();
    return 0;
}

static int parent(mp_call *call)
{
    (void)call;
    tell_level();
    write_each_level();
    return run_child(write_in_child, "Berta");
}

static int loud_parent(mp_call *call)
{
    (void)call;
    mp_log_to_stderr(MP_LOG_SUBDEBUG);
    return run_child(write_in_child, "Dora");
}

/* Children get the level of the moment they start, also from a fork server that runs already. */
static int family(const char *level)
{
    int r;

    if (*level)
        mp_log_to_stderr(atoi(level));
    r = run_child(parent, "Anna");
    if (r == 0)
        r = run_child(loud_parent, "Clara");
    tell_level();
    mp_log_to_stderr(MP_LOG_ERROR);
    if (r == 0)
        r = run_child(write_in_child, "Emma");
    mp_log_to_stderr(MP_LOG_DEBUG);
    return r == 0 ? run_child(write_in_child, "Fritz") : r;
}

/* ---- what is in a record ---- */

static int place_in_child(mp_call *call)
{
    (void)call;
    mp_log(MP_LOG_ERROR, "child is in line %d", __LINE__);
    return 0;
}

static int places(const char *level)
{
    mp_log_to_stderr(atoi(level));
    mp_log(MP_LOG_ERROR, "root is in line %d", __LINE__);
    mp_log_write(MP_LOG_ERROR, "some/folder/file.c", 7, "from afar");
    mp_log_write(MP_LOG_ERROR, "file.h", 8, "from near");
    return run_child(place_in_child, NULL);
}

static void introduce(void)
{
    (void)dprintf(STDOUT_FILENO, "process %ld is %s\n", (long)getpid(), my_name());
    mp_log(MP_LOG_WARNING, "hello");
}

static int rename_child(mp_call *call)
{
    (void)call;
    introduce();
    return mp_process_set_name(mp_current_process(), "renamed") || (introduce(), 0);
}

static int introduce_child(mp_call *call)
{
    (void)call;
    introduce();
    return run_child(rename_child, NULL);
}

static int names(const char *unused)
{
    (void)unused;
    introduce();
    return run_child(introduce_child, NULL) || run_child(introduce_child, "worker 1");
}

static int lines(const char *unused)
{
    char text[5000];

    (void)unused;
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    mp_log(MP_LOG_WARNING, "one\ntwo\n\nthree\n");
    mp_log(MP_LOG_WARNING, "%s", "");
    mp_log(MP_LOG_WARNING, "long %s", text);
    (void)mp_process_set_name(mp_current_process(), "two\nlines");
    mp_log(MP_LOG_WARNING, "named");
    (void)mp_process_set_name(mp_current_process(), text);
    mp_log(MP_LOG_WARNING, "end");
    return 0;
}

/* ---- many at once ---- */

static void *write_many(void *thread)
{
    static const char filling[] = "the quick brown fox jumps over the lazy dog";

    for (int i = 0; i < EACH; i++)
        mp_log(MP_LOG_ERROR, "%s %s %d: %s.", my_name(), (const char *)thread, i, filling);
    return thread;
}

static int write_from_two_threads(mp_call *call)
{
    pthread_t other;

    (void)call;
    if (pthread_create(&other, NULL, write_many, (void *)"thread"))
        return 99;
    (void)write_many((void *)"main");
    return pthread_join(other, NULL);
}

static int crowd(const char *unused)
{
    mp_process *all[CROWD];
    int failed = 0;

    (void)unused;
    for (int i = 0; i < CROWD; i++) {
        char name[8] = { (char)('a' + i), 0 };

        all[i] = mp_process_new(.target = write_from_two_threads, .name = name);
        failed += !all[i] || mp_process_start(all[i]) < 0;
    }
    (void)write_many((void *)"root");
    for (int i = 0; i < CROWD; i++) {
        failed += mp_process_join(all[i], MP_FOREVER) < 0 || mp_process_exitcode(all[i]) != 0;
        mp_process_free(all[i]);
    }
    return failed;
}

static int closed(const char *unused)
{
    (void)unused;
    (void)close(STDERR_FILENO);
    mp_log(MP_LOG_ERROR, "nobody reads this");
    (void)dprintf(STDOUT_FILENO, "still here\n");
    return 0;
}

static const struct {
    const char *name;
    int (*run)(const char *argument);
} jobs[] = { { "levels", levels }, { "ask", ask }, { "family", family }, { "places", places },
    { "names", names }, { "lines", lines }, { "crowd", crowd }, { "closed", closed } };

int main(int argc, char **argv)
{
    MP_MAIN () {
        for (size_t i = 0; argc > 1 && i < sizeof(jobs) / sizeof(*jobs); i++)
            if (strcmp(argv[1], jobs[i].name) == 0)
                return jobs[i].run(argc > 2 ? argv[2] : "");
        return 98;
    }
    return 0;
}
