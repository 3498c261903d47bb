/* SPDX-License-Identifier: MIT
 *
 * pid_linux.c - processes by descriptor: a pid that is used anew cannot be hit.
 */
#include "pid_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef SYS_pidfd_open /* headers may be older than the kernel */
#define SYS_pidfd_send_signal 424
#define SYS_pidfd_open 434
#endif

#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 32)
#include <sys/single_threaded.h>
#define IS_SURELY_SINGLE __libc_single_threaded /* as long as no thread was ever made */
#endif
#endif
#ifndef IS_SURELY_SINGLE
#define IS_SURELY_SINGLE false
#endif

#define ANCESTORS_MAX 8 /* copies of the program above a root before we call it recursion */

static int open_descriptor(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

bool mp__pid_has_descriptors(void)
{
    static atomic_int known = -1;
    int fd;

    if (atomic_load_explicit(&known, memory_order_relaxed) < 0) {
        fd = open_descriptor(getpid());
        atomic_store(&known, fd >= 0 || errno != ENOSYS);
        mp__fd_close(fd);
    }
    return atomic_load_explicit(&known, memory_order_relaxed) > 0;
}

int mp__pid_open(pid_t pid)
{
    int fd = open_descriptor(pid);

    if (fd < 0 && errno == ESRCH)
        return mp__fail(MP_ECHILD, "process %ld is gone already", (long)pid);
    if (fd < 0)
        return mp__fail_errno("pidfd_open");
    if (fd < MP__FD_LOW)
        (void)mp__fd_raise(&fd); /* there it works as well, it only sits in stdio's place */
    return fd;
}

int mp__pid_reap(pid_t pid, int descriptor, int *exitcode)
{
    siginfo_t info = { 0 };
    int r;

    do
        r = descriptor >= 0 ? waitid(P_PIDFD, (id_t)descriptor, &info, WEXITED | WNOHANG)
                            : waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -ECHILD;
    if (info.si_pid == 0)
        return 0;
    *exitcode = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
    return 1;
}

int mp__pid_signal(pid_t pid, int descriptor, int sig)
{
    int r = descriptor >= 0 ? (int)syscall(SYS_pidfd_send_signal, descriptor, sig, NULL, 0)
                            : kill(pid, sig);

    if (r < 0 && errno != ESRCH)
        return mp__fail_errno("cannot send a signal");
    return 0;
}

#ifdef __GLIBC__
static void (*exit_function)(int code);

static void call_exit_function(int code, void *argument)
{
    (void)argument;
    exit_function(code);
}

bool mp__pid_on_exit(void (*function)(int code))
{
    exit_function = function;
    return on_exit(call_exit_function, NULL) == 0;
}
#else
bool mp__pid_on_exit(void (*function)(int code))
{
    (void)function;
    return false;
}
#endif

static atomic_int own_threads;

void mp__pid_own_thread(int change)
{
    if (change)
        (void)atomic_fetch_add(&own_threads, change);
    else
        atomic_store(&own_threads, 0);
}

bool mp__pid_threaded(void)
{
    struct stat tasks;
    int others;

    if (IS_SURELY_SINGLE || stat("/proc/self/task", &tasks) < 0)
        return false;
    others = (int)tasks.st_nlink - 3; /* two links are the folder's, one is ours */
    return others > atomic_load(&own_threads);
}

bool mp__pid_alone(void)
{
    return !mp__pid_threaded();
}

int mp__pid_die_with(int lifeline)
{
    struct pollfd gone = { .fd = lifeline, .events = POLLIN };

    if (fcntl(lifeline, F_SETOWN, getpid()) < 0 || fcntl(lifeline, F_SETSIG, SIGKILL) < 0 ||
        fcntl(lifeline, F_SETFL, O_ASYNC | O_NONBLOCK) < 0)
        return mp__fail_errno("cannot bind a daemon to its parent");
    if (poll(&gone, 1, 0) > 0) /* it went before we were armed */
        (void)raise(SIGKILL);
    return 0;
}

static int status_file = -1; /* of this process in /proc */

static void after_fork(bool ours)
{
    (void)ours;
    mp__fd_drop(&status_file);
}

/* Under a lock: reading does not move it. */
static int open_status(void)
{
    int fd;

    mp__hooks_after_fork(after_fork);
    mp__lock();
    if (status_file < 0) {
        status_file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
        if (status_file >= 0 && status_file < MP__FD_LOW)
            (void)mp__fd_raise(&status_file);
    }
    fd = status_file;
    mp__unlock();
    return fd;
}

static uint64_t signals_in(const char *status, const char *name)
{
    const char *line = strstr(status, name);

    return line ? strtoull(line + strlen(name), NULL, 16) : UINT64_MAX;
}

uint64_t mp__pid_signals(void)
{
    char status[2048]; /* the signals are in the first 1,000 bytes, unless there are many groups */
    ssize_t n = pread(open_status(), status, sizeof(status) - 1, 0);

    status[n > 0 ? n : 0] = '\0';
    return signals_in(status, "\nSigIgn:") | signals_in(status, "\nSigCgt:");
}

void mp__pid_set_title(const char *name)
{
    (void)prctl(PR_SET_NAME, name, 0, 0, 0); /* a courtesy to ps */
}

void mp__pid_mark(char *text)
{
    (void)text; /* /proc/PID/environ still has it */
}

void mp__pid_unmark(char *text)
{
    memset(text, 0, strlen(text));
}

void mp__pid_below(void)
{
    /* /proc tells */
}

/* Reads a file of /proc, at most size - 1 bytes, and ends it with a NUL. */
static ssize_t slurp(pid_t pid, const char *name, char *data, size_t size)
{
    char path[64];
    size_t used = 0;
    ssize_t n = -1;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%ld/%s", (long)pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    while (used < size - 1 && (n = mp__fd_read(fd, data + used, size - 1 - used)) > 0)
        used += (size_t)n;
    mp__fd_close(fd);
    data[used] = '\0';
    return n < 0 ? -1 : (ssize_t)used;
}

static bool is_bootstrapping(pid_t pid)
{
    enum { SIZE = 256 * 1024 };
    size_t length = strlen(MP__CHILD_VARIABLE "=");
    bool found = false;
    char *text = malloc(SIZE);
    ssize_t n = text ? slurp(pid, "environ", text, SIZE) : -1;

    for (ssize_t i = 0; i < n && !found; i += (ssize_t)strlen(text + i) + 1)
        found = strncmp(text + i, MP__CHILD_VARIABLE "=", length) == 0;
    free(text);
    return found;
}

static pid_t parent_of(pid_t pid)
{
    char text[512];
    const char *end = slurp(pid, "stat", text, sizeof(text)) > 0 ? strrchr(text, ')') : NULL;
    long parent = 0;

    if (end && sscanf(end, ") %*c %ld", &parent) == 1)
        return (pid_t)parent;
    return 0;
}

static bool same_binary(pid_t pid, const struct stat *self)
{
    struct stat other;
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%ld/exe", (long)pid);
    return stat(path, &other) == 0 && other.st_dev == self->st_dev && other.st_ino == self->st_ino;
}

enum mp__recursion mp__pid_recursion(void)
{
    struct stat self;
    int copies = 0;

    if (stat("/proc/self/exe", &self) < 0)
        return MP__RECURSION_NONE;
    for (pid_t pid = getppid(); pid > 1; pid = parent_of(pid)) {
        if (!same_binary(pid, &self))
            continue;
        if (is_bootstrapping(pid))
            return MP__RECURSION_BOOTSTRAP;
        if (++copies >= ANCESTORS_MAX)
            return MP__RECURSION_DEEP;
    }
    return MP__RECURSION_NONE;
}
