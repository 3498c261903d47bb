/* SPDX-License-Identifier: MIT
 *
 * support.c - the watchdog, the census, and running other programs.
 */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clean_internal.h"
#include "popen_internal.h"
#include "popen_server_internal.h"
#include "resource_tracker_internal.h"

#define WATCHDOG 120
#define CHILDREN_MAX 4096

static const char *running; /* the start method of the test */

static struct {
    int descriptors, children, names;
} before;

/* ---- watchdog ---- */

static size_t list_children(pid_t *out, size_t capacity)
{
    FILE *file = fopen("/proc/thread-self/children", "re");
    size_t count = 0;
    long pid;

    while (file && count < capacity && fscanf(file, "%ld", &pid) == 1)
        out[count++] = (pid_t)pid;
    if (file)
        (void)fclose(file);
    return count;
}

static size_t kill_children(void)
{
    pid_t children[64];
    size_t count = list_children(children, 64);

    for (size_t i = 0; i < count; i++)
        (void)kill(children[i], SIGKILL);
    return count;
}

/* A hang ends with a report. Not async-signal-safe, but nothing is lost any more. */
static void report_hang(int sig)
{
    size_t count = kill_children();

    (void)sig;
    print_error("HANG: the watchdog ended this program and its %zu children (start method %s)\n",
        count, running ? running : "none");
    _exit(99);
}

int support_end(int failures)
{
    if (failures)
        (void)kill_children();
    return failures;
}

void support_allow(unsigned seconds)
{
    alarm(seconds * (HAS_ASAN || HAS_TSAN ? 3 : 1));
}

/*
 * Names of shared memory are everybody's: where we may, we have a folder for them of
 * our own, in which no other program that runs meanwhile disturbs the census.
 */
static void have_own_names(void)
{
    if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) == 0)
        (void)mount("none", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
}

void support_begin(void)
{
    struct sigaction action = { .sa_handler = report_hang };

    have_own_names();
    (void)sigaction(SIGALRM, &action, NULL);
    if (getenv("TEST"))
        cmocka_set_test_filter(getenv("TEST"));
}

/* ---- census ---- */

static int count_entries(const char *path)
{
    DIR *directory = opendir(path);
    int count = 0;

    if (!directory)
        return 0;
    for (struct dirent *e = readdir(directory); e; e = readdir(directory))
        count += e->d_name[0] != '.';
    (void)closedir(directory);
    return count;
}

/* Not that of the directory itself, nor what the fork server has in stock: that varies. */
int count_descriptors(void)
{
    const mp__server *server = mp__server_current();

    return count_entries("/proc/self/fd") - 1 - (server ? (int)server->end_count : 0);
}

size_t memory_in_use(void)
{
#if HAS_GLIBC(33)
    return HAS_ASAN || HAS_TSAN ? 0 : mallinfo2().uordblks;
#else
    return 0;
#endif
}

int count_children(void)
{
    pid_t children[CHILDREN_MAX];

    return (int)list_children(children, CHILDREN_MAX);
}

long long count_nameless_memory(void)
{
    long long blocks = 0;

    for (int fd = 3; fd < 256; fd++) {
        struct stat status;

        if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 0)
            blocks += status.st_blocks;
    }
    return blocks * 512;
}

static void list_descriptors(void)
{
    for (int fd = 0; fd < 1024; fd++) {
        char path[64], target[256];
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n = readlink(path, target, sizeof(target) - 1);
        if (n > 0)
            print_error("  %d: %.*s\n", fd, (int)n, target);
    }
}

int support_setup(void **state)
{
    running = *state;
    support_allow(WATCHDOG);
    if (running && mp_set_start_method(running, .force = true) < 0)
        return -1;
    (void)mp__clean_prepare(); /* what a process keeps from its first fork on */
    before.descriptors = count_descriptors();
    before.children = count_children();
    before.names = count_entries("/dev/shm");
    return 0;
}

int support_teardown(void **state)
{
    int descriptors, children, names;

    (void)state;
    mp__forkserver_stop();
    mp__resource_tracker_stop();
    descriptors = count_descriptors();
    children = count_children();
    names = count_entries("/dev/shm");
    support_allow(WATCHDOG); /* for what comes between tests, and for the exit */
    if (descriptors == before.descriptors && children == before.children && names == before.names)
        return 0;
    print_error("left behind: descriptors %d -> %d, children %d -> %d, /dev/shm %d -> %d\n",
        before.descriptors, descriptors, before.children, children, before.names, names);
    list_descriptors();
    return -1;
}

