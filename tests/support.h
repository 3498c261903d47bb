/* SPDX-License-Identifier: MIT
 *
 * support.h - what every test uses: each start method in turn, a watchdog, and
 * a census of what a test leaves behind.
 */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <multiprocessing.h>

/* Seconds for what happens at once on an idle machine. */
#define PATIENCE 60.0

/* A test under each start method: *state is its name, and it is the default method. */
#define UNDER_EACH(f) UNDER(f, "fork"), UNDER(f, "spawn"), UNDER(f, "forkserver")
#define UNDER(f, method)                                                       \
    {                                                                          \
#f " (" method ")", f, support_setup, support_teardown, (void *)method \
    }

/* A test that starts no process, or chooses the methods itself. */
#define ONCE(f)                                      \
    {                                                \
#f, f, support_setup, support_teardown, NULL \
    }

/*
 * Main of a test program. TESTS_MAIN(tests) runs the array; TEST=pattern in the
 * environment runs those whose name matches (* and ? as in a shell).
 */
#define TESTS_MAIN(tests)                                                  \
    int main(void)                                                         \
    {                                                                      \
        MP_MAIN () {                                                       \
            support_begin();                                               \
            return support_end(cmocka_run_group_tests(tests, NULL, NULL)); \
        }                                                                  \
        return 0;                                                          \
    }

void support_begin(void);
int support_end(int failures); /* what failed tests left is ended: nobody waits for it */
int support_setup(void **state);
int support_teardown(void **state);

/* Describes and starts a process; fails the test if that does. */
#define start_process(...) support_start(mp_process_new(__VA_ARGS__))
mp_process *support_start(mp_process *process);

/* Starts it with the other end of *line as its argument. */
mp_process *start_with_line(mp_function target, mp_connection **line);

/* Joins it, frees it, and returns its exit code. */
int finish(mp_process *process);

/* Seconds to wait before the watchdog calls this test a hang (120 unless told). */
void support_allow(unsigned seconds);

/* Open descriptors of this process, but for the stock of its fork server; its children (zombies too). */
int count_descriptors(void);
size_t memory_in_use(void); /* of malloc; 0 where nobody tells */
int count_children(void);

/* Bytes of memory that files without a name take which this process has open. */
long long count_nameless_memory(void);

/* What a program did. */
typedef struct outcome {
    int status; /* exit code, or -signal */
    double seconds;
    char output[65536]; /* stdout and stderr as they came */
} outcome;

/*
 * Runs a program (and whatever it starts) with up to 8 "NAME=value" added to the
 * environment, stdin from /dev/null; both lists end with NULL. Kills it and
 * fails the test after the given seconds. It ends when all its descendants have
 * closed its output.
 */
void run_program(
    const char *const argv[], const char *const environment[], double seconds, outcome *out);

/* "build/tests/programs/NAME" beside this test program; valid until the next call. */
const char *program_path(const char *name);

/*
 * Runs a script by python3, which must end well, with at most one text in
 * sys.argv. False, and a line that says so, where there is no python3.
 */
bool run_python(const char *script, const char *argument, outcome *out);

/* How often needle is in haystack. */
int count_text(const char *haystack, const char *needle);

/* Whether this build runs under a sanitizer, and whether that is TSan (threads + fork do not mix). */
#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#ifndef HAS_ASAN
#define HAS_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__)
#define HAS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAS_TSAN 1
#endif
#endif
#ifndef HAS_TSAN
#define HAS_TSAN 0
#endif

/* Whether the C library is glibc 2.minor or later: for #if. */
#ifdef __GLIBC__
#define HAS_GLIBC(minor) __GLIBC_PREREQ(2, minor)
#else
#define HAS_GLIBC(minor) 0
#endif

/* Whether memory and messages may be longer than 2 GiB. */
#define HAS_64_BITS (SIZE_MAX > UINT32_MAX)

#endif
