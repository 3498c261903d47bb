/* SPDX-License-Identifier: MIT
 *
 * bootstrap.c - how a new process learns what it is, and the guard around it.
 *
 * An exec'd child finds in one environment variable the descriptor of a socket
 * to its parent. The variable is taken away before main(); from then until the
 * guard the process is bootstrapping and may start nothing.
 */
#include "bootstrap_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/context.h>
#include <multiprocessing/process.h>

#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "launch_internal.h"
#include "log_internal.h"
#include "pid_internal.h"
#include "socket_internal.h"

#define DEPTH_MAX 16

extern char **environ;

static enum mp__stage stage;
static bool passed; /* the guard, here or in the process this one is a copy of */
static int channel_fd = -1;
static char *variable; /* as the parent wrote it */

static char *command_line; /* argument after argument, as the kernel has them */
static size_t command_line_size;
static char *executable; /* of mp_set_executable */

/* ---- before main ---- */

static const char never_reached[] =
    "multiprocessing: this process was started as a child (spawn or forkserver), but it left\n"
    "main() without reaching MP_MAIN(), so its function was never called. A child runs the\n"
    "program again up to the guard. Put it into main(), on every way a child can take:\n"
    "\n"
    "    int main(void)\n"
    "    {\n"
    "        MP_MAIN() {\n"
    "            ... start processes here ...\n"
    "        }\n"
    "        return 0;\n"
    "    }\n";

static void complain_if_missed(void)
{
    if (stage != MP__STAGE_BOOTSTRAPPING)
        return;
    (void)fflush(NULL);
    if (write(STDERR_FILENO, never_reached, sizeof(never_reached) - 1) < 0)
        _exit(1);
    _exit(1);
}

/* The arguments before the program can change them. Without /proc there is only a name. */
static void remember_command_line(void)
{
    mp__buffer line = { 0 };
    char some[4096];
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n;

    while (fd >= 0 && (n = mp__fd_read(fd, some, sizeof(some))) > 0)
        if (mp__buffer_append(&line, some, (size_t)n) < 0)
            break;
    mp__fd_close(fd);
    command_line = line.data;
    command_line_size = line.size;
    mp_clear_error();
}

/* Takes the variable out of the environment, not only its value out of the variable. */
static char *take_variable(void)
{
    size_t length = strlen(MP__CHILD_VARIABLE "=");
    char *found = NULL;

    for (char **at = environ; at && *at && !found; at++)
        if (strncmp(*at, MP__CHILD_VARIABLE "=", length) == 0)
            found = *at;
    (void)unsetenv(MP__CHILD_VARIABLE);
    return found;
}

__attribute__((constructor(101))) static void begin(void)
{
    remember_command_line();
    variable = take_variable();
    if (!variable)
        return;
    channel_fd = atoi(variable + strlen(MP__CHILD_VARIABLE "="));
    (void)fcntl(channel_fd, F_SETFD, FD_CLOEXEC); /* a wrong one is found at the guard */
    stage = MP__STAGE_BOOTSTRAPPING;
    if (command_line_size) /* /proc/self/exe would be "exe" */
        mp__pid_set_title(
            strrchr(command_line, '/') ? strrchr(command_line, '/') + 1 : command_line);
    mp__pid_mark(variable);
    (void)atexit(complain_if_missed); /* without memory the exit code is still not 0 */
}

/* ---- the guard ---- */

enum mp__stage mp__stage(void)
{
    return stage;
}

void mp__stage_set(enum mp__stage next)
{
    if (stage == MP__STAGE_BOOTSTRAPPING)
        mp__pid_unmark(variable);
    if (next == MP__STAGE_GUARDED || stage == MP__STAGE_BOOTSTRAPPING)
        passed = true;
    stage = next;
}

bool mp__guard_passed(void)
{
    return passed;
}

static unsigned depth_limit(void)
{
    const char *text = getenv("MP_MAX_DEPTH");
    long limit = text ? strtol(text, NULL, 10) : 0;

    return limit > 0 ? (unsigned)limit : DEPTH_MAX;
}

/* A program can be started by its own child with system(): looked for once. */
static int check_recursion(void)
{
    static enum mp__recursion known = MP__RECURSION_NONE;
    static bool looked;

    mp__lock();
    if (!looked && stage != MP__STAGE_CHILD)
        known = mp__pid_recursion();
    looked = true;
    mp__unlock();
    if (known == MP__RECURSION_BOOTSTRAP)
        return mp__fail(MP_EGUARD, "this program was started by a child of the same program that "
                                   "has not reached its MP_MAIN() yet: move what it does before "
                                   "the guard into the guard, or the starts would never end");
    if (known == MP__RECURSION_DEEP)
        return mp__fail(MP_EDEPTH, "this program runs below itself several times already: its "
                                   "children start it again, and that would never end");
    return 0;
}

int mp__guard_start(enum mp__method method, unsigned depth)
{
    if (stage == MP__STAGE_BOOTSTRAPPING)
        return mp__fail(MP_EGUARD,
            "a process was to be started before this child has finished its bootstrap. The main "
            "guard is missing, or this stands before it: put what starts processes into "
            "MP_MAIN() { ... } in main()");
    if (method != MP__FORK && !passed)
        return mp__fail(MP_EGUARD, "spawn and forkserver need the main guard: put what starts "
                                   "processes into MP_MAIN() { ... } in main()");
    if (depth > depth_limit())
        return mp__fail(MP_EDEPTH,
            "processes are nested deeper than %u; MP_MAX_DEPTH in the "
            "environment changes the limit",
            depth_limit());
    return check_recursion();
}

