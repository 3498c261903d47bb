/* SPDX-License-Identifier: MIT
 *
 * launch_posix.c - fork and exec; a pipe that exec closes tells of its failure.
 */
#include "launch_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"
#include "hooks_internal.h"
#include "pid_internal.h"
#include "socket_internal.h"

/* The highest descriptor that may be open; other threads may open more meanwhile. */
static int highest_descriptor(void)
{
    DIR *all = opendir("/dev/fd");
    struct dirent *entry;
    int highest = 1023;

    if (!all)
        return (int)(sysconf(_SC_OPEN_MAX) < 65536 ? sysconf(_SC_OPEN_MAX) : 65536);
    while ((entry = readdir(all)))
        if (atoi(entry->d_name) > highest)
            highest = atoi(entry->d_name);
    (void)closedir(all);
    return highest + 64;
}

static void say_and_end(int report)
{
    int e = errno;

    if (write(report, &e, sizeof(e)) < 0)
        _exit(126);
    _exit(127);
}

/* Between fork and exec: nothing here takes a lock. Never returns. */
static void become(const char *path, char *const argv[], char *const envp[], int channel,
    bool aside, int report, int highest)
{
    struct sigaction standard = { .sa_handler = SIG_DFL }, hangup = standard;
    sigset_t none;
    int null;

    (void)sigaction(SIGHUP, NULL, &hangup);
    for (int sig = 1; sig < NSIG; sig++)
        if (sig != SIGHUP || hangup.sa_handler != SIG_IGN) /* nohup goes on */
            (void)sigaction(sig, &standard, NULL); /* fails for the few that cannot change */
    sigemptyset(&none);
    if (aside)
        (void)setsid(); /* and what is blocked stays so */
    else
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (report == MP__LAUNCH_FD)
        report = fcntl(report, F_DUPFD_CLOEXEC, MP__LAUNCH_FD + 1);
    null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0)
        say_and_end(report);
    if (channel == MP__LAUNCH_FD ? fcntl(channel, F_SETFD, 0) < 0
                                 : dup2(channel, MP__LAUNCH_FD) < 0)
        say_and_end(report);
    for (int fd = MP__LAUNCH_FD + 1; fd <= highest; fd++)
        if (fd != report)
            (void)close(fd);
    execve(path, argv, envp);
    say_and_end(report);
}

int mp__launch(
    const char *path, char *const argv[], char *const envp[], int channel, bool aside, pid_t *pid)
{
    int report[2] = { -1, -1 };
    int highest = highest_descriptor();
    mp__making making;
    sigset_t all, old;
    int e = 0;
    int r;

    mp__hooks_begin_making(&making, report, 2);
    r = mp__socket_pipe(report);
    if (r < 0)
        goto out;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old); /* no handler of ours runs in the child */
    *pid = mp__hooks_fork_to_exec();
    if (*pid == 0)
        become(path, argv, envp, channel, aside, report[1], highest);
    r = *pid < 0 ? mp__fail_errno("cannot fork") : 0;
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    mp__fd_close(report[1]);
    if (r == 0 && mp__fd_read(report[0], &e, sizeof(e)) > 0) {
        int exitcode;

        while (mp__pid_reap(*pid, -1, &exitcode) == 0)
            ;
        r = mp__fail(-e, "cannot start %s: %s", path, strerror(e));
    }
    mp__fd_close(report[0]);
out:
    mp__hooks_end_making(&making);
    return r;
}

int mp__launch_self(char *path, size_t size)
{
    if (access("/proc/self/exe", X_OK) == 0)
        (void)snprintf(path, size, "/proc/self/exe");
    else if (access("/proc/curproc/file", X_OK) == 0)
        (void)snprintf(path, size, "/proc/curproc/file");
    else
        return mp__fail(MP_ENOENT, "the running binary cannot be found here; name it with "
                                   "mp_set_executable");
    return 0;
}
