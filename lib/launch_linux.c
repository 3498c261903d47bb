/* SPDX-License-Identifier: MIT
 *
 * launch_linux.c - posix_spawn, which here does not copy the address space. Where
 * it cannot close what is not the child's, this is the POSIX twin.
 */
#include "launch_internal.h"

#include <features.h>

#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 34)
#define CAN_CLOSE_FROM
#endif
#endif

#ifndef CAN_CLOSE_FROM
#include "launch_posix.c"
#else

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error_internal.h"

static int prepare_descriptors(posix_spawn_file_actions_t *actions, int channel)
{
    int e = posix_spawn_file_actions_adddup2(actions, channel, MP__LAUNCH_FD);

    if (!e)
        e = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (!e)
        e = posix_spawn_file_actions_addclosefrom_np(actions, MP__LAUNCH_FD + 1);
    return e;
}

static int prepare_signals(posix_spawnattr_t *attributes, bool aside)
{
    struct sigaction hangup;
    short flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK;
    sigset_t all, blocked;
    int e;

    sigfillset(&all);
    blocked = all;
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler == SIG_IGN)
        (void)sigdelset(&all, SIGHUP); /* nohup goes on */
    if (aside)
        flags |= POSIX_SPAWN_SETSID;
    else
        sigemptyset(&blocked);
    e = posix_spawnattr_setsigdefault(attributes, &all);
    if (!e)
        e = posix_spawnattr_setsigmask(attributes, &blocked);
    if (!e)
        e = posix_spawnattr_setflags(attributes, flags);
    return e;
}

int mp__launch(
    const char *path, char *const argv[], char *const envp[], int channel, bool aside, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int e;

    e = posix_spawn_file_actions_init(&actions);
    if (e)
        return mp__fail(-e, "cannot start %s: %s", path, strerror(e));
    e = posix_spawnattr_init(&attributes);
    if (!e) {
        e = prepare_descriptors(&actions, channel);
        if (!e)
            e = prepare_signals(&attributes, aside);
        if (!e)
            e = posix_spawn(pid, path, &actions, &attributes, argv, envp);
        (void)posix_spawnattr_destroy(&attributes);
    }
    (void)posix_spawn_file_actions_destroy(&actions);
    if (e == ENOENT && access("/dev/null", R_OK) < 0)
        path = "a process without /dev/null"; /* which is what it lacks */
    return e ? mp__fail(-e, "cannot start %s: %s", path, strerror(e)) : 0;
}

/*
 * /proc/self/exe is the running binary whatever became of its file. Under an
 * emulator such as valgrind it is the emulator; the link then still reads as
 * the program, whose file is another one.
 */
static bool is_emulated(char *path, size_t size)
{
    struct stat running, named;
    ssize_t n = readlink("/proc/self/exe", path, size - 1);

    if (n <= 0)
        return false;
    path[n] = '\0';
    return n < (ssize_t)size - 1 && !strstr(path, " (deleted)") && stat(path, &named) == 0 &&
           stat("/proc/self/exe", &running) == 0 &&
           (named.st_ino != running.st_ino || named.st_dev != running.st_dev);
}

int mp__launch_self(char *path, size_t size)
{
    static atomic_bool known; /* as none that is emulated, which does not change */

    if (!atomic_load_explicit(&known, memory_order_relaxed) && is_emulated(path, size))
        return 0;
    atomic_store_explicit(&known, true, memory_order_relaxed);
    (void)snprintf(path, size, "/proc/self/exe");
    return 0;
}

#endif