/* ---- what was started ---- */

int mp__popen_sentinel(const mp__popen *popen)
{
    return popen->descriptor >= 0 ? popen->descriptor : popen->life;
}

void mp__popen_close(mp__popen *popen)
{
    mp__fd_drop(&popen->descriptor);
    mp__fd_drop(&popen->life);
    mp__fd_drop(&popen->lifeline);
}

/* The child ended and is reaped already: something readable stands in for its descriptor. */
static int stand_in(mp__popen *popen)
{
    int fds[2] = { -1, -1 };
    int r = mp__socket_pipe(fds);

    popen->descriptor = fds[0];
    popen->ended = true;
    popen->exitcode = MP_EXITCODE_LOST;
    mp__fd_close(fds[1]);
    return r;
}

void mp__popen_destroy(mp__popen *popen)
{
    int exitcode;

    if (mp__pid_signal(popen->pid, popen->descriptor, SIGKILL) == 0)
        while (mp__pid_reap(popen->pid, popen->descriptor, &exitcode) == 0)
            (void)poll(NULL, 0, 1); /* a killed process may take its time */
    mp__popen_close(popen);
}

int mp__popen_watch(pid_t pid, int *life, mp__popen *popen)
{
    int r = 0;

    popen->pid = pid;
    popen->life = *life;
    *life = -1;
    if (!mp__pid_has_descriptors())
        return 0;
    popen->descriptor = mp__pid_open(pid);
    if (popen->descriptor >= 0)
        return 0;
    r = popen->descriptor;
    popen->descriptor = -1;
    if (r == MP_ECHILD)
        return stand_in(popen);
    mp__popen_destroy(popen);
    return r;
}

/* ---- launching ---- */

int mp_set_executable(const char *path)
{
    char *copy = path ? strdup(path) : NULL;

    if (path && !copy)
        return mp__fail(MP_ENOMEM, "out of memory for the path of the executable");
    mp__lock();
    free(executable);
    executable = copy;
    mp__unlock();
    return 0;
}

static int executable_path(char *path, size_t size)
{
    bool named;

    mp__lock();
    named = executable != NULL;
    if (named)
        (void)snprintf(path, size, "%s", executable);
    mp__unlock();
    return named ? 0 : mp__launch_self(path, size);
}

static char **make_arguments(char *path)
{
    size_t count = 0;
    char **arguments;

    for (size_t i = 0; i < command_line_size; i += strlen(command_line + i) + 1)
        count++;
    arguments = calloc(count + 2, sizeof(*arguments));
    if (!arguments)
        return NULL;
    arguments[0] = path; /* when nothing is known */
    count = 0;
    for (size_t i = 0; i < command_line_size; i += strlen(command_line + i) + 1)
        arguments[count++] = command_line + i;
    return arguments;
}

char **mp__bootstrap_environment(char *addition)
{
    size_t count = 0;
    char **copy;

    while (environ && environ[count])
        count++;
    copy = malloc((count + 2) * sizeof(*copy));
    if (!copy)
        return NULL;
    if (count)
        memcpy(copy, environ, count * sizeof(*copy));
    copy[count] = addition;
    copy[count + 1] = NULL;
    return copy;
}

int mp__bootstrap_launch(mp_connection **channel, pid_t *pid)
{
    char path[4096], addition[32];
    char **arguments = make_arguments(path);
    char **environment = mp__bootstrap_environment(addition);
    mp_connection *ours = NULL;
    int fds[2] = { -1, -1 };
    mp__making making;
    int r;

    (void)snprintf(addition, sizeof(addition), MP__CHILD_VARIABLE "=%d", MP__LAUNCH_FD);
    r = arguments && environment ? executable_path(path, sizeof(path))
                                 : mp__fail(MP_ENOMEM, "out of memory to start a process");
    mp__hooks_begin_making(&making, fds, 2);
    if (r == 0)
        r = mp__socket_pair(fds);
    if (r == 0)
        r = mp__connection_adopt_socket(&fds[0], &ours);
    if (r == 0)
        r = mp__launch(path, arguments, environment, fds[1], false, pid);
    if (r == 0) {
        *channel = ours;
        ours = NULL;
    }
    mp_connection_free(ours);
    mp__fd_close_all(fds, 2);
    mp__hooks_end_making(&making);
    free(arguments);
    free(environment);
    return r;
}

mp_connection *mp__bootstrap_channel(void)
{
    mp_connection *channel = NULL;
    int fd = channel_fd;

    channel_fd = -1;
    if (fcntl(fd, F_GETFD) < 0) {
        (void)mp__fail(
            MP_EBADF, "the environment variable " MP__CHILD_VARIABLE " names no channel");
        mp__bootstrap_fail();
    }
    if (mp__connection_adopt_socket(&fd, &channel) < 0)
        mp__bootstrap_fail();
    return channel;
}

/*
 * With threads about, a stream may be locked by one that waits for input, for
 * ever: then only stdout and stderr are flushed, and only if they are free.
 */
void mp__bootstrap_flush(void)
{
    FILE *streams[] = { stdout, stderr };

    if (!mp__pid_threaded()) {
        (void)fflush(NULL); /* a full disk is the business of whoever wrote */
        return;
    }
    for (size_t i = 0; i < 2; i++) {
        if (ftrylockfile(streams[i]) != 0)
            continue;
        (void)fflush(streams[i]);
        funlockfile(streams[i]);
    }
}

void mp__bootstrap_fail(void)
{
    mp__log_last_words("cannot begin: %s", mp_last_error()->text);
    (void)fflush(NULL);
    _exit(1);
}