/* ---- processes ---- */

mp_process *support_start(mp_process *process)
{
    if (!process || mp_process_start(process) < 0)
        fail_msg("start: %s", mp_last_error()->text);
    return process;
}

mp_process *start_with_line(mp_function target, mp_connection **line)
{
    mp_connection *theirs;
    mp_process *p;

    assert_int_equal(mp_pipe(line, &theirs), 0);
    p = start_process(.target = target, .args = MP_ARGS(theirs));
    mp_connection_free(theirs);
    return p;
}

int finish(mp_process *process)
{
    int r = mp_process_join(process, PATIENCE);
    int code = mp_process_exitcode(process);

    if (r < 0)
        fail_msg("join: %s", mp_last_error()->text);
    mp_process_free(process);
    return code;
}

/* ---- programs ---- */

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void become_program(const char *const argv[], const char *const environment[], int output)
{
    sigset_t none;

    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (int sig = 1; sig < NSIG; sig++)
        (void)signal(sig, SIG_DFL);
    for (size_t i = 0; environment && environment[i]; i++)
        (void)putenv((char *)environment[i]);
    (void)setpgid(0, 0);
    (void)close(0);
    (void)open("/dev/null", O_RDONLY);
    (void)dup2(output, 1);
    (void)dup2(output, 2);
    execv(argv[0], (char *const *)argv);
    _exit(127);
}

/* Reads until the end of the output or of the time. */
static int read_output(int fd, double until, outcome *out)
{
    size_t used = 0;

    for (;;) {
        struct pollfd one = { .fd = fd, .events = POLLIN };
        int left = (int)((until - now()) * 1000);
        char rest[4096];
        ssize_t n;

        if (left <= 0)
            return -1;
        if (poll(&one, 1, left) <= 0)
            continue;
        if (used < sizeof(out->output) - 1)
            n = read(fd, out->output + used, sizeof(out->output) - 1 - used);
        else
            n = read(fd, rest, sizeof(rest));
        if (n <= 0)
            break;
        if (used < sizeof(out->output) - 1)
            used += (size_t)n;
        out->output[used] = '\0';
    }
    return 0;
}

void run_program(
    const char *const argv[], const char *const environment[], double seconds, outcome *out)
{
    double begin = now();
    int output[2];
    int status = 0, r;
    pid_t pid;

    memset(out, 0, sizeof(*out));
    assert_int_equal(pipe2(output, O_CLOEXEC), 0);
    (void)fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        become_program(argv, environment, output[1]);
    (void)close(output[1]);
    r = read_output(output[0], begin + seconds * (HAS_ASAN || HAS_TSAN ? 5 : 1), out);
    out->seconds = now() - begin;
    if (r < 0)
        (void)kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    (void)close(output[0]);
    out->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    if (r < 0)
        fail_msg("%s did not end within %g s; it printed:\n%s", argv[0], seconds, out->output);
}

const char *program_path(const char *name)
{
    static char path[8192];
    ssize_t n = readlink("/proc/self/exe", path, 4096);
    char *slash;

    assert_true(n > 0);
    path[n] = '\0';
    slash = strrchr(path, '/');
    (void)snprintf(slash, sizeof(path) - 4096, "/programs/%s", name);
    return path;
}

int count_text(const char *haystack, const char *needle)
{
    int count = 0;

    for (const char *at = haystack; (at = strstr(at, needle)); at += strlen(needle))
        count++;
    return count;
}

bool run_python(const char *script, const char *argument, outcome *out)
{
    const char *const look[] = { "/usr/bin/env", "python3", "-c", "pass", NULL };
    const char *const run[] = { "/usr/bin/env", "python3", "-c", script, argument, NULL };

    run_program(look, NULL, PATIENCE, out);
    if (out->status == 127) {
        print_message("SKIPPED: there is no python3 to talk to\n");
        return false;
    }
    run_program(run, NULL, PATIENCE, out);
    if (out->status != 0)
        fail_msg("python3 ends with %d: %s", out->status, out->output);
    return true;
}
